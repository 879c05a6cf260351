"""Training and evaluation on the CPU with NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.experiments.architecture import CLASSES, num_parameters
from ripresa.families.experiments.convolution import Convolutional
from ripresa.families.experiments.dense import Dense
from ripresa.families.experiments.progress import Count
from ripresa.families.experiments.weights import Vector

Array = NDArray[Any]
Samples = tuple[Array, NDArray[np.intp]]


class NumpyBackend:
    """A model in memory, trained from one set of weights after the other.

    Only ``micro_batch`` samples are computed at a time; the gradient of a batch is the sum over its parts.
    Weights are of float32 but for tests of the gradient, which need ``dtype`` float64.
    """

    name = "numpy"

    def __init__(self, parameters: Mapping[str, Any], micro_batch: int, dtype: Any = np.float32) -> None:
        self.versions = {"numpy": np.__version__}
        self._batch, self._micro = parameters["batch_size"], micro_batch
        self._rate, self._momentum = parameters["learning_rate"], parameters["momentum"]
        size = num_parameters(parameters)
        self._weights, self._velocity = np.empty(size, dtype), np.empty(size, dtype)
        self._gradient = np.empty(size, dtype)
        self._sum = np.empty(size, dtype) if micro_batch < self._batch else self._gradient
        network: type[Dense] | type[Convolutional]
        network = Dense if parameters["model_type"] == "MLP" else Convolutional
        most = max(micro_batch, network.evaluated)
        self._network = network(parameters, self._weights, self._gradient, most)

    def load(self, images: Array, labels: NDArray[np.intp]) -> Samples:
        """Samples as the other functions take them."""
        return self._network.prepared(images), labels

    def train(
        self, start: Vector, samples: Samples, orders: list[NDArray[np.intp]], count: Count
    ) -> tuple[Vector, float]:
        """The weights after one pass for each of the orders, and the mean loss met on the way.

        Stochastic gradient descent with momentum, v = m v + r g, w = w - v, whose v begins at 0. ``count`` is
        told how many samples were computed, whenever some were.
        """
        self._weights[:] = start
        self._velocity[:] = 0
        total = 0.0
        for order in orders:
            total += self._epoch(samples[0][order], samples[1][order], count)
        return self._weights.copy(), total / sum(map(len, orders))

    def _epoch(self, inputs: Array, labels: NDArray[np.intp], count: Count) -> float:
        number, dtype = len(labels), inputs.dtype
        wanted = np.zeros((CLASSES, number), dtype)
        wanted[labels, np.arange(number)] = 1
        sums, chosen = np.empty(number, dtype), np.empty((CLASSES, number), dtype)
        for start in range(0, number, self._batch):
            stop = min(start + self._batch, number)
            rate = dtype.type(self._rate / (stop - start))
            for first in range(start, stop, self._micro):
                part = slice(first, min(first + self._micro, stop))
                self._backward(inputs[part], wanted[:, part], rate, sums[part], chosen[:, part])
                count(part.stop - first)
                if self._sum is not self._gradient:
                    if first == start:
                        self._sum[:] = self._gradient
                    else:
                        self._sum += self._gradient
            self._velocity *= self._momentum
            self._velocity += self._sum
            self._weights -= self._velocity
        return float(np.log(sums).sum(dtype=np.float64) - chosen.sum(dtype=np.float64))

    def _backward(self, inputs: Array, wanted: Array, rate: Any, sums: Array, chosen: Array) -> None:
        """Write the gradient of the summed cross-entropy, times ``rate``.

        The loss of a sample is the logarithm of its entry in ``sums`` minus its column in ``chosen``.
        """
        outputs = self._network.logits(inputs)
        outputs -= np.maximum.reduce(outputs, axis=0)
        np.multiply(outputs, wanted, out=chosen)
        np.exp(outputs, out=outputs)
        np.add.reduce(outputs, axis=0, out=sums)
        outputs /= sums
        outputs -= wanted
        outputs *= rate
        self._network.backward(inputs, outputs)

    def evaluate(
        self, weights: Vector, samples: Samples, count: Count
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The loss of each sample, and whether it was classified rightly."""
        self._weights[:] = weights
        inputs, labels = samples
        losses, right = np.empty(len(labels)), np.empty(len(labels), bool)
        for start in range(0, len(labels), self._network.evaluated):
            part = slice(start, start + self._network.evaluated)
            outputs, asked = self._network.logits(inputs[part]), labels[part]
            right[part] = outputs.argmax(axis=0) == asked
            outputs -= outputs.max(axis=0)
            own = outputs[asked, np.arange(len(asked))].astype(np.float64)
            losses[part] = np.log(np.exp(outputs).sum(axis=0, dtype=np.float64)) - own
            count(len(asked))
        return losses, right
