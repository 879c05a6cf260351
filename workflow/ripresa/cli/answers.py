"""What a command answers, as one JSON document or as text for people."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ripresa.journal import clock

STYLES = {
    **dict.fromkeys(("COMPLETED", "ok", "published", "adopted", "done", "stacked", "better"), "green"),
    **dict.fromkeys(
        ("FAILED", "QUARANTINED", "fail", "failed", "changed", "missing", "bad", "worse"), "bold red"
    ),
    **dict.fromkeys(
        ("WAITING", "STALE", "warn", "interrupted", "stopped", "excluded", "incomparable"), "yellow"
    ),
    **dict.fromkeys(("RUNNING", "running"), "bold cyan"),
    **dict.fromkeys(("SKIPPED", "skipped", "pending", "undecided"), "dim"),
}


class Refusal(Exception):
    """Ends a command with a message for people, one line a problem; ``code`` 2 is wrong usage, 1 all else.

    ``name`` is the stable name of the error for programs (docs/commands.md).
    """

    def __init__(self, message: str, code: int = 2, name: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.name = name or ("USAGE" if code == 2 else "FAILED")

    @property
    def document(self) -> dict[str, Any]:
        """The error as ``--json`` has it."""
        return {"error": {"code": self.name, "message": str(self)}}


class Table(NamedTuple):
    """Rows of text under a heading; the last column may be long."""

    heading: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Answer(NamedTuple):
    """``document`` is the JSON, ``text`` makes the same for people; ``errors`` go to stderr, line by line."""

    document: Any
    text: Callable[[], Iterable[str | Table]]
    code: int = 0
    errors: tuple[str, ...] = ()


def show(answer: Answer, *, json: bool) -> None:
    """Print an answer on stdout: as JSON, with colours on a terminal, else as plain text."""
    if json:
        print(_json(answer.document))
    elif sys.stdout.isatty():
        _decorate(answer.text())
    else:
        for line in _plain(answer.text()):
            print(line)


def lasted(seconds: float) -> str:
    """A duration in the two units that matter: ``48 s``, ``3 min 5 s``, ``2 h 10 min``, ``4 d 1 h``."""
    if seconds < 60:
        return f"{max(seconds, 0.0):.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    for size, unit, smaller, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            return f"{whole} {unit} {rest // smaller} {part}"
    return ""


def local(text: Any) -> str:
    """A time of the journal for people: local, to the second."""
    since = clock.seconds(text)
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since)) if since else "?"


def count(number: int, word: str) -> str:
    """``1 unit``, ``2 units``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def cut(rows: list[Any], limit: int) -> tuple[list[Any], int]:
    """The first rows of a long list, and how many are left out; a single one never is."""
    return (rows, 0) if len(rows) <= limit + 1 else (rows[:limit], len(rows) - limit)


def _json(document: Any) -> str:
    import json

    try:
        return json.dumps(document, allow_nan=False)
    except ValueError:  # not a number, from a record that was tampered with; the journal writes null
        from ripresa.journal import records

        return records.dumps(document)


def _plain(parts: Iterable[str | Table]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
            continue
        rows = [part.heading, *part.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _decorate(parts: Iterable[str | Table]) -> None:
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = Console(highlight=False)
    for part in parts:
        if isinstance(part, str):
            console.print(Text(part))
            continue
        grid = Grid(box=None, pad_edge=False, header_style="bold")
        for name in part.heading:
            grid.add_column(name, overflow="fold")
        for row in part.rows:
            grid.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        console.print(grid)
