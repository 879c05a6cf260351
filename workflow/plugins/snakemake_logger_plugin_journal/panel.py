"""The live view of a board as lines of text, drawn with rich."""

import socket
import time
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ripresa.journal.phases import Phase
from snakemake_logger_plugin_journal.board import Board, Failure, Job
from snakemake_logger_plugin_journal.text import clean, duration, end_of

Row = tuple[Text, Text, Text, Text]

_MAX_RUNNING, _MAX_WAITING, _MAX_FAILED, _MAX_BREAKERS = 6, 4, 3, 2
_ETA_FROM = 3
_HOST = socket.gethostname()


def render(board: Board, stream: TextIO, columns: int, height: int, nocolor: bool) -> list[str]:
    """At most ``height`` lines, each less than ``columns`` wide."""
    console = Console(
        file=stream,
        force_terminal=True,
        no_color=nocolor or None,
        width=columns - 1,
        highlight=False,
        markup=False,
        emoji=False,
    )
    now = time.time()
    rows = list(_rows(board, now, columns // 2))
    if len(rows) > height - 1:
        rows = [*rows[: height - 2], _note(f"… and {len(rows) - height + 2} lines more")]
    grid = Table.grid(padding=(0, 2), expand=True)
    for index in range(3):
        grid.add_column(no_wrap=True, width=max((len(row[index]) for row in rows), default=0))
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        grid.add_row(*row)
    with console.capture() as capture:
        console.print(_headline(board, now))
        if rows:
            console.print(grid)
    return [line for line in capture.get().split("\n") if line]


def _headline(board: Board, now: float) -> Table:
    elapsed = now - board.began
    counts = {"running": len(board.executing()), "waiting": len(board.waiting), "failed": len(board.failures)}
    parts = [f"{board.done}/{board.total}"]
    if board.total:
        parts.append(f"{board.done / board.total:.0%}")
    parts += [f"{count} {name}" for name, count in counts.items() if count]
    parts.append(f"elapsed {duration(elapsed)}")
    if board.stopping:
        parts.append("stopping: nothing new starts")
    elif _ETA_FROM <= board.done < board.total:
        parts.append(f"ETA {duration(elapsed * (board.total - board.done) / board.done)}")
    line = Table.grid(padding=(0, 2))
    line.add_column()
    line.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    bar = ProgressBar(total=max(1, board.total), completed=board.done, width=24, complete_style="green")
    line.add_row(bar, Text("  ".join(parts), "bold"))
    return line


def _rows(board: Board, now: float, width: int) -> Iterator[Row]:
    """Rows of what, which (at most ``width`` wide), when and why."""

    def row(what: str, style: str, name: str, when: str, why: str) -> Row:
        return Text(what, style), Text(end_of(clean(name), width)), Text(when), Text(why)

    for phase in board.phases.open() if board.phases else ():
        current, total = phase.progress()
        far = f"{current}/{total}  {current / total:.0%}" if total else ""
        yield row("phase", "green", f"{phase.number} {phase.name}", duration(_since(phase)), far)
    jobs = board.executing()
    for job in jobs[:_MAX_RUNNING]:
        yield row("running", "cyan", job.name, duration(now - job.since), _about(job))
    yield from _more(len(jobs) - _MAX_RUNNING, "running")
    waits = sorted(board.waiting.items(), key=lambda item: item[1].not_before or 0)
    for name, wait in waits[:_MAX_WAITING]:
        yield row("waiting", "yellow", name, _left(wait.not_before or 0, now, "due"), _why(wait))
    yield from _more(len(waits) - _MAX_WAITING, "waiting")
    failures = list(board.failures.items())
    for name, failure in failures[-_MAX_FAILED:]:
        yield row("failed", "red", name, "", _why(failure))
    yield from _more(len(failures) - _MAX_FAILED, "failed")
    for scope, until in list(board.breakers.items())[:_MAX_BREAKERS]:
        yield row("held back", "magenta", scope, _left(until, now, "probing"), "kept failing: breaker open")
    yield from _more(len(board.breakers) - _MAX_BREAKERS, "held back")


def _since(phase: Phase) -> float:
    return time.monotonic() - (phase.began or 0.0)


def _more(hidden: int, what: str) -> Iterator[Row]:
    if hidden > 0:
        yield _note(f"… and {hidden} more {what}")


def _note(text: str) -> Row:
    return Text(""), Text(text, "dim"), Text(""), Text("")


def _left(moment: float, now: float, past: str) -> str:
    return f"in {duration(moment - now)}" if moment > now else past


def _about(job: Job) -> str:
    attempt = f"attempt {job.attempt}" if job.attempt and job.attempt > 1 else ""
    host = f"on {job.host}" if job.host and job.host != _HOST else ""
    return "  ".join(filter(None, (clean(job.progress), attempt, host)))


def _why(failure: Failure) -> str:
    attempt = f", attempt {failure.attempt}" if failure.attempt else ""
    evidence = f": {clean(failure.evidence)}" if failure.evidence else ""
    return f"{failure.failure_class or 'see above'}{attempt}{evidence}"
