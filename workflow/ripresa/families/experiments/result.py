"""The result of an experiment, as its file has it (workflow/schemas/experiment_result.schema.json)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ripresa.families.experiments.architecture import num_parameters
from ripresa.families.experiments.federated import Judged
from ripresa.families.experiments.training import Outcome

MEASURES = ("test_accuracy", "test_loss", "val_accuracy", "val_loss")


def document(digest: str, parameters: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    """What does not depend on how the experiment was computed.

    ``metrics`` are of the best weights on all images, ``per_client`` on the part of each client. Both hold
    nulls where training diverged: it has no weights worth a number, and `reason` says why.
    """
    state = outcome.state
    values: dict[str, list[float]] = {}
    metrics: dict[str, float | None] = dict.fromkeys([*MEASURES, "train_loss"])
    for prefix, judged in (("test", outcome.test), ("val", outcome.validation)):
        if judged is not None:
            values |= _by_client(prefix, judged)
            metrics[f"{prefix}_accuracy"] = float(judged.right.mean())
            metrics[f"{prefix}_loss"] = float(judged.losses.mean())
            metrics["train_loss"] = state.history[state.best_round - 1]["train_loss"]
    return {
        "digest": digest,
        "parameters": dict(parameters),
        "status": "diverged" if outcome.reason else "ok",
        "failure_class": "numerical" if outcome.reason else None,
        "reason": outcome.reason,
        "metrics": metrics,
        "per_client": {name: _summary(values.get(name)) for name in MEASURES},
        "num_parameters": num_parameters(parameters),
        "best_epoch": state.best_round,
        "rounds_run": state.round,
        "history": state.history,
    }


def _by_client(prefix: str, judged: Judged) -> dict[str, list[float]]:
    return {
        f"{prefix}_accuracy": [float(judged.right[part].mean()) for part in judged.clients],
        f"{prefix}_loss": [float(judged.losses[part].mean()) for part in judged.clients],
    }


def _summary(values: list[float] | None) -> dict[str, Any]:
    """Mean and standard deviation (of the population) over the clients, and their values in order."""
    if values is None:
        return {"mean": None, "std": None, "values": None}
    return {"mean": float(np.mean(values)), "std": float(np.std(values)), "values": values}


def write(path: str, result: Mapping[str, Any]) -> None:
    """Write a result as JSON."""
    with open(path, "w", encoding="ascii") as file:
        file.write(json.dumps(result, indent=1, allow_nan=False) + "\n")
