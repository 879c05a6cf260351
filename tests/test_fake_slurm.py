"""The fake SLURM: that it speaks like the real one, runs jobs, and misbehaves when told to."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import wait_until
from fake_slurm import scenario
from fake_slurm.handle import FakeSlurm
from fake_slurm.jobs import processes, variables_of
from fake_slurm.store import ENDED
from ripresa.slurm import commands, queries, reasons, states
from ripresa.slurm.sighting import Sighting

RECORDED = Path(scenario.__file__).with_name("recorded.txt")


class Cluster(FakeSlurm):
    """A fake with a shell."""

    def __init__(self, folder: Path, **settings) -> None:
        super().__init__(folder / "slurm", **settings)
        self.work = folder

    def call(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {**self.environment, **environment}
        return subprocess.run(
            words, cwd=self.work, env=variables, capture_output=True, text=True, check=False, timeout=60
        )

    def ask(self, *words: str, **environment: str) -> str:
        done = self.call(*words, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, text: str, *options: str, **environment: str) -> str:
        words = ["sbatch", "--parsable", "-J", "unit", "-o", "log.%a", *options, "--wrap", text]
        return self.ask(*words, **environment).strip()

    def state(self, job_id: str) -> str:
        return self.job(job_id)["state"]

    def ended(self, job_id: str) -> str:
        wait_until(lambda: self.state(job_id) in ENDED)
        return self.state(job_id)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def asked(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster that the package itself talks to."""
    for name in ("PATH", "FAKE_SLURM"):
        monkeypatch.setenv(name, cluster.environment[name])
    return cluster


def test_it_says_what_slurm_says(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, requeue_wait=3600)
    cluster.store.write("last_id.json", 6999)  # ids like no other figure
    try:
        assert scenario.play(cluster.environment) == RECORDED.read_text(encoding="utf-8")
    finally:
        cluster.stop()


# --- jobs ---


def test_a_job_runs_with_what_it_was_given(cluster: Cluster) -> None:
    script = cluster.work / "job.sh"
    script.write_text(
        "#!/bin/sh\n#SBATCH --job-name=from-the-script --comment='a b'\n#SBATCH -c 2\n"
        'echo "$1 $SLURM_JOB_ID $SLURM_JOB_NAME $SLURMD_NODENAME $SLURM_CPUS_PER_TASK $GIVEN ${MORE-unset}"\n'
        "pwd\n"
    )
    (cluster.work / "below").mkdir()
    job_id = cluster.ask(
        *[
            "sbatch",
            "--parsable",
            "-D",
            "below",
            "--export=GIVEN=here,PATH",
            "-o",
            "%x-%j.log",
            "job.sh",
            "word",
        ],
        MORE="left behind",
    ).strip()
    assert cluster.ended(job_id) == "COMPLETED"
    log = cluster.work / "below" / f"from-the-script-{job_id}.log"
    node = cluster.job(job_id)["node"]
    assert log.read_text() == f"word {job_id} from-the-script {node} 2 here unset\n{cluster.work}/below\n"
    assert cluster.job(job_id)["comment"] == "a b"


def test_an_array_runs_as_many_tasks_as_there_is_room_for(cluster: Cluster) -> None:
    cluster.settings(nodes=["n1"], cpus=3)
    array = cluster.submit("echo $SLURM_ARRAY_TASK_ID; until [ -e go ]; do sleep 0.1; done", "-a", "0-7")
    wait_until(lambda: sum(job["state"] == "RUNNING" for job in cluster.jobs()) == 3)
    assert {job["reason"] for job in cluster.jobs() if job["state"] == "PENDING"} == {"Resources"}
    (cluster.work / "go").touch()
    assert {cluster.ended(f"{array}_{task}") for task in range(8)} == {"COMPLETED"}
    assert [(cluster.work / f"log.{task}").read_text() for task in range(8)] == [
        f"{task}\n" for task in range(8)
    ]
    ids = {job["id"] for job in cluster.jobs()}
    assert len(ids) == 8 and int(array) in ids


def test_scancel_reaches_processes_in_sessions_of_their_own(cluster: Cluster) -> None:
    job_id = cluster.submit("setsid sleep 1000 & setsid sleep 1000")
    wait_until(
        lambda: cluster.state(job_id) == "RUNNING" and len(processes(cluster.store, cluster.job(job_id))) == 3
    )
    running = cluster.job(job_id)
    cluster.ask("scancel", job_id)
    assert cluster.ended(job_id) == "CANCELLED"
    wait_until(lambda: not processes(cluster.store, running))
    uid = os.getuid()
    assert cluster.ask("sacct", "-X", "-n", "-P", "-o", "state", "-j", job_id) == f"CANCELLED by {uid}\n"


