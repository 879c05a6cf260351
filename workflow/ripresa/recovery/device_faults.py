"""Whether a failure is the fault of the very device it happened on, so that no unit should get it again.

That takes more than a failure of class gpu_fault, which a program can bring about as well: a line that says
so of the hardware (in the attempt's log, or in the kernel's while it ran), or that NVML has lost the device.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence

from ripresa.journal.devices import is_slot
from ripresa.placement import nvml, rocm

_XID = re.compile(
    r"\bXid\b[ :]*(?:\((?:PCI:)?(?P<address>[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2})[^)]*\))?[ :]*"
    r"(?:error:? ?)?(?P<number>\d{1,3})\b",
    re.I,
)
PROGRAM_XIDS = frozenset({8, 11, 13, 25, 31, 32, 43, 45, 68, 69, 137})
"""Errors after which the GPU is as well as before, for they are a program's (or tell of another error):
illegal addresses and commands, and the cleaning up after them. NVIDIA's catalog has the application
restarted, or nothing done; after all others the GPU has to be reset, or is about to need it."""

_HARDWARE = re.compile(
    r"fallen off the bus|GPU(?: is| was)? lost\b|unable to determine the device handle|RmInitAdapter failed"
    r"|(?<!\b0 )(?<!\bno )\buncorrectable (?:ECC|SRAM|DRAM|NVLink|memory)(?!.{0,20}[:=] *0\b)"
    r"|double[- ]bit ECC|ECC_?UNCORRECTABLE|ECCUncorrectable|ECCNotCorrectable|row[- ]remap\w* failure"
    r"|GPU (?:requires|needs) (?:a )?reset|GPU device .{0,30}unhealthy|amdgpu.{0,60}poison",
    re.I,
)
_KERNEL = re.compile(rb"\d+,\d+,(\d+),[^;]*;(.*)")
_RECORD = 8192
_PATIENCE_S = 30.0
_PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_SHOWN = 300
_TELLING = 4
"""Shorter names (``0``) are in too many lines to mean anything there."""


def faults(names: Sequence[str], log: str, seconds: float) -> dict[str, str]:
    """Those of the devices of a failed attempt that are broken, and what says so.

    ``log`` is what the command printed, ``seconds`` how long ago it was started. Of several devices only
    those are blamed that are named.
    """
    gpus = [name for name in names if not is_slot(name)]
    known = _known()
    found = {name: problem for name in gpus if (problem := _lost(name, known))}
    places = {name: known[name][0] for name in gpus if name in known}
    unnamed = gpus if len(gpus) == 1 else []
    lines = [(line, unnamed) for line in log.splitlines()] + [(line, []) for line in _kernel(seconds)]
    for line, otherwise in lines:
        evidence = _evidence(line)
        if evidence is None:
            continue
        address = nvml.shortened(evidence.groupdict().get("address") or "")
        meant = [name for name in gpus if _names(line, name) or (address and places.get(name) == address)]
        if not meant and address not in {place for place, _ in known.values()}:
            meant = otherwise
        for name in meant:
            found.setdefault(name, line.strip()[:_SHOWN])
    return found


def _evidence(line: str) -> re.Match[str] | None:
    """What a line says about hardware that is broken, if it does."""
    xid = _XID.search(line)
    if xid is not None:
        return None if int(xid["number"]) in PROGRAM_XIDS else xid
    return _HARDWARE.search(line)


def _names(line: str, name: str) -> bool:
    return len(name) >= _TELLING and bool(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", line))


def _known() -> dict[str, tuple[str, str]]:
    """PCI address and problem of the GPUs that NVML knows, by UUID.

    Asked by another process, which has the installed packages and may hang, as what asks a lost GPU may.
    """
    path = os.pathsep.join(filter(None, [_PACKAGES, os.environ.get("PYTHONPATH")]))
    try:
        asked = subprocess.run(
            [sys.executable, "-m", nvml.__name__],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_S,
            check=True,
        )
        return {uuid: (address, problem) for uuid, address, problem in json.loads(asked.stdout)}
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}


def _lost(name: str, known: dict[str, tuple[str, str]]) -> str:
    """What NVML says of a device that it has lost; empty if it has not, or does not know."""
    if name in known:
        return f"NVML: {known[name][1]}" if known[name][1] else ""
    is_gone = bool(known) and name.startswith(nvml.UUIDS) and name not in {gpu.name for gpu in rocm.gpus({})}
    return "NVML: no such GPU any more" if is_gone else ""


def _kernel(seconds: float) -> Iterator[str]:
    """What the kernel said within so many seconds, if this user may read it."""
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        with open("/proc/uptime") as file:
            since = (float(file.read().split()[0]) - seconds) * 1e6
        while True:
            try:
                record = os.read(fd, _RECORD)
            except BrokenPipeError:  # overwritten meanwhile
                continue
            except OSError:
                return
            parts = _KERNEL.match(record)
            if parts and int(parts[1]) >= since:
                yield parts[2].decode("utf-8", "replace")
    finally:
        os.close(fd)
