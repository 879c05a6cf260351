"""The test cluster itself: that it is a real SLURM in everything the other tests build on."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import Cluster
from machines import ports

EAT = "python3 -c 'x = bytearray(400 << 20)'"


def everywhere(cluster: Cluster, script: str, directory: Path, *options: str) -> dict[str, str]:
    """Submit a script once for each node; returns the job of each."""
    return {
        node: cluster.submit(
            script,
            f"--nodelist={node}",
            f"--partition={'gpu' if node == cluster.nodes[-1] else 'cpu'}",
            f"--output={directory}/{node}",
            *options,
        )
        for node in cluster.nodes
    }


def processes_with(text: str) -> list[str]:
    """Command lines of living processes that contain a text."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and folder.name != str(os.getpid()):
            try:
                words = (folder / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            except OSError:
                continue
            if text in words:
                found.append(words)
    return found


def test_each_node_runs_jobs_as_a_host_of_its_own(slurm_session, tmp_path):
    script = 'echo "$(hostname) $SLURMD_NODENAME $(uname -n)"; squeue -h -j $SLURM_JOB_ID -o %N'
    jobs = everywhere(slurm_session, script, tmp_path)
    assert {slurm_session.wait(job) for job in jobs.values()} == {"COMPLETED"}
    for node in slurm_session.nodes:
        assert (tmp_path / node).read_text().split() == [node] * 4
    assert {one.node for one in slurm_session.executions(*jobs.values())} == set(slurm_session.nodes)


def test_a_batch_script_needs_nothing_of_the_cluster_but_its_environment(slurm_session, tmp_path):
    """The machine's own /etc/slurm has nothing to do with it, and steps by srun work on the nodes as well."""
    assert not Path("/etc/slurm/slurm.conf").exists()
    job = slurm_session.submit("srun env -u SLURM_CONF squeue -h -j $SLURM_JOB_ID -o %T", directory=tmp_path)
    assert slurm_session.wait(job) == "COMPLETED"
    assert (tmp_path / f"slurm-{job}.out").read_text() == "RUNNING\n"


def test_gpus_are_granted_and_counted(slurm_session, tmp_path):
    gpu = ("--partition=gpu", "--gres=gpu:fake:1")
    script = "echo $CUDA_VISIBLE_DEVICES; [ -c $1 ]; sleep 600"
    jobs = [slurm_session.submit(script, *gpu, f"--output={tmp_path}/{n}") for n in range(3)]
    for job in jobs[:2]:
        slurm_session.wait(job, "RUNNING")
    slurm_session.wait_until(
        lambda: all((tmp_path / n).exists() and (tmp_path / n).read_text() for n in "01"),
        20,
        lambda: "no output",
    )
    assert {(tmp_path / n).read_text().strip() for n in "01"} == {"0", "1"}
    assert slurm_session.state_of(jobs[2]) == "PENDING"
    slurm_session.scancel(jobs[0])
    slurm_session.wait(jobs[2], "RUNNING")
    slurm_session.scancel(*jobs)
    assert {slurm_session.wait(job) for job in jobs} == {"CANCELLED"}


def test_the_kernel_kills_what_takes_more_memory_than_it_asked_for(slurm_session, tmp_path):
    plain = slurm_session.submit(EAT, "--mem=60", directory=tmp_path)
    step = slurm_session.submit(f"srun {EAT} || exit 3", "--mem=60", directory=tmp_path)
    assert slurm_session.wait(plain) == "OUT_OF_MEMORY"
    assert slurm_session.wait(step) == "FAILED"
    for job, name in ((plain, f"{plain}.batch"), (step, f"{step}.0")):
        slurm_session.wait_recorded(job, "OUT_OF_MEMORY")
        states = {one.job: one.state for one in slurm_session.executions(job, steps=True)}
        assert states[name] == "OUT_OF_MEMORY", states


REFUSED = {
    "account": ("--account=closed",),
    "unknown account": ("--account=nobody",),
    "unknown partition": ("--partition=nowhere",),
    "QOS": ("--qos=strict", "--ntasks=4"),
    "memory of a node": ("--mem=900000",),
    "unknown constraint": ("--constraint=warp",),
    "GPUs": ("--partition=gpu", "--gres=gpu:9"),
}
STUCK = {
    "QOSMaxCpuPerJobLimit": ("--qos=small", "--ntasks=4"),
    "PartitionTimeLimit": ("--partition=short", "--time=60"),
    "MaxMemPerLimit": ("--partition=short", "--mem=2000"),
}


def test_requests_beyond_what_there_is_are_refused(slurm_session):
    for options in REFUSED.values():
        with pytest.raises(subprocess.CalledProcessError):
            slurm_session.submit("true", *options)


def test_requests_beyond_a_limit_wait_for_ever_with_the_reason(slurm):
    jobs = {reason: slurm.submit("true", *options) for reason, options in STUCK.items()}
    for reason, job in jobs.items():
        slurm.wait_until(
            lambda job=job, reason=reason: (
                slurm.squeue("-h", "-j", job, "-o", "%T %r").strip() == f"PENDING {reason}"
            ),
            20,
            slurm.squeue,
        )


# Tests of what takes long follow each other so that the waits overlap.


@pytest.fixture(scope="module")
def ends(slurm_session: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Jobs that all meet their fate at once, since SLURM takes its time over each: the job of each fate."""
    cluster, folder = slurm_session, tmp_path_factory.mktemp("ends")
    first, second, third, _ = cluster.nodes
    script = f'echo "$(date +%s.%N) $SLURM_RESTART_COUNT" >> {folder}/$SLURM_JOB_NAME; sleep 600'

    def submit(name: str, node: str, *options: str) -> str:
        return cluster.submit(script, f"--job-name={name}", f"--nodelist={node}", *options)

    jobs = {
        "limit": submit("limit", first, "--time=5"),
        "requeued": submit("requeued", first),
        "preempted": submit("preempted", second, "--partition=preempt", "--exclusive"),
        "lost": submit("lost", third, "--no-requeue"),
    }
    for job in jobs.values():
        cluster.wait(job, "RUNNING")
    cluster.scontrol("update", f"nodename={first},{second}", "state=drain", "reason=elsewhere")
    jobs["moved"] = cluster.submit(script, "--job-name=moved")
    cluster.wait(jobs["moved"], "RUNNING")
    cluster.scontrol("update", f"nodename={first},{second}", "state=resume")
    cluster.wait_until(
        lambda: all((folder / name).exists() for name in jobs), 20, lambda: str(list(folder.iterdir()))
    )
    cluster.lose(third)
    cluster.end_after(jobs["limit"], 2)
    cluster.scontrol("requeue", jobs["requeued"])
    jobs["preempting"] = cluster.submit(
        "sleep 3", f"--nodelist={second}", "--exclusive", "--job-name=preempting"
    )
    yield jobs
    cluster.heal()


def test_a_requeued_job_starts_again_under_its_id(slurm_session, ends):
    slurm_session.wait_recorded(ends["requeued"], "REQUEUED")
    slurm_session.wait(ends["requeued"], "RUNNING")
    assert [one.state for one in slurm_session.executions(ends["requeued"])] == ["REQUEUED", "RUNNING"]


def test_a_preempted_job_makes_room_and_comes_back(slurm_session, ends):
    assert slurm_session.wait(ends["preempting"]) == "COMPLETED"
    slurm_session.wait_recorded(ends["preempted"], "PREEMPTED")
    slurm_session.wait(ends["preempted"], "RUNNING")


def test_down_leaves_nothing_behind(slurm_session, tmp_path):
    """A second cluster, to which the first does not matter, nor the reverse."""
    other = Cluster(tmp_path / "other")
    assert not set(other.nodes) & set(slurm_session.nodes)
    other.up()
    script = f"setsid --fork sleep 601.{other.layout.port}; sleep 602.{other.layout.port}"
    other.wait(other.submit(script), "RUNNING")
    other.wait_until(lambda: len(processes_with(f".{other.layout.port}")) == 2, 20, other.squeue)
    assert all(ports.listening(port) for port in other.layout.ports)
    other.slurmdbd.freeze()
    other.down()
    assert processes_with(f".{other.layout.port}") == processes_with(other.layout.name) == []
    assert not any(ports.listening(port) for port in other.layout.ports)
    assert not other.state.exists()
    assert list(Path("/sys/fs/cgroup").glob(f"*/slurm_{other.layout.name}*")) == []
    assert slurm_session.wait(slurm_session.submit("true")) == "COMPLETED"


def test_a_lost_node_fails_its_jobs_or_has_them_requeued(slurm_session, ends):
    assert slurm_session.wait(ends["lost"]) == "NODE_FAIL"
    third = slurm_session.nodes[2]
    slurm_session.wait(ends["moved"], "RUNNING")
    assert slurm_session.node_of(ends["moved"]) not in ("", third)
    assert [one.state for one in slurm_session.executions(ends["moved"])] == ["NODE_FAIL", "RUNNING"]
    slurm_session.restore(third)


def test_a_job_ends_at_its_time_limit(slurm_session, ends):
    assert slurm_session.wait(ends["limit"]) == "TIMEOUT"


def test_jobs_outlive_slurmctld(slurm, tmp_path):
    job = slurm.submit("until [ -e go ]; do sleep 0.1; done; echo done", directory=tmp_path)
    slurm.wait(job, "RUNNING")
    slurm.saved()
    slurm.slurmctld.kill()
    assert not ports.listening(slurm.layout.port)
    (tmp_path / "go").touch()
    log = tmp_path / f"slurm-{job}.out"
    slurm.wait_until(lambda: log.exists() and log.read_text() == "done\n", 20, lambda: "no output")
    slurm.slurmctld.start()
    assert slurm.wait(job) == "COMPLETED"


def test_the_accounting_catches_up_when_slurmdbd_is_back(slurm):
    slurm.slurmdbd.kill()
    with pytest.raises(subprocess.CalledProcessError):
        slurm.sacct()
    job = slurm.submit("true")
    assert slurm.wait(job) == "COMPLETED"
    slurm.slurmdbd.start()
    slurm.wait_recorded(job, "COMPLETED")


def test_a_frozen_daemon_goes_on(slurm):
    slurm.slurmctld.freeze()
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["squeue"], env=slurm.environment, capture_output=True, timeout=1, check=True)
    slurm.slurmctld.thaw()
    assert slurm.wait(slurm.submit("true")) == "COMPLETED"


def test_a_value_is_changed_and_taken_back(slurm):
    slurm.change(EnforcePartLimits="ALL")
    for options in STUCK.values():
        if "--partition=short" in options:
            with pytest.raises(subprocess.CalledProcessError):
                slurm.submit("true", *options)
    slurm.heal()
    slurm.submit("true", *STUCK["PartitionTimeLimit"])


def test_up_again_restarts_only_what_is_dead(slurm):
    alive = {node: daemon.pid for node, daemon in slurm.slurmd.items()}
    first = slurm.nodes[0]
    slurm.slurmd[first].kill()
    slurm.up()
    now = {node: daemon.pid for node, daemon in slurm.slurmd.items()}
    assert now[first] not in (None, alive[first])
    assert {node: pid for node, pid in now.items() if node != first} == {
        node: pid for node, pid in alive.items() if node != first
    }
