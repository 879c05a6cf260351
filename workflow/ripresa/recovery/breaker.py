"""Breakers: no launches on a scope that keeps failing, a few probes later, all persisted.

A scope is ``kind:name``, e.g. ``host:n1`` or ``workload:fio``. A breaker holds back the units of one scope,
or those in which several meet (`joint`). What is in the file of a run is a `Book`: the breakers that are
not closed, and the failures that may open one. Functions on a book or its breakers are pure; `update`
applies one to the file while others keep out.
"""

from __future__ import annotations

import fcntl
import os

from ripresa.journal import clock, leases, records
from ripresa.journal.paths import Run
from ripresa.recovery import attribution

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Breakers = dict[str, dict[str, Any]]
    Event = dict[str, Any]
    """What an event of the run has: its ``type``, the ``scope``, and more."""

OPEN, HALF_OPEN = "open", "half_open"
DEFAULTS = {"failures": 5, "open_s": 300.0, "probes": 3}
SKEW_S = 60.0
"""Clocks of different hosts differ by less."""

_FAILURES = "failures"


class Book:
    """The breakers of a run by scope, as far as they are not closed, and its failures to be explained."""

    def __init__(self, document: Any = None) -> None:
        document = document if isinstance(document, dict) else {}
        self.breakers: Breakers = {
            scope: entry for scope, entry in document.items() if isinstance(entry, dict) and _is_sound(entry)
        }
        self.failures = attribution.sound(document.get(_FAILURES))

    def document(self) -> dict[str, Any]:
        """What the file holds; empty if all is well."""
        return {**self.breakers, **({_FAILURES: self.failures} if self.failures else {})}


def load(run: Run) -> Breakers:
    """The breakers of a run that are not closed. A damaged file means that all are closed."""
    return read(run).breakers


def read(run: Run) -> Book:
    """The book of a run as it is now."""
    return Book(records.read_json(run.breakers))


