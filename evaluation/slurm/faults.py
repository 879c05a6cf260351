"""Every fault that SLURM is known for, made to happen under a campaign, and judged.

On a cluster of its own (tests/cluster). A fault is right if the attempt records have the right class and decision,
the unit comes to the right end, nothing of it ever ran twice at a time or was started more often than SLURM or an
administrator made it start, no call hangs, and the decision follows within 15 s of what SLURM itself took.

The table has for each unit SLURM's time (s from the fault until SLURM's own record says that the job ended or was
requeued; for daemons, until they answer again) and ours (s from then until it was decided, or submitted again).
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

sys.path[:0] = [str(Path(__file__).parents[2] / "tests"), str(Path(__file__).parents[1])]

from cluster.handle import Cluster  # noqa: E402

ALLOWED_S = 15.0
RUN = "runs/faults"

SNAKEFILE = """
import json
from pathlib import Path
from ripresa.dsl import Units, escalated, guard, open_run
from ripresa.recovery import policy

campaign = open_run("faults", main=workflow.is_main_process)
points = json.loads(Path("units.json").read_text())
plain = Units("plain/{n}.txt", parameters=[p for p in points if p["rule"] == "plain"])
memory = Units("memory/{n}.txt", parameters=[p for p in points if p["rule"] == "memory"])
limited = Units("limited/{n}.txt", parameters=[p for p in points if p["rule"] == "limited"])

def of(name):
    return lambda wildcards: plain.find(wildcards)[name]

def extra(wildcards):
    held = plain.find(wildcards)["held"] and Path("held").exists()
    return "--begin=now+1hour" if held else plain.find(wildcards)["extra"]

rule all:
    input: plain.targets(), memory.targets(), limited.targets()

localrules: all

rule plain:
    input: lambda wildcards: [f"{campaign.dir}/{after}" for after in plain.find(wildcards)["after"]]
    output: plain.target
    params: p=plain.params
    threads: lambda wildcards: plain.find(wildcards)["threads"]
    resources:
        mem_mb=of("mem_mb"), slurm_partition=of("partition"), slurm_account=of("account"), qos=of("qos"),
        runtime=of("runtime"), slurm_extra=extra
    shell: guard("bash unit.sh {params.p[n]} 0 {output}", stall=0, beat=1)

rule memory:
    output: memory.target
    params: p=memory.params
    resources: mem_mb=escalated(memory, "mem_mb", 200, limit=1600, like=("n",))
    shell: guard("bash unit.sh {params.p[n]} {resources.mem_mb} {output}", stall=0, beat=1, resources=("mem_mb",))

rule limited:
    output: limited.target
    params: p=limited.params
    resources: mem_mb=100, runtime=escalated(limited, "runtime", 1, limit=8, like=("n",))
    shell: guard("bash unit.sh {params.p[n]} {resources.runtime} {output}", stall=0, beat=1, resources=("runtime",))

onstart:
    jobs = ((job.output[0], job.rule.name) for job in workflow.dag.jobs if job.output)
    campaign.start(jobs, config_sha256="", policy={**policy.default(), "time_scale": SCALE})

onsuccess:
    campaign.end()

onerror:
    campaign.end()

if workflow.nodes is not None:
    workflow.global_resources["_cores"] = None
"""

UNIT = """
echo "$1 $SLURM_JOB_ID ${SLURM_RESTART_COUNT:-0} $SLURMD_NODENAME $(date +%s.%N)" >> starts
(
    flock -n 9 || echo "$1" >> overlaps
    set -eo pipefail
    AMOUNT=$2 . "bodies/$1"
    echo "unit $1" > "$3"
) 9> "locks/$1"
"""


def unit(n: str, body: str = "sleep 1", rule: str = "plain", **more: Any) -> dict[str, Any]:
    """A unit of the campaign: its name, what it does (Bash), and what it asks of SLURM."""
    asked = {
        "mem_mb": 100, "partition": "cpu", "account": "", "qos": "", "runtime": 60, "extra": "", "threads": 1,
        "after": [], "held": False,
    }  # fmt: skip
    return {"n": n, "rule": rule, "body": body, **asked, **more}


def once(body: str) -> str:
    """A body that does this at its unit's first start only."""
    return f'if [ ! -e "once.$1" ]; then touch "once.$1"; {body}; fi'


