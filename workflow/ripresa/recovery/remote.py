"""A unit whose guard runs on another machine, as the controller sees it: before it is sent there, and after.

The guard writes the journal itself, so this only adds what it could not: how an attempt ended whose guard was
killed with it, or never started.
"""

import os
from collections.abc import Mapping
from typing import Any

from ripresa.journal import attempts, clock, leases, publish
from ripresa.recovery import admission, adoption
from ripresa.recovery.attempt import fail, new_record
from ripresa.recovery.guard import NOT_NOW
from ripresa.recovery.progress import Progress
from ripresa.recovery.unit import Unit

PUBLISHED, FAILED, HELD = "published", "failed", "held"
AGAIN = "again"
"""The batch system starts the unit again by itself."""


class End:
    """How a batch system says that an attempt ended.

    ``failure_class`` is None where it does not know, ``completed`` if it believes in success; ``log`` is what
    the batch job printed, ``host`` where it ran, ``requeues`` how often the job had been put back
    into the queue before, ``most`` how much it could have asked for.
    """

    def __init__(
        self,
        failure_class: str | None,
        evidence: str,
        *,
        completed: bool = False,
        external_jobid: str | None,
        session: str,
        log: str,
        host: str | None = None,
        requeues: int = 0,
        exit_code: int | None = None,
        signal: int | None = None,
        most: Mapping[str, float] | None = None,
    ) -> None:
        self.failure_class = failure_class
        self.evidence = evidence
        self.completed = completed
        self.external_jobid = external_jobid
        self.session = session
        self.log = log
        self.host = host
        self.requeues = requeues
        self.exit_code = exit_code
        self.signal = signal
        self.most = most or {}


class Remote:
    """A unit from when it is sent away until its outcome is known."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self._path = unit.run.attempts(unit.target)
        self._known = self._size()

    def refusal(self) -> str | None:
        """Why the unit is not to be sent away, `PUBLISHED` if there is no need to; None if it is to run."""
        unit = self.unit
        if not self._size() and not os.path.lexists(unit.run.lease(unit.target)):
            return None
        lease = leases.acquire(unit.run, unit.target)
        if lease is None:
            return None  # the guard will wait for who holds it
        try:
            adoption.close_interrupted(unit, lease)
            last = attempts.last(unit.run, unit.target)
            if adoption.adopt(unit, last, float("inf")):
                return PUBLISHED
            return admission.refusal(unit, last)
        finally:
            lease.release()
            self._known = self._size()

    def outcome(self) -> str | None:
        """What the journal says of the attempt since it was sent away; None while it says nothing final.

        One that was told to end is not final: the batch system knows why, and may start it again.
        """
        if self._size() == self._known:
            return None
        last = attempts.last(self.unit.run, self.unit.target)
        if last.get("outcome") in ("published", "adopted"):
            return PUBLISHED
        return FAILED if last.get("decision") and last.get("failure_class") != "cancelled" else None

    def conclude(self, end: End) -> str:
        """The outcome of an attempt that the batch system says is over, recorded if its guard did not.

        `HELD` if a live process holds the unit all the same.
        """
        unit = self.unit
        lease = leases.acquire(unit.run, unit.target)
        if lease is None:
            return HELD
        try:
            last = attempts.last(unit.run, unit.target)
            known = int(last.get("attempt", 0))
            begun = (lease.previous or {}).get("attempt")
            if isinstance(begun, int) and begun == known + 1:
                self._record(begun, end, lease.previous or {})
            elif last.get("outcome") in ("published", "adopted") and (
                end.completed or self._is_of(last, end)
            ):
                return PUBLISHED
            elif self._is_of(last, end):
                if last.get("failure_class") == "cancelled":
                    # Its guard was told to end, and nobody told it why.
                    self._record(known, end, last)
            elif end.exit_code != NOT_NOW:
                self._record(known + 1, end, {})  # it never came to its guard
            return FAILED
        finally:
            lease.release()

    def restarted(self, end: End) -> str:
        """What follows from the end of an instance of a job that the batch system starts again: `AGAIN`.

        Where its guard could not know why, or wrote nothing, that is recorded. `FAILED` if the unit is not to
        be started once more, `HELD` if a live process has it: the next instance, or what is left of this one.
        """
        unit = self.unit
        lease = leases.acquire(unit.run, unit.target)
        if lease is None:
            return HELD
        try:
            last = attempts.last(unit.run, unit.target)
            known = int(last.get("attempt", 0))
            begun = lease.previous or {}
            if begun.get("attempt") == known + 1 and begun.get("requeues", 0) == end.requeues:
                end.failure_class = end.failure_class or "node"
                self._record(known + 1, end, begun)
            elif self._is_of(last, end) and last.get("failure_class") == "cancelled":
                end.failure_class = end.failure_class or "preempted"
                self._record(known, end, last)
            else:
                return AGAIN
            last = attempts.last(unit.run, unit.target)
            return AGAIN if last.get("decision") == "retry" else FAILED
        finally:
            lease.release()
            self._known = self._size()

    @staticmethod
    def _is_of(last: dict[str, Any], end: End) -> bool:
        """Whether the newest attempt is the one that ended."""
        if end.external_jobid is None or last.get("external_jobid") != end.external_jobid:
            return False
        return last.get("requeues", 0) == end.requeues

    def _record(self, number: int, end: End, begun: dict[str, Any]) -> None:
        unit = self.unit
        log, told = unit.run.log(unit.target, number), unit.run.progress(unit.target, number)
        progress = Progress(unit.options.get("progress"), log, told, unit.beat_s)
        progress.conclude()
        publish.discard(unit.run, unit.target)
        started = begun.get("started")
        record = new_record(unit, number, started if isinstance(started, str) else clock.iso())
        record.update(
            host=end.host or begun.get("node") or begun.get("host"),
            pid=begun.get("pid"),
            external_jobid=end.external_jobid,
            requeues=end.requeues,
            session=end.session,
            exit_code=end.exit_code,
            signal=end.signal,
            scopes=[scope for scope in unit.scopes if not scope.startswith("host:")],
            most=dict(end.most),
            **progress.fields,
        )
        if record["host"]:
            record["scopes"].insert(0, f"host:{record['host']}")
        if not os.path.exists(log):
            record["log"] = log = end.log
        fail(unit, record, log, end.failure_class, end.evidence)

    def _size(self) -> int:
        try:
            return os.stat(self._path).st_size
        except OSError:
            return 0
