"""Which units of a run may start now, by their last attempt and by the breakers."""

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from ripresa.journal import clock, records
from ripresa.journal.paths import Run
from ripresa.recovery import breaker, policy

UNKNOWN_S = 5.0
"""Look again after this time when nothing says until when to wait (the probes of a breaker are running)."""


class Outlook(NamedTuple):
    """What the journal says about a unit that Snakemake offers."""

    not_before: float = 0.0
    """Seconds since the epoch."""
    scopes: tuple[str, ...] = ()
    stopped: bool = False
    """The policy gave it up for this session or for good: one refusal by the guard is final."""
    attempts: int = 0
    """How often it was attempted so far."""


FREE = Outlook()


class Withholding:
    """Reads the records and breakers of one run, each as seldom as possible."""

    def __init__(self, run: Run, session: str | None) -> None:
        """``session`` is the id of this session; a unit refused in an earlier one may run again."""
        self._run = run
        self._session = session
        self._settings: dict[str, Any] | None = None
        self._stamp: tuple[int, int] | None = None
        self._breakers: breaker.Breakers = {}

    def outlook(
        self, targets: Iterable[str], *, scopes: Iterable[str] = (), retried: bool = False
    ) -> Outlook:
        """What holds for a job of these units: of a group of units, all that holds for one of them.

        ``scopes`` are those it is known to belong to beforehand; ``retried`` says that it was started
        in this session already.
        """
        not_before, belongs, stopped, attempts = 0.0, set(scopes), False, 0
        for target in targets:
            record = records.last(self._run.attempts(target)) or {}
            decision = record.get("decision")
            number = record.get("attempt")
            attempts += number if isinstance(number, int) else 0
            if decision == "retry":
                not_before = max(not_before, clock.seconds(record.get("not_before")))
                belongs.update(scope for scope in record.get("scopes") or [] if isinstance(scope, str))
            elif decision == "refused":
                stopped |= record.get("session") == self._session
            elif decision == "quarantine":
                # Whether it was released or changed since is for the guard to say, once a session.
                stopped |= retried or record.get("session") == self._session
        if stopped:
            return Outlook(stopped=True, attempts=attempts)
        return Outlook(not_before, tuple(sorted(belongs)), attempts=attempts)

    def allowances(self, scopes: Iterable[str], now: float) -> dict[str, int]:
        """How many units may start now, for the scopes whose breaker limits them."""
        self._refresh()
        allowed = {
            scope: breaker.allowance(self._breakers, scope, now, self._settings)
            for scope in scopes
            if scope in self._breakers
        }
        return {scope: number for scope, number in allowed.items() if number is not None}

    def opens(self, now: float, scopes: Iterable[str] | None = None) -> float:
        """When to ask again for scopes (all by default) that let nothing through: seconds since the epoch."""
        self._refresh()
        scopes = self._breakers if scopes is None else scopes
        times = [breaker.closed_until(self._breakers, {"scopes": [scope]}, now) for scope in scopes]
        return min((time for time in times if time), default=now + UNKNOWN_S)

    def _refresh(self) -> None:
        try:
            status = os.stat(self._run.breakers)
        except OSError:
            self._stamp, self._breakers = None, {}
            return
        stamp = status.st_mtime_ns, status.st_ino
        if stamp != self._stamp:
            self._stamp, self._breakers = stamp, breaker.load(self._run)
        if self._settings is None:
            self._settings = policy.breaker_settings(policy.load(self._run))
