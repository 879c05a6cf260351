"""The workloads by name: a YAML file each, packaged or the user's own, or written out in
config/benchmarks.yaml.

Files are valid (`ripresa.configuration.definitions` sees to the user's, tests to the packaged ones); what
is read here is brought into the form in which it travels with units.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

PACKAGED = Path(__file__).parent / "workloads"
OWN = Path("config/workloads")

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def names(own: str | os.PathLike[str] = OWN) -> list[str]:
    """All workloads that have a file."""
    return sorted({path.stem for folder in (PACKAGED, Path(own)) for path in folder.glob("*.yaml")})


def load(
    name: str, inline: Mapping[str, Any] | None = None, own: str | os.PathLike[str] = OWN
) -> Mapping[str, Any]:
    """A workload as it is written: `inline` if that has a command, else the user's file, else ours."""
    if inline and "command" in inline:
        return inline
    path = Path(own, f"{name}.yaml")
    with open(path if path.exists() else PACKAGED / path.name, "rb") as file:
        found: Mapping[str, Any] = yaml.load(file, Loader=_LOADER)
    return found


def parameters(
    workload: Mapping[str, Any], preset: str, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All parameters of a workload: defaults, then what its preset says, then the user's values."""
    said = {**workload.get("presets", {}).get(preset, {}), **(overrides or {})}
    return {
        name: said.get(name, about.get("default")) for name, about in workload.get("parameters", {}).items()
    }


def definition(workload: Mapping[str, Any]) -> dict[str, Any]:
    """What `running.measure` has to know of a workload, beside values of its parameters."""
    command = workload["command"]
    return {
        "needs": workload.get("needs", {}),
        "command": [{"name": "command", "run": command}] if isinstance(command, str) else command,
        "metrics": workload["metrics"],
        "details": workload.get("details", []),
        **{key: workload[key] for key in ("version", "peer") if key in workload},
    }
