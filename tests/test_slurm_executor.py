"""The executor for SLURM, on a fake one: what is submitted, adopted, harvested, cancelled, never twice."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from conftest import Campaign, wait_until
from fake_slurm.handle import FakeSlurm
from ripresa.journal import attempts, leases, records
from ripresa.journal.paths import Run
from ripresa.slurm import batch, commands
from ripresa.slurm.batch import Task
from ripresa.slurm.cluster import Cluster, Ended
from ripresa.slurm.pace import Pace

REQUEST = ["--cpus-per-task=1"]


class Slurm(FakeSlurm):
    """A fake, and a run whose jobs it has."""

    def __init__(self, directory, monkeypatch):
        super().__init__(directory / "slurm-state")
        self.directory = directory
        self.run = Run(directory / "runs" / "test")
        self.told = []
        for name in ("PATH", "FAKE_SLURM"):
            monkeypatch.setenv(name, self.environment[name])

    def cluster(self):
        """A controller's view, as it begins."""
        cluster = Cluster(self.run, self.told.append)
        cluster.recover()
        return cluster

    def tasks(self, *targets, script="sleep 30", token="1"):
        return [Task(target, script, batch.digest(script), token) for target in targets]

    def submit(self, cluster, *targets, **more):
        return cluster.submit(REQUEST, self.tasks(*targets, **more), str(self.directory))

    def submissions(self):
        return len(self.calls("sbatch"))


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    fake = Slurm(tmp_path, monkeypatch)
    yield fake
    fake.stop()


def looked(cluster, condition, seconds=20.0):
    """What ended while looking until a condition holds."""
    ended: list[Ended] = []

    def look():
        ended.extend(cluster.look())
        return condition(ended)

    wait_until(look, seconds)
    return ended


def classes(ended):
    return {one.job.target: one.verdict.failure_class if one.verdict else "never" for one in ended}


def test_alike_units_are_one_array_and_one_call(slurm):
    jobs = slurm.submit(slurm.cluster(), "a", "b", "c")
    assert [job.job_id for job in jobs] == ["1_0", "1_1", "1_2"] and slurm.submissions() == 1
    assert "_" not in slurm.submit(slurm.cluster(), "d")[0].job_id


def test_one_query_serves_all_jobs(slurm):
    cluster = slurm.cluster()
    slurm.submit(cluster, *map(str, range(20)))
    for _ in range(3):
        cluster.look()
    assert len(slurm.calls("squeue")) == 3 and not slurm.calls("sacct")


def test_the_next_controller_finds_every_job_under_whatever_id(slurm):
    first = slurm.cluster()
    slurm.submit(first, "a", "b", "c", "d")
    (single,) = slurm.submit(first, "e")
    first.look()
    slurm.requeue("1_1")
    slurm.renumber(single.job_id, 90)
    cluster = slurm.cluster()
    cluster.look()
    assert [len(cluster.jobs(target)) for target in "abcde"] == [1] * 5
    assert cluster.jobs("e")[0].job_id == "90"


def test_jobs_of_other_runs_and_people_are_nobodys(slurm, tmp_path):
    other = Cluster(Run(tmp_path / "runs" / "other"), print)
    slurm.submit(other, "a")
    cluster = slurm.cluster()
    assert cluster.look() == [] and cluster.jobs() == []
    cluster.cancel(cluster.jobs())
    assert not slurm.calls("scancel")


def test_a_new_run_in_the_place_of_an_old_one_does_not_take_its_jobs(slurm):
    slurm.submit(slurm.cluster(), "a")
    run = Path(slurm.run.dir)
    run.rename(run.with_name("old"))  # moved, as its job goes on writing there
    cluster = slurm.cluster()
    cluster.look()
    assert cluster.jobs() == []


def test_of_two_jobs_of_a_unit_the_one_that_runs_is_kept(slurm):
    cluster = slurm.cluster()
    slurm.submit(cluster, "a")
    wait_until(lambda: slurm.job("1")["state"] == "RUNNING")
    number = slurm.duplicate("1")
    cluster.look()
    assert cluster.jobs("a")[0].job_id == "1" and "as jobs 1 and" in slurm.told[0]
    wait_until(lambda: slurm.job(number)["state"] == "CANCELLED")
    assert slurm.job("1")["state"] == "RUNNING"


