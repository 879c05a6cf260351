"""The devices of this machine: its GPUs, as far as they may be used here, and slots for units without one.

``settings`` is the section `devices` of config/config.yaml, ``environment`` that of the controller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ripresa.placement import nvml
from ripresa.placement.assignment import CPU, GPU

VISIBLE = "CUDA_VISIBLE_DEVICES"


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


def devices(settings: Mapping[str, Any], environment: Mapping[str, str]) -> list[Device]:
    """The devices that units may be given, with their memory as it is now.

    May be asked again and again: what is slow is done in the first call.
    """
    configured = settings.get("gpus", "auto")
    gpus = _found(environment) if configured == "auto" else _configured(configured)
    return [*gpus, *(Device(f"cpu{number}", CPU) for number in range(settings.get("cpu_slots", 0)))]


def _found(environment: Mapping[str, str]) -> list[Device]:
    library = nvml.nvml()
    if library is None or environment.get(VISIBLE) == "":
        return []
    return [
        Device(gpu.uuid, GPU, gpu.memory_mb, gpu.free_mb, gpu.model, gpu.uuid)
        for gpu in library.gpus()
        if not gpu.problem
    ]


def _configured(entries: Sequence[str | Mapping[str, Any]]) -> list[Device]:
    given = [{"name": entry} if isinstance(entry, str) else entry for entry in entries]
    return [_stand_in(one["name"], one.get("memory_mb", 0), one.get("model", "")) for one in given]


def _stand_in(name: str, memory_mb: int, model: str) -> Device:
    """A GPU of which nothing is known but what the configuration says."""
    return Device(name, GPU, memory_mb, memory_mb, model, name)
