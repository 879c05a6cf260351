"""The controller is killed with -9 while its jobs run on SLURM, things happen, and it is called again.

On a cluster 27 jobs run, 20 wait in the queue, and 5 more end while nobody looks. Meanwhile SLURM
requeues two running ones, an administrator submits one of them anew under another id, and cancels one
that runs and one that waits. Then the same plain call again. Each start is a line that the job itself
writes on its node; a unit may start again only where SLURM or the administrator ended it.

The same with the official executor plugin, with `--official` (it is installed in a folder of its own).
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import campaign as campaigns
import place
import plugin
from place import Cluster

LONG, SOON, LATER = 27, 5, 20

SNAKEFILE = """
import json
from ripresa.dsl import Units, guard, open_run
from ripresa.recovery import policy

campaign = open_run("killed", main=workflow.is_main_process)
units = Units("units/{n}.txt", parameters=json.load(open("units.json")))

rule all:
    input: units.targets()

localrules: all

rule unit:
    output: units.target
    log: units.log
    params: p=units.params
    resources: mem_mb=100, slurm_partition="cpu,gpu"
    shell: guard("bash unit.sh {params.p[n]} {params.p[seconds]} {output}", stall=0)

onstart:
    jobs = ((job.output[0], job.rule.name) for job in workflow.dag.jobs if job.output)
    campaign.start(jobs, config_sha256="", policy={**policy.default(), "time_scale": 0.1})

onsuccess:
    campaign.end()

onerror:
    campaign.end()
"""

PLAIN = """
import json

points = {str(p["n"]): p for p in json.load(open("units.json"))}

rule all:
    input: expand("units/{n}.txt", n=points)

localrules: all

rule unit:
    output: "units/{n}.txt"
    params: seconds=lambda w: points[w.n]["seconds"]
    resources: mem_mb=400, slurm_partition="cpu,gpu"
    shell: "bash unit.sh {wildcards.n} {params.seconds} {output}"
