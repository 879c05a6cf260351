"""Every fault that SLURM is known for, made to happen under a campaign, and judged.

It takes a cluster of its own. A fault is right if the attempt records have the right class and decision,
the unit comes to the right end, nothing of it ran twice at a time or started more often than SLURM or an
administrator made it start, no call hangs, and the decision follows within 15 s of what SLURM itself took.

The table has for each unit SLURM's time: s from the fault until its own record says that the job ended, was
requeued or is refused, or, for daemons, until they answer again; and ours: s from then until the journal has
the decision, or the unit is submitted.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import place
from place import Cluster
from stricken import RUN, Campaign, Row, once, seconds, unit, wait

from cluster.configuration import DEFAULTS

SMALL = "small"


class Fault(NamedTuple):
    """Units, what is done to them while the campaign runs, and how they are judged."""

    name: str
    units: list[dict[str, Any]]
    act: Callable[[Campaign], None]
    judge: Callable[[Campaign], list[Row]]
    short: bool = False


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


CANCELLED, MEMORY = (("cancelled", "refused"),), (("memory", "retry"),)
REJECTED = (("configuration", "quarantine"),)
LONG = once("sleep 300")
# The kernel is to take the guard, which is small, for the one to kill.
SHOOT_ME_FIRST = """
if [ "$AMOUNT" -le 200 ]; then
    pid=$$
    until grep -q recovery/__main__ /proc/$pid/cmdline; do pid=$(($(ps -o ppid= -p $pid))); done
    echo 1000 > /proc/$pid/oom_score_adj
