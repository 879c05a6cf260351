"""A run as somebody sees it who only looks: every unit, planned or begun, and where it is. Writes nothing."""

import os
import time
from collections.abc import Iterator
from typing import Any

from ripresa.cli import manifest
from ripresa.journal import attempts, clock, controller, leases, records, state
from ripresa.journal.paths import Run
from ripresa.journal.text import printable
from ripresa.recovery.progress import fraction

TAIL = 3
"""Lines shown of the log of a unit that runs or failed."""

_TAIL_BYTES = 8192
_STOPPED = (state.FAILED, state.QUARANTINED)
_RAN = (*_STOPPED, state.WAITING, state.COMPLETED)
_CONTROLLER = ("run_start", "run_resume", "run_end")
_GONE = {"completed", "failed", "stopped"}

Unit = dict[str, Any]


class Watched:
    """A run that is looked at again and again; what cannot have changed is not read again."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.units: list[state.UnitState] = []
        self.counts: dict[str, int] = {}
        self.state = "new"
        """``new``, ``running`` (a controller has it), ``interrupted`` (its controller ended without a word,
        jobs may go on), ``completed``, ``failed`` or ``stopped``."""
        self.controller: dict[str, Any] | None = None
        self.now = 0.0
        self._events = _Follower(run.events)
        self._ledger = _Follower(f"{run.slurm}/ledger.jsonl")
        self._progress: dict[str, dict[str, Any]] = {}
        self._jobs: dict[str, dict[str, Any]] = {}
        self._last: dict[str, Any] = {}
        self._details: dict[tuple[str, str, int], Unit] = {}
        self._planned: tuple[object, list[state.UnitState]] = (None, [])

    def look(self) -> None:
        """Look at the files of the run."""
        self.now = time.time()
        for event in self._events.news(b'"run_', b'"unit_progress"'):
            if event.get("type") in _CONTROLLER:
                self._last = event
            elif event.get("type") == "unit_progress" and isinstance(event.get("target"), str):
                self._progress[event["target"]] = event
        for line in self._ledger.news():
            if isinstance(line.get("target"), str):
                self._jobs[line["target"]] = line
        units = state.states(self.run, self.now)
        known = {unit.target for unit in units}
        self.units = [*units, *(self._made(unit) for unit in self._plan() if unit.target not in known)]
        self.counts = state.counts(self.units)
        self.controller = controller.holder(self.run)
        self.state = "running" if self.controller else self._ended()

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        done = self.counts.get(state.COMPLETED, 0) + self.counts.get(state.SKIPPED, 0)
        return self.controller is None and 0 < len(self.units) == done

    @property
    def over(self) -> bool:
        """Whether nothing goes on: it is complete, or its controller ended, and so did all that it began."""
        if self.complete or self.state not in _GONE or self.counts.get(state.RUNNING):
            return self.complete
        queued = {target for target, job in self._jobs.items() if not job.get("ended")}
        return not any(one.state == state.PENDING and one.target in queued for one in self.units)

    def document(self) -> dict[str, Any]:
        """All there is to tell, for programs."""
        return {
            "run_id": self.run.run_id,
            "state": self.state,
            "complete": self.complete,
            "ts": clock.iso(self.now),
            "counts": self.counts,
            "controller": self.controller,
            "units": [self.unit(one) for one in self.units],
        }

    def unit(self, one: state.UnitState) -> Unit:
        """A unit with where it is and how far: what its state says, and

        ``host``, ``attempt`` (its number), ``started``, ``elapsed_s`` (of the attempt), ``progress``
        (``{"value", "total"}``), ``job`` (``{"job", "state", "reason", "node", "ts"}`` of a batch system),
        ``log`` and ``tail``, its last lines; None where there is none.
        """
        key = one.target, one.state, one.attempts
        known = self._details.get(key)
        if known is None:
            known = self._running(one) if one.state == state.RUNNING else self._ran(one)
            if one.state in _RAN:
                self._details[key] = known
        job = self._jobs.get(one.target)
        job = {name: job.get(name) for name in ("job", "state", "reason", "node", "ts")} if job else None
        node = job["node"] if job else None
        # The owner of a lease is named by what its machine calls itself, which may be another name.
        host = (node or known["host"]) if one.state == state.RUNNING else (known["host"] or node)
        return {**one._asdict(), **known, "host": host, "job": job}

    def _running(self, one: state.UnitState) -> Unit:
        owner = leases.owner(self.run.lease(one.target)) or {}
        number = owner.get("attempt")
        number = number if isinstance(number, int) else one.attempts + 1
        far = fraction(self.run.progress(one.target, number))
        event = self._progress.get(one.target, {})
        told = event if event.get("attempt") == number else {}
        since = clock.seconds(owner.get("started"))
        log = self.run.log(one.target, number)
        return {
            "host": owner.get("host"),
            "attempt": number,
            "started": owner.get("started"),
            "elapsed_s": round(max(0.0, self.now - since), 1) if since else None,
            "progress": _progress(*far) if far else _progress(told.get("value"), told.get("total")),
            "log": log,
            "tail": tail(log),
        }

    def _ran(self, one: state.UnitState) -> Unit:
        """What the last attempt of a unit came to."""
        record = attempts.last(self.run, one.target) if one.attempts else {}
        began, ended = clock.seconds(record.get("started")), clock.seconds(record.get("ended"))
        log = self.run.log(one.target, record["attempt"]) if record else None
        return {
            "host": record.get("host"),
            "attempt": record.get("attempt"),
            "started": record.get("started"),
            "elapsed_s": round(ended - began, 1) if 0 < began <= ended else None,
            "progress": _progress(record.get("progress"), record.get("progress_total")),
            "log": log,
            "tail": tail(log) if log and one.state in _STOPPED else [],
        }

    def _plan(self) -> list[state.UnitState]:
        """The units of the manifest `plan.json`, as long as it is of the campaign that runs."""
        stamps = tuple(_stamp(path) for path in (self.run.plan, self.run.units))
        if stamps != self._planned[0]:
            plan = manifest.read(self.run)
            header = next(iter(records.iterate(self.run.units)), {})
            same = not header or header.get("config_sha256") == plan.get("config_sha256")
            listed = plan.get("units") if same else None
            units = [unit for unit in listed if isinstance(unit, dict)] if isinstance(listed, list) else []
            self._planned = stamps, [_planned(unit) for unit in units if isinstance(unit.get("target"), str)]
        return self._planned[1]

    def _made(self, unit: state.UnitState) -> state.UnitState:
        """A planned unit that the run does not list: its target may be there all the same."""
        there = os.path.lexists(self.run.path(unit.target))
        return unit._replace(state=state.COMPLETED) if there else unit

    def _ended(self) -> str:
        if not self._last:
            return "new"
        if self._last.get("type") != "run_end":
            return "interrupted"
        if self._last.get("stopped"):
            return "stopped"
        return "completed" if self._last.get("status") == "ok" else "failed"


def tail(path: str) -> list[str]:
    """The last lines of a log, safe for a terminal; of a line written over with ``\\r`` what remained."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = (line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.rstrip().split("\n"))
    return [printable(line)[:500] for line in lines if line][-TAIL:]


class _Follower:
    """Reads what is new in an append-only file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._offset = 0

    def news(self, *words: bytes) -> Iterator[dict[str, Any]]:
        """The new records, of lines with any of these words; one that is half written comes later."""
        try:
            with open(self._path, "rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._offset = 0  # another file
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    self._offset += len(line)
                    if not words or any(word in line for word in words):
                        record = records.parse(line)
                        if record is not None:
                            yield record
        except OSError:
            return


def _planned(unit: dict[str, Any]) -> state.UnitState:
    """A unit that nothing is known of but its plan."""
    target, rule = unit["target"], unit.get("rule")
    family = target.partition("/")[0]
    return state.UnitState(target, rule, family, state.PENDING, 0, None, None, None, None)


def _progress(value: Any, total: Any) -> dict[str, Any] | None:
    return None if value is None else {"value": value, "total": total}


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size
