"""Device leases: a GPU, or whatever has a name of its own, is used by one attempt at a time on this machine.

A lease is a kernel lock on a file that all runs and all users of the machine share. The command inherits the
open file, so the lock lasts as long as the guard or anything of its command lives, and ends with the last of
them.

Locks lie side by side in a directory in which everybody may make files and nobody may remove another's.
Others may have made them, so a file is used only if it is a plain one without other names: what stands there
cannot lead elsewhere. Its text names the owner, for people; it decides nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from ripresa.journal import clock, leases, processes
from ripresa.journal.paths import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

RESOURCE = "gpu_device"
"""The resource that names the devices of a unit, separated by commas."""

PLACES = ("/run/lock", "/tmp")
_PREFIX = "ripresa-device-"
_LOOKS_S = 0.05
"""Who looks whether a device is held has its lock for an instant."""
_CLOCK_S = 0.1
"""Times of files are coarser than the clock."""


class DeviceError(OSError):
    """A device cannot be leased here at all."""


class DeviceLease(leases.Lease):
    """A device that this process holds; ``fd`` is what the command inherits."""

    def __init__(self, name: str, path: str, fd: int) -> None:
        super().__init__(path, fd, None)
        self.name = name
        self._signed = False

    def sign(self, owner: dict[str, Any]) -> None:
        """Say who uses the device from now on; until then it counts as not used."""
        self._signed = True
        self.write({"device": self.name, **processes.me(), "uid": os.getuid(), "since": clock.iso(), **owner})

    def release(self) -> None:
        """Let go of the device. It is free once everything that inherited it has ended, too: what a driver
        holds up in the kernel may still use it."""
        if self._signed:
            os.ftruncate(self.fd, 0)
        os.close(self.fd)


def place() -> str:
    """The directory of the locks: the same for all users of this machine.

    That is the first of `PLACES` in which everybody may make files but not remove another's, or what
    ``RIPRESA_DEVICES`` says. Raises DeviceError if there is none.
    """
    if chosen := os.environ.get("RIPRESA_DEVICES"):
        return chosen
    for directory in PLACES:
        try:
            mode = os.stat(directory).st_mode
        except OSError:
            continue
        if stat.S_ISDIR(mode) and mode & stat.S_ISVTX and mode & stat.S_IWOTH:
            return directory
    raise DeviceError(
        f"no place for the locks of devices: neither {' nor '.join(PLACES)} is a sticky directory that "
        "everybody may write to; name a directory of all users in RIPRESA_DEVICES"
    )


def path_of(name: str) -> str:
    """The lock of a device."""
    return f"{place()}/{_PREFIX}{quote(name)}.lock"


def named(resource: str | None) -> list[str]:
    """The devices that a resource names, each once, in the order in which they are taken."""
    return sorted({name.strip() for name in (resource or "").split(",")} - {""})


def take(resource: str | None) -> list[DeviceLease] | None:
    """Take all devices that a resource names, or none of them: None if one is held.

    Raises DeviceError where that cannot be told.
    """
    taken: list[DeviceLease] = []
    for name in named(resource):
        try:
            lease = _acquire(name)
        except BaseException:
            release(taken)
            raise
        if lease is None:
            release(taken)
            return None
        taken.append(lease)
    return taken


def release(taken: Iterable[DeviceLease]) -> None:
    """Let go of devices."""
    for lease in taken:
        lease.release()


def environment(resource: str | None) -> dict[str, str]:
    """The variables by which CUDA and ROCm show a command its devices and no others.

    HIP counts among what ROCR_VISIBLE_DEVICES lets through, and reads CUDA_VISIBLE_DEVICES only without a
    variable of its own.
    """
    if not named(resource):
        return {}
    names = [name.strip() for name in (resource or "").split(",") if name.strip()]
    given = ",".join(dict.fromkeys(names))
    return {
        "CUDA_VISIBLE_DEVICES": given,
        "ROCR_VISIBLE_DEVICES": given,
        "HIP_VISIBLE_DEVICES": ",".join(map(str, range(len(set(names))))),
    }


def held(names: Sequence[str]) -> list[str]:
    """Those of the devices that a live process holds, this one included; none where that cannot be told."""
    try:
        return [name for name in names if _is_held(path_of(name))]
    except DeviceError:
        return []


def used_since(names: Sequence[str], seconds: float) -> bool:
    """Whether any of the devices was held at some time since then, in seconds since the epoch, as far as the
    files tell."""
    for name in names:
        try:
            if os.stat(path_of(name)).st_mtime >= seconds - _CLOCK_S:
                return True
        except OSError:
            continue
    return bool(held(names))


def owner(name: str) -> dict[str, Any]:
    """Who holds a device, as its lock says; empty if it says nothing."""
    try:
        return leases.owner(path_of(name)) or {}
    except OSError:
        return {}


def _acquire(name: str) -> DeviceLease | None:
    """Lock a device; None if a live process holds it."""
    path = path_of(name)
    end = time.monotonic() + _LOOKS_S
    while True:
        fd = _open(path)
        try:
            if _lock(fd, fcntl.LOCK_EX, path):
                # Something may have cleared it away between opening and locking it.
                if leases.same_file(fd, path):
                    return DeviceLease(name, path, fd)
            elif time.monotonic() > end:
                os.close(fd)
                return None
            else:
                time.sleep(_LOOKS_S / 10)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_held(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return not _lock(fd, fcntl.LOCK_SH, path)
    finally:
        os.close(fd)


def _open(path: str) -> int:
    """Open the lock, made if there is none, for every user alike whatever the umask is."""
    plain = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        try:
            # Not O_CREAT at once: in such directories the kernel refuses it for files of other users.
            fd = os.open(path, plain)
        except FileNotFoundError:
            umask = os.umask(0)
            try:
                fd = os.open(path, plain | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                continue
            except OSError as error:
                raise _unusable(path, error.strerror) from error
            finally:
                os.umask(umask)
        except OSError as error:
            raise _unusable(path, error.strerror) from error
        info = os.fstat(fd)
        if stat.S_ISREG(info.st_mode) and info.st_nlink <= 1:
            return fd
        os.close(fd)
        raise _unusable(path, "it is no plain file, or one with several names")


def _lock(fd: int, kind: int, path: str) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise _unusable(path, error.strerror) from error
    return True


def _unusable(path: str, why: str | None) -> DeviceError:
    return DeviceError(
        f"cannot lock {path}: {why}; remove the file, or name a directory of all users in RIPRESA_DEVICES"
    )