fi
"""


def rejected(fault: str, n: str, says: str, c: Campaign, state: str = "REFUSED") -> Row:
    """Judge a unit that SLURM will not take, in whose record its own words have to be."""
    return c.judge(fault, n, failures=REJECTED, end="quarantined", starts=0, says=says, timed=(state,))


JOBS = [
    Fault(
        "scancel, running",
        [unit("cancelled", LONG, mem_mb=90), unit("alike", "sleep 5", mem_mb=90)],
        cancel_running,
        lambda c: [
            c.judge(
                "scancel, running",
                "cancelled",
                failures=CANCELLED,
                starts=2,
                says="CANCELLED by",
                timed=("CANCELLED",),
            ),
            c.judge("  its neighbour in the array", "alike"),
        ],
        short=True,
    ),
    Fault(
        "scancel, pending",
        [
            unit("waiting", held=True, mem_mb=80),
            unit("waiting2", held=True, mem_mb=80),
            unit("single", held=True, mem_mb=70),
        ],
        cancel_pending,
        lambda c: [
            c.judge("scancel, pending task of an array", "waiting", failures=CANCELLED),
            c.judge("  the other task", "waiting2", failures=CANCELLED),
            c.judge("scancel, pending job", "single", failures=CANCELLED, timed=("CANCELLED",)),
        ],
    ),
    Fault(
        "time limit",
        [unit("long", '[ "$AMOUNT" -gt 1 ] || sleep 300', "limited")],
        time_limit,
        lambda c: [
            c.judge(
                "time limit",
                "long",
                failures=(("time_limit", "retry"),),
                starts=2,
                says="TIMEOUT",
                timed=("TIMEOUT",),
            ),
        ],
        short=True,
    ),
    Fault(
        "out of memory",
        [
            unit("hungry", "sleep 1; head -c 250m /dev/zero | tail | wc -c", "memory"),
            unit(
                "guarded",
                SHOOT_ME_FIRST + "sleep 1; head -c 250m /dev/zero | tail | wc -c",
                "memory",
            ),
        ],
        out_of_memory,
        lambda c: [
            c.judge(
                "out of memory: the command", "hungry", failures=MEMORY, starts=2, timed=("OUT_OF_MEMORY",)
            ),
            c.judge(
                "out of memory: the guard too", "guarded", failures=MEMORY, starts=2, timed=("OUT_OF_MEMORY",)
            ),
        ],
        short=True,
    ),
    Fault(
        "scontrol requeue",
        [unit("requeued", LONG, mem_mb=60)],
        requeue,
        lambda c: [
            c.judge(
                "scontrol requeue",
                "requeued",
                failures=(("preempted", "retry"),),
                starts=2,
                timed=("REQUEUED",),
            ),
        ],
        short=True,
    ),
    Fault(
        "sbatch rejected",
        [
            unit("nowhere", partition="nowhere"),
            unit("nobody", account="nobody"),
            unit("huge", mem_mb=900_000),
            unit("closed", account="closed"),
        ],
        nothing,
        lambda c: [
            rejected("unknown partition", "nowhere", "invalid partition", c),
            rejected("unknown account", "nobody", "invalid account", c),
            rejected("account of others", "closed", "invalid account", c),
            rejected("more memory than any node has", "huge", "can not be satisfied", c),
        ],
        short=True,
    ),
    Fault(
        "never to start",
        [unit("never", partition="short", runtime=60), unit("toomuch", qos="small", threads=4, runtime=5)],
        nothing,
        lambda c: [
            rejected("pending: PartitionTimeLimit", "never", "PartitionTimeLimit", c, state="PENDING"),
            rejected("pending: beyond the QOS", "toomuch", "QOSMax", c, state="PENDING"),
        ],
        short=True,
    ),
]


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


PREEMPTED = (("preempted", "retry"),)
PREEMPTION = [
    Fault(
        f"preemption, {mode}",
        [unit(f"yielding-{mode}", LONG, partition="preempt", threads=8)],
        preempt(f"yielding-{mode}", mode),
        lambda c, mode=mode: [  # type: ignore[misc]
            c.judge(
                f"preemption, {mode}", f"yielding-{mode}", failures=PREEMPTED, starts=2, timed=("PREEMPTED",)
            ),
        ],
    )
    for mode in ("requeue", "cancel")
]


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


def judge_lost(fault: str, c: Campaign) -> list[Row]:
    row = c.judge(fault, "lost", failures=(("node", "retry"),), starts=2, timed=("NODE_FAIL",))
    after = c.judge("  submitted afterwards", "after")
    node = (c.directory / "lost.node").read_text()
    nodes = c.directory / RUN / "journal/slurm/nodes.json"
    bad = json.loads(nodes.read_text()) if nodes.exists() else {}
    if node not in bad or seconds(bad[node]["until"]) < time.time() - 120:
        row.problems.append(f"nodes.json has {bad}, not {node}")
    if any(record["host"] == node for record in c.records("lost")[1:]):
        row.problems.append("again on the lost node")
    options = [
        json.loads((c.directory / RUN / f"journal/slurm/batches/{e['batch']}/batch.json").read_text())[
            "options"
        ]
        for e in c.ledger("after")
    ]
    if not any(f"--exclude={node}" in words for words in options):
        after.problems.append(f"{node} was not excluded: {options[:1]}")
    return [row, after]


NODES = [
    Fault(
        "slurmd killed and back",
        [unit("briefly", "sleep 20", threads=5)],
        slurmd_back,
        lambda c: [c.judge("slurmd killed and back", "briefly")],
    ),
    Fault(
        "slurmd dead, processes alive",
        [unit("alive", "sleep 60", threads=5, partition="cpu,gpu")],
        slurmd_dead,
        lambda c: [c.judge("slurmd dead, its processes alive", "alive")],
    ),
    Fault(
        "node lost",
        [unit("lost", LONG, threads=5, partition="cpu,gpu"), unit("after", after=["plain/lost.txt"])],
        node_lost,
        lambda c: judge_lost("node lost for good", c),
    ),
]
LOST_ONCE = [
    Fault(
        "node lost, no requeue",
        [unit("lost", LONG, partition="cpu,gpu"), unit("after", after=["plain/lost.txt"])],
        node_lost,
        lambda c: judge_lost("node lost, JobRequeue=0", c),
    )
]


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


def judge_after(fault: str, n: str, c: Campaign) -> Row:
    submitted = [seconds(line["ts"]) for line in c.ledger(n) if line["job"]]
    c.ours_at[n] = min(submitted, default=float("inf"))
    row = c.judge(fault, n)
    if "SLURM does not answer" not in c.log() or "SLURM answers again" not in c.log():
        row.problems.append("nobody was told of the pause")
    return row


def submitted_once(c: Campaign) -> list[str]:
    """What is wrong with the number of jobs that SLURM got."""
    key = json.loads((c.directory / RUN / "journal/slurm/run.json").read_text())["key"]
    jobs = {one.job for one in c.cluster.executions() if one.name.startswith(f"ripresa.{key}.")}
    return [] if len(jobs) == len(c.units) else [f"{len(jobs)} jobs, {len(c.units)} units: {sorted(jobs)}"]


def judge_frozen(c: Campaign) -> Row:
    row = judge_after("slurmctld frozen at a submission", "meanwhile", c)
    row.problems.extend(submitted_once(c))
    return row


DAEMONS = [
    Fault(
        "slurmctld restarted",
        [unit("restarted", "sleep 15")],
        restart_slurmctld,
        lambda c: [c.judge("slurmctld restarted", "restarted")],
    ),
    Fault(
        "slurmctld down",
        [unit("first", "sleep 20"), unit("second", "sleep 60"), unit("next", after=["plain/first.txt"])],
        slurmctld_down,
        lambda c: [
            c.judge("slurmctld down: ends meanwhile", "first"),
            c.judge("  goes on", "second"),
            judge_after("  to be submitted meanwhile", "next", c),
        ],
    ),
    Fault(
        "slurmctld frozen",
        [unit("before", "sleep 6"), unit("meanwhile", after=["plain/before.txt"])],
        slurmctld_frozen,
        lambda c: [judge_frozen(c)],
    ),
    Fault(
        "slurmdbd down",
        [unit("unaccounted", LONG, mem_mb=60), unit("counted", "sleep 15", mem_mb=61)],
        slurmdbd_down,
        lambda c: [
            c.judge("slurmdbd down, scancel", "unaccounted", failures=CANCELLED, starts=2),
            c.judge("  another job", "counted"),
        ],
    ),
]


# -- submissions


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


def lose_answer(c: Campaign, how: str) -> None:
    """Before the call: sbatch submits, and says that it timed out."""
    folder = c.directory / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(SBATCH.format(folder=folder, real=shutil.which("sbatch"), how=how))
    (folder / "sbatch").chmod(0o755)
    c.path = f"{folder}:{c.path}"


def judge_once(fault: str, c: Campaign) -> list[Row]:
    rows = [c.judge(fault if n == "told" else "  beside it", n) for n in c.units]
    rows[0].problems.extend(submitted_once(c))
    return rows


def queue_full(c: Campaign) -> None:
    c.strike("limited0", lambda: None)


LIMITED = [
    Fault(
        "submission limit",
        [unit(f"limited{number}", "sleep 3", qos="few") for number in range(5)],
        queue_full,
        lambda c: [c.judge("QOS MaxSubmitJobs=2, 5 units", f"limited{number}") for number in range(5)],
        short=True,
    )
]
LOST_ANSWER = [
    Fault(
        "sbatch times out after it submitted",
        [unit("told", "sleep 5"), unit("told2", "sleep 5")],
        nothing,
        lambda c: judge_once("sbatch times out after it submitted", c),
        short=True,
    )
]
LATE_ANSWER = [
    Fault(
        "sbatch times out before it submits",
        [unit("told", "sleep 5")],
        nothing,
        lambda c: judge_once("sbatch times out, submitted 4 s later", c),
    )
]


# -- files


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


DISK = [
    Fault(
        "disk full for the log",
        [unit("logless", held=True)],
        no_log,
        lambda c: [
            c.judge(
                "disk full for the log (0:53)",
                "logless",
                failures=(("file_system", "retry"),),
                timed=("FAILED",),
            ),
        ],
    )
]


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


FORGOTTEN = [
    Fault(
        "forgotten by slurmctld",
        [unit("forgotten", LONG)],
        forgotten,
        lambda c: [
            # Who kills without a word is, with nothing else known, the kernel.
            c.judge("forgotten by slurmctld, accounting", "forgotten", failures=MEMORY, starts=2)
        ],
    )
]
UNACCOUNTED = [
    Fault(
        "forgotten, no accounting",
        [unit("forgotten", LONG)],
        forgotten,
        lambda c: [
            c.judge(
                "forgotten by slurmctld, no accounting",
                "forgotten",
                failures=(("unknown", "retry"),),
                starts=2,
            )
        ],
    )
]


class Group(NamedTuple):
    """Faults that strike the same campaign. ``calls`` of snakemake; the first one while they happen."""

    name: str
    faults: list[Fault]
    calls: int = 1
    scale: float = 0.01
    before: Callable[[Campaign], None] = nothing
    after: Callable[[Cluster], None] = lambda cluster: None


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


def few(c: Campaign) -> None:
    c.cluster.sacctmgr("add", "qos", "few", "MaxSubmitJobsPerUser=2")
    c.cluster.sacctmgr("modify", "user", "root", "set", "qos+=few")


def on_small_disk(c: Campaign) -> None:
    slurm = c.directory / RUN / "journal/slurm"
    slurm.parent.mkdir(parents=True)
    slurm.symlink_to(c.directory.parent / SMALL)


def requeue_mode(cluster: Cluster) -> None:
    cluster.scontrol("update", "partitionname=preempt", "preemptmode=requeue")


GROUPS = [
    Group("jobs", JOBS, calls=2),
    Group("preemption", PREEMPTION, after=requeue_mode),
    Group("nodes", NODES, scale=0.2),
    Group("lost once", LOST_ONCE, scale=0.2, before=lambda c: c.cluster.change(JobRequeue="0")),
    Group("daemons", DAEMONS[:2]),
    Group("frozen", DAEMONS[2:3]),
    Group("database", DAEMONS[3:], calls=2),
    Group("limits", LIMITED, before=few),
    Group("answer lost", LOST_ANSWER, before=lambda c: lose_answer(c, 'submit "$@"')),
    Group(
        "answer late", LATE_ANSWER, before=lambda c: lose_answer(c, '(exec >&- 2>&-; sleep 4; submit "$@") &')
    ),
    Group("disk", DISK, before=on_small_disk),
    Group("forgotten", FORGOTTEN, before=lambda c: c.cluster.change(MinJobAge="2")),
    Group("unaccounted", UNACCOUNTED, before=without_accounting, after=with_accounting),
]


def run(cluster: Cluster, base: Path, group: Group, faults: list[Fault], down_s: float) -> Iterator[Row]:
    """One campaign, its faults, and what became of each."""
    units = [one for fault in faults for one in fault.units]
    campaign = Campaign(cluster, base / group.name.replace(" ", "_"), units, group.scale)
    campaign.down_s = down_s
    failed = {}
    try:
        group.before(campaign)
        campaign.call()
        for fault in faults:
            try:
                fault.act(campaign)
            except (RuntimeError, subprocess.SubprocessError) as error:
                failed[fault.name] = str(error).splitlines()[0]
        (campaign.directory / "held").unlink(missing_ok=True)
        campaign.end()
        for _ in range(1, group.calls):
            campaign.call()
            campaign.end()
        for fault in faults:
            for row in fault.judge(campaign):
                if fault.name in failed:
                    row.problems.append(failed.pop(fault.name))
                yield row
    finally:
        campaign.stop()
        group.after(cluster)
        cluster.heal()


def table(rows: list[Row]) -> Iterator[str]:
    """The rows for people."""
    yield "| fault | SLURM (s) | ours (s) | class | decision | end | starts | verdict |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        took = ["-" if value is None else f"{value:.1f}" for value in (row.slurm_s, row.ours_s)]
        verdict = "; ".join(row.problems) or "right"
        words = (row.fault, *took, row.classes, row.decisions, row.end, str(row.starts), verdict)
        yield f"| {' | '.join(words)} |"


def chosen(only: list[str], *, short: bool) -> list[tuple[Group, list[Fault]]]:
    """The faults whose name, or whose group's, begins so, and of them the most telling ones; or all."""

    def is_meant(group: Group, fault: Fault) -> bool:
        names = (group.name, fault.name)
        return (fault.short or not short) and (not only or any(n.startswith(o) for n in names for o in only))

    found = [(group, [fault for fault in group.faults if is_meant(group, fault)]) for group in GROUPS]
    return [(group, faults) for group, faults in found if faults]


