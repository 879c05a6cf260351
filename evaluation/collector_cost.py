"""What the collector beside a benchmark costs: its CPU time at 1 Hz, and what it takes from stream and fio.

Its CPU time is measured alone and beside many busy processes, and must stay below 1 % of one core. The
benchmarks run with and without it in turn, in pairs whose order alternates; the median difference must be
below the noise: the coefficient of variation of the runs without. So that noise cannot hide what is lost,
there are as many pairs as it takes to know that difference to within 3 % (its bootstrap 95 % interval);
where the most pairs allowed do not suffice, the machine is not quiet enough and the goal counts as missed.
Rates are averages over a run of some seconds, not the best moment of it, which might lie between two samples.
"""

from __future__ import annotations

import argparse
import math
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
KNOWN_PERCENT = 3.0  # half the width of the interval of a difference that can be judged
FEWEST = 8  # pairs, for an interval of a median to mean something
RESAMPLES = 2_000
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


def least_cost(folder: str, seconds: float, how: str) -> float:
    """The least of up to three measurements, printed with ``how``; what else the machine does only adds."""
    shares: list[float] = []
    while len(shares) < 3 and min(shares, default=math.inf) >= GOAL_PERCENT:
        share, text = cost(folder, seconds)
        print(f"{how}: {text}", flush=True)
        shares.append(share)
    return min(shares)


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
    """Bootstrap 95 % interval of the median (percentiles)."""
    drawn = random.Random(1)
    medians = sorted(statistics.median(drawn.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]


def compare(workload: str, parameters: dict[str, Any], folder: str, pairs: int) -> str | None:
    """Run pairs with and without, print a row; what is wrong unless they differ by less than the noise."""
    samples = f"{folder}/samples.csv"
    without: list[float] = []
    differences: list[float] = []
    low, high = -math.inf, math.inf
    rate(workload, parameters, folder, None)  # warm-up
    while len(differences) < pairs and (len(differences) < FEWEST or high - low > 2 * KNOWN_PERCENT):
        order = (None, samples) if len(differences) % 2 else (samples, None)
        found = {how: rate(workload, parameters, folder, how) for how in order}
        without.append(found[None])
        differences.append(100 * (found[samples] / found[None] - 1))
        low, high = interval(differences)
    difference, noise = statistics.median(differences), 100 * coefficient_of_variation(without)
    print(
        f"{workload:8}{COMPARED[workload]:15}{len(differences):5}{statistics.fmean(without):12.4g}"
        f"{difference:+12.2f} %{low:+9.2f} ..{high:+6.2f} %{noise:7.2f} %",
        flush=True,
    )
    if high - low > 2 * KNOWN_PERCENT:
        return f"{workload} cannot be judged, the machine is not quiet"
    return None if abs(difference) < noise else f"{workload} differs by more than the noise"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of each measurement of its CPU time")
    parser.add_argument("--pairs", type=int, default=60, help="the most of them for a workload")
    parser.add_argument("--scratch", default=None, help="a folder on the disk that fio measures")
    parser.add_argument("--short", action="store_true", help="a few seconds, too few to judge the difference")
    arguments = parser.parse_args()
    use_all_cpus()
    seconds, pairs, length = (3, 2, 1) if arguments.short else (arguments.seconds, arguments.pairs, 2)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        idle = least_cost(folder, seconds, "idle")
        spinners = BUSY_PER_CPU * usable_cpus()
        with busy(spinners):
            loaded = least_cost(folder, seconds, f"beside {spinners} busy processes")
        cheap = max(idle, loaded) < GOAL_PERCENT

        print(
            f"\n{'':8}{'':15}{'pairs':>5}{'without':>12}{'difference':>14}{'95 % interval':>20}{'noise':>9}"
        )
        faults = []
        for workload, parameters in (
            ("stream", {"iterations": 10 if arguments.short else 30}),
            ("fio", {"seconds": length}),
        ):
            about = registry.load(workload)
            if reason := missing(registry.definition(about)["needs"]):
                print(f"{workload:8}not compared: {reason}")
                faults.append(f"{workload} was not compared")
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