def test_a_limit_is_announced_to_the_batch_shell_and_kept(cluster: Cluster) -> None:
    cluster.settings(minute=2, kill_wait=0.2)
    job_id = cluster.submit(
        "trap 'echo warned' USR1; trap '' TERM; while :; do sleep 0.05; done", "-t", "2", "--signal=B:USR1@60"
    )
    assert cluster.ended(job_id) == "TIMEOUT"
    assert (cluster.work / "log.4294967294").read_text() == "warned\n"
    assert cluster.ask("sacct", "-n", "-P", "-o", "state", "-j", job_id) == "TIMEOUT\nCANCELLED\n"


# --- misbehaviour ---


def test_a_command_is_down_for_some_calls(cluster: Cluster) -> None:
    cluster.down("squeue", calls=2)
    answers = [cluster.call("squeue", "-h") for _ in range(3)]
    assert [answer.returncode for answer in answers] == [1, 1, 0]
    assert reasons.refusal(answers[0].stderr) == ("outage", None)
    assert cluster.calls("squeue") == [["-h"]] * 3


def test_all_commands_are_down_until_they_are_up(cluster: Cluster) -> None:
    cluster.down()
    for command in ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo"):
        assert reasons.refusal(cluster.call(command, "1").stderr) == ("outage", None)
    assert cluster.jobs() == []
    cluster.up()
    assert cluster.call("squeue").returncode == 0


def test_sbatch_gives_up_although_it_submitted(cluster: Cluster) -> None:
    cluster.submits_and_times_out()
    done = cluster.call("sbatch", "--parsable", "-o", "log", "--wrap", "exit 0")
    assert (done.returncode, done.stdout) == (1, "")
    assert reasons.refusal(done.stderr) == ("outage", None)
    assert [cluster.ended(str(job["id"])) for job in cluster.jobs()] == ["COMPLETED"]


def test_a_slow_command_is_slow(cluster: Cluster) -> None:
    cluster.slow("squeue", 0.5, calls=1)
    start = time.monotonic()
    cluster.ask("squeue")
    assert time.monotonic() - start > 0.5


def test_any_refusal_can_be_had(cluster: Cluster) -> None:
    cluster.down("sbatch", stderr="sbatch: error: please name a project", calls=1)
    assert reasons.refusal(cluster.call("sbatch", "--wrap", "true").stderr) == ("refused", "unknown")
    cluster.settings(max_submit=2)
    cluster.submit("exit 0", "-H", "-a", "0,1")
    assert reasons.refusal(cluster.call("sbatch", "--wrap", "true").stderr) == ("later", None)


def test_a_job_waits_for_the_reason_that_it_is_given(cluster: Cluster) -> None:
    cluster.fate("un*", reason="PartitionTimeLimit")
    job_id = cluster.submit("exit 0")
    other = cluster.submit("exit 0", "-J", "other")
    assert cluster.ended(other) == "COMPLETED"
    assert cluster.ask("squeue", "-h", "-o", "%i %T %r") == f"{job_id} PENDING PartitionTimeLimit\n"


@pytest.mark.parametrize("instance", ["gone", "left"])
def test_a_job_is_requeued_under_its_id(cluster: Cluster, instance: str) -> None:
    job_id = cluster.submit("echo $SLURM_RESTART_COUNT; sleep 1000", "--open-mode=append")
    log = cluster.work / "log.4294967294"
    wait_until(lambda: cluster.state(job_id) == "RUNNING" and log.exists() and log.read_text())
    first = cluster.job(job_id)
    cluster.requeue(job_id, leave=instance == "left")
    wait_until(lambda: cluster.state(job_id) == "RUNNING" and cluster.job(job_id)["restarts"] == 1)
    wait_until(lambda: log.read_text() == "\n1\n")
    wait_until(lambda: bool(processes(cluster.store, first)) == (instance == "left"))
    assert cluster.ask("squeue", "-h", "-O", "JobID:|,RestartCnt:|") == f"{job_id}|1|\n"
    listed = cluster.ask("sacct", "-X", "-D", "-n", "-P", "-o", "jobid,state").splitlines()
    assert listed == [f"{job_id}|REQUEUED", f"{job_id}|RUNNING"]


