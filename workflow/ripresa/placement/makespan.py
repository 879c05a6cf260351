"""Makespan on unrelated machines: which work belongs on which class of device so that all of it ends first.

The relaxation of R||Cmax that may cut units (Lenstra, Shmoys and Tardos, Mathematical Programming 46, 1990):
its solution cuts few of them, and what it says is nearly always a ratio of durations above which work belongs
on the one class and below which it belongs on the other.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ripresa.placement.program import Program, Solver, Terms

Class = tuple[str, int]
"""A kind of device, and how much memory it has (a level)."""

BUCKETS = 48
"""Work is told apart by as many ratios of its durations as this at most."""

FINEST = 0.02
"""The finest step of the logarithm of such a ratio."""

LEAST = 1e-3
"""What is less than this part of a unit is not looked at."""


class Work(NamedTuple):
    """Units that are equal, with what one of them takes by class: seconds times devices."""

    units: int
    loads: Mapping[Class, float]


class Line(NamedTuple):
    """The devices of a class: for how many there are, and the seconds until all of them together are free."""

    devices: int
    busy: float


class Allotment(NamedTuple):
    """The units of each work by class, and the seconds in which all of it could be done."""

    shares: list[dict[Class, float]]
    end: float


def allot(works: Sequence[Work], lines: Mapping[Class, Line], solver: Solver) -> Allotment | None:
    """Units by class so that the last class ends first; None without an answer in time.

    Work that is on one class only costs nothing to look at.
    """
    fixed = dict.fromkeys(lines, 0.0)
    open_ = []
    for index, work in enumerate(works):
        if len(work.loads) > 1:
            open_.append(index)
        for place, load in work.loads.items() if len(work.loads) == 1 else ():
            fixed[place] += work.units * load
    shares = [dict.fromkeys(work.loads, float(work.units)) if len(work.loads) == 1 else {} for work in works]
    end = max(((line.busy + fixed[place]) / line.devices for place, line in lines.items()), default=0.0)
    if not open_:
        return Allotment(shares, end)
    buckets = _buckets(works, open_)
    answer = _solve(works, list(buckets.values()), lines, fixed, solver)
    if answer is None:
        return None
    end, parts = answer
    for members, part in zip(buckets.values(), parts, strict=True):
        _cut(works, members, part, shares)
    return Allotment(shares, end)


def _buckets(works: Sequence[Work], members: Sequence[int]) -> dict[tuple[object, ...], list[int]]:
    """Works of about equal ratios of their durations, in few enough buckets."""
    step = FINEST
    while True:
        buckets: dict[tuple[object, ...], list[int]] = {}
        for index in members:
            first, *others = works[index].loads.items()
            key: tuple[object, ...] = (first[0],)
            for place, load in others:
                key += place, round(math.log(load / first[1]) / step)
            buckets.setdefault(key, []).append(index)
        if len(buckets) <= BUCKETS or step > 5:
            return buckets
        step *= 1.5


def _solve(
    works: Sequence[Work],
    buckets: Sequence[Sequence[int]],
    lines: Mapping[Class, Line],
    fixed: Mapping[Class, float],
    solver: Solver,
) -> tuple[float, list[dict[Class, float]]] | None:
    """The end, and the part of each bucket by class."""
    loads = [
        {place: sum(works[index].units * works[index].loads[place] for index in members) for place in places}
        for members in buckets
        for places in [list(works[members[0]].loads)]
    ]
    variables = [(bucket, place) for bucket, places in enumerate(loads) for place in places]
    total = sum(min(places.values()) for places in loads)
    # Least work among the schedules that end first: the last term decides only between these.
    costs = (1.0, *(1e-3 * loads[bucket][place] / total / len(lines) for bucket, place in variables))
    unit = total or 1.0
    rows: list[tuple[Terms, float]] = []
    for place, line in lines.items():
        terms = [(0, -float(line.devices))]
        terms += [
            (number, loads[bucket][other] / unit)
            for number, (bucket, other) in enumerate(variables, 1)
            if other == place
        ]
        rows.append((tuple(terms), -(line.busy + fixed[place]) / unit))
    for bucket in range(len(loads)):
        members = [(number, -1.0) for number, (other, _) in enumerate(variables, 1) if other == bucket]
        rows.append((tuple(members), -1.0))
    values = solver.solve(Program(costs, tuple(rows)))
    if values is None:
        return None
    parts: list[dict[Class, float]] = [{} for _ in loads]
    for (bucket, place), value in zip(variables, values[1:], strict=True):
        parts[bucket][place] = value
    return values[0] * unit, parts


def _cut(
    works: Sequence[Work],
    members: Sequence[int],
    part: Mapping[Class, float],
    shares: list[dict[Class, float]],
) -> None:
    """Divide the works of a bucket as the bucket is divided, the fewest of them cut."""
    places = [place for place in part if part[place] > 1e-6]
    if len(places) > 1:
        first, second = places[:2]
        members = sorted(members, key=lambda i: works[i].loads[first] / works[i].loads[second])
    whole = sum(works[index].units * _least(works[index]) for index in members)
    left = {place: part[place] * whole for place in places}
    for index in members:
        units, load = float(works[index].units), _least(works[index])
        for place in places:
            taken = units if place == places[-1] else min(units, left[place] / load)
            if taken > LEAST:
                shares[index][place] = taken
                left[place] -= taken * load
                units -= taken


def _least(work: Work) -> float:
    return min(work.loads.values())
