"""Placement on GPUs and CPU workers: how much later than necessary a campaign ends, on a simulated clock.

    python evaluation/placement.py [--trace FILE] [--orders 3] [--quick]

The units are those of a real sweep (1,204 durations on one GPU and CPU workers), placed on 1, 2, 4 and 8
GPUs and 5 CPU workers. The trace has each unit on one kind of device only, hence two readings: `measured`, in
which it can run nowhere else, and `both`, in which it can run on either, its duration on the other kind by a
model that is fitted to the trace (`placing/trace.py`). The makespan is compared with the lower bound: the
relaxation of R||Cmax in which units may be cut, or the longest unit. Our placement runs with durations known,
and with durations predicted from the declared cost, from no data at the beginning, learning as units end: in
the order of the trace and in random ones. Beside it: first come, first served; the `greedy` and `milp`
schedulers of Snakemake, which are really called, with the kind of each unit given; and the policy of the
sweep itself, one queue sorted by complexity, from whose large end the GPUs take and from whose small end the
CPU workers. Last, short made-up campaigns where single units, memory and shares of a GPU matter.

Limits: at most 1.03 times the bound with known durations, at most 1.10 with predicted ones in each of the
orders, mean decision under 50 ms with 1,000 or more ready units (all different where durations are known).
The share of the elapsed time that the solver may take applies to real clocks only, so there is none here.
Exits 1 if a limit is missed, 2 without the trace.
"""

import argparse
import math
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from placing.bounds import bounds
from placing.policies import Ours, Snakemakes, Sorted
from placing.simulation import Device, Outcome, Policy, simulate
from placing.trace import OVERLAP, Unit, measured, on_both, short_campaign, speed_up

from ripresa.placement.ilp import Cbc
from ripresa.placement.program import Solver
from ripresa.placement.wishes import CPU, GPU

TRACE = Path(__file__).resolve().parents[2] / "shared/data/gpu_sweep_trace.csv"
GPUS, CPUS = (1, 2, 4, 8), 5
KNOWN, PREDICTED, MEAN_MS = 1.03, 1.10, 50.0
MANY = 1000
"""Ready units from which on decisions count for the limit."""
SHORT = 20
"""Short campaigns."""


def main() -> int:
    """Run all policies, print the tables and compare with the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--orders", type=int, default=3, help="random orders beside that of the trace")
    parser.add_argument("--quick", action="store_true", help="without Snakemake's milp")
    arguments = parser.parse_args()
    if not arguments.trace.exists():
        print(f"there is no trace at {arguments.trace}; name one with --trace", file=sys.stderr)
        return 2
    units = measured(arguments.trace)
    model = speed_up(units)
    print(
        f"{len(units)} units; reading `both`: a CPU worker takes "
        f"{model.ratio:.2f} * (complexity / {OVERLAP}) ^ {model.power:.3f}"
    )
    print("times as long as a GPU, and never less than as long")
    missed: list[str] = []
    for reading, those in (("measured", units), ("both", on_both(units, model))):
        for gpus in GPUS:
            missed += table(reading, those, machine(gpus, CPUS), arguments.orders, arguments.quick)
    short_campaigns()
    print("\n" + ("MISSED: " + "; ".join(missed) if missed else "met: all limits"))
    return int(bool(missed))


def machine(gpus: int, cpus: int) -> list[Device]:
    """A machine."""
    return [Device(f"gpu{n}", GPU) for n in range(gpus)] + [Device(f"cpu{n}", CPU) for n in range(cpus)]


def table(reading: str, units: list[Unit], devices: list[Device], orders: int, quick: bool) -> list[str]:
    """Print one table; returns what was missed."""
    least = bounds(units, devices)
    gpus = sum(device.kind == GPU for device in devices)
    where = f"{reading}, {gpus} GPU{'s' * (gpus > 1)}"
    print(
        f"\n{where} + {CPUS} CPU workers; lower bound {least.best / 3600:.2f} h "
        f"(relaxation {least.relaxed / 3600:.2f} h, longest unit {least.longest / 3600:.2f} h)"
    )
    print(
        f"{'policy':34} {'hours':>7} {'ratio':>6} {'mean ms':>8} {'p99 ms':>7} {'mean ms >= 1000 ready':>22}"
    )
    missed = []

    def run(name: str, policy: Policy, limit: float = math.inf, given: Sequence[Unit] = units) -> Outcome:
        outcome = simulate(given, devices, policy)
        ratio = outcome.makespan / least.best
        print(
            f"{name:34} {outcome.makespan / 3600:7.2f} {ratio:6.3f} {outcome.mean_ms():8.2f} "
            f"{outcome.p99_ms:7.1f} {outcome.mean_ms(MANY):22.2f}",
            flush=True,
        )
        if ratio > limit:
            missed.append(f"{name} with {where}: {ratio:.3f}")
        if limit < math.inf and outcome.mean_ms(MANY) > MEAN_MS:
            missed.append(f"decisions of {name} with {where}: {outcome.mean_ms(MANY):.0f} ms")
        return outcome

    run("ours, known", Ours(devices, solver, known=True), KNOWN)
    predicted = [run("ours, predicted", Ours(devices, solver, known=False), PREDICTED)]
    for order in range(1, orders + 1):
        shuffled = random.Random(order).sample(units, len(units))
        name = f"ours, predicted, random order {order}"
        predicted.append(run(name, Ours(devices, solver, known=False), PREDICTED, shuffled))
    run("ours, known, without a solver", Ours(devices, Solver, known=True))
    run("ours, predicted, without a solver", Ours(devices, Solver, known=False))
    run("first come, first served", Sorted(devices))
    run("Snakemake, greedy", Snakemakes("greedy", devices))
    if not quick:
        run("Snakemake, milp", Snakemakes("milp", devices))
    run("one queue by complexity", Sorted(devices, lambda unit: unit.complexity, limit=OVERLAP))
    ratios = [outcome.makespan / least.best for outcome in predicted]
    print(f"predicted: mean {statistics.fmean(ratios):.3f}, worst {max(ratios):.3f} of {len(ratios)} orders")
    return missed


def solver() -> Solver:
    """The solver of the scheduler, on a simulated clock."""
    return Cbc(print, share=math.inf)


def short_campaigns() -> None:
    """Print what becomes of campaigns of 60 units on 4 GPUs of two sizes and 5 CPU workers."""
    devices = [
        Device(f"gpu{n}", GPU, memory_mb) for n, memory_mb in enumerate((10_000, 10_000, 24_000, 24_000))
    ]
    devices += machine(0, 5)
    policies: dict[str, Callable[[], Policy]] = {
        "ours, known": lambda: Ours(devices, solver, known=True),
        "ours, predicted": lambda: Ours(devices, solver, known=False),
        "ours, known, without a solver": lambda: Ours(devices, Solver, known=True),
        "ours, predicted, without a solver": lambda: Ours(devices, Solver, known=False),
    }
    print(
        f"\n{SHORT} short campaigns of 60 units, 4 GPUs (2 of them large) + 5 CPU workers; ratio to the bound"
    )
    for name, policy in policies.items():
        ratios = []
        for seed in range(SHORT):
            units = short_campaign(seed)
            ratios.append(simulate(units, devices, policy()).makespan / bounds(units, devices).best)
        print(f"{name:34} mean {statistics.fmean(ratios):.3f}, worst {max(ratios):.3f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
