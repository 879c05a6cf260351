"""Dense networks (linear and MLP) with the gradient written by hand, for NumPy.

A small batch costs a few microseconds per layer: everything is computed into arrays that exist, biases are a
row of the weights and a column of ones of the activations, and the classes are rows, so that the softmax runs
along whole vectors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ripresa.families.experiments.architecture import CLASSES, Shape
from ripresa.families.experiments.weights import matrices

Array = NDArray[Any]


class Dense:
    """A network that reads its weights, and writes their gradient, in two given vectors.

    ``image`` is the shape of an image, ``most`` the longest batch.
    """

    evaluated = 512
    """How many images are best evaluated at once."""

    def __init__(
        self, shapes: list[tuple[Shape, Shape]], image: Shape, weights: Array, gradient: Array, most: int
    ) -> None:
        self.weights = matrices(weights, shapes)
        self.gradients = matrices(gradient, shapes)
        self._whole = _arrays([shape[-1] for shape, _ in shapes[:-1]], most, weights.dtype)
        self._parts = {most: self._whole}
        self._zero = np.zeros((), weights.dtype)

    @staticmethod
    def prepared(images: Array) -> Array:
        """Images as inputs of the network: one row each, and a column of ones."""
        rows = images.reshape(len(images), -1)
        return np.concatenate([rows, np.ones((len(rows), 1), rows.dtype)], axis=1)

    def logits(self, inputs: Array) -> Array:
        """The outputs of the last layer (classes, n) for prepared inputs (n, inputs + 1)."""
        arrays, before, residual = self._of(len(inputs)), inputs, None
        for weights, active, output, hidden in zip(
            self.weights, arrays.active, arrays.outputs, arrays.hidden, strict=False
        ):
            np.dot(before, weights, out=active)
            np.maximum(active, self._zero, out=active)
            if residual is None:
                hidden[...] = active
            else:
                np.add(residual, active, out=hidden)
            before, residual = output, hidden
        return np.dot(self.weights[-1].T, before.T, out=arrays.logits)

    def backward(self, inputs: Array, d_logits: Array) -> None:
        """Write the gradient, given that of the logits of the last call (classes, n)."""
        arrays, last = self._of(len(inputs)), len(self.weights) - 1
        np.dot((arrays.outputs[-1] if last else inputs).T, d_logits.T, out=self.gradients[-1])
        if not last:
            return
        d_hidden, d_active = arrays.d_hidden, arrays.d_active
        np.dot(d_logits.T, self.weights[-1][:-1].T, out=d_hidden)
        for layer in range(last - 1, -1, -1):
            np.greater(arrays.active[layer], self._zero, out=arrays.mask)
            np.multiply(d_hidden, arrays.mask, out=d_active)
            np.dot((arrays.outputs[layer - 1] if layer else inputs).T, d_active, out=self.gradients[layer])
            if layer:
                np.dot(d_active, self.weights[layer][:-1].T, out=arrays.d_before)
                d_hidden += arrays.d_before

    def _of(self, count: int) -> _Arrays:
        if count not in self._parts:
            self._parts[count] = self._whole.first(count)
        return self._parts[count]


class _Arrays(NamedTuple):
    """What is computed for a batch; all but the logits have a row for each sample."""

    active: list[Array]
    """Of each hidden layer, after its ReLU."""
    outputs: list[Array]
    """Of each hidden layer, with what it was given, and a column of ones."""
    hidden: list[Array]
    """The same without the column of ones."""
    mask: Array
    d_active: Array
    d_hidden: Array
    d_before: Array
    logits: Array

    def first(self, count: int) -> _Arrays:
        """The part of them for a shorter batch."""
        outputs = [whole[:count] for whole in self.outputs]
        return _Arrays(
            active=[whole[:count] for whole in self.active],
            outputs=outputs,
            hidden=[whole[:, :-1] for whole in outputs],
            mask=self.mask[:count],
            d_active=self.d_active[:count],
            d_hidden=self.d_hidden[:count],
            d_before=self.d_before[:count],
            logits=np.empty((CLASSES, count), self.logits.dtype),
        )


def _arrays(sizes: list[int], count: int, dtype: Any) -> _Arrays:
    outputs = [np.ones((count, size + 1), dtype) for size in sizes]
    shape = (count, sizes[0] if sizes else 0)  # all hidden layers have the same size
    return _Arrays(
        active=[np.empty(shape, dtype) for _ in sizes],
        outputs=outputs,
        hidden=[whole[:, :-1] for whole in outputs],
        mask=np.empty(shape, bool),
        d_active=np.empty(shape, dtype),
        d_hidden=np.empty(shape, dtype),
        d_before=np.empty(shape, dtype),
        logits=np.empty((CLASSES, count), dtype),
    )
