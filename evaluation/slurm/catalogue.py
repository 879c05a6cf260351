"""The catalogue: every fault of SLURM, the units that it strikes, and what is to become of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import acts
from acts import nothing
from judge import Expected, node_is_avoided, node_is_excluded, pause_is_told, submitted_once
from place import Cluster
from stricken import Campaign, once, unit


class Fault(NamedTuple):
    """Units, what is done to them while the campaign runs, and how they are judged."""

    name: str
    units: list[dict[str, Any]]
    act: Callable[[Campaign], None]
    expected: list[Expected]
    short: bool = False
    """It is one of the most telling ones."""


class Group(NamedTuple):
    """Faults that strike the same campaign. ``calls`` of snakemake; the first one while they happen."""

    name: str
    faults: list[Fault]
    calls: int = 1
    scale: float = 0.01
    before: Callable[[Campaign], None] = nothing
    after: Callable[[Cluster], None] = lambda cluster: None


CANCELLED, MEMORY = (("cancelled", "refused"),), (("memory", "retry"),)
PREEMPTED, NODE = (("preempted", "retry"),), (("node", "retry"),)
LONG = once("sleep 300")
HUNGRY = "sleep 1; head -c 250m /dev/zero | tail | wc -c"
# The kernel is to take the guard, which is small, for the one to kill.
SHOOT_ME_FIRST = """
if [ "$AMOUNT" -le 200 ]; then
    pid=$$
    until grep -q recovery/__main__ /proc/$pid/cmdline; do pid=$(($(ps -o ppid= -p $pid))); done
    echo 1000 > /proc/$pid/oom_score_adj
