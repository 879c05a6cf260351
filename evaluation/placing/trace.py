"""The units of a campaign that is placed in thought: a real trace, or made up."""

import csv
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ripresa.placement.wishes import CPU, GPU

OVERLAP = 7458
"""The complexity of the CNN with 2,486 parameters, the one that the trace has on both kinds of worker."""


class Unit(NamedTuple):
    """One unit; ``seconds`` is its true duration by the kinds of device on which it can run."""

    name: str
    cost: str
    seconds: dict[str, float]
    complexity: float = 0.0
    memory_mb: int = 0
    share: int = 100
    home: str = GPU
    """Where a scheduler that has to be told puts it: in the trace, where it was measured."""

    @property
    def shortest(self) -> float:
        """Its duration where it ends first."""
        return min(self.seconds.values())


def measured(path: Path) -> list[Unit]:
    """The units of the trace, in its order, each on the kind of device on which it was measured."""
    with path.open(newline="") as file:
        return [
            Unit(
                f"{row['task_id']} {number}",  # some were repeated
                " ".join(f"{name}={row[name]}" for name in ("model", "num_parameters", "complexity")),
                {row["worker_kind"]: float(row["seconds"])},
                float(row["complexity"]),
                home=row["worker_kind"],
            )
            for number, row in enumerate(csv.DictReader(file))
        ]


class SpeedUp(NamedTuple):
    """How many times as long a unit takes on a CPU worker: ratio * (complexity / OVERLAP) ** power."""

    ratio: float
    power: float

    def at(self, complexity: float) -> float:
        return max(1.0, self.ratio * (complexity / OVERLAP) ** self.power)


def speed_up(units: Sequence[Unit]) -> SpeedUp:
    """The model of the other kind of device, fitted to the trace.

    Least squares of log(seconds) of the CNNs (the only ones measured at one complexity on both kinds) on an
    intercept per phase, a slope in log(complexity) per kind and an offset of the CPU at `OVERLAP`. The phases
    differ in data sets and rounds, which the intercepts take up.
    """
    cnn = [unit for unit in units if "model=CNN" in unit.cost]
    phases = sorted({_phase(unit) for unit in cnn})
    rows, values = [], []
    for unit in cnn:
        [(kind, seconds)] = unit.seconds.items()
        size = math.log(unit.complexity / OVERLAP)
        rows.append(
            [float(_phase(unit) == phase) for phase in phases]
            + [size * (kind == GPU), size * (kind == CPU), float(kind == CPU)]
        )
        values.append(math.log(seconds))
    weights = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    slope_gpu, slope_cpu, offset = (float(weight) for weight in weights[-3:])
    return SpeedUp(math.exp(offset), slope_cpu - slope_gpu)


def on_both(units: Sequence[Unit], model: SpeedUp) -> list[Unit]:
    """The same units, able to run on either kind. What made a unit long or short where it was measured (its
    residual) does so on the other kind as well."""
    return [
        unit._replace(
            seconds={
                GPU: unit.seconds.get(GPU) or unit.seconds[CPU] / model.at(unit.complexity),
                CPU: unit.seconds.get(CPU) or unit.seconds[GPU] * model.at(unit.complexity),
            }
        )
        for unit in units
    ]


def short_campaign(seed: int, number: int = 60) -> list[Unit]:
    """A short campaign where single units matter: durations over two orders of magnitude, speed-ups of 0.5 to
    20 that the cost tells in part, some units in need of much memory, some of a part of a GPU."""
    draw = random.Random(seed)
    units = []
    for index in range(number):
        size = math.exp(draw.uniform(0, 5))
        gpu = 60 * size**0.6 * math.exp(draw.gauss(0, 0.4))
        ratio = 0.5 * size**0.7 * math.exp(draw.gauss(0, 0.3))
        memory_mb = draw.choice((0, 0, 8_000, 20_000))
        share = 50 if size < 10 and draw.random() < 0.3 else 100
        seconds = {GPU: gpu, CPU: gpu * ratio}
        if memory_mb == 20_000 or draw.random() < 0.1:
            del seconds[CPU]
        units.append(Unit(f"unit{index}", f"size={size:.4g}", seconds, size, memory_mb, share))
    return units


def _phase(unit: Unit) -> str:
    return unit.name.rsplit("_", 2)[0]
