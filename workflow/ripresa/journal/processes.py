"""Who is alive: processes named so that a reused pid or a reboot is never taken for the owner."""

from __future__ import annotations

import os
import time

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_FORKED_ONLY = 0x40  # PF_FORKNOEXEC among the kernel's flags of a process
_FORK_TO_EXEC_S = 1.0  # no longer does a fork take to become its program, if it is ever to become one

Owner = dict[str, object]


def kill(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone already."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def boot_id() -> str:
    """The kernel's identity of this boot, or an empty string where it has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the state (the third) on. OSError if the process is gone."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def started(pid: int) -> int | None:
    """Start of a process in clock ticks since boot; None if it is gone or a zombie."""
    try:
        fields = _stat(pid)
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal (SIGSTOP and its like) and not continued since."""
    try:
        return _stat(pid)[0] in (b"T", b"t")
    except OSError:
        return False


def node() -> str:
    """The name of this machine, by which a batch system knows it where that started this process."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def me() -> Owner:
    """Name this process as an owner: host, boot, pid and its start."""
    pid = os.getpid()
    return {"host": os.uname().nodename, "boot_id": boot_id(), "pid": pid, "pid_started": started(pid)}


def alive(owner: Owner) -> bool | None:
    """Whether a named owner still runs; None when it lives on another host and cannot be seen."""
    if owner.get("host") != os.uname().nodename:
        return None
    if owner.get("boot_id") != boot_id():
        return False
    pid = owner.get("pid")
    return isinstance(pid, int) and pid > 0 and started(pid) == owner.get("pid_started") is not None


def group_of(pid: int) -> int | None:
    """The process group of a process; None if it is gone."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def group(leader: int) -> list[int]:
    """Living members of a process group on this host; zombies left out (Linux only)."""
    return [pid for pid, fields in group_stats(leader) if fields[0] not in (b"Z", b"X")]


def group_stats(leader: int) -> list[tuple[int, list[bytes]]]:
    """The members of a process group with the fields of /proc/PID/stat from the state (the third) on."""
    return [(pid, fields) for pid, fields in _stats() if int(fields[2]) == leader]


def family_stats(leader: int) -> list[tuple[int, list[bytes]]]:
    """The same of the group and of all that descends from it, in whatever group (as under `parallel`)."""
    stats = dict(_stats())
    known = {pid for pid, fields in stats.items() if int(fields[2]) == leader}
    recent = known
    while recent:
        recent = {pid for pid, fields in stats.items() if int(fields[1]) in recent} - known
        known |= recent
    return [(pid, stats[pid]) for pid in known]


def descendants(ancestor: int) -> list[int]:
    """The living processes that a process has started, and theirs; not those whose parents have ended."""
    parents = {pid: int(fields[1]) for pid, fields in _stats() if fields[0] not in (b"Z", b"X")}
    found: list[int] = []
    recent = {ancestor}
    while recent := {pid for pid, parent in parents.items() if parent in recent}:
        found += recent
    return found


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, so that it does not simply die of it.

    That it waits for one (sigwait) cannot be seen from outside. A fork has its parent's handlers until it
    becomes its program, so one of a moment ago catches nothing yet.
    """
    try:
        fields = _stat(pid)
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / _TICKS_PER_S
        if int(fields[6]) & _FORKED_ONLY and age_s < _FORK_TO_EXEC_S:
            return False
        with open(f"/proc/{pid}/status", "rb") as file:
            mask = next(int(line.split()[1], 16) for line in file if line.startswith(b"SigCgt:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return False
    return bool(mask >> (number - 1) & 1)


def io_bytes(pid: int) -> int:
    """Bytes that a process and its ended children have written, anywhere, and read from disks.

    0 where the kernel does not tell (a process of another user). All other reading (``rchar``) is left out:
    every program that a shell starts reads its libraries, so a loop that waits would seem to work.
    """
    counts = io_counts(pid)
    return sum(counts.get(name, 0) for name in (b"wchar", b"read_bytes", b"write_bytes"))


def io_counts(pid: int) -> dict[bytes, int]:
    """The fields of /proc/PID/io by name; none where the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            fields = (line.split(b": ") for line in file.read().splitlines())
            return {name: int(value) for name, value in fields}
    except (OSError, ValueError):
        return {}


def _stats() -> list[tuple[int, list[bytes]]]:
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        found.append((int(name), fields))
    return found


def holders(path: str) -> list[int]:
    """Processes of this host that have a file open, this one left out (Linux only)."""
    try:
        wanted = os.stat(path)
    except OSError:
        return []
    return having_open(wanted.st_dev, wanted.st_ino)


def having_open(device: int, inode: int) -> list[int]:
    """Processes of this host that have a file or pipe open, this one left out (Linux only)."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            numbers = os.listdir(f"/proc/{name}/fd")
        except OSError:
            continue
        for fd in numbers:
            try:
                info = os.stat(f"/proc/{name}/fd/{fd}")
            except OSError:  # closed meanwhile, which says nothing about the others
                continue
            if (info.st_dev, info.st_ino) == (device, inode):
                found.append(int(name))
                break
    return found


class Lifeline:
    """A pipe that a command and all that descends from it have open, so that its end is theirs.

    Unlike the lease, nobody opens it to have a look. ``name`` finds its holders for others, in this boot.
    """

    def __init__(self) -> None:
        self._read, self.fd = os.pipe()
        os.set_blocking(self._read, False)
        info = os.fstat(self._read)
        self.name = [info.st_dev, info.st_ino]

    def let_go(self) -> None:
        """Close the end that the command was started with."""
        os.close(self.fd)

    def cut(self) -> bool:
        """Whether nobody has it any more."""
        try:
            return os.read(self._read, 1) == b""
        except BlockingIOError:
            return False

    def holders(self) -> list[int]:
        """The processes that have it."""
        return having_open(*self.name)
