"""The scheduler plugin, through real Snakemake runs."""

import inspect
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from snakemake.scheduling import greedy
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake_interface_scheduler_plugins.tests import DummyDAG, TestSchedulerBase

from conftest import wait_until
from ripresa.journal import clock, records
from ripresa.journal.paths import Run
from ripresa.placement.withholding import Withholding
from snakemake_scheduler_plugin_recovery import Scheduler
from snakemake_scheduler_plugin_recovery.control import Alarm

GUARDED = """
from ripresa.dsl import Units, guard, open_run
from ripresa.recovery import policy

campaign = open_run("demo", main=workflow.is_main_process)

onstart:
    jobs = ((job.output[0], job.rule.name) for job in workflow.dag.jobs if job.output)
    rules = policy.default()
    rules["time_scale"] = 0.01
    rules["breaker"].update(failures=2, open_s=300)
    rules["classes"]["network"]["scope"] = ["service"]
    campaign.start(jobs, config_sha256="", policy=rules, forced=bool(workflow.dag_settings.forceall))

onsuccess:
    campaign.end()

onerror:
    campaign.end()
"""

REFUSED = 'echo "curl: (7) Failed to connect to example.org port 443: Connection refused"; exit 7'


def command(*options, scheduler="recovery", cores=2):
    return [
        *(sys.executable, "-m", "snakemake", "--scheduler", scheduler, "--cores", str(cores)),
        *("--workflow-profile", "none", "--nolock", "--rerun-incomplete", *options),
    ]


