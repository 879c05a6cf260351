"""A forecast: which unit runs where and when if all take as long as predicted, and when the last one ends.

The scheduler itself is played through, on a clock of its own.
"""

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from ripresa.placement import asking
from ripresa.placement.asking import Asked
from ripresa.placement.cost import Prediction
from ripresa.placement.durations import Durations
from ripresa.placement.ends import Turn, Way, ends
from ripresa.placement.inventory import Device
from ripresa.placement.occupancy import Use, slots
from ripresa.placement.packing import LOAD, Demand, Solver
from ripresa.placement.ready import Kind, Ready
from ripresa.placement.scenarios import Sort, interval
from ripresa.placement.wishes import CPU, GPU, WHOLE, Option, Start

STEPS = 20
"""Durations count as equal if they are less than 5 % apart: there are so many steps to a factor of e."""


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
        self._fits: dict[tuple[str, int], tuple[str, ...]] = {}
        self.impossible: dict[str, str] = {}

    def run(self) -> Iterator[Placed]:
        """The units in the order of their starts."""
        now, tie = 0.0, count()
        free = {LOAD: float(self._cores)}
        going: list[tuple[float, int, str]] = []
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
                heapq.heappush(going, (placed.end, next(tie), target))
                yield placed
            if not going:
                return
            now = going[0][0]
            while going and going[0][0] <= now:
                _, _, target = heapq.heappop(going)
                free[LOAD] += self._cores_of(target)
                uses.pop(target, None)
                for other in self._next.get(target, ()):
                    self._waits[other].discard(target)
                    if not self._waits[other]:
                        self._offer(other)

    def interval(self, placed: Sequence[Placed], end: float) -> tuple[float, float]:
        """Between which times the last unit ends."""
        if not placed:
            return 0.0, 0.0
        turns = [self._turn(unit) for unit in placed]
        names = [device.name for device in self._devices]
        return interval(list(ends(turns, names, self._cores, self._durations)), end)

    def _turn(self, unit: Placed) -> Turn:
        """A unit with all the ways in which it can run, whichever was chosen."""
        job = self._jobs[unit.target]
        asked = asking.asked(job.resources, job.rule) if unit.kind else None
        cost = str(job.resources.get("cost") or "")
        ways = [Way(Sort(job.rule, cost, CPU))]
        if asked:
            ways = [
                Way(Sort(job.rule, cost, kind), names, number, asked.share if kind == GPU else WHOLE)
                for kind in asked.kinds
                for number in (asked.gpus if kind == GPU else 1,)
                if len(names := self._fitting(kind, asked.memory_mb)) >= number
            ]
        return Turn(unit.target, self._cores_of(unit.target), job.needs, tuple(ways))

    def _fitting(self, kind: str, memory_mb: int) -> tuple[str, ...]:
        """The devices of a kind that are large enough."""
        key = kind, memory_mb if kind == GPU else 0
        if key not in self._fits:
            self._fits[key] = tuple(
                device.name
                for device in self._devices
                if device.kind == kind and (not device.memory_mb or device.memory_mb >= key[1])
            )
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

    def _memory_mb(self, target: str) -> int:
        memory_mb = self._jobs[target].resources.get("gpu_mem_mb")
        return memory_mb if isinstance(memory_mb, int) else 0

    def _cores_of(self, target: str) -> int:
        return min(self._cores, self._jobs[target].threads)
