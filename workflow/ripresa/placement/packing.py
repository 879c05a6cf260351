"""Packing: which ready jobs to start now so that the free resources are used best.

Equal jobs form a *lot*. Lots come in order of preference; the greedy packing honours that order
exactly, and where it can be shown to use as much as any other packing it is the answer. Only the
remaining cases are worth an integer program, over the counts of the lots.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ripresa.placement.program import Program, Solver

Demand = tuple[tuple[str, float], ...]
"""What one job takes: (resource, amount) pairs, amounts above zero only."""

LOAD = "_cores"
"""The resource a packing is to use as much of as possible."""

SHORTLIST = 200
"""Of more different lots than this, the preferred ones are considered: a problem solved in about 20 ms."""

LEVELS = 16
"""Steps of preference that an integer program tells apart."""

_MAX_EXACT_LOAD = 1 << 16


class Lot:
    """A number of ready jobs that take the same. ``load`` is what one of them adds to the objective: its
    cores, at least 1 (as in Snakemake's own ILP)."""

    __slots__ = ("demand", "load", "size")

    def __init__(self, size: int, demand: Demand) -> None:
        self.size = size
        self.demand = demand
        self.load = max(1, dict(demand).get(LOAD, 0))


class Problem(NamedTuple):
    """Maximise the load, then the preference, of whole counts per variable."""

    counts: tuple[int, ...]
    loads: tuple[float, ...]
    levels: tuple[int, ...]
    demands: tuple[tuple[float, ...], ...]
    capacity: tuple[float, ...]

    def program(self) -> Program:
        """Maximises sum(load_i x_i) and, subordinate to it, sum(load_i level_i x_i), subject to
        sum(demand_ij x_i) <= capacity_j and 0 <= x_i <= count_i, all x_i whole.
        """
        greatest = sum(load * count for load, count in zip(self.loads, self.counts, strict=True))
        # One unit of load outweighs any preference: all levels together stay below 1 per unit of `major`.
        major = greatest * LEVELS
        return Program(
            costs=tuple(-load * (major + level) for load, level in zip(self.loads, self.levels, strict=True)),
            rows=tuple(
                (tuple((index, demand[resource]) for index, demand in enumerate(self.demands)), available)
                for resource, available in enumerate(self.capacity)
            ),
            most=tuple(map(float, self.counts)),
            whole=frozenset(range(len(self.counts))),
        )


def fits(demand: Demand, free: Mapping[str, float], count: int) -> int:
    """How many of ``count`` jobs fit into the free resources."""
    for name, amount in demand:
        room = free[name]
        if room < amount * count:
            count = int(room // amount)
            if count <= 0:
                return 0
    return count


def subtract(free: dict[str, float], demand: Demand, count: int) -> None:
    """Take what ``count`` jobs need from the free resources."""
    for name, amount in demand:
        free[name] -= amount * count


def greedy(lots: Sequence[Lot], capacity: Mapping[str, float]) -> list[int]:
    """Fill up in order of preference: jobs to start per lot."""
    free = dict(capacity)
    counts = [0] * len(lots)
    for index, lot in enumerate(lots):
        # Nearly all lots fail here once the resources are used up.
        for name, amount in lot.demand:
            if free[name] < amount:
                break
        else:
            counts[index] = fits(lot.demand, free, lot.size)
            subtract(free, lot.demand, counts[index])
    return counts


def pack(lots: Sequence[Lot], capacity: Mapping[str, float], solver: Solver) -> list[int]:
    """Jobs to start per lot: the greatest load, and among such packings the preferred jobs.

    Where the solver has no answer in time, the fullest of a few greedy packings.
    """
    counts = greedy(lots, capacity)
    indices = range(len(lots))
    short = [i for i in indices if i < SHORTLIST or counts[i]] if len(lots) > SHORTLIST else list(indices)
    shortlist = [lots[i] for i in short]
    chosen = [counts[i] for i in short]
    if is_best(shortlist, chosen, capacity):
        return counts
    problem, members = formulate(shortlist, capacity)
    solution = solver.solve(problem.program())
    better = fullest(shortlist, capacity) if solution is None else _distribute(solution, members, shortlist)
    if not _feasible(shortlist, better, capacity) or _load(shortlist, better) <= _load(shortlist, chosen):
        return counts
    counts = [0] * len(lots)
    for index, count in zip(short, better, strict=True):
        counts[index] = count
    return counts


def fullest(lots: Sequence[Lot], capacity: Mapping[str, float]) -> list[int]:
    """The fullest of the greedy packings by load and by load per share of the scarce resources."""
    shares = {name: 1 / max(capacity[name], 1) for name in scarce(lots, capacity)}

    def density(lot: Lot) -> float:
        return lot.load / (1e-9 + sum(shares.get(name, 0) * amount for name, amount in lot.demand))

    best = [0] * len(lots)
    for key in (density, lambda lot: lot.load):
        order = sorted(range(len(lots)), key=lambda index: key(lots[index]), reverse=True)
        counts = [0] * len(lots)
        for index, count in zip(order, greedy([lots[i] for i in order], capacity), strict=True):
            counts[index] = count
        best = max(best, counts, key=lambda counts: _load(lots, counts))
    return best


def is_best(lots: Sequence[Lot], counts: Sequence[int], capacity: Mapping[str, float]) -> bool:
    """Whether a greedy packing provably has the greatest possible load."""
    if all(lot.size == count for lot, count in zip(lots, counts, strict=True)):
        return True
    if len({lot.demand for lot in lots}) == 1:
        return True
    return _load(lots, counts) >= bound(lots, capacity)


def bound(lots: Sequence[Lot], capacity: Mapping[str, float]) -> float:
    """An upper bound of the load of any packing, from each scarce resource by itself."""
    best = total = sum(lot.load * lot.size for lot in lots)
    for name in scarce(lots, capacity):
        charged = [
            (lot.load, amount, lot.size) for lot in lots for other, amount in lot.demand if other == name
        ]
        free_of_charge = total - sum(load * size for load, _, size in charged)
        if name == LOAD and capacity[name] <= _MAX_EXACT_LOAD and all(_whole(a) for _, a, _ in charged):
            reached: float = _greatest_sum([(int(a), n) for _, a, n in charged], int(capacity[name]))
        else:
            reached = _fractional(charged, capacity[name])
        best = min(best, free_of_charge + reached)
    return int(best + 1e-6) if all(_whole(lot.load) for lot in lots) else best


def scarce(lots: Sequence[Lot], capacity: Mapping[str, float]) -> list[str]:
    """The resources that do not suffice for all jobs together."""
    wanted: dict[str, float] = {}
    for lot in lots:
        for name, amount in lot.demand:
            wanted[name] = wanted.get(name, 0) + amount * lot.size
    return [name for name, amount in wanted.items() if amount > capacity[name]]


def formulate(lots: Sequence[Lot], capacity: Mapping[str, float]) -> tuple[Problem, list[list[int]]]:
    """The integer program of a packing, and which lots share each of its variables.

    Resources that suffice anyway are left out, and so are jobs which could never be among the chosen:
    of jobs with the same demand only as many of the preferred as fit by themselves.
    """
    names = scarce(lots, capacity)
    candidates: list[tuple[int, int, Demand]] = []
    room: dict[tuple[Demand, float], int] = {}
    for index, lot in enumerate(lots):
        demand = tuple((name, amount) for name, amount in lot.demand if name in names)
        shape = (demand, lot.load)
        if shape not in room:
            room[shape] = int(min((capacity[name] // amount for name, amount in demand), default=sys.maxsize))
        count = min(lot.size, room[shape])
        if count > 0:
            room[shape] -= count
            candidates.append((index, count, demand))
    variables: dict[tuple[int, Demand, float], list[int]] = {}
    counts: dict[tuple[int, Demand, float], int] = {}
    for position, (index, count, demand) in enumerate(candidates):
        level = LEVELS - 1 - (LEVELS * position) // len(candidates)
        variable = (level, demand, lots[index].load)
        variables.setdefault(variable, []).append(index)
        counts[variable] = counts.get(variable, 0) + count
    problem = Problem(
        counts=tuple(counts.values()),
        loads=tuple(load for _, _, load in variables),
        levels=tuple(level for level, _, _ in variables),
        demands=tuple(tuple(dict(demand).get(name, 0) for name in names) for _, demand, _ in variables),
        capacity=tuple(capacity[name] for name in names),
    )
    return problem, list(variables.values())


def _distribute(solution: Sequence[float], members: list[list[int]], lots: Sequence[Lot]) -> list[int]:
    """Counts per lot from counts per variable, in order of preference."""
    counts = [0] * len(lots)
    for number, positions in zip(solution, members, strict=True):
        left = round(number)
        for position in positions:
            counts[position] = min(left, lots[position].size)
            left -= counts[position]
    return counts


def _load(lots: Sequence[Lot], counts: Sequence[int]) -> float:
    return sum(lot.load * count for lot, count in zip(lots, counts, strict=True) if count)


def _feasible(lots: Sequence[Lot], counts: Sequence[int], capacity: Mapping[str, float]) -> bool:
    free = dict(capacity)
    for lot, count in zip(lots, counts, strict=True):
        if count:
            if fits(lot.demand, free, count) < count:
                return False
            subtract(free, lot.demand, count)
    return True


def _whole(amount: float) -> bool:
    return isinstance(amount, int) or amount.is_integer()


def _greatest_sum(amounts: list[tuple[int, int]], capacity: int) -> int:
    """The greatest sum not above capacity of (amount, how many) pieces: subset sum on the bits of an int."""
    if capacity <= 0:
        return 0
    mask = (1 << (capacity + 1)) - 1
    reachable = 1
    pieces: dict[int, int] = {}
    for amount, count in amounts:
        pieces[amount] = pieces.get(amount, 0) + count
    for amount, count in pieces.items():
        left, step = min(count, capacity // amount), 1
        while left > 0:
            step = min(step, left)
            reachable |= (reachable << (amount * step)) & mask
            left -= step
            step *= 2
    return reachable.bit_length() - 1


def _fractional(pieces: list[tuple[float, float, int]], capacity: float) -> float:
    """The greatest load of (load, amount, how many) pieces that may be cut: the fractional knapsack."""
    total = 0.0
    for load, amount, count in sorted(pieces, key=lambda piece: piece[0] / piece[1], reverse=True):
        number = min(float(count), max(0.0, capacity) / amount)
        total += load * number
        capacity -= amount * number
    return total
