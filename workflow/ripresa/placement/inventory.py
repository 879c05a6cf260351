"""The devices of this machine: its GPUs, as far as they may be used here, and slots for units without one.

``settings`` is the section `devices` of config/config.yaml, ``environment`` that of the controller.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ripresa.journal import devices as leased
from ripresa.placement import nvml, rocm
from ripresa.placement.visible import named, selected
from ripresa.placement.wishes import CPU, GPU

FOREIGN_MB = 300
"""A process that computes on a GPU takes so much of its memory before it does anything."""


class Device(NamedTuple):
    """Something that one unit, or a few that share it, may use at a time."""

    name: str
    """The same for everybody on this machine: the UUID of a GPU."""
    kind: str
    """`assignment.GPU` or `assignment.CPU`."""
    memory_mb: int = 0
    """0 if unknown, as for `free_mb`."""
    free_mb: int = 0
    model: str = ""
    visible: str = ""
    """What CUDA_VISIBLE_DEVICES must say for a command to see it; empty for a slot, which hides all GPUs."""


class Inventory(NamedTuple):
    """What a look at the machine found."""

    devices: list[Device]
    problems: list[str]
    """What keeps GPUs from being used, one line each."""


def devices(settings: Mapping[str, Any], environment: Mapping[str, str]) -> list[Device]:
    """The devices that units may be given, with their memory as it is now.

    May be asked again and again: what is slow is done in the first call.
    """
    return look(settings, environment).devices


def look(settings: Mapping[str, Any], environment: Mapping[str, str]) -> Inventory:
    """The devices that units may be given, and what is wrong with others.

    GPUs are those that the variables of CUDA and ROCm let through, or the configured ones. A configured name
    means what it means in CUDA_VISIBLE_DEVICES; one of which the machine knows nothing stands for itself.
    """
    gpus, problems = _usable(environment)
    configured = settings.get("gpus", "auto")
    if configured != "auto":
        gpus, more = _configured(configured, gpus)
        problems += more
    slots = [Device(f"{leased.SLOT}{number}", CPU) for number in range(settings.get("cpu_slots", 0))]
    return Inventory([*gpus, *slots], problems)


def busy(device: Device, settings: Mapping[str, Any]) -> str:
    """Why a GPU is to be left alone: what processes without a lease of it use there. Empty if it is not.

    Processes that cannot be looked at (other users', other containers') count as those of whoever leases it,
    and without a lease the memory that is in use tells of such that the driver does not even name.
    """
    if device.kind != GPU:
        return ""
    running, drawn_mb = _running(device.name)
    is_leased = bool(leased.held([device.name]))
    strangers = [one for one in running if not _is_lessee(device.name, one.pid, is_leased)]
    used_mb = sum(one.used_mb or 0 for one in strangers)
    if (running and not strangers) or (not running and is_leased):
        return ""
    if not running or any(one.used_mb is None for one in strangers):
        used_mb = device.memory_mb - device.free_mb - drawn_mb
    if used_mb <= settings.get("foreign_mb", FOREIGN_MB):
        return ""
    by = f" by process {', '.join(str(one.pid) for one in strangers)}" if strangers else ""
    return f"{used_mb} MB of it are in use{by} without a lease"


def _usable(environment: Mapping[str, str]) -> tuple[list[Device], list[str]]:
    """The GPUs that the variables of an environment let through, and what is wrong with others."""
    library = nvml.nvml()
    found = library.gpus() if library else []
    chosen = selected(
        environment.get("CUDA_VISIBLE_DEVICES"), [gpu.uuid for gpu in found], [gpu.parent for gpu in found]
    )
    gpus = [
        Device(gpu.uuid, GPU, gpu.memory_mb, gpu.free_mb, gpu.model, gpu.uuid)
        for gpu in (found[place] for place in chosen)
        if not gpu.problem
    ]
    problems = [f"NVML does not work: {nvml.refusal()}"] if nvml.refusal() else []
    problems += [f"GPU {gpu.number}, {gpu.uuid}: {gpu.problem}" for gpu in found if gpu.problem]
    if _is_ambiguous(environment, found):
        problems.append(
            "CUDA_VISIBLE_DEVICES has indices and the GPUs are of several models; they are counted by PCI "
            "address here, which CUDA does with CUDA_DEVICE_ORDER=PCI_BUS_ID only"
        )
    gpus += [
        Device(gpu.name, GPU, gpu.memory_mb, gpu.free_mb, gpu.model, gpu.name)
        for gpu in rocm.gpus(environment)
    ]
    return gpus, problems


def _is_ambiguous(environment: Mapping[str, str], found: Sequence[nvml.Gpu]) -> bool:
    """Whether CUDA itself may mean another GPU by an index."""
    by_index = environment.get("CUDA_VISIBLE_DEVICES", "").strip()[:1].isdecimal()
    by_address = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    return (
        by_index and not by_address and len({gpu.model for gpu in found if gpu.model and not gpu.parent}) > 1
    )


def _configured(
    entries: Sequence[str | int | Mapping[str, Any]], found: Sequence[Device]
) -> tuple[list[Device], list[str]]:
    """The configured GPUs among those found, and others that stand for themselves."""
    names = [gpu.name for gpu in found]
    chosen: dict[str, Device] = {}
    problems = []
    for entry in entries:
        given: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {"name": str(entry)}
        name, memory_mb = given["name"], given.get("memory_mb", 0)
        meant = named(name, names, names)
        if meant is not None:
            chosen[meant] = found[names.index(meant)]
        elif names and name.startswith(nvml.UUIDS):
            problems.append(f"devices.gpus has {name}, which this machine does not (any more)")
        else:
            chosen[name] = Device(name, GPU, memory_mb, memory_mb, given.get("model", ""), name)
    return list(chosen.values()), problems


def _running(name: str) -> tuple[list[nvml.Process], int]:
    """Who computes on a GPU now, and the memory that is used for drawing, in MB."""
    library = nvml.nvml()
    if library is not None and (found := library.processes(name)):
        return found, 0
    if library is not None and library.knows(name):
        return [], sum(one.used_mb or 0 for one in library.desktop(name))
    return [nvml.Process(pid, used) for pid, used in rocm.processes(name)], 0


def _is_lessee(name: str, pid: int, is_leased: bool) -> bool:
    """Whether a process belongs to a lease of a device, as far as it can be told."""
    try:
        lock = os.stat(leased.path_of(name))
        for number in os.listdir(f"/proc/{pid}/fd"):
            try:
                there = os.stat(f"/proc/{pid}/fd/{number}")
            except OSError:  # closed meanwhile
                continue
            if (there.st_dev, there.st_ino) == (lock.st_dev, lock.st_ino):
                return True
    except OSError:
        return is_leased
    return False
