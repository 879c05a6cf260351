"""Federated training under poisoning: rounds of local training and aggregation, with early stopping."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ripresa.families.experiments import Diverged, clients, poisoning
from ripresa.families.experiments.aggregation import AGGREGATORS
from ripresa.families.experiments.checkpoint import Checkpoint, State
from ripresa.families.experiments.datasets import Dataset, Labels
from ripresa.families.experiments.randomness import Purpose, stream
from ripresa.families.experiments.weights import Vector, initial

LOSS_LIMIT = 1000.0
"""Mean training loss (nats) of a client beyond which a round has diverged; guessing is ln 10 = 2.3."""
_LEAST_TRAINED, _LEAST_JUDGED = 10, 1

Samples = TypeVar("Samples")


class Backend(Protocol[Samples]):
    """What computes: see `numpy_backend`."""

    name: str
    versions: dict[str, str]

    def load(self, images: NDArray[np.float32], labels: Labels) -> Samples: ...

    def train(
        self, start: Vector, samples: Samples, orders: list[NDArray[np.intp]]
    ) -> tuple[Vector, float]: ...

    def evaluate(
        self, weights: Vector, samples: Samples
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]: ...


class Judged(NamedTuple):
    """Loss of each sample of a part of the data set, whether it was classified rightly, and whose it is."""

    losses: NDArray[np.float64]
    right: NDArray[np.bool_]
    clients: list[clients.Indices]


class Outcome(NamedTuple):
    """How a training ended: what its best weights do, or why there are none."""

    state: State
    validation: Judged | None
    test: Judged | None
    reason: str | None


class Federation(Generic[Samples]):
    """Clients with their samples, and a server with the validation and test images."""

    def __init__(self, parameters: Mapping[str, Any], dataset: Dataset, backend: Backend[Samples]) -> None:
        self.parameters, self.backend = parameters, backend
        count, seed = parameters["clients"], parameters["seed"]
        shares = clients.proportions(parameters["alpha"], count, seed)

        def divided(part: int, least: int) -> list[clients.Indices]:
            rng = stream(seed, Purpose.SPLIT, part)
            return clients.divide(dataset[part].labels, shares, count, rng, least)

        self._validation = backend.load(*dataset.validation)
        self._test = backend.load(*dataset.test)
        own = divided(0, _LEAST_TRAINED)
        self._validated, self._tested = divided(1, _LEAST_JUDGED), divided(2, _LEAST_JUDGED)
        self._counts = [len(part) for part in own]
        poison = poisoning.shares(parameters["poison_ratio"], count, seed)
        attack = parameters["poison_type"]
        self._samples = [
            backend.load(
                dataset.train.images[part],
                poisoning.poisoned(dataset.train.labels[part], poison[client], attack, seed, client),
            )
            for client, part in enumerate(own)
        ]
        self._aggregate = AGGREGATORS[parameters["aggregator"]]

    def train(
        self, checkpoint: Checkpoint, progress: Callable[[int, int], None], say: Callable[[str], None] = print
    ) -> Outcome:
        """Train until no round is left or the validation loss has not fallen for ``patience`` rounds.

        A round that diverges is computed again from what was before it. Since nothing in it is left to
        chance, it diverges again, which is the result of the experiment; if not, the machine had failed.
        """
        rounds, patience = self.parameters["rounds"], self.parameters["patience"]
        state = checkpoint.load(say)
        if state is None:
            start = initial(self.parameters)
            state = State(start, start)
        else:
            say(f"resuming after round {state.round}")
        progress(state.round, rounds)
        while state.round < rounds and state.round - state.best_round < patience:
            began = time.perf_counter()
            try:
                weights, entry = self._round(state)
            except Diverged as error:
                say(f"{error}; computing the round again")
                try:
                    weights, entry = self._round(state)
                except Diverged as again:
                    return Outcome(state, None, None, str(again))
                say("the round did not diverge again: this machine is at fault, not the training")
            state.weights = weights
            state.round += 1
            state.history.append(entry)
            if entry["val_loss"] < state.best_loss:
                state.best_weights, state.best_round, state.best_loss = (
                    weights,
                    state.round,
                    entry["val_loss"],
                )
            state.elapsed_s += time.perf_counter() - began
            checkpoint.save(state)
            progress(state.round, rounds)
        return Outcome(
            state,
            Judged(*self.backend.evaluate(state.best_weights, self._validation), self._validated),
            Judged(*self.backend.evaluate(state.best_weights, self._test), self._tested),
            None,
        )

    def _round(self, state: State) -> tuple[Vector, dict[str, Any]]:
        number = state.round + 1
        models = np.empty((len(self._samples), len(state.weights)), np.float32)
        total = 0.0
        for client, samples in enumerate(self._samples):
            models[client], loss = self.backend.train(state.weights, samples, self._orders(number, client))
            if not loss <= LOSS_LIMIT:
                raise Diverged(
                    f"training diverged in round {number}: training loss {loss:.3g} at client {client}"
                )
            total += loss * self._counts[client]
        weights = self._aggregate(models, self._counts)
        losses, right = self.backend.evaluate(weights, self._validation)
        if not np.isfinite(losses).all():
            raise Diverged(f"training diverged in round {number}: validation loss is not finite")
        return weights, {
            "round": number,
            "train_loss": total / sum(self._counts),
            "val_accuracy": float(right.mean()),
            "val_loss": float(losses.mean()),
        }

    def _orders(self, number: int, client: int) -> list[NDArray[np.intp]]:
        """In which order a client takes its samples in each local epoch of a round."""
        epochs, count = self.parameters["local_epochs"], self._counts[client]
        if self.parameters["data_ordering"] == "fixed":
            return [np.arange(count)] * epochs
        rng = stream(self.parameters["seed"], Purpose.BATCHES, number, client)
        return [rng.permutation(count) for _ in range(epochs)]