def test_an_sbatch_that_times_out_after_submitting_is_not_repeated(slurm):
    cluster = slurm.cluster()
    slurm.submits_and_times_out()
    assert [job.job_id for job in slurm.submit(cluster, "a", "b")] == [None, None]
    assert cluster.silent and "does not answer" in slurm.told[0]
    assert cluster.look() == [] and not cluster.silent and slurm.told[1:] == ["SLURM answers again"]
    assert {job.job_id for job in cluster.jobs()} == {"1_0", "1_1"}


@pytest.fixture
def impatient(monkeypatch):
    """What SLURM does not know for a moment is not there."""
    monkeypatch.setattr("ripresa.slurm.cluster._LOST_S", 0.1)


@pytest.mark.parametrize("accounting", [True, False])
def test_an_sbatch_that_was_not_heard_is_known_to_be_none(slurm, impatient, accounting):
    slurm.settings(accounting=accounting)
    cluster = slurm.cluster()
    slurm.down("sbatch", calls=1)
    slurm.submit(cluster, "a", "b")
    assert cluster.look() == [], "slurmctld may have the call before it still"
    assert classes(looked(cluster, bool)) == {"a": "never", "b": "never"} and cluster.jobs() == []
    assert slurm.cluster().jobs() == []


def test_a_controller_that_dies_after_writing_a_batch_down_leaves_no_doubt(slurm, impatient):
    tasks = slurm.tasks("a", "b")
    batch.write(slurm.run, batch.plan(slurm.run, REQUEST, tasks, "s"))
    cluster = slurm.cluster()
    assert len(cluster.jobs()) == 2
    assert classes(looked(cluster, bool)) == {"a": "never", "b": "never"}


def test_doubt_stays_while_nobody_answers(slurm, impatient):
    cluster = slurm.cluster()
    slurm.down("sbatch", "squeue", "sacct")
    slurm.submit(cluster, "a")
    assert cluster.look() == [] and cluster.silent
    slurm.up("squeue")
    for _ in range(4):
        time.sleep(0.1)
        assert cluster.look() == [] and len(cluster.jobs("a")) == 1, "accounting might know it"
    slurm.up()
    assert classes(looked(cluster, bool)) == {"a": "never"}


def test_no_answer_means_nothing(slurm):
    cluster = slurm.cluster()
    slurm.submit(cluster, "a")
    slurm.down()
    assert [cluster.look() for _ in range(5)] == [[]] * 5 and len(cluster.jobs("a")) == 1
    assert len(slurm.told) == 1, "said once"


def test_refusals_are_told_from_limits(slurm):
    cluster = slurm.cluster()
    account = "Invalid account or account/partition combination specified"
    slurm.down("sbatch", stderr=f"sbatch: error: Batch job submission failed: {account}")
    with pytest.raises(commands.Refused) as refused:
        slurm.submit(cluster, "a")
    assert refused.value.failure_class == "configuration" and "Invalid account" in str(refused.value)
    slurm.up()
    slurm.settings(max_submit=1)
    with pytest.raises(commands.Refused) as put_off:
        slurm.submit(cluster, "a", "b")
    assert put_off.value.failure_class is None
    assert cluster.jobs() == [] and slurm.cluster().jobs() == []


ENDS = {
    "TIMEOUT": "time_limit",
    "DEADLINE": "time_limit",
    "NODE_FAIL": "node",
    "BOOT_FAIL": "node",
    "OUT_OF_MEMORY": "memory",
    "PREEMPTED": "preempted",
    "CANCELLED": "cancelled",
    "COMPLETED": None,
}


@pytest.mark.parametrize(("state", "failure_class"), ENDS.items())
def test_an_end_is_told_once_with_its_class(slurm, state, failure_class):
    cluster = slurm.cluster()
    slurm.submit(cluster, "a")
    cluster.look()
    slurm.change("1", state=state)
    assert classes(cluster.look()) == {"a": failure_class}
    assert cluster.look() == [] and cluster.jobs() == [] and slurm.cluster().jobs() == []


