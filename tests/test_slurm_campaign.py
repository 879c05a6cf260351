"""Campaigns on the fake SLURM: what the real one seldom does, through the real snakemake."""

import os
import signal

import pytest

from conftest import wait_until
from fake_slurm.handle import FakeSlurm
from fake_slurm.jobs import identity
from ripresa.journal import attempts

EXECUTOR = ("--executor", "slurm-resume", "--jobs", "50", "--latency-wait", "0")


@pytest.fixture
def slurm_fake(campaign, monkeypatch):
    made = FakeSlurm(campaign.directory / "slurm")
    for name in ("PATH", "FAKE_SLURM"):
        monkeypatch.setenv(name, made.environment[name])
    yield made
    made.stop()


def submissions(fake: FakeSlurm) -> int:
    return len(fake.calls("sbatch"))


def last(campaign, name: str) -> dict:
    return attempts.last(campaign.run, f"units/{name}.txt")


@pytest.mark.slow
def test_an_impossible_job_ends_with_the_reason_quoted(campaign, slurm_fake):
    slurm_fake.fate("ripresa.*", reason="PartitionTimeLimit")
    campaign.units(a=1)
    assert campaign(*EXECUTOR) != 0
    record = last(campaign, "a")
    assert (record["failure_class"], record["decision"]) == ("configuration", "quarantine")
    assert "PartitionTimeLimit: more time than the partition allows" in record["evidence"]
    assert [job["state"] for job in slurm_fake.jobs()] == ["CANCELLED"]


def test_a_submission_that_was_not_answered_is_found_and_not_repeated(campaign, slurm_fake):
    """Not even if its jobs, which are one array, are over before anybody asks."""
    slurm_fake.submits_and_times_out()
    campaign.units(a=1, b=2)
    assert campaign(*EXECUTOR) == 0, campaign.said
    assert sorted(campaign.executions()) == ["a", "b"]
    assert submissions(slurm_fake) == 1
    found = {last(campaign, name)["external_jobid"] for name in "ab"}
    assert found == {identity(job) for job in slurm_fake.jobs()}


@pytest.mark.slow
def test_an_outage_is_a_pause(campaign, slurm_fake):
    slurm_fake.down("squeue", "sbatch", "sacct", calls=2)
    campaign.units(a=1)
    assert campaign(*EXECUTOR) == 0, campaign.said
    assert campaign.outcomes("a") == ["published"]
    assert "SLURM does not answer" in campaign.said and "SLURM answers again" in campaign.said


@pytest.mark.slow
def test_jobs_under_other_ids_are_adopted_after_the_controller_was_killed(campaign, slurm_fake):
    campaign.units(a=1, b=2)
    for name in "ab":
        campaign.does(name, "while [ ! -e go ]; do sleep 0.05; done")
    first = campaign.start(*EXECUTOR)
    wait_until(lambda: sorted(campaign.executions()) == ["a", "b"], 60)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    for job in slurm_fake.jobs():
        slurm_fake.renumber(identity(job), 900)
    second = campaign.start(*EXECUTOR)
    said = [next(line for line in second.stdout if "going on with job" in line) for _ in range(2)]
    assert sorted(line.split()[-3] for line in said) == ["900_0", "900_1"]
    (campaign.directory / "go").touch()
    assert second.wait(120) == 0, second.stdout.read()
    assert sorted(campaign.executions()) == ["a", "b"]
    assert submissions(slurm_fake) == 1


def test_what_befalls_a_job_is_judged_and_tried_again(campaign, slurm_fake):
    campaign.units(a=1)
    campaign.does("a", '[ "$RIPRESA_ATTEMPT" -ge 2 ] || { touch begun; sleep 1000; }')
    controller = campaign.start(*EXECUTOR)
    wait_until((campaign.directory / "begun").exists, 60)
    slurm_fake.change(identity(slurm_fake.jobs()[0]), state="NODE_FAIL")
    assert controller.wait(120) == 0, controller.stdout.read()
    history = attempts.read(campaign.run, "units/a.txt")
    assert [record["outcome"] for record in history] == ["failed", "published"]
    assert history[0]["failure_class"] == "node"
    assert "NODE_FAIL" in history[0]["evidence"]
