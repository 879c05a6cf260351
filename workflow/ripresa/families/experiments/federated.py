"""Federated learning: clients that train on samples of their own, a server that merges their models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ripresa.families.experiments import Diverged, clients, poisoning
from ripresa.families.experiments.aggregation import AGGREGATORS
from ripresa.families.experiments.datasets import Dataset, Labels
from ripresa.families.experiments.progress import Count
from ripresa.families.experiments.randomness import Purpose, stream
from ripresa.families.experiments.weights import Vector

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
        self, start: Vector, samples: Samples, orders: list[NDArray[np.intp]], count: Count
    ) -> tuple[Vector, float]: ...

    def evaluate(
        self, weights: Vector, samples: Samples, count: Count
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]: ...


class Judged(NamedTuple):
    """Loss of each image of a part of the data set, whether it was classified rightly, and whose it is."""

    losses: NDArray[np.float64]
    right: NDArray[np.bool_]
    clients: list[clients.Indices]


class Federation(Generic[Samples]):
    """Clients with their samples, some poisoned, and the server with the validation and test images."""

    def __init__(
        self, parameters: Mapping[str, Any], dataset: Dataset, backend: Backend[Samples], count: Count
    ) -> None:
        self._parameters, self._backend, self._count = parameters, backend, count
        self._aggregate = AGGREGATORS[parameters["aggregator"]]
        size, seed = parameters["clients"], parameters["seed"]
        shares = clients.proportions(parameters["alpha"], size, seed)
        trained, self._validated, self._tested = (
            clients.divide(part.labels, shares, size, stream(seed, Purpose.SPLIT, number), least)
            for number, (part, least) in enumerate(
                zip(dataset, (_LEAST_TRAINED, _LEAST_JUDGED, _LEAST_JUDGED), strict=True)
            )
        )
        self._counts = [len(part) for part in trained]
        poison = poisoning.shares(parameters["poison_ratio"], size, seed)
        self._samples = [
            backend.load(
                dataset.train.images[part],
                poisoning.poisoned(
                    dataset.train.labels[part], poison[client], parameters["poison_type"], seed, client
                ),
            )
            for client, part in enumerate(trained)
        ]
        self._validation, self._test = backend.load(*dataset.validation), backend.load(*dataset.test)

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return len(self._samples)

    def train(self, number: int, client: int, weights: Vector) -> tuple[Vector, float]:
        """The weights that a client sends in a round (from 1) that begins with these, and its mean loss.

        Raises Diverged if that is beyond all bounds.
        """
        orders = self._orders(number, client)
        sent, loss = self._backend.train(weights, self._samples[client], orders, self._count)
        if not loss <= LOSS_LIMIT:
            raise Diverged(f"round {number} diverged: training loss {loss:.3g} at client {client}")
        return sent, loss

    def trained(self, clients: int) -> int:
        """On how many samples the first so many clients train in a round, as they are counted."""
        return self._parameters["local_epochs"] * sum(self._counts[:clients])

    def merge(
        self, number: int, sent: Sequence[Vector], losses: Sequence[float]
    ) -> tuple[Vector, dict[str, Any]]:
        """The weights after a round in which the clients sent theirs, and what the history says of it.

        Raises Diverged if they have no finite loss on the validation images.
        """
        merged = self._aggregate(np.stack(sent), self._counts)
        found, right = self._backend.evaluate(merged, self._validation, self._count)
        if not np.isfinite(found).all():
            raise Diverged(f"round {number} diverged: validation loss is not finite")
        return merged, {
            "round": number,
            "train_loss": float(np.average(losses, weights=self._counts)),
            "val_accuracy": float(right.mean()),
            "val_loss": float(found.mean()),
        }

    def judge(self, weights: Vector) -> tuple[Judged, Judged]:
        """What weights do on the validation and on the test images."""
        return (
            Judged(*self._backend.evaluate(weights, self._validation, self._count), self._validated),
            Judged(*self._backend.evaluate(weights, self._test, self._count), self._tested),
        )

    def _orders(self, number: int, client: int) -> list[NDArray[np.intp]]:
        """In which order a client takes its samples in each local epoch of a round."""
        epochs, count = self._parameters["local_epochs"], self._counts[client]
        if self._parameters["data_ordering"] == "fixed":
            return [np.arange(count)] * epochs
        rng = stream(self._parameters["seed"], Purpose.BATCHES, number, client)
        return [rng.permutation(count) for _ in range(epochs)]
