"""A forecast: which unit runs where and when if all take as long as predicted, and when the last one ends.

The scheduler itself is played through, on a clock of its own.
"""

import heapq
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from ripresa.placement import asking
from ripresa.placement.asking import Asked
from ripresa.placement.cost import Prediction
from ripresa.placement.durations import Durations
from ripresa.placement.inventory import Device
from ripresa.placement.occupancy import Use, slots
from ripresa.placement.packing import LOAD, Demand, Solver
from ripresa.placement.ready import Kind, Ready
from ripresa.placement.wishes import CPU, GPU, WHOLE, Option, Start

LEVEL = 0.9
"""The end lies in the interval with this probability, if the predictions are as good as they claim to be."""

STEPS = 20
"""Durations count as equal if they are less than 5 % apart: there are so many steps to a factor of e."""

_DRAWS, _UNITS = 200, 40_000
"""So often the durations are drawn for the interval, less often with many units."""


class Job(NamedTuple):
    """A unit that would run."""

    target: str
    rule: str
    threads: int
    resources: Mapping[str, Any]
    needs: frozenset[str] = frozenset()
    """Targets of others that come before it."""


class Placed(NamedTuple):
    """A unit in its place; times are in s from now."""

    target: str
    rule: str
    kind: str | None
    """None for a unit that asks for no device."""
    devices: tuple[str, ...]
    share: int
    start: float
    end: float
    why: str


class Forecast(NamedTuple):
    """What becomes of the units; times are in s from now."""

    units: list[Placed]
    """In the order of their starts."""
    impossible: dict[str, str]
    """Why some can never run here."""
    blocked: list[str]
    """Those that need one of these."""
    end: float
    interval: tuple[float, float]


def forecast(jobs: Sequence[Job], devices: Sequence[Device], cores: int, durations: Durations) -> Forecast:
    """Play the scheduler through on devices that are all free, with so many cores for all units together."""
    play = _Play(jobs, devices, cores, durations)
    placed = list(play.run())
    there = {unit.target for unit in placed} | play.impossible.keys()
    blocked = [job.target for job in jobs if job.target not in there]
    end = max((unit.end for unit in placed), default=0.0)
    return Forecast(placed, play.impossible, blocked, end, play.interval(placed, end))


