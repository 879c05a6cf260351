"""The guard, called as a rule's shell text calls it: what it publishes, stops, adopts, refuses, records."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from conftest import overlapping, wait_until
from ripresa.journal import clock, leases, processes, publish, records, state
from ripresa.recovery import validators

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
GUARD_DIED = "kill -9 $PPID; "
TOLD_TO = "until [ -e go ]; do sleep 0.02; done; "


def alive(pid):
    return processes.started(pid) is not None


def pid_in(path):
    """The pid that a command wrote to a file, once it has."""
    return int(wait_until(lambda: path.exists() and path.read_text().strip()))


# What is published


def test_success(guard):
    assert guard("echo hello; echo result > {output}", resources=["threads=2"], scopes=["workload=w"]) == 0
    assert guard.path.read_text() == "result\n"
    record = guard.last
    assert {
        "outcome": "published",
        "decision": "done",
        "attempt": 1,
        "exit_code": 0,
    }.items() <= record.items()
    assert record["resources"] == {"threads": "2"} and "workload:w" in record["scopes"]
    assert record["output_sha256"] == publish.checksum(str(guard.path))
    assert guard.log() == "hello\n"
    assert guard.said == ""
    assert [event["outcome"] for event in guard.events("unit_end")] == ["published"]
    assert len(guard.events("unit_start")) == 1
    assert not os.listdir(guard.run.leases)


def test_a_target_appears_only_when_it_is_complete(guard):
    process = guard.start("echo half > {output}; touch begun; " + TOLD_TO + "echo whole > {output}")
    wait_until((guard.directory / "begun").exists)
    assert not guard.path.exists()
    (guard.directory / "go").touch()
    assert process.wait() == 0
    assert guard.path.read_text() == "whole\n"


@pytest.mark.parametrize("name", ["with space.txt", 'it\'s "quoted".txt', "a=b;&$HOME.txt", "ümläut/ω.txt"])
def test_names_that_need_quoting(guarded, name):
    unit = guarded(outputs=[name, "other " + name.replace("/", " ")])
    assert unit("echo 1 > {output[0]}; echo 2 > {output[1]}") == 0
    assert [Path(unit.run.path(output)).read_text() for output in unit.outputs] == ["1\n", "2\n"]


def test_a_name_that_is_not_utf8(guarded):
    unit = guarded(outputs=[os.fsdecode(b"caf\xe9.txt")])
    assert unit("echo 1 > {output}; exit 7") == 1
    assert unit("echo 1 > {output}") == 0
    assert [record["attempt"] for record in unit.records] == [1, 2]


def test_outputs_of_the_same_name_and_by_name(guarded):
    unit = guarded(outputs=["a/x.txt", "b/x.txt"], names={"first": "a/x.txt", "second": "b/x.txt"})
    assert unit("echo 1 > {output.first}; echo 2 > {output.second}") == 0
    assert [Path(unit.run.path(output)).read_text() for output in unit.outputs] == ["1\n", "2\n"]


def test_several_outputs_or_none(guarded):
    unit = guarded(outputs=["a.txt", "b.txt"])
    assert unit("echo 1 > {output[0]}") == 1
    assert not any(os.path.exists(unit.run.path(output)) for output in unit.outputs)
    assert unit.last["failure_class"] == "output_invalid" and "b.txt was not written" in unit.last["evidence"]
    assert not os.path.exists(unit.run.staged(unit.target, 1))


def test_a_crash_between_the_record_and_the_appearance(guarded):
    """The record is the commit: the next guard completes what it promised, and executes nothing."""
    unit = guarded(outputs=["a.txt", "dir/b.txt"])
    obstacle = Path(unit.run.path("dir"))
    obstacle.parent.mkdir(parents=True, exist_ok=True)
    obstacle.write_text("in the way")
    assert unit("echo 1 > {output[0]}; echo 2 > {output[1]}") == 1
    assert "cannot use the journal" in unit.said and len(unit.said.splitlines()) == 1
    assert unit.outcomes() == [("published", "done")] and not unit.path.exists()
    obstacle.unlink()
    assert unit("echo 1 > {output[0]}; echo 2 > {output[1]}", session="two") == 0
    assert [Path(unit.run.path(output)).read_text() for output in unit.outputs] == ["1\n", "2\n"]
    assert [record["outcome"] for record in unit.records] == ["published", "adopted"]


def test_a_directory(guarded):
    unit = guarded(outputs=["tree"])
    assert unit("mkdir -p {output}/sub; echo 1 > {output}/sub/file") == 0
    assert (unit.path / "sub" / "file").read_text() == "1\n"
    assert unit.last["output_sha256"] == publish.checksum(str(unit.path))
    unit = guarded(outputs=["empty"])
    assert unit("mkdir {output}") == 1
    assert unit.last["failure_class"] == "output_invalid"


# Failures


def test_a_failing_command(guard):
    assert guard("echo 'NameError: bad' >&2; exit 3") == 1
    record = guard.last
    assert (record["outcome"], record["exit_code"], record["signal"]) == ("failed", 3, None)
    assert record["failure_class"] == "code" and record["evidence"] == "NameError: bad"
    assert record["decision"] == "quarantine"
    assert "NameError: bad" in guard.said and guard.run.log("out.txt", 1) in guard.said
    (end,) = guard.events("unit_end")
    assert (end["outcome"], end["failure_class"], end["decision"]) == ("failed", "code", "quarantine")


def test_a_failure_that_is_retried(guard):
    assert guard("echo 'ssh: connect to host h port 22: Connection timed out'; exit 255") == 1
    record = guard.last
    assert (record["failure_class"], record["decision"]) == ("network", "retry")
    (event,) = guard.events("unit_retry_scheduled")
    assert event["failure_class"] == "network" and event["evidence"] == record["evidence"]
    assert guard("echo 1 > {output}") == 0
    assert guard.last["attempt"] == 2


def test_killed_by_a_signal(guard):
    assert guard("kill -SEGV $$") == 1
    assert (guard.last["exit_code"], guard.last["signal"]) == (None, signal.SIGSEGV)


def test_users_classifier_rules_count(guard):
    rule = {"name": "mine", "class": "service", "pattern": "FROBNICATOR BUSY"}
    guard.policy(rules=[rule])
    assert guard("echo 'FROBNICATOR BUSY'; exit 1") == 1
    assert (guard.last["failure_class"], guard.last["evidence"]) == ("service", "FROBNICATOR BUSY")


def test_memory_and_cpu_time_are_plausible(guard):
    burn = "from time import process_time as t; x = bytearray(150_000_000)\nwhile t() < 0.5: pass"
    assert guard(f"python3 -c '{burn}'; echo 1 > {{output}}") == 0
    assert 140 < guard.last["max_rss_mb"] < 260
    assert 0.5 <= guard.last["cpu_s"] < 3


def control_group(name, limit):
    """A memory control group with this limit in bytes, or None where it cannot be made."""
    path = Path("/sys/fs/cgroup/memory") / name
    if os.geteuid() != 0 or not (path.parent / "memory.limit_in_bytes").exists():
        return None
    path.mkdir()
    (path / "memory.limit_in_bytes").write_text(str(limit))
    return path


def test_a_real_kill_for_want_of_memory(guard):
    group = control_group(f"ripresa-test-{os.getpid()}", 60_000_000)
    if group is None:
        pytest.skip("needs root and memory control groups (version 1)")
    os.mkfifo(guard.directory / "go")
    try:
        joining = guard.start("read -r < go || :; python3 -c 'bytearray(200_000_000)'; echo 1 > {output}")
        (group / "cgroup.procs").write_text(str(joining.pid))
        for pid in wait_until(
            lambda: (o := guard.owner()) and o.get("group") and processes.group(o["group"])
        ):
            (group / "cgroup.procs").write_text(str(pid))
        (guard.directory / "go").write_text("")
        assert joining.wait() == 1
        assert guard.last["failure_class"] == "memory"
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


# Validation


@pytest.mark.parametrize(
    ("validator", "content", "evidence"),
    [
        (None, "", "is empty"),
        ("json", "{'a': 1}", "is not valid JSON"),
        ("json", '{"a": 1', "is not valid JSON"),
        ("csv:columns=a,b", "a,c\n1,2\n", "lacks the columns b"),
        ("csv:columns=a,b rows=2", "a,b\n1,2\n", "has 1 rows, at least 2"),
        ("csv:columns=a,b", "a,b\n1,2\n3", "line 3 has 1 of 2 columns"),
        ("command:grep -q good {} || { echo not good; exit 1; }", "bad", "rejected out.txt: not good"),
        ("nonsense", "1", "unknown validator 'nonsense'"),
        ("csv:rows=many", "a\n1\n", "cannot validate out.txt as csv:rows=many: ValueError"),
    ],
)
def test_an_output_that_is_not_valid(guard, validator, content, evidence):
    guard.options({"validate": validator} if validator else {})
    (guard.directory / "content").write_text(content)
    assert guard("cat content > {output}") == 1
    record = guard.last
    assert (record["failure_class"], record["decision"]) == ("output_invalid", "retry")
    assert evidence in record["evidence"] and "\n" not in record["evidence"]
    assert not guard.path.exists()
    assert guard("cat content > {output}") == 1
    assert guard.last["decision"] == "refused"


def test_no_output(guard):
    assert guard("true") == 1
    assert guard.last["evidence"] == "output out.txt was not written"


def test_a_json_schema(guard):
    (guard.directory / "schema.json").write_text(
        '{"required": ["a"], "properties": {"a": {"type": "number"}}}'
    )
    guard.options({"validate": "json:schema.json"})
    assert guard('echo \'{"a": "x"}\' > {output}') == 1
    assert "is invalid at $.a: 'x' is not of type 'number'" in guard.last["evidence"]
    assert guard("echo '{\"a\": 1}' > {output}") == 0


@pytest.mark.parametrize("shadow", ["csv.py", "json.py"])
def test_a_file_of_the_checkout_does_not_shadow_a_module(guard, shadow):
    (guard.directory / shadow).write_text("raise SystemExit('shadowed')")
    guard.options({"validate": "csv:columns=a"})
    assert guard("printf 'a\\n1\\n' > {output}") == 0


FITS = """
import sys
import numpy as np
from astropy.io import fits
kind, path = sys.argv[1:]
data = np.arange(10000.0).reshape(100, 100)
data[0, :50] = np.nan
if kind == "nan":
    data[:] = np.nan
