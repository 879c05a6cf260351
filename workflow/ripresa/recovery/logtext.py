"""A log as the classifier reads it: its two ends, line by line, searchable in linear time."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from ripresa.recovery.rules import Pattern, words

HEAD = TAIL = 256 * 1024  # characters of a log that are read: causes stand at its ends
SPAN = 300  # characters before and after a literal that a pattern sees of an overlong line
TRIES = 100  # places where one literal is looked at before the search goes on in the last 64 kB
QUOTED = 1000  # characters of a line that are quoted as evidence

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
# Who wrote a line and when: CI runners, ranks of a parallel job.
_PREFIX = re.compile(
    r"(?:\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,\d]*(?:Z|[+-]\d\d:?\d\d)?\]?\s"
    r"|\[?(?:rank ?)?\d{1,5}\]:?\s?|##\[error\])+",
    re.IGNORECASE,
)
_PYTHON_FRAME = re.compile(r'(?P<indent>.{0,80}?)File ".{1,300}", line \d+')
# Stack frames of the JVM and of Node, marks below a column, commands echoed by `set -x`.
_FRAME = re.compile(r"\s{1,40}at [\w.$<>/]+ ?\(.*\)\s*$|\s{0,200}\^[\s^~]*$|\+{1,4} \S")
_HANDLED = "during handling of the above exception, another exception"


class Log:
    """`lines` are verbatim; `clean` are the same without colours, time stamps and quoted program code."""

    def __init__(self, text: str) -> None:
        if len(text) > HEAD + TAIL:
            text = text[:HEAD] + "\n" + text[-TAIL:]
        self.lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self.clean = list(_without_code(map(_plain, self.lines)))
        lowered = [line.lower() for line in self.clean]
        self._text = "\n".join(lowered)
        self._starts = [0]
        for line in lowered:
            self._starts.append(self._starts[-1] + len(line) + 1)
        self._words = "\n".join(set(words(self._text)))
        self._has_word: dict[str, bool] = {}
        handled = self._text.rfind(_HANDLED)
        self.handled_before = self._line_at(handled) if handled >= 0 else 0
        """Exceptions above this line were caught, though the handler failed in its turn."""

    def find(self, pattern: Pattern) -> Iterator[int]:
        """Yield the number of every line that matches, some of them twice."""
        if not pattern.literals:
            yield from (number for number, line in enumerate(self.clean) if pattern.matches(line))
        for literal, word in pattern.literals:
            if word not in self._has_word:
                self._has_word[word] = word in self._words
            if self._has_word[word]:
                yield from self._find_around(literal, pattern)

    def _find_around(self, literal: str, pattern: Pattern) -> Iterator[int]:
        tries = 0
        position = self._text.find(literal)
        while position >= 0:
            tries += 1
            number = self._line_at(position)
            column = position - self._starts[number]
            after = self._starts[number + 1]
            if pattern.matches(self.clean[number], max(0, column - SPAN), column + SPAN):
                yield number
            else:
                after = min(position + SPAN, after)
            if tries == TRIES:
                after = max(after, len(self._text) - 64 * 1024)
            position = self._text.find(literal, after)

    def contains(self, patterns: Iterable[Pattern]) -> bool:
        """Whether any line matches any of the patterns."""
        return any(True for pattern in patterns for _ in self.find(pattern))

    def quote(self, number: int) -> str:
        """A line, verbatim but for blanks at its ends and what is beyond `QUOTED` characters."""
        return self.lines[number].strip()[:QUOTED].rstrip()

    def last(self) -> str:
        """The last line that is not blank; empty if there is none."""
        return next((self.quote(-1 - n) for n, line in enumerate(reversed(self.lines)) if line.strip()), "")

    def _line_at(self, position: int) -> int:
        return bisect_right(self._starts, position) - 1


def _plain(line: str) -> str:
    if "\x1b" in line:
        line = _COLOURS.sub("", line)
    return line[prefix.end() :] if (prefix := _PREFIX.match(line)) else line


def _without_code(lines: Iterable[str]) -> Iterator[str]:
    """Blank the lines that quote a program: they hold names like `timeout` and `raise ConnectionError`."""
    indent: str | None = None
    for line in lines:
        frame = _PYTHON_FRAME.match(line) if 'File "' in line else None
        # The source line of a Python frame stands right below it, indented by two more.
        source = indent is not None and line.startswith(indent + "  ")
        indent = frame["indent"] if frame else None
        yield "" if frame or source or (line[:1] in (" ", "\t", "+") and _FRAME.match(line)) else line
