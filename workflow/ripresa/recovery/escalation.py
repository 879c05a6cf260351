"""Escalation: what a retry asks for instead, how far that can go, and what other units learn from it.

A rule declares with `ripresa.dsl.escalated` which of its resources failures may change. The functions here
work on records alone, so that the guard, which decides, and the rule file, which asks, mean the same amount.
"""

from __future__ import annotations

import math
import os

from ripresa.journal import clock, devices, records
from ripresa.journal.paths import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ripresa.recovery.policy import Decision

    Record = dict[str, Any]

RULE, MACHINE, CALLER, LEAST, PARTITION = "rule", "machine", "caller", "least", "partition"
_BOUNDS = {
    RULE: "the limit of its rule",
    MACHINE: "all that this machine has",
    CALLER: "all that snakemake may give it (see --resources)",
    LEAST: "the least there is",
    PARTITION: "the most that its partition allows",
}
_USED = {"mem_mb": "used up {} MB", "runtime": "not done within {} min"}
_RESETS = ("published", "adopted", "released")
_EPSILON = 1e-6  # factors are fractions, amounts whole numbers


def asked(history: Iterable[Record], resource: str, first: float) -> float:
    """The amount that the failures of a unit have come to ask for, starting from ``first``.

    A unit that has succeeded keeps what it took to do so; one that a person released starts afresh.
    """
    amount = float(first)
    for record in history:
        if record.get("outcome") == "released" and not record.get("changed"):
            amount = float(first)
            continue
        factor = _factor(record, resource)
        if factor is not None:
            amount = (_had(record, resource) or amount) * factor
            # What held it below (--resources) need not do so again.
            amount = max(amount, first) if factor > 1 else min(amount, first)
    return amount


def bounded(amount: float, first: float, limit: float | None, *, shrinks: bool) -> int:
    """The amount to give for one that is asked for: whole, at least 1, and within the limit.

    What grows is at most ``limit``. What shrinks is at least that, and divides ``first``, so that whoever
    repeats it ``first / amount`` times (gradient accumulation) comes to exactly the same.
    """
    if not shrinks:
        return max(1, math.floor(min(amount, math.inf if limit is None else limit) + _EPSILON))
    whole, least = int(first), max(1, math.ceil(limit or 1))
    wanted = max(least, math.floor(amount + _EPSILON))
    divisors = [n for n in range(least, whole + 1) if whole % n == 0]
    return max((n for n in divisors if n <= wanted), default=min(divisors, default=max(1, whole)))


def settle(
    run: Run, record: Record, history: list[Record], wanted: dict[str, Any], decision: Decision
) -> Decision:
    """The decision on a failure, given what its class wants changed: what really can change, or a quarantine.

    Only what the rule escalates and places that are known are changed. The record gets ``excluded`` (the
    places that failed) and, where a limit is reached, ``spent``. A unit that is given up for this session
    goes on with the next amount in the next one.
    """
    if decision.decision not in ("retry", "refused"):
        return decision
    changes: dict[str, Any] = {}
    spent: dict[str, Any] = {}
    excluded: dict[str, Any] = {}
    for name, change in wanted.items():
        if isinstance(change, int | float):
            declared = declaration(run, str(record["target"]), name)
            if declared is None:
                continue
            had = _had(record, name) or asked(history, name, declared["first"])
            following, by = _next(declared, name, had, change, history, _most(record, name))
            if following == had:
                spent[name] = {"had": _number(had), "change": change, "by": by}
            else:
                changes[name] = following / had
        elif place := record.get("host") if name == "node" else ",".join(devices.named(record.get("device"))):
            changes[name] = change
            if change == "other":
                excluded[name] = place
    if excluded:
        record["excluded"] = excluded
    numbers = any(isinstance(change, int | float) for change in changes.values())
    if spent and not numbers and not record.get("progressed"):
        record["spent"] = spent
        reason = _reason(str(record["failure_class"]), spent)
        return decision._replace(decision="quarantine", not_before=None, changes={}, reason=reason)
    return decision._replace(changes=changes)


def declaration(run: Run, target: str, resource: str) -> dict[str, Any] | None:
    """What the rule of a target declared with `escalated`: ``first`` and ``limit``; None if nothing."""
    import re

    table = records.read_json(run.escalated)
    for entry in table if isinstance(table, list) else []:
        try:
            if entry["resource"] == resource and re.fullmatch(entry["expression"], target):
                limit = entry.get("limit")
                return {"first": float(entry["first"]), "limit": None if limit is None else float(limit)}
        except (KeyError, TypeError, ValueError, re.error):
            continue
    return None


def more(run: Run, record: Record) -> str | None:
    """Which resource a unit that had used up all there was can get more (or less) of now, if any."""
    spent = record.get("spent")
    for name, one in spent.items() if isinstance(spent, dict) else ():
        declared = declaration(run, str(record.get("target")), name)
        try:
            # What the caller of snakemake sets is known only from the amount that the unit gets.
            if declared and one["by"] != CALLER:
                had = float(one["had"])
                if _next(declared, name, had, float(one["change"]), [], _most(record, name))[0] != had:
                    return str(name)
        except (KeyError, TypeError, ValueError):
            continue
    return None


