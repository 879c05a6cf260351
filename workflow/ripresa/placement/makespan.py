"""Makespan on unrelated machines: which work belongs on which class of device so that all of it ends first.

Of many units some may be cut: the relaxation of R||Cmax (Lenstra, Shmoys and Tardos, Mathematical Programming
46, 1990) cuts few of them, and what it says is nearly always a ratio of durations above which work belongs on
the one class and below which it belongs on the other. Few units are left whole, in an integer program: there
the end is that of single units.
"""

import math
from collections.abc import Mapping, Sequence

from ripresa.placement import ratios
from ripresa.placement.program import Program, Solver, Terms
from ripresa.placement.ratios import Allotment, Class, Line, Work

BUCKETS = 48
"""Work is told apart by as many ratios of its durations as this at most."""

FINEST = 0.05
"""The finest step of the logarithm of such a ratio."""

PRUNINGS = 2
"""So often the program is solved again because something belongs elsewhere than it said."""

FEW = 60
"""So many units with a choice are left whole."""

GAP = 0.01
"""Their end may be later than the earliest by this part: finding the very earliest takes too long."""

ROUNDING = 1e-6
"""Solvers write fewer digits than they know."""

LEAST = 1e-3
"""What is less than this part of a unit is not looked at."""


def allot(works: Sequence[Work], lines: Mapping[Class, Line], solver: Solver) -> Allotment:
    """Units by class so that the last class ends first; without an answer in time, nearly so.

    What may take longer on a class than all the work takes does not go there, if it is sooner elsewhere:
    that is what cutting units cannot see, and where the end of a campaign is lost.
    """
    allotment = _allot(works, lines, solver)
    for _ in range(PRUNINGS):
        pruned = [_pruned(work, allotment.end) for work in works]
        if all(
            share.keys() <= work.loads.keys() for share, work in zip(allotment.shares, pruned, strict=True)
        ):
            break
        works = pruned
        allotment = _allot(works, lines, solver)
    return allotment


def _pruned(work: Work, end: float) -> Work:
    """A work on the classes only where it surely ends in time, or ends first."""
    if len(work.loads) == 1:
        return work
    most = max(end * (1 + ROUNDING), min(work.longest.values()))
    loads = {place: load for place, load in work.loads.items() if work.longest[place] <= most}
    return work._replace(loads=loads) if len(loads) < len(work.loads) else work


def _allot(works: Sequence[Work], lines: Mapping[Class, Line], solver: Solver) -> Allotment:
    fixed = dict.fromkeys(lines, 0.0)
    open_ = [index for index, work in enumerate(works) if len(work.loads) > 1]
    shares: list[dict[Class, float]] = [{} for _ in works]
    for work, share in zip(works, shares, strict=True):
        if len(work.loads) == 1:
            [(place, load)] = work.loads.items()
            fixed[place] += work.units * load
            share[place] = float(work.units)
    lines = {place: Line(line.devices, line.busy + fixed[place]) for place, line in lines.items()}
    if not open_:
        return Allotment(shares, max((line.busy / line.devices for line in lines.values()), default=0.0))
    whole = sum(works[index].units for index in open_) <= FEW
    answer = None
    if whole or len(lines) > 2:  # else the ratio says it all
        buckets = [[index] for index in open_] if whole else _buckets(works, open_)
        answer = _solve(works, buckets, lines, solver, whole=whole)
    if answer is None:
        by_ratio = ratios.allot([works[index] for index in open_], lines)
        for index, share in zip(open_, by_ratio.shares, strict=True):
            shares[index] = share
        return Allotment(shares, by_ratio.end)
    end, parts = answer
    for members, part in zip(buckets, parts, strict=True):
        _cut(works, members, part, shares)
    return Allotment(shares, end)


def _buckets(works: Sequence[Work], members: Sequence[int]) -> list[list[int]]:
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
            return list(buckets.values())
        step *= 2


def _solve(
    works: Sequence[Work],
    buckets: Sequence[Sequence[int]],
    lines: Mapping[Class, Line],
    solver: Solver,
    *,
    whole: bool,
) -> tuple[float, list[dict[Class, float]]] | None:
    """The end, and the part of each bucket by class; ``whole`` for buckets of one work, not to be cut."""
    counts = [works[members[0]].units if whole else 1 for members in buckets]
    loads = [
        {place: sum(works[index].units * works[index].loads[place] for index in members) for place in places}
        for members in buckets
        for places in [list(works[members[0]].loads)]
    ]
    variables = [(bucket, place) for bucket, places in enumerate(loads) for place in places]
    total = sum(min(places.values()) for places in loads)
    # Least work among the schedules that end first: the last term decides only between these.
    costs = (
        1.0,
        *(1e-5 * loads[bucket][place] / counts[bucket] / total / len(lines) for bucket, place in variables),
    )
    unit = total or 1.0
    rows: list[tuple[Terms, float]] = []
    for place, line in lines.items():
        terms = [(0, -float(line.devices))]
        terms += [
            (number, loads[bucket][other] / counts[bucket] / unit)
            for number, (bucket, other) in enumerate(variables, 1)
            if other == place
        ]
        rows.append((tuple(terms), -line.busy / unit))
    for bucket in range(len(loads)):
        members = [(number, -1.0) for number, (other, _) in enumerate(variables, 1) if other == bucket]
        rows.append((tuple(members), -float(counts[bucket])))
    if not whole:
        program = Program(costs, tuple(rows))
    else:
        for number, (bucket, place) in enumerate(variables, 1):
            longest = works[buckets[bucket][0]].longest
            if counts[bucket] == 1 and longest[place] > min(longest.values()):
                rows.append((((number, longest[place] / unit), (0, -1.0)), 0.0))
        most = (math.inf, *(float(counts[bucket]) for bucket, _ in variables))
        program = Program(costs, tuple(rows), most, frozenset(range(1, len(costs))), GAP)
    values = solver.solve(program)
    if values is None:
        return None
    parts: list[dict[Class, float]] = [{} for _ in loads]
    for (bucket, place), value in zip(variables, values[1:], strict=True):
        parts[bucket][place] = value / counts[bucket]
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
