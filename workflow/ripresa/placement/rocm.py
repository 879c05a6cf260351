"""AMD GPUs as their kernel driver tells of them in sysfs, in the order in which ROCm counts them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ripresa.placement.visible import selected

MB = 1 << 20
ROOT = "/sys"
_NODES = "class/kfd/kfd/topology/nodes"
_PROCESSES = "class/kfd/kfd/proc"


class Gpu(NamedTuple):
    """A GPU that ROCm can use."""

    name: str
    """Its UUID as ROCm writes it; its index where the model has none."""
    kfd_id: str
    """By which the driver's table of processes names it."""
    model: str
    memory_mb: int
    free_mb: int


def gpus(environment: Mapping[str, str]) -> list[Gpu]:
    """The GPUs that the variables of an environment let through.

    HIP_VISIBLE_DEVICES, or CUDA_VISIBLE_DEVICES without it, counts among what ROCR_VISIBLE_DEVICES leaves.
    """
    found = _filtered(list(_all()), environment.get("ROCR_VISIBLE_DEVICES"))
    return _filtered(found, environment.get("HIP_VISIBLE_DEVICES") or environment.get("CUDA_VISIBLE_DEVICES"))


def processes(name: str) -> list[tuple[int, int]]:
    """Who computes on a GPU now: process and device memory in MB."""
    kfd_id = next((gpu.kfd_id for gpu in _all() if gpu.name == name), None)
    return [
        (int(pid), used // MB)
        for pid in (_entries(f"{ROOT}/{_PROCESSES}") if kfd_id else ())
        if pid.isdecimal() and (used := _number(f"{ROOT}/{_PROCESSES}/{pid}/vram_{kfd_id}"))
    ]


def _filtered(found: list[Gpu], value: str | None) -> list[Gpu]:
    return [found[place] for place in selected(value, [gpu.name for gpu in found])]


def _all() -> Iterator[Gpu]:
    index = 0
    nodes = (node for node in _entries(f"{ROOT}/{_NODES}") if node.isdecimal())
    for node in sorted(nodes, key=int):
        path = f"{ROOT}/{_NODES}/{node}"
        properties = _properties(f"{path}/properties")
        if not int(properties.get("simd_count", "0")):  # a processor
            continue
        card = f"{ROOT}/class/drm/renderD{properties.get('drm_render_minor', '')}/device"
        total = _number(f"{card}/mem_info_vram_total")
        unique = int(properties.get("unique_id", "0"))
        yield Gpu(
            name=f"GPU-{unique:016x}" if unique else str(index),
            kfd_id=_text(f"{path}/gpu_id"),
            model=_text(f"{card}/product_name") or _text(f"{path}/name"),
            memory_mb=total // MB,
            free_mb=max(0, total - _number(f"{card}/mem_info_vram_used")) // MB,
        )
        index += 1


def _properties(path: str) -> dict[str, str]:
    lines = (line.split() for line in _text(path).splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2 and words[1].isdecimal()}


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _number(path: str) -> int:
    text = _text(path)
    return int(text) if text.isdecimal() else 0


def _text(path: str) -> str:
    """What a file of sysfs says; empty where there is none, or it may not be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
