"""The journal alone: records, leases, publishing, breakers, policy, derived state."""

import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.journal import (
    attempts,
    clock,
    controller,
    jsontext,
    leases,
    paths,
    processes,
    publish,
    records,
    state,
)
from ripresa.journal.events import emit
from ripresa.journal.paths import Run
from ripresa.recovery import breaker, policy

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "runs" / "test")


def in_processes(number, function, *arguments):
    """Call a function in many processes at once; returns their exit codes."""
    started = [FORK.Process(target=function, args=(n, *arguments)) for n in range(number)]
    for process in started:
        process.start()
    for process in started:
        process.join(200)
    return [process.exitcode for process in started]


# Records

text = st.text(st.characters(codec=None, categories=None, exclude_categories=()))
document = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=20,
)


@given(document)
def test_what_is_written_is_json_and_reads_back(value):
    data = records.encode(value)
    assert json.loads(data) == jsontext.loads(data.decode()) == value
    assert b"\n" not in records.encode(value)


@given(st.text('[]{}:,"\\0123.eE-+ \n\ttrufalsn'))
def test_what_is_no_json(line):
    """The short way to the parser takes what the long way takes."""
    try:
        value = json.loads(line)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011
            jsontext.loads(line)
    else:
        assert jsontext.loads(line) == value


def test_what_json_has_no_word_for():
    assert records.dumps([float("nan"), float("inf"), Path("/a")]) == '[null,null,"/a"]'


@settings(max_examples=60)
@given(st.lists(st.dictionaries(st.sampled_from("ab"), st.integers() | text), min_size=1), st.data())
def test_a_torn_file_loses_the_torn_record_only(tmp_path_factory, written, data):
    path = str(tmp_path_factory.mktemp("torn") / "records.jsonl")
    for record in written:
        records.append(path, record, fsync=False)
    cut = data.draw(st.integers(1, os.path.getsize(path)))
    os.truncate(path, cut)
    whole = Path(path).read_bytes()[:cut].count(b"\n")
    kept = records.read(path)
    assert kept[:whole] == written[:whole] and len(kept) <= whole + 1
    records.append(path, {"a": "next"})
    assert records.read(path) == [*kept, {"a": "next"}]
    assert records.last(path) == {"a": "next"}


@settings(max_examples=60)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_complaint(tmp_path_factory, data):
    run = Run(tmp_path_factory.mktemp("garbage"))
    for path in (run.attempts("t"), run.events, run.breakers, run.recovery, run.lease("t"), run.units):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_bytes(data)
    assert all(isinstance(record, dict) for record in records.read(run.events))
    assert isinstance(attempts.last(run, "t"), dict)
    assert isinstance(leases.owner(run.lease("t")), dict | None)
    assert isinstance(breaker.load(run), dict)
    assert policy.load(run)["classes"]["unknown"]
    state.states(run)


def test_the_last_record_of_a_long_file(tmp_path):
    path = str(tmp_path / "long.jsonl")
    long = {"a": "x" * 200_000}
    records.append(path, {"a": 1})
    records.append(path, long)
    assert records.last(path) == long
    with open(path, "ab") as file:
        file.write(b"torn" * 50_000)
    assert records.last(path) == long


def _append_many(n, path):
    for k in range(200):
        records.append(path, {"writer": n, "k": k, "text": "é" * (k % 50)}, fsync=False)


def test_many_writers_of_one_file(tmp_path):
    path = str(tmp_path / "events.jsonl")
    assert in_processes(8, _append_many, path) == [0] * 8
    found = records.read(path)
    assert len(found) == 1600 == sum(map(bool, Path(path).read_bytes().splitlines()))
    for n in range(8):
        assert [record["k"] for record in found if record["writer"] == n] == list(range(200))


def test_a_write_that_finds_no_space_is_an_error_and_keeps_what_is_there(tmp_path, monkeypatch):
    path = str(tmp_path / "records.jsonl")
    records.append(path, {"a": 1})
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
    with pytest.raises(OSError, match="No space left"):
        records.append(path, {"a": 2})
    monkeypatch.undo()
    assert records.read(path) == [{"a": 1}]
    records.append(path, {"a": 3})
    assert records.read(path) == [{"a": 1}, {"a": 3}]


def test_replacing_a_file_keeps_the_old_one_if_it_fails(tmp_path):
    path = str(tmp_path / "document.json")
    records.write_json(path, {"a": 1})

    def parts():
        yield "half"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        records.replace(path, parts())
    assert records.read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["document.json"]


