"""The stall limit of a command: set by its rule or the configuration, else learnt from its rule's history."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Event = Literal["published", "doubted", "hung"]

DEFAULT_S = 1800.0
_SHORTEST_S = 2.0
"""No limit is learnt below this, whatever the time scale: how long a machine is busy does not scale."""


class Stall:
    """How long a command may go without progress before it counts as hanging.

    ``most_s`` is the limit that holds without a history (None: there is none), ``source`` who set it:
    ``declared``, ``configured``, ``default`` or other words for it.
    """

    def __init__(self, most_s: float | None, source: str, history: History | None = None) -> None:
        self.most_s = most_s
        self.source = source
        self.history = history
        self.limit_s: float | None = None
        """The limit that was exceeded; None if none was."""

    @property
    def least_s(self) -> float | None:
        """The shortest limit that may come to hold."""
        if self.most_s is None or self.history is None:
            return self.most_s
        return min(self.most_s, self.history.floor_s)

    def exceeded(self, silence_s: float, *, blocked: bool) -> str | None:
        """Which limit a silence has exceeded, in words; None if it has not.

        A command that is ``blocked`` in the kernel (state D: a disk, a network file system) is not to blame
        for it, so what it did on better days does not apply: the default does.
        """
        if self.most_s is None:
            return None
        if silence_s >= self.most_s:
            self.limit_s = self.most_s
            if self.history is not None:
                self.history.note("hung", silence_s)
            return f"its limit of {self.most_s:g} s is {_WHOSE.get(self.source, self.source)}"
        if self.history is None or blocked or silence_s < self.history.floor_s:
            return None
        learnt = self.history.limit()
        if learnt is None or silence_s < learnt[0]:
            return None
        self.limit_s, self.source = learnt[0], "learnt"
        self.history.note("doubted", silence_s)
        limit = f"{round(learnt[0], 1):g} s"
        return f"its limit of {limit} is learnt from {learnt[1]} published attempts of the rule"

    def published(self, silence_s: float) -> None:
        """Learn from an attempt whose longest silence proved to be healthy."""
        if self.history is not None:
            self.history.published(silence_s)


_WHOSE = {"declared": "the rule's own", "configured": "the configured one", "default": "the default"}


class History:
    """The silences of a rule's attempts in one run, in a file that its guards append to.

    A line is ``published|doubted|hung SECONDS TARGET``. `doubted` says that a learnt limit has just ended an
    attempt. Until its unit is published or hangs by the default limit, too, nobody knows who was right, and
    nothing learnt is applied to any unit of the rule.
    """

    def __init__(self, path: str, target: str, *, attempts: int, factor: float, floor_s: float) -> None:
        self.path = path
        self.target = target
        self.attempts = attempts
        self.factor = factor
        self.floor_s = max(floor_s, _SHORTEST_S)

    def limit(self) -> tuple[float, int] | None:
        """The limit in s and from how many published attempts; None while too few, or one is in doubt."""
        count, longest, doubted = self._read()
        if count < self.attempts or doubted:
            return None
        return max(self.factor * longest, self.floor_s), count

    def published(self, silence_s: float) -> None:
        """Note a healthy silence, if that teaches anything; so the file stays short."""
        count, longest, doubted = self._read()
        longer = silence_s > longest and self.factor * silence_s > self.floor_s
        if count < self.attempts or longer or self.target in doubted:
            self.note("published", silence_s)

    def note(self, event: Event, silence_s: float) -> None:
        """Append a line, in one write so that writers do not mix. One that is lost costs learning only."""
        # The line break comes first: it ends a torn line, too.
        data = f"\n{event} {silence_s:.1f} {self.target}".encode("utf-8", "surrogateescape")
        try:
            try:
                fd = os.open(self.path, _APPEND, 0o644)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(self.path), exist_ok=True)
                fd = os.open(self.path, _APPEND, 0o644)
            try:
                os.write(fd, data)
            finally:
                os.close(fd)
        except OSError:
            return

    def _read(self) -> tuple[int, float, set[str]]:
        """How many attempts were published, their longest silence in s, and the targets in doubt."""
        try:
            with open(self.path, encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read(_MOST).split("\n")
        except OSError:
            return 0, 0.0, set()
        count, longest, doubted = 0, 0.0, set()
        for line in lines:
            event, _, rest = line.partition(" ")
            number, _, target = rest.partition(" ")
            try:
                silence = float(number)
            except ValueError:
                continue
            if event == "doubted":
                doubted.add(target)
            elif event in ("published", "hung"):
                doubted.discard(target)
            if event == "published" and 0.0 <= silence < _ENDLESS_S:
                count += 1
                longest = max(longest, silence)
        return count, longest, doubted


_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_MOST = 1 << 20
_ENDLESS_S = 1e9