def update(
    run: Run, change: Callable[[Book], list[Event]], tell: Callable[[Event], None] = lambda event: None
) -> None:
    """Apply a change to the book of a run, and tell the events it returns; writers wait for each other.

    Events are told in the order of the changes, and only of those that are written.
    """
    os.makedirs(run.journal, exist_ok=True)
    lock = os.open(run.breakers + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock(lock)
        book = read(run)
        before = records.dumps(book.document())
        events = change(book)
        if records.dumps(book.document()) != before:
            records.write_json(run.breakers, book.document())
        for event in events:
            tell(event)
    finally:
        os.close(lock)


def alive(run: Run) -> Callable[[str], bool]:
    """Tells of a target whether its attempt goes on, which it does as long as its lease is held."""
    return lambda target: leases.held(run.lease(target)) is True


def joint(scopes: Iterable[str]) -> str:
    """The name of the breaker of units that are in all of these scopes."""
    return " & ".join(scopes)


def fail(
    book: Book,
    unit: str,
    scopes: Iterable[str],
    now: float,
    settings: dict[str, Any],
    *,
    home: str | None = None,
) -> list[Event]:
    """Count a failure of a unit that may be due to any of these scopes.

    Opens the breaker of what is to blame once it has failed often enough. Where a breaker is open already
    the failure tells nothing new, but if the unit was a probe it opens again.
    """
    belongs = set(scopes)
    tripped = list(covering(book.breakers, belongs))
    if tripped:
        return [
            _open(scope, entry, now, settings, entry.get("failures", 0) + 1)
            for scope, entry in tripped
            if _end_probe(entry, unit)
        ]
    failure = attribution.note(book.failures, belongs, home)
    culprit, number = attribution.verdict(book.failures, failure)
    if number < settings["failures"]:
        return []
    name = joint(culprit)
    # What only was to blame where it met with the culprit is no case of its own any more.
    gone = [scope for scope, entry in book.breakers.items() if culprit[0] in _parts(scope, entry)]
    gone = gone if len(culprit) == 1 else []
    for scope in gone:
        del book.breakers[scope]
    entry = book.breakers[name] = {"of": list(culprit)} if len(culprit) > 1 else {}
    events = [{"type": "breaker_closed", "scope": scope, "into": name} for scope in gone]
    return [*events, _open(name, entry, now, settings, number)]


def succeed(book: Book, scopes: Iterable[str]) -> list[Event]:
    """Note a published unit: the breakers of its scopes close, and none of them is to blame any more."""
    belongs = list(scopes)
    closed = list(covering(book.breakers, belongs))
    for scope, entry in closed:
        attribution.settle(book.failures, tuple(_parts(scope, entry)))
        del book.breakers[scope]
    attribution.clear(book.failures, belongs)
    return [{"type": "breaker_closed", "scope": scope} for scope, _ in closed]


def forget(book: Book, scope: str) -> list[Event]:
    """Hold nothing back any more on account of a scope alone: there is nothing to be waited for."""
    if book.breakers.pop(scope, None) is None:
        return []
    return [{"type": "breaker_closed", "scope": scope}]


def minds(book: Book, scopes: Iterable[str]) -> bool:
    """Whether the publication of a unit of these scopes is anything to note."""
    belongs = list(scopes)
    return any(covering(book.breakers, belongs)) or attribution.concerns(book.failures, belongs)


def claim(
    table: Breakers,
    unit: str,
    scopes: Iterable[str],
    now: float,
    settings: dict[str, Any],
    lives: Callable[[str], bool],
) -> list[Event] | None:
    """Ask to launch a unit, taking a probe of each of its breakers; None if it may not.

    All or nothing: a launch that one scope forbids takes no probe of another. ``lives`` tells whether
    the attempt of a unit still goes on; a probe whose attempt does not is over, whatever became of it.
    """
    known = list(covering(table, scopes))
    for scope, entry in known:
        _end_probe(entry, unit)
        if allowance(table, scope, now, settings, lives) == 0:
            return None
    events: list[Event] = []
    for scope, entry in known:
        if entry["state"] == OPEN:
            events.append({"type": "breaker_half_open", "scope": scope})
            entry.update(state=HALF_OPEN, probes={}, half_open_at=clock.iso(now))
        running = {one: since for one, since in _probes(entry).items() if lives(one)}
        entry["probes"] = {**running, unit: clock.iso(now)}
    return events


def give_back(table: Breakers, unit: str) -> None:
    """Return the probes of a unit that neither published nor failed in their scopes."""
    for entry in table.values():
        _end_probe(entry, unit)


def allowance(
    table: Breakers, scope: str, now: float, settings: dict[str, Any], lives: Callable[[str], bool]
) -> int | None:
    """How many more units of the scope of a breaker may be launched now; None for any number."""
    entry = table.get(scope)
    if entry is None:
        return None
    if closed_until(entry, now):
        return 0
    return max(0, int(settings["probes"]) - probing(entry, lives))


def probing(entry: dict[str, Any], lives: Callable[[str], bool]) -> int:
    """How many probes of a breaker run now."""
    return sum(map(lives, _probes(entry))) if entry["state"] == HALF_OPEN else 0


def covering(table: Breakers, scopes: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The breakers that hold back a unit of these scopes when they are open."""
    belongs = set(scopes)
    yield from [(scope, entry) for scope, entry in table.items() if belongs.issuperset(_parts(scope, entry))]


def closed_until(entry: dict[str, Any], now: float) -> float:
    """Until when a breaker lets nothing through, in seconds since the epoch; 0.0 if it lets probes through.

    One that opens in the future only was written before the clock was put back, and does not count.
    """
    until = clock.seconds(entry.get("until")) if entry["state"] == OPEN else 0.0
    return until if until > now >= clock.seconds(entry.get("opened_at")) - SKEW_S else 0.0


def held_until(table: Breakers, record: dict[str, Any], now: float, here: str) -> float:
    """Until when open breakers hold back the next attempt of a unit, given the record of its last; or 0.0.

    The host of the last attempt matters only if the next one has to be there too: if the rule names it, or
    no batch system chose it and the controller is on it (``here``, a host name).
    """
    found = record.get("scopes")
    scopes = [scope for scope in found if isinstance(scope, str)] if isinstance(found, list) else []
    last = f"host:{record.get('host')}"
    if last in scopes and (record.get("external_jobid") is not None or record.get("host") != here):
        scopes.remove(last)  # once: what the rule names comes after it
    return max((closed_until(entry, now) for _, entry in covering(table, scopes)), default=0.0)


def _open(scope: str, entry: dict[str, Any], now: float, settings: dict[str, Any], failures: int) -> Event:
    until = clock.iso(now + float(settings["open_s"]))
    entry.pop("half_open_at", None)
    entry.update(state=OPEN, failures=failures, opened_at=clock.iso(now), until=until, probes={})
    return {"type": "breaker_opened", "scope": scope, "until": until}


def _parts(scope: str, entry: dict[str, Any]) -> list[str]:
    return entry.get("of") or [scope]


def _is_sound(entry: dict[str, Any]) -> bool:
    parts = entry.get("of", [])
    return (
        entry.get("state") in (OPEN, HALF_OPEN)
        and isinstance(parts, list)
        and all(isinstance(part, str) for part in parts)
        and isinstance(entry.get("failures", 0), int)
    )


def _probes(entry: dict[str, Any]) -> dict[str, Any]:
    probes = entry.get("probes")
    return probes if isinstance(probes, dict) else {}


def _end_probe(entry: dict[str, Any], unit: str) -> bool:
    """Take a unit off the probes of a half-open breaker; whether it was one."""
    return entry["state"] == HALF_OPEN and _probes(entry).pop(unit, None) is not None


def _lock(fd: int) -> None:
    """Wait for the lock. Without kernel locks two writers may lose one count of each other, not the file."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError:
        return
