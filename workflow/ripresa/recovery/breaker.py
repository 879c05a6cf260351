"""Breakers: no launches on a scope that keeps failing, a few probes later, all persisted.

A scope is ``kind:name``, e.g. ``host:n1`` or ``workload:fio``. The functions on a table of breakers
are pure; `update` applies one to the file of a run while others keep out.
"""

from __future__ import annotations

import fcntl
import os

from ripresa.journal import clock, records
from ripresa.journal.paths import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Breakers = dict[str, dict[str, Any]]

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"
DEFAULTS = {"failures": 5, "open_s": 300.0, "probes": 3}


def load(run: Run) -> Breakers:
    """The breakers of a run. A damaged file means that all are closed."""
    table = records.read_json(run.breakers)
    if not isinstance(table, dict):
        return {}
    return {
        scope: entry
        for scope, entry in table.items()
        if isinstance(entry, dict) and entry.get("state") in (CLOSED, OPEN, HALF_OPEN)
    }


def update(run: Run, change: Callable[[Breakers], Any]) -> Any:
    """Apply a change to the breakers of a run; writers wait for each other."""
    os.makedirs(run.journal, exist_ok=True)
    lock = os.open(run.breakers + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock(lock)
        table = load(run)
        before = records.dumps(table)
        result = change(table)
        if records.dumps(table) != before:
            records.write_json(run.breakers, table)
        return result
    finally:
        os.close(lock)


def fail(table: Breakers, scope: str, now: float, settings: dict[str, Any]) -> str | None:
    """Count a failure in a scope; returns OPEN when that opens its breaker."""
    entry = table.setdefault(scope, {"state": CLOSED, "failures": 0, "probes": 0})
    entry["failures"] = _count(entry, "failures") + 1
    if entry["state"] == OPEN and now < clock.seconds(entry.get("until")):
        return None
    if entry["state"] == CLOSED and entry["failures"] < settings["failures"]:
        return None
    entry.update(
        state=OPEN, probes=0, opened_at=clock.iso(now), until=clock.iso(now + float(settings["open_s"]))
    )
    return OPEN


def succeed(table: Breakers, scope: str) -> str | None:
    """Note a published unit in a scope; returns CLOSED when that closes its breaker."""
    entry = table.pop(scope, None)
    return CLOSED if entry is not None and entry["state"] != CLOSED else None


def claim(
    table: Breakers, scopes: Iterable[str], now: float, settings: dict[str, Any]
) -> tuple[bool, list[str]]:
    """Ask to launch a unit of some scopes, taking a probe of each that is half-open.

    Returns whether it may, and the scopes that became half-open. All or nothing: a launch that one
    scope forbids takes no probe of another.
    """
    known = [scope for scope in scopes if scope in table]
    if any(allowance(table, scope, now, settings) == 0 for scope in known):
        return False, []
    opened = []
    for scope in known:
        entry = table[scope]
        if entry["state"] == CLOSED:
            continue
        if entry["state"] == OPEN:
            opened.append(scope)
        if entry["state"] == OPEN or _expired(entry, now, settings):
            entry.update(state=HALF_OPEN, probes=0, half_open_at=clock.iso(now))
        entry["probes"] = _count(entry, "probes") + 1
    return True, opened


def give_back(table: Breakers, scopes: Iterable[str]) -> None:
    """Return the probes of a unit that neither published nor failed in these scopes."""
    for scope in scopes:
        entry = table.get(scope)
        if entry is not None and entry["state"] == HALF_OPEN:
            entry["probes"] = max(0, _count(entry, "probes") - 1)


def allowance(table: Breakers, scope: str, now: float, settings: dict[str, Any] | None = None) -> int | None:
    """How many more units of a scope may be launched now; None for any number."""
    settings = settings or DEFAULTS
    entry = table.get(scope)
    if entry is None or entry["state"] == CLOSED:
        return None
    if entry["state"] == OPEN:
        return 0 if now < clock.seconds(entry.get("until")) else int(settings["probes"])
    if _expired(entry, now, settings):
        return int(settings["probes"])
    return max(0, int(settings["probes"]) - _count(entry, "probes"))


def closed_until(table: Breakers, record: dict[str, Any], now: float) -> float:
    """Until when an open breaker holds the unit of an attempt record back; 0.0 if none does."""
    until = 0.0
    scopes = record.get("scopes")
    for scope in scopes if isinstance(scopes, list) else []:
        entry = table.get(scope) if isinstance(scope, str) else None
        if entry is not None and entry["state"] == OPEN:
            until = max(until, clock.seconds(entry.get("until")))
    return until if until > now else 0.0


def _lock(fd: int) -> None:
    """Wait for the lock. Without kernel locks two writers may lose one count of each other, not the file."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError:
        return


def _expired(entry: dict[str, Any], now: float, settings: dict[str, Any]) -> bool:
    """Probes that never reported (their machine died) are given up after the time of an opening."""
    return now - clock.seconds(entry.get("half_open_at")) >= float(settings["open_s"])


def _count(entry: dict[str, Any], key: str) -> int:
    value = entry.get(key)
    return value if isinstance(value, int) else 0
