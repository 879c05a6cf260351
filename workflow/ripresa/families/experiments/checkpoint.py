"""Where a training stands after a round, kept so that a killed process loses at most the round it was in.

Random numbers need no room in it: those of a round follow from its number (`randomness`). Nor does the
momentum, which begins anew at each client in each round.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ripresa.families.experiments.architecture import num_parameters
from ripresa.families.experiments.weights import Vector

_FORMAT = 1
_SUFFIX = ".npz"


@dataclass
class State:
    """A training after ``round`` rounds (0 before the first)."""

    weights: Vector
    best_weights: Vector
    round: int = 0
    best_round: int = 0
    best_loss: float = float("inf")
    """The validation loss after `best_round`."""
    history: list[dict[str, Any]] = field(default_factory=list)
    elapsed_s: float = 0.0
    """Time of all rounds so far, in whatever process they were computed."""
    segments: list[dict[str, Any]] = field(default_factory=list)
    """What computed the rounds: one entry for each process, with the first of its rounds."""


class Checkpoint:
    """The checkpoint of one experiment in a folder."""

    def __init__(self, folder: str, name: str, parameters: Mapping[str, Any]) -> None:
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, name + _SUFFIX)
        self._identity = [_FORMAT, dict(parameters), num_parameters(parameters)]

    def load(self, say: Callable[[str], None] = print) -> State | None:
        """The state in it; None if there is none that can be used, which is said."""
        try:
            with np.load(self.path, allow_pickle=False) as saved:
                header = json.loads(str(saved["header"]))
                weights, best_weights = saved["weights"], saved["best_weights"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            say(f"checkpoint {self.path} is damaged ({error}): starting from the first round")
            return None
        if [header["format"], header["parameters"], len(weights)] != self._identity:
            say(f"checkpoint {self.path} is of another experiment: starting from the first round")
            return None
        return State(weights, best_weights, **header["state"])

    def save(self, state: State) -> None:
        """Replace it by this state, at once and for good."""
        fields = {name: value for name, value in vars(state).items() if not isinstance(value, np.ndarray)}
        header = {"format": _FORMAT, "parameters": self._identity[1], "state": fields}
        with open(self.path + ".tmp", "wb") as file:
            np.savez(file, header=json.dumps(header), weights=state.weights, best_weights=state.best_weights)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.path + ".tmp", self.path)


def remove_finished(folder: str, results: str) -> None:
    """Remove the checkpoints of experiments whose result is in the folder ``results``.

    A result exists only once it has been published, after the process that computed it, so that another one
    has to do this.
    """
    with suppress(OSError):
        for name in os.listdir(folder):
            if name.endswith(_SUFFIX) and os.path.exists(f"{results}/{name.removesuffix(_SUFFIX)}.json"):
                os.unlink(f"{folder}/{name}")