def test_events_never_fail(run):
    os.makedirs(run.events)
    emit(run, "unit_start")


@given(st.floats(0, 4e9))
def test_times_read_back(seconds):
    assert clock.seconds(clock.iso(seconds)) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize("nonsense", [None, "", "yesterday", 5, [], {}, "2026-13-01"])
def test_times_that_are_none(nonsense):
    assert clock.seconds(nonsense) == 0.0


# Paths

name = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=120)


@given(st.lists(name, min_size=1, max_size=4), st.lists(name, min_size=1, max_size=4))
def test_targets_are_quoted_apart_and_short(one, other):
    one, other = "/".join(one), "/".join(other)
    assert (paths.quote(one) == paths.quote(other)) == (one == other)
    assert len(os.fsencode(paths.quote(one))) <= 200 and "/" not in paths.quote(one)


def test_targets_are_inside_the_run(run):
    assert run.target_of(f"{run.dir}/a/b.txt") == "a/b.txt"
    assert run.target_of(f"{run.dir}/..a/b.txt") == "..a/b.txt"
    assert run.target_of(f"{run.dir}/../b.txt") is None
    assert run.target_of("/") is None


# Leases


def _compete(n, run, judge):
    random.seed(n)
    for _ in range(15):
        while (lease := leases.acquire(run, "t")) is None:
            time.sleep(random.uniform(0, 0.003))
        try:
            fd = os.open(judge, os.O_CREAT | os.O_EXCL)  # fails if another one is inside
            lease.write({**processes.me(), "n": n})
            time.sleep(random.uniform(0, 0.002))
            os.close(fd)
            os.unlink(judge)
        finally:
            lease.release()


def test_twenty_compete_for_one_lease(run, tmp_path):
    assert in_processes(20, _compete, run, str(tmp_path / "judge")) == [0] * 20
    assert leases.held(run.lease("t")) is None


