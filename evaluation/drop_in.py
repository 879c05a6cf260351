"""Drop-in: what scheduling 2,000 ready jobs costs under `recovery`, against Snakemake's `greedy` and `ilp`.

    python evaluation/drop_in.py [--jobs 2000] [--real 500]

A real Snakemake builds the jobs of several workflows and offers them; from there on every scheduler
chooses from the same real jobs, with one of the running ones ending before each round. `--real` runs
that many jobs to their end as well, each scheduler in turn. Exits 1 if `recovery` takes longer in
total than `greedy` for any workflow, or more than 0.2 s in any round.

`--asking` units that ask for devices, of as many different costs, are scheduled by `recovery` alone, which
may take 50 ms a round on average.
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
ASKING_S = 0.05
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


ASKING = """
from ripresa.dsl import Units, devices, guard, open_run
campaign = open_run("demo", main=workflow.is_main_process)
units = Units("{{i}}", sweep={{"product": {{"i": list(range({jobs}))}}}})
rule all:
    input: units.targets()
rule unit:
    output: units.target
    resources:
        cost=lambda w: f"model={{'CNN' if int(w.i) % 2 else 'MLP'}} size={{int(w.i) ** 2}}",
        **devices(units, gpu=lambda w: 0.5 if int(w.i) % 3 else 1, memory_mb=1000, on=("gpu", "cpu"))
    shell: guard("touch {{output}}", resources=("gpu_device", "cost"))
onstart:
    there = {{"gpus": [{{"name": f"g{{n}}", "memory_mb": 8000}} for n in range(8)], "cpu_slots": 5}}
    jobs = [(job.output[0], job.rule.name) for job in workflow.dag.jobs if job.output]
    campaign.start(jobs, config_sha256="", policy={{"stall_s": 9, "grace_s": 9}}, devices=there)
"""


def main() -> int:
    """Measure, print the figures and compare them with the requirement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--real", type=int, default=500, help="jobs to really run (0: none)")
    parser.add_argument("--asking", type=int, default=1000, help="units that ask for devices (0: none)")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        function, *rest = json.loads(arguments.inside)
        {"simulate": simulate, "timed": timed, "placed": placed}[function](*rest)
        return 0
    failed = False
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
            figures = run_inside("simulate", directory, ["--cores", str(cores), *options])
            failed |= missed(figures)
            print(f"  {name}:")
            for scheduler, figure in figures.items():
                print(
                    f"    {scheduler:9} {figure['total']:8.2f} s ({figure['longest']:.3f} s)"
                    f" in {figure['rounds']} rounds"
                    + (", then cut off" if scheduler == "ilp" else f"; makespan {figure['makespan']:.0f} s")
                )
    if arguments.real:
        failed |= really(arguments.real)
    if arguments.asking:
        failed |= asking(arguments.asking)
    met = "never longer in total than greedy, no round above 0.2 s, 50 ms a round with devices"
    print("MISSED" if failed else f"met: {met}")
    return int(failed)


def run_inside(function: str, directory: Path, argument: Any) -> dict[str, Any]:
    """Run a function of this file, and Snakemake in it, in a process of its own; returns its figures."""
    call = json.dumps([function, str(directory), argument])
    command = [sys.executable, os.path.abspath(__file__), "--inside", call]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return dict(json.loads(directory.joinpath("figures.json").read_text()))


def simulate(directory: str, options: list[str]) -> None:
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
        underway = scheduler.dag.workflow.scheduler.running
        underway.update(selected)
        for job in selected:
            number = int(job.wildcards.i)
            heapq.heappush(running, (clock + random.Random(number).uniform(50, 150), number, job))
            occupy(free, job, -1)
        assert all(amount >= 0 for amount in free.values()), "more chosen than fits"
        clock, _, ended = heapq.heappop(running)
        occupy(free, ended, 1)
        underway.discard(ended)
    makespan = max([end for end, _, _ in running], default=clock)
    return {"total": total, "longest": longest, "rounds": count, "makespan": makespan}


