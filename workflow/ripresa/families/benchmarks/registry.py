"""The workloads by name.

A workload is a module of this package with

    PRESETS: {"low": {parameter: value}, "medium": {...}, "high": {...}}
    def run(parameters: dict, scratch: str) -> Measurement
    def unavailable() -> str | None         only if it needs more than this package

and a line in `MODULES`. `scratch` is a folder for temporary files on the disk under test. The module is
imported when the workflow is parsed, so costly imports (numba, scipy) belong inside `run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from ripresa.families.benchmarks.measurement import BenchmarkError, Measurement

MODULES = {
    "baseline": "baseline",
    "disk": "disk",
    "fio": "fio",
    "linpack": "linpack",
    "stream": "stream",
    "stress-ng": "stress_ng",
    "sysbench": "sysbench",
}


class Workload(Protocol):
    """The shape of a workload module."""

    PRESETS: Mapping[str, Mapping[str, Any]]

    def run(self, parameters: Mapping[str, Any], scratch: str) -> Measurement:
        """Measure once; BenchmarkError if no valid number came out."""


def load(name: str) -> Workload:
    """The module of a workload; BenchmarkError for an unknown name."""
    if name not in MODULES:
        raise BenchmarkError(f"workload {name!r} is unknown: choose from {', '.join(sorted(MODULES))}")
    return cast(Workload, import_module(f"{__package__}.{MODULES[name]}"))


def unavailable(name: str) -> str | None:
    """Why a workload cannot run on this machine, None if it can. Cheap enough for parse time."""
    reason = getattr(load(name), "unavailable", None)
    return reason() if reason else None


def parameters(name: str, preset: str = "low", overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The preset's parameters with the user's overrides on top; BenchmarkError names an unknown one."""
    presets = load(name).PRESETS
    if preset not in presets:
        raise BenchmarkError(f"{name}: preset {preset!r} is unknown: choose from {', '.join(presets)}")
    known = presets[preset]
    if unknown := sorted(set(overrides or {}) - set(known)):
        raise BenchmarkError(f"{name}: unknown parameter {unknown[0]!r}: choose from {', '.join(known)}")
    return {**known, **(overrides or {})}
