"""The system fingerprint: what the numbers of a host depend on and what does not change by itself.

Everything here is stable over time and reboots (no free memory, no clock readings, no device names), so a
different digest means different hardware or software, and the repetitions are measured again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from ripresa.families.benchmarks.hardware import (
    caches,
    last_level_cache_bytes,
    meminfo_bytes,
    read_text,
    usable_cpus,
)

CPUS = Path("/sys/devices/system/cpu")
LIBRARIES = ("numpy", "scipy", "numba", "llvmlite")
# The kernel keeps a few varying pages of its own at boot; whole parts of 64 MiB hide them.
MEMORY_GRAIN = 64 << 20

# Names of the fields in /proc/cpuinfo on x86, Arm, POWER and RISC-V
_MODEL_FIELDS = ("model name", "Processor", "cpu", "CPU part", "uarch", "isa")


def collect(folder: str | Path) -> dict[str, Any]:
    """The fingerprint of this machine with the disk that holds `folder` (or its nearest existing parent)."""
    return {
        "cpu": _cpu(),
        "memory_mib": round(meminfo_bytes("MemTotal") / MEMORY_GRAIN) * (MEMORY_GRAIN >> 20),
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": _disk(Path(folder)),
        "python": platform.python_version(),
        "libraries": {name: version for name in LIBRARIES if (version := _version(name))},
    }


def digest(system: dict[str, Any]) -> str:
    """12 hexadecimal digits that change if and only if the fingerprint does."""
    text = json.dumps(system, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _cpu() -> dict[str, Any]:
    fields: dict[str, str] = {}
    for line in read_text("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    frequency = CPUS / "cpu0" / "cpufreq"
    return {
        "architecture": platform.machine(),
        "model": next((fields[name] for name in _MODEL_FIELDS if fields.get(name)), "unknown"),
        "microcode": fields.get("microcode", ""),
        "logical": os.cpu_count(),
        "usable": usable_cpus(),
        "cores": _different("topology/thread_siblings_list"),
        "sockets": _different("topology/physical_package_id"),
        "caches": caches(),
        "last_level_cache_bytes": last_level_cache_bytes(),
        "max_khz": read_text(frequency / "cpuinfo_max_freq"),
        "governor": read_text(frequency / "scaling_governor", "none"),
        "mitigations": {
            path.name: read_text(path).split(";")[0] for path in sorted((CPUS / "vulnerabilities").glob("*"))
        },
    }


def _different(name: str) -> int:
    """How many different texts a file of each CPU under /sys has; 0 where there are no such files."""
    return len({read_text(path) for path in CPUS.glob(f"cpu[0-9]*/{name}")})


def _disk(folder: Path) -> dict[str, Any]:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    kind, source, options = _mount(folder.resolve())
    found: dict[str, Any] = {"file_system": kind, "options": sorted(options.split(","))}
    if not source.startswith("/dev/"):  # names of devices may change from boot to boot, those of servers not
        found["source"] = source
    number = os.stat(source).st_rdev if Path(source).is_block_device() else os.stat(folder).st_dev
    block = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if block.exists():
        whole = block.resolve() if (block / "queue").exists() else block.resolve().parent
        found |= {
            "model": read_text(whole / "device/model"),
            "sectors": int(read_text(whole / "size", "0")),
            "rotational": read_text(whole / "queue/rotational") == "1",
            "scheduler": read_text(whole / "queue/scheduler"),
        }
    return found


def _mount(folder: Path) -> tuple[str, str, str]:
    """File system, source and options of what is mounted where `folder` lies (proc_pid_mountinfo(5))."""
    best, found = -1, ("unknown", "unknown", "")
    for line in read_text("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        mounted, options = left.split()[4:6]
        mounted = mounted.replace("\\040", " ")
        # Of several mounts on one folder the last hides the others.
        if len(mounted) >= best and folder.is_relative_to(mounted):
            kind, source, *_ = right.split()
            best, found = len(mounted), (kind, source, options)
    return found


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