def test_jobs_change_their_ids_multiply_and_vanish(asked: Cluster) -> None:
    job_id = asked.submit("sleep 1000", "--comment", "the identity")
    wait_until(lambda: asked.state(job_id) == "RUNNING")
    asked.renumber(job_id, 900)
    assert [(seen.job_id, seen.name) for seen in queries.queue()] == [("900", "unit")]
    other = str(asked.duplicate("900"))
    wait_until(lambda: asked.state(other) == "RUNNING")
    assert {seen.job_id for seen in queries.queue()} == {"900", other}
    asked.requeue(other, number=901)
    wait_until(lambda: asked.state("901") == "RUNNING")
    asked.vanish("900", "squeue")
    assert [seen.job_id for seen in queries.queue()] == ["901"]
    assert [seen.state for seen in queries.accounts(["900"])] == ["RUNNING"]
    asked.vanish("900")
    assert queries.accounts(["900"]) == []
    assert processes(asked.store, asked.job("900"))


# --- the package asks it ---


def test_every_state_is_seen_and_judged(asked: Cluster) -> None:
    """Rare states come through the queries as they are, whether slurmctld or the accounting tells them."""
    asked.settings(cpus=1000)
    names = sorted(set(states.STATES) - {"EXPEDITING", "LAUNCH_FAILED", "POWER_UP_NODE", "RECONFIG_FAIL"})
    array = asked.submit("sleep 1000", "-a", f"0-{len(names) - 1}")
    wait_until(lambda: all(job["state"] == "RUNNING" for job in asked.jobs()))
    for task, name in enumerate(names):
        asked.change(f"{array}_{task}", state=name)
    for sightings in (queries.queue(), queries.accounts([array])):
        found = {seen.job_id: seen for seen in sightings}
        for task, name in enumerate(names):
            verdict = states.judge(found[f"{array}_{task}"])
            assert verdict[:2] == states.judge(Sighting("1", "x", name))[:2], name


def test_a_step_out_of_memory_is_seen_in_the_accounting(asked: Cluster) -> None:
    job_id = asked.submit("sleep 1000")
    wait_until(lambda: asked.state(job_id) == "RUNNING")
    steps = [["batch", "FAILED", 4, 0], ["0", "OUT_OF_MEMORY", 0, 125]]
    asked.change(job_id, state="FAILED", exit=[4, 0], steps=steps)
    (seen,) = queries.accounts([job_id])
    assert states.judge(seen)[:2] == ("ended", "memory")


def test_a_log_that_cannot_be_opened_is_a_fault_of_the_file_system(asked: Cluster) -> None:
    job_id = asked.submit("exit 0", "-o", "/nonexistent/folder/log")
    asked.ended(job_id)
    for seen in (*queries.queue(), *queries.accounts([job_id])):
        assert states.judge(seen)[:2] == ("ended", "file_system")


def test_of_a_waiting_task_that_was_cancelled_nothing_is_left(asked: Cluster) -> None:
    asked.settings(nodes=["n1"], cpus=1)
    array = asked.submit("sleep 1000", "-a", "0-2")
    wait_until(lambda: asked.state(f"{array}_0") == "RUNNING")
    asked.ask("scancel", f"{array}_1")
    for sightings in (queries.queue(), queries.accounts([array])):
        assert sorted(seen.job_id for seen in sightings) == [f"{array}_0", f"{array}_2"]


def test_without_accounting_sacct_says_so(asked: Cluster) -> None:
    asked.settings(accounting=False)
    with pytest.raises(commands.Unanswered, match="accounting storage is disabled"):
        queries.accounts(["1"])
    assert "AccountingStorageType   = accounting_storage/none" in asked.ask("scontrol", "show", "config")


def test_a_process_that_becomes_another_program_keeps_its_mark(tmp_path: Path) -> None:
    """Between two programs the kernel shows it without variables, and it would outlive its job."""
    again = tmp_path / "again"
    again.write_text('#!/bin/sh\nexec "$0"\n')
    again.chmod(0o700)
    with subprocess.Popen([again], env={**os.environ, "MARK": "1"}) as process:
        seen = {b"MARK=1" in variables_of(f"/proc/{process.pid}") for _ in range(5000)}
        process.kill()
    assert seen == {True}