class _Play:
    def __init__(
        self, jobs: Sequence[Job], devices: Sequence[Device], cores: int, durations: Durations
    ) -> None:
        self._jobs = {job.target: job for job in jobs}
        self._devices = devices
        self._cores = cores
        self._durations = durations
        self._alike: dict[tuple[Any, ...], Asked] = {}
        self._options: dict[Asked, tuple[Option, ...]] = {}
        self._ready: Ready[str] = Ready(Solver(), durations.rank, self._options.__getitem__)
        self._waits = {job.target: set(job.needs & self._jobs.keys()) for job in jobs}
        self._next: dict[str, list[str]] = {}
        for target, needs in self._waits.items():
            for need in needs:
                self._next.setdefault(need, []).append(target)
        self._fits: dict[tuple[str | None, int], list[str]] = {}
        self.impossible: dict[str, str] = {}

    def run(self) -> Iterator[Placed]:
        """The units in the order of their starts."""
        now, tie = 0.0, count()
        free = {LOAD: float(self._cores)}
        ends: list[tuple[float, int, str]] = []
        uses: dict[str, Use] = {}
        for target, needs in self._waits.items():
            if not needs:
                self._offer(target)
        while True:
            for target, start in self._ready.take(free, slots(self._devices, uses.values(), now)).items():
                free[LOAD] -= self._cores_of(target)
                placed = self._placed(target, start, now)
                if start is not None:
                    memory_mb = self._memory_mb(target) if start.kind == GPU else 0
                    had = dict.fromkeys(start.devices, placed.share)
                    expected = Prediction(placed.end - now, 0.0)
                    uses[target] = Use(target, had, memory_mb, now, expected)
                heapq.heappush(ends, (placed.end, next(tie), target))
                yield placed
            if not ends:
                return
            now = ends[0][0]
            while ends and ends[0][0] <= now:
                _, _, target = heapq.heappop(ends)
                free[LOAD] += self._cores_of(target)
                uses.pop(target, None)
                for other in self._next.get(target, ()):
                    self._waits[other].discard(target)
                    if not self._waits[other]:
                        self._offer(other)

    def interval(self, placed: Sequence[Placed], end: float) -> tuple[float, float]:
        """Between which times the last unit ends.

        Durations are drawn again and again, and each time units start in the same order, each on the first
        device of its kind that is free.
        """
        if not placed:
            return 0.0, 0.0
        draws = max(30, min(_DRAWS, _UNITS // len(placed)))
        chance = random.Random(0)
        spreads = [self._spread(unit) for unit in placed]
        drawn = sorted(self._drawn(placed, spreads, chance) for _ in range(draws))
        tail = (1 - LEVEL) / 2
        return min(drawn[int(tail * draws)], end), max(drawn[math.ceil((1 - tail) * draws) - 1], end)

    def _drawn(self, placed: Sequence[Placed], spreads: Sequence[float], chance: random.Random) -> float:
        """When the last unit ends, with durations from their distributions."""
        part = math.gcd(WHOLE, *(unit.share for unit in placed))
        lanes = {device.name: [0.0] * (WHOLE // part) for device in self._devices}
        cores = [0.0] * self._cores
        ends: dict[str, float] = {}
        for unit, spread in zip(placed, spreads, strict=True):
            # Log-normal, with the mean that was predicted.
            factor = math.exp(chance.gauss(-spread * spread / 2, spread)) if spread else 1.0
            mine, width = self._cores_of(unit.target), unit.share // part
            kind = [lanes[name] for name in self._fitting(unit)]
            kind.sort(key=lambda lane: lane[width - 1])
            taken = kind[: len(unit.devices)]
            needs = self._jobs[unit.target].needs
            begin = max(
                cores[mine - 1],
                *(lane[width - 1] for lane in taken),
                *(ends.get(need, 0.0) for need in needs),
                0.0,
            )
            end = ends[unit.target] = begin + factor * (unit.end - unit.start)
            for lane, number in [(cores, mine), *((lane, width) for lane in taken)]:
                lane[:number] = [end] * number
                lane.sort()
        return max(ends.values())

    def _fitting(self, unit: Placed) -> list[str]:
        """The devices of the kind that a unit was placed on which are large enough for it."""
        memory_mb = self._memory_mb(unit.target) if unit.kind == GPU else 0
        key = unit.kind, memory_mb
        if key not in self._fits:
            self._fits[key] = [
                device.name
                for device in self._devices
                if device.kind == unit.kind and (not device.memory_mb or device.memory_mb >= memory_mb)
            ]
        return self._fits[key]

    def _offer(self, target: str) -> None:
        """A unit is ready, or can never run."""
        job = self._jobs[target]
        unit = asking.asked(job.resources, job.rule)
        if unit and (why := asking.impossible(unit, self._devices)):
            self.impossible[target] = why
            return
        demand: Demand = ((LOAD, self._cores_of(target)),)
        alike = self._bucket(unit) if unit else None
        self._ready.add(target, Kind(0, 0, job.rule, 0, demand, asked=alike))

    def _bucket(self, unit: Asked) -> Asked:
        """The first of the units that are nearly equal to one: equal ones are placed in one go."""
        options = asking.options(unit, lambda unit, kind: self._durations.predict(unit.rule, unit.cost, kind))
        steps = tuple(round(STEPS * math.log(max(option.seconds, 1e-3))) for option in options)
        first = self._alike.setdefault((unit._replace(cost=""), steps), unit)
        self._options.setdefault(first, options)
        return first

    def _placed(self, target: str, start: Start | None, now: float) -> Placed:
        job = self._jobs[target]
        unit = asking.asked(job.resources, job.rule) if start else None
        if start is None or unit is None:
            return Placed(
                target, job.rule, None, (), WHOLE, now, now + self._predict(target, CPU).seconds, ""
            )
        share = unit.share if start.kind == GPU else WHOLE
        end = now + self._predict(target, start.kind).seconds
        return Placed(target, job.rule, start.kind, start.devices, share, now, end, start.why)

    def _predict(self, target: str, kind: str) -> Prediction:
        job = self._jobs[target]
        return self._durations.predict(job.rule, str(job.resources.get("cost") or ""), kind)

    def _spread(self, unit: Placed) -> float:
        return self._predict(unit.target, unit.kind or CPU).spread

    def _memory_mb(self, target: str) -> int:
        memory_mb = self._jobs[target].resources.get("gpu_mem_mb")
        return memory_mb if isinstance(memory_mb, int) else 0

    def _cores_of(self, target: str) -> int:
        return min(self._cores, self._jobs[target].threads)
