"""What keeps the devices of this machine from a unit that asks for some, and goes to whichever is free."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ripresa.journal import devices, exclusions, records
from ripresa.journal.paths import Run
from ripresa.placement import inventory
from ripresa.placement.wishes import CPU, WHOLE


class Awaited(NamedTuple):
    """Devices of which too little is free, or else breakers that hold back from all others."""

    used: list[str]
    scopes: list[str]


def awaited(
    run: Run, kinds: Sequence[str], record: Mapping[str, Any], allowance: Callable[[str], int | None]
) -> Awaited | None:
    """Why a unit that asks for devices of these kinds cannot have any now; None if it may, or cannot be told.

    ``record`` is its last attempt, which had as many as it asks for; those on which it failed it is to avoid.
    ``allowance`` tells how many units may start in a breaker's scope, None for any number.
    """
    settings = records.read_json(run.device_settings) or {}
    if CPU in kinds and not settings.get("cpu_slots"):
        return None  # there are as many as cores
    excluded = exclusions.excluded(run)
    there = [
        device.name
        for device in inventory.devices(settings, os.environ)
        if device.kind in kinds and device.name not in excluded
    ]
    failed = devices.named(str((record.get("excluded") or {}).get("gpu") or ""))
    there = [name for name in there if name not in failed] or there
    had = devices.wanted(record.get("device"))
    share = WHOLE if any(map(devices.is_slot, had)) else min(had.values(), default=WHOLE)
    closed = [name for name in there if allowance(f"gpu:{name}") == 0]
    left = devices.shares_free(name for name in there if name not in closed)
    used = [name for name, percent in left.items() if percent < share]
    if not there or len(left) - len(used) >= (len(had) or 1):
        return None
    return Awaited(used, [] if used else [f"gpu:{name}" for name in closed])