fits.PrimaryHDU(data).writeto(path, checksum=kind != "plain")
if kind in ("short", "plain"):
    with open(path, "r+b") as file: file.truncate(40000)
if kind == "flipped":
    with open(path, "r+b") as file: file.seek(9999); file.write(b"x")
if kind == "text":
    open(path, "w").write("not FITS")
"""


def test_fits_through_the_guard(guard):
    (guard.directory / "make.py").write_text(FITS)
    guard.options({"validate": "fits:shape=100x100"})
    assert guard("python make.py flipped {output}") == 1
    assert "not valid FITS" in guard.last["evidence"] and guard.last["failure_class"] == "output_invalid"
    assert guard("python make.py good {output}", session="two") == 0


@pytest.mark.parametrize(
    ("kind", "options", "evidence"),
    [
        ("good", "", None),
        ("good", ":shape=100x100 finite=0.9", None),
        ("short", "", "not valid FITS"),
        ("plain", "", "not valid FITS"),
        ("flipped", "", "not valid FITS"),
        ("text", "", "not valid FITS"),
        ("nan", "", "only 0.0% finite"),
        ("good", ":finite=0.999", "only 99.5% finite"),
        ("good", ":shape=100x50", "has shape (100, 100)"),
    ],
)
def test_fits(tmp_path, monkeypatch, capsys, kind, options, evidence):
    path = tmp_path / "out.fits"
    monkeypatch.setattr("sys.argv", ["make.py", kind, str(path)])
    exec(FITS, {})
    assert validators.main(["fits" + options, str(path)]) == (0 if evidence is None else 1)
    assert (evidence or "") in capsys.readouterr().out


def test_a_hanging_validation_is_ended(guard):
    guard.options({"validate": "command:sleep 60", "wall": 2, "grace": 0.2})
    assert guard("echo 1 > {output}") == 1
    assert guard.last["failure_class"] == "time_limit" and "while validating" in guard.last["evidence"]


def test_a_validation_can_be_stopped(guard):
    guard.options({"validate": "command:touch begun; sleep 60"})
    process = guard.start("echo 1 > {output}")
    wait_until((guard.directory / "begun").exists)
    process.terminate()
    assert process.wait(30) == 1
    assert guard.last["failure_class"] == "cancelled" and not guard.path.exists()


# Limits and signals

FAMILY = {
    "grandchild": "bash -c 'sleep 60 & echo $! > pid; wait'",
    "stubborn": "trap '' TERM; bash -c 'trap \"\" TERM; echo $$ > pid; while :; do sleep 1; done'",
    "own session": "setsid bash -c 'echo $$ > pid; sleep 60' & wait",
    "own session, parent gone": "setsid -f bash -c 'echo $$ > pid; trap \"\" TERM; sleep 60'; sleep 60",
    "stopped": "bash -c 'echo $$ > pid; kill -STOP $$'",
}


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize("limit", ["wall", "stall"])
def test_a_limit_ends_all(guard, kind, limit):
    stall = {"progress": "file:never"} if limit == "stall" else {}
    guard.options({limit: 1.5, "grace": 0.4, **stall})
    began = time.monotonic()
    assert guard("echo 1 > {output}; " + FAMILY[kind]) == 1
    assert time.monotonic() - began < 30, "half of what it would take by itself"
    assert guard.last["failure_class"] == {"wall": "time_limit", "stall": "hang"}[limit]
    assert not alive(pid_in(guard.directory / "pid"))
    assert not guard.path.exists()


def test_the_wall_limit_from_snakemakes_runtime(guard):
    assert guard("sleep 60", resources=["runtime=0.01"], RIPRESA_GRACE_S="1") == 1
    assert guard.last["failure_class"] == "time_limit"
    assert guard.last["evidence"] == "wall-clock limit of 0.6 s reached"


@pytest.mark.parametrize(
    ("progress", "step"),
    [
        ("file:p", "echo $i >> p"),
        ("counter:p", "echo step $i > p"),
        ("log:step (\\d+)", "echo step $i"),
        (None, "echo $i"),
        (None, "echo $i > $RIPRESA_PROGRESS"),
    ],
)
def test_progress_keeps_a_command_alive_and_its_end_is_noticed(guard, progress, step):
    guard.options({"stall": 2, "grace": 0.2, **({"progress": progress} if progress else {})})
    began = time.monotonic()
    assert guard(f"for i in {{1..8}}; do {step}; sleep 0.3; done; sleep 60") == 1
    assert guard.last["failure_class"] == "hang"
    assert 3.5 < time.monotonic() - began < 40, (
        "the steps take longer than a stall; the rest is not waited for"
    )
    if progress and progress.startswith(("counter", "log")):
        assert guard.last["progress"] == "8"
        assert [event["value"] for event in guard.events("unit_progress")][-1] == "8"


def test_what_a_successful_command_leaves_behind_is_ended_before_publishing(guard):
    leave = "bash -c 'echo $$ > pid; while :; do sleep 0.1; echo late >> \"$0\"; done' {output} &"
    begun = "until [ $(grep -c late {output}) -ge 2 ]; do sleep 0.02; done"
    assert guard(f"echo 1 > {{output}}; {leave}\nsetsid {leave} {begun}", RIPRESA_GRACE_S="0.5") == 0
    assert not alive(pid_in(guard.directory / "pid"))
    content = guard.path.read_text()
    time.sleep(0.3)
    assert guard.path.read_text() == content
    assert publish.checksum(str(guard.path)) == guard.last["output_sha256"]


def test_what_ends_by_itself_may(guard):
    """Bash does not wait for process substitutions: their last words belong to the output."""
    assert guard("echo 1 > >(sleep 0.05; cat > {output})") == 0
    assert guard.path.read_text() == "1\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_reaches_the_command(guard, number):
    process = guard.start(
        "trap 'echo told; touch told; exit 5' TERM; touch begun; while :; do sleep 0.05; done"
    )
    wait_until((guard.directory / "begun").exists)
    process.send_signal(number)
    assert process.wait(30) == 1
    assert (guard.directory / "told").exists()
    record = guard.last
    assert (record["outcome"], record["failure_class"], record["decision"]) == (
        "interrupted", "cancelled", "refused",
    )  # fmt: skip
    assert guard("echo 1 > {output}") == 1, "not again in this session"
    assert guard("echo 1 > {output}", session="two") == 0, "but in the next"


def test_asked_twice_means_at_once(guard):
    process = guard.start(
        "trap 'touch told' TERM; touch begun; while :; do sleep 0.05 || :; done", RIPRESA_GRACE_S="600"
    )
    wait_until((guard.directory / "begun").exists)
    process.send_signal(signal.SIGINT)
    wait_until((guard.directory / "told").exists)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 1
    assert guard.last["failure_class"] == "cancelled" and guard.last["signal"] == signal.SIGKILL


def test_a_hang_up_is_ignored(guard):
    process = guard.start("touch begun; " + TOLD_TO + "echo 1 > {output}")
    wait_until((guard.directory / "begun").exists)
    process.send_signal(signal.SIGHUP)
    (guard.directory / "go").touch()
    assert process.wait(30) == 0


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_warning_reaches_those_who_catch_it(guard, number):
    """SLURM sends it to the batch script, which is the guard; what does not expect it would die of it."""
    name = signal.Signals(number).name
    saver = f"trap 'echo {name} >> saved; exit 0' {name}; touch begun; while :; do sleep 0.05; done"
    process = guard.start(
        f'(sleep 0.2; echo heedless >> saved) & bash -c "{saver}" & wait; cp saved {{output}}'
    )
    wait_until((guard.directory / "begun").exists)
    process.send_signal(number)
    assert process.wait(30) == 0
    assert sorted(guard.path.read_text().split()) == sorted([name, "heedless"])
    assert guard.outcomes() == [("published", "done")]


def blocks(pid, number):
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["SigBlk"], 16) >> (number - 1) & 1


def test_a_warning_at_any_moment_of_its_start_ends_nothing(guard):
    for delay in (0.0, 0.005, 0.01, 0.02, 0.04):
        process = guard.start(f"sleep 0.05; echo {delay} > {{output}}", session=str(delay))
        # Not at once after the fork: until the interpreter runs, nothing can hold it back.
        wait_until(lambda process=process: blocks(process.pid, signal.SIGUSR1))
        time.sleep(delay)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(30) == 0
    assert len(guard.outcomes()) == 5


def test_a_stop_at_any_moment_of_its_start_ends_the_guard_and_leaves_nothing(guard):
    for delay in (0.005, 0.01, 0.015, 0.02, 0.03):
        process = guard.start("sleep 5", session=str(delay))
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode != 0
        assert not leases.held(guard.run.lease("out.txt"))
    assert guard("echo 1 > {output}", session="after") == 0


def test_exit_codes_arrive_where_the_parent_ignores_its_children(guard):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        process = guard.start("exit 4")
    finally:
        signal.signal(signal.SIGCHLD, before)
    process.wait()
    assert guard.last["exit_code"] == 4


# Guards that die, and the next one


def test_the_guard_is_killed_and_the_command_lives_on(guard):
    first = guard.start("echo $$ > pid; sleep 60; echo late > {output}")
    owner = guard.running()
    first.kill()
    first.wait()
    pid = pid_in(guard.directory / "pid")
    assert alive(pid) and leases.held(guard.run.lease("out.txt"))
    assert state.state_of(guard.run, "out.txt").state == "STALE"
    assert guard("echo 1 > {output}", session="two") == 0
    assert not alive(pid)
    assert guard.outcomes() == [("interrupted", "retry"), ("published", "done")]
    interrupted = guard.records[0]
    assert (interrupted["pid"], interrupted["session"], interrupted["started"]) == (
        owner["pid"], "one", owner["started"],
    )  # fmt: skip
    assert overlapping(guard.records) == []


def test_a_unit_that_always_ends_its_guard_is_given_up_for_the_session(guard):
    for _ in range(21):  # the next guard records the end of the one before
        guard(GUARD_DIED)
    assert guard(GUARD_DIED) == 1
    assert "given up for this run" in guard.said
    assert guard.outcomes() == [("interrupted", "retry")] * 20 + [("interrupted", "refused")]
    assert guard("echo 1 > {output}", session="two") == 0


def test_orphans_that_left_their_group_are_found(guard):
    first = guard.start("setsid -f bash -c 'echo $$ > pid; sleep 60'; sleep 0.2; " + GUARD_DIED)
    first.wait()
    pid = pid_in(guard.directory / "pid")
    assert guard("echo 1 > {output}", session="two") == 0
    assert not alive(pid)
    assert [outcome for outcome, _ in guard.outcomes()] == ["interrupted", "published"]


def test_who_looks_at_a_lease_is_not_taken_for_an_orphan(guard):
    first = guard.start("sleep 60")
    guard.running()
    looker = subprocess.Popen(["sleep", "60"], stdin=open(guard.run.lease("out.txt")))  # noqa: SIM115
    first.kill()
    first.wait()
    assert guard("echo 1 > {output}", session="two") == 0
    assert looker.poll() is None
    looker.kill()
    looker.wait()


def test_killed_before_and_after_the_command(guard):
    """Many guards killed at all moments: one publication, no overlap, every attempt numbered once."""
    command = "flock -n lock bash -c 'echo 1 > \"$0\"; sleep 0.05' {output} || { touch overlap; exit 3; }"
    for n in range(20):
        process = guard.start(command, session=str(n))
        time.sleep(0.01 + 0.008 * n)
        process.kill()
        process.wait()
    assert guard(command, session="last") == 0
    assert not (guard.directory / "overlap").exists()
    history = guard.records
    assert overlapping(history) == []
    assert sum(record["outcome"] == "published" for record in history) == 1
    numbers = [record["attempt"] for record in history if record["outcome"] != "adopted"]
    assert numbers == list(range(1, len(numbers) + 1))


def beside_a_live_attempt(guard, command, session="two"):
    """The exit code of a guard that found one, which then got its word to go on."""
    second = guard.start(command, session=session)
    assert "a live attempt holds it" in second.stdout.readline()
    (guard.directory / "go").touch()
    assert "Traceback" not in second.communicate(timeout=60)[0]
    return second.returncode


def test_a_live_attempt_is_adopted(guard):
    command = TOLD_TO + "echo 1 > {output}; echo run >> runs_of_it"
    first = guard.start(command)
    guard.running()
    assert beside_a_live_attempt(guard, command) == 0
    assert first.wait() == 0
    assert (guard.directory / "runs_of_it").read_text() == "run\n"
    assert guard.outcomes() == [("published", "done"), ("adopted", "done")]


def test_a_live_attempt_that_fails_is_adopted_too(guard):
    command = TOLD_TO + "echo 'Connection timed out'; exit 255"
    first = guard.start(command)
    guard.running()
    assert beside_a_live_attempt(guard, command) == 1
    first.wait()
    assert guard.outcomes() == [("failed", "retry")], "whether to go on is the scheduler's to decide"
    assert guard("echo 1 > {output}", session="two") == 0
    assert guard.last["attempt"] == 2


def test_a_live_attempt_of_something_else_is_stopped_first(guard):
    first = guard.start(
        "trap 'sleep 0.5; touch cleaned; exit 1' TERM; touch begun; while :; do sleep 0.05; done"
    )
    wait_until((guard.directory / "begun").exists)
    guard.running()
    assert guard("echo new > {output}", session="two") == 0
    assert first.wait() == 1
    assert (guard.directory / "cleaned").exists(), "it had the time of grace to clean up"
    assert guard.path.read_text() == "new\n"
    assert overlapping(guard.records) == []


def publish_then_lose(guard, command="cat in > {output}"):
    """Publish, then do what the `prepare` of a controller does that does not know of it."""
    (guard.directory / "in").write_text("1\n")
    old = time.time() - 60
    os.utime(guard.directory / "in", (old, old))
    assert guard(command, inputs="in") == 0
    guard.path.unlink()


def test_what_snakemake_did_not_get_to_know_is_adopted(guard):
    publish_then_lose(guard)
    assert guard("cat in > {output}", inputs="in", session="two") == 0
    assert guard.outcomes() == [("published", "done"), ("adopted", "done")]
    assert guard.path.read_text() == "1\n"


@pytest.mark.parametrize("change", ["input", "script", "option", "damage", "removal", "force", "command"])
def test_what_is_not_adopted(guard, change):
    tools = guard.directory / "tool.sh", guard.directory / "settings"
    for file in tools:
        file.touch()
        os.utime(file, (time.time() - 60,) * 2)
    command = "bash tool.sh --with=settings; cat in > {output}; touch ran"
    publish_then_lose(guard, command)
    (guard.directory / "ran").unlink()
    staged = Path(guard.run.staged("out.txt", 1), "out.txt")
    environment = {}
    match change:
        case "input":
            os.utime(guard.directory / "in")
        case "script":
            os.utime(tools[0])
        case "option":
            os.utime(tools[1])
        case "damage":
            staged.write_text("2\n")
        case "removal":
            staged.unlink()
        case "force":
            environment["RIPRESA_FORCED"] = "1"
        case "command":
            command += "; true"
    assert guard(command, inputs="in", session="two", **environment) == 0
    assert (guard.directory / "ran").exists()
    assert guard.outcomes() == [("published", "done"), ("published", "done")]
    assert guard.path.read_text() == "1\n"


def test_a_damaged_second_output_is_not_adopted(guarded):
    unit = guarded(outputs=["a.txt", "b.txt"])
    command = "echo 1 > {output[0]}; echo 2 > {output[1]}"
    assert unit(command) == 0
    for output in unit.outputs:
        os.unlink(unit.run.path(output))
    Path(unit.run.staged("a.txt", 1), "b.txt").write_text("damaged")
    assert unit(command, session="two") == 0
    assert Path(unit.run.path("b.txt")).read_text() == "2\n"
    assert unit.outcomes() == [("published", "done"), ("published", "done")]


def test_a_directory_beside_the_command_is_no_input(guard):
    """Directories change with every file made in them; that is no reason to execute again."""
    publish_then_lose(guard, "cd . && cat in > {output}")
    (guard.directory / "something").touch()
    assert guard("cd . && cat in > {output}", inputs="in", session="two") == 0
    assert guard.last["outcome"] == "adopted"


def test_a_reboot(guard):
    """Nobody of an earlier boot is alive, whoever has its numbers now."""
    innocent = subprocess.Popen(["sleep", "60"], start_new_session=True)
    owner = {
        **processes.me(), "boot_id": "an earlier one", "target": "out.txt", "session": "zero", "attempt": 1,
        "started": clock.iso(time.time() - 60), "command_sha256": "0", "group": innocent.pid,
        "group_started": processes.started(innocent.pid),
    }  # fmt: skip
    records.write_json(guard.run.lease("out.txt"), owner)
    assert guard("echo 1 > {output}") == 0
    assert guard.outcomes() == [("interrupted", "retry"), ("published", "done")]
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait()


# Decisions


def fail(guard, **options):
    return guard("echo 'Connection timed out'; exit 255", **options)


def test_the_budget_is_counted_over_sessions_and_new_after_giving_up(guard):
    for session in ("one", "two", "three"):
        assert fail(guard, session=session) == 1
        assert guard.last["decision"] == "retry"
    assert fail(guard, session="three") == 1
    assert guard.last["decision"] == "refused"
    assert guard("touch ran; echo 1 > {output}", session="three") == 1
    assert not (guard.directory / "ran").exists()
    assert "given up for this run" in guard.said
    assert fail(guard, session="four") == 1
    assert (guard.last["decision"], guard.last["attempt"]) == ("retry", 5)


def quarantined(guard):
    script = guard.directory / "script.sh"
    script.write_text("echo 'NameError: x'; exit 1")
    os.utime(script, (time.time() - 60,) * 2)
    assert guard("bash script.sh; echo 1 > {output}") == 1
    assert guard.last["decision"] == "quarantine"
    assert guard("bash script.sh; echo 1 > {output}", session="two") == 1
    assert "in quarantine since attempt 1 (code): NameError: x" in guard.said
    assert "ripresa release out.txt" in guard.said
    assert len(guard.records) == 1
    return script


def test_a_changed_script_ends_a_quarantine(guard):
    quarantined(guard).write_text("true")
    assert guard("bash script.sh; echo 1 > {output}", session="two") == 0


def test_a_changed_command_ends_a_quarantine(guard):
    quarantined(guard)
    assert guard("echo 1 > {output}", session="two") == 0


def test_a_release_ends_a_quarantine(guard):
    quarantined(guard)
    release = {"attempt": 1, "target": "out.txt", "outcome": "released", "decision": "retry"}
    records.append(guard.run.attempts("out.txt"), release)
    assert guard("bash script.sh; echo 1 > {output}", session="two") == 1
    assert guard.last["attempt"] == 2 and guard.last["outcome"] == "failed"


def test_a_unit_in_backoff_is_sent_back_to_the_scheduler(guard):
    guard.policy(time_scale=1.0)
    assert fail(guard) == 1
    assert guard("echo 1 > {output}", RIPRESA_SCHEDULER="recovery") == 75
    assert len(guard.records) == 1


def test_a_backoff_is_waited_for(guard):
    guard.policy(time_scale=0.005)
    assert fail(guard) == 1
    wait = clock.seconds(guard.last["not_before"]) - clock.seconds(guard.last["ended"])
    assert 1.4 < wait < 2.2, "5 minutes and up to a fifth more, scaled"
    assert guard("echo 1 > {output}") == 0
    assert clock.seconds(guard.last["started"]) >= clock.seconds(guard.records[0]["not_before"])


def test_a_backoff_can_be_cut_short_by_a_stop(guard):
    guard.policy(time_scale=1.0)
    assert fail(guard) == 1
    process = guard.start("echo 1 > {output}")
    wait_until(lambda: (o := guard.owner()) and o.get("pid") == process.pid)
    process.terminate()
    assert process.wait(30) != 0
    assert not guard.path.exists()


def breaker_of(guard, scope):
    return (records.read_json(guard.run.breakers) or {}).get(scope)


def falls_due(guard, scope):
    """An open breaker has been open for as long as it was to be."""
    book = records.read_json(guard.run.breakers)
    assert book[scope]["state"] == "open" and clock.seconds(book[scope]["until"]) > time.time()
    book[scope]["until"] = clock.iso(time.time() - 1)
    records.write_json(guard.run.breakers, book)


def test_a_breaker_opens_probes_and_closes(guarded):
    units = [guarded(outputs=[f"{n}.txt"]) for n in range(12)]
    units[0].policy(breaker={"failures": 5, "open_s": 600.0, "probes": 3}, time_scale=1.0)
    command, scope = "echo 'HTTP Error 503: Service Unavailable'; exit 1", "service:s"
    given = {"scopes": ["service=s"], "RIPRESA_SCHEDULER": "recovery"}
    for unit in units[:5]:
        assert unit(command, **given) == 1
    assert breaker_of(units[0], scope)["state"] == "open"
    assert [event["scope"] for event in units[0].events("breaker_opened")].count(scope) == 1
    assert units[5]("echo 1 > {output}", **given) == 75
    assert units[5].records == []
    falls_due(units[0], scope)
    probes = [unit.start(TOLD_TO + "echo 1 > {output}", **given) for unit in units[5:]]
    wait_until(lambda: [probe.poll() for probe in probes].count(75) == 4, 60)
    (units[0].directory / "go").touch()
    codes = [probe.wait() for probe in probes]
    assert codes.count(0) == 3 and codes.count(75) == 4
    assert breaker_of(units[0], scope) is None
    assert {event["scope"] for event in units[0].events("breaker_half_open")} >= {scope}
    assert {event["scope"] for event in units[0].events("breaker_closed")} >= {scope}


def test_a_failed_probe_opens_the_breaker_again(guarded):
    unit, other = guarded(outputs=["a.txt"]), guarded(outputs=["b.txt"])
    unit.policy(breaker={"failures": 1, "open_s": 600.0, "probes": 3}, time_scale=1.0)
    given = {"scopes": ["service=s"], "RIPRESA_SCHEDULER": "recovery"}
    assert unit("echo 'HTTP Error 503: Service Unavailable'; exit 1", **given) == 1
    falls_due(unit, "service:s")
    assert other("echo 'HTTP Error 503: Service Unavailable'; exit 1", **given) == 1
    assert breaker_of(unit, "service:s")["state"] == "open"
    assert unit("echo 1 > {output}", **given) == 75


# Damaged files: a correct recovery or one clear line, never a wrongly accepted result

GARBAGE = {
    "empty": b"",
    "torn": b'{"attempt": 1, "outcome": "publ',
    "binary": bytes(range(256)),
    "zeros": b"\0" * 5000,
    "number": b"5",
    "list": b"[1, 2]",
    "text": b'"text"',
    "deep": b"[" * 100_000,
    "wrong types": json.dumps({
        "attempt": "one", "outcome": 5, "decision": ["retry"], "not_before": 7, "ended": {}, "started": [],
        "session": 1, "command_sha256": 2, "scopes": 3, "pid": "x", "host": 4, "boot_id": None, "group": "g",
        "classes": 5, "time_scale": "fast", "breaker": [], "validate": 7, "wall": "long", "target": 9,
        "host:h": {"state": "open", "until": 5, "failures": "many", "probes": None}, "progress": 1,
    }).encode(),
    "nested nonsense": json.dumps({
        "attempt": True, "resources": [], "outputs": 3, "classes": {"network": 5, "unknown": {}},
        "time_scale": 1, "validate": {"0": 5}, "progress": "log:(", "host:h": 5, "lifeline": ["a", "b"],
        "pid": -1, "group": -1,
    }).encode(),
}  # fmt: skip


@pytest.mark.parametrize("kind", GARBAGE)
@pytest.mark.parametrize("file", ["attempts", "lease", "breakers", "recovery", "events", "guard"])
def test_garbage(guard, file, kind):
    name = {"attempts": "out.txt", "lease": "out.txt", "guard": "digest"}.get(file)
    path = Path(getattr(guard.run, file)(name) if name else getattr(guard.run, file))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(GARBAGE[kind])
    code = guard("echo 'HTTP Error 503'; exit 1")
    assert code == 1
    if file == "guard":
        assert "the options of rule rule" in guard.said and len(guard.said.splitlines()) == 1
        assert guard.records == []
        return
    assert [record["attempt"] for record in guard.records] == [1]
    assert guard.last["failure_class"] == "service", "nothing kept the failure from being judged"
    guard.policy()  # as the next call of snakemake would
    records.append(guard.run.attempts("out.txt"), {**guard.last, "not_before": None})
    assert guard("echo 1 > {output}") == 0
    assert guard.path.read_text() == "1\n"
    assert [record["outcome"] for record in guard.records] == ["failed", "failed", "published"]


@pytest.mark.parametrize(
    "file", ["attempts", "lease", "breakers", "recovery", "events", "guard", "log", "staged"]
)
def test_a_directory_in_the_place_of_a_file(guard, file):
    name = {"attempts": ["out.txt"], "lease": ["out.txt"], "guard": ["digest"], "log": ["out.txt", 1],
            "staged": ["out.txt", 1]}.get(file)  # fmt: skip
    path = Path(getattr(guard.run, file)(*name) if name else getattr(guard.run, file))
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    path.mkdir(parents=True)
    (path / "something").touch()
    code = guard("echo 1 > {output}")
    assert code in (0, 1)
    assert guard.path.exists() == (code == 0)
    assert len(guard.said.splitlines()) <= 1
    if code:
        assert str(path) in guard.said


def test_an_options_file_that_is_lost(guard):
    """Without its options a unit would be published without its validator."""
    os.unlink(guard.run.guard("digest"))
    assert guard("echo 1 > {output}") == 1
    assert "the options of rule rule" in guard.said and not guard.path.exists()


def test_torn_records_among_good_ones(guard):
    assert fail(guard) == 1
    with open(guard.run.attempts("out.txt"), "ab") as file:
        file.write(b'{"attempt": 2, "outcome": "published", "comm')
    assert guard("echo 1 > {output}") == 0
    assert [(r["attempt"], r["outcome"]) for r in guard.records] == [(1, "failed"), (2, "published")]


def test_a_huge_attempt_file(guard):
    path = Path(guard.run.attempts("out.txt"))
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write(json.dumps({"attempt": 1, "outcome": "failed", "decision": "retry"}).encode() + b"\n")
        file.write(b"x" * 30_000_000)
    began = time.monotonic()
    assert guard("echo 1 > {output}") == 0
    assert time.monotonic() - began < 60, "less than a second on an idle machine"
    assert guard.last["attempt"] == 2


def test_a_lease_that_names_someone_else(guard):
    """A live process that never had anything to do with the unit is neither waited for nor harmed."""
    innocent = subprocess.Popen(["sleep", "60"], start_new_session=True)
    named = {"pid": innocent.pid, "pid_started": processes.started(innocent.pid)}
    owner = {**processes.me(), **named, "attempt": 1, "command_sha256": "other", "target": "another"}
    records.write_json(guard.run.lease("out.txt"), owner)
    assert guard("echo 1 > {output}") == 0
    assert innocent.poll() is None
    # The same in the lease of a live attempt.
    guard.path.unlink()
    command = TOLD_TO + "echo 2 > {output}"
    first = guard.start(command, session="two")
    guard.running()
    with open(guard.run.lease("out.txt"), "r+b") as lease:
        lease.truncate()
        lease.write(json.dumps(owner).encode())
    assert beside_a_live_attempt(guard, command, "three") == 0
    assert first.wait() == 0
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait()
    assert guard.path.read_text() == "2\n"


@ROOT
def test_a_full_disk(guard, tmp_path):
    """Output, record and log on a full disk: no result, no loop, and all is well once there is space."""
    disk = tmp_path / "runs"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "none", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small file system")
    try:
        guard.options({})
        guard.policy(time_scale=0.001)
        assert guard("head -c 1000000 /dev/zero > {output}") == 1
        assert guard.last["failure_class"] == "disk", guard.said
        assert not guard.path.exists()
        # Now even the journal cannot be written.
        ballast = disk / "ballast"
        with contextlib.suppress(OSError):
            ballast.write_bytes(b"0" * 1_000_000)
        with contextlib.suppress(OSError), ballast.open("ab") as file:
            while True:
                os.write(file.fileno(), b"0" * 64)
        for command in ("echo 1 > {output}", "exit 3", "yes"):
            assert guard(command, session=command, RIPRESA_GRACE_S="0.2") == 1
            assert "No space left" in guard.said and not guard.path.exists()
        ballast.unlink()
        assert guard("echo 1 > {output}", session="three") == 0
        assert guard.path.read_text() == "1\n"
        assert processes.holders(str(guard.run.lease("out.txt"))) == []
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_dev_full(guard):
    """Writing fails late, after the command has gone on for a while; its exit code tells."""
    assert guard("echo 1 > {output}; echo 2 > /dev/full") == 1
    assert guard.last["failure_class"] == "disk"
    os.makedirs(os.path.dirname(guard.run.events), exist_ok=True)
    os.symlink("/dev/full", guard.run.events + ".full")
    os.replace(guard.run.events + ".full", guard.run.events)
    assert guard("echo 1 > {output}") == 0, "events that cannot be written decide nothing"


def test_what_the_guard_is_called_with(guard):
    done = subprocess.run(
        guard.start("true").args[:4], input="", text=True, capture_output=True, check=False, env={}
    )
    assert done.returncode == 1
    assert done.stderr.startswith("ripresa: guard: usage") and len(done.stderr.splitlines()) == 1
    process = guard.start("true", RIPRESA_RUN="")
    assert "RIPRESA_RUN is not set" in process.communicate()[0]
    process = guard.start("true", RIPRESA_RUN="/somewhere/else")
    assert "lies outside the run" in process.communicate()[0]


@pytest.mark.parametrize("file", ["attempts", "lease", "recovery", "breakers", "guard", "events"])
def test_a_file_that_may_not_be_read(guard, file):
    """One clear line, or the file was not needed."""
    names = {"attempts": ["out.txt"], "lease": ["out.txt"], "guard": ["digest"]}.get(file)
    path = Path(getattr(guard.run, file)(*names) if names else getattr(guard.run, file))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.chmod(0)
    # Root may read everything, unless it is without these capabilities.
    ordinary = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if ordinary and not shutil.which("setpriv"):
        pytest.skip("root may read everything")
    code = guard("echo 1 > {output}", prefix=ordinary)
    assert len(guard.said.splitlines()) == (1 if code else 0), guard.said
    assert guard.path.exists() == (code == 0)
    if code:
        assert "Permission denied" in guard.said and str(path) in guard.said
    path.chmod(0o600)
    guard.options({})
    assert guard("echo 1 > {output}", session="two") == 0