"""

UNIT = """
job=$SLURM_JOB_ID
[ -z "$SLURM_ARRAY_JOB_ID" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
echo "$1 $job $(date +%s)" >> starts
(
    flock -n 9 || echo "$1" >> overlaps
    sleep "$2"
    echo "unit $1" > "$3"
) 9> "locks/$1"
"""


def prepare(directory: Path, snakefile: str) -> None:
    """Lay out the campaign."""
    (directory / "locks").mkdir(parents=True)
    (directory / "Snakefile").write_text(snakefile)
    (directory / "unit.sh").write_text(UNIT)
    seconds = [*[60] * LONG, *[12] * SOON, *[1] * LATER]
    (directory / "units.json").write_text(json.dumps([{"n": n, "seconds": s} for n, s in enumerate(seconds)]))


def ours(directory: Path) -> list[str]:
    """The call of snakemake with the executor of this project."""
    profile = directory / "slurm"
    if not profile.exists():
        shutil.copytree(Path(__file__).parents[2] / "profiles" / "slurm", profile)
    options = "--rerun-incomplete --keep-going --nolock --retries 100 --scheduler recovery --logger journal"
    return [sys.executable, "-m", "snakemake", "--profile", "slurm", "--cores", "all", *options.split()]


def starts(directory: Path) -> Counter[int]:
    """How often each unit has started."""
    try:
        return Counter(int(line.split()[0]) for line in (directory / "starts").read_text().splitlines())
    except FileNotFoundError:
        return Counter()


def wait(what: str, condition: Any, seconds: float) -> None:
    """Wait until something is the case."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"controller_killed: {what} did not happen within {seconds:.0f} s")
        time.sleep(0.2)


def queued(cluster: Cluster, *states: str) -> list[str]:
    """The jobs in one of these states, in the order of their arrays."""
    lines = cluster.squeue("-h", "-r", "-o", "%i %T").splitlines()
    found = [job for job, state in map(str.split, lines) if state in states]
    return sorted(found, key=lambda job: (job.partition("_")[0], int(job.partition("_")[2] or 0)))


def disturb(cluster: Cluster, directory: Path) -> dict[str, list[str]]:
    """What happens while there is no controller."""
    lines = [line.split() for line in (directory / "starts").read_text().splitlines()]
    there = set(queued(cluster, "RUNNING"))
    running = [job for n, job, _ in lines if int(n) < LONG and job in there]
    pending = queued(cluster, "PENDING")
    requeued, resubmitted, cancelled = running[:2], running[2:3], [running[3], pending[-1]]
    for job in requeued:
        cluster.scontrol("requeue", job)
    for job in resubmitted:
        script = directory / "resubmitted.sh"
        show = dict(word.partition("=")[::2] for word in cluster.scontrol("-o", "show", "job", job).split())
        cluster.scontrol("write", "batch_script", job, str(script))
        cluster.scancel(job)
        index = job.partition("_")[2]
        options = [f"--job-name={show['JobName']}", "--mem=100", "--partition=cpu,gpu", "--output=/dev/null"]
        if index:
            options.append(f"--array={index}")
        subprocess.run(
            ["sbatch", *options, script],
            env=cluster.environment, cwd=directory, check=True, capture_output=True,
        )  # fmt: skip
    for job in cancelled:
        cluster.scancel(job)
    return {"requeued": requeued, "resubmitted": resubmitted, "cancelled": cancelled}


def run(
    cluster: Cluster, directory: Path, call: list[str], environment: dict[str, str], patience_s: float
) -> dict[str, Any]:
    """The whole story with one executor; what the nodes and the files say in the end."""
    log = (directory / "calls.log").open("wb")
    first = subprocess.Popen(
        call, cwd=directory, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    total = LONG + SOON + LATER
    wait("running and waiting jobs", lambda: len(starts(directory)) >= LONG + SOON, 240)
    wait("a full queue", lambda: len(queued(cluster, "RUNNING", "PENDING")) >= total - SOON, 120)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(1)
    before = starts(directory)
    happened = disturb(cluster, directory)
    finished = [directory / f"units/{n}.txt" for n in range(LONG, LONG + SOON)]
    finished += [directory / f"runs/killed/units/{n}.txt" for n in range(LONG, LONG + SOON)]
    wait("the end of short jobs", lambda: sum(path.exists() for path in finished) >= SOON, 60)
    began = time.monotonic()
    second = subprocess.Popen(
        call, cwd=directory, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        code: int | None = second.wait(patience_s)
    except subprocess.TimeoutExpired:
        os.killpg(second.pid, signal.SIGKILL)
        second.wait()
        code = None
    seconds = time.monotonic() - began
    folder = directory / "runs/killed/units" if (directory / "runs").exists() else directory / "units"
    right = sum(
        (folder / f"{n}.txt").exists() and (folder / f"{n}.txt").read_text() == f"unit {n}\n"
        for n in range(total)
    )
    after = starts(directory)
    again = {n: count - 1 for n, count in after.items() if count > 1}
    # Of the two that were cancelled one had started.
    allowed = len(happened["requeued"]) + len(happened["resubmitted"]) + 1
    overlaps = directory / "overlaps"
    return {
        "exit code": code,
        "seconds of the second call": round(seconds, 1),
        "units": total,
        "right targets": right,
        "started before the kill": len(before),
        "starts in all": sum(after.values()),
        "starts again": sum(again.values()),
        "of them SLURM's and the administrator's": min(allowed, sum(again.values())),
        "submitted twice": max(0, sum(again.values()) - allowed),
        "overlapping": len(overlaps.read_text().split()) if overlaps.exists() else 0,
    }


def official(_: Path) -> list[str]:
    """The call of snakemake with the official executor plugin, which is installed in a folder of its own."""
    # Its lock is left behind, and no call gets any further until it is removed by hand.
    return plugin.command("--keep-going", "--nolock")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--official", action="store_true", help="the official executor plugin as well")
    parser.add_argument("--patience", type=float, default=300, metavar="S", help="end a call after so long")
    place.add_argument(parser)
    arguments = parser.parse_args()
    results = {}
    base = Path(tempfile.mkdtemp(prefix="killed-"))
    with place.cluster(arguments.state) as cluster:
        kinds = {"slurm-resume": (SNAKEFILE, ours, campaigns.surroundings)}
        if arguments.official:
            kinds["official"] = (PLAIN, official, plugin.surroundings)
        for name, (snakefile, call, surroundings) in kinds.items():
            directory = base / name
            prepare(directory, snakefile)
            results[name] = run(
                cluster, directory, call(directory), surroundings(cluster.environment), arguments.patience
            )
            cluster.heal()
    for field in next(iter(results.values())):
        print(f"{field:42}" + "".join(f"{result[field]!s:>16}" for result in results.values()))
    mine = results["slurm-resume"]
    met = mine["right targets"] == mine["units"] and mine["submitted twice"] == mine["overlapping"] == 0
    print("verdict:", "met" if met and mine["exit code"] == 0 else f"not met; see {base}")
    return 0 if met and mine["exit code"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
