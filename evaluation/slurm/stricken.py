"""A campaign on SLURM that faults strike, and what can be learnt of its units."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from place import Cluster

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
    shell: guard("bash unit.sh {params.p[n]} {resources.mem_mb} {output}", resources=("mem_mb",), stall=0)

rule limited:
    output: limited.target
    params: p=limited.params
    resources: mem_mb=100, runtime=escalated(limited, "runtime", 1, limit=8, like=("n",))
    shell: guard("bash unit.sh {params.p[n]} {resources.runtime} {output}", resources=("runtime",), stall=0)

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


class Campaign:
    """One campaign: its folder, and the calls of snakemake."""

    def __init__(self, cluster: Cluster, directory: Path, units: list[dict[str, Any]], scale: float) -> None:
        self.cluster = cluster
        self.directory = directory
        self.units = {one["n"]: one for one in units}
        self.down_s = 0.0
        self.struck: dict[str, float] = {}
        self.slurm_at: dict[str, float] = {}
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


def seconds(text: str) -> float:
    """Seconds since the epoch of a time in the journal."""
    return datetime.fromisoformat(text).timestamp()


def wait(what: str, condition: Callable[[], Any], limit_s: float = 90) -> Any:
    """The first true value of a condition. Raises RuntimeError if there is none in time."""
    end = time.monotonic() + limit_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not happen within {limit_s:.0f} s")
        time.sleep(0.2)
    return value
