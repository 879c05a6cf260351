"""The controller's hold on a run: one Snakemake at a time, released by the kernel when it dies."""

import contextlib
import errno
import fcntl
import json
import os
import time
from typing import Any

from ripresa.journal import clock, processes
from ripresa.journal.leases import EXPIRED_S, owner
from ripresa.journal.paths import Run

_held: dict[str, int] = {}


class RunIsHeld(Exception):
    """Another controller runs this campaign."""

    def __init__(self, run: Run, holder: dict[str, Any] | None) -> None:
        named = holder or {}
        super().__init__(
            f"run '{run.run_id}' is held by another controller: process {named.get('pid', '?')} on "
            f"{named.get('host', '?')} since {named.get('started', '?')}; wait for it, or stop it with "
            f"kill {named.get('pid', 'PID')}"
        )


def hold(run: Run, session: str) -> None:
    """Hold a run for this process until it ends; raises RunIsHeld.

    The kernel lock is not inherited by children, so it dies with the controller and is never stale.
    Where the file system has no kernel locks the named owner decides.
    """
    os.makedirs(run.journal, exist_ok=True)
    fd = os.open(run.controller, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = owner(run.controller)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(fd)
            raise RunIsHeld(run, holder) from None
        living = processes.alive(holder) if holder else False
        if living is None:
            living = time.time() - os.fstat(fd).st_mtime < EXPIRED_S
        if living:
            os.close(fd)
            raise RunIsHeld(run, holder) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps({**processes.me(), "started": clock.iso(), "session": session}).encode(), 0)
    _held[run.controller] = fd


def release(run: Run) -> None:
    """Let go of a run that this process holds."""
    fd = _held.pop(run.controller, None)
    if fd is not None:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
        os.close(fd)


def holder(run: Run) -> dict[str, Any] | None:
    """Who holds a run now; None if nobody does."""
    try:
        fd = os.open(run.controller, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        named = owner(run.controller)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return named or {}
        return named if named and processes.alive(named) else None
    finally:
        os.close(fd)
    return None
