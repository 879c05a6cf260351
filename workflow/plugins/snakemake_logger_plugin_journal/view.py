"""What the user sees: one line for what happened to a job, and on a terminal the live view below."""

import logging
import time
from collections import Counter
from typing import TextIO

from snakemake.logging import ColorizingTextHandler, DefaultFormatter
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.settings import OutputSettingsLoggerInterface

from snakemake_logger_plugin_journal.board import Board, Failure, Job
from snakemake_logger_plugin_journal.footer import Footer
from snakemake_logger_plugin_journal.text import clean, duration

_TAIL_LINES, _TAIL_BYTES = 15, 16 * 1024


class Lines:
    """Plain lines on a stream; whatever has no line of its own goes through Snakemake's handler."""

    def __init__(self, stream: TextIO, board: Board, settings: OutputSettingsLoggerInterface) -> None:
        self._stream = stream
        self._board = board
        self._silent = silent(settings)
        self._shown: dict[str, Failure] = {}
        formatter = DefaultFormatter(settings.quiet, settings.show_failed_logs)
        self._snakemake = ColorizingTextHandler(settings.nocolor, stream, formatter)

    def verbatim(self, record: logging.LogRecord) -> None:
        """Show a record as Snakemake itself does."""
        self._snakemake.emit(record)

    def done(self, job: Job, ended: float) -> None:
        self._say("done", f"{job.name}  {duration(ended - job.since)}")

    def failed(self, job: Job, log: str | None) -> None:
        """Show how the guard judged an attempt, once, with the end of its log."""
        wait = self._board.waiting.get(job.name)
        failure = wait or self._board.failures.get(job.name)
        if failure is None or self._shown.get(job.name) == failure:
            return
        self._shown[job.name] = failure
        if wait:
            seconds = (wait.not_before or 0) - time.time()
            what = f"retry in {duration(seconds)}" if seconds > 0 else "retry at once"
        else:
            what = "failed"
        for line in log_tail(log) if log else ():
            self._stream.write(f"    {line}\n")
        color = ColorizingTextHandler.YELLOW if wait else ColorizingTextHandler.RED
        self._say(what, f"{job.name}  {describe(failure)}", color)

    def end(self, failed: bool) -> None:
        """The last line of a run."""
        if self._silent:
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

    def __init__(self, stream: TextIO, board: Board, settings: OutputSettingsLoggerInterface) -> None:
        super().__init__(stream, board, settings)
        self._footer = Footer(stream)

    @staticmethod
    def possible(stream: TextIO, settings: OutputSettingsLoggerInterface) -> bool:
        """Whether a stream is a terminal that can do it, and the user wants to see progress."""
        return not silent(settings) and Footer.possible(stream)

    def done(self, job: Job, ended: float) -> None:
        return

    def draw(self) -> None:
        """Bring the live view up to date."""
        from snakemake_logger_plugin_journal.panel import render

        columns, rows = self._footer.size()
        self._footer.draw(render(self._board, self._stream, columns, rows // 2, self._snakemake.nocolor))

    def end(self, failed: bool) -> None:
        self._footer.clear()
        super().end(failed)


def describe(failure: Failure) -> str:
    """A failure in one line, e.g. ``(network, attempt 2): curl: (6) Could not resolve host``."""
    attempt = f", attempt {failure.attempt}" if failure.attempt else ""
    evidence = f": {clean(failure.evidence)}" if failure.evidence else ""
    return f"({failure.failure_class}{attempt}){evidence}"


def log_tail(path: str) -> list[str]:
    """The last lines of a log, headed by its path; of lines written over with ``\\r``, what remained.

    Nothing for an empty log.
    """
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    lines = [clean(line.rstrip("\r").rpartition("\r")[2]) for line in text.rstrip().split("\n") if line]
    if not lines:
        return []
    return [f"the end of {path}:", *(f"| {line}" for line in lines[-_TAIL_LINES:])]


def silent(settings: OutputSettingsLoggerInterface) -> bool:
    """Whether the user asked not to see progress."""
    return bool({Quietness.PROGRESS, Quietness.ALL} & set(settings.quiet or ()))
