"""Progress of a running command: the sign of life that its rule declares, or the weak ones of any process."""

from __future__ import annotations

import os
import time

_WEAK_CPU_S = 0.05


class Progress:
    """Watches one source: ``file:PATH``, ``counter:PATH`` or ``log:REGEX``; without one, all weak signs.

    - ``file``: the file's size or modification time changes.
    - ``counter``: the last number in the file changes.
    - ``log``: a new line of the command's log matches, and its first group (if any) changes.
    - none: the log grows, ``$RIPRESA_PROGRESS`` changes, or the process group uses CPU time.
    """

    def __init__(self, source: str | None, log: str, default_file: str) -> None:
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
        self.what = source or "no output, no progress file, no CPU time"
        self.value: str | None = None
        """The newest counter or matched text."""
        self.total: str | None = None
        """What the counter counts up to, if ``$RIPRESA_PROGRESS`` holds ``current total``."""
        self._told = default_file
        self._seen: object = None
        self._offset = 0
        self._cpu_s = 0.0
        self._since = time.monotonic()
        self.changed = False
        """Whether `idle` saw progress the last time."""

    def idle(self, cpu_s: float) -> float:
        """Seconds without progress; ``cpu_s`` is what the group has used so far."""
        seen = self._look(cpu_s)
        self.changed = seen != self._seen
        if self.changed:
            self._seen = seen
            self._since = time.monotonic()
        return time.monotonic() - self._since

    def conclude(self) -> None:
        """Take the last word of a command that has ended, if it is ``current total``."""
        found = fraction(self._told)
        if found is not None:
            self.value, self.total = map(str, found)

    def _look(self, cpu_s: float) -> object:
        if self.kind == "counter":
            self.value = self._last_number() or self.value
            return self.value
        if self.kind == "log":
            return self._last_match()
        if self.kind == "file":
            return _signature(self.path)
        if cpu_s - self._cpu_s > _WEAK_CPU_S or cpu_s < self._cpu_s:
            self._cpu_s = cpu_s
        self.value = self._last_number() or self.value
        return (self._cpu_s, _signature(self.path), _signature(self.log))

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

    def _last_match(self) -> object:
        assert self.pattern is not None
        try:
            with open(self.log, "rb") as file:
                file.seek(self._offset)
                text = file.read(1 << 22)
        except OSError:
            return self._seen
        whole = text.rfind(b"\n") + 1
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
