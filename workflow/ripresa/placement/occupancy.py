"""Occupancy: what is free of each device of this machine, beside what running units have and others use."""

import math
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ripresa.journal import devices
from ripresa.journal.paths import Run
from ripresa.placement import inventory
from ripresa.placement.assignment import CPU, WHOLE, Slot
from ripresa.placement.inventory import Device

LOOK_S = 1.0
"""The time between two looks at what others have."""

OVERDUE = 0.1
"""A unit that takes longer than expected is expected to take this part of its time so far in addition."""

ENOUGH = 1 << 30
"""More than ever start at a time."""

_ANY = "cpu "
"""Names of this and a number are no devices: units beside the GPUs, as many as there are cores for."""


class Use(NamedTuple):
    """What a running unit has."""

    target: str
    devices: Mapping[str, int]
    """Percent of each."""
    memory_mb: int
    """Of each."""
    since: float
    """By the clock of the day, in s, as all times here."""
    seconds: float
    """How long it is expected to take; 0.0 if nothing is known."""

    def left(self, now: float) -> float:
        """How long it is expected to go on, in s; infinite if nothing is known."""
        elapsed = max(0.0, now - self.since)
        return max(self.seconds - elapsed, OVERDUE * elapsed) if self.seconds else math.inf


class Occupancy:
    """The devices as they were at the last look, which is never older than `LOOK_S`."""

    def __init__(self, run: Run, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self._run = run
        self._settings = settings
        self._environment = dict(environment)
        self._looked = -math.inf
        self._foreign_mb: dict[str, int] = {}
        self._foreign: dict[str, str] = {}
        self._others: dict[str, int] = {}
        self.devices: list[Device] = []

    def look(self, uses: Iterable[Use] = (), named: Iterable[str] = ()) -> None:
        """See what devices there are and who has them, or ``named`` ones, if the last look is too old.

        ``uses`` are the running units of this process.
        """
        if time.monotonic() < self._looked + LOOK_S:
            return
        self._looked = time.monotonic()
        self.devices = inventory.devices(self._settings, self._environment)
        ours: dict[str, set[str]] = {}
        for use in uses:
            for name in use.devices:
                ours.setdefault(name, set()).add(use.target)
        for device in self.devices:
            if device.name not in ours:
                self._foreign_mb[device.name] = max(0, device.memory_mb - device.free_mb)
        left = devices.shares_free({*(device.name for device in self.devices), *named})
        self._others = {
            name: WHOLE - free - self._leased(name, ours.get(name, set()))
            for name, free in left.items()
            if free < WHOLE
        }

    def look_again(self) -> None:
        """What the last look saw is known to be wrong."""
        self._looked = -math.inf

    def _leased(self, name: str, targets: set[str]) -> int:
        """How many percent of a device the guards of these units hold already."""
        run = os.path.abspath(self._run.dir)
        owners = devices.owners(name) if targets else []
        ours = [one for one in owners if one.get("run") == run and one.get("target") in targets]
        return sum(end - begin for one in ours for begin, end in one.get("bytes") or [])

    def free(self, names: Iterable[str], uses: Iterable[Use]) -> dict[str, int]:
        """Percent that are free of devices beside what these units have."""
        left = {name: WHOLE - self._others.get(name, 0) for name in names}
        for use in uses:
            for name, share in use.devices.items():
                if name in left:
                    left[name] -= share
        return {name: max(0, percent) for name, percent in left.items()}

    @property
    def busy(self) -> list[str]:
        """The devices of which others have something."""
        return [name for name, percent in self._others.items() if percent > 0]

    def reachable(self, cores: int) -> list[Device]:
        """All devices, those included that stand for cores where no slots are configured."""
        if self._settings.get("cpu_slots"):
            return self.devices
        return [*self.devices, *(Device(f"{_ANY}{number}", CPU) for number in range(cores))]

    def slots(self, uses: Iterable[Use], starts: Mapping[str, int], cores: int, now: float) -> list[Slot]:
        """The devices for `assign`.

        ``uses`` are the running units, ``starts`` how many may start on devices whose breaker is open (none)
        or half-open, ``cores`` how many there are in all.
        """
        taken: dict[str, list[Use]] = {}
        for use in uses:
            for name in use.devices:
                taken.setdefault(name, []).append(use)
        return [
            self._slot(device, taken.get(device.name, []), starts.get(device.name, ENOUGH), now)
            for device in self.reachable(cores)
        ]

    def _slot(self, device: Device, uses: list[Use], starts: int, now: float) -> Slot:
        name = device.name
        others = max(0, self._others.get(name, 0))
        free = WHOLE - sum(use.devices[name] for use in uses) - others
        memory_mb = 0
        if device.memory_mb:
            promised = sum(use.memory_mb for use in uses) + self._foreign_mb.get(name, 0)
            # What units that have just started will use is not used yet. Nothing left is not nothing known.
            memory_mb = min(device.free_mb, device.memory_mb - promised) or -1
        free_in = max((use.left(now) for use in uses), default=0.0)
        if others or not starts:
            free_in = math.inf
        return Slot(name, device.kind, max(0, free) if starts else 0, memory_mb, free_in, starts)


def written(names: Iterable[str], share: int) -> str:
    """Devices as the resource ``gpu_device`` has them; `devices.SLOT` alone for a unit beside the GPUs."""
    found = dict.fromkeys(devices.SLOT if name.startswith(_ANY) else name for name in names)
    return ",".join(name if share == WHOLE else f"{name}@{share}" for name in found)
