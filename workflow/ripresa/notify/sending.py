"""Follows the events of a run and sends those that are wanted, each once, in their order."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ripresa.journal import clock, processes, records
from ripresa.journal.events import emit
from ripresa.journal.paths import Run
from ripresa.notify import channels, documents

LOOK_S = 0.5
LAST_S = 600.0
"""How long what is left is sent after the end of the controller; the rest waits for the next one."""

_BLOCK = 1 << 20


class Sender:
    """Sends until its controller is gone and nothing is left. One at a time works on a run."""

    def __init__(self, run: Run, told: Mapping[str, Any]) -> None:
        """``told``: ``controller`` (an owner), ``events`` (what is wanted), ``command`` and ``webhook``."""
        self._run = run
        self._controller = told["controller"]
        self._wanted = frozenset(told["events"])
        self._channels = channels.wanted(told)
        self._sent: set[str] = set()
        self._offset = 0

    def work(self) -> None:
        """Send until the end; another one that still works for an earlier controller ends first."""
        lock = os.open(f"{self._run.notified}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with contextlib.suppress(OSError):  # without kernel locks something may be sent twice
                fcntl.flock(lock, fcntl.LOCK_EX)
            self._recall()
            while not self._look():
                time.sleep(LOOK_S)
        finally:
            os.close(lock)

    def _look(self) -> bool:
        """Send what is new; whether it was the last look."""
        last = processes.alive(self._controller) is False
        until = time.monotonic() + LAST_S
        for line, end in self._lines():
            self._take(line, end)
            if last and time.monotonic() > until:
                break
        return last

    def _recall(self) -> None:
        for record in records.iterate(self._run.notified):
            if isinstance(record.get("offset"), int):
                self._offset = record["offset"]
            if isinstance(record.get("id"), str):
                self._sent.add(record["id"])

    def _lines(self) -> Iterator[tuple[bytes, int]]:
        """The whole lines after the last look, each with the offset of its end."""
        try:
            with open(self._run.events, "rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._offset = 0  # the file was replaced; what was sent is known by its id
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    self._offset += len(line)
                    yield line, self._offset
        except OSError:
            return

    def _take(self, line: bytes, end: int) -> None:
        event = records.parse(line)
        name = documents.name_of(event) if event else None
        if event is None or name not in self._wanted:
            return
        identity = documents.identity(self._run, line)
        if identity in self._sent:
            return
        document = documents.document(self._run, str(name), identity, event)
        for channel in self._channels:
            problem = channel.send(document)
            if problem:
                emit(
                    self._run,
                    "notification_failed",
                    event=name,
                    id=identity,
                    channel=channel.name,
                    problem=problem,
                )
        self._sent.add(identity)
        with contextlib.suppress(OSError):
            note = {"id": identity, "event": name, "ts": clock.iso(), "offset": end}
            records.append(self._run.notified, note)
