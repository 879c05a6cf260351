"""Progress of a running command: the sign of life that its rule declares, or the weak ones of any process."""

from __future__ import annotations

import os
import time

_WEAK_CPU_S = 0.05
_WEAK_BYTES = 4096
_CHUNK = 1 << 22


class Activity:
    """What the processes of a command have done by now, as the kernel counts it.

    ``cpu_s`` is CPU time in s and ``io_bytes`` what they moved; ``states`` the letters of
    their states in /proc.
    """

    __slots__ = ("cpu_s", "io_bytes", "states")

    def __init__(self, cpu_s: float, io_bytes: int, states: set[bytes]) -> None:
        self.cpu_s = cpu_s
        self.io_bytes = io_bytes
        self.states = states

    @property
    def blocked(self) -> bool:
        """Whether the kernel holds one of them until a disk or a network file system answers."""
        return b"D" in self.states

    @property
    def remark(self) -> str:
        """What the states explain about a silence, as the end of a sentence."""
        if self.states & {b"T", b"t"}:
            return "; it is stopped (SIGSTOP)"
        return "; it waits for a disk or a network file system" if self.blocked else ""


class Progress:
    """Watches one source: ``file:PATH``, ``counter:PATH`` or ``log:REGEX``; without one, all weak signs.

    - ``file``: the file's size or modification time changes.
    - ``counter``: the last number in the file changes.
    - ``log``: a new line of the command's log matches, and its first group (if any) changes.
    - none: the log grows, ``$RIPRESA_PROGRESS`` changes, or its processes use CPU time, read from a
      disk or write anything.

    ``beat_s`` is the time between two looks.
    """

    def __init__(self, source: str | None, log: str, default_file: str, beat_s: float) -> None:
        kind, _, argument = (source or "").partition(":")
        self.kind = kind
        self.path = {"file": argument, "counter": argument}.get(kind, default_file)
        if kind in ("file", "counter") and argument in ("", "$RIPRESA_PROGRESS"):
            self.path = default_file
        self.log = log
        self.pattern = None
        if kind == "log":
            import re

            self.pattern = re.compile(argument.encode())
        self.what = source or "no output, no progress file, no CPU time, no input or output"
        self.value: str | None = None
        """The newest counter or matched text."""
        self.total: str | None = None
        """What the counter counts up to, if ``$RIPRESA_PROGRESS`` holds ``current total``."""
        self._told = default_file
        self._seen: object = None
        self._offset = 0
        self._cpu_s = 0.0
        self._bytes = 0
        self._signs = 0
        self._unwatched_s = 2.0 * beat_s
        self._looked = time.monotonic()
        self._silence_s = 0.0
        self.silence_s = 0.0
        """The longest time without progress so far, in s."""
        self.changed = False
        """Whether `idle` saw progress the last time."""

    def idle(self, activity: Activity) -> float:
        """Seconds without progress up to now; ``activity`` is what the command has done so far."""
        self._pass()
        seen = self._look(activity)
        self.changed = seen != self._seen
        if self.changed:
            self._seen = seen
            self._silence_s = 0.0
        return self._silence_s

    def conclude(self) -> None:
        """Take the last word of a command that has ended."""
        self._pass()
        found = fraction(self._told)
        if found is not None:
            self.value, self.total = map(str, found)
        elif self.kind == "log":
            self._last_match(last=True)
        elif self.kind in ("", "counter") and os.path.lexists(self.path):
            self.value = self._last_number() or self.value

    @property
    def fields(self) -> dict[str, str]:
        """What an attempt record says about it."""
        told = {"progress": self.value, "progress_total": self.total}
        return {name: value for name, value in told.items() if value is not None}

    def _pass(self) -> None:
        """Count the time since the last look as silent, for now.

        Not all of it if that was long ago: when this process was itself stopped, or its machine frozen or
        overloaded, the command may have been, too, and nobody was there to see it.
        """
        now = time.monotonic()
        self._silence_s += min(now - self._looked, self._unwatched_s)
        self.silence_s = max(self.silence_s, self._silence_s)
        self._looked = now

    def _look(self, activity: Activity) -> object:
        if self.kind == "counter":
            self.value = self._last_number() or self.value
            return self.value
        if self.kind == "log":
            return self._last_match()
        if self.kind == "file":
            return _signature(self.path)
        # Less than before: one of the processes has ended, which is a sign of life, too.
        if not 0.0 <= activity.cpu_s - self._cpu_s <= _WEAK_CPU_S:
            self._cpu_s = activity.cpu_s
            self._signs += 1
        if not 0 <= activity.io_bytes - self._bytes <= _WEAK_BYTES:
            self._bytes = activity.io_bytes
            self._signs += 1
        self.value = self._last_number() or self.value
        return (self._signs, _signature(self.path), _signature(self.log))

    def _last_number(self) -> str | None:
        found = fraction(self.path) if self.path == self._told else None
        if found is not None:
            self.total = str(found[1])
            return str(found[0])
        import re

        try:
            with open(self.path, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                numbers = re.findall(rb"-?\d+(?:\.\d+)?", file.read())
        except OSError:
            return None
        return numbers[-1].decode() if numbers else None

    def _last_match(self, *, last: bool = False) -> object:
        assert self.pattern is not None
        try:
            with open(self.log, "rb") as file:
                if last:
                    self._offset = max(self._offset, os.fstat(file.fileno()).st_size - _CHUNK)
                file.seek(self._offset)
                text = file.read(_CHUNK)
        except OSError:
            return self._seen
        # Progress bars end their lines with a carriage return.
        whole = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
        if whole == 0 and len(text) == _CHUNK:
            whole = len(text)
        if whole == 0:
            return self._seen
        self._offset += whole
        found = None
        for found in self.pattern.finditer(text[:whole]):  # noqa: B007
            pass
        if found is None:
            return self._seen
        if self.pattern.groups:
            self.value = (found.group(1) or b"").decode("utf-8", "replace")
            return self.value
        return self._offset


def fraction(path: str) -> tuple[int, int] | None:
    """What a progress file says if it is one line ``current total`` of two whole numbers, else None."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, 256)
    except OSError:
        return None
    finally:
        os.close(fd)
    words = text.split()
    if len(words) != 2 or not (words[0].isdigit() and words[1].isdigit()) or b"\n" in text.strip():
        return None
    return int(words[0]), int(words[1])


def _signature(path: str) -> tuple[int, int] | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_size, info.st_mtime_ns
