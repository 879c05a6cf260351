"""Drop-in: what scheduling 2,000 ready jobs costs under `recovery`, against Snakemake's `greedy` and `ilp`.

    python evaluation/drop_in.py [--jobs 2000] [--real 300]

A real Snakemake builds the jobs of several workflows and offers them; from there on every scheduler
chooses from the same real jobs, with one of the running ones ending before each round. `--real` runs
that many jobs to their end as well, each scheduler in turn. Exits 1 if `recovery` takes longer in
total than `greedy` for any workflow, or more than 0.2 s for any round.
"""

import argparse
import heapq
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROUND_S = 0.2
ILP_ROUNDS = 3
"""Rounds of `ilp`: more would take hours."""

WORKFLOWS = {
    "equal jobs, 2 cores": (2, [], "", "1", "0"),
    "equal jobs, 32 cores": (32, [], "", "1", "0"),
    "1 to 4 threads, 13 cores": (13, [], "", "1 + int(wildcards.i) % 4", "0"),
    "3 or 4 threads, 13 cores, no exact fill": (13, [], "", "3 + int(wildcards.i) % 2", "0"),
    "12 sizes of memory and threads": (
        16,
        ["--resources", "mem_mb=20000"],
        "",
        "1 + int(wildcards.i) % 4",
        "1000 * (1 + int(wildcards.i) % 3)",
    ),
    "2,000 sizes of memory": (
        16,
        ["--resources", "mem_mb=20000"],
        "",
        "1 + int(wildcards.i) % 3",
        "1000 + (int(wildcards.i) * 7919) % 3000",
    ),
    "2,000 sizes of input": (4, [], "'in/{i}'", "1", "0"),
}

SNAKEFILE = """
rule all:
    input: expand("out/{{i}}", i=range({jobs}))
rule unit:
    input: {input}
    output: "out/{{i}}"
    threads: lambda wildcards: {threads}
    resources: mem_mb=lambda wildcards: {memory}
    shell: "touch {{output}}"
"""


def main() -> int:
    """Measure, print the figures and compare them with the requirement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--real", type=int, default=300, help="jobs to really run (0: none)")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return simulate(*json.loads(arguments.inside))
    missed = False
    print(f"{arguments.jobs} ready jobs; seconds in select_jobs over all rounds (longest round)")
    for name, (cores, options, input, threads, memory) in WORKFLOWS.items():
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            snakefile = SNAKEFILE.format(jobs=arguments.jobs, input=input, threads=threads, memory=memory)
            directory.joinpath("Snakefile").write_text(snakefile)
            if input:
                directory.joinpath("in").mkdir()
                for number in range(arguments.jobs):
                    directory.joinpath("in", str(number)).write_bytes(b"x" * (number * 7919 % 5000))
            figures = run_inside(directory, ["--cores", str(cores), *options])
            ours, theirs = figures["recovery"], figures["greedy"]
            missed |= ours["total"] > theirs["total"] or ours["longest"] > ROUND_S
            print(f"  {name}:")
            for scheduler, figure in figures.items():
                print(
                    f"    {scheduler:9} {figure['total']:8.2f} s ({figure['longest']:.3f} s)"
                    f" in {figure['rounds']} rounds; makespan {figure['makespan']:.0f} s"
                )
    if arguments.real:
        missed |= really(arguments.real)
    print("MISSED" if missed else "met: never longer in total than greedy, no round above 0.2 s")
    return int(missed)


def run_inside(directory: Path, options: list[str]) -> dict[str, Any]:
    """Run `simulate` in a Snakemake of its own and return its figures."""
    command = [sys.executable, os.path.abspath(__file__), "--inside", json.dumps([str(directory), options])]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return dict(json.loads(directory.joinpath("figures.json").read_text()))


def simulate(directory: str, options: list[str]) -> int:
    """Take the jobs that a real Snakemake offers and let each scheduler schedule all of them."""
    from snakemake.cli import main as snakemake
    from snakemake.scheduling import greedy, milp

    from snakemake_scheduler_plugin_recovery import Scheduler

    os.chdir(directory)

    def captured(self: Any, jobs: Any, remaining: Any, resources: Any, sizes: Any) -> Any:
        Scheduler.select_jobs = original  # type: ignore[method-assign]
        candidates = {
            "recovery": (Scheduler, None, None),
            "greedy": (greedy.Scheduler, greedy.SchedulerSettings(), None),
            "ilp": (milp.Scheduler, milp.SchedulerSettings(), ILP_ROUNDS),
        }
        figures = {
            name: rounds(
                scheduler(self.dag, settings, self.logger),
                set(jobs),
                remaining,
                dict(resources),
                sizes,
                limit,
            )
            for name, (scheduler, settings, limit) in candidates.items()
        }
        Path("figures.json").write_text(json.dumps(figures))
        os._exit(0)

    original = Scheduler.select_jobs
    Scheduler.select_jobs = captured  # type: ignore[method-assign]
    snakemake(["--scheduler", "recovery", "--workflow-profile", "none", *options])
    return 1


def rounds(
    scheduler: Any, ready: set[Any], remaining: Any, free: dict[str, int], sizes: Any, limit: int | None
) -> dict[str, float]:
    """Schedule all ready jobs on a simulated clock; each takes 50 to 150 s, the same for all schedulers."""
    running: list[tuple[float, int, Any]] = []
    clock = total = longest = 0.0
    count = 0
    while ready and count != limit:
        start = time.perf_counter()
        selected = scheduler.select_jobs(ready, remaining, free, sizes)
        elapsed = time.perf_counter() - start
        total, longest, count = total + elapsed, max(longest, elapsed), count + 1
        ready -= set(selected)
        for job in selected:
            number = int(job.wildcards.i)
            heapq.heappush(running, (clock + random.Random(number).uniform(50, 150), number, job))
            occupy(free, job, -1)
        assert all(amount >= 0 for amount in free.values()), "more chosen than fits"
        clock, _, ended = heapq.heappop(running)
        occupy(free, ended, 1)
    makespan = max([end for end, _, _ in running], default=clock)
    return {"total": total, "longest": longest, "rounds": count, "makespan": makespan}


def occupy(free: dict[str, int], job: Any, sign: int) -> None:
    """Take the resources of a job (-1) or give them back (+1)."""
    for name, amount in job.scheduler_resources.items():
        if name in free and name != "_job_count":
            free[name] += sign * amount


def really(jobs: int) -> bool:
    """Run a workflow to its end under each scheduler; whether `recovery` was more than 5 % slower."""
    times: dict[str, float] = {"recovery": 0.0, "greedy": 0.0}
    for scheduler in ["greedy", "recovery", "recovery", "greedy"]:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "Snakefile").write_text(
                SNAKEFILE.format(jobs=jobs, input="", threads="1", memory="0")
            )
            command = [
                sys.executable,
                "-m",
                "snakemake",
                "--cores",
                "2",
                "--scheduler",
                scheduler,
                "--quiet",
                "all",
            ]
            start = time.perf_counter()
            subprocess.run(
                [*command, "--workflow-profile", "none"], cwd=folder, check=True, capture_output=True
            )
            times[scheduler] += (time.perf_counter() - start) / 2
    print(f"  {jobs} jobs really run: recovery {times['recovery']:.1f} s, greedy {times['greedy']:.1f} s")
    return times["recovery"] > 1.05 * times["greedy"]


if __name__ == "__main__":
    sys.exit(main())
