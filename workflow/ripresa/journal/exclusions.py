"""Devices that a run leaves alone because they are broken, until a person takes them in again.

Noted in `journal/devices.jsonl`, one line each time a device is excluded or taken in again. What holds is
what the last line of a device on this host says: a name like ``0`` is another device on another host.
"""

from __future__ import annotations

import os

from ripresa.journal import clock, events, processes, records
from ripresa.journal.paths import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EXCLUDED, RELEASED = "excluded", "released"


def excluded(run: Run) -> dict[str, str]:
    """The devices of this host that units of the run must not get, and why."""
    return {name: str(entry.get("reason")) for name, entry in entries(run).items()}


def entries(run: Run) -> dict[str, dict[str, Any]]:
    """The last line about each device of this host that is excluded."""
    if not os.path.exists(run.devices):
        return {}
    here = processes.node()
    last = {
        entry["device"]: entry
        for entry in records.iterate(run.devices)
        if isinstance(entry.get("device"), str) and entry.get("host") == here
    }
    return {name: entry for name, entry in last.items() if entry.get("state") == EXCLUDED}


def exclude(run: Run, device: str, reason: str, *, target: str, attempt: int) -> None:
    """Leave a device of this host alone from now on."""
    if device in entries(run):
        return
    _note(run, device, EXCLUDED, reason=reason, target=target, attempt=attempt)


def release(run: Run, device: str) -> bool:
    """Take a device in again; False if it was not excluded."""
    if device not in entries(run):
        return False
    _note(run, device, RELEASED)
    return True


def _note(run: Run, device: str, state: str, **more: Any) -> None:
    entry = {"device": device, "state": state, **more, "host": processes.node()}
    records.append(run.devices, {**entry, "ts": clock.iso()})
    events.emit(run, f"device_{state}", **{name: entry[name] for name in entry if name != "state"})
