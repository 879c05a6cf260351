"""Staged inputs of a run, each kept once under the checksum of its content.

A file arrives in pieces, perhaps over several connections, and has its name only when it is complete, checked
and on disk.
"""

from __future__ import annotations

import fcntl
import os

from ripresa.hosts.agent import folders
from ripresa.hosts.agent.errors import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from ripresa.journal.paths import Run

_PIECE = 1 << 20


def path_of(run: Run, checksum: str) -> str:
    """Where a file with this SHA-256 checksum is, if it is there."""
    return f"{run.dir}/files/{checksum}"


def missing(run: Run, checksums: list[str]) -> list[str]:
    """Those of the files that are not there, each once."""
    return [one for one in dict.fromkeys(checksums) if not os.path.exists(path_of(run, one))]


def put(run: Run, operation: dict[str, Any], payload: BinaryIO) -> dict[str, Any]:
    """Take the next ``size`` bytes of the payload as those at ``offset`` of a file of ``total`` bytes.

    Answers with the size that is there by now; what comes later than that is not taken. Raises Refused if the
    complete file has another checksum: it is to be sent again from the start.
    """
    left = operation["size"]
    try:
        path = path_of(run, operation["sha256"])
        folders.make(os.path.dirname(path))
        if os.path.exists(path):
            return {"size": operation["total"]}
        fd = os.open(f"{path}.part", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Two calls may bring the same file at the same time.
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.path.exists(path):
                return {"size": operation["total"]}
            offset = operation["offset"]
            if offset <= os.fstat(fd).st_size:
                while left and (piece := payload.read(min(left, _PIECE))):
                    left -= len(piece)
                    offset += _write(fd, piece, offset)
            size = os.fstat(fd).st_size
            if size >= operation["total"] and not left:
                _complete(fd, path, operation)
            return {"size": size}
        finally:
            os.close(fd)
    finally:
        # What follows in the payload belongs to the next operation.
        while left and (piece := payload.read(min(left, _PIECE))):
            left -= len(piece)


def stage(run: Run, given: dict[str, Any], work: str) -> None:
    """Give a unit an input of its own: a copy, which shares its blocks where the file system can do that.

    No hard link, for a command that writes to its input would change it for all others.
    """
    path = os.path.join(work, given["path"])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    source = os.open(path_of(run, given["sha256"]), os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if not _clone(source, target):
                while os.sendfile(target, source, None, _PIECE << 6):
                    pass
            os.fchmod(target, given["mode"] & 0o777)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _write(fd: int, piece: bytes, offset: int) -> int:
    view = memoryview(piece)
    while view:
        view = view[os.pwrite(fd, view, offset + len(piece) - len(view)) :]
    return len(piece)


def _complete(fd: int, path: str, operation: dict[str, Any]) -> None:
    import hashlib

    digest, offset = hashlib.sha256(), 0
    while piece := os.pread(fd, _PIECE, offset):
        digest.update(piece)
        offset += len(piece)
    if digest.hexdigest() != operation["sha256"] or offset != operation["total"]:
        os.unlink(f"{path}.part")
        raise Refused("network", f"{path} arrived damaged: its checksum is {digest.hexdigest()}")
    # After a power cut a file that was renamed but not synced may be empty.
    os.fsync(fd)
    os.rename(f"{path}.part", path)
    folders.sync(os.path.dirname(path))


_FICLONE = 0x40049409


def _clone(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True
