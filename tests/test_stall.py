"""Hangs are found, whatever is alive is left alone, and limits are learnt from what was healthy."""

import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import wait_until
from ripresa.journal import attempts, clock, processes, records, state
from ripresa.journal.paths import Run
from ripresa.placement.withholding import Withholding
from ripresa.recovery import policy, stall
from ripresa.recovery.progress import Activity, Progress

FORK = multiprocessing.get_context("fork")


WAITS = "mkfifo go; read -r < go"
"""What a command does, without any sign of life, until its test lets it go on."""


def let_go(guard):
    fifo = guard.directory / "go"
    wait_until(fifo.exists)
    fifo.write_text("\n")


def python(code):
    return f"python -c '{code}'"


# Signs of life without a declared progress

HEALTHY = {
    "computes in silence": python("import time; end = time.time() + 2.5\nwhile time.time() < end: pass"),
    "writes in silence": python(
        'import os, time; f = os.open("/dev/null", 1)\nfor _ in range(25): '
        "os.write(f, bytes(8192)); time.sleep(.1)"
    ),
    "computes in a session of its own": python(
        'import subprocess as s, sys; s.run([sys.executable, "-c", "'
        'import time; end = time.time() + 2.5\\nwhile time.time() < end: pass"], start_new_session=True)'
    ),
    "prints now and then": "for i in {1..25}; do sleep 0.1; echo $i; done",
    "sleeps within its limit": "sleep 0.2",
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_what_is_alive_is_left_alone(guard, kind):
    guard.options({"stall": 1.2, "grace": 0.2})
    assert guard(f"{HEALTHY[kind]}; echo 1 > {{output}}") == 0, guard.said
    assert len(guard.records) == 1 and guard.last["silence_s"] > 0


def test_a_loop_that_only_waits_is_no_sign_of_life(guard):
    """What its programs read at their start is not its work."""
    guard.options({"stall": 1.0, "grace": 0.2, "wall": 20})
    assert guard("while :; do sleep 0.4; done") == 1
    assert guard.last["failure_class"] == "hang"


def test_a_hang_says_which_limit_it_exceeded(guard):
    guard.options({"stall": 0.6, "grace": 0.2})
    assert guard("echo begin; sleep 60") == 1
    record = guard.last
    assert (record["failure_class"], record["stall_s"], record["stall_from"]) == ("hang", 0.6, "declared")
    assert "its limit of 0.6 s is the rule's own" in record["evidence"]
    assert "no input or output" in record["evidence"]
    assert record["silence_s"] >= 0.6


@pytest.mark.parametrize("given", [{}, {"progress": "counter:steps"}])
def test_a_stopped_command_is_asked_to_end_before_it_is_killed(guard, given):
    guard.options({"stall": 0.6, "grace": 50, **given})
    began = time.monotonic()
    assert guard("trap 'touch told; exit 3' TERM; kill -STOP $$; sleep 1") == 1
    assert time.monotonic() - began < 40, "once it has ended nobody waits for the rest of its grace"
    assert guard.last["failure_class"] == "hang" and guard.last["exit_code"] == 3
    assert guard.last["evidence"].endswith("it is stopped (SIGSTOP)")
    assert (guard.directory / "told").exists()


LIVELOCK = "while :; do echo step 7 of 9 at $SECONDS; echo 7 > steps; sleep 0.01; done"


@pytest.mark.parametrize("progress", ["log:step (\\d+)", "log:step (8|9)", "counter:steps"])
def test_a_chatty_livelock_is_found_by_the_progress_that_a_rule_declares(guard, progress):
    guard.options({"stall": 1.0, "grace": 0.2, "wall": 20, "progress": progress})
    assert guard(LIVELOCK) == 1
    assert guard.last["failure_class"] == "hang", guard.last["evidence"]
    assert f"({progress})" in guard.last["evidence"]


def test_a_long_unit_that_makes_progress_is_left_alone_and_one_that_makes_none_is_not(guarded):
    """Not age tells, but the progress file, also between a unit that is busy and one that is quiet."""
    quiet, busy = guarded(outputs=["quiet.txt"]), guarded(outputs=["busy.txt"])
    quiet.options({"stall": 1.5, "grace": 0.2, "progress": "counter:$RIPRESA_PROGRESS"})
    count = "i=$((i + 1)); echo $i 999 > new; mv new $RIPRESA_PROGRESS; sleep 0.05"
    going = quiet.start(f"i=0; until [ -e go ]; do {count}; done; echo 1 > {{output}}")
    quiet.running()
    began = time.monotonic()
    assert busy("echo 3 16 > $RIPRESA_PROGRESS; while :; do echo round 3; done") == 1
    assert busy.last["failure_class"] == "hang"
    assert busy.last["progress"] == "3"
    wait_until(lambda: time.monotonic() - began > 3 * 1.5)
    assert going.poll() is None, quiet.last
    (quiet.directory / "go").touch()
    assert going.wait(60) == 0
    (record,) = quiet.records
    assert record["outcome"] == "published" and int(record["progress"]) > 3


def test_nobody_can_tell_a_chatty_livelock_from_work_without_one(guard):
    guard.options({"stall": 0.6, "grace": 0.2, "wall": 2})
    assert guard(LIVELOCK) == 1
    assert guard.last["failure_class"] == "time_limit"


def test_progress_bars_without_line_breaks_count(tmp_path):
    log = tmp_path / "log"
    progress = Progress(r"log:(\d+)%", str(log), str(tmp_path / "none"), 5.0)
    for percent in ("1", "2"):
        with log.open("a") as file:
            file.write(f"\r {percent}%|## |\r")
        progress.idle(Activity(0.0, 0, set()))
        assert progress.changed and progress.value == percent
    progress.idle(Activity(0.0, 0, set()))
    assert not progress.changed
    with log.open("ab") as file:
        file.write(b"x" * (5 << 20) + b"\n3%\n")
    for _ in range(3):
        progress.idle(Activity(0.0, 0, set()))
    assert progress.value == "3", "a line longer than what is read at a time is passed over"


def test_the_last_word_counts_however_short_the_attempt(guard):
    for source, command in (
        ("log:step (\\d+)", "echo step 1; echo step 4"),
        ("counter:steps", "echo 1 4 > steps; echo 4 >> steps"),
        (None, "echo 4 > $RIPRESA_PROGRESS"),
    ):
        guard.options({"progress": source} if source else {})
        assert guard(f"{command}; exit 9", session=str(source)) == 1
        assert guard.last["progress"] == "4"


# Time that nobody watched


def test_silence_is_what_was_watched(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(None, str(tmp_path / "log"), str(tmp_path / "none"), 5.0)
    idle = Activity(0.0, 0, set())
    progress.idle(idle)
    for _ in range(3):
        now[0] += 5.0
        silence = progress.idle(idle)
    assert silence == 15.0
    now[0] += 3600.0  # the machine was frozen, or this process stopped
    assert progress.idle(idle) == 25.0
    assert progress.idle(Activity(1.0, 0, set())) == 0.0
    assert progress.silence_s == 25.0


def test_a_stopped_guard_is_seen_and_once_it_goes_on_its_unit_is_unharmed(guard):
    guard.options({"stall": 4, "grace": 0.2})
    process = guard.start(f"{WAITS}; echo 1 > {{output}}")
    guard.running()
    assert state.state_of(guard.run, "out.txt").reason is None
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: processes.stopped(process.pid))
    unit = state.state_of(guard.run, "out.txt")
    assert unit.state == "RUNNING" and f"`kill -CONT {process.pid}`" in unit.reason
    time.sleep(5)  # so long that it would be a hang if somebody had watched
    looked = os.stat(guard.run.lease("out.txt")).st_mtime_ns
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: os.stat(guard.run.lease("out.txt")).st_mtime_ns > looked)
    let_go(guard)
    assert process.wait(60) == 0, guard.last
    assert len(guard.records) == 1


