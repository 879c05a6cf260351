"""Which units of a run may start now, by their last attempt and by the breakers."""

import os
import time
from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

from ripresa.journal import attempts, clock, devices, records
from ripresa.journal.paths import Run
from ripresa.placement.asking import Asked
from ripresa.recovery import breaker, policy

PAUSE_S = 5.0
"""The wait when nothing says until when (while the probes of a breaker run); scaled as all waits are."""


class Outlook(NamedTuple):
    """What the journal says about a unit that Snakemake offers."""

    not_before: float = 0.0
    """By `clock.steady`, in s; 0.0 if there is nothing to wait for."""
    scopes: tuple[str, ...] = ()
    stopped: bool = False
    """The policy gave it up for this session or for good: one refusal by the guard is final."""
    attempts: int = 0
    """How often it was attempted so far."""
    escalated: bool = False
    """It asks for another amount of a resource now, and others of its kind will start with what works."""
    devices: tuple[tuple[str, int], ...] = ()
    """What its rule has it lease: names and percent."""
    asked: Asked | None = None
    """What it asks the scheduler for instead."""


FREE = Outlook()


class Withholding:
    """Reads the records and breakers of one run, each as seldom as possible."""

    def __init__(self, run: Run, session: str | None) -> None:
        """``session`` is the id of this session; a unit refused in an earlier one may run again."""
        self._run = run
        self._session = session
        self._stamp: tuple[int, int] | None = None
        self._breakers: breaker.Breakers = {}
        self._alive = breaker.alive(run)
        self._waits: dict[str, tuple[object, float]] = {}

    def outlook(
        self,
        targets: Iterable[str],
        *,
        scopes: Iterable[str] = (),
        retried: bool = False,
    ) -> Outlook:
        """What holds for a job of these units: of a group of units, all that holds for one of them.

        ``scopes`` are those it is known to belong to beforehand; ``retried`` says that it was started
        in this session already.
        """
        not_before, belongs, stopped, attempted, escalated = 0.0, set(scopes), False, 0, False
        for target in targets:
            record = records.last(self._run.attempts(target)) or {}
            decision = record.get("decision")
            number = record.get("attempt")
            attempted += number if isinstance(number, int) else 0
            if decision == "retry":
                not_before = max(not_before, self._until(target, record))
                belongs.update(_scopes(record))
                escalated |= bool(record.get("changes"))
            elif decision == "refused":
                stopped |= record.get("session") == self._session
            elif decision == "quarantine":
                # Whether it was released or changed since is for the guard to say, once a session.
                stopped |= retried or record.get("session") == self._session
        if stopped:
            return Outlook(stopped=True, attempts=attempted)
        self._refresh()
        belongs.update(scope for scope, _ in breaker.covering(self._breakers, belongs))
        return Outlook(not_before, tuple(sorted(belongs)), attempts=attempted, escalated=escalated)

    def _until(self, target: str, record: dict[str, Any]) -> float:
        """Until when a unit waits, by `clock.steady`: it stands, even if the time of day is set meanwhile."""
        if not record.get("not_before"):
            return 0.0
        seen = record.get("attempt"), record["not_before"]
        known = self._waits.get(target)
        if known is None or known[0] != seen:
            left = attempts.wait_s(record, time.time())
            known = self._waits[target] = seen, clock.steady() + left if left else 0.0
        return known[1]

    def allowances(self, scopes: Iterable[str], now: float) -> dict[str, int]:
        """How many units may start now, for the scopes whose breaker limits them."""
        self._refresh()
        allowed = {
            scope: breaker.allowance(self._breakers, scope, now, self._settings, self._alive)
            for scope in scopes
            if scope in self._breakers
        }
        return {scope: number for scope, number in allowed.items() if number is not None}

    def opens(self, now: float, scopes: Iterable[str] | None = None) -> float | None:
        """When to ask again for scopes (all by default) that let nothing through: seconds since the epoch.

        None if no breaker of theirs is open or half-open.
        """
        self._refresh()
        entries = [self._breakers[s] for s in scopes or self._breakers if s in self._breakers]
        ahead = [until for entry in entries if (until := breaker.closed_until(entry, now))]
        return min(ahead, default=now + self.pause) if entries else None

    def meet(self, scopes: Iterable[str], other: str) -> bool:
        """Whether a breaker holds back the units of these scopes only where they meet with another one."""
        self._refresh()
        both = {*scopes, other}
        return any(other in entry.get("of", ()) for _, entry in breaker.covering(self._breakers, both))

    @property
    def meetings(self) -> frozenset[str]:
        """The breakers of units in which several scopes meet: of these `outlook` learns when asked again."""
        self._refresh()
        return frozenset(scope for scope, entry in self._breakers.items() if entry.get("of"))

    @property
    def pause(self) -> float:
        """How long to wait, in s, when nothing says until when."""
        return PAUSE_S * float(self._policy.get("time_scale", 1.0))

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return policy.breaker_settings(self._policy)

    @cached_property
    def _policy(self) -> policy.Policy:
        return policy.load(self._run)

    def _refresh(self) -> None:
        try:
            status = os.stat(self._run.breakers)
        except OSError:
            self._stamp, self._breakers = None, {}
            return
        stamp = status.st_mtime_ns, status.st_ino
        if stamp != self._stamp:
            self._stamp, self._breakers = stamp, breaker.load(self._run)


def _scopes(record: dict[str, Any]) -> Iterable[str]:
    """The scopes of an attempt that its unit belongs to wherever it runs next: not the host it ran on, nor
    the GPUs."""
    gpus = {f"gpu:{name}" for name in devices.named(record.get("device"))}
    for scope in record.get("scopes") or []:
        if isinstance(scope, str) and not scope.startswith("host:") and scope not in gpus:
            yield scope
