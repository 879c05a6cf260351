"""Device leases: a GPU, or whatever has a name of its own, is used by one attempt at a time on this machine,
or by several that agree on their shares of it.

A lease is a kernel lock on a file that all runs and all users of the machine share. The command inherits the
open file, so the lock lasts as long as the guard or anything of its command lives, and ends with the last of
them.

Locks lie side by side in a directory in which everybody may make files and nobody may remove another's.
Others may have made them, so a file is used only if it is a plain one without other names: what stands there
cannot lead elsewhere. Its text names the owners, for people; it decides nothing.
"""

from __future__ import annotations

import os
import stat

from ripresa.journal import clock, leases, processes, shares
from ripresa.journal.paths import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, TypeVar

    Answer = TypeVar("Answer")

RESOURCE = "gpu_device"
"""The resource that names the devices of a unit, separated by commas; ``NAME@50`` is half of one."""

PLACES = ("/run/lock", "/tmp")
SLOT = "cpu"
"""Names of this and a number (``cpu0``) are slots for units that use no GPU. Without a number it is none, and
nothing to lease: such units run beside each other."""
_PREFIX = "ripresa-device-"
_LOOK = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CLOCK_S = 0.1
"""Times of files are coarser than the clock."""


class DeviceError(OSError):
    """A device cannot be leased here at all."""


class DeviceLease:
    """A device, or a share of one, that this process holds; ``fd`` is what the command inherits."""

    def __init__(self, name: str, fd: int, taken: shares.Ranges) -> None:
        self.name = name
        self.fd = fd
        self._taken = taken
        self._signed = False

    def sign(self, owner: dict[str, Any]) -> None:
        """Say who uses the device from now on; until then it counts as not used."""
        self._signed = True
        me = {"device": self.name, **processes.me(), "uid": os.getuid(), "since": clock.iso(), **owner}
        shares.sign(self.fd, self._taken, me)

    def beat(self) -> None:
        """Show that the holder is alive."""
        os.utime(self.fd)

    def release(self) -> None:
        """Let go of the device. It is free once everything that inherited it has ended, too: what a driver
        holds up in the kernel may still use it."""
        if self._signed:
            shares.erase(self.fd, self._taken)
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


def wanted(resource: str | None) -> dict[str, int]:
    """The devices that a resource names and how many percent of each it means, in the order in which they are
    taken.

    Raises DeviceError for a share that is none.
    """
    found: dict[str, int] = {}
    for name, given in _entries(resource):
        if name == SLOT:
            continue
        if not name or not given.isdecimal() or not 1 <= int(given) <= shares.WHOLE:
            example = "a share is a whole number of percent, as in"
            raise DeviceError(f"{RESOURCE} {resource!r}: {example} {name or 'NAME'}@50")
        found[name] = max(int(given), found.get(name, 0))
    return dict(sorted(found.items()))


def named(resource: str | None) -> list[str]:
    """The devices that a resource names, each once, in the order in which they are taken."""
    return sorted({name for name, _ in _entries(resource)} - {SLOT})


def take(resource: str | None) -> list[DeviceLease] | None:
    """Take all devices that a resource names, or none of them: None if others hold too much of one.

    Raises DeviceError where that cannot be told.
    """
    taken: list[DeviceLease] = []
    for name, share in wanted(resource).items():
        try:
            lease = _acquire(name, share)
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
    """The variables by which CUDA and ROCm show a command its devices and no others, and what share it has.

    HIP counts among what ROCR_VISIBLE_DEVICES lets through, and reads CUDA_VISIBLE_DEVICES only without a
    variable of its own. Slots hide all GPUs. Of a device that it has in part, a command is told how much
    (RIPRESA_DEVICE_SHARE, a fraction), as is the driver: it keeps to that where MPS runs.
    """
    names = dict.fromkeys(name for name, _ in _entries(resource))
    if not names:
        return {}
    gpus = [name for name in names if not is_slot(name)]
    shown = ",".join(gpus)
    share = min(wanted(resource).values(), default=shares.WHOLE)
    variables = {
        "CUDA_VISIBLE_DEVICES": shown,
        "ROCR_VISIBLE_DEVICES": shown,
        "HIP_VISIBLE_DEVICES": ",".join(map(str, range(len(gpus)))),
        "RIPRESA_DEVICE_SHARE": f"{share / shares.WHOLE:.2f}",
    }
    if gpus and share < shares.WHOLE:
        variables["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(share)
    return variables


def is_slot(name: str) -> bool:
    """Whether a name is that of a slot for units that use no GPU."""
    return name == SLOT or (name.startswith(SLOT) and name.removeprefix(SLOT).isdecimal())


def shares_free(names: Iterable[str]) -> dict[str, int]:
    """How many percent of devices nobody holds, this process included; 100 where that cannot be told."""
    return {name: _asked(name, shares.left, shares.WHOLE) for name in names}


def held(names: Sequence[str]) -> list[str]:
    """Those of the devices of which a live process holds anything, this one included; none where that cannot
    be told."""
    return [name for name, left in shares_free(names).items() if left < shares.WHOLE]


def lacking(resource: str | None) -> list[str]:
    """The devices of a resource of which less is free than it wants."""
    parts = wanted(resource)
    return [name for name, left in shares_free(parts).items() if left < parts[name]]


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


def owners(name: str) -> list[dict[str, Any]]:
    """Who holds a device, or was killed holding it, as its lock says."""
    return _asked(name, shares.signed, [])


def holders(name: str) -> list[dict[str, Any]]:
    """Who holds a device now, be it by what it left running, as its lock says."""
    return _asked(name, shares.held, [])


def owner(name: str) -> dict[str, Any]:
    """The first of the owners of a device; empty if its lock names none."""
    return next(iter(owners(name)), {})


def _entries(resource: str | None) -> list[tuple[str, str]]:
    """The names in a resource, as given, and their shares, which may be none."""
    split = (entry.strip().partition("@") for entry in (resource or "").split(","))
    return [(name, share if at else str(shares.WHOLE)) for name, at, share in split if name or at]


def _acquire(name: str, share: int) -> DeviceLease | None:
    """Lock so many percent of a device; None if less is free."""
    path = path_of(name)
    while True:
        fd = _open(path)
        try:
            taken = shares.take(fd, share)
            # Something may have cleared the file away between opening and locking it.
            if taken is None or leases.same_file(fd, path):
                break
        except OSError as error:
            os.close(fd)
            raise _unusable(path, error.strerror) from error
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    if taken is None:
        os.close(fd)
        return None
    return DeviceLease(name, fd, taken)


def _asked(name: str, question: Callable[[int], Answer], otherwise: Answer) -> Answer:
    """What the lock of a device answers; ``otherwise`` where it cannot be asked."""
    try:
        fd = os.open(path_of(name), _LOOK)
    except OSError:
        return otherwise
    try:
        return question(fd)
    except OSError:
        return otherwise
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


def _unusable(path: str, why: str | None) -> DeviceError:
    return DeviceError(
        f"cannot lock {path}: {why}; remove the file, or name a directory of all users in RIPRESA_DEVICES"
    )
