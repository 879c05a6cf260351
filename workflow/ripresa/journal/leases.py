"""Leases: the exclusive right to execute a unit, held by a live process.

A lease is a kernel lock on a small file that names its owner. The command of the unit inherits the
open file, so the lock outlives a killed guard for as long as anything of its command still runs, and
a unit is never executed twice at a time. Where the file system has no kernel locks, the file's
existence is the lock and its modification time the heartbeat.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from ripresa.journal import processes, records
from ripresa.journal.paths import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEARTBEAT_S = 5.0
EXPIRED_S = 120.0
"""Without kernel locks, an owner on another host that has not beaten for this long is gone."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class Lease:
    """A lease that this process holds; ``fd`` is what the command inherits."""

    def __init__(self, path: str, fd: int, previous: dict[str, Any] | None) -> None:
        self.path = path
        self.fd = fd
        self.previous = previous
        """The owner found in the file: one that ended without giving its lease back."""

    def write(self, owner: dict[str, Any]) -> None:
        """Say who holds the lease and what it runs."""
        data = records.dumps(owner).encode()
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, data, 0)

    def beat(self) -> None:
        """Show that the holder is alive."""
        os.utime(self.fd)

    def release(self) -> None:
        """Give the lease back, also for processes that inherited it."""
        if os.path.exists(self.path):
            os.unlink(self.path)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        os.close(self.fd)


def owner(path: str) -> dict[str, Any] | None:
    """Who is named in a lease file; None if there is none or its text is torn."""
    named = records.read_json(path)
    return named if isinstance(named, dict) else None


def acquire(run: Run, target: str) -> Lease | None:
    """Take the lease of a target, or return None if a live process holds it."""
    path = run.lease(target)
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            os.makedirs(run.leases, exist_ok=True)
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return None
            if error.errno in _NO_LOCKS:
                return _acquire_without_locks(path)
            raise
        # The file may have been given back and removed between opening and locking it.
        if _same_file(fd, path):
            return Lease(path, fd, owner(path) if os.fstat(fd).st_size else None)
        os.close(fd)


def _same_file(fd: int, path: str) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _acquire_without_locks(path: str) -> Lease | None:
    """Take a lease where only the creation and renaming of files are atomic."""
    try:
        info = os.stat(path)
    except FileNotFoundError:
        info = None
    previous = None
    # An empty file was made just now by the attempt to lock it, or by someone about to write a name.
    if info is not None and info.st_size:
        previous = owner(path) or {}
        if not _gone(previous, info.st_mtime):
            return None
    if info is not None:
        if not info.st_size and time.time() - info.st_mtime < HEARTBEAT_S and not _mine(path):
            return None
        stale = f"{path}.{os.uname().nodename}.{os.getpid()}"
        try:
            os.rename(path, stale)
        except FileNotFoundError:
            return None
        os.unlink(stale)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return None
    lease = Lease(path, fd, previous)
    lease.write(dict(processes.me()))
    return lease


def _mine(path: str) -> bool:
    """Nobody else has the empty lease file open, as far as this host can see."""
    return not processes.holders(path)


def _gone(named: dict[str, Any], beaten: float) -> bool:
    living = processes.alive(named) if named else None
    if living is None:
        return time.time() - beaten > EXPIRED_S
    return not living


def held(path: str) -> bool | None:
    """Whether a live process holds this lease; None if the file is gone."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError:
        return False
    try:
        # Shared, so that two who look do not see each other.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return True
        if error.errno in _NO_LOCKS:
            return not _gone(owner(path) or {}, os.fstat(fd).st_mtime)
        raise
    finally:
        os.close(fd)
    return False