def test_the_next_call_continues_a_stopped_guard(guard):
    command = f"{WAITS}; echo 1 > {{output}}"
    first = guard.start(command)
    guard.running()
    first.send_signal(signal.SIGSTOP)
    let_go(guard)
    assert guard(command, session="two") == 0
    assert first.wait(60) == 0
    assert guard.outcomes() == [("published", "done"), ("adopted", "done")]


def test_a_stopped_guard_of_an_unwanted_command_is_ended(guard):
    first = guard.start("sleep 60; echo old > {output}")
    guard.running()
    first.send_signal(signal.SIGSTOP)
    assert guard("echo new > {output}", session="two") == 0
    assert first.wait(60) == 1
    assert guard.path.read_text() == "new\n"


def test_a_guard_elsewhere_without_a_heartbeat_is_seen(guard):
    process = guard.start(f"{WAITS}; echo 1 > {{output}}")
    owner = guard.running()
    later = time.time() + 600
    reason = state.state_of(guard.run, "out.txt", later).reason
    assert f"process {owner['pid']} on" in reason and "no sign of life for 10 min" in reason
    let_go(guard)
    assert process.wait(60) == 0


# Learnt limits


def history(path, target="t", attempts=3, factor=5.0, floor_s=60.0):
    return stall.History(str(path), target, attempts=attempts, factor=factor, floor_s=floor_s)