@contextlib.contextmanager
def small_disk(base: Path) -> Iterator[None]:
    """A disk with room for few files. Nodes see what is mounted before they are there."""
    folder = base / SMALL
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=200", "small", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the most telling faults only")
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="faults whose name, or group, begins so"
    )
    parser.add_argument("--down", type=float, default=120, metavar="S", help="how long slurmctld stays away")
    place.add_argument(parser)
    arguments = parser.parse_args()
    wanted = chosen(arguments.only or [], short=arguments.short)
    if not wanted:
        names = ", ".join(fault.name for group in GROUPS for fault in group.faults)
        parser.error(f"no fault is called so; there are {names}")
    base = Path(tempfile.mkdtemp(prefix="faults-"))
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        if any(group.name == "disk" for group, _ in wanted):
            if arguments.state:
                parser.error("a full disk has to be there before the cluster: leave out --state")
            stack.enter_context(small_disk(base))
        cluster = stack.enter_context(place.cluster(arguments.state))
        for group, faults in wanted:
            for row in run(cluster, base, group, faults, arguments.down):
                rows.append(row)
                word = "WRONG" if row.problems else "right"
                print(f"{word}: {row.fault.strip()}", file=sys.stderr, flush=True)
    print("\n".join(table(rows)))
    met = not any(row.problems for row in rows)
    print(f"verdict: {'met' if met else f'not met; see {base}'}")
    if met:
        shutil.rmtree(base)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
