"""Policies of placement: ours, Snakemake's, first come, and one queue sorted by size."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from placing.simulation import Device, Running
from placing.trace import Unit
from ripresa.placement.assignment import assign
from ripresa.placement.cost import Prediction
from ripresa.placement.durations import Durations
from ripresa.placement.program import Solver
from ripresa.placement.wishes import CPU, GPU, Option, Slot, Wish

RULE = "unit"


class Ours:
    """The placement of the recovery scheduler, with durations known, or learnt from the units that ended."""

    def __init__(self, devices: Sequence[Device], solver: Callable[[], Solver], *, known: bool) -> None:
        self._devices = {device.name: device for device in devices}
        self._solver = solver()
        self._durations = None if known else Durations()

    def choose(
        self, ready: dict[str, Unit], running: Sequence[Running], now: float
    ) -> Iterator[tuple[Unit, Device]]:
        groups: dict[tuple[Option, ...], list[Unit]] = {}
        for unit in ready.values():
            groups.setdefault(self._options(unit), []).append(unit)
        wishes = [Wish(len(units), options) for options, units in groups.items()]
        members = list(groups.values())
        self._solver.start_round()
        for start in assign(wishes, self._slots(running, now), {}, solver=self._solver):
            yield members[start.wish].pop(), self._devices[start.devices[0]]

    def ended(self, unit: Unit, kind: str, seconds: float) -> None:
        if self._durations is not None:
            self._durations.add(RULE, unit.cost, kind, seconds)

    def _predict(self, unit: Unit, kind: str) -> Prediction:
        if self._durations is None:
            return Prediction(unit.seconds[kind], 0.0)
        return self._durations.predict(RULE, unit.cost, kind)

    def _options(self, unit: Unit) -> tuple[Option, ...]:
        options = []
        for kind in unit.seconds:
            prediction = self._predict(unit, kind)
            gpu = kind == GPU
            options.append(
                Option(
                    kind,
                    share=unit.share if gpu else 100,
                    memory_mb=unit.memory_mb if gpu else 0,
                    seconds=prediction.seconds,
                    spread=prediction.spread,
                )
            )
        return tuple(options)

    def _slots(self, running: Sequence[Running], now: float) -> list[Slot]:
        free = dict.fromkeys(self._devices, 100)
        memory = {name: device.memory_mb for name, device in self._devices.items()}
        free_in = dict.fromkeys(self._devices, 0.0)
        for unit, device, started in running:
            free[device.name] -= unit.share if device.kind == GPU else 100
            memory[device.name] -= unit.memory_mb if device.memory_mb else 0
            left = self._predict(unit, device.kind).remaining(now - started)
            free_in[device.name] = max(free_in[device.name], left, 1e-3)
        return [
            Slot(name, device.kind, free[name], memory[name], free_in[name], total_mb=device.memory_mb)
            for name, device in self._devices.items()
        ]


class Sorted:
    """One queue in an order of units; each idle device takes the first that can run on it.

    With ``limit``, GPUs take units from the end of the queue, and CPU workers from its beginning up to this
    complexity.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        order: Callable[[Unit], float] | None = None,
        *,
        limit: float | None = None,
    ) -> None:
        self._devices = devices
        self._order = order
        self._limit = limit

    def choose(
        self, ready: dict[str, Unit], running: Sequence[Running], now: float
    ) -> Iterator[tuple[Unit, Device]]:
        queue = sorted(ready.values(), key=self._order) if self._order else list(ready.values())
        busy = {device.name for _, device, _ in running}
        for device in self._devices:
            if device.name in busy:
                continue
            gpu = device.kind == GPU
            side: Iterable[Unit] = reversed(queue) if self._limit is not None and gpu else queue
            most = math.inf if gpu or self._limit is None else self._limit
            unit = next((u for u in side if device.kind in u.seconds and u.complexity <= most), None)
            if unit is not None:
                queue.remove(unit)
                yield unit, device

    def ended(self, unit: Unit, kind: str, seconds: float) -> None:
        pass


class Snakemakes:
    """A scheduler plugin of Snakemake itself, with GPUs and CPU workers as resources.

    A job of Snakemake asks for one or the other: its home.
    """

    def __init__(self, name: str, devices: Sequence[Device]) -> None:
        from snakemake.scheduling import greedy, milp

        module: Any = {"greedy": greedy, "milp": milp}[name]
        self._scheduler = module.Scheduler(None, module.SchedulerSettings(), logging.getLogger(name))
        self._devices = devices
        self._jobs: dict[str, Any] = {}

    def choose(
        self, ready: dict[str, Unit], running: Sequence[Running], now: float
    ) -> Iterator[tuple[Unit, Device]]:
        busy = {device.name for _, device, _ in running}
        idle = {
            kind: [d for d in self._devices if d.kind == kind and d.name not in busy] for kind in (GPU, CPU)
        }
        jobs = [self._job(unit) for unit in ready.values()]
        free = {"_cores": len(idle[GPU]) + len(idle[CPU]), GPU: len(idle[GPU]), CPU: len(idle[CPU])}
        for job in self._scheduler.select_jobs(jobs, jobs, free, {}) or []:
            yield job.unit, idle[job.unit.home].pop()

    def ended(self, unit: Unit, kind: str, seconds: float) -> None:
        pass

    def _job(self, unit: Unit) -> Any:
        from snakemake_interface_scheduler_plugins.tests import DummyJob

        if unit.name not in self._jobs:
            job = DummyJob([], [], {"_cores": 1, unit.home: 1})
            job.unit = unit
            self._jobs[unit.name] = job
        return self._jobs[unit.name]
