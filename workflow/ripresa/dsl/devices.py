"""Devices: a rule says what it needs of GPUs, and the scheduler answers with the ones it gets."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ripresa.dsl.sweeps import SweepError
from ripresa.placement import assigned

if TYPE_CHECKING:
    from ripresa.dsl.units import Units

KINDS = ("gpu", "cpu")

Amount = float | Callable[[Any], float]


def devices(
    units: "Units", *, gpu: Amount = 1, memory_mb: Amount = 0, on: Sequence[str] = ("gpu",)
) -> dict[str, Any]:
    """The resources of a rule whose units run on devices of this machine.

        resources: **devices(units, gpu=0.5, memory_mb=3000, on=("gpu", "cpu"))
        shell:     guard("...", resources=("gpu_device",))

    A unit gets ``gpu`` GPUs: a whole number of them, or a part of one in steps of 0.01, which it shares with
    other units. ``memory_mb`` has to be free on each, in MB (2**20 bytes; 0: does not matter). Both may be
    functions of the wildcards. ``on`` says on what it can run: with ``("gpu", "cpu")`` the scheduler decides,
    by what ends first, and a machine without GPUs will do.

    Snakemake sees ``gpu`` (rounded up), ``gpu_share`` (percent), ``gpu_mem_mb``, ``device_kinds`` and
    ``gpu_device``, what was assigned. The last is empty where another executor assigns devices: SLURM is
    asked for ``gpu`` of them.

    Raises SweepError for amounts and kinds that make no sense.
    """
    where = f"{units.pattern}: devices"
    kinds = tuple(on)
    if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(KINDS):
        raise SweepError(where, f"on {kinds!r} is not one or both of {', '.join(KINDS)}")
    if "gpu" not in kinds:
        gpu = memory_mb = 0
    elif not callable(gpu):
        _number(where, gpu)
    if not callable(memory_mb) and not 0 <= memory_mb < math.inf:
        raise SweepError(where, f"memory_mb {memory_mb!r} is not 0 or more")
    units.device_kinds = ",".join(kinds)
    return {
        "gpu": _each(gpu, lambda amount: _number(where, amount)[0] if amount else 0),
        "gpu_share": _each(gpu, lambda amount: _number(where, amount)[1] if amount else 100),
        "gpu_mem_mb": _each(memory_mb, math.ceil),
        "device_kinds": units.device_kinds,
        "gpu_device": lambda wildcards: assigned.of(units.pattern.format(**dict(wildcards.items()))),
    }


def _number(where: str, gpu: float) -> tuple[int, int]:
    """How many GPUs these are, and how many percent of each."""
    percent = round(gpu * 100)
    if not 0 < gpu < math.inf or abs(percent - gpu * 100) > 1e-6 or (gpu > 1 and percent % 100):
        raise SweepError(where, f"gpu {gpu!r} is not a whole number, nor a part of 1 in steps of 0.01")
    return (1, percent) if percent < 100 else (percent // 100, 100)


def _each(amount: Amount, made: Callable[[float], int]) -> int | Callable[[Any], int]:
    """The same of an amount, or of what a function of the wildcards gives."""
    if callable(amount):
        return lambda wildcards: made(amount(wildcards))
    return made(amount)