fi
"""


def rejected(fault: str, n: str, says: str, state: str = "REFUSED") -> Expected:
    """Of a unit that SLURM will not take, in whose record its own words have to be."""
    return Expected(fault, n, (("configuration", "quarantine"),), "quarantined", 0, says, (state,))


JOBS = [
    Fault(
        "scancel, running",
        [unit("cancelled", LONG, mem_mb=90), unit("alike", "sleep 5", mem_mb=90)],
        acts.cancel_running,
        [
            Expected(
                "scancel, running",
                "cancelled",
                CANCELLED,
                starts=2,
                says="CANCELLED by",
                timed=("CANCELLED",),
            ),
            Expected("  its neighbour in the array", "alike"),
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
        acts.cancel_pending,
        [
            Expected("scancel, pending task of an array", "waiting", CANCELLED),
            Expected("  the other task", "waiting2", CANCELLED),
            Expected("scancel, pending job", "single", CANCELLED, timed=("CANCELLED",)),
        ],
    ),
    Fault(
        "time limit",
        [unit("long", '[ "$AMOUNT" -gt 1 ] || sleep 300', "limited")],
        acts.time_limit,
        [
            Expected(
                "time limit", "long", (("time_limit", "retry"),), starts=2, says="TIMEOUT", timed=("TIMEOUT",)
            )
        ],
        short=True,
    ),
    Fault(
        "out of memory",
        [unit("hungry", HUNGRY, "memory"), unit("guarded", SHOOT_ME_FIRST + HUNGRY, "memory")],
        acts.out_of_memory,
        [
            Expected("out of memory: the command", "hungry", MEMORY, starts=2, timed=("OUT_OF_MEMORY",)),
            Expected("out of memory: the guard too", "guarded", MEMORY, starts=2, timed=("OUT_OF_MEMORY",)),
        ],
        short=True,
    ),
    Fault(
        "scontrol requeue",
        [unit("requeued", LONG, mem_mb=60)],
        acts.requeue,
        [Expected("scontrol requeue", "requeued", PREEMPTED, starts=2, timed=("REQUEUED",))],
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
        [
            rejected("unknown partition", "nowhere", "invalid partition"),
            rejected("unknown account", "nobody", "invalid account"),
            rejected("account of others", "closed", "invalid account"),
            rejected("more memory than any node has", "huge", "can not be satisfied"),
        ],
        short=True,
    ),
    Fault(
        "never to start",
        [unit("never", partition="short", runtime=60), unit("toomuch", qos="small", threads=4, runtime=5)],
        nothing,
        [
            rejected("pending: PartitionTimeLimit", "never", "PartitionTimeLimit", "PENDING"),
            rejected("pending: beyond the QOS", "toomuch", "QOSMax", "PENDING"),
        ],
        short=True,
    ),
]
PREEMPTION = [
    Fault(
        f"preemption, {mode}",
        [unit(f"yielding-{mode}", LONG, partition="preempt", threads=8)],
        acts.preempt(f"yielding-{mode}", mode),
        [Expected(f"preemption, {mode}", f"yielding-{mode}", PREEMPTED, starts=2, timed=("PREEMPTED",))],
    )
    for mode in ("requeue", "cancel")
]
NODES = [
    Fault(
        "slurmd killed and back",
        [unit("briefly", "sleep 20", threads=5)],
        acts.slurmd_back,
        [Expected("slurmd killed and back", "briefly")],
    ),
    Fault(
        "slurmd dead, processes alive",
        [unit("alive", "sleep 60", threads=5, partition="cpu,gpu")],
        acts.slurmd_dead,
        [Expected("slurmd dead, its processes alive", "alive")],
    ),
]


def node_lost(name: str, fault: str, **lost: Any) -> Fault:
    """A node vanishes with what runs there, and another unit is to be submitted afterwards."""
    return Fault(
        name,
        [unit("lost", LONG, partition="cpu,gpu", **lost), unit("after", after=["plain/lost.txt"])],
        acts.node_lost,
        [
            Expected(fault, "lost", NODE, starts=2, timed=("NODE_FAIL",), also=(node_is_avoided,)),
            Expected("  submitted afterwards", "after", also=(node_is_excluded,)),
        ],
    )


DAEMONS = [
    Fault(
        "slurmctld restarted",
        [unit("restarted", "sleep 15")],
        acts.restart_slurmctld,
        [Expected("slurmctld restarted", "restarted")],
    ),
    Fault(
        "slurmctld down",
        [unit("first", "sleep 20"), unit("second", "sleep 60"), unit("next", after=["plain/first.txt"])],
        acts.slurmctld_down,
        [
            Expected("slurmctld down: ends meanwhile", "first"),
            Expected("  goes on", "second"),
            Expected("  to be submitted meanwhile", "next", submitted=True, also=(pause_is_told,)),
        ],
    ),
]
FROZEN = Fault(
    "slurmctld frozen",
    [unit("before", "sleep 6"), unit("meanwhile", after=["plain/before.txt"])],
    acts.slurmctld_frozen,
    [
        Expected(
            "slurmctld frozen at a submission",
            "meanwhile",
            submitted=True,
            also=(pause_is_told, submitted_once),
        )
    ],
)
DATABASE = Fault(
    "slurmdbd down",
    [unit("unaccounted", LONG, mem_mb=60), unit("counted", "sleep 15", mem_mb=61)],
    acts.slurmdbd_down,
    [
        Expected("slurmdbd down, scancel", "unaccounted", CANCELLED, starts=2),
        Expected("  another job", "counted"),
    ],
)
LIMITED = Fault(
    "submission limit",
    [unit(f"limited{number}", "sleep 3", qos="few") for number in range(5)],
    acts.queue_full,
    [Expected("QOS MaxSubmitJobs=2, 5 units", f"limited{number}") for number in range(5)],
    short=True,
)
LOST_ANSWER = Fault(
    "sbatch times out after it submitted",
    [unit("told", "sleep 5"), unit("told2", "sleep 5")],
    nothing,
    [
        Expected("sbatch times out after it submitted", "told", also=(submitted_once,)),
        Expected("  beside it", "told2"),
    ],
    short=True,
)
LATE_ANSWER = Fault(
    "sbatch times out before it submits",
    [unit("told", "sleep 5")],
    nothing,
    [Expected("sbatch times out, submitted 4 s later", "told", also=(submitted_once,))],
)
DISK = Fault(
    "disk full for the log",
    [unit("logless", held=True)],
    acts.no_log,
    [Expected("disk full for the log (0:53)", "logless", (("file_system", "retry"),), timed=("FAILED",))],
)
FORGOTTEN = Fault(
    "forgotten by slurmctld",
    [unit("forgotten", LONG)],
    acts.forgotten,
    # Who kills without a word is, with nothing else known, the kernel.
    [Expected("forgotten by slurmctld, accounting", "forgotten", MEMORY, starts=2)],
)
UNACCOUNTED = Fault(
    "forgotten, no accounting",
    [unit("forgotten", LONG)],
    acts.forgotten,
    [Expected("forgotten by slurmctld, no accounting", "forgotten", (("unknown", "retry"),), starts=2)],
)

GROUPS = [
    Group("jobs", JOBS, calls=2),
    Group("preemption", PREEMPTION, after=acts.requeue_mode),
    Group("nodes", [*NODES, node_lost("node lost", "node lost for good", threads=5)], scale=0.2),
    Group(
        "lost once",
        [node_lost("node lost, no requeue", "node lost, JobRequeue=0")],
        scale=0.2,
        before=lambda c: c.cluster.change(JobRequeue="0"),
    ),
    Group("daemons", DAEMONS),
    Group("frozen", [FROZEN]),
    Group("database", [DATABASE], calls=2),
    Group("limits", [LIMITED], before=acts.few),
    Group("answer lost", [LOST_ANSWER], before=acts.lose_answer('submit "$@"')),
    Group("answer late", [LATE_ANSWER], before=acts.lose_answer('(exec >&- 2>&-; sleep 4; submit "$@") &')),
    Group("disk", [DISK], before=acts.on_small_disk),
    Group("forgotten", [FORGOTTEN], before=lambda c: c.cluster.change(MinJobAge="2")),
    Group("unaccounted", [UNACCOUNTED], before=acts.without_accounting, after=acts.with_accounting),
]
