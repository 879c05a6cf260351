"""A campaign on a simulated clock: units end when their durations say, and nothing really runs."""

import heapq
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from placing.trace import Unit


class Device(NamedTuple):
    """A device; ``memory_mb`` 0 if that does not matter."""

    name: str
    kind: str
    memory_mb: int = 0


class Running(NamedTuple):
    """A unit that runs."""

    unit: Unit
    device: Device
    started: float


class Policy(Protocol):
    """Decides, whenever a unit has ended, which ready units start on which devices."""

    def choose(
        self, ready: dict[str, Unit], running: Sequence[Running], now: float
    ) -> Iterable[tuple[Unit, Device]]:
        """The units to start now."""

    def ended(self, unit: Unit, kind: str, seconds: float) -> None:
        """A unit has ended."""


class Outcome(NamedTuple):
    """What a policy made of a campaign."""

    makespan: float
    decisions: list[float]
    """Seconds that each took, with what was learnt before from the unit that ended."""
    ready: list[int]
    """How many units were ready at each."""

    def mean_ms(self, at_least: int = 0) -> float:
        """Mean time of the decisions among at least so many ready units, in ms."""
        times = [took for took, ready in zip(self.decisions, self.ready, strict=True) if ready >= at_least]
        return 1e3 * statistics.fmean(times) if times else 0.0

    @property
    def p99_ms(self) -> float:
        return 1e3 * sorted(self.decisions)[int(0.99 * (len(self.decisions) - 1))]


def simulate(units: Sequence[Unit], devices: Sequence[Device], policy: Policy) -> Outcome:
    """Run a campaign to its end.

    Raises RuntimeError when a policy starts what cannot run, or nothing at all.
    """
    ready = {unit.name: unit for unit in units}
    free = {device.name: 100 for device in devices}
    memory = {device.name: device.memory_mb for device in devices}
    ends: list[tuple[float, int, Running]] = []
    now, count, learning = 0.0, 0, 0.0
    decisions: list[float] = []
    sizes: list[int] = []
    while ready or ends:
        if ready:
            sizes.append(len(ready))
            begun = time.perf_counter()
            chosen = list(policy.choose(ready, [running for _, _, running in ends], now))
            decisions.append(time.perf_counter() - begun + learning)
            for unit, device in chosen:
                del ready[unit.name]
                share = unit.share if device.kind == "gpu" else 100
                free[device.name] -= share
                if device.memory_mb:
                    memory[device.name] -= unit.memory_mb
                if free[device.name] < 0 or memory[device.name] < 0 or device.kind not in unit.seconds:
                    raise RuntimeError(f"{unit.name} cannot run on {device.name} now")
                count += 1
                end = now + unit.seconds[device.kind]
                heapq.heappush(ends, (end, count, Running(unit, device, now)))
        if not ends:
            raise RuntimeError(f"{len(ready)} units are ready, all devices idle, and nothing starts")
        now, _, (unit, device, started) = heapq.heappop(ends)
        free[device.name] += unit.share if device.kind == "gpu" else 100
        memory[device.name] += unit.memory_mb if device.memory_mb else 0
        begun = time.perf_counter()
        policy.ended(unit, device.kind, now - started)
        learning = time.perf_counter() - begun
    return Outcome(now, decisions, sizes)
