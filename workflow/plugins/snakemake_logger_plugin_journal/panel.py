"""The live view of a board as lines of text, drawn with rich."""

import socket
import time
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from snakemake_logger_plugin_journal.board import Board, Failure, Job
from snakemake_logger_plugin_journal.text import clean, duration

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
    grid = Table.grid(padding=(0, 2))
    for ratio in (None, None, None, 1):
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=ratio)
    rows = list(_rows(board, now))
    if len(rows) > height - 1:
        rows = [*rows[: height - 2], ("", "", "", Text(f"… {len(rows) - height + 2} more", "dim"))]
    for row in rows:
        grid.add_row(*row)
    with console.capture() as capture:
        console.print(_headline(board, now))
        if rows:
            console.print(grid)
    return [line for line in capture.get().split("\n") if line]


def _headline(board: Board, now: float) -> Table:
    elapsed = now - board.began
    parts = [f"{board.done}/{board.total}", f"{board.done / board.total:.0%}" if board.total else ""]
    if board.stopping:
        parts.append("stopping: no new jobs")
    elif _ETA_FROM <= board.done < board.total:
        parts.append(f"ETA {duration(elapsed * (board.total - board.done) / board.done)}")
    parts.append(f"elapsed {duration(elapsed)}")
    counts = {"running": len(board.running), "waiting": len(board.waiting), "failed": len(board.failures)}
    parts += [f"{count} {name}" for name, count in counts.items() if count]
    line = Table.grid(padding=(0, 2))
    line.add_column()
    line.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    bar = ProgressBar(total=max(1, board.total), completed=board.done, width=24)
    line.add_row(bar, Text("  ".join(filter(None, parts)), "bold"))
    return line


def _rows(board: Board, now: float) -> Iterator[tuple[str | Text, ...]]:
    jobs = sorted(board.running.values(), key=lambda job: job.since)
    for job in jobs[:_MAX_RUNNING]:
        yield Text("running", "cyan"), job.name, duration(now - job.since), _about(job)
    yield from _more(jobs, _MAX_RUNNING, "running")
    waits = sorted(board.waiting.items(), key=lambda item: item[1].not_before or 0)
    for name, wait in waits[:_MAX_WAITING]:
        left = (wait.not_before or 0) - now
        due = f"in {duration(left)}" if left > 0 else "due"
        yield Text("waiting", "yellow"), clean(name, 200), due, _why(wait)
    yield from _more(waits, _MAX_WAITING, "waiting")
    failures = list(board.failures.items())
    for name, failure in failures[-_MAX_FAILED:]:
        yield Text("failed", "red"), clean(name, 200), "", _why(failure)
    yield from _more(failures, _MAX_FAILED, "failed")
    for scope, until in list(board.breakers.items())[:_MAX_BREAKERS]:
        open_for = f"for {duration(until - now)}" if until > now else "until a probe"
        yield Text("held back", "magenta"), clean(scope, 200), open_for, "too many failures in a row"
    yield from _more(list(board.breakers), _MAX_BREAKERS, "held back")


def _more(items: list, shown: int, what: str) -> Iterator[tuple[str | Text, ...]]:
    if len(items) > shown:
        yield "", Text(f"… and {len(items) - shown} more {what}", "dim"), "", ""


def _about(job: Job) -> str:
    attempt = f"attempt {job.attempt}" if job.attempt and job.attempt > 1 else ""
    host = f"on {job.host}" if job.host and job.host != _HOST else ""
    return clean("  ".join(filter(None, (job.progress, attempt, host))), 80)


def _why(failure: Failure) -> str:
    attempt = f", attempt {failure.attempt}" if failure.attempt else ""
    evidence = f": {clean(failure.evidence, 160)}" if failure.evidence else ""
    return f"{failure.failure_class or 'see above'}{attempt}{evidence}"