def test_memory_is_known_from_a_step_and_who_cancelled_from_accounting(slurm):
    cluster = slurm.cluster()
    slurm.submit(cluster, "a")
    slurm.submit(cluster, "b")
    wait_until(lambda: slurm.job("2")["state"] == "RUNNING")
    steps = [["batch", "FAILED", 1, 0], ["0", "OUT_OF_MEMORY", 0, 9]]
    slurm.change("1", state="FAILED", exit=[1, 0], steps=steps)
    slurm.cancel("2", uid=os.getuid() + 4711)
    ended = looked(cluster, lambda found: len(found) == 2)
    assert classes(ended) == {"a": "memory", "b": "cancelled"}
    by = next(one.verdict.evidence for one in ended if one.job.target == "b")
    assert str(os.getuid() + 4711) in by


def test_what_slurmctld_has_forgotten_accounting_knows(slurm):
    cluster = slurm.cluster()
    slurm.submit(cluster, "a")
    slurm.change("1", state="TIMEOUT")
    slurm.vanish("1", "squeue")
    assert classes(cluster.look()) == {"a": "time_limit"}


def test_a_task_cancelled_in_the_queue_leaves_no_trace_and_is_cancelled(slurm, monkeypatch):
    monkeypatch.setattr("ripresa.slurm.cluster._VANISHED_S", 0.1)
    slurm.fate("*", reason="Priority")
    cluster = slurm.cluster()
    slurm.submit(cluster, "a", "b")
    cluster.look()
    slurm.vanish("1_1")
    ended = looked(cluster, bool)
    assert classes(ended) == {"b": "cancelled"} and len(cluster.jobs("a")) == 1


def test_a_job_that_is_nowhere_is_lost_and_never_success(slurm, impatient):
    cluster = slurm.cluster()
    slurm.submit(cluster, "a")
    wait_until(lambda: slurm.job("1")["state"] == "RUNNING")
    cluster.look()
    slurm.vanish("1")
    assert cluster.look() == []
    assert classes(looked(cluster, bool)) == {"a": "unknown"}


def test_a_job_that_can_never_start_is_cancelled(slurm):
    slurm.fate("*", reason="PartitionTimeLimit")
    cluster = slurm.cluster()
    slurm.submit(cluster, "a")
    ended = looked(cluster, bool, 90.0)
    assert classes(ended) == {"a": "configuration"} and "PartitionTimeLimit" in ended[0].verdict.evidence
    wait_until(lambda: slurm.job("1")["state"] == "CANCELLED")


def test_a_torn_ledger_or_batch_costs_itself_only(slurm):
    cluster = slurm.cluster()
    slurm.submit(cluster, "a")
    slurm.submit(cluster, "b")
    with open(f"{slurm.run.slurm}/ledger.jsonl", "ab") as ledger:
        ledger.write(b'{"batch":"torn')
    os.makedirs(f"{slurm.run.slurm}/batches/half")
    found = slurm.cluster()
    found.look()
    assert {job.target for job in found.jobs()} == {"a", "b"}


def test_the_pace_slackens_while_nothing_happens_and_spares_a_slow_slurm():
    pace = Pace(10.0)
    assert pace.due()
    intervals = []
    for _ in range(12):
        pace.asked(changed=False, answered=True, took_s=0.01)
        intervals.append(pace._interval_s)
    assert intervals[0] < 2 and intervals[-1] == 10.0 and sorted(intervals) == intervals
    pace.asked(changed=True, answered=True, took_s=0.01)
    assert pace._interval_s == 1.0
    pace.asked(changed=True, answered=True, took_s=0.6)
    assert pace._interval_s == pytest.approx(2.0), "commands take time to start, too"
    pace.asked(changed=True, answered=True, took_s=3.5)
    assert pace._interval_s == 60.0, "at most a twentieth of its time"
    pace.asked(changed=True, answered=False, took_s=9.0)
    assert pace._interval_s == 1.0, "who does not answer is not kept busy"


class Submitted(Campaign):
    """A campaign of guarded units on a fake SLURM."""

    CALL = (
        sys.executable, "-m", "snakemake", "--executor", "slurm-resume", "--jobs", "50", "--cores", "all",
        "--keep-going", "--nolock", "--rerun-incomplete", "--retries", "100", "--scheduler", "recovery",
        "--logger", "journal", "--workflow-profile", "none",
    )  # fmt: skip

    def ledger(self, name):
        lines = records.read(f"{self.run.slurm}/ledger.jsonl")
        return [line for line in lines if line["target"] == f"units/{name}.txt"]


