"""The state of every unit of a run, derived from its files and never stored (contract C2)."""

import os
import time
from typing import Any, NamedTuple

from ripresa.journal import attempts, clock, controller, leases, processes, records
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
    """Why a unit is skipped, what its last failed attempt showed, or that nothing watches a running one."""


def states(run: Run, now: float | None = None) -> list[UnitState]:
    """Derive the state of all units of a run, in the order of their targets.

    Units are those of the manifest and those with attempts; both survive any crash.
    """
    now = time.time() if now is None else now
    listed = (unit for unit in records.iterate(run.units) if isinstance(unit.get("target"), str))
    units = {unit["target"]: unit for unit in listed}
    claimed = _claimed(run)
    breakers = breaker.load(run), _here(run)
    targets = units.keys() | _born(run, units)
    return [_state(run, target, units.get(target, {}), claimed, breakers, now) for target in sorted(targets)]


def state_of(run: Run, target: str, now: float | None = None) -> UnitState:
    """Derive the state of one unit; one that nobody knows is PENDING."""
    now = time.time() if now is None else now
    unit = next((unit for unit in records.iterate(run.units) if unit.get("target") == target), {})
    lease = run.lease(target)
    claimed = {quote(target): _lives(lease)} if os.path.lexists(lease) else {}
    return _state(run, target, unit, claimed, (breaker.load(run), _here(run)), now)


def counts(units: list[UnitState]) -> dict[str, int]:
    """How many units are in each state, without those in which there are none."""
    found: dict[str, int] = {}
    for unit in units:
        found[unit.state] = found.get(unit.state, 0) + 1
    return {state: found[state] for state in STATES if state in found}


def _born(run: Run, units: dict[str, dict[str, Any]]) -> set[str]:
    """Attempted units that the manifest lacks because a checkpoint made them after it was written.

    Those that were attempted before it left the campaign and count no more. Without a manifest all count.
    """
    others = set(_attempted(run)) - units.keys()
    try:
        written = os.stat(run.units).st_mtime
    except OSError:
        return others
    return {target for target in others if os.stat(run.attempts(target)).st_mtime >= written}


def _attempted(run: Run) -> list[str]:
    """The targets with attempt records."""
    root = f"{run.journal}/attempts"
    return [
        f"{directory}/{name}"[len(root) + 1 : -len(".jsonl")]
        for directory, _, names in os.walk(root)
        for name in names
        if name.endswith(".jsonl")
    ]


def _claimed(run: Run) -> dict[str, bool]:
    """Quoted target -> whether the owner of its lease lives."""
    try:
        names = os.listdir(run.leases)
    except OSError:
        return {}
    return {
        name.removesuffix(".lock"): _lives(f"{run.leases}/{name}") for name in names if name.endswith(".lock")
    }


def _lives(lease: str) -> bool:
    """Whether a guard holds a lease, and not just what a killed one left running."""
    return bool(leases.held(lease)) and processes.alive(leases.owner(lease) or {}) is not False


def _here(run: Run) -> str:
    """The host that units start on if nothing sends them elsewhere: the controller's, or else this one."""
    holder = controller.holder(run) or {}
    return str(holder.get("host") or os.uname().nodename)


def _state(
    run: Run,
    target: str,
    unit: dict[str, Any],
    claimed: dict[str, bool],
    breakers: tuple[dict[str, Any], str],
    now: float,
) -> UnitState:
    record = attempts.last(run, target)
    number = record.get("attempt", 0)
    live = claimed.get(quote(target)) if claimed else None
    not_before = None
    reason = None
    failure_class = record.get("failure_class")
    if live:
        state = RUNNING
        failure_class = None
        reason = _unwatched(run.lease(target), now)
    elif os.path.lexists(run.path(target)):
        state = COMPLETED
        failure_class = None
    elif unit.get("skipped") and not number:
        state, reason = SKIPPED, str(unit["skipped"])
    elif live is False:
        state = STALE
    else:
        state = _decided(record)
        reason = record.get("evidence")
        if state == PENDING and record.get("decision") == "retry":
            table, here = breakers
            held = breaker.held_until(table, record, now, here) if table else 0.0
            until = max(_backoff(record, now), held)
            if until > now:
                state, not_before = WAITING, clock.iso(until)
    return UnitState(
        target=target,
        rule=_text(unit, "rule") or _text(record, "rule"),
        family=_text(unit, "family") or target.partition("/")[0],
        state=state,
        attempts=number,
        failure_class=failure_class,
        not_before=not_before,
        device=_text(record, "device"),
        reason=reason,
    )


def _unwatched(lease: str, now: float) -> str | None:
    """What keeps the guard of a running unit from watching its command, as far as one can see."""
    owner = leases.owner(lease) or {}
    pid, host = owner.get("pid"), owner.get("host")
    if isinstance(pid, int) and host == os.uname().nodename and processes.stopped(pid):
        return f"its guard is stopped, so nothing watches it; `kill -CONT {pid}` lets it go on"
    try:
        silence = now - os.stat(lease).st_mtime
    except OSError:
        return None
    # Before its command starts, a guard may wait for long.
    if owner.get("group") is None or silence < leases.EXPIRED_S:
        return None
    return f"its guard, process {pid} on {host}, has shown no sign of life for {silence / 60:.0f} min"


def _backoff(record: dict[str, Any], now: float) -> float:
    """When the backoff of a unit ends, in s since the epoch: as recorded, unless the clock was set."""
    recorded, until = clock.seconds(record.get("not_before")), now + attempts.wait_s(record, now)
    return recorded if abs(recorded - until) < 1.0 else until


def _text(record: dict[str, Any], key: str) -> str | None:
    """What a line of the journal says, if it is text."""
    value = record.get(key)
    return value if isinstance(value, str) else None


def _decided(record: dict[str, Any]) -> str:
    if record.get("decision") == "quarantine":
        return QUARANTINED
    if record.get("decision") == "refused" and record.get("failure_class") != "cancelled":
        return FAILED
    return PENDING
