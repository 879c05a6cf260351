"""What the machine says about a command that ended: out-of-memory kills, a full disk."""

from __future__ import annotations

import os

_FULL = 16 * 1024


def is_full(directory: str) -> bool:
    """Whether a file system has no space or no files left, as far as it tells."""
    try:
        there = os.statvfs(directory)
    except OSError:
        return False
    return there.f_bavail * there.f_frsize < _FULL or (there.f_files > 0 and there.f_favail == 0)


def oom_kills() -> int:
    """Out-of-memory kills that the kernel counts in this control group (versions 1 and 2)."""
    try:
        with open("/proc/self/cgroup") as file:
            groups = dict(line.rstrip("\n").split(":", 2)[1:] for line in file)
    except (OSError, ValueError):
        return 0
    for path in (
        f"/sys/fs/cgroup{groups.get('', '/')}/memory.events",
        f"/sys/fs/cgroup/memory{groups.get('memory', '/')}/memory.oom_control",
        # In a container the path may be that of the host, and what is mounted the group itself.
        "/sys/fs/cgroup/memory/memory.oom_control",
    ):
        try:
            with open(path) as file:
                for line in file:
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        except (OSError, ValueError):
            continue
    return 0
