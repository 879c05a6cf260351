"""Folders of the agent: made private, made durable, measured and removed whole."""

from __future__ import annotations

import os
import stat


def make(path: str) -> None:
    """Make a folder, and those above it, for this user alone."""
    os.makedirs(path, 0o700, exist_ok=True)


def sync(path: str) -> None:
    """Make the names in a folder survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def size(path: str) -> int:
    """Bytes on disk of a folder and all below it."""
    info = os.lstat(path)
    below = _names(path, info.st_mode) if stat.S_ISDIR(info.st_mode) else []
    return info.st_blocks * 512 + sum(size(f"{path}/{name}") for name in below)


def remove(path: str) -> None:
    """Remove a folder (or a file) and all below it, also what its maker left without permissions.

    Links are removed, not followed. Raises OSError for what cannot be removed.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        os.unlink(path)
        return
    for name in _names(path, mode):
        remove(f"{path}/{name}")
    os.rmdir(path)


def _names(path: str, mode: int) -> list[str]:
    """What is in a folder, which is made accessible for that."""
    if mode & 0o700 != 0o700:
        os.chmod(path, 0o700)
    return os.listdir(path)
