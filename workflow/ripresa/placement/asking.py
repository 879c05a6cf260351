"""What units ask of devices, read from their resources, and what the devices of this machine can answer."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ripresa.placement.cost import Prediction
from ripresa.placement.inventory import Device
from ripresa.placement.wishes import CPU, GPU, WHOLE, Option


class Asked(NamedTuple):
    """What a unit asks for; units that ask for the same and take equally long are one wish."""

    kinds: tuple[str, ...]
    gpus: int = 1
    share: int = WHOLE
    """Percent of a GPU, below `WHOLE` only with one of them."""
    memory_mb: int = 0
    """Of each GPU."""
    rule: str = ""
    cost: str = ""
    """The cost features by which its duration is predicted."""
    avoid: frozenset[str] = frozenset()
    """Devices on which it failed."""


Predict = Callable[[Asked, str], Prediction]
"""The expected duration of a unit on a kind of device."""


def asked(resources: Mapping[str, Any], rule: str) -> Asked | None:
    """What the resources of a unit ask for; None if they ask for no device."""
    kinds = str(resources.get("device_kinds") or "").split(",")
    gpus = _whole(resources.get("gpu"), 0)
    # `--resources gpu=0` leaves the others.
    kinds = [kind for kind in kinds if kind == CPU or (kind == GPU and gpus)]
    if not kinds:
        return None
    share = _whole(resources.get("gpu_share"), WHOLE) if gpus == 1 else WHOLE
    memory_mb = _whole(resources.get("gpu_mem_mb"), 0)
    cost = str(resources.get("cost") or "")
    if GPU not in kinds:
        gpus, share, memory_mb = 0, WHOLE, 0
    return Asked(tuple(kinds), gpus, share, memory_mb, rule, cost)


def options(unit: Asked, predict: Predict) -> tuple[Option, ...]:
    """How a unit can run, with its expected durations."""
    found = []
    for kind in unit.kinds:
        on_gpu = kind == GPU
        number, share = (unit.gpus, unit.share) if on_gpu else (1, WHOLE)
        found.append(Option(kind, number, share, unit.memory_mb if on_gpu else 0, *predict(unit, kind)))
    return tuple(found)


def impossible(unit: Asked, devices: Iterable[Device]) -> str | None:
    """Why none of these devices could ever do for a unit, even if they were all free; None if some could."""
    there = list(devices)
    if any(device.kind == CPU for device in there) and CPU in unit.kinds:
        return None
    gpus = [device for device in there if device.kind == GPU]
    if GPU not in unit.kinds:
        return "it runs on CPU slots, and there are none here"
    if not gpus:
        return "it runs on a GPU, and there is none that may be used here"
    if len(gpus) < unit.gpus:
        return f"it runs on {unit.gpus} GPUs, and there {_are(len(gpus))} here"
    large = [gpu for gpu in gpus if not gpu.memory_mb or gpu.memory_mb >= unit.memory_mb]
    if len(large) < unit.gpus:
        most = max(gpus, key=lambda gpu: gpu.memory_mb)
        of_each = f"{unit.gpus} GPUs" if unit.gpus > 1 else "a GPU"
        return (
            f"it needs {of_each} with {unit.memory_mb} MB, and there {_are(len(large))} here: "
            f"the largest is {most.name} with {most.memory_mb} MB"
        )
    return None


def _are(number: int) -> str:
    return {0: "is none", 1: "is one"}.get(number, f"are {number}")


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default
