"""Operations on a unit that is there: cancel, fetch, forget; and the list of all."""

from __future__ import annotations

import os
import time

from ripresa.hosts.agent import cleaning, data, sight
from ripresa.hosts.agent.errors import Refused
from ripresa.hosts.agent.units import Unit, keys
from ripresa.journal import leases, processes
from ripresa.recovery import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ripresa.journal.paths import Run

_PATIENCE_S = 10.0
_MOMENT_S = 0.005


def cancel(run: Run, operation: dict[str, Any]) -> dict[str, Any]:
    """Ask a supervisor to end its unit: TERM, and KILL after its grace or when asked twice."""
    unit = Unit(run, operation["key"])
    end = time.monotonic() + _PATIENCE_S
    while True:
        there = _there(unit, operation["token"])
        if there is None:
            return {"state": sight.UNKNOWN}
        # Until then the owner is the call that prepares the unit.
        if there.state != sight.RUNNING or "lifeline" in there.owner:
            break
        if time.monotonic() > end:
            raise Refused("unknown", f"{there.identity['target']} is still being prepared")
        time.sleep(_MOMENT_S)
    if there.state == sight.RUNNING:
        told = processes.alive(there.owner)
        if told is None:
            raise Refused("unknown", f"it runs on another host: {there.owner.get('host')}")
        if told:
            processes.kill(there.owner["pid"], signals.SIGTERM)
            # A stopped one takes the signal only once it goes on.
            processes.kill(there.owner["pid"], signals.SIGCONT)
    return {"state": there.state}


def fetch(run: Run, operation: dict[str, Any]) -> dict[str, Any]:
    """A piece of a unit's log, or of its packed outputs, and the size of the whole."""
    unit = Unit(run, operation["key"])
    if _there(unit, operation["token"]) is None:
        raise Refused("unknown", f"no attempt {operation['token']} of {unit.key} is there")
    path = unit.log if operation["what"] == "log" else unit.outputs
    found = data.read(path, operation["offset"], operation["length"])
    return {"data": found, "size": os.stat(path).st_size}


def forget(run: Run, operation: dict[str, Any]) -> dict[str, Any]:
    """Remove the folder of an attempt that has ended; ``removed`` tells whether it was there."""
    unit = Unit(run, operation["key"])
    end = time.monotonic() + _PATIENCE_S
    while True:
        there = _there(unit, operation["token"])
        if there is None:
            return {"removed": False}
        if there.state == sight.RUNNING:
            raise Refused("unknown", f"{there.identity['target']} still runs")
        # Its supervisor lets go of the lease a moment after its result is there.
        lease = leases.acquire(run, unit.key)
        if lease is not None:
            break
        if time.monotonic() > end:
            raise Refused("unknown", f"the lease {unit.lease} of an ended unit is held")
        time.sleep(_MOMENT_S)
    try:
        if unit.ended().get("token", operation["token"]) != operation["token"]:
            return {"removed": False}
        cleaning.put_away(unit, there.result if operation["keep"] else None)
    finally:
        lease.release()
    return {"removed": True}


def list_units(run: Run, _: dict[str, Any]) -> dict[str, Any]:
    """All units of a run that are here."""
    found = []
    for key in keys(run):
        there = sight.look(Unit(run, key))
        if there.token is not None:
            found.append({"key": key, **there.identity, "state": there.state})
    return {"units": found}


BY_NAME: dict[str, Callable[[Run, dict[str, Any]], dict[str, Any]]] = {
    "cancel": cancel,
    "fetch": fetch,
    "forget": forget,
    "list": list_units,
}


def _there(unit: Unit, token: str) -> sight.Sight | None:
    """What the attempt of this name does; None if it is not there."""
    there = sight.look(unit)
    return there if there.token == token else None
