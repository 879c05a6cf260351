"""What explains the numbers of a host afterwards: a few small texts of its kernel, limits and packages.

Nothing of users is among them: no environment, command line, mount option or file of theirs.
"""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from ripresa.families.benchmarks.hardware import read_text

MOST_BYTES = 256 << 10
"""Of a long text only the end is kept."""
SYSCTLS = (
    *("kernel/numa_balancing", "kernel/perf_event_paranoid", "kernel/randomize_va_space", "kernel/sched_*"),
    *("kernel/nmi_watchdog", "vm/dirty_*", "vm/nr_hugepages", "vm/overcommit_*", "vm/swappiness"),
    *("vm/zone_reclaim_mode", "net/core/rmem_max", "net/core/wmem_max", "net/ipv4/tcp_congestion_control"),
)
LIMITS = ("cpu.max", "cpu.weight", "cpuset.cpus.effective", "io.max", "memory.high", "memory.max", "pids.max")


def collect(packages: Sequence[str], since: datetime) -> dict[str, str]:
    """The texts by file name. Kernel messages are those from `since` on; `packages` are named as here.

    What cannot be read is told in its place.
    """
    epoch = int(since.timestamp())
    journal = ["journalctl", "--dmesg", "--no-pager", "--output=short-iso", f"--since=@{epoch}"]
    return {
        "cgroup.txt": _limits(),
        "kernel.txt": _said(journal, ["dmesg", "--time-format=iso", f"--since=@{epoch}"]),
        "lscpu.txt": _said(["lscpu"]),
        "meminfo.txt": read_text("/proc/meminfo", "not readable"),
        "os-release.txt": read_text("/etc/os-release", "not readable"),
        "packages.txt": _packages(packages),
        "sysctl.txt": _sysctls(),
        "uname.txt": _said(["uname", "-a"]),
    }


def write(path: str, texts: Mapping[str, str]) -> None:
    """The texts as a tar.gz, always the same for the same texts."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(texts):
            data = (texts[name].strip() + "\n").encode("utf-8", "replace")[-MOST_BYTES:]
            member = tarfile.TarInfo(f"collected/{name}")
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    Path(path).write_bytes(gzip.compress(archive.getvalue(), mtime=0))


def _said(*commands: Sequence[str]) -> str:
    """What the first of some commands says that can be used here; why not, if none can."""
    problems = []
    for command in commands:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=60, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            problems.append(f"{command[0]}: {error}")
            continue
        if done.returncode == 0:
            return done.stdout
        problems.append(f"{command[0]}: exit code {done.returncode}: {done.stderr.strip()}")
    return "\n".join(["not readable", *problems])


def _packages(names: Sequence[str]) -> str:
    if not names:
        return "none are named"
    form = r"--showformat=${Package} ${Version} ${Architecture}\n"
    return _said(["dpkg-query", "--show", form, *names], ["rpm", "--query", *names])


def _sysctls() -> str:
    root = Path("/proc/sys")
    paths = sorted(path for pattern in SYSCTLS for path in root.glob(pattern) if path.is_file())
    lines = (
        f"{'.'.join(path.relative_to(root).parts)} = {read_text(path, 'not readable')}" for path in paths
    )
    return "\n".join(lines)


def _limits() -> str:
    """The limits of the cgroup that this process is in, and of those above it."""
    own = Path("/sys/fs/cgroup") / read_text("/proc/self/cgroup").rpartition("::")[2].lstrip("/")
    levels = [level for level in (own, *own.parents) if level.is_relative_to("/sys/fs/cgroup")]
    lines = [
        f"{level / name}: {text}" for level in levels for name in LIMITS if (text := read_text(level / name))
    ]
    return "\n".join(lines) or "none"
