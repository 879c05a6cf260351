"""The experiments that config/experiments.yaml asks for: what the rule file has to know when it is parsed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from ripresa.dsl.digests import digest
from ripresa.dsl.sweeps import SweepError, sweep
from ripresa.families.experiments import ExperimentError, architecture, parameters, plots

Config = Mapping[str, Any]
Experiments = dict[str, parameters.Parameters]
"""Parameter sets by their digests, in the order of the sweep."""

SHOWN = 5
_SHAPE = ("dataset", "model_type", "width_factor", "depth", "batch_size")
"""What the cost and the memory of an experiment depend on."""


class Phase(NamedTuple):
    """A part of the study: a list of experiments, some of which other phases may have too."""

    name: str
    experiments: Experiments


def phases(config: Config) -> list[Phase]:
    """The phases of an `experiments` section (valid under its schema), in their order.

    ExperimentError, one line for each problem with the place that it is at, for what the schema cannot see.
    """
    found, problems = [], []
    for name, phase in config["phases"].items():
        if name == "experiments":
            where = f"experiments.phases.{name}"
            problems.append(f"{where}: EXPERIMENTS is the target of all phases; take another name")
            continue
        try:
            found.append(Phase(name, _experiments(config, f"experiments.phases.{name}", phase)))
        except (ExperimentError, SweepError) as error:
            problems.append(str(error))
    if problems:
        raise ExperimentError("\n".join(problems))
    return found


def union(found: Iterable[Phase]) -> Experiments:
    """All experiments of some phases, each once however many of them have it."""
    return {name: one for phase in found for name, one in phase.experiments.items()}


def plan(config: Config) -> dict[str, Any]:
    """What an `experiments` section asks for, as plain JSON data.

    - "experiments": by digest the ``parameters``, the ``cost`` features and the ``gpu_mem_mb`` of each;
    - "phases": in their order the ``name``, the ``digests``, the ``plots`` that say something about it, and
      ``definition``: the part of the section from which `phases` gives it alone. That is JSON as text, since
      the order of its keys is that of the experiments.
    """
    found = phases(config)
    return {
        "experiments": {
            name: {"parameters": one, **_needs(*(one[key] for key in _SHAPE))}
            for name, one in union(found).items()
        },
        "phases": [
            {
                "name": phase.name,
                "digests": list(phase.experiments),
                "plots": plots.possible(phase.experiments.values()),
                "definition": _definition(config, phase.name),
            }
            for phase in found
        ],
    }


def _experiments(config: Config, where: str, phase: Config) -> Experiments:
    points = sweep(phase["sweep"], config["presets"], f"{where}.sweep")
    if any("seed" in point for point in points):
        raise ExperimentError(f"{where}.sweep: seed is given by seeds, of the phase or of all; name it there")
    found: Experiments = {}
    problems: dict[str, None] = {}
    for point in points:
        for seed in phase.get("seeds") or config["seeds"]:
            try:
                one = parameters.canonical({**config["defaults"], **point, "seed": seed})
            except ExperimentError as error:
                problems[f"{where}: {error}"] = None
                continue
            found.setdefault(digest(one), one)
    if problems:
        shown = list(problems)[:SHOWN]
        more = len(problems) - len(shown)
        raise ExperimentError("\n".join([*shown, *([f"{where}: and {more} more problems"] if more else [])]))
    return found


def _definition(config: Config, name: str) -> str:
    shared = {key: config[key] for key in ("defaults", "presets", "seeds")}
    return json.dumps({**shared, "phases": {name: config["phases"][name]}})


@cache
def _needs(*shape: Any) -> dict[str, Any]:
    one = dict(zip(_SHAPE, shape, strict=True))
    return {"cost": architecture.cost(one), "gpu_mem_mb": architecture.gpu_mem_mb(one)}