@pytest.fixture
def campaign(tmp_path, slurm):
    made = Submitted(tmp_path)
    snakefile = tmp_path / "Snakefile"
    snakefile.write_text(snakefile.read_text() + "\nlocalrules: all\n")
    return made


def test_units_run_as_one_array_whose_tasks_are_their_guards(campaign, slurm):
    campaign.units(a=1, b=2, c=3)
    campaign.does("b", "[ $RIPRESA_ATTEMPT -gt 1 ] || { echo 'Connection reset by peer'; exit 1; }")
    assert campaign() == 0, campaign.said
    assert [campaign.path(name).read_text() for name in "abc"] == [f"begin {n}\nend {n}\n" for n in (1, 2, 3)]
    assert campaign.outcomes("b") == ["failed", "published"] and slurm.submissions() == 2
    record = attempts.last(campaign.run, "units/a.txt")
    assert record["external_jobid"].startswith("1_")
    assert record["host"] == slurm.job(record["external_jobid"])["node"]
    assert campaign.ledger("a")[-1]["state"] == "PUBLISHED"
    first, second = json.loads(campaign.ripresa("why --run test --json units/b.txt"))["submissions"]
    records = attempts.read(campaign.run, "units/b.txt")
    assert [first["job"], second["job"]] == [record["external_jobid"] for record in records]
    assert os.path.exists(first["log"]) and first["restarts"] == 0
    assert "SLURM JOB" in campaign.ripresa("why --run test units/b.txt")


def test_threads_are_not_cut_to_the_cores_of_this_machine(campaign, slurm):
    campaign.units(a=1)
    snakefile = campaign.directory / "Snakefile"
    snakefile.write_text(snakefile.read_text().replace("log: units.log", "log: units.log\n    threads: 7"))
    assert campaign("--cores", "2") == 0, campaign.said
    assert "--cpus-per-task=7" in slurm.calls("sbatch")[0]
    assert attempts.last(campaign.run, "units/a.txt")["resources"]["threads"] == "7"


def test_a_killed_controller_costs_nothing(campaign, slurm):
    names = ("run", "done", "waits", "gone")
    campaign.units(**dict.fromkeys(names, 1))
    for name in names:
        campaign.does(name, f"until [ -e {name}.go ]; do sleep 0.05; done")
    slurm.settings(cpus=1, nodes=["n1", "n2", "n3"])
    first = campaign.start()
    wait_until(lambda: len(campaign.executions()) == 3, 60)
    # Its jobs run before the controller has heard their numbers.
    wait_until(lambda: all(any(line["job"] for line in campaign.ledger(name)) for name in names))
    waiting = ({*names} - {*campaign.executions()}).pop()
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    jobs = {line["target"]: line["job"] for name in names for line in campaign.ledger(name)}
    slurm.cancel(jobs["units/gone.txt"]) if waiting != "gone" else None
    (campaign.directory / "done.go").touch()
    wait_until(lambda: campaign.path("done").exists() or waiting == "done", 60)
    second = campaign.start()
    wait_until(lambda: (leases.owner(campaign.run.controller) or {}).get("pid") == second.pid, 60)
    for name in names:
        (campaign.directory / f"{name}.go").touch()
    said = second.communicate(timeout=90)[0]
    assert second.returncode == 0 and "Traceback" not in said, said
    counts = {name: campaign.executions().count(name) for name in names}
    assert counts == {**dict.fromkeys(names, 1), "gone": 1 if waiting == "gone" else 2}
    assert all(campaign.path(name).read_text() == "begin 1\nend 1\n" for name in names)


def test_a_job_that_runs_another_command_by_now_is_replaced(campaign, slurm):
    campaign.units(a=1)
    campaign.does("a", "touch waits; until [ -e go ]; do sleep 0.05; done")
    first = campaign.start()
    wait_until((campaign.directory / "waits").exists, 60)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    campaign.units(a=2)
    (campaign.directory / "a.sh").unlink()
    assert campaign() == 0, campaign.said
    assert campaign.path("a").read_text() == "begin 2\nend 2\n"
    assert slurm.job("1")["state"] == "CANCELLED"


