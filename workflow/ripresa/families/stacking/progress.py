"""How far a phase is, told to whoever watches it through the file that ``$RIPRESA_PROGRESS`` names."""

import contextlib
import os
import time

_EVERY_S = 0.2
_LENGTH = 32  # bytes, always as many, so that a reader never sees parts of two reports

_written = -_EVERY_S


def report(current: int, total: int) -> None:
    """Say that ``current`` of ``total`` frames (or rows) are done, to be called after each.

    Writes at most every 0.2 s, and when all is done. Does nothing where nobody watches. Progress only
    informs: what keeps it from being written keeps no phase from going on.
    """
    global _written  # noqa: PLW0603 - one process computes one phase
    path = os.environ.get("RIPRESA_PROGRESS")
    now = time.monotonic()
    if not path or (current < total and now - _written < _EVERY_S):
        return
    _written = now
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(fd, f"{current} {total}".ljust(_LENGTH - 1).encode() + b"\n", 0)
        finally:
            os.close(fd)
