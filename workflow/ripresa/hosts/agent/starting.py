"""The start of a unit: under its lease, which passes to the supervisor, and on disk before it is answered."""

from __future__ import annotations

import os
import time

from ripresa.hosts.agent import folders, sight, store, supervisor
from ripresa.hosts.agent.errors import Refused
from ripresa.hosts.agent.units import IDENTITY, Unit
from ripresa.journal import clock, leases, processes, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ripresa.hosts.agent.call import Here
    from ripresa.journal.paths import Run

_PATIENCE_S = 20.0
_MOMENT_S = 0.005


def start(run: Run, operation: dict[str, Any], here: Here) -> dict[str, Any]:
    """Start an attempt of a unit, unless one is there: ``state`` is started, held, ended or missing."""
    unit = Unit(run, operation["key"])
    folders.make(run.leases)
    end = time.monotonic() + _PATIENCE_S
    while (lease := leases.acquire(run, unit.key)) is None:
        there = sight.look(unit)
        if there.state != sight.UNKNOWN:
            return _there(there)
        if time.monotonic() > end:
            raise Refused("unknown", f"the lease {unit.lease} is held by a process that it does not name")
        time.sleep(_MOMENT_S)
    passed = False
    try:
        there = sight.settle(unit, lease)
        if there.state == sight.ENDED:
            return _there(there)
        # From now on whoever looks sees what is under way.
        lease.write({**processes.me(), **{name: operation[name] for name in IDENTITY}})
        gone = store.missing(run, [one["sha256"] for one in operation["inputs"]])
        if gone:
            return {"state": "missing", "files": gone}
        try:
            _prepare(unit, operation)
            supervisor.launch(unit, operation, lease, here)
        except BaseException:
            folders.remove(unit.folder)
            raise
        passed = True
        return {"state": "started"}
    finally:
        if passed:
            os.close(lease.fd)
        else:
            lease.release()


def _there(there: sight.Sight) -> dict[str, Any]:
    state = "held" if there.state == sight.RUNNING else "ended"
    return {"state": state, **{n: there.identity[n] for n in ("token", "attempt", "digest", "session")}}


def _prepare(unit: Unit, operation: dict[str, Any]) -> None:
    """Make the folder of a unit; the request comes last, and makes it one."""
    directory = operation["directory"]
    if directory is not None and not os.path.isdir(directory):
        raise Refused("file_system", f"no directory {directory} on this host")
    folders.remove(unit.folder)
    for folder in (unit.folder, unit.scratch, unit.tmp, unit.work):
        folders.make(folder)
    if directory is None:
        for folder in operation["folders"]:
            folders.make(f"{unit.work}/{folder}")
        for given in operation["inputs"]:
            store.stage(unit.run, given, unit.work)
    os.close(os.open(unit.log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    unit.make_bell()
    unit.reserve()
    # What is in the environment may be secret: it goes from hand to hand, and into no file.
    told = {name: value for name, value in operation.items() if name not in ("op", "environment")}
    named = {name: processes.me()[name] for name in ("host", "boot_id")}
    records.write_json(unit.request, {**told, **named, "accepted": clock.iso()})
    folders.sync(unit.folder)
    folders.sync(os.path.dirname(unit.folder))
