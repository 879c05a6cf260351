"""Occupancy: what is free of each device of this machine, beside what running units have and others use."""

import math
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ripresa.journal import devices, exclusions
from ripresa.journal.paths import Run
from ripresa.placement import inventory
from ripresa.placement.cost import Prediction
from ripresa.placement.inventory import Device
from ripresa.placement.wishes import CPU, WHOLE, Slot

LOOK_S = 1.0
"""The time between two looks at what others have."""

ENOUGH = 1 << 30
"""More than ever start at a time."""

_NOTHING: Mapping[str, int] = {}
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
    expected: Prediction | None = None
    """How long it takes; None if nothing is known."""

    def left(self, now: float) -> float:
        """How long it is expected to go on, in s; infinite if nothing is known."""
        return math.inf if self.expected is None else self.expected.remaining(max(0.0, now - self.since))


class Occupancy:
    """The devices as they were at the last look, which is never older than `LOOK_S`."""

    def __init__(self, run: Run, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self._run = run
        self._settings = settings
        self._environment = dict(environment)
        self._looked = -math.inf
        self._foreign_mb: dict[str, int] = {}
        self._alone: dict[str, str] = {}
        """The devices that are left alone, and why."""
        self._others: dict[str, int] = {}
        self.devices: list[Device] = []
        """Those that the run may use."""

    def look(self, uses: Iterable[Use] = (), named: Iterable[str] = ()) -> None:
        """See what devices there are and who has them, or ``named`` ones, if the last look is too old.

        ``uses`` are the running units of this process.
        """
        if time.monotonic() < self._looked + LOOK_S:
            return
        self._looked = time.monotonic()
        excluded = exclusions.excluded(self._run)
        found = inventory.devices(self._settings, self._environment)
        self.devices = [device for device in found if device.name not in excluded]
        ours: dict[str, set[str]] = {}
        for use in uses:
            for name in use.devices:
                ours.setdefault(name, set()).add(use.target)
        for device in self.devices:
            if device.name not in ours:
                self._foreign_mb[device.name] = max(0, device.memory_mb - device.free_mb)
        self._alone = {
            device.name: why for device in self.devices if (why := inventory.busy(device, self._settings))
        }
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
    def busy(self) -> dict[str, str]:
        """The devices of which others have something, and what is known of that."""
        leased = {
            name: f"{percent} % of it are leased" for name, percent in self._others.items() if percent > 0
        }
        return {**leased, **self._alone}

    def reachable(self, cores: int) -> list[Device]:
        """All devices, those included that stand for cores; see `with_cores`."""
        return with_cores(self.devices, self._settings, cores)

    def slots(self, uses: Iterable[Use], starts: Mapping[str, int], cores: int, now: float) -> list[Slot]:
        """The devices for `assign`.

        ``uses`` are the running units, ``starts`` how many may start on devices whose breaker is open (none)
        or half-open, ``cores`` how many there are in all.
        """
        others = {**self._others, **dict.fromkeys(self._alone, WHOLE)}
        return slots(self.reachable(cores), uses, now, others, self._foreign_mb, starts)


def slots(
    there: Iterable[Device],
    uses: Iterable[Use],
    now: float,
    others: Mapping[str, int] = _NOTHING,
    foreign_mb: Mapping[str, int] = _NOTHING,
    starts: Mapping[str, int] = _NOTHING,
) -> list[Slot]:
    """Devices as `assign` takes them: without what ``uses``, and ``others`` (percent), have of them.

    ``foreign_mb`` is memory that is taken from the beginning, ``starts`` how many units may start on a
    device, where that is limited.
    """
    taken: dict[str, list[Use]] = {}
    for use in uses:
        for name in use.devices:
            taken.setdefault(name, []).append(use)
    found = []
    for device in there:
        name = device.name
        users, may, held = taken.get(name, []), starts.get(name, ENOUGH), max(0, others.get(name, 0))
        free = WHOLE - sum(use.devices[name] for use in users) - held
        memory_mb = total_mb = 0
        if device.memory_mb:
            total_mb = max(1, device.memory_mb - foreign_mb.get(name, 0))
            promised = sum(use.memory_mb for use in users) + foreign_mb.get(name, 0)
            # What units that have just started will use is not used yet. Nothing left is not nothing known.
            memory_mb = min(device.free_mb, device.memory_mb - promised) or -1
        free_in = max((use.left(now) for use in users), default=0.0)
        if held or not may:
            free_in = math.inf
        free = max(0, free) if may else 0
        found.append(Slot(name, device.kind, free, memory_mb, free_in, may, total_mb))
    return found


def with_cores(there: Iterable[Device], settings: Mapping[str, Any], cores: int) -> list[Device]:
    """Devices, and where no slots for units beside the GPUs are configured, one that stands for each core."""
    if settings.get("cpu_slots"):
        return list(there)
    return [*there, *(Device(f"{_ANY}{number}", CPU) for number in range(cores))]


def written(names: Iterable[str], share: int) -> str:
    """Devices as the resource ``gpu_device`` has them; `devices.SLOT` alone for a unit beside the GPUs."""
    found = dict.fromkeys(devices.SLOT if name.startswith(_ANY) else name for name in names)
    return ",".join(name if share == WHOLE else f"{name}@{share}" for name in found)