def learn(run: Run, record: Record, history: list[Record]) -> None:
    """Note what a unit was published with after its failures had asked for it. Never raises: a note lost
    costs other units an attempt, and the unit is published."""
    names: set[str] = set()
    for earlier in reversed(history):
        if earlier.get("outcome") in _RESETS and not earlier.get("changed"):
            break
        changes = earlier.get("changes") or {}
        names.update(name for name, change in changes.items() if isinstance(change, int | float))
    for name in sorted(names):
        amount = _had(record, name)
        if amount is not None:
            note = {"rule": record["rule"], "target": record["target"], "resource": name}
            try:
                records.append(run.learnt, {**note, "amount": _number(amount), "ts": clock.iso()})
            except OSError:
                return


class Learnt:
    """The amounts that units of a run were published with, read again when there are more."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.stamp: tuple[int, int] | None = None
        """Changes whenever something was learnt; None before."""
        self.notes: list[tuple[str, str, float]] = []
        """Resource, target and amount."""

    def refresh(self) -> bool:
        """Read what is new; whether there was anything."""
        stamp = stamp_of(self._run)
        if stamp == self.stamp:
            return False
        self.stamp = stamp
        self.notes = []
        for note in records.iterate(self._run.learnt):
            amount = note.get("amount")
            sound = isinstance(amount, int | float) and amount is not True and 0 < amount < math.inf
            if sound and isinstance(note.get("resource"), str) and isinstance(note.get("target"), str):
                self.notes.append((note["resource"], note["target"], float(note["amount"])))
        return True


def stamp_of(run: Run) -> tuple[int, int] | None:
    """Changes whenever something was learnt; None as long as nothing was."""
    try:
        status = os.stat(run.learnt)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def machine_mb() -> float:
    """The memory that a process may have here, in MB (2**20 bytes): physical, or its control group's."""
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    for path in _limit_files():
        try:
            with open(path) as file:
                limits.append(float(file.read()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return float(math.floor(min(limits) / 2**20))


def _limit_files() -> Iterable[str]:
    try:
        with open("/proc/self/cgroup") as file:
            groups = dict(line.rstrip("\n").split(":", 2)[1:] for line in file)
    except (OSError, ValueError):
        return
    for root, name, group in (
        ("/sys/fs/cgroup", "memory.max", groups.get("")),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", groups.get("memory")),
    ):
        parts = (group or "").strip("/").split("/") if group is not None else []
        # A group is held to the limits of all above it; in a container the root may be the group itself.
        for depth in range(len(parts) + 1):
            yield "/".join([root, *parts[:depth], name])


def _most(record: Record, name: str) -> tuple[float, str] | None:
    """The most that the place of an attempt can give, and what place that is; None where that is not known.

    A batch job is held to what it asked for, so what the machine has says nothing there.
    """
    most = record.get("most")
    if not isinstance(most, dict):
        return (machine_mb(), MACHINE) if name == "mem_mb" else None
    amount = most.get(name)
    if isinstance(amount, int | float) and not isinstance(amount, bool) and amount > 0:
        return float(amount), PARTITION
    return None


def _next(
    declared: dict[str, Any],
    name: str,
    had: float,
    change: float,
    history: list[Record],
    most: tuple[float, str] | None,
) -> tuple[float, str]:
    """The amount that comes next, the same one where there is none, and what sets the limit."""
    first, limit = declared["first"], declared["limit"]
    by = RULE if limit is not None else LEAST
    if change > 1 and most is not None and (limit is None or (most[1] == PARTITION and most[0] < limit)):
        limit, by = most
    following = bounded(had * change, first, limit, shrinks=change < 1)
    # Beyond its limit already, or no way on in the direction that helps: stay.
    onward = following > had if change > 1 else following < had
    if onward and _got_less(name, had, history):
        return had, CALLER
    return (following, by) if onward else (had, by)


def _got_less(name: str, had: float, history: list[Record]) -> bool:
    """Whether this attempt got less of a change than the failure before it called for: something holds it."""
    for record in reversed(history):
        if record.get("outcome") in _RESETS:
            return False
        factor, before = _factor(record, name), _had(record, name)
        if factor is not None and before is not None:
            asked_for = before * factor
            return had < asked_for - 1 if factor > 1 else had > asked_for + 1
    return False


def _factor(record: Record, resource: str) -> float | None:
    """What a failure multiplies the amount of a resource by."""
    change = (record.get("changes") or {}).get(resource)
    if change is None:
        one = (record.get("spent") or {}).get(resource)
        # On another machine there may be more, but who asks here does not know it.
        change = one.get("change") if isinstance(one, dict) and one.get("by") != MACHINE else None
    sound = isinstance(change, int | float) and not isinstance(change, bool) and 0 < change < math.inf
    return float(change) if sound else None  # type: ignore[arg-type]


def _had(record: Record, resource: str) -> float | None:
    """The amount that an attempt really had, if its rule records it."""
    text = str((record.get("resources") or {}).get(resource, ""))
    try:
        amount = float(text)
    except ValueError:
        return None
    return amount if 0 < amount < math.inf else None


def _number(amount: float) -> float | int:
    return int(amount) if amount == int(amount) else amount


def _reason(failure_class: str, spent: dict[str, Any]) -> str:
    parts = []
    for name, one in spent.items():
        used = _USED.get(name, f"failed with {name} {{}}").format(f"{one['had']:g}")
        parts.append(f"{used}, {_BOUNDS[one['by']]}")
    return f"{failure_class}: {'; '.join(parts)}"
