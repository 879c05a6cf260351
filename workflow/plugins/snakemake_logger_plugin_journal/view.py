"""What the user sees: one line for what happened to a job, and on a terminal the live view below."""

import logging
import time
from collections import Counter
from typing import TextIO

from snakemake.logging import ColorizingTextHandler
from snakemake.settings.enums import Quietness

from snakemake_logger_plugin_journal.board import Board, Failure, Job
from snakemake_logger_plugin_journal.footer import Footer
from snakemake_logger_plugin_journal.text import clean, duration

_MAX_EVIDENCE = 200


class Lines:
    """Plain lines on a stream; whatever has no line of its own goes through Snakemake's handler."""

    def __init__(self, stream: TextIO, board: Board, formatter: logging.Formatter, nocolor: bool) -> None:
        self._stream = stream
        self._board = board
        self._snakemake = ColorizingTextHandler(nocolor=bool(nocolor), stream=stream, formatter=formatter)

    def verbatim(self, record: logging.LogRecord) -> None:
        """Show a record as Snakemake itself does."""
        self._snakemake.emit(record)

    def done(self, job: Job, ended: float) -> None:
        self._say("done", f"{job.name}  {duration(ended - job.since)}")

    def failed(self, job: Job) -> None:
        """Show how the guard of a job judged its failure."""
        target = job.target or job.name
        wait = self._board.waiting.get(target)
        if wait:
            seconds = (wait.not_before or 0) - time.time()
            when = f"in {duration(seconds)}" if seconds > 0 else "at once"
            self._say(f"retry {when}", f"{job.name}  {describe(wait)}", ColorizingTextHandler.YELLOW)
        elif target in self._board.failures:
            what = f"{job.name}  {describe(self._board.failures[target])}"
            self._say("failed", what, ColorizingTextHandler.RED)

    def end(self, failed: bool, summary: bool) -> None:
        """The last line of a run."""
        if not summary:
            return
        board = self._board
        parts = [f"in {duration(time.time() - board.began)}"]
        if board.failures:
            classes = Counter(failure.failure_class or "error" for failure in board.failures.values())
            counts = ", ".join(f"{name} {n}" for name, n in classes.most_common())
            parts.append(f"{len(board.failures)} failed ({counts})")
        if board.waiting:
            parts.append(f"{len(board.waiting)} waiting for a retry")
        if board.stopping:
            parts.append("stopped on request")
        color = ColorizingTextHandler.RED if failed else None
        self._say("ended" if failed else "all done", ", ".join(parts), color)

    def _say(self, what: str, text: str, color: int | None = None) -> None:
        width = len(str(self._board.total))
        now = time.strftime("%H:%M:%S")
        line = f"{now} [{self._board.done:>{width}}/{self._board.total}] {what:<5} {text}"
        if color is not None and not self._snakemake.nocolor:
            line = f"{ColorizingTextHandler.COLOR_SEQ % (30 + color)}{line}{ColorizingTextHandler.RESET_SEQ}"
        self._stream.write(line + "\n")
        self._stream.flush()


class LiveLines(Lines):
    """Lines above a live view in the bottom rows of the terminal. What is done only counts up there."""

    def __init__(self, stream: TextIO, board: Board, formatter: logging.Formatter, nocolor: bool) -> None:
        super().__init__(stream, board, formatter, nocolor)
        self._footer = Footer(stream)

    @staticmethod
    def possible(stream: TextIO, quiet: object) -> bool:
        """Whether a stream is a terminal that can do it, and the user wants to see progress."""
        silent = isinstance(quiet, set | frozenset | list | tuple) and (
            Quietness.PROGRESS in quiet or Quietness.ALL in quiet
        )
        return not silent and Footer.possible(stream)

    def done(self, job: Job, ended: float) -> None:
        return

    def draw(self) -> None:
        """Bring the live view up to date."""
        from snakemake_logger_plugin_journal.panel import render

        columns, rows = self._footer.size()
        self._footer.draw(render(self._board, self._stream, columns, rows // 2, self._snakemake.nocolor))

    def end(self, failed: bool, summary: bool) -> None:
        self._footer.clear()
        super().end(failed, summary)


def describe(failure: Failure) -> str:
    """A failure in one line, e.g. ``(network, attempt 2): curl: (6) Could not resolve host``."""
    attempt = f", attempt {failure.attempt}" if failure.attempt else ""
    evidence = f": {clean(failure.evidence, _MAX_EVIDENCE)}" if failure.evidence else ""
    return f"({failure.failure_class}{attempt}){evidence}"
