"""One attempt of a job, or of one of its segments: go on from a checkpoint, run, say what came of it."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ripresa import template
from ripresa.dsl.digests import canonical
from ripresa.families.jobs import environment, execution
from ripresa.families.jobs.book import Book
from ripresa.families.jobs.checkpoints import Checkpoint, candidates, newest_valid
from ripresa.families.jobs.errors import JobError
from ripresa.families.jobs.extraction import Extraction, Follower, Tell, whole, write_progress
from ripresa.families.jobs.headers import header

Settings = Mapping[str, Any]

METRICS_EVERY_S = 5.0
_TIME_IS_UP = 124  # as timeout(1) has it
# How a command ends that took a warning or a stop for what it is.
_TOLD = {0, *(128 + number for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGKILL))}


class Failed(Exception):
    """The attempt has failed: the exit code to end with, and what there is to say beyond the log."""

    def __init__(self, code: int, message: str | None = None) -> None:
        super().__init__(message or f"exit code {code}")
        self.code = code
        self.message = message


class Surroundings(NamedTuple):
    """What an attempt is given from outside."""

    run: str
    """The run directory."""
    folder: str
    """The folder of the point, below which its checkpoints are."""
    log: str
    """The file that takes the output of this process and of the command."""
    log_name: str
    """How results name it."""
    progress: str
    """The file that says how far the command is."""
    session: str
    forced: bool
    """Units that are complete were asked to run again in this session."""
    tell: Tell
    """Emits an event."""
    send: Callable[[int, int], None]
    """Sends a signal to a process and its descendants."""


def run(
    unit: Mapping[str, Any],
    command: str,
    settings: Settings,
    given: Surroundings,
    *,
    output: str | None,
    amounts: Mapping[str, str],
) -> dict[str, Any]:
    """Run a unit of the job family to its end, or to that of its segment, and return its result.

    ``command`` is its text, ``settings`` what config/jobs.yaml now says of the job, ``output`` the directory
    for the command's own files, ``amounts`` the resources it has. Raises Failed, or JobError for what a
    person has to put right. The result has schema job_segment.schema.json.
    """
    began = time.monotonic()
    attempt = _Attempt(unit, command, settings, given, output, amounts)
    return attempt.run(began)


class _Attempt:
    """What belongs to one attempt."""

    def __init__(
        self,
        unit: Mapping[str, Any],
        command: str,
        settings: Settings,
        given: Surroundings,
        output: str | None,
        amounts: Mapping[str, str],
    ) -> None:
        self.unit = unit
        self.settings = settings
        self.given = given
        self.output = output
        self.command = command
        self.segment = int(unit.get("segment") or 1)
        self.segmented = "segment" in unit
        self.kept = settings.get("checkpoints")
        self.book = Book(
            os.path.abspath(f"{given.folder}/checkpoints/{identity(unit, command)}"),
            (self.kept or {}).get("pattern", "*"),
        )
        self.values = {
            **{
                key: one if isinstance(one, str) else canonical(one)
                for key, one in unit["parameters"].items()
            },
            **{f"resources.{name}": amount for name, amount in amounts.items()},
            "threads": amounts.get("threads", "1"),
            "segment": str(self.segment),
            "output": os.path.abspath(output) if output else "",
            "checkpoints": self.book.directory if self.kept is not None else "",
            "resume": "",
        }
        self.extraction = Extraction(settings, self._total(), given.tell)
        self._told_at = 0.0
        self._told: dict[str, Any] = {}

    def run(self, began: float) -> dict[str, Any]:
        """Run to the end of the job or the segment; ``began`` is when this process did."""
        held: list[int] = []
        start: Checkpoint | None = None
        started = datetime.now(UTC)
        if self.output:
            os.makedirs(self.output, exist_ok=True)
        if self.kept is not None:
            held.append(self.book.hold(say))
            if (earlier := self._as_before()) is not None:
                return earlier
            start = self._newest()
            self.values["resume"] = start.path if start else ""
        say(
            f"{header(self.unit)}, segment {self.segment}: "
            + (f"from {start.name}" if start else "from the beginning")
        )
        follower = Follower(self.given.log)
        ended = execution.run(
            environment.script(
                template.finish(template.fill(self.command, self.values)),
                self.unit["environment"],
                list(dict.fromkeys([os.getcwd(), os.path.abspath(self.given.run)])),
            ),
            self._environment(),
            began=began,
            limit=self._limit(),
            tell=self.given.send,
            tick=(lambda: self._look(follower.lines())) if self.extraction.watching else None,
            tick_s=self._tick_s(),
            inherited=held,
        )
        self._look(follower.lines(last=True), last=True)
        complete = self._is_complete(ended)
        end = self._newest() if self.kept is not None else None
        if not complete and not self._went_on(ended, start, end):
            self._fail(ended, start)
        result = {
            **{key: self.unit[key] for key in ("job", "point", "parameters")},
            "segment": self.segment,
            "complete": complete,
            "ended_by": "success" if complete else ended.by,
            "step": self.extraction.step,
            "total": self.extraction.total,
            "metrics": self.extraction.metrics,
            "resumed_from": start.name if start else None,
            "checkpoint": end.document() if end else None,
            "started": started.isoformat(timespec="milliseconds"),
            "elapsed_s": round(time.monotonic() - began, 3),
            "host": os.uname().nodename,
            "attempt": int(os.environ.get("RIPRESA_ATTEMPT", "1")),
            "log": self.given.log_name,
        }
        if self.kept is not None:
            self.book.note(self.segment, result, self.given.session)
        return result

    def _as_before(self) -> dict[str, Any] | None:
        """The result that this segment has already come to, if nobody asked for it again.

        It is known here and not published if the guard was killed in between.
        """
        done = self.book.done(self.segment)
        if done is None:
            return None
        if self.given.forced and self.book.completed_in(self.segment) != self.given.session:
            say(f"segment {self.segment} was complete, and is asked for again")
            self.book.back_to(self.segment, say)
            return None
        # What a complete job has written was never published; its last checkpoint makes it again.
        return None if done["complete"] else dict(done)

    def _newest(self) -> Checkpoint | None:
        return newest_valid(self.book.directory, self.book.pattern, (self.kept or {}).get("validate"), say)

    def _is_complete(self, ended: execution.Ended) -> bool:
        if ended.code != 0 or ended.stopped or (ended.warned and "success" not in self.settings):
            return False
        return not self._lacking()

    def _lacking(self) -> list[str]:
        """Which marks of success are missing, in words."""
        success = self.settings.get("success") or {}
        lacking = []
        if not self.extraction.succeeded:
            lacking.append(f"no line of its log matches {success['pattern']!r}")
        if "file" in success and not os.path.exists(file := self._path(success["file"])):
            lacking.append(f"{file} does not exist")
        return lacking

    def _path(self, text: str) -> str:
        return template.finish(template.fill(text, self.values, quote=str))

    def _went_on(self, ended: execution.Ended, start: Checkpoint | None, end: Checkpoint | None) -> bool:
        """Whether the segment has come to its end although the job has not: it left a new checkpoint."""
        if not self.segmented or ended.stopped or end is None or end == start:
            return False
        return ended.code == 0 or (ended.warned and ended.code in _TOLD)

    def _fail(self, ended: execution.Ended, start: Checkpoint | None) -> None:
        if self.kept is not None and self.extraction.first is not None:
            there = candidates(self.book.directory, self.book.pattern)
            if there[:1] == ([start] if start else []):
                # What is not in a checkpoint is lost, so the next attempt begins where this one did.
                write_progress(self.given.progress, self.extraction.first, self.extraction.total)
        if ended.stopped:
            raise Failed(128 + signal.SIGTERM if ended.code == 0 else ended.code)
        if ended.warned and ended.code in _TOLD:
            lacks = "a new checkpoint" if self.segmented else "success"
            raise Failed(_TIME_IS_UP, f"time limit reached without {lacks}")
        if ended.code == 0:
            lacks = " and ".join(self._lacking())
            raise Failed(1, f"incomplete result: the command ended with exit code 0, but {lacks}")
        raise Failed(ended.code)

    def _environment(self) -> dict[str, str]:
        variables = self.unit["environment"].get("variables") or {}
        return {
            **os.environ,
            **{name: self._path(str(value)) for name, value in variables.items()},
            "RIPRESA_CHECKPOINT_DIR": self.values["checkpoints"],
            "RIPRESA_RESUME": self.values["resume"],
            "RIPRESA_SEGMENT": self.values["segment"],
        }

    def _limit(self) -> execution.Limit | None:
        segments = self.settings.get("segments")
        if not self.segmented or not segments:
            return None
        return execution.Limit.of(60.0 * segments["runtime"], segments["warning_s"])

    def _tick_s(self) -> float:
        """How often to look at the log at least: no limit on silence may be over before progress is told."""
        seconds = (self.settings.get("inactivity") or {}).get("seconds") or math.inf
        return max(min(execution.LONGEST_TICK_S, seconds / 8), 0.1)

    def _total(self) -> float | None:
        total = (self.settings.get("progress") or {}).get("total")
        if not isinstance(total, str):
            return total
        text = self._path(total)
        try:
            return whole(float(text))
        except ValueError:
            raise JobError(f"progress.total: {text!r} is not a number") from None

    def _look(self, lines: Iterable[str], *, last: bool = False) -> bool:
        """Take in new lines of the log, and tell the progress they bring; whether there were any."""
        before = self.extraction.step
        any_new = self.extraction.feed(lines) > 0
        step = self.extraction.step
        if step is not None and step != before:
            write_progress(self.given.progress, step, self.extraction.total)
        told = {"step": step, **self.extraction.metrics}
        now = time.monotonic()
        due = last or now - self._told_at >= METRICS_EVERY_S
        if self.extraction.metrics and told != self._told and due:
            self._told, self._told_at = told, now
            self.given.tell("unit_metrics", **told)
        return any_new


def identity(unit: Mapping[str, Any], command: str) -> str:
    """What a computation is known by: its command, parameters and environment, as 12 hexadecimal digits."""
    what = {"command": command, **{key: unit[key] for key in ("parameters", "environment")}}
    return hashlib.sha256(canonical(what).encode()).hexdigest()[:12]


def say(message: str) -> None:
    """Write a line into the log of the attempt."""
    print(message if message.startswith("ripresa: ") else f"ripresa: {message}", flush=True)