silences = st.lists(st.floats(0.0, 1e5).map(lambda s: round(s, 1)), max_size=30)


@given(silences)
def test_the_limit_is_a_multiple_of_the_longest_healthy_silence(tmp_path_factory, healthy):
    file = tmp_path_factory.mktemp("learn") / "silences" / "rule"
    for number, silence in enumerate(healthy):
        history(file, f"t{number}").published(silence)
    limit = history(file).limit()
    assert (limit is None) == (len(healthy) < 3)
    if limit is not None:
        assert limit[0] == max(60.0, 5.0 * max(healthy))
        growth = sum(s > max(healthy[:n], default=-1.0) for n, s in enumerate(healthy))
        assert len(file.read_text().split("\n")) - 1 <= 3 + growth, "the file stays short"


def test_while_an_attempt_that_a_learnt_limit_ended_is_in_doubt_nothing_learnt_holds(tmp_path):
    file = tmp_path / "silences"
    for _ in range(3):
        history(file, "other").published(20.0)
    limit = stall.Stall(1800.0, "default", history(file, "unit"))
    assert limit.exceeded(99.9, blocked=False) is None
    assert limit.exceeded(100.0, blocked=True) is None, "what waits for a disk has the default"
    assert "its limit of 100 s is learnt from 3" in limit.exceeded(100.0, blocked=False)
    assert (limit.limit_s, limit.source) == (100.0, "learnt")
    other = stall.Stall(1800.0, "default", history(file, "other"))
    assert other.exceeded(1000.0, blocked=False) is None
    assert other.exceeded(1800.0, blocked=True) == "its limit of 1800 s is the default"
    assert history(file).limit() is None
    history(file, "unit").published(150.0)
    assert history(file).limit() == (750.0, 4), "the limit was wrong, and has learnt"


def test_a_hang_that_proves_to_be_one_ends_the_doubt(tmp_path):
    file = tmp_path / "silences"
    for _ in range(3):
        history(file).published(1.0)
    assert stall.Stall(1800.0, "default", history(file)).exceeded(60.0, blocked=False)
    assert history(file).limit() is None
    assert stall.Stall(1800.0, "default", history(file)).exceeded(1800.0, blocked=False)
    assert history(file).limit() == (60.0, 3)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\0" * 9, b"\xff\xfe", b"published", b"published x t", b"published nan t\n" * 9]
)
def test_a_damaged_history_is_none(tmp_path, content):
    file = tmp_path / "silences"
    file.write_bytes(content)
    assert history(file).limit() is None
    for _ in range(3):
        history(file).published(20.0)
    assert history(file).limit() == (100.0, 3), "what is written after it counts"


def test_a_history_that_cannot_be_written_is_none(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "below"):
        history(path).published(1.0)
        assert history(path).limit() is None


