"""The state of every unit of a run, derived from its files and never stored (contract C2)."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from ripresa.journal import attempts, clock, controller, devices, leases, processes, records
from ripresa.journal.paths import Run, quote
from ripresa.recovery import breaker, policy

PENDING = "PENDING"
RUNNING = "RUNNING"
WAITING = "WAITING"
COMPLETED = "COMPLETED"
FAILED = "FAILED"
QUARANTINED = "QUARANTINED"
SKIPPED = "SKIPPED"
STALE = "STALE"
_NAMED = 5
"""So many of the units that another waits for are named; the others are counted."""

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
    waits_for: dict[str, Any] | None = None
    """What keeps a unit from starting (or, of a running one, a new call from executing it); None for nothing.

    ``what`` is ``time`` (a backoff), ``breaker``, ``device`` (in use by somebody else), ``process`` (an
    attempt of an earlier call holds its lease), ``blocked`` (units upstream that are given up or in
    quarantine) or ``units`` (upstream, still to come); ``names`` are the scopes, the devices with who uses
    them, the process, or the first units of ``count``; ``until`` the time, if known.
    """


def states(run: Run, now: float | None = None) -> list[UnitState]:
    """Derive the state of all units of a run, in the order of their targets.

    Units are those of the manifest and those with attempts; both survive any crash.
    """
    look = _Look(run, time.time() if now is None else now)
    units = look.manifest
    found = {target: look.state(target) for target in sorted(units.keys() | _born(run, units))}
    upstream = _Upstream(units, found.__getitem__)
    return [upstream.added(unit) for unit in found.values()]


def targets(run: Run) -> list[str]:
    """The units of a run, in order."""
    manifest = _Look(run, time.time()).manifest
    return sorted(manifest.keys() | _born(run, manifest))


def state_of(run: Run, target: str, now: float | None = None) -> UnitState:
    """Derive the state of one unit; one that nobody knows is PENDING."""
    look = _Look(run, time.time() if now is None else now)
    known: dict[str, UnitState] = {}

    def state(other: str) -> UnitState:
        if other not in known:
            known[other] = look.state(other)
        return known[other]

    return _Upstream(look.manifest, state).added(state(target))


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
    """The targets with attempt records. (`os.walk` takes twice the time, and folders may be many.)"""
    root = f"{run.journal}/attempts"
    found, folders = [], [root]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.name.endswith(".jsonl"):
                        found.append(entry.path[len(root) + 1 : -len(".jsonl")])
        except OSError:
            continue
    return found


def _claimed(run: Run) -> dict[str, dict[str, Any] | None]:
    """Quoted target -> the living owner of its lease; None if that is gone."""
    try:
        names = os.listdir(run.leases)
    except OSError:
        return {}
    return {
        name.removesuffix(".lock"): _holder(f"{run.leases}/{name}")
        for name in names
        if name.endswith(".lock")
    }


def _holder(lease: str) -> dict[str, Any] | None:
    """The guard that holds a lease; None if there is just what a killed one left running, or nothing."""
    if not leases.held(lease):
        return None
    owner = leases.owner(lease) or {}
    return owner if processes.alive(owner) is not False else None


class _Look:
    """One look at the files of a run, from which the states of its units follow."""

    def __init__(self, run: Run, now: float) -> None:
        self._run = run
        self._now = now
        listed = (unit for unit in records.iterate(run.units) if isinstance(unit.get("target"), str))
        self.manifest: dict[str, dict[str, Any]] = {unit["target"]: unit for unit in listed}
        self._claimed = _claimed(run)
        self._breakers = breaker.load(run)
        holder = controller.holder(run) or {}
        self._session = holder.get("session")
        self._here = str(holder.get("host") or os.uname().nodename)
        """The host that units start on if nothing sends them elsewhere: the controller's, else this one."""

    def state(self, target: str) -> UnitState:
        """The state of a unit, but for what it waits for upstream."""
        run = self._run
        unit = self.manifest.get(target, {})
        record = attempts.last(run, target)
        number = record.get("attempt", 0)
        name = quote(target) if self._claimed else ""
        waits = not_before = reason = None
        failure_class = record.get("failure_class")
        owner = self._claimed.get(name)
        if owner is not None:
            state, failure_class = RUNNING, None
            reason = _unwatched(run.lease(target), owner, self._now)
            if owner.get("session") != self._session:
                waits = _waits("process", [f"process {owner.get('pid')} on {owner.get('host')}"])
        elif os.path.lexists(run.path(target)):
            state, failure_class = COMPLETED, None
        elif unit.get("skipped") and not number:
            state, reason = SKIPPED, str(unit["skipped"])
        elif name in self._claimed:
            state = STALE
            reason = _elsewhere(leases.owner(run.lease(target)) or {})
        else:
            state = _decided(record)
            reason = record.get("evidence")
            if state == PENDING and record.get("decision") == "retry":
                waits = self._withheld(record, str(unit.get("device_kinds") or ""))
                not_before = waits["until"] if waits else None
                state = WAITING if not_before else PENDING
        return UnitState(
            target=target,
            rule=_text(unit, "rule") or _text(record, "rule"),
            family=_text(unit, "family") or target.partition("/")[0],
            state=state,
            attempts=number,
            failure_class=failure_class,
            not_before=not_before,
            device=_text(record if owner is None else owner, "device"),
            reason=reason,
            waits_for=waits,
        )

    def _withheld(self, record: dict[str, Any], kinds: str) -> dict[str, Any] | None:
        """The backoff or the breaker that keeps a unit from its next attempt, whichever ends last; else the
        devices, of which the unit gets any of these ``kinds`` if it asks for some."""
        table, now = self._breakers, self._now
        if kinds:
            record = {**record, "scopes": _scopes_elsewhere(record)}
        backoff = _backoff(record, now)
        opens = breaker.held_until(table, record, now, self._here) if table else 0.0
        until = max(backoff, opens)
        covering = list(breaker.covering(table, record["scopes"])) if table else []
        if until > now:
            held = opens >= backoff
            scopes = [scope for scope, entry in covering if breaker.closed_until(entry, now) == opens]
            return _waits("breaker" if held else "time", scopes if held else [], clock.iso(until))
        probed = [scope for scope, entry in covering if self._probed(scope, entry)]
        if probed:
            return _waits("breaker", probed)
        if record.get("host") != self._here:
            return None
        if kinds:
            return self._placeless(record, kinds.split(","))
        used = devices.lacking(_text(record, "device"))
        return _used(used) if used else None

    def _placeless(self, record: dict[str, Any], kinds: list[str]) -> dict[str, Any] | None:
        """Why no device is free for a unit that asks for one, as far as this machine can tell."""
        if self._here != os.uname().nodename:
            return None
        from ripresa.placement.awaited import awaited

        table, now = self._breakers, self._now
        lives = breaker.alive(self._run)
        found = awaited(
            self._run,
            kinds,
            record,
            lambda scope: breaker.allowance(table, scope, now, self.breaker_settings, lives),
        )
        if found is None or found.used:
            return _used(found.used) if found else None
        times = [until for scope in found.scopes if (until := breaker.closed_until(table[scope], now))]
        return _waits("breaker", found.scopes, clock.iso(min(times)) if times else None)

    def _probed(self, scope: str, entry: dict[str, Any]) -> bool:
        """Whether a breaker is half-open, and all the probes that it lets through are under way."""
        if entry["state"] != breaker.HALF_OPEN:
            return False
        lives = breaker.alive(self._run)
        return breaker.allowance(self._breakers, scope, self._now, self.breaker_settings, lives) == 0

    @cached_property
    def breaker_settings(self) -> dict[str, Any]:
        return policy.breaker_settings(policy.load(self._run))