def snakemake(folder, *options, check=True, **arguments):
    done = subprocess.run(
        command(*options, **arguments), cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def events(folder, *types):
    lines = Path(folder, "runs/demo/logs/run_events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] in types]


class TestRecovery(TestSchedulerBase):
    __test__ = True

    def get_scheduler_cls(self):
        return Scheduler

    def get_scheduler_settings(self):
        return None


def test_resources_that_are_absent_none_or_text_do_not_matter():
    dag = DummyDAG()
    dag._jobs[0]._resources.update(gpu=None, tmpdir="/tmp")
    scheduler = Scheduler(dag, None, logging.getLogger("test"))
    free = {"cpu": 9, "mem_mb": 9000, "gpu": 1, "_job_count": 2, "tmpdir": "/tmp"}
    both = {dag._jobs[0], dag._jobs[1]}
    assert set(scheduler.select_jobs(both, dag._jobs, free, {})) == both


EVERYTHING = """
rule all:
    input: "summary.txt", "piped.txt", "grouped/2.txt", "user.txt"

checkpoint split:
    output: directory("parts")
    shell: "mkdir parts; for i in 1 2 3; do echo $i > parts/$i.txt; done"

rule part:
    input: "parts/{i}.txt"
    output: temp("done/{i}.txt")
    priority: lambda wildcards: int(wildcards.i)
    shell: "cp {input} {output}"

def parts(wildcards):
    folder = checkpoints.split.get().output[0]
    return expand("done/{i}.txt", i=sorted(glob_wildcards(folder + "/{i}.txt").i))

rule summary:
    input: parts
    output: "summary.txt"
    shell: "cat {input} > {output}"

rule produce:
    output: pipe("pipe.txt")
    shell: "seq 5 > {output}"

rule consume:
    input: "pipe.txt"
    output: "piped.txt"
    shell: "cat {input} > {output}"

rule first:
    output: temp("grouped/1.txt")
    group: "both"
    shell: "echo 1 > {output}"

rule second:
    input: "grouped/1.txt"
    output: "grouped/2.txt"
    group: "both"
    shell: "cp {input} {output}"

rule flaky:
    output: "flaky.txt"
    retries: 2
    threads: 2
    resources: licence=1, mem_mb=lambda wildcards, attempt: 100 * attempt
    shell: "test {resources.mem_mb} = 300 && echo {resources.mem_mb} > {output}"

rule user:
    input: "flaky.txt"
    output: "user.txt"
    localrule: True
    resources: licence=1
    run:
        shell("cp {input} {output}")
"""


def test_any_workflow_runs(tmp_path):
    """Checkpoint, temp, pipe, group, retries with growing resources, local and `run` rules, own resources."""
    (tmp_path / "Snakefile").write_text(EVERYTHING)
    snakemake(tmp_path, "--resources", "licence=1", "mem_mb=400")
    files = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.txt")}
    parts = {f"parts/{i}.txt": f"{i}\n" for i in (1, 2, 3)}
    assert files == {
        **parts,
        "summary.txt": "1\n2\n3\n",
        "piped.txt": "1\n2\n3\n4\n5\n",
        "grouped/2.txt": "1\n",
        "flaky.txt": "300\n",
        "user.txt": "300\n",
    }


ORDERED = """
rule all:
    input: expand("out/{n}", n=list("abcde"))

rule out:
    input: "in/{n}"
    output: touch("out/{n}")
    priority: lambda wildcards: 5 if wildcards.n == "d" else 2
    shell: "echo {wildcards.n} >> order.txt"
"""


def test_order_by_priority_then_size_of_input_as_greedy(tmp_path):
    orders = []
    for scheduler in ("recovery", "greedy"):
        folder = tmp_path / scheduler
        (folder / "in").mkdir(parents=True)
        for name, size in {"a": 3, "b": 9, "c": 5, "d": 1, "e": 7}.items():
            (folder / "in" / name).write_bytes(b"x" * size)
        (folder / "Snakefile").write_text(ORDERED)
        snakemake(folder, scheduler=scheduler, cores=1)
        orders.append((folder / "order.txt").read_text().split())
    assert orders[0] == orders[1] == [*"dbeca"]


def test_a_waiting_unit_holds_no_slot_and_wakes_the_scheduler(tmp_path):
    """Two units fail into a backoff of 6 s; the others run on both cores meanwhile, then nothing does."""
    rules = """
good = Units("good/{n}", sweep={"product": {"n": list(range(6))}})
flaky = Units("flaky/{n}", sweep={"product": {"n": [1, 2]}})

rule all:
    input: good.targets(), flaky.targets()

rule good:
    output: good.target
    shell: guard("echo {wildcards.n} > {output}")

rule flaky:
    output: flaky.target
    priority: 1
    shell: guard('test $RIPRESA_ATTEMPT = 2 || {{ REFUSED; }}; echo {wildcards.n} > {output}')
"""
    slower = GUARDED.replace('"time_scale"] = 0.01', '"time_scale"] = 0.02')
    (tmp_path / "Snakefile").write_text(slower + rules.replace("REFUSED", REFUSED))
    done = snakemake(tmp_path, "--retries", "1")
    waits = {e["target"]: e["not_before"] for e in events(tmp_path, "unit_retry_scheduled")}
    starts = events(tmp_path, "unit_start")
    assert len(waits) == 2 and len(starts) == 10
    first_end = events(tmp_path, "unit_retry_scheduled")[0]["ts"]
    for target, not_before in waits.items():
        again = [e["ts"] for e in starts if e["target"] == target][1]
        assert not_before <= again, "started before its time"
        # Nobody else wakes the scheduler then: without a timer of its own it would never be there.
        assert _seconds(again) - _seconds(not_before) < 20
    good = [e["ts"] for e in starts if e["target"].startswith("good")]
    assert sum(first_end < ts < min(waits.values()) for ts in good) >= 5
    assert "not yet" not in done.stderr


def _seconds(text):
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(("scope", "sent_back"), [("{wildcards.service}", 2), ("{resources.service}", 6)])
def test_an_open_breaker_withholds_units_that_never_ran_and_lets_probes_through(tmp_path, scope, sent_back):
    """Scopes that only the guard can tell cost one start per unit: it is sent back once, then waits."""
    rules = """
unit = Units("unit/{service}/{n}", sweep={"product": {"service": ["bad", "good"], "n": list(range(5))}})

rule all:
    input: unit.targets()

rule unit:
    output: unit.target
    priority: lambda wildcards: 1 if wildcards.service == "bad" else 0
    resources: service=lambda wildcards: wildcards.service
    shell:
        guard(
            'test {wildcards.service} = good || test -e healed || {{ REFUSED; }}; echo 1 > {output}',
            scopes={"service": "SCOPE"},
        )
"""
    (tmp_path / "Snakefile").write_text(
        GUARDED.replace("failures=2, open_s=300", "failures=2, probes=1, open_s=600")
        + rules.replace("REFUSED", REFUSED).replace("SCOPE", scope)
    )
    process = subprocess.Popen(
        command("--retries", "100"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "runs/demo/unit/good/4").exists() and process.poll() is None:
        time.sleep(0.05)
    (tmp_path / "healed").touch()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    opened = events(tmp_path, "breaker_opened")[0]
    half_open = events(tmp_path, "breaker_half_open")[0]["ts"]
    assert _seconds(half_open) >= _seconds(opened["until"])
    between = [e["target"] for e in events(tmp_path, "unit_start") if opened["ts"] < e["ts"] < half_open]
    assert len(between) >= 5 and all(target.startswith("unit/good") for target in between)
    assert stderr.count("a breaker is open") <= sent_back


def test_a_unit_that_the_policy_stopped_is_not_retried(tmp_path):
    rules = """
rule all:
    input: campaign.dir + "/a", campaign.dir + "/b"

rule a:
    output: campaign.dir + "/a"
    shell: guard('echo "cp: cannot create regular file: Permission denied" >&2; exit 1')

rule b:
    output: campaign.dir + "/b"
    shell: guard('sleep 1; echo > {output}')
"""
    (tmp_path / "Snakefile").write_text(GUARDED + rules)
    for call in (1, 2):
        done = snakemake(tmp_path, "--retries", "100", "--keep-going", check=False)
        assert done.returncode == 1
        assert len([e for e in events(tmp_path, "unit_start") if e["target"] == "a"]) == 1
        assert done.stderr.count("in quarantine since") <= 2, f"call {call}"
    assert (tmp_path / "runs/demo/b").exists()


def test_a_guard_that_cannot_work_is_not_tried_without_end(tmp_path):
    rules = """
import os
os.environ["RIPRESA_GUARD"] = "missing.py"

rule all:
    input: campaign.dir + "/a"

rule a:
    output: campaign.dir + "/a"
    shell: guard('echo > {output}')
"""
    (tmp_path / "Snakefile").write_text(GUARDED + rules)
    done = snakemake(tmp_path, "--retries", "100", check=False)
    assert done.returncode == 1
    assert done.stderr.count("can't open file") == 5


def test_durations_of_an_earlier_session_order_the_next(tmp_path):
    rules = """
units = {name: Units(name + "/{n}", sweep={"product": {"n": [1, 2]}}) for name in ("a_short", "b_long")}

rule all:
    input: [units[name].targets() for name in units]

rule a_short:
    output: units["a_short"].target
    shell: guard("echo > {output}")

rule b_long:
    output: units["b_long"].target
    shell: guard("sleep 1; echo > {output}")
"""
    (tmp_path / "Snakefile").write_text(GUARDED + rules)
    snakemake(tmp_path, "--until", "a_short", "b_long", cores=4)
    for path in [*tmp_path.glob("runs/demo/*_*/*")]:
        path.unlink()
    before = len(events(tmp_path, "unit_start"))
    snakemake(tmp_path, "--forceall", cores=1)
    order = [e["target"].split("/")[0] for e in events(tmp_path, "unit_start")[before:]]
    assert order == ["b_long", "b_long", "a_short", "a_short"]


SLOW_SELECTION = """
import os, sys, time
from snakemake.cli import main
from {module} import Scheduler

select_jobs = Scheduler.select_jobs

def slowly(self, *arguments):
    selected = select_jobs(self, *arguments)
    print("SELECTING", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.05)
    time.sleep(1)  # for the signal, if another thread is to take it
    return selected

Scheduler.select_jobs = slowly
main(sys.argv[1:])
"""


THREE = """
rule all:
    input: "1", "2", "3"

rule one:
    output: "{n,[123]}"
    shell: "sleep 1; touch {output}"
"""


def terminated_while_selecting(folder, scheduler, module, seconds):
    """The exit of a run that gets TERM while jobs are being selected, None if it hangs."""
    (folder / "Snakefile").write_text(THREE)
    (folder / "slowly.py").write_text(SLOW_SELECTION.format(module=module))
    _, _, _, *options = command(scheduler=scheduler, cores=1)
    process = subprocess.Popen(
        [sys.executable, "slowly.py", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "SELECTING" in line:
            break
    process.send_signal(signal.SIGTERM)
    (folder / "go").touch()
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.kill()
        process.communicate()


def test_term_during_selection_drains(tmp_path):
    assert terminated_while_selecting(tmp_path, "recovery", "snakemake_scheduler_plugin_recovery", 60) == 1
    assert len(list(tmp_path.glob("[123]"))) == 1, "the selected job ends, no other starts"


def test_term_during_selection_hangs_snakemake_itself(tmp_path):
    """Why `drain_on_term` exists. When this fails, Snakemake is mended and it can go."""
    assert terminated_while_selecting(tmp_path, "greedy", "snakemake.scheduling.greedy", 8) is None


def test_term_ends_a_run_in_which_units_only_wait(tmp_path):
    rules = """
rule all:
    input: campaign.dir + "/a"

rule a:
    output: campaign.dir + "/a"
    shell: guard('REFUSED')
"""
    (tmp_path / "Snakefile").write_text(
        GUARDED.replace('"time_scale"] = 0.01', '"time_scale"] = 1') + rules.replace("REFUSED", REFUSED)
    )
    process = subprocess.Popen(command("--retries", "100"), cwd=tmp_path, stderr=subprocess.DEVNULL)
    log = tmp_path / "runs/demo/logs/run_events.jsonl"
    while not (log.exists() and "unit_retry_scheduled" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 1, "long before the backoff of 5 min is over"


def test_snakemake_still_has_the_private_wake_up():
    """`control.reevaluate` is the only user of this name; there is no public one in Snakemake 9."""
    assert list(inspect.signature(JobScheduler._schedule_reevalutation).parameters) == ["self", "delay"]


def test_alarm_takes_the_earliest_time():
    rung = []
    alarm = Alarm(lambda: rung.append(clock.steady()))
    start = clock.steady()
    for delay in (90, 0.2, 50, 40, 45):
        alarm.set(start + delay)
    wait_until(lambda: rung, 30)
    assert rung[0] - start >= 0.2
    alarm.set(start)
    wait_until(lambda: len(rung) == 2)


def test_alarm_keeps_one_timer():
    before = {*threading.enumerate()}
    alarm = Alarm(lambda: None)
    for delay in (90, 30, 50, 40, 20):
        alarm.set(clock.steady() + delay)

    def waiting():
        return [one for one in threading.enumerate() if one not in before]

    wait_until(lambda: len(waiting()) == 1)  # those that were cancelled end
    waiting()[0].cancel()


def test_alarm_can_be_set_from_its_own_ringing():
    rung = []

    def wake():
        rung.append(time.time())
        if len(rung) < 5:
            alarm.set(clock.steady() + 0.01)

    alarm = Alarm(wake)
    alarm.set(0)
    wait_until(lambda: len(rung) == 5)


def test_an_open_breaker_of_the_host_of_the_last_attempt_says_nothing_about_this_one(tmp_path):
    run = Run(tmp_path)
    scopes = ["host:elsewhere", "workload:fio"]
    records.append(run.attempts("a"), {"attempt": 1, "decision": "retry", "scopes": scopes})
    outlook = Withholding(run, "now").outlook(["a"], scopes=["host:here"])
    assert outlook.scopes == ("host:here", "workload:fio")


@pytest.mark.parametrize(
    ("record", "retried", "stopped"),
    [
        ({"decision": "refused", "session": "now"}, False, True),
        ({"decision": "refused", "session": "before"}, True, False),
        ({"decision": "quarantine", "session": "now"}, False, True),
        ({"decision": "quarantine", "session": "before"}, False, False),
        ({"decision": "quarantine", "session": "before"}, True, True),
        ({"decision": "done"}, False, False),
        ({"decision": ["garbage"], "attempt": "?", "not_before": 3, "scopes": [1, None]}, False, False),
        ({"decision": "retry", "attempt": None, "not_before": "soon", "scopes": [1, None]}, True, False),
    ],
)
def test_what_a_record_says_about_the_next_start(tmp_path, record, retried, stopped):
    run = Run(tmp_path)
    records.append(run.attempts("a"), record)
    outlook = Withholding(run, "now").outlook(["a"], retried=retried)
    assert outlook.stopped is stopped
    assert outlook.not_before == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_every_choice_is_feasible_and_at_least_as_full_as_greedys(seed):
    import random

    from snakemake_interface_scheduler_plugins.tests import DummyJob

    rng = random.Random(seed)
    jobs = [
        DummyJob([], [], {"_cores": rng.randint(1, 5), "mem_mb": rng.randint(1, 60), "_job_count": 1})
        for _ in range(200)
    ]
    free = {"_cores": 16, "mem_mb": 100, "_job_count": sys.maxsize}
    logger = logging.getLogger("test")
    chosen = {}
    for cls, options in ((Scheduler, None), (greedy.Scheduler, greedy.SchedulerSettings())):
        chosen[cls] = cls(DummyDAG(), options, logger).select_jobs(jobs, jobs, free, {})
        for name, amount in free.items():
            assert sum(job.scheduler_resources.get(name, 0) for job in chosen[cls]) <= amount
    cores = {cls: sum(job._resources["_cores"] for job in jobs) for cls, jobs in chosen.items()}
    assert cores[Scheduler] >= cores[greedy.Scheduler]
