"""Faults of SLURM, fake and real: instances that it takes back, nodes that fail, limits, a full disk."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster import Cluster
from conftest import wait_until
from fake_slurm.handle import FakeSlurm
from ripresa.dsl.guarding import call_of
from ripresa.journal import attempts, clock, records
from ripresa.journal.paths import Run
from ripresa.recovery.remote import Remote
from ripresa.recovery.unit import parse
from ripresa.slurm.nodes import BadNodes

EXECUTOR = ("--executor", "slurm-resume", "--jobs", "50", "--latency-wait", "0")
ONCE = "[ $RIPRESA_ATTEMPT -gt 1 ] || { touch begun; sleep 60; }"
NOT_AVAILABLE = "sbatch: error: Batch job submission failed: Requested node configuration is not available"


@pytest.fixture
def fake(campaign, monkeypatch):
    made = FakeSlurm(campaign.directory / "slurm")
    for name in ("PATH", "FAKE_SLURM"):
        monkeypatch.setenv(name, made.environment[name])
    yield made
    made.stop()


def leave_out(run: Run, *nodes: str) -> None:
    for node in nodes:
        BadNodes(run, 600.0).add(node, "it failed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "accounting", "failure_class"),
    [
        ("NODE_FAIL", True, "node"),
        ("REQUEUED", True, "preempted"),
        ("PREEMPTED", True, "preempted"),
        ("REQUEUED", False, "node"),  # its guard wrote nothing, and nobody says why
    ],
)
def test_an_instance_that_slurm_took_back_has_the_class_of_its_end(
    campaign, fake, state, accounting, failure_class
):
    fake.settings(requeue_wait=8.0, accounting=accounting)
    campaign.units(a=1)
    campaign.does("a", ONCE)
    controller = campaign.start(*EXECUTOR)
    wait_until((campaign.directory / "begun").exists, 60)
    node = fake.job("1")["node"]
    fake.requeue("1")
    with fake.store.lock():
        job = fake._of("1")
        job["history"][-1]["state"] = state
        fake.store.save(job)
    said = controller.communicate(timeout=120)[0]
    assert controller.returncode == 0, said
    first, second = attempts.read(campaign.run, "units/a.txt")
    assert (first["failure_class"], first["decision"]) == (failure_class, "retry")
    assert (second["outcome"], second["external_jobid"]) == ("published", first["external_jobid"])
    assert (first["requeues"], second["requeues"]) == (0, 1)
    assert campaign.executions() == ["a", "a"] and len(fake.calls("sbatch")) == 1
    bad = Path(campaign.run.slurm, "nodes.json")
    assert list(json.loads(bad.read_text())) == [node] if failure_class == "node" else not bad.exists()


def test_a_unit_that_is_given_up_does_not_start_again_because_slurm_requeues_it(campaign, fake):
    fake.settings(requeue_wait=60.0)
    campaign.units(a=1)
    campaign.does("a", ONCE)
    snakefile = campaign.directory / "Snakefile"
    text = snakefile.read_text()
    strict = "{**p, 'classes': {**p['classes'], 'preempted': {**p['classes']['preempted'], 'cap': 0}}}"
    changed = text.replace("policy.default()", f"(lambda p: {strict})(policy.default())")
    assert changed != text
    snakefile.write_text(changed)
    controller = campaign.start(*EXECUTOR)
    wait_until((campaign.directory / "begun").exists, 60)
    fake.requeue("1")
    said = controller.communicate(timeout=120)[0]
    assert controller.returncode == 1, said
    record = attempts.last(campaign.run, "units/a.txt")
    assert (record["failure_class"], record["decision"]) == ("preempted", "refused")
    wait_until(lambda: fake.job("1")["state"] == "CANCELLED")


def test_what_is_left_out_joins_what_a_rule_leaves_out(fake, tmp_path):
    run = Run(tmp_path / "runs/test")
    leave_out(run, "n2")
    nodes = BadNodes(run, 600.0)
    assert nodes.left_out(["--mem=1"], set()) == ["--mem=1", "--exclude=n2"]
    assert nodes.left_out(["--exclude=n[3-4]", "--mem=1"], {"n1"}) == ["--mem=1", "--exclude=n[3-4],n1,n2"]
    assert len(fake.calls("sinfo")) == 1, "asked once for all that may run in the same partition"
    leave_out(run, "n1", "n3", "n4")
    assert BadNodes(run, 600.0).left_out(["--mem=1"], set()) == ["--mem=1"], "a bad node is better than none"
    assert clock.seconds(json.loads(Path(run.slurm, "nodes.json").read_text())["n2"]["until"]) > time.time()


def test_a_request_that_needs_a_node_that_failed_gets_it(campaign, fake):
    campaign.units(a=1)
    leave_out(campaign.run, "n1")
    fake.down("sbatch", calls=1, stderr=NOT_AVAILABLE)
    assert campaign(*EXECUTOR) == 0, campaign.said
    first, second = fake.calls("sbatch")
    assert "--exclude=n1" in first and "--exclude=n1" not in second
    assert campaign.outcomes("a") == ["published"]


@pytest.mark.slow
def test_a_job_that_waits_for_ever_without_a_node_that_failed_gets_it(campaign, fake):
    campaign.units(a=1)
    leave_out(campaign.run, "n1")
    fake.fate("*", reason="BadConstraints")
    controller = campaign.start(*EXECUTOR)
    wait_until(fake.jobs, 60)
    fake.store.write("fates.json", [])
    said = controller.communicate(timeout=120)[0]
    assert controller.returncode == 0, said
    first, second = fake.calls("sbatch")
    assert "--exclude=n1" in first and "--exclude=n1" not in second
    assert campaign.outcomes("a") == ["published"] and fake.job("1")["state"] == "CANCELLED"


@pytest.mark.slow
def test_a_limit_on_submissions_divides_arrays_and_fails_nothing(campaign, fake):
    fake.settings(max_submit=2)
    campaign.units(a=1, b=2, c=3, d=4, e=5)
    assert campaign(*EXECUTOR) == 0, campaign.said
    assert [campaign.outcomes(name) for name in "abcde"] == [["published"]] * 5
    assert sorted(campaign.executions()) == list("abcde")


@pytest.mark.slow
def test_a_journal_that_cannot_be_written_is_a_pause(campaign, fake):
    campaign.units(a=1)
    batches = Path(campaign.run.slurm, "batches")
    batches.parent.mkdir(parents=True)
    batches.write_text("in the way")
    controller = campaign.start(*EXECUTOR)
    assert any("cannot use the journal" in line for line in controller.stdout)
    assert controller.poll() is None and not fake.calls("sbatch")
    batches.unlink()
    said = controller.communicate(timeout=120)[0]
    assert controller.returncode == 0, said
    assert campaign.outcomes("a") == ["published"]


def test_a_quarantine_is_not_ended_by_how_another_machine_looks(campaign, fake, monkeypatch):
    """A node sees other groups and programs than the machine of the controller, which would try for ever."""
    campaign.units(a=1)
    campaign.does("a", "echo 'bash: ./tool: Permission denied'; exit 1")
    assert campaign(*EXECUTOR) == 1
    record = attempts.last(campaign.run, "units/a.txt")
    assert record["decision"] == "quarantine" and campaign.executions() == ["a"]
    seen = {**record["blamed"], "state": {**record["blamed"]["state"], "its: user and groups": "0 0 [4711]"}}
    records.append(campaign.run.attempts("units/a.txt"), {**record, "blamed": seen})
    (script,) = Path(campaign.run.slurm).glob("batches/*/0.sh")
    monkeypatch.chdir(campaign.directory)
    monkeypatch.setenv("RIPRESA_RUN", str(campaign.run.dir))
    monkeypatch.setenv("RIPRESA_SESSION", record["session"])
    assert "in quarantine" in str(Remote(parse(*call_of(script.read_text()))).refusal())
    monkeypatch.setenv("RIPRESA_SESSION", "the next call")
    assert Remote(parse(*call_of(script.read_text()))).refusal() is None


@pytest.mark.timeout(300)
def test_the_most_telling_faults_on_a_real_cluster(slurm: Cluster) -> None:
    script = Path(__file__).parents[1] / "evaluation/slurm/faults.py"
    command = [sys.executable, script, "--short", "--state", slurm.state]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]
