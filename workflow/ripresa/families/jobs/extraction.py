"""What the log of a running job says: how far it is, its metrics, its events, whether it is done."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Tell = Callable[..., None]
"""Emits an event: its type, and fields by name."""

MOST_EVENTS = 1000
"""Of one pattern in one attempt: a line that comes with every step is a metric and no event."""
_CHUNK = 1 << 22
_LONGEST_LINE = 10_000


class Follower:
    """Reads what is added to a log, in whole lines; progress bars end theirs with a carriage return."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._offset = os.path.getsize(path)
        self._rest = b""

    def lines(self, *, last: bool = False) -> Iterator[str]:
        """Yield the lines that were added since; with ``last`` also one without an end."""
        with contextlib.suppress(OSError), open(self._path, "rb") as file:
            file.seek(self._offset)
            while chunk := file.read(_CHUNK):
                self._offset += len(chunk)
                *whole, self._rest = re.split(rb"[\r\n]+", self._rest + chunk)
                self._rest = self._rest[:_LONGEST_LINE]
                yield from map(_text, filter(None, whole))
        if last and self._rest:
            yield _text(self._rest)
            self._rest = b""


def _text(line: bytes) -> str:
    return line[:_LONGEST_LINE].decode("utf-8", "replace")


class Extraction:
    """Takes in lines of a log by the patterns of a job's settings."""

    def __init__(self, settings: Mapping[str, Any], total: float | None, tell: Tell) -> None:
        progress = settings.get("progress") or {}
        patterns = progress.get("pattern") or []
        self._progress = [re.compile(p) for p in ([patterns] if isinstance(patterns, str) else patterns)]
        self._events = {
            one["name"]: re.compile(one["pattern"])
            for one in settings.get("patterns") or []
            if "class" not in one
        }
        marker = (settings.get("success") or {}).get("pattern")
        self._marker = re.compile(marker) if marker else None
        self._tell = tell
        self._told: dict[str, int] = {}
        self.total = total
        self.step: float | None = None
        """The newest step that the log names."""
        self.first: float | None = None
        """The first one: how far the attempt was when it began."""
        self.metrics: dict[str, float | None] = {}
        """The newest value of every other named group; None for one that is not finite."""
        self.succeeded = self._marker is None

    @property
    def watching(self) -> bool:
        """Whether anything is to be taken from the log while the job runs."""
        return bool(self._progress or self._events)

    def feed(self, lines: Iterable[str]) -> int:
        """Take in some lines; returns how many."""
        count = 0
        for line in lines:
            count += 1
            for pattern in self._progress:
                if found := pattern.search(line):
                    self._take(found.groupdict())
            for name, pattern in self._events.items():
                if found := pattern.search(line):
                    self._event(name, line, found.groupdict())
            if not self.succeeded and self._marker is not None and self._marker.search(line):
                self.succeeded = True
        return count

    def _take(self, groups: Mapping[str, str | None]) -> None:
        for name, text in groups.items():
            try:
                value = float(text or "")
            except ValueError:
                continue
            if name not in ("step", "total"):
                self.metrics[name] = value if math.isfinite(value) else None
            elif not math.isfinite(value):
                continue
            elif name == "total":
                self.total = whole(value)
            else:
                self.step = whole(value)
                self.first = self.step if self.first is None else self.first

    def _event(self, name: str, line: str, groups: Mapping[str, str | None]) -> None:
        self._told[name] = self._told.get(name, 0) + 1
        if self._told[name] <= MOST_EVENTS:
            self._tell("unit_event", event=name, line=line[:500], groups=dict(groups))


def write_progress(path: str, step: float, total: float | None) -> None:
    """Say how far a job is: `step total` where both are whole numbers, so that readers know the fraction."""
    step, total = whole(step), None if total is None else whole(total)
    fraction = isinstance(step, int) and isinstance(total, int) and step >= 0 and total > 0
    text = f"{step} {total}" if fraction else str(step)
    temporary = f"{path}.new"
    with contextlib.suppress(OSError):  # a word more or less is no reason to end what runs
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.replace(temporary, path)


def whole(value: float) -> float:
    """The same number, without a fraction if it has none."""
    return int(value) if float(value).is_integer() else value
