"""The places of units: which devices the units of this process have, and what those get that ask for some."""

import os
import time
from collections.abc import Container, Iterable
from contextlib import suppress
from functools import cached_property
from typing import Any

from ripresa.journal import attempts, devices, leases, records
from ripresa.journal.paths import Run
from ripresa.placement import asking, assigned
from ripresa.placement.asking import Asked
from ripresa.placement.cost import Prediction
from ripresa.placement.durations import Durations
from ripresa.placement.inventory import Device
from ripresa.placement.occupancy import Occupancy, Use, written
from ripresa.placement.wishes import GPU, WHOLE, Option, Slot, Start
from ripresa.placement.withholding import Outlook, Withholding

Job = Any

_GPU = "gpu:"
"""Breaker scopes of this kind are named by the devices."""


class Places:
    """What is assigned to whom."""

    def __init__(self, run: Run, withholding: Withholding, durations: Durations) -> None:
        self._run = run
        self._withholding = withholding
        self._durations = durations
        self._uses: dict[Job, Use] = {}
        """What units were started with, of those that have devices."""
        self._kept: dict[Job, str] = {}
        """What is still in use by what an earlier start of a unit left behind, or goes on with."""
        self._named: set[str] = set()
        """Devices that rules name."""
        self._usable: frozenset[tuple[str, int]] = frozenset()
        self._asked = False
        self._cores = 0

    @cached_property
    def _there(self) -> Occupancy:
        # Written when the run starts, which comes after the scheduler was made.
        return Occupancy(self._run, records.read_json(self._run.device_settings) or {}, os.environ)

    def asked(self, job: Job, target: str) -> Asked | None:
        """What a job asks for; None if it asks for nothing, or is to start with what it has already."""
        found = asking.asked(job.resources, job.name)
        if found is None:
            return None
        self._asked = True
        kept = self._kept_by(target)
        if kept:
            self._kept[job] = kept
            return None
        self._kept.pop(job, None)
        return found

    def _kept_by(self, target: str) -> str:
        """The devices of a live attempt of a unit, or of what is left of one, which a new guard will end."""
        lease = self._run.lease(target)
        device = (leases.owner(lease) or {}).get("device")
        if not isinstance(device, str) or not leases.held(lease):
            return ""
        return device if any(self.has(name, [target]) for name in devices.named(device)) else ""

    def has(self, name: str, targets: Container[Any]) -> bool:
        """Whether a device is held by an attempt of one of these units, or by what is left of it."""
        run = os.path.abspath(self._run.dir)
        owners = devices.owners(name)
        return any(owner.get("run") == run and owner.get("target") in targets for owner in owners)

    def impossible(self, unit: Asked) -> str | None:
        """Why no device of this machine could ever do for a unit; None if some could."""
        self._look()
        return asking.impossible(unit, self._there.reachable(1))

    def elsewhere(self, unit: Asked, target: str, outlook: Outlook) -> Outlook:
        """The outlook of a unit with what it asks for, and the devices that it is to avoid if others will do.

        These are the ones on which it failed, those that are too small if it needs a larger one, and those
        whose breaker holds it back only there. A unit that goes to another device has nothing to wait for.
        """
        self._look()
        gpus = [device for device in self._there.devices if device.kind == GPU]
        avoid = {gpu.name for gpu in gpus if self._withholding.meet(outlook.scopes, _GPU + gpu.name)}
        failed: list[str] = []
        for record in attempts.read(self._run, target) if outlook.attempts else ():
            if record.get("outcome") in ("published", "adopted", "released"):
                failed.clear()
                avoid.clear()
                continue
            failed = devices.named(str((record.get("excluded") or {}).get("gpu") or ""))
            avoid.update(failed)
            if (record.get("changes") or {}).get("gpu") == "larger":
                avoid |= _not_larger(devices.named(record.get("device")), gpus)
        there = [device for device in self._there.reachable(1) if device.name not in avoid]
        if not avoid or asking.impossible(unit, there):
            return outlook._replace(asked=unit)
        not_before = 0.0 if failed else outlook.not_before
        return outlook._replace(asked=unit._replace(avoid=frozenset(avoid)), not_before=not_before)

    def name(self, named: Iterable[str]) -> None:
        """Rules name these devices."""
        self._named.update(named)

    def start(self, job: Job, target: str, start: Start | None) -> bool:
        """A job starts, with what it is assigned; whether its resources are to be worked out anew."""
        kept = self._kept.pop(job, "")
        unit = asking.asked(job.resources, job.name) if start else None
        if start is None or unit is None:
            self._use(job, target, kept or str(job.resources.get(devices.RESOURCE) or ""))
            assigned.give(target, kept)
            return bool(kept)
        share, memory_mb = (unit.share, unit.memory_mb) if start.kind == GPU else (WHOLE, 0)
        had = dict.fromkeys(start.devices, share)
        self._uses[job] = Use(target, had, memory_mb, time.time(), self._predict(unit, start.kind))
        assigned.give(target, written(start.devices, share))
        return True

    def _use(self, job: Job, target: str, named: str) -> None:
        with suppress(devices.DeviceError):  # its guard says it
            if shares := devices.wanted(named):
                self._uses[job] = Use(target, shares, 0, time.time())

    def was_sent_back(self, job: Job, since: float) -> bool:
        """Whether a job that came back without an attempt met somebody else on its devices."""
        use = self._uses.get(job)
        if use is None or not devices.used_since(list(use.devices), since):
            return False
        self._there.look_again()
        return True

    def left(self, job: Job) -> None:
        """A job runs no more."""
        self._uses.pop(job, None)

    def options(self, unit: Asked) -> tuple[Option, ...]:
        """How a unit can run, for `assign`."""
        return asking.options(unit, self._predict)

    def _predict(self, unit: Asked, kind: str) -> Prediction:
        return self._durations.predict(unit.rule, unit.cost, kind)

    def moved(self) -> bool:
        """Whether other devices can be used than at the last call: what is possible has changed."""
        if not self._asked:
            return False
        self._look()
        before = self._usable
        self._usable = frozenset((device.name, device.memory_mb) for device in self._there.devices)
        return self._usable != before

    def free(self, running: Container[Job]) -> dict[str, int]:
        """Percent that are free of each device that a rule names."""
        self._uses = {job: use for job, use in self._uses.items() if job in running}
        if not self._named:
            return {}
        self._look()
        return self._there.free(self._named, self._uses.values())

    def slots(self, cores: int, now: float) -> list[Slot]:
        """The devices for units that ask; ``cores`` are free now."""
        if not self._asked:
            return []
        self._cores = max(self._cores, cores)
        starts = {scope.removeprefix(_GPU): number for scope, number in self.allowances(now).items()}
        return self._there.slots(self._uses.values(), starts, self._cores, now)

    def allowances(self, now: float) -> dict[str, int]:
        """How many units may start now on the devices whose breaker limits that, by its scope."""
        if not self._asked:
            return {}
        self._look()
        gpus = [device.name for device in self._there.devices if device.kind == GPU]
        return self._withholding.allowances([_GPU + name for name in gpus], now)

    @property
    def busy(self) -> dict[str, str]:
        """The devices of which others have something, and what is known of that."""
        return self._there.busy if self._asked or self._named else {}

    @property
    def lacking(self) -> dict[str, str]:
        """Why units that ask may wait for the devices, although no unit of this process has one."""
        low = {
            one.name: f"{one.free_mb} of {one.memory_mb} MB are free"
            for one in self._there.devices
            if one.free_mb < one.memory_mb
        }
        return {**low, **self._there.busy}

    @property
    def idle(self) -> bool:
        """Whether no unit of this process has a device."""
        return not self._uses

    def _look(self) -> None:
        self._there.look(self._uses.values(), self._named)


def _not_larger(failed: list[str], gpus: list[Device]) -> set[str]:
    """The GPUs that have no more memory than those on which a unit ran out of it; none if all are such."""
    most = max((gpu.memory_mb for gpu in gpus if gpu.name in failed), default=0)
    small = {gpu.name for gpu in gpus if gpu.memory_mb <= most}
    return small if len(small) < len(gpus) else set()
