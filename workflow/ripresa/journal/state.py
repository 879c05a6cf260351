"""The state of every unit of a run, derived from its files and never stored (contract C2)."""

import os
import time
from typing import Any, NamedTuple

from ripresa.journal import clock, leases, records
from ripresa.journal.paths import Run, quote
from ripresa.recovery import breaker

PENDING = "PENDING"
RUNNING = "RUNNING"
WAITING = "WAITING"
COMPLETED = "COMPLETED"
FAILED = "FAILED"
QUARANTINED = "QUARANTINED"
SKIPPED = "SKIPPED"
STALE = "STALE"
STATES = (PENDING, RUNNING, WAITING, COMPLETED, FAILED, QUARANTINED, SKIPPED, STALE)


class UnitState(NamedTuple):
    """One unit as `ripresa status` shows it."""

    target: str
    rule: str | None
    family: str
    state: str
    attempts: int
    failure_class: str | None
    not_before: str | None
    device: str | None
    reason: str | None
    """Why a unit is skipped, or what its last failed attempt showed."""


def states(run: Run, now: float | None = None) -> list[UnitState]:
    """Derive the state of all units of a run, in the order of their targets.

    Units are those of the manifest and those with attempts; both survive any crash.
    """
    now = time.time() if now is None else now
    units = {
        unit["target"]: unit for unit in records.iterate(run.units) if isinstance(unit.get("target"), str)
    }
    attempts = _attempts(run)
    claimed = _claimed(run)
    breakers = breaker.load(run)
    # A unit that left the campaign counts no more, unless nothing says what the campaign is.
    targets = units or attempts
    return [
        _state(run, target, units.get(target, {}), attempts.get(target, (0, None)), claimed, breakers, now)
        for target in sorted(targets)
    ]


def state_of(run: Run, target: str, now: float | None = None) -> UnitState:
    """Derive the state of one unit; one that nobody knows is PENDING."""
    now = time.time() if now is None else now
    unit = next((unit for unit in records.iterate(run.units) if unit.get("target") == target), {})
    live = leases.held(run.lease(target))
    claimed = {} if live is None else {quote(target): live}
    attempt = _numbered(records.last(run.attempts(target)))
    return _state(run, target, unit, attempt, claimed, breaker.load(run), now)


def counts(units: list[UnitState]) -> dict[str, int]:
    """How many units are in each state, without those in which there are none."""
    found: dict[str, int] = {}
    for unit in units:
        found[unit.state] = found.get(unit.state, 0) + 1
    return {state: found[state] for state in STATES if state in found}


def _attempts(run: Run) -> dict[str, tuple[int, dict[str, Any] | None]]:
    """For every target with attempts: the number of the newest and its record."""
    root = f"{run.journal}/attempts"
    found: dict[str, tuple[int, dict[str, Any] | None]] = {}
    stack = [root]
    while stack:
        folder = stack.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                stack.append(entry.path)
            elif entry.name.endswith(".jsonl"):
                target = entry.path[len(root) + 1 : -len(".jsonl")]
                found[target] = _numbered(records.last(entry.path))
    return found


def _numbered(record: dict[str, Any] | None) -> tuple[int, dict[str, Any] | None]:
    number = record.get("attempt") if record else None
    return (number if isinstance(number, int) else 0), record


def _claimed(run: Run) -> dict[str, bool]:
    """Quoted target -> whether the owner of its lease lives."""
    try:
        names = os.listdir(run.leases)
    except OSError:
        return {}
    return {
        name.removesuffix(".lock"): bool(leases.held(f"{run.leases}/{name}"))
        for name in names
        if name.endswith(".lock")
    }


def _state(
    run: Run,
    target: str,
    unit: dict[str, Any],
    attempt: tuple[int, dict[str, Any] | None],
    claimed: dict[str, bool],
    breakers: dict[str, Any],
    now: float,
) -> UnitState:
    number, record = attempt
    record = record or {}
    live = claimed.get(quote(target)) if claimed else None
    not_before = None
    reason = None
    failure_class = record.get("failure_class")
    if live:
        state = RUNNING
        failure_class = None
    elif os.path.lexists(f"{run.dir}/{target}"):
        state = COMPLETED
        failure_class = None
    elif unit.get("skipped"):
        state, reason = SKIPPED, unit["skipped"]
    elif live is False:
        state = STALE
    else:
        state = _decided(record)
        reason = record.get("evidence")
        if state == PENDING and record.get("decision") == "retry":
            until = max(clock.seconds(record.get("not_before")), breaker.closed_until(breakers, record, now))
            if until > now:
                state, not_before = WAITING, clock.iso(until)
    return UnitState(
        target=target,
        rule=unit.get("rule") or record.get("rule"),
        family=unit.get("family") or target.partition("/")[0],
        state=state,
        attempts=number,
        failure_class=failure_class,
        not_before=not_before,
        device=record.get("device"),
        reason=reason,
    )


def _decided(record: dict[str, Any]) -> str:
    if record.get("decision") == "quarantine":
        return QUARANTINED
    if record.get("decision") == "refused" and record.get("failure_class") != "cancelled":
        return FAILED
    return PENDING
