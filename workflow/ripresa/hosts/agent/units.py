"""The folder of a unit on a host: the files of its one attempt, and what they say after any crash."""

from __future__ import annotations

import os

from ripresa.hosts.agent import folders
from ripresa.journal import records
from ripresa.journal.paths import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RESERVED = 1 << 16
"""Bytes that are kept free for the result, whatever fills the disk."""

IDENTITY = ("token", "target", "attempt", "digest", "session")
"""The fields that name an attempt, in the request, the lease and the result alike."""


def run_at(root: str, name: str) -> Run:
    """The paths of a run on this host."""
    run = Run(f"{root}/runs/{name}")
    run.leases = f"{run.dir}/leases"
    return run


def keys(run: Run) -> list[str]:
    """The units that have a folder, in order."""
    try:
        return sorted(name for name in os.listdir(f"{run.dir}/units") if not name.startswith("."))
    except FileNotFoundError:
        return []


class Unit:
    """The paths and files of a unit; nothing is created here."""

    def __init__(self, run: Run, key: str) -> None:
        self.run = run
        self.key = key
        self.folder = f"{run.dir}/units/{key}"
        self.lease = run.lease(key)
        self.request = self.folder + "/request.json"
        self.result = self.folder + "/result.json"
        self.status = self.folder + "/status.json"
        self.log = self.folder + "/log"
        self.outputs = self.folder + "/outputs.tar"
        self.work = self.folder + "/work"
        self.scratch = self.folder + "/scratch"
        self.tmp = self.folder + "/tmp"
        self.progress = self.folder + "/progress"
        self.bell = self.folder + "/bell"
        self._part = self.folder + "/result.part"

    def named(self) -> dict[str, Any]:
        """What was asked for; empty if there is nothing, or just what a crash left of it."""
        return _table(self.request)

    def ended(self) -> dict[str, Any]:
        """The result; empty while there is none, or if it is torn."""
        return _table(self.result)

    def reserve(self) -> None:
        """Take the space for the result, so that it can be written when the disk is full."""
        fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, RESERVED)
        finally:
            os.close(fd)

    def conclude(self, result: dict[str, Any]) -> None:
        """Write the result, durably and into the space that is reserved for it."""
        data = records.encode(result)
        fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.pwrite(fd, view, len(data) - len(view)) :]
            os.ftruncate(fd, len(data))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(self._part, self.result)
        folders.sync(self.folder)

    def make_bell(self) -> None:
        """Make the pipe that the supervisor holds open, so that who waits for the unit hears its end.

        Without one (not all file systems have them) they just look again from time to time.
        """
        try:
            os.mkfifo(self.bell, 0o600)
        except OSError:
            return

    def hold_bell(self) -> None:
        """Hold the bell open for the rest of this process's life."""
        try:
            os.open(self.bell, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return

    def listen(self) -> int | None:
        """Open the bell; a poll of it reports a hang-up once the supervisor that held it is gone."""
        try:
            return os.open(self.bell, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None


def _table(path: str) -> dict[str, Any]:
    told = records.read_json(path)
    return told if isinstance(told, dict) and isinstance(told.get("token"), str) else {}
