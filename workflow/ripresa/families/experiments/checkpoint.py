"""Where a training stands, kept so that a killed process loses at most the round it was in.

It is saved after each round, and after a client where rounds take long.

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

_FORMAT = 2
_SUFFIX = ".npz"


@dataclass
class State:
    """A training after ``round`` rounds (0 before the first) and some clients of the next one."""

    weights: Vector
    best_weights: Vector
    round: int = 0
    best_round: int = 0
    best_loss: float = float("inf")
    """The validation loss after `best_round`."""
    sent: list[Vector] = field(default_factory=list)
    """The weights of the clients that have trained in the next round."""
    losses: list[float] = field(default_factory=list)
    """The mean training loss of each of them."""
    history: list[dict[str, Any]] = field(default_factory=list)
    elapsed_s: float = 0.0
    """Time of all that was computed so far, in whatever process they were computed."""
    segments: list[dict[str, Any]] = field(default_factory=list)
    """What computed it: one entry for each process, with the round that it began or went on with."""


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
                weights, best_weights, sent = saved["weights"], saved["best_weights"], saved["sent"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            say(f"checkpoint {self.path} is damaged ({error}): starting from the first round")
            return None
        if [header["format"], header["parameters"], len(weights)] != self._identity:
            say(f"checkpoint {self.path} is of another experiment: starting from the first round")
            return None
        return State(weights, best_weights, sent=list(sent), **header["state"])

    def save(self, state: State) -> None:
        """Replace it by this state, at once and for good."""
        fields = dict(vars(state))
        arrays = {name: fields.pop(name) for name in ("weights", "best_weights", "sent")}
        header = {"format": _FORMAT, "parameters": self._identity[1], "state": fields}
        with open(self.path + ".tmp", "wb") as file:
            np.savez(file, header=json.dumps(header), **arrays)
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
