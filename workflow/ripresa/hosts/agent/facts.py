"""What a host says about itself."""

from __future__ import annotations

import os
import pwd
import sys

from ripresa.journal import clock, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_MB = 1 << 20
_GROUPS = "/sys/fs/cgroup"


def hello(root: str) -> dict[str, Any]:
    """The host as it is now; memory and space in MB (2**20 bytes), ``cpus`` those that may be used."""
    there = os.statvfs(root)
    uid = os.geteuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    return {
        "host": os.uname().nodename,
        "boot_id": processes.boot_id(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "cpus": _cpus(),
        "mem_mb": _memory() // _MB,
        "free_mb": there.f_bavail * there.f_frsize // _MB,
        "uptime_s": round(clock.steady(), 1),
        "user": user,
        "root": root,
    }


def _cpus() -> int:
    """CPUs that this process may run on, or what its control groups grant if that is less."""
    count = float(len(os.sched_getaffinity(0)))
    for group in _control_groups():
        quota, _, period = _read(f"{group}/cpu.max").partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            count = min(count, int(quota) / int(period))
    return max(1, int(count))


def _memory() -> int:
    """Bytes of memory, or what the control groups of this process grant if that is less."""
    with open("/proc/meminfo") as file:
        total = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemTotal:"))
    limits = [_read(f"{group}/memory.max").strip() for group in _control_groups()]
    limits.append(_read(f"{_GROUPS}/memory/memory.limit_in_bytes").strip())
    return min(total, *(int(limit) for limit in limits if limit.isdigit()), total)


def _control_groups() -> Iterator[str]:
    """The control group of this process (version 2) and those above it."""
    line = next((line for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "0::/")
    path = line[len("0::") :].rstrip("/")
    while path:
        yield _GROUPS + path
        path = path.rpartition("/")[0]
    yield _GROUPS


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