def _without_locks(monkeypatch):
    def flock(fd, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_twenty_compete_without_kernel_locks(run, tmp_path, monkeypatch):
    _without_locks(monkeypatch)
    assert in_processes(20, _compete, run, str(tmp_path / "judge")) == [0] * 20
    assert os.listdir(run.leases) == []


def _take_and_die(n, run):
    lease = leases.acquire(run, "t")
    if lease is None:
        os._exit(1)
    lease.write({**processes.me(), "attempt": 7})
    os._exit(0)


def test_a_lease_of_the_dead_is_taken_over_by_one(run, tmp_path, monkeypatch):
    for prepare in (lambda: None, lambda: _without_locks(monkeypatch)):
        prepare()
        assert in_processes(1, _take_and_die, run) == [0]
        assert leases.held(run.lease("t")) is False
        lease = leases.acquire(run, "t")
        assert lease.previous["attempt"] == 7
        assert leases.acquire(run, "t") is None
        assert leases.held(run.lease("t")) is True
        lease.release()
        assert in_processes(1, _take_and_die, run) == [0]
        assert in_processes(20, _compete, run, str(tmp_path / "judge")) == [0] * 20


def test_an_owner_on_another_host_counts_by_its_heartbeat(run, monkeypatch):
    _without_locks(monkeypatch)
    path = run.lease("t")
    records.write_json(path, {"host": "elsewhere", "pid": 1, "boot_id": "x", "attempt": 3})
    assert leases.acquire(run, "t") is None and leases.held(path) is True
    old = time.time() - leases.EXPIRED_S - 1
    os.utime(path, (old, old))
    assert leases.held(path) is False
    lease = leases.acquire(run, "t")
    assert lease.previous["attempt"] == 3
    lease.beat()
    assert leases.held(path) is True


def test_an_empty_lease_without_kernel_locks_is_nobodys(run, monkeypatch):
    os.makedirs(run.leases)
    Path(run.lease("t")).touch()
    _without_locks(monkeypatch)
    assert leases.acquire(run, "t") is not None


def test_a_takeover_that_died_halfway_blocks_nobody_for_ever(run, monkeypatch):
    _without_locks(monkeypatch)
    records.write_json(run.lease("t"), {**processes.me(), "boot_id": "an earlier one"})
    mutex = run.lease("t") + ".takeover"
    os.mkdir(mutex)
    assert leases.acquire(run, "t") is None
    old = time.time() - leases.EXPIRED_S - 1
    os.utime(mutex, (old, old))
    assert leases.acquire(run, "t") is None
    assert leases.acquire(run, "t") is not None


def test_a_lease_removed_by_hand_is_not_taken_for_that_of_the_next(run):
    first = leases.acquire(run, "t")
    os.unlink(run.lease("t"))
    second = leases.acquire(run, "t")
    first.release()
    assert leases.held(run.lease("t")) is True
    second.release()


def test_who_is_alive():
    me = processes.me()
    assert processes.alive(me) is True
    assert processes.alive({**me, "pid_started": 1}) is False
    assert processes.alive({**me, "boot_id": "an earlier one"}) is False
    assert processes.alive({**me, "host": "elsewhere"}) is None
    for pid in (None, "5", -1, 0, 2**40):
        assert processes.alive({**me, "pid": pid}) is False


def _opening_and_closing(ends, begun):
    os.dup2(ends[1], 60)  # above the files that come and go
    for end in ends:
        os.close(end)
    begun.set()
    while True:
        for number in [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]:
            os.close(number)


def test_a_holder_is_found_whatever_else_it_closes_meanwhile():
    read, write = os.pipe()
    begun = FORK.Event()
    holder = FORK.Process(target=_opening_and_closing, args=((read, write), begun))
    holder.start()
    try:
        assert begun.wait(60)
        info = os.fstat(write)
        for _ in range(200):
            assert holder.pid in processes.having_open(info.st_dev, info.st_ino)
    finally:
        holder.kill()
        holder.join()
        os.close(read)
        os.close(write)


# The controller


def _hold(n, run):
    try:
        controller.hold(run, "other")
    except controller.RunIsHeld as error:
        os._exit(3 if f"process {os.getppid()} on {os.uname().nodename} since" in str(error) else 4)
    os._exit(0)


@pytest.mark.parametrize("locks", [True, False])
def test_one_controller(run, monkeypatch, locks):
    if not locks:
        _without_locks(monkeypatch)
    controller.hold(run, "one")
    assert controller.holder(run)["session"] == "one"
    assert in_processes(1, _hold, run) == [3]
    controller.release(run)
    assert controller.holder(run) is None
    assert in_processes(1, _hold, run) == [0]
    assert controller.holder(run) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x", "host": 5}', bytes(range(256))])
def test_a_damaged_controller_lock_holds_nobody_up(run, content):
    os.makedirs(run.journal)
    Path(run.controller).write_bytes(content)
    assert controller.holder(run) is None
    controller.hold(run, "one")
    assert controller.holder(run)["session"] == "one"
    controller.release(run)


# Publishing


def test_all_outputs_appear_and_the_target_last(run, tmp_path, monkeypatch):
    outputs = [f"{run.dir}/a.txt", f"{run.dir}/deep/b.txt", f"{run.dir}/c"]
    staged = publish.stage(run, "a.txt", 1, outputs)
    for path in staged[:2]:
        Path(path).write_text("new")
    os.mkdir(staged[2])
    Path(staged[2], "file").write_text("new")
    seen = []
    replace, rename = os.replace, os.rename
    monkeypatch.setattr(os, "replace", lambda s, t: (seen.append(t), replace(s, t)))
    monkeypatch.setattr(os, "rename", lambda s, t: (seen.append(t), rename(s, t)))
    publish.appear(staged, outputs)
    assert seen == outputs[::-1]
    before = [publish.checksum(path) for path in outputs]
    publish.appear(staged, outputs)
    assert [publish.checksum(path) for path in outputs] == before
    assert sorted(os.listdir(run.dir)) == ["a.txt", "c", "deep", "journal"], "no temporary names stay"


def test_the_checksum_of_a_tree_knows_names_and_contents(tmp_path):
    sums = set()
    for names in (["a"], ["b"], ["a", "b"], ["a/b"]):
        root = tmp_path / "-".join(names).replace("/", "_")
        for file in names:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text("x")
        sums.add(publish.checksum(str(root)))
    assert len(sums) == 4


def test_discarding_spares_the_neighbours(run):
    targets = ["x.txt", "x.txt.b", "x.txt.a1b", "y.a1/z.txt", "y.a1/y"]
    staged = {target: run.staged(target, 1) for target in targets}
    for directory in staged.values():
        os.makedirs(directory)
    publish.discard(run, "x.txt")
    assert [target for target in targets if os.path.isdir(staged[target])] == targets[1:]
    publish.discard_all(run, lambda target: target == "y.a1/z.txt")
    assert [target for target in targets if os.path.isdir(staged[target])] == [
        "x.txt.b",
        "x.txt.a1b",
        "y.a1/y",
    ]


# Policy

RULES = policy.default()


def failed(failure_class, **fields):
    return {
        "outcome": "failed",
        "failure_class": failure_class,
        "decision": "retry",
        "session": "one",
        **fields,
    }


def decided(failure_class, history=(), **given):
    return policy.decide(RULES, list(history), failure_class, now=0.0, session="one", **given)


def test_the_default_policy_is_that_of_the_contract():
    for failure_class in ("network", "service", "gpu_fault", "communication", "disk", "file_system"):
        history, minutes = [], []
        while (decision := decided(failure_class, history, rng=random.Random(1))).decision == "retry":
            minutes.append(clock.seconds(decision.not_before) / 60)
            history.append(failed(failure_class))
        assert len(minutes) == 3 and decision.decision == "refused"
        assert all(low <= m <= 1.2 * low for m, low in zip(minutes, (5, 15, 45), strict=True))
    retries = {"memory": 3, "gpu_memory": 3, "hang": 2, "output_invalid": 1, "unknown": 1, "time_limit": 3}
    for failure_class, number in retries.items():
        for used in range(5):
            expected = "retry" if used < number else "refused"
            assert decided(failure_class, [failed(failure_class)] * used).decision == expected
    for failure_class in ("configuration", "environment", "permission", "code", "numerical", "data"):
        assert decided(failure_class).decision == "quarantine"
    for failure_class in ("node", "preempted"):
        assert decided(failure_class, [failed(failure_class)] * 19).decision == "retry"
        assert decided(failure_class, [failed(failure_class)] * 20).decision == "refused"
    assert decided("cancelled").decision == "refused"


def test_time_limits_count_only_without_progress():
    history = [failed("time_limit", progress=str(n)) for n in range(30)]
    assert decided("time_limit", history, progress="5").decision == "retry"
    history = [failed("time_limit")] * 3
    assert decided("time_limit", history).decision == "refused"
    assert decided("time_limit", history, progress="1").decision == "retry"


@pytest.mark.parametrize("failure_class", ["node", "preempted", "time_limit"])
def test_restarts_that_bring_no_progress_stop_after_three(failure_class):
    history = []
    for reached in ("10", "20", "15", None, "30", "30", "0"):
        assert decided(failure_class, history, progress=reached).decision == "retry"
        history.append(failed(failure_class, progress=reached))
    decision = decided(failure_class, history, progress="29.5")
    assert (decision.decision, decision.reason) == ("refused", "3 restarts brought no progress beyond 30")
    assert decided(failure_class, history, progress="31").decision == "retry"
    assert decided(failure_class, [*history, {"outcome": "released"}]).decision == "retry"


@given(st.lists(st.tuples(st.sampled_from(["node", "time_limit", "network", "killed", "killed before"]),
                          st.none() | st.integers(0, 9)), max_size=14))  # fmt: skip
def test_the_restarts_that_count(ended):
    """By a count from behind: those since the best attempt that ended for free, of this session."""
    kinds = {
        "killed": {"outcome": "interrupted", "session": "one", "failure_class": None},
        "killed before": {"outcome": "interrupted", "session": "zero", "failure_class": None},
    }
    history = [
        {**kinds.get(kind, failed(kind)), "progress": reached if reached is None else str(reached)}
        for kind, reached in ended
    ]
    idle, best = policy.restarts_without_progress(RULES, history, "one")
    numbers = [reached for _, reached in ended if reached is not None]
    assert best == max(numbers, default=None)
    if best is not None:
        since = [reached for _, reached in ended].index(best) + 1
        assert idle == sum(kind not in ("network", "killed before") for kind, _ in ended[since:])
    if best is None or idle < 3:
        return
    assert decided("node", history).decision == "refused"


@pytest.mark.parametrize("told", ["epoch two", "nan", "inf", "", None, [1], {}])
def test_progress_that_is_no_number_is_none(told):
    history = [failed("node", progress=told)] * 19
    assert decided("node", history, progress=told).decision == "retry"
    assert decided("node", [*history, failed("node")], progress=told).decision == "refused"


def test_what_the_service_asks_for_wins():
    assert clock.seconds(decided("service", retry_after=7.0).not_before) == 7.0


def test_the_word_of_the_classifier_counts():
    assert decided("network", sensible=False).decision == "quarantine"
    assert decided("code", sensible=True).decision == "retry"
    assert decided("code", [failed("code")], sensible=True).decision == "refused"


def test_where_the_budget_starts_anew():
    history = [failed("network")] * 3
    assert decided("network", history).decision == "refused"
    given_up = {**failed("network"), "decision": "refused"}
    assert decided("network", [*history, {**given_up, "session": "earlier"}]).decision == "retry"
    assert decided("network", [*history, given_up]).decision == "refused"
    for outcome in ("published", "released", "adopted"):
        assert decided("network", [*history, {"outcome": outcome}]).decision == "retry"
    assert (
        decided("network", [*history, {"outcome": "interrupted", "decision": "retry"}]).decision == "refused"
    )


@pytest.mark.parametrize(
    "damage",
    [
        {"classes": 5},
        {"classes": {}},
        {"classes": {"unknown": 5}},
        {"classes": {"unknown": {"retry": "perhaps"}}},
        {"classes": {"unknown": {"retry": "yes", "delays_min": ["long"]}}},
        {"classes": {"unknown": {"retry": "yes", "changes": [1]}}},
        {"classes": {"unknown": {"retry": "yes", "scope": 5}}},
        {"time_scale": "fast"},
        {"time_scale": None},
        {"breaker": []},
        {"breaker": {"failures": "five"}},
    ],
)
def test_a_damaged_policy_counts_as_none(run, damage):
    records.write_json(run.recovery, {**RULES, **damage})
    assert policy.load(run) == RULES
    records.write_json(run.recovery, {**RULES, "time_scale": 0.5})
    assert policy.load(run)["time_scale"] == 0.5


# State


def test_states(run):
    later = clock.iso(time.time() + 100)
    made = {
        "pending": None,
        "failed": {"decision": "refused", "failure_class": "network"},
        "cancelled": {"decision": "refused", "failure_class": "cancelled"},
        "stopped": {"decision": "quarantine", "failure_class": "code"},
        "waiting": {"decision": "retry", "not_before": later},
        "again": {"decision": "retry", "not_before": clock.iso(0)},
        "blocked": {"decision": "retry", "scopes": ["host:h"]},
        "running": {"decision": "retry"},
        "stale": {"decision": "retry"},
        "done": {"decision": "done", "outcome": "published"},
    }
    for target, record in made.items():
        if record is not None:
            records.append(run.attempts(target), {"attempt": 1, **record}, fsync=False)
    records.write_lines(run.units, [{"target": t} for t in made] + [{"target": "not", "skipped": "no GPU"}])
    records.write_json(run.breakers, {"host:h": {"state": "open", "until": later}})
    Path(run.path("done")).touch()
    lease = leases.acquire(run, "running")
    Path(run.lease("stale")).touch()
    assert {unit.target: unit.state for unit in state.states(run)} == {
        "pending": "PENDING", "failed": "FAILED", "cancelled": "PENDING", "stopped": "QUARANTINED",
        "waiting": "WAITING", "again": "PENDING", "blocked": "WAITING", "running": "RUNNING",
        "stale": "STALE", "done": "COMPLETED", "not": "SKIPPED",
    }  # fmt: skip
    lease.release()


def test_a_unit_born_after_the_manifest_is_shown_and_one_that_left_is_not(tmp_path):
    from ripresa.journal.state import states

    run = Run(tmp_path / "runs/r")
    done = {"attempt": 1, "outcome": "failed", "decision": "quarantine", "failure_class": "code"}
    records.append(run.attempts("f/left.txt"), {**done, "target": "f/left.txt"})
    os.utime(run.attempts("f/left.txt"), (1, 1))
    records.write_lines(run.units, [{"session": "s"}, {"target": "f/stays.txt", "rule": "r", "family": "f"}])
    records.append(run.attempts("f/born.txt"), {**done, "target": "f/born.txt"})
    found = {unit.target: unit.state for unit in states(run)}
    assert found == {"f/born.txt": "QUARANTINED", "f/stays.txt": "PENDING"}


def test_large_outputs_are_hashed_while_they_are_brought_to_the_disk(tmp_path, monkeypatch):
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"small")
    large.write_bytes(os.urandom(5 << 20))
    paths = [str(small), str(large)]
    assert publish.settle(paths) == [hashlib.sha256(path.read_bytes()).hexdigest() for path in (small, large)]

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for some in (paths, paths[:1]):
        with pytest.raises(OSError, match="No space left"):
            publish.settle(some)


def test_a_document_that_is_there_already_is_not_written_again(tmp_path):
    path = tmp_path / "document.json"
    records.write_json(str(path), {"a": 1})
    os.utime(path, ns=(0, 0))
    records.write_json(str(path), {"a": 1})
    assert path.stat().st_mtime_ns == 0
    records.write_json(str(path), {"a": 2})
    assert records.read_json(str(path)) == {"a": 2}