class Row(NamedTuple):
    """One unit as it was judged."""

    fault: str
    slurm_s: float | None
    ours_s: float | None
    classes: str
    decisions: str
    end: str
    starts: int
    problems: list[str]


class Campaign:
    """One campaign: its folder, and the calls of snakemake."""

    def __init__(self, cluster: Cluster, directory: Path, units: list[dict[str, Any]], scale: float) -> None:
        self.cluster = cluster
        self.directory = directory
        self.units = {one["n"]: one for one in units}
        self.down_s = 0.0
        self.struck: dict[str, float] = {}
        self.slurm_at: dict[str, float] = {}
        self.ours_at: dict[str, float] = {}
        self.codes: list[int | None] = []
        self.path = os.environ["PATH"]
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("locks", "bodies"):
            (directory / name).mkdir(parents=True)
        for one in units:
            (directory / "bodies" / one["n"]).write_text(one["body"] + "\n")
        parameters = [{k: v for k, v in one.items() if k != "body"} for one in units]
        (directory / "units.json").write_text(json.dumps(parameters))
        (directory / "Snakefile").write_text(SNAKEFILE.replace("SCALE", str(scale)))
        (directory / "unit.sh").write_text(UNIT)
        (directory / "held").touch()
        shutil.copytree(Path(__file__).parents[2] / "profiles" / "slurm", directory / "slurm")

    # -- calls

    def call(self) -> None:
        """Call snakemake."""
        options = (
            "--rerun-incomplete --keep-going --nolock --retries 100 --scheduler recovery --logger journal"
        )
        environment = {k: v for k, v in self.cluster.environment.items() if not k.startswith("RIPRESA_")}
        with (self.directory / "calls.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "snakemake", "--profile", "slurm", "--cores", "all", *options.split()],
                cwd=self.directory, env=environment | {"PATH": self.path}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def end(self, seconds: float = 150) -> None:
        """Wait for the end of the call, which hangs if it takes longer."""
        assert self._process
        try:
            self.codes.append(self._process.wait(seconds))
        except subprocess.TimeoutExpired:
            self.stop()
            self.codes.append(None)

    def stop(self) -> None:
        """End the call at once, if it goes on."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the controller."""
        assert self._process
        self._process.send_signal(number)

    # -- what is known of a unit

    def target(self, n: str) -> str:
        return f"{self.units[n]['rule']}/{n}.txt"

    def starts(self, n: str) -> list[list[str]]:
        """The start lines of a unit: name, job, restarts, node, time."""
        try:
            lines = (self.directory / "starts").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [words for words in map(str.split, lines) if words[0] == n]

    def records(self, n: str) -> list[dict[str, Any]]:
        """The newest record of each attempt."""
        newest: dict[int, dict[str, Any]] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in (
                (self.directory / RUN / f"journal/attempts/{self.target(n)}.jsonl").read_text().splitlines()
            ):
                record = json.loads(line)
                if record["outcome"] != "released":
                    newest[record["attempt"]] = record
        return list(newest.values())

    def ledger(self, n: str) -> list[dict[str, Any]]:
        """What the controller noted of a unit's jobs."""
        try:
            lines = (self.directory / RUN / "journal/slurm/ledger.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line for line in map(json.loads, lines) if line["target"] == self.target(n)]

    def job(self, n: str) -> str:
        """The job of a unit, once it is submitted."""
        return wait(
            f"a job of {n}", lambda: next((e["job"] for e in reversed(self.ledger(n)) if e["job"]), None)
        )

    def started(self, n: str, times: int = 1) -> str:
        """Wait until a unit has started so often; its job."""
        wait(f"start {times} of {n}", lambda: len(self.starts(n)) >= times)
        return self.job(n)

    def strike(self, n: str, act: Callable[[], object]) -> None:
        """Do it to a unit, now."""
        self.struck[n] = time.time()
        act()

    def instance(self, n: str, *states: str) -> float | None:
        """When the first instance of a unit's jobs ended in one of these states, by SLURM's accounting.

        What never started is in none: REFUSED and PENDING are what the controller was told.
        """
        for line in self.ledger(n):
            if line["state"] in states and (line["state"] == "REFUSED" or line["reason"]):
                return seconds(line["ts"])
        jobs = dict.fromkeys(e["job"] for e in self.ledger(n) if e["job"])
        for job in jobs:
            lines = self.cluster._run(
                "env", "SLURM_TIME_FORMAT=%s", "sacct", "-nPX", "-D", "-j", job, "-o", "State,End,JobID"
            ).splitlines()
            for state, end, _ in (line.split("|") for line in lines):
                if state.split()[0] in states and end.isdigit():
                    return float(end)
        return None

    def log(self) -> str:
        return (self.directory / "calls.log").read_text(errors="replace")

    # -- the judge

    def judge(
        self,
        fault: str,
        n: str,
        *,
        failures: tuple[tuple[str, str], ...] = (),
        end: str = "published",
        starts: int = 1,
        says: str = "",
        timed: tuple[str, ...] = (),
    ) -> Row:
        """What became of a unit. ``timed`` are SLURM's states of the instance that ended by the fault."""
        problems = []
        records = self.records(n)
        failed = [record for record in records if record["outcome"] not in ("published", "adopted")]
        found = tuple((record["failure_class"], record["decision"]) for record in failed)
        if found != failures:
            problems.append(f"failures are {found}, not {failures}")
        last = records[-1] if records else {}
        path = self.directory / RUN / self.target(n)
        there = path.exists() and path.read_text() == f"unit {n}\n"
        published = there and last.get("outcome") in ("published", "adopted")
        is_end = "published" if published else {"refused": "given up", "quarantine": "quarantined"}.get(
            last.get("decision", ""), "nothing"
        )  # fmt: skip
        if is_end != end or path.exists() != there:
            problems.append(f"it ended as {is_end}, not {end}")
        if len(self.starts(n)) != starts:
            problems.append(f"{len(self.starts(n))} starts, not {starts}")
        overlaps = self.directory / "overlaps"
        if overlaps.exists() and n in overlaps.read_text().split():
            problems.append("two at once")
        if says and not any(says.lower() in str(record["evidence"]).lower() for record in failed):
            problems.append(f"no evidence says {says!r}: {[record['evidence'] for record in failed]}")
        if None in self.codes:
            problems.append("the call hangs")
        slurm_at = self.slurm_at.get(n) or (self.instance(n, *timed) if timed else None)
        ours_at = self.ours_at.get(n) or (seconds(failed[0]["ended"]) if failed else None)
        ours_s = None if slurm_at is None or ours_at is None else ours_at - slurm_at
        if timed and slurm_at is None:
            problems.append(f"SLURM has no instance that is {' or '.join(timed)}")
        if ours_s is not None and ours_s > ALLOWED_S:
            problems.append(f"decided {ours_s:.1f} s after SLURM")
        struck = self.struck.get(n)
        slurm_s = None if slurm_at is None or struck is None else slurm_at - struck
        classes = ", ".join(str(one) for one, _ in found) or "-"
        decisions = ", ".join(str(one) for _, one in found) or "-"
        return Row(fault, slurm_s, ours_s, classes, decisions, is_end, len(self.starts(n)), problems)


def seconds(text: str) -> float:
    """Seconds since the epoch of a time in the journal."""
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def wait(what: str, condition: Callable[[], Any], limit_s: float = 90) -> Any:
    """The first true value of a condition. Raises RuntimeError if there is none in time."""
    end = time.monotonic() + limit_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not happen within {limit_s:.0f} s")
        time.sleep(0.2)
    return value


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
    job = c.job("waiting")
    wait("a pending job", lambda: job in c.cluster.squeue("-h", "-r", "-t", "pending", "-o", "%i").split())
    c.strike("waiting", lambda: c.cluster.scancel(job))
    c.slurm_at["waiting"] = time.time()
    c.job("waiting2")
    c.cluster.scancel(c.job("waiting2"))


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

JOBS = [
    Fault(
        "scancel, running",
        [unit("cancelled", LONG, mem_mb=90), unit("alike", "sleep 5", mem_mb=90)],
        cancel_running,
        lambda c: [
            c.judge("scancel, running", "cancelled", failures=CANCELLED, starts=2, says="CANCELLED by",
                    timed=("CANCELLED",)),
            c.judge("  its neighbour in the array", "alike"),
        ],
        short=True,
    ),
    Fault(
        "scancel, pending",
        [unit("waiting", held=True, mem_mb=80), unit("waiting2", held=True, mem_mb=80), unit("single", held=True, mem_mb=70)],
        lambda c: (cancel_pending(c), c.strike("single", lambda: c.cluster.scancel(c.job("single"))), None)[-1],
        lambda c: [
            c.judge("scancel, pending task", "waiting", failures=CANCELLED),
            c.judge("scancel, pending task", "waiting2", failures=CANCELLED),
            c.judge("scancel, pending job", "single", failures=CANCELLED, says="CANCELLED", timed=("CANCELLED",)),
        ],
    ),
    Fault(
        "time limit",
        [unit("long", '[ "$AMOUNT" -gt 1 ] || sleep 300', "limited")],
        time_limit,
        lambda c: [
            c.judge("time limit", "long", failures=(("time_limit", "retry"),), starts=2, says="TIMEOUT",
                    timed=("TIMEOUT",)),
        ],
        short=True,
    ),
    Fault(
        "out of memory",
        [
            unit("hungry", "sleep 1; head -c 250m /dev/zero | tail | wc -c", "memory"),
            unit(
                "guarded",
                'sleep 1; [ "$AMOUNT" -gt 200 ] || { pid=$$; until grep -q recovery/__main__ /proc/$pid/cmdline; do'
                " pid=$(($(ps -o ppid= -p $pid))); done; echo 1000 > /proc/$pid/oom_score_adj;"
                " };"
                " head -c 250m /dev/zero | tail | wc -c",
                "memory",
            ),
        ],
        out_of_memory,
        lambda c: [
            c.judge("out of memory: the command", "hungry", failures=MEMORY, starts=2, timed=("OUT_OF_MEMORY",)),
            c.judge("out of memory: the guard too", "guarded", failures=MEMORY, starts=2, timed=("OUT_OF_MEMORY",)),
        ],
        short=True,
    ),
    Fault(
        "scontrol requeue",
        [unit("requeued", LONG, mem_mb=60)],
        requeue,
        lambda c: [
            c.judge("scontrol requeue", "requeued", failures=(("preempted", "retry"),), starts=2,
                    timed=("REQUEUED",)),
        ],
        short=True,
    ),
    Fault(
        "sbatch rejected",
        [
            unit("nowhere", partition="nowhere"), unit("nobody", account="nobody"),
            unit("huge", mem_mb=900_000), unit("closed", account="closed"),
        ],
        nothing,
        lambda c: [
            c.judge("unknown partition", "nowhere", failures=REJECTED, end="quarantined", starts=0, says="invalid partition", timed=("REFUSED",)),
            c.judge("unknown account", "nobody", failures=REJECTED, end="quarantined", starts=0, says="invalid account", timed=("REFUSED",)),
            c.judge("account of others", "closed", failures=REJECTED, end="quarantined", starts=0, says="invalid account", timed=("REFUSED",)),
            c.judge("more memory than there is", "huge", failures=REJECTED, end="quarantined", starts=0, says="sbatch", timed=("REFUSED",)),
        ],
        short=True,
    ),
    Fault(
        "never to start",
        [unit("never", partition="short", runtime=60), unit("toomuch", qos="small", threads=4, runtime=5)],
        nothing,
        lambda c: [
            c.judge("pending: PartitionTimeLimit", "never", failures=REJECTED, end="quarantined", starts=0,
                    says="PartitionTimeLimit", timed=("PENDING",)),
            c.judge("pending: beyond the QOS", "toomuch", failures=REJECTED, end="quarantined", starts=0, says="QOSMax", timed=("PENDING",)),
        ],
        short=True,
    ),
]  # fmt: skip


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
        short=mode == "cancel",
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
        short=True,
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


DAEMONS = [
    Fault(
        "slurmctld restarted",
        [unit("restarted", "sleep 15")],
        restart_slurmctld,
        lambda c: [c.judge("slurmctld restarted", "restarted")],
        short=True,
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
        short=True,
    ),
    Fault(
        "slurmctld frozen",
        [unit("before", "sleep 6"), unit("meanwhile", after=["plain/before.txt"])],
        slurmctld_frozen,
        lambda c: [judge_after("slurmctld frozen at a submission", "meanwhile", c)],
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
    names = {f"ripresa.{json.loads((c.directory / RUN / 'journal/slurm/run.json').read_text())['key']}"}
    jobs = {
        one.job
        for one in c.cluster.executions()
        if any(one.name.startswith(name) for name in names) and "." not in one.job
    }
    if len(jobs) != len(c.units):
        rows[0].problems.append(f"{len(jobs)} jobs for {len(c.units)} units: {sorted(jobs)}")
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
            c.judge(
                "forgotten by slurmctld, accounting", "forgotten", failures=(("unknown", "retry"),), starts=2
            )
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
    c.cluster.change(
        AccountingStorageType="accounting_storage/none", AccountingStorageEnforce="", AccountingStorageTRES="",
        MinJobAge="2",
    )  # fmt: skip
    c.cluster.slurmctld.stop()
    c.cluster.slurmctld.start()


def few(c: Campaign) -> None:
    c.cluster.sacctmgr("add", "qos", "few", "MaxSubmitJobsPerUser=2")
    c.cluster.sacctmgr("modify", "user", "root", "set", "qos+=few")


def small_disk(c: Campaign) -> None:
    slurm = c.directory / RUN / "journal/slurm"
    slurm.parent.mkdir(parents=True)
    slurm.symlink_to(c.cluster.state.parent / "small")


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
    Group("disk", DISK, before=small_disk),
    Group("forgotten", FORGOTTEN, before=lambda c: c.cluster.change(MinJobAge="2")),
    Group("unaccounted", UNACCOUNTED, before=without_accounting),
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
        cluster.heal()
        group.after(cluster)


def table(rows: list[Row]) -> Iterator[str]:
    """The rows for people."""
    yield "| fault | SLURM (s) | ours (s) | class | decision | end | starts | verdict |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        took = ["-" if value is None else f"{value:.1f}" for value in (row.slurm_s, row.ours_s)]
        verdict = "; ".join(row.problems) or "right"
        words = (row.fault, *took, row.classes, row.decisions, row.end, str(row.starts), verdict)
        yield f"| {' | '.join(words)} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the most telling faults only")
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="faults whose name, or group, begins so"
    )
    parser.add_argument("--down", type=float, default=120, metavar="S", help="how long slurmctld stays away")
    arguments = parser.parse_args()
    wanted = [
        (group, faults)
        for group in GROUPS
        if (
            faults := [
                fault
                for fault in group.faults
                if (fault.short or not arguments.short)
                and (
                    not arguments.only
                    or any(
                        name.startswith(only) for only in arguments.only for name in (group.name, fault.name)
                    )
                )
            ]
        )
    ]
    if not wanted:
        parser.error(
            f"no fault is called so; there are {', '.join(f.name for g in GROUPS for f in g.faults)}"
        )
    base = Path(tempfile.mkdtemp(prefix="faults-"))
    small = base / "small"
    small.mkdir()
    # Nodes see what is mounted before they are.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=200", "small", small], check=True)
    cluster = Cluster(base / "c")
    rows: list[Row] = []
    try:
        cluster.up()
        for group, faults in wanted:
            for row in run(cluster, base, group, faults, 20 if arguments.short else arguments.down):
                rows.append(row)
                print(
                    f"{'right' if not row.problems else 'WRONG'}: {row.fault.strip()}",
                    file=sys.stderr,
                    flush=True,
                )
    finally:
        cluster.down()
        subprocess.run(["umount", small], check=False)
    print("\n".join(table(rows)))
    met = bool(rows) and not any(row.problems for row in rows)
    print(f"verdict: {'met' if met else f'not met; see {base}'}")
    if met:
        shutil.rmtree(base)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
