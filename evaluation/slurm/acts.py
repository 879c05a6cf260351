"""What is done to a campaign on SLURM, or to its cluster, so that a fault happens."""

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable

from place import Cluster
from stricken import RUN, Campaign, wait

from cluster.configuration import DEFAULTS

SMALL = "small"
"""The folder, beside the campaigns, of a disk with room for few files."""


def nothing(campaign: Campaign) -> None:
    """The fault is in the request."""


# -- jobs that end otherwise than they should


def cancel_running(c: Campaign) -> None:
    job = c.started("cancelled")
    c.strike("cancelled", lambda: c.cluster.scancel(job))


def cancel_pending(c: Campaign) -> None:
    for n in ("waiting", "waiting2", "single"):
        job = c.job(n)
        wait("a pending job", lambda job=job: job in c.cluster.squeue("-h", "-r", "-o", "%i").split())
        c.strike(n, lambda job=job: c.cluster.scancel(job))
        if n != "single":  # SLURM keeps no record of tasks that never started
            c.slurm_at[n] = time.time()


def time_limit(c: Campaign) -> None:
    job = c.started("long")
    c.strike("long", lambda: c.cluster.end_after(job, 1))


def requeue(c: Campaign) -> None:
    job = c.started("requeued")
    c.strike("requeued", lambda: c.cluster.scontrol("requeue", job))


def out_of_memory(c: Campaign) -> None:
    for n in ("hungry", "guarded"):
        c.started(n)
        c.struck[n] = float(c.starts(n)[0][4])


# -- preemption


def preempt(n: str, mode: str) -> Callable[[Campaign], None]:
    def act(c: Campaign) -> None:
        c.cluster.scontrol("update", "partitionname=preempt", f"preemptmode={mode}")
        job = c.started(n)
        node = c.cluster.node_of(job)
        c.strike(
            n,
            lambda: c.cluster.submit(
                "sleep 4", "--partition=cpu", "--exclusive", f"--nodelist={node}", "--time=5", "--mem=100"
            ),
        )
        wait("preemption", lambda: c.instance(n, "PREEMPTED", "REQUEUED") or len(c.starts(n)) > 1)

    return act


def requeue_mode(cluster: Cluster) -> None:
    cluster.scontrol("update", "partitionname=preempt", "preemptmode=requeue")


# -- nodes


def slurmd_back(c: Campaign) -> None:
    node = c.cluster.node_of(c.started("briefly"))
    c.strike("briefly", c.cluster.slurmd[node].kill)
    time.sleep(4)
    c.cluster.slurmd[node].start()


def slurmd_dead(c: Campaign) -> None:
    node = c.cluster.node_of(c.started("alive"))
    c.strike("alive", c.cluster.slurmd[node].kill)
    c.cluster.wait_recorded(c.job("alive"), "NODE_FAIL", 60)


def node_lost(c: Campaign) -> None:
    node = c.cluster.node_of(c.started("lost"))
    c.strike("lost", lambda: c.cluster.lose(node))
    (c.directory / "lost.node").write_text(node)
    c.cluster.wait_recorded(c.job("lost"), "NODE_FAIL", 60)


# -- daemons


def restart_slurmctld(c: Campaign) -> None:
    c.started("restarted")
    c.cluster.saved()
    c.cluster.slurmctld.stop()
    c.cluster.slurmctld.start()


def slurmctld_down(c: Campaign) -> None:
    """Jobs end meanwhile, and others are to be submitted."""
    for n in ("first", "second"):
        c.started(n)
    c.cluster.saved()
    c.strike("next", c.cluster.slurmctld.kill)
    time.sleep(c.down_s)
    c.cluster.slurmctld.start()
    c.slurm_at["next"] = time.time()


def slurmctld_frozen(c: Campaign) -> None:
    """It accepts connections, and answers nobody: a submission may be taken by it all the same."""
    c.started("before")
    c.strike("meanwhile", c.cluster.slurmctld.freeze)
    time.sleep(35)
    c.cluster.slurmctld.thaw()
    c.slurm_at["meanwhile"] = time.time()


def slurmdbd_down(c: Campaign) -> None:
    job = c.started("unaccounted")
    c.started("counted")
    c.cluster.slurmdbd.kill()
    c.strike("unaccounted", lambda: c.cluster.scancel(job))
    c.slurm_at["unaccounted"] = time.time()
    time.sleep(30)
    c.cluster.slurmdbd.start()


# -- submissions


def few(c: Campaign) -> None:
    c.cluster.sacctmgr("add", "qos", "few", "MaxSubmitJobsPerUser=2")
    c.cluster.sacctmgr("modify", "user", "root", "set", "qos+=few")


def queue_full(c: Campaign) -> None:
    c.strike("limited0", lambda: None)


SBATCH = """#!/bin/bash
# The answer to the first submission is lost.
if [ ! -e {folder}/said ]; then
    touch {folder}/said
    script=$(cat)
    submit() {{ "{real}" "$@" <<< "$script" > {folder}/job 2>&1; }}
    {how}
    echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2
    exit 1
fi
exec "{real}" "$@"
"""


def lose_answer(how: str) -> Callable[[Campaign], None]:
    """Before the call: sbatch submits, in Bash, and says that it timed out."""

    def before(c: Campaign) -> None:
        folder = c.directory / "bin"
        folder.mkdir()
        (folder / "sbatch").write_text(SBATCH.format(folder=folder, real=shutil.which("sbatch"), how=how))
        (folder / "sbatch").chmod(0o755)
        c.path = f"{folder}:{c.path}"

    return before


# -- files


def on_small_disk(c: Campaign) -> None:
    slurm = c.directory / RUN / "journal/slurm"
    slurm.parent.mkdir(parents=True)
    slurm.symlink_to(c.directory.parent / SMALL)


def no_log(c: Campaign) -> None:
    """The disk of the batch logs is full when the job starts, and free again later."""
    job = c.job("logless")
    (c.directory / "held").unlink()
    full = c.directory / RUN / "journal/slurm/full"
    full.mkdir()
    with contextlib.suppress(OSError):
        for number in range(100_000):
            (full / str(number)).touch()
    c.cluster.scontrol("update", f"jobid={job}", "starttime=now")
    c.struck["logless"] = time.time()
    wait("a failed job", lambda: c.instance("logless", "FAILED"))
    time.sleep(20)
    shutil.rmtree(full)


# -- what SLURM forgets


def forgotten(c: Campaign) -> None:
    """The controller is stopped until slurmctld has forgotten a job whose guard was killed."""
    job = c.started("forgotten")
    c.signal(signal.SIGSTOP)
    lease = c.directory / RUN / "journal/leases/plain%2Fforgotten.txt.lock"
    os.kill(json.loads(lease.read_text())["pid"], signal.SIGKILL)
    wait("forgetting", lambda: not c.cluster.state_of(job), 150)
    c.slurm_at["forgotten"] = time.time()
    c.signal(signal.SIGCONT)


def without_accounting(c: Campaign) -> None:
    none = dict.fromkeys(("AccountingStorageEnforce", "AccountingStorageTRES"), "")
    c.cluster.change(AccountingStorageType="accounting_storage/none", MinJobAge="2", **none)
    c.cluster.slurmctld.stop()
    c.cluster.slurmctld.start()


def with_accounting(cluster: Cluster) -> None:
    names = ("AccountingStorageEnforce", "AccountingStorageTRES")
    cluster.change(
        AccountingStorageType="accounting_storage/slurmdbd", **{name: DEFAULTS[name] for name in names}
    )
    cluster.slurmctld.stop()
    cluster.slurmctld.start()
