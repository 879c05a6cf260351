"""What the collector beside a benchmark costs: its CPU time at 1 Hz, and what it takes from stream and fio.

Its CPU time is measured alone and beside many busy processes, and must stay below 1 % of one core. The
benchmarks run with and without it in turn, in pairs whose order alternates; the mean difference, with its
bootstrap 95 % interval, must be below the noise: the coefficient of variation of the runs without. The rates
are averages over a run of some seconds, not the best moment of it, which might lie between two samples. Where
the noise is beyond 10 % the machine is not quiet enough to see what is lost, and the goal counts as missed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ripresa.families.benchmarks import registry
from ripresa.families.benchmarks.adaptive import coefficient_of_variation
from ripresa.families.benchmarks.collectors.sampler import BEFORE
from ripresa.families.benchmarks.hardware import usable_cpus
from ripresa.families.benchmarks.needs import missing
from ripresa.families.benchmarks.repetition import execute, use_all_cpus
from ripresa.families.benchmarks.sampling import command
from ripresa.families.benchmarks.warnings import read

GOAL_PERCENT = 1.0  # of one core
BUSY_PER_CPU = 16
QUIET_PERCENT = 10.0  # the most noise in which a difference can be judged
RESAMPLES = 10_000
COMPARED = {"stream": "triad_average", "fio": "random_read"}


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that compute meanwhile."""
    spinners = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(processes)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
        for spinner in spinners:
            spinner.wait()


def cost(folder: str, seconds: float) -> tuple[float, str]:
    """CPU time of a collector that samples for so long, in % of one core, and a line that says more."""
    path = Path(folder) / "samples.csv"
    with subprocess.Popen(command(path), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sampler:
        assert sampler.stdin and sampler.stdout
        sampler.stdout.readline()
        process = Path(f"/proc/{sampler.pid}")

        def spent() -> float:
            return int((process / "schedstat").read_text().split()[0]) / 1e9

        began, started = time.monotonic(), spent()
        time.sleep(seconds)
        share = 100 * (spent() - started) / (time.monotonic() - began)
        memory = next(line for line in (process / "status").read_text().splitlines() if "VmHWM" in line)
        sampler.stdin.close()
    late = read(path)["late_ms"][1:]
    return share, (
        f"{share:.3f} % of one core over {seconds:g} s; {1000 * started:.0f} ms of CPU to start, "
        f"{int(memory.split()[1]) / 1024:.1f} MiB; samples late by {statistics.median(late):.1f} ms, "
        f"at most {max(late):.1f} ms"
    )


def rate(workload: str, parameters: dict[str, Any], folder: str, samples: str | None) -> float:
    """One run of a workload, as a repetition of a campaign makes it."""
    unit = {
        "host": "here",
        "workload": workload,
        "preset": "low",
        "repetition": 1,
        "parameters": parameters,
        "definition": registry.definition(registry.load(workload)),
        "peer": None,
    }
    if not samples:
        time.sleep(BEFORE)  # as the collector has it before the start
    result = execute(unit, "", folder, samples)
    return next(one["value"] for one in result["metrics"] if one["name"] == COMPARED[workload])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Bootstrap 95 % interval of the mean (percentiles)."""
    drawn = random.Random(1)
    means = sorted(statistics.fmean(drawn.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)]


def compare(workload: str, parameters: dict[str, Any], folder: str, pairs: int) -> str | None:
    """Run pairs with and without, print a row; what is wrong unless they differ by less than the noise."""
    samples = f"{folder}/samples.csv"
    rates: dict[str | None, list[float]] = {None: [], samples: []}
    rate(workload, parameters, folder, None)  # warm-up
    for pair in range(pairs):
        for how in (None, samples) if pair % 2 else (samples, None):
            rates[how].append(rate(workload, parameters, folder, how))
    without, beside = rates[None], rates[samples]
    differences = [100 * (b / a - 1) for a, b in zip(without, beside, strict=True)]
    low, high = interval(differences)
    difference, noise = statistics.fmean(differences), 100 * coefficient_of_variation(without)
    print(
        f"{workload:8}{COMPARED[workload]:15}{pairs:5}"
        f"{statistics.fmean(without):10.4g}{statistics.fmean(beside):10.4g}"
        f"{difference:+10.2f} %{low:+9.2f} ..{high:+6.2f} %{noise:7.2f} %",
        flush=True,
    )
    if not noise < QUIET_PERCENT:
        return f"{workload} cannot be judged, the machine is not quiet"
    return None if abs(difference) < noise else f"{workload} differs by more than the noise"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of each measurement of its CPU time")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--scratch", default=None, help="a folder on the disk that fio measures")
    parser.add_argument("--short", action="store_true", help="a few seconds, too few to judge the difference")
    arguments = parser.parse_args()
    use_all_cpus()
    seconds, pairs, length = (3, 2, 1) if arguments.short else (arguments.seconds, arguments.pairs, 4)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        idle, text = cost(folder, seconds)
        print(f"idle: {text}", flush=True)
        spinners = BUSY_PER_CPU * usable_cpus()
        with busy(spinners):
            loaded, text = cost(folder, seconds)
        print(f"beside {spinners} busy processes: {text}", flush=True)
        cheap = max(idle, loaded) < GOAL_PERCENT

        print(
            f"\n{'':8}{'':15}{'pairs':>5}{'without':>10}{'with':>10}"
            f"{'difference':>12}{'95 % interval':>20}{'noise':>9}"
        )
        faults = []
        for workload, parameters in (
            ("stream", {"iterations": 10 if arguments.short else 60}),
            ("fio", {"seconds": length}),
        ):
            about = registry.load(workload)
            if reason := missing(registry.definition(about)["needs"]):
                print(f"{workload:8}not compared: {reason}")
            elif fault := compare(workload, registry.parameters(about, "low", parameters), folder, pairs):
                faults.append(fault)
    passed = cheap and (arguments.short or not faults)
    print(
        f"\ncollector: {max(idle, loaded):.3f} % of one core (goal: below {GOAL_PERCENT:g} %), "
        + ("difference not judged" if arguments.short else "; ".join(faults) or "differences below the noise")
        + f": {'met' if passed else 'MISSED'}"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
