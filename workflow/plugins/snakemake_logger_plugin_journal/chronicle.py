"""The event file of a run, from the controller's side: its own events written, the guards' followed."""

import os
import socket
import time
from typing import Any

from ripresa.journal import records
from ripresa.journal.events import emit
from ripresa.journal.paths import Run
from snakemake_logger_plugin_journal.board import Board

_HISTORY = 1 << 20
_MAX_MESSAGE = 4000


class Chronicle:
    """Writes what only the controller knows: start, stop, errors and end of the run (contract C5)."""

    def __init__(self, run: Run, session: str) -> None:
        self._run = run
        self._session = session
        self._began = 0.0
        self._resumed = _size(run.events) > 0

    def _emit(self, type: str, **fields: Any) -> None:
        emit(self._run, type, session=self._session, **fields)

    def start(self, jobs: int, from_phase: int | None = None) -> None:
        """``run_start``, or ``run_resume`` if an earlier session left events.

        ``from_phase`` is the number of the first phase that runs, where the run has phases.
        """
        self._began = time.monotonic()
        type = "run_resume" if self._resumed else "run_start"
        phase = {} if from_phase is None else {"from_phase": from_phase}
        self._emit(type, pid=os.getpid(), host=socket.gethostname(), jobs=jobs, **phase)

    def stop_requested(self, mode: str) -> None:
        """``mode``: ``drain`` (running jobs may finish) or ``cancel``."""
        self._emit("run_stop_requested", mode=mode)

    def error(self, exception: str | None, message: str) -> None:
        self._emit("run_error", exception=exception, message=message[:_MAX_MESSAGE])

    def end(self, board: Board, status: str) -> None:
        """``status``: ``ok`` or ``failed``."""
        counts = {
            "total": board.total,
            "done": board.done,
            "failed": len(board.failures),
            "waiting": len(board.waiting),
        }
        seconds = round(time.monotonic() - self._began, 3)
        self._emit("run_end", status=status, counts=counts, seconds=seconds, stopped=board.stopping)


class Follower:
    """Reads a growing file of JSON lines: what was there at the beginning, and then what is new."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._offset = self._end_of_history = _size(path)
        self._rest = b""

    def history(self) -> list[dict[str, Any]]:
        """The records there were at the beginning; of a long file only the last megabyte."""
        begin = max(0, self._end_of_history - _HISTORY)
        return _parse(self._read(begin, self._end_of_history - begin))

    def news(self) -> list[dict[str, Any]]:
        """The records since the last call. A line still being written waits for its end."""
        size = _size(self._path)
        if size < self._offset:  # the file was replaced
            self._offset, self._rest = 0, b""
        if size <= self._offset:
            return []
        data = self._read(self._offset, size - self._offset)
        self._offset += len(data)
        whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
        return _parse(whole + newline)

    def _read(self, offset: int, length: int) -> bytes:
        try:
            with open(self._path, "rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError:
            return b""


def _parse(data: bytes) -> list[dict[str, Any]]:
    return [record for line in data.splitlines() if (record := records.parse(line)) is not None]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
