"""Files of the kernel, opened once and read again and again: a look costs one system call, not three."""

from __future__ import annotations

import os

_FIRST_SIZE = 8192


class KernelFile:
    """A file of /proc or /sys, whose text is made anew whenever it is read from its start."""

    __slots__ = ("_fd", "_size")

    def __init__(self, path: str) -> None:
        """Open `path`; OSError if it is not there, or not for us to read."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = _FIRST_SIZE

    def read(self) -> bytes:
        """The text of a file that the kernel writes in one go: all of /sys, /proc/stat, /proc/meminfo..."""
        while True:
            text = os.pread(self._fd, self._size, 0)
            if len(text) < self._size:
                return text
            self._size *= 2

    def read_table(self) -> bytes:
        """The text of a file that the kernel hands out a page at a time, such as /proc/net/dev."""
        text = b""
        while True:
            part = os.pread(self._fd, self._size, len(text))
            if not part:
                return text
            text += part


def names(folder: str, prefix: str = "") -> list[str]:
    """The entries of a folder that begin so, sorted; none if there is no such folder."""
    try:
        return sorted(name for name in os.listdir(folder) if name.startswith(prefix))
    except OSError:
        return []


def word(path: str) -> str:
    """The stripped text of a small file that does not change; empty if it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def readable(paths: list[str]) -> list[KernelFile]:
    """Those of these files which can be opened *and* read: some drivers answer a read with an error."""
    found = []
    for path in paths:
        try:
            file = KernelFile(path)
            file.read()
        except OSError:
            continue
        found.append(file)
    return found