def occupy(free: dict[str, int], job: Any, sign: int) -> None:
    """Take the resources of a job (-1) or give them back (+1)."""
    for name, amount in job.scheduler_resources.items():
        if name in free and name != "_job_count":
            free[name] += sign * amount


def really(jobs: int) -> bool:
    """Run a workflow to its end under each scheduler; whether selecting missed the requirement."""
    figures = {}
    for scheduler in ("recovery", "greedy"):
        with tempfile.TemporaryDirectory() as folder:
            snakefile = SNAKEFILE.format(jobs=jobs, input="", threads="1", memory="0")
            Path(folder, "Snakefile").write_text(snakefile)
            start = time.perf_counter()
            figures[scheduler] = run_inside("timed", Path(folder), scheduler)
            figures[scheduler]["whole"] = time.perf_counter() - start
    print(f"  {jobs} jobs really run on 2 cores:")
    for scheduler, figure in figures.items():
        print(
            f"    {scheduler:9} {figure['total']:8.2f} s ({figure['longest']:.3f} s)"
            f" in {figure['rounds']} rounds; {figure['whole']:.1f} s in all"
        )
    return missed(figures)


def timed(directory: str, scheduler: str) -> None:
    """Run Snakemake with a clock around `select_jobs`."""
    from snakemake.cli import main as snakemake
    from snakemake.scheduling import greedy

    from snakemake_scheduler_plugin_recovery import Scheduler

    os.chdir(directory)
    cls: Any = {"recovery": Scheduler, "greedy": greedy.Scheduler}[scheduler]
    original = cls.select_jobs
    times = []

    def select_jobs(self: Any, *arguments: Any) -> Any:
        start = time.perf_counter()
        selected = original(self, *arguments)
        times.append(time.perf_counter() - start)
        return selected

    cls.select_jobs = select_jobs
    try:
        snakemake(["--scheduler", scheduler, "--cores", "2", "--workflow-profile", "none"])
    finally:
        figures = {"total": sum(times), "longest": max(times), "rounds": len(times)}
        Path("figures.json").write_text(json.dumps(figures))


def asking(jobs: int) -> bool:
    """Schedule units that ask for devices; whether a round took too long on average."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Snakefile").write_text(ASKING.format(jobs=jobs))
        figure = run_inside("placed", Path(folder), ["--cores", "13"])
    mean = figure["total"] / figure["rounds"]
    print(
        f"  {jobs} units that ask for devices, on 8 GPUs (halves, wholes) and 5 CPU slots:\n"
        f"    recovery  {figure['total']:8.2f} s ({figure['longest']:.3f} s) in {figure['rounds']} rounds, "
        f"{1000 * mean:.1f} ms on average; makespan {figure['makespan']:.0f} s"
    )
    return bool(mean > ASKING_S)


def placed(directory: str, options: list[str]) -> None:
    """As `simulate`, of units that ask for devices, which the other schedulers cannot place."""
    from snakemake.cli import main as snakemake

    from snakemake_scheduler_plugin_recovery import Scheduler

    os.chdir(directory)
    os.environ["RIPRESA_DEVICES"] = directory

    def captured(self: Any, jobs: Any, remaining: Any, resources: Any, sizes: Any) -> Any:
        Scheduler.select_jobs = original  # type: ignore[method-assign]
        scheduler = Scheduler(self.dag, None, self.logger)
        figures = rounds(scheduler, set(jobs), remaining, dict(resources), sizes, None)
        Path("figures.json").write_text(json.dumps(figures))
        os._exit(0)

    original = Scheduler.select_jobs
    Scheduler.select_jobs = captured  # type: ignore[method-assign]
    snakemake(["--scheduler", "recovery", "--workflow-profile", "none", "--nolock", *options])


def missed(figures: dict[str, Any]) -> bool:
    """Whether `recovery` took longer in total than `greedy`, or too long for one round."""
    ours, theirs = figures["recovery"], figures["greedy"]
    return bool(ours["total"] > theirs["total"] or ours["longest"] > ROUND_S)


if __name__ == "__main__":
    sys.exit(main())
