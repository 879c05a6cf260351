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
        self._left = False

    def write(self, owner: dict[str, Any]) -> None:
        """Say who holds the lease and what it runs."""
        data = records.encode(owner)
        # In this order a full disk cannot lose the name that is there.
        os.pwrite(self.fd, data, 0)
        os.ftruncate(self.fd, len(data))

    def beat(self) -> None:
        """Show that the holder is alive."""
        os.utime(self.fd)

    def leave(self) -> None:
        """Let what the file says outlive the release: somebody is still to settle it."""
        self._left = True

    def release(self) -> None:
        """Give the lease back, also for processes that inherited it."""
        if not self._left and same_file(self.fd, self.path):
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
        if same_file(fd, path):
            return Lease(path, fd, owner(path) if os.fstat(fd).st_size else None)
        os.close(fd)


def same_file(fd: int, path: str) -> bool:
    """Whether a path still leads to an open file."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _acquire_without_locks(path: str) -> Lease | None:
    """Take a lease where only the creation of links and directories is atomic.

    The file appears with its owner's name in it, so an empty one is nobody's.
    """
    own = f"{path}.{os.uname().nodename}.{os.getpid()}"
    fd = os.open(own, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    lease = Lease(path, fd, None)
    try:
        lease.write(dict(processes.me()))
        if _link(own, path):
            return lease
        lease.previous = _remove_gone(path)
        if lease.previous is not None and _link(own, path):
            return lease
    except BaseException:
        os.close(fd)
        raise
    finally:
        os.unlink(own)
    os.close(fd)
    return None


def _link(source: str, path: str) -> bool:
    try:
        os.link(source, path)
    except FileExistsError:
        return False
    return True


def _remove_gone(path: str) -> dict[str, Any] | None:
    """Remove the lease of an owner that is gone and return its text; None if it lives.

    A directory keeps out others meanwhile, so that nobody removes the lease of who came next.
    """
    mutex = path + ".takeover"
    try:
        os.mkdir(mutex)
    except FileExistsError:
        # Whoever made it died within microseconds, long ago.
        if time.time() - _modified(mutex) > EXPIRED_S:
            os.rmdir(mutex)
        return None
    try:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return {}
        try:
            info = os.fstat(fd)
            previous = records.parse(os.read(fd, info.st_size)) or {}
            if info.st_size and not _gone(previous, info.st_mtime):
                return None
            # Who was gone does not remove it any more, so if it still is there it stays until here.
            if not same_file(fd, path):
                return None
            os.unlink(path)
            return previous
        finally:
            os.close(fd)
    finally:
        os.rmdir(mutex)


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return time.time()


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
