"""The file system under a run: locks, links, space, and whose clock it goes by."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from ripresa.cli.checks import FAIL, OK, WARN, Check
from ripresa.journal.leases import EXPIRED_S

NETWORK = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "glusterfs", "gpfs", "lustre"),
    *("nfs", "nfs4", "orangefs", "panfs", "smb3", "smbfs", "virtiofs"),
}
_HOLD = """
import fcntl, sys, time
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
print(flush=True)
time.sleep(60)
"""


def checks(directory: str) -> Iterator[Check]:
    """Look at the file system of a run, of which only an upper directory may exist so far."""
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory) or "."
    try:
        folder = tempfile.mkdtemp(prefix=".doctor-", dir=directory)
    except OSError as error:
        fix = f"give write access to {os.path.abspath(directory)}, or mount it writable"
        yield Check("writable", FAIL, f"cannot write in {directory}: {error.strerror}", fix)
        return
    try:
        yield Check("writable", OK, os.path.abspath(directory))
        kind = file_system(directory)
        yield _locks(f"{folder}/lock", kind)
        yield _links(folder)
        yield _clock(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    yield from _room(directory)


def file_system(directory: str) -> str:
    """The type of the file system that a directory is on, as the kernel calls it."""
    path = os.path.realpath(directory)
    best, kind = "", "unknown"
    with open("/proc/mounts", errors="replace") as mounts:
        for line in mounts:
            _, point, this, *_ = line.split(" ")
            point = point.replace("\\040", " ")
            if f"{path}/".startswith(f"{point.rstrip('/')}/") and len(point) >= len(best):
                best, kind = point, this
    return kind


def _locks(path: str, kind: str) -> Check:
    """Hold a lock in another process, kill that, and see both."""
    name = "file locks"
    where = f"{kind}, a network file system" if kind in NETWORK else kind
    open(path, "w").close()
    holder = subprocess.Popen(
        [sys.executable, "-IS", "-c", _HOLD, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with holder, open(path) as file:
        try:
            holder.stdout.readline()  # type: ignore[union-attr]
            seen = holder.poll() is None and _taken(file.fileno())
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
        freed = seen and not _taken(file.fileno())
    if freed:
        return Check(name, OK, f"work, and die with their holder ({where})")
    found = f"do not work here ({where}): leases fall back to their owner's name and heartbeat"
    late = f"an owner on another host counts as gone {EXPIRED_S:.0f} s after its last beat"
    fix = f"put runs/ on a file system with locks; until then {late}"
    return Check(name, WARN, found, fix)


def _taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _links(folder: str) -> Check:
    open(f"{folder}/one", "w").close()
    try:
        os.link(f"{folder}/one", f"{folder}/two")
    except OSError as error:
        fix = "put runs/ on a file system with hard links; without them outputs are moved into place"
        return Check("hard links", WARN, f"do not work: {error.strerror}", fix)
    return Check("hard links", OK, "work")


def _clock(folder: str) -> Check:
    """Compare the clock of this machine with that of the file system (another machine's, on a network)."""
    now = time.time()
    open(f"{folder}/now", "w").close()
    skew = os.stat(f"{folder}/now").st_mtime - now
    if abs(skew) <= 2:
        return Check("clock", OK, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)))
    found = f"the file system's is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    return Check("clock", WARN, found, "set both by NTP; what is newer decides what runs again")


def _room(directory: str) -> Iterator[Check]:
    info = os.statvfs(directory)
    free = info.f_bavail * info.f_frsize / 2**30
    level = OK if free >= 2 else WARN if free >= 0.1 else FAIL
    yield Check(
        "free space", level, f"{free:.1f} GiB", "" if level == OK else f"free space under {directory}"
    )
    if info.f_files:  # some file systems have no fixed number of inodes
        inodes = info.f_favail
        level = OK if inodes >= 100_000 else WARN if inodes >= 1_000 else FAIL
        fix = "" if level == OK else f"delete small files under {directory}, or use another file system"
        yield Check("free inodes", level, f"{inodes:,}", fix)
