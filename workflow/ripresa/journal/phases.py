"""The phases of a run: rules in an order, each of one or several jobs, told in the events (contract C5).

A rule file names them (`Campaign.phases`). When the run starts, `plan` notes what this session will do of
each; the controller's logger follows the jobs with `Phases`.
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ripresa.journal import attempts, leases, records
from ripresa.journal.events import emit
from ripresa.journal.paths import Run
from ripresa.recovery.progress import fraction

_EVERY_S = 1.0


def plan(run: Run, session: str, names: Sequence[str], jobs: Iterable[str], needed: Iterable[str]) -> None:
    """Note what a session will do: the rules of all ``jobs``, and of those ``needed``, which are to run."""
    there, wanted = Counter(jobs), Counter(needed)
    phases = [{"name": name, "jobs": there[name], "to_run": wanted[name]} for name in names]
    records.write_json(run.phases, {"session": session, "phases": phases})


def load(run: Run, session: str) -> "Phases | None":
    """The phases that were planned for a session, if there are any."""
    noted = records.read_json(run.phases)
    if not isinstance(noted, dict) or noted.get("session") != session:
        return None
    phases = [
        Phase(number, one["name"], one["jobs"], one["to_run"]) for number, one in enumerate(noted["phases"])
    ]
    return Phases(run, session, phases)


@dataclass
class Phase:
    """One phase and how far this session is with it; its units are known by their targets."""

    number: int
    name: str
    jobs: int
    to_run: int
    began: float | None = None
    """When it started, by the monotonic clock; None before, and after its end."""
    running: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    counted: dict[str, tuple[int, int]] = field(default_factory=dict)
    """How many frames or rows of how many each unit has done, as far as it tells."""
    told: tuple[int, int] = (0, 0)
    told_at: float = 0.0

    def progress(self) -> tuple[int, int]:
        """Frames or rows done, and those of all units; units if none counts anything.

        Units that did not start or count yet are taken to have as many as the others on average.
        """
        if not self.counted:
            return len(self.done), max(self.to_run, len(self.done))
        total = sum(total for _, total in self.counted.values())
        each = total / len(self.counted)
        silent = len(self.done - self.counted.keys())
        missing = max(self.to_run - len(self.counted), silent)
        current = sum(current for current, _ in self.counted.values()) + round(each * silent)
        return current, total + round(each * missing)


class Phases:
    """Follows the jobs of a session and writes its phase events."""

    def __init__(self, run: Run, session: str, phases: Sequence[Phase]) -> None:
        self._run = run
        self._session = session
        self._phases = phases
        self._by_name = {phase.name: phase for phase in phases}

    @property
    def first(self) -> int | None:
        """The number of the first phase that runs, if this is a restart: there are phases before it."""
        first = next((phase.number for phase in self._phases if phase.to_run), None)
        return first if first is not None and any(self._before(first)) else None

    def open(self) -> list[Phase]:
        """The phases under way."""
        return [phase for phase in self._phases if phase.began is not None]

    def start(self) -> None:
        """Tell which phases are skipped because what they made is still there."""
        first = self.first
        for phase in self._before(first or 0):
            self._emit("phase_start", phase)
            why = {"reason": "resume_from_phase", "resume_from": first}
            self._emit("phase_end", phase, status="skipped", **why, seconds=0.0)

    def begin(self, rule: str, target: str) -> None:
        """A job was started. One whose unit was given up is offered in vain, which starts nothing anew."""
        phase = self._by_name.get(rule)
        if phase is None or target in phase.failed:
            return
        self._open(phase)
        phase.running.add(target)

    def finish(self, rule: str, target: str) -> None:
        """A job is complete."""
        phase = self._by_name.get(rule)
        if phase is None:
            return
        self._open(phase)
        phase.running.discard(target)
        phase.failed.discard(target)
        phase.done.add(target)
        self._count(phase, target)
        self._tell(phase)
        self._settle(phase)

    def fail(self, rule: str, target: str, *, given_up: bool) -> None:
        """A job failed, for good or to be tried again."""
        phase = self._by_name.get(rule)
        if phase is None or phase.began is None:
            return
        phase.running.discard(target)
        phase.counted.pop(target, None)
        if given_up:
            phase.failed.add(target)
        self._settle(phase)

    def tick(self) -> None:
        """Look how far running jobs are, to be called often; says it about once a second per phase."""
        now = time.monotonic()
        for phase in self.open():
            if now - phase.told_at < _EVERY_S:
                continue
            for target in phase.running:
                counted = self._look(target)
                if counted is not None:
                    phase.counted[target] = counted
            if phase.progress() != phase.told and phase.counted:
                self._tell(phase)

    def end(self, stopped: str | None) -> None:
        """The session ends: phases under way did not come to their end."""
        for phase in self.open():
            reason = "failed" if phase.failed else "stopped" if stopped else "incomplete"
            self._close(phase, "error", reason=reason)

    def _before(self, first: int) -> list[Phase]:
        return [phase for phase in self._phases[:first] if phase.jobs]

    def _open(self, phase: Phase) -> None:
        if phase.began is None:
            phase.began = phase.told_at = time.monotonic()
            self._emit("phase_start", phase, jobs=phase.to_run)

    def _count(self, phase: Phase, target: str) -> None:
        """Take over what a unit counted in the end: so short ones count too, and nothing stays at 99 %."""
        try:
            last = attempts.last(self._run, target)
        except OSError:
            last = {}
        current, total = last.get("progress"), last.get("progress_total")
        if isinstance(current, str) and isinstance(total, str) and current.isdigit() and total.isdigit():
            phase.counted[target] = int(current), int(total)
        elif target in phase.counted:
            phase.counted[target] = (phase.counted[target][1],) * 2

    def _look(self, target: str) -> tuple[int, int] | None:
        """How far the live attempt of a unit is, whichever controller started it."""
        try:
            attempt = (leases.owner(self._run.lease(target)) or {}).get("attempt")
        except OSError:
            return None
        return fraction(self._run.progress(target, attempt)) if isinstance(attempt, int) else None

    def _tell(self, phase: Phase) -> None:
        current, total = phase.told = phase.progress()
        phase.told_at = time.monotonic()
        self._emit("phase_progress", phase, current=current, total=total)

    def _settle(self, phase: Phase) -> None:
        if not phase.running and len(phase.done) + len(phase.failed) >= phase.to_run:
            self._close(phase, "error" if phase.failed else "ok", reason="failed" if phase.failed else None)

    def _close(self, phase: Phase, status: str, *, reason: str | None) -> None:
        seconds = round(time.monotonic() - (phase.began or 0.0), 3)
        phase.began = None
        current, total = phase.progress()
        counts = {"jobs": phase.to_run, "done": len(phase.done), "failed": len(phase.failed)}
        self._emit(
            "phase_end",
            phase,
            status=status,
            **({"reason": reason} if reason else {}),
            seconds=seconds,
            current=current,
            total=total,
            counts=counts,
        )

    def _emit(self, type: str, phase: Phase, **fields: Any) -> None:
        emit(self._run, type, session=self._session, phase=phase.number, phase_name=phase.name, **fields)
