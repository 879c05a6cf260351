"""In which order the repetitions of one host run."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

from ripresa.families.benchmarks.adaptive import Repetitions

Order = Literal["grouped", "interleaved", "random"]


def positions(wanted: Mapping[str, Repetitions], order: Order, seed: int, host: str) -> dict[str, list[int]]:
    """Of every workload, the places (from 0) of its repetitions 1, 2, ... among all of a host.

    - grouped: all repetitions of a workload, then those of the next.
    - interleaved: repetition 1 of all workloads, then repetition 2 of all, ...
    - random: shuffled, for each host differently; the same seed gives the same order.

    Repetitions above the minimum run only if a verdict asks for them. Where they are shuffled they come last,
    interleaved: their verdict needs all of those below it.
    """
    units = [(workload, n) for workload, one in wanted.items() for n in range(1, one.maximum + 1)]
    if order == "interleaved":
        units.sort(key=lambda unit: unit[1])
    elif order == "random":
        optional = [unit for unit in units if unit[1] > wanted[unit[0]].minimum]
        units = [unit for unit in units if unit[1] <= wanted[unit[0]].minimum]
        random.Random(f"{seed} {host}").shuffle(units)
        units += sorted(optional, key=lambda unit: unit[1])
    places: dict[str, list[int]] = {workload: [0] * one.maximum for workload, one in wanted.items()}
    for place, (workload, n) in enumerate(units):
        places[workload][n - 1] = place
    return places
