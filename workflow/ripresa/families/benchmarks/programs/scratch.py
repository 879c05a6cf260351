"""A file on the disk under test that cannot outlive the process using it."""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ripresa.families.benchmarks.measurement import BenchmarkError

SPARE_BYTES = 64 << 20  # left free for everybody else
PAGE = mmap.PAGESIZE


@dataclass(frozen=True)
class ScratchFile:
    """An open, nameless file; `direct` tells whether its I/O passes the page cache by."""

    fd: int
    direct: bool

    @property
    def path(self) -> str:
        """A path under which a child process can open the file while we live."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"


def require_space(folder: str, size: int) -> None:
    """BenchmarkError if `size` bytes (and some spare) do not fit into the file system of `folder`."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if free < size + SPARE_BYTES:
        raise BenchmarkError(
            f"not enough space: No space left on device for {size / 1e6:.0f} MB in {os.path.abspath(folder)} "
            f"({free / 1e6:.0f} MB free, {SPARE_BYTES / 1e6:.0f} MB stay free): free some or lower file_mb"
        )


def _accepts_direct(fd: int) -> bool:
    """Switch O_DIRECT on if one page can be written that way; some file systems only refuse the write."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
        with mmap.mmap(-1, PAGE) as page:
            os.pwrite(fd, page, 0)
    except OSError:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        return False
    return True


@contextmanager
def scratch_file(folder: str, size: int, direct: bool = True) -> Iterator[ScratchFile]:
    """A file in `folder` with room for `size` bytes, opened for direct I/O where that is possible.

    It is unlinked at once, so not even a SIGKILL leaves it behind.
    """
    require_space(folder, size)
    fd, name = tempfile.mkstemp(prefix="ripresa-scratch-", dir=folder)
    try:
        os.unlink(name)
        yield ScratchFile(fd, direct and _accepts_direct(fd))
    finally:
        os.close(fd)