def test_many_writers_lose_nothing(tmp_path):
    file = tmp_path / "silences" / "rule"

    def write(number):
        for n in range(20):
            history(file, "some/target", attempts=1000).published(number + n / 10)

    writers = [FORK.Process(target=write, args=(number,)) for number in range(5)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert history(file, attempts=100).limit() == (60.0, 100)


@pytest.mark.parametrize("shape", ["exponential", "lognormal", "pareto", "growing"])
def test_learnt_limits_end_hardly_any_healthy_unit(tmp_path, shape):
    """Units of a rule are silent for very different times, all healthy: at most 1 % are ended once."""
    rng = random.Random(1)
    draw = {
        "exponential": lambda n: rng.expovariate(1 / 60),
        "lognormal": lambda n: rng.lognormvariate(math.log(30), 1.5),
        "pareto": lambda n: 20 * rng.paretovariate(1.0),
        "growing": lambda n: 0.1 * 1.05**n,  # a sweep from small to large
    }[shape]
    ended, units = 0, 0
    for rule in range(20):
        for n in range(200):
            silence = min(draw(n), 1799.0)
            limit = stall.Stall(1800.0, "default", history(tmp_path / str(rule), f"t{n}", attempts=10))
            ended += limit.exceeded(silence, blocked=False) is not None
            limit.published(silence)
            units += 1
    assert ended / units <= 0.01, f"{ended} of {units}"


LEARNING = {"RIPRESA_STALL_S": "30", "RIPRESA_LEARN": "2 5 0.1", "RIPRESA_GRACE_S": "0.2"}


def test_a_learnt_limit_costs_a_healthy_unit_one_attempt_at_most(guarded):
    a, b, slow = (guarded(outputs=[name]) for name in ("a.txt", "b.txt", "slow.txt"))
    for unit in (a, b):
        assert unit("echo 1 > {output}", **LEARNING) == 0
        assert unit.last["silence_s"] < 4
    # Ended by the learnt limit, then left alone for longer than that limit.
    silent = "[ $RIPRESA_ATTEMPT -gt 1 ] || sleep 25; sleep 3; echo 1 > {output}"
    assert slow(silent, **LEARNING) == 1
    record = slow.last
    assert (record["failure_class"], record["stall_from"]) == ("hang", "learnt")
    assert 2 <= record["silence_s"] < 25 and "learnt from 2 published attempts" in record["evidence"]
    assert slow(silent, **LEARNING) == 0
    assert slow.last["silence_s"] > 2
    a.path.unlink()
    assert a("sleep 3; echo 2 > {output}", session="two", **LEARNING) == 0, "the rule has learnt"


# A process that creates another by vfork is not to be interrupted until that has started its program. Here it
# never does, for it is to open a FIFO before.
BLOCKED = (
    "mkfifo fifo; "
    + python(
        'import os; os.posix_spawn("/bin/true", ["true"], {}, '
        'file_actions=[(os.POSIX_SPAWN_OPEN, 0, "fifo", os.O_RDONLY, 0)])'
    )
    + "; echo 1 > {output}"
)


def test_what_the_kernel_blocks_has_the_default_limit(guarded):
    for name in ("a.txt", "b.txt"):
        assert guarded(outputs=[name])("echo 1 > {output}", **LEARNING) == 0
    unit = guarded(outputs=["blocked.txt"])
    assert unit(BLOCKED, **{**LEARNING, "RIPRESA_STALL_S": "4"}) == 1
    assert (unit.last["stall_from"], unit.last["stall_s"]) == ("default", 4.0)
    assert unit.last["evidence"].endswith("it waits for a disk or a network file system")


# Restarts without progress


def test_guards_that_keep_dying_without_progress_give_the_unit_up(guard):
    died = "echo $RIPRESA_ATTEMPT 100 > steps; [ $RIPRESA_ATTEMPT -lt 3 ] || echo 2 100 > steps; cp steps"
    died += " $RIPRESA_PROGRESS; kill -9 $PPID; sleep 1"
    for _ in range(5):  # the next guard records the end of the one before
        guard(died)
    assert guard(died) == 1
    assert [record["progress"] for record in guard.records] == ["1", "2", "2", "2", "2"]
    assert [record["decision"] for record in guard.records] == [*["retry"] * 4, "refused"]
    assert guard.last["evidence"].endswith("; 3 restarts brought no progress beyond 2")
    assert guard("echo 1 > {output}", session="two") == 0


def test_guards_that_die_with_their_controllers_say_nothing_about_the_unit(guard):
    for n in range(6):
        guard("echo 1 > $RIPRESA_PROGRESS; kill -9 $PPID; sleep 1", session=str(n))
    assert guard("echo 1 > {output}", session="last") == 0
    assert [decision for _, decision in guard.outcomes()] == [*["retry"] * 6, "done"]


# Clocks that are set


@pytest.fixture
def wall(monkeypatch):
    """Sets the time of day: ``wall(seconds)`` forwards or backwards; the steady clock goes on as it does."""
    real, offset = time.time, [0.0]

    def set_by(seconds):
        offset[0] += seconds

    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    return set_by


def backoff(delay, **fields):
    now = time.time()
    return {"attempt": 1, "decision": "retry", "ended": clock.iso(now), "not_before": clock.iso(now + delay),
            **fields}  # fmt: skip


@pytest.mark.parametrize("jump", [-86400.0, -20.0, 0.0, 20.0, 86400.0])
def test_a_backoff_lasts_as_long_as_it_was_meant_to(wall, jump):
    here = backoff(60.0, boot_id=processes.boot_id(), uptime_s=clock.steady())
    elsewhere = backoff(60.0, boot_id="another", uptime_s=clock.steady())
    wall(jump)
    assert attempts.wait_s(here, time.time()) == pytest.approx(60.0, abs=5)
    # Another machine has the time of day only; a jump back costs the delay once more at most.
    expected = max(0.0, min(60.0, 60.0 - jump))
    assert attempts.wait_s(elsewhere, time.time()) == pytest.approx(expected, abs=5)


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_the_scheduler_waits_by_a_clock_that_nobody_sets(tmp_path, wall, jump):
    run = Run(tmp_path)
    records.append(run.attempts("a"), backoff(60.0))
    withholding = Withholding(run, "now")
    until = withholding.outlook(["a"]).not_before
    assert until - clock.steady() == pytest.approx(60.0, abs=5)
    wall(jump)
    assert withholding.outlook(["a"]).not_before == until
    records.append(run.attempts("a"), backoff(90.0, attempt=2))
    assert withholding.outlook(["a"]).not_before - clock.steady() == pytest.approx(90.0, abs=5)


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_status_shows_the_wait_that_there_is(tmp_path, wall, jump):
    run = Run(tmp_path)
    record = backoff(60.0, boot_id=processes.boot_id(), uptime_s=clock.steady())
    records.append(run.attempts("a"), record)
    assert state.state_of(run, "a").not_before == record["not_before"]
    wall(jump)
    unit = state.state_of(run, "a")
    assert unit.state == "WAITING"
    assert clock.seconds(unit.not_before) - time.time() == pytest.approx(60.0, abs=5)


def test_a_guard_does_not_wait_for_the_day_that_the_clock_lost(guard, wall):
    wall(86400.0)
    began = time.monotonic()
    records.append(guard.run.attempts("out.txt"), {**backoff(0.5), "outcome": "failed", "session": "zero"})
    assert guard("echo 1 > {output}") == 0
    assert time.monotonic() - began > 0.4
    assert guard.outcomes()[-1] == ("published", "done")


def test_what_a_failed_attempt_leaves_is_steady_time(guard):
    guard.policy(time_scale=0.1)
    assert guard("echo 'ssh: connect to host h port 22: Connection timed out'; exit 255") == 1
    assert guard.last["boot_id"] == processes.boot_id()
    assert 20 < attempts.wait_s(guard.last, 0.0) + clock.steady() - guard.last["uptime_s"] < 40


# All together, through the real snakemake

SNAKEFILE = """
from ripresa.dsl import Units, guard, open_run
from ripresa.recovery import policy

campaign = open_run("test", main=workflow.is_main_process)
plain = Units("plain/{name}.txt", parameters=[{"name": n} for n in PLAIN])
counted = Units("counted/{name}.txt", parameters=[{"name": n} for n in COUNTED])
limited = Units("limited/{name}.txt", parameters=[{"name": n} for n in LIMITED])

rule all:
    input: plain.targets(), counted.targets(), limited.targets()

rule plain:
    output: plain.target
    shell: guard("source ./{wildcards.name}.sh; echo done > {output}", grace=0.5)

rule counted:
    output: counted.target
    shell:
        guard("source ./{wildcards.name}.sh; echo done > {output}", grace=0.5, progress="log:step (\\\\d+)")

rule limited:
    output: limited.target
    shell: guard("source ./{wildcards.name}.sh; echo done > {output}", grace=0.2, wall=1.5)

onstart:
    rules = policy.default() | {"rules": [], "time_scale": 0.002}
    jobs = ((job.output[0], job.rule.name) for job in workflow.dag.jobs if job.output)
    campaign.start(jobs, config_sha256="", policy=rules)

onsuccess:
    campaign.end()

onerror:
    campaign.end()
"""

UNITS = {
    "plain": {
        "hang": "[ $RIPRESA_ATTEMPT -gt 1 ] || sleep 60",
        "stopped": "[ $RIPRESA_ATTEMPT -gt 1 ] || kill -STOP $$",
        "deadlock": "[ $RIPRESA_ATTEMPT -gt 1 ] || flock lock flock lock true",
        "silent": python("import time; end = time.time() + 6\nwhile time.time() < end: pass"),
        "asleep": "sleep 0.7",
    },
    "counted": {
        "livelock": "[ $RIPRESA_ATTEMPT -gt 1 ] || while :; do echo step 3; sleep 0.02; done",
        "slow": "for i in {1..24}; do echo step $i; sleep 0.25; done",
    },
    "limited": {
        "stuck": "echo 5 10 > $RIPRESA_PROGRESS; sleep 60",
        "segments": "n=$((RIPRESA_ATTEMPT * 2)); echo $n 12 > $RIPRESA_PROGRESS; [ $n -ge 12 ] || sleep 60",
    },
}


def test_hangs_recover_and_healthy_units_run_once(tmp_path):
    text = SNAKEFILE
    for rule, scripts in UNITS.items():
        text = text.replace(rule.upper(), str(list(scripts)))
        for name, script in scripts.items():
            (tmp_path / f"{name}.sh").write_text(script + "\n")
    (tmp_path / "Snakefile").write_text(text)
    call = [sys.executable, "-m", "snakemake", "--cores", "9", "--keep-going", "--nolock", "--retries", "100",
            "--rerun-incomplete", "--scheduler", "recovery", "--workflow-profile", "none"]  # fmt: skip
    environment = {n: v for n, v in os.environ.items() if not n.startswith("RIPRESA_")}
    done = subprocess.run(
        call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    run = Run(tmp_path / "runs" / "test")
    histories = {
        name: attempts.read(run, f"{rule}/{name}.txt") for rule, scripts in UNITS.items() for name in scripts
    }
    classes = {name: [record["failure_class"] for record in made] for name, made in histories.items()}
    assert classes == {
        "hang": ["hang", None], "stopped": ["hang", None], "deadlock": ["hang", None], "silent": [None],
        "asleep": [None], "livelock": ["hang", None], "slow": [None],
        "stuck": ["time_limit"] * 4, "segments": [*["time_limit"] * 5, None],
    }, done.stderr  # fmt: skip
    assert done.returncode == 1
    stuck = histories["stuck"][-1]
    assert stuck["decision"] == "refused"
    assert stuck["evidence"] == "wall-clock limit of 1.5 s reached; 3 restarts brought no progress beyond 5"
    assert "limit of 3.6 s is the default" in histories["hang"][0]["evidence"]
    states = {unit.target: unit.state for unit in state.states(run)}
    assert states.pop("limited/stuck.txt") == "FAILED" and set(states.values()) == {"COMPLETED"}


def test_what_the_configuration_sets_is_not_learnt():
    from ripresa.configuration import load_policy

    assert load_policy()["learn"] == policy.default()["learn"] == {"attempts": 10, "factor": 5, "floor_s": 60}
    assert "learn" not in load_policy({"stall_s": 600})
    both = load_policy({"stall_s": 600, "learn": {"factor": 3}})
    assert both["learn"] == {"attempts": 10, "factor": 3, "floor_s": 60}