class _Upstream:
    """What units wait for of others, whose outputs they need: directly, or through any number of units."""

    def __init__(self, manifest: Mapping[str, dict[str, Any]], state: Callable[[str], UnitState]) -> None:
        self._manifest = manifest
        self._state = state
        self._blockers: dict[str, frozenset[str]] = {}

    def added(self, unit: UnitState) -> UnitState:
        """The unit with what it waits for upstream."""
        if unit.state != PENDING or unit.waits_for or not self._needs(unit.target):
            return unit
        blockers = self._find(unit.target)
        if blockers:
            return unit._replace(waits_for=_waits("blocked", sorted(blockers)))
        left = [need for need in self._needs(unit.target) if self._state(need).state != COMPLETED]
        return unit._replace(waits_for=_waits("units", left)) if left else unit

    def _needs(self, target: str) -> list[str]:
        """The units whose outputs a unit needs directly, as far as the manifest knows them."""
        needs = self._manifest.get(target, {}).get("needs")
        return [n for n in needs if n in self._manifest] if isinstance(needs, list) else []

    def _find(self, target: str) -> frozenset[str]:
        """The stopped units that a pending unit needs. Not recursive: a chain of units may be long."""
        todo, expanded = [target], set[str]()
        while todo:
            unit = todo[-1]
            if unit in self._blockers:
                todo.pop()
                continue
            pending = [n for n in self._needs(unit) if self._state(n).state == PENDING]
            if unit not in expanded:
                expanded.add(unit)
                todo += [need for need in pending if need not in self._blockers and need not in expanded]
                continue
            todo.pop()
            stopped = {n for n in self._needs(unit) if self._state(n).state in (FAILED, QUARANTINED)}
            self._blockers[unit] = _united(
                [self._blockers.get(need, frozenset()) for need in pending], stopped
            )
        return self._blockers[target]


def _united(sets: Iterable[frozenset[str]], more: set[str]) -> frozenset[str]:
    """The union; where only one set has members, that one itself, for thousands of units may share it."""
    full = list({id(one): one for one in sets if one}.values())
    if len(full) == 1 and not more:
        return full[0]
    return frozenset(more.union(*full))


def _waits(what: str, names: list[str], until: str | None = None) -> dict[str, Any]:
    return {"what": what, "names": names[:_NAMED], "count": len(names), "until": until}


def _unwatched(lease: str, owner: dict[str, Any], now: float) -> str | None:
    """What keeps the guard of a running unit from watching its command, as far as one can see."""
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


def _elsewhere(owner: dict[str, Any]) -> str | None:
    """Where the command of a unit may go on although nothing here watches it."""
    remote = owner.get("remote")
    if not isinstance(remote, dict):
        return None
    return (
        f"attempt {owner.get('attempt')} was sent to host {remote.get('host')}; the next call goes on with it"
    )


def _used(names: list[str]) -> dict[str, Any]:
    """A wait for devices that others have."""
    return _waits("device", [f"{name}{_by(devices.holders(name))}" for name in names])


def _by(owners: list[dict[str, Any]]) -> str:
    """Who uses a device."""
    users = [
        f"process {owner.get('pid')} for {owner['target']} of run {owner['run_id']}"
        for owner in owners
        if owner.get("run_id") and owner.get("target")
    ]
    return f" by {' and '.join(users)}" if users else ""


def _scopes_elsewhere(record: dict[str, Any]) -> list[Any]:
    """The scopes of an attempt that its unit has on other devices, too."""
    had = {f"gpu:{name}" for name in devices.named(_text(record, "device"))}
    return [scope for scope in record.get("scopes") or [] if scope not in had]


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
