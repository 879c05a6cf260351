"""What is removed: a unit's folder once its end is known, the older of kept failures, a whole run."""

from __future__ import annotations

import os
import time

from ripresa.hosts.agent import folders, sight
from ripresa.hosts.agent.errors import Refused
from ripresa.hosts.agent.units import Unit, keys
from ripresa.journal import leases, processes
from ripresa.recovery import signals
from ripresa.recovery.orphans import end_orphans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ripresa.journal.paths import Run

KEPT = 5
KEPT_BYTES = 256 << 20
_GRACE_S = 2.0
"""A command that is ended to be cleaned up has this long to end by itself."""
_KILLED_S = 10.0
_MOMENT_S = 0.01


def put_away(unit: Unit, failed: dict[str, Any] | None) -> None:
    """Remove the folder of a unit; of one that failed, whose result is given, keep work folder and log."""
    if failed is not None:
        kept = f"{unit.run.dir}/failed/{unit.key}.a{failed['attempt']}"
        folders.remove(kept)
        folders.make(kept)
        for path in (unit.work, unit.log):
            if os.path.lexists(path):
                os.chmod(path, 0o700)  # a folder that may not be written to cannot be moved
                os.rename(path, f"{kept}/{os.path.basename(path)}")
        _bound(os.path.dirname(kept))
    _remove(unit.folder)


def _bound(failed: str) -> None:
    """Keep the newest failures, as many as may be and as fit into what they may take."""
    newest = sorted(os.scandir(failed), key=lambda entry: entry.stat().st_mtime_ns, reverse=True)
    left = KEPT_BYTES
    for number, entry in enumerate(newest):
        left -= folders.size(entry.path)
        if number >= KEPT or left < 0:
            folders.remove(entry.path)


def _remove(folder: str) -> None:
    """Remove a folder so that a crash on the way leaves none that looks whole."""
    head, name = os.path.split(folder)
    gone = f"{head}/.{name}.{os.getpid()}"
    try:
        os.rename(folder, gone)
    except FileNotFoundError:
        return
    folders.remove(gone)


def clean(root: str, run: Run, *, kill: bool) -> dict[str, Any]:
    """Remove all of a run, and all of the agent with the last run.

    Raises Refused while units run; with ``kill`` they are ended first.
    """
    names = {*keys(run), *_leased(run)}
    running = [unit for unit in (Unit(run, key) for key in sorted(names)) if _runs(unit)]
    if running and not kill:
        raise Refused("unknown", f"{len(running)} units still run")
    if running:
        _end(running)
    _remove(run.dir)
    runs = os.path.dirname(run.dir)
    try:
        os.rmdir(runs)
    except FileNotFoundError:
        pass
    except OSError:
        return {"removed": True}  # there are other runs
    folders.remove(f"{root}/bundles")
    try:
        os.rmdir(root)
    except OSError:
        return {"removed": True}  # somebody keeps files of their own there
    return {"removed": True}


def end(root: str, run: Run, beginning: str) -> dict[str, Any]:
    """Be done with the units whose targets have this ``beginning``; with the last units of a run, remove all
    of it.

    Tells ``ended``, the targets of those that still ran, ``left``, how many others the run has here, and
    whether it is ``removed``. Raises Refused for what cannot be ended.
    """
    ours, others, running = [], 0, []
    for unit in (Unit(run, key) for key in sorted({*keys(run), *_leased(run)})):
        seen = sight.look(unit)
        if str(seen.identity["target"] or "").startswith(beginning):
            ours.append(unit)
            if seen.state == sight.RUNNING:
                running.append((unit, seen.identity["target"]))
        elif seen.state != sight.UNKNOWN:
            others += 1
    if running:
        _end([unit for unit, _ in running])
    for unit in ours:
        lease = leases.acquire(run, unit.key)
        _remove(unit.folder)
        if lease is not None:
            lease.release()
    removed = others == 0 and bool(clean(root, run, kill=False))
    return {"ended": [target for _, target in running], "left": others, "removed": removed}


def _leased(run: Run) -> list[str]:
    """Units that have a lease, whatever became of their folders."""
    try:
        return [name[: -len(".lock")] for name in os.listdir(run.leases) if name.endswith(".lock")]
    except FileNotFoundError:
        return []


def _runs(unit: Unit) -> bool:
    """Whether anything of a unit still runs; its result may be there while its supervisor is."""
    return sight.look(unit).state == sight.RUNNING or bool(leases.held(unit.lease))


def _end(units: list[Unit]) -> None:
    """End the supervisors of units and all that they started; raises Refused for what cannot be ended."""
    for unit in units:
        _signal(unit, signals.SIGTERM)
        _signal(unit, signals.SIGCONT)
    if not _gone(units, _GRACE_S):
        for unit in units:
            _signal(unit, signals.SIGKILL)
            end_orphans(leases.owner(unit.lease) or {})
            # What closed the lifeline but not the lease.
            for pid in processes.holders(unit.lease):
                processes.kill(pid, signals.SIGKILL)
        if not _gone(units, _KILLED_S):
            left = sorted({pid for unit in units for pid in processes.holders(unit.lease)})
            raise Refused("unknown", f"processes {left} of the run cannot be ended on this host")


def _signal(unit: Unit, number: int) -> None:
    owner = leases.owner(unit.lease) or {}
    if owner and processes.alive(owner):
        processes.kill(owner["pid"], number)


def _gone(units: list[Unit], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(leases.held(unit.lease) for unit in units):
        if time.monotonic() > end:
            return False
        time.sleep(_MOMENT_S)
    return True
