"""Shares of a device as locks of bytes: p percent of it are p of the first 100 bytes of its file.

The locks belong to the open file (``F_OFD_SETLK``), so they pass on to whoever inherits it and end with the
last of them, and the kernel sees to it that no byte has two holders: there is no count that could be wrong
after a crash. Takers keep each other out by one more byte meanwhile, or two of them could each get a part of
what only one of them can have.

A file locked as a whole (``flock``, as the program of that name does it) is in use, too.

Each holder says who it is in the file itself, at a place that goes by the lowest of its bytes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time

from ripresa.journal import records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Ranges = list[tuple[int, int]]
    """Begin and end of ranges of bytes, none of them touching another."""

WHOLE = 100
_GATE = WHOLE
_GATE_S = 1.0
"""Takers are through in microseconds; one that is stopped in between must not hold up all others."""
_LOCK = "@hhqqi4x"
"""struct flock: type, whence, start, length, process."""
_ROOM = 16384
"""Bytes of the file for what a holder says; what nobody wrote takes no room on the disk."""
_HELD = (errno.EAGAIN, errno.EACCES)


def take(fd: int, share: int) -> Ranges | None:
    """Lock so many percent of the device of an open file; None if less than that is free.

    Raises OSError where files cannot be locked.
    """
    if not _flock(fd):
        return None
    if not _pass_gate(fd):
        fcntl.flock(fd, fcntl.LOCK_UN)
        return None
    try:
        wanted = _first(share, free(fd))
        if wanted and all(_set(fd, fcntl.F_WRLCK, begin, end) for begin, end in wanted):
            return wanted
        _set(fd, fcntl.F_UNLCK, 0, WHOLE)
        fcntl.flock(fd, fcntl.LOCK_UN)
        return None
    finally:
        _set(fd, fcntl.F_UNLCK, _GATE, _GATE + 1)


def free(fd: int) -> Ranges:
    """The bytes that nobody else holds. Nobody is disturbed by this look."""
    return sorted(_gaps(fd, 0, WHOLE))


def left(fd: int) -> int:
    """How many percent of the device of an open file nobody else holds."""
    if (percent := size(free(fd))) < WHOLE:
        return percent
    # Shared, so that neither those who look nor those who take a share notice.
    if not _flock(fd):
        return 0
    fcntl.flock(fd, fcntl.LOCK_UN)
    return percent


def size(ranges: Ranges) -> int:
    """How many bytes these are."""
    return sum(end - begin for begin, end in ranges)


def sign(fd: int, ranges: Ranges, owner: dict[str, Any]) -> None:
    """Say who holds these bytes."""
    data = records.encode({**owner, "bytes": ranges}) + b"\n"
    # In this order a full disk cannot lose the name that is there.
    os.pwrite(fd, data, ranges[0][0] * _ROOM)
    if size(ranges) == WHOLE:
        os.ftruncate(fd, len(data))


def erase(fd: int, ranges: Ranges) -> None:
    """Take back what `sign` said."""
    if size(ranges) == WHOLE:
        os.ftruncate(fd, 0)
    else:
        os.pwrite(fd, b"\n", ranges[0][0] * _ROOM)


def signed(fd: int) -> list[dict[str, Any]]:
    """What the holders say of themselves, with ``bytes``; also what one said that was killed, until its
    place is taken."""
    found: list[dict[str, Any]] = []
    covered: set[int] = set()
    places = -(-os.fstat(fd).st_size // _ROOM)
    for place in range(min(places, WHOLE)):
        if place in covered:
            continue
        owner = records.parse(os.pread(fd, _ROOM, place * _ROOM).partition(b"\n")[0].rstrip(b"\0"))
        if owner is not None:
            found.append(owner)
            covered.update(_covered(owner.get("bytes")))
    return found


def held(fd: int) -> list[dict[str, Any]]:
    """Those of the `signed` whose bytes are locked still."""
    left = {byte for begin, end in free(fd) for byte in range(begin, end)}
    return [owner for owner in signed(fd) if not _covered(owner.get("bytes")) & left]


def _covered(ranges: Any) -> set[int]:
    """The bytes that a holder claims; all of them if it does not say."""
    try:
        return {byte for begin, end in ranges for byte in range(max(begin, 0), min(end, WHOLE))}
    except (TypeError, ValueError):
        return set(range(WHOLE))


def _first(share: int, ranges: Ranges) -> Ranges | None:
    """The lowest so many bytes of some ranges; None if there are not as many."""
    chosen: Ranges = []
    for begin, end in ranges:
        upto = min(end, begin + share - size(chosen))
        if upto > begin:
            chosen.append((begin, upto))
    return chosen if size(chosen) == share else None


def _gaps(fd: int, begin: int, end: int) -> Ranges:
    if begin >= end:
        return []
    asked = struct.pack(_LOCK, fcntl.F_WRLCK, os.SEEK_SET, begin, end - begin, 0)
    kind, _, start, length, _ = struct.unpack(_LOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
    if kind == fcntl.F_UNLCK:
        return [(begin, end)]
    # Any lock that is in the way, not the first one.
    before, after = min(start, end), max(begin, start + length if length else end)
    return _gaps(fd, begin, before) + _gaps(fd, after, end)


def _set(fd: int, kind: int, begin: int, end: int) -> bool:
    """Lock or unlock bytes; False if another holds one of them."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_LOCK, kind, os.SEEK_SET, begin, end - begin, 0))
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def _pass_gate(fd: int) -> bool:
    limit = time.monotonic() + _GATE_S
    while not _set(fd, fcntl.F_WRLCK, _GATE, _GATE + 1):
        if time.monotonic() > limit:
            return False
        time.sleep(0.0005)
    return True


def _flock(fd: int) -> bool:
    """Share the lock of the file as a whole; False if somebody has it for himself."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True
