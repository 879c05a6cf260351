"""What the machine has, read from /proc and /sys with the standard library alone."""

from __future__ import annotations

import os
from pathlib import Path

ASSUMED_CACHE_BYTES = 32 << 20
_SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def read_text(path: str | Path, default: str = "") -> str:
    """The stripped text of a small kernel file, `default` where this machine does not have it."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return default


def usable_cpus() -> int:
    """CPUs this process may run on (affinity, so also the share of a batch job)."""
    return len(os.sched_getaffinity(0))


def size_bytes(text: str) -> int:
    """`32768K` -> bytes, as in /sys/devices/system/cpu/cpu0/cache/index3/size."""
    text = text.strip()
    if text and text[-1] in _SIZES:
        return int(text[:-1]) * _SIZES[text[-1]]
    return int(text or 0)


def caches(sys_root: Path = Path("/sys")) -> dict[str, str]:
    """The caches that CPU 0 sees, e.g. {"L1d": "32K", "L2": "1024K", "L3": "32768K"}."""
    found = {}
    for index in sorted((sys_root / "devices/system/cpu/cpu0/cache").glob("index*")):
        kind = {"Data": "d", "Instruction": "i"}.get(read_text(index / "type"), "")
        found[f"L{read_text(index / 'level')}{kind}"] = read_text(index / "size")
    return found


def last_level_cache_bytes(sys_root: Path = Path("/sys")) -> int:
    """Sum of all last-level caches of the machine; 0 where the kernel does not tell."""
    cpus = sys_root / "devices/system/cpu"
    indices = sorted((cpus / "cpu0/cache").glob("index*"))
    if not indices:
        return 0
    last = max(indices, key=lambda index: int(read_text(index / "level", "0") or 0)).name
    sizes = {}
    for cpu in cpus.glob("cpu[0-9]*"):
        cache = cpu / "cache" / last
        # CPUs that share a cache name the same list, so each cache is counted once.
        sizes[read_text(cache / "shared_cpu_list", cpu.name)] = size_bytes(read_text(cache / "size"))
    return sum(sizes.values())


def meminfo_bytes(field: str) -> int:
    """A field of /proc/meminfo in bytes (`MemTotal`, `MemAvailable`); 0 where absent."""
    for line in read_text("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) * 1024
    return 0


def available_memory_bytes() -> int:
    """Memory a workload may take: what the kernel calls available, within the limits of our cgroups."""
    available = meminfo_bytes("MemAvailable")
    group = Path("/sys/fs/cgroup") / read_text("/proc/self/cgroup").rpartition("::")[2].lstrip("/")
    for level in [group, *group.parents]:
        limit = read_text(level / "memory.max", "max")
        if limit.isdigit():
            used = read_text(level / "memory.current", "0")
            available = min(available, int(limit) - int(used))
    return max(available, 0)