def test_an_outage_is_a_pause(campaign, slurm):
    campaign.units(a=1)
    slurm.down("squeue", "sbatch", "scontrol", "sacct")
    controller = campaign.start()
    wait_until(lambda: len(slurm.calls("squeue")) > 1, 60)
    assert controller.poll() is None and slurm.submissions() == 0
    slurm.up()
    said = controller.communicate(timeout=120)[0]
    assert controller.returncode == 0 and said.count("SLURM does not answer") == 1, said
    assert campaign.outcomes("a") == ["published"]


def test_what_slurm_refuses_is_quarantined_with_its_words(campaign, slurm):
    campaign.units(a=1)
    text = "sbatch: error: Batch job submission failed: Requested node configuration is not available"
    slurm.down("sbatch", stderr=text)
    assert campaign() == 1
    record = attempts.last(campaign.run, "units/a.txt")
    assert record["failure_class"] == "configuration" and record["decision"] == "quarantine"
    assert "Requested node configuration is not available" in record["evidence"]
    assert "Requested node configuration" in campaign.ripresa("why --run test units/a.txt")
    slurm.up()
    before = slurm.submissions()
    assert campaign() == 1 and slurm.submissions() == before, "it is not submitted again"


def test_an_attempt_that_slurm_killed_has_the_class_that_slurm_gives(campaign, slurm):
    campaign.units(a=1)
    campaign.does("a", "[ $RIPRESA_ATTEMPT -gt 1 ] || sleep 60")
    controller = campaign.start()
    campaign.running("a")
    slurm.change("1", state="NODE_FAIL")
    said = controller.communicate(timeout=120)[0]
    assert controller.returncode == 0, said
    records = attempts.read(campaign.run, "units/a.txt")
    assert [r["outcome"] for r in records] == ["failed", "published"]
    assert records[0]["failure_class"] == "node" and records[0]["external_jobid"] == "1"
    nodes = json.loads((campaign.directory / "runs/test/journal/slurm/nodes.json").read_text())
    assert list(nodes) == [records[0]["host"]] and records[1]["host"] != records[0]["host"]


def test_escalation_ends_at_what_the_partition_allows(campaign, slurm):
    slurm.settings(partitions={"cpu": {"MaxTime": "00:25:00", "MaxMemPerNode": "300"}})
    campaign.units(a=1)
    snakefile = campaign.directory / "Snakefile"
    text = snakefile.read_text().replace("import Units, guard", "import Units, escalated, guard")
    resources = 'resources: mem_mb=escalated(units, "mem_mb", 100)\n    shell:'
    text = text.replace("shell:", resources).replace('{output}")', '{output}", resources=("mem_mb",))')
    snakefile.write_text(text)
    campaign.does("a", "echo 'MemoryError: not enough'; exit 1")
    assert campaign() == 1
    records = attempts.read(campaign.run, "units/a.txt")
    assert [record["resources"]["mem_mb"] for record in records] == ["100", "200", "300"]
    assert records[-1]["decision"] == "quarantine"
    assert records[-1]["reason"] == "memory: used up 300 MB, the most that its partition allows"


def test_only_what_this_call_runs_is_cancelled(campaign, slurm, tmp_path):
    other = Cluster(Run(tmp_path / "runs" / "other"), print)
    slurm.submit(other, "x")
    campaign.units(a=1)
    campaign.does("a", "sleep 60")
    controller = campaign.start()
    campaign.running("a")
    controller.send_signal(signal.SIGINT)
    controller.communicate(timeout=120)
    wait_until(lambda: slurm.job("2")["state"] == "CANCELLED")
    assert slurm.job("1")["state"] == "RUNNING"


def test_rules_that_need_snakemake_get_one_in_their_job(campaign, slurm):
    campaign.units(a=1)
    snakefile = campaign.directory / "Snakefile"
    plain = "runs/test/plain.txt"
    rule = f"rule plain:\n    output: '{plain}'\n    run:\n        open(output[0], 'w').write('plain')\n"
    text = snakefile.read_text().replace("input: units.targets()", f"input: units.targets(), '{plain}'")
    snakefile.write_text(f"{text}\n{rule}")
    assert campaign() == 0, campaign.said
    assert (campaign.directory / "runs/test/plain.txt").read_text() == "plain"
    before = slurm.submissions()
    assert campaign() == 0 and slurm.submissions() == before
