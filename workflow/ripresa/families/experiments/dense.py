"""Dense networks (linear and MLP) with the gradient written by hand, for NumPy.

A small batch costs a few microseconds per layer: everything is computed into arrays that exist, biases are a
row of the weights and a column of ones of the activations, and the classes are rows, so that the softmax runs
along whole vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ripresa.families.experiments.architecture import CLASSES, layers, residual_factor
from ripresa.families.experiments.weights import matrices

Array = NDArray[Any]


class Dense:
    """A network that reads its weights, and writes their gradient, in two given vectors.

    ``most`` is the longest batch.
    """

    evaluated = 512
    """How many images are best evaluated at once."""

    def __init__(self, parameters: Mapping[str, Any], weights: Array, gradient: Array, most: int) -> None:
        shapes = layers(parameters)
        self._weights, self._gradients = matrices(weights, shapes), matrices(gradient, shapes)
        self._back = [matrix[:-1].T for matrix in self._weights]
        dtype = weights.dtype
        self._factor, self._zero = dtype.type(residual_factor(parameters)), dtype.type(0)
        units = shapes[0][1][0] if parameters["depth"] else 0
        self._whole = _Arrays(
            active=[np.ones((most, units + 1), dtype) for _ in shapes[1:]],
            hidden=np.empty((most, units), dtype),
            added=np.empty((most, units), dtype),
            d_hidden=np.empty((most, units), dtype),
            d_active=np.empty((most, units), dtype),
            mask=np.empty((most, units), bool),
            logits=np.empty((CLASSES, most), dtype),
        )
        self._parts = {most: self._whole}

    @staticmethod
    def prepared(images: Array) -> Array:
        """Images as inputs of the network: one row each, and a column of ones."""
        rows = images.reshape(len(images), -1)
        return np.concatenate([rows, np.ones((len(rows), 1), rows.dtype)], axis=1)

    def logits(self, inputs: Array) -> Array:
        """The outputs of the last layer (classes, n) for prepared inputs (n, inputs + 1)."""
        arrays, before = self._of(len(inputs)), inputs
        hidden, added = arrays.hidden, arrays.added
        for number, active in enumerate(arrays.active):
            if number:
                np.dot(before, self._weights[number], out=added)
                added *= self._factor
                hidden += added
            else:
                np.dot(before, self._weights[0], out=hidden)
            np.maximum(hidden, self._zero, out=active[:, :-1])
            before = active
        return np.dot(self._weights[-1].T, before.T, out=arrays.logits)

    def backward(self, inputs: Array, d_logits: Array) -> None:
        """Write the gradient, given that of the logits of the last call (classes, n)."""
        arrays = self._of(len(inputs))
        d_hidden, d_added, d_active, mask = arrays.d_hidden, arrays.added, arrays.d_active, arrays.mask
        last = len(arrays.active)
        np.dot((arrays.active[-1] if last else inputs).T, d_logits.T, out=self._gradients[-1])
        for number in range(last - 1, -1, -1):
            np.greater(arrays.active[number][:, :-1], self._zero, out=mask)
            if number == last - 1:
                np.dot(d_logits.T, self._back[-1], out=d_active)
                np.multiply(d_active, mask, out=d_hidden)
            else:
                np.multiply(d_hidden, self._factor, out=d_added)
                np.dot(arrays.active[number].T, d_added, out=self._gradients[number + 1])
                np.dot(d_added, self._back[number + 1], out=d_active)
                d_active *= mask
                d_hidden += d_active
        if last:
            np.dot(inputs.T, d_hidden, out=self._gradients[0])

    def _of(self, count: int) -> _Arrays:
        if count not in self._parts:
            self._parts[count] = self._whole.first(count)
        return self._parts[count]


class _Arrays(NamedTuple):
    """What is computed for a batch; all but the logits have a row for each sample."""

    active: list[Array]
    """Of each hidden layer, after its ReLU, with a column of ones."""
    hidden: Array
    """Of the last layer, before its ReLU."""
    added: Array
    """What a residual layer adds, and the gradient of that."""
    d_hidden: Array
    d_active: Array
    mask: Array
    logits: Array

    def first(self, count: int) -> _Arrays:
        """The part of them for a shorter batch."""
        return _Arrays(
            active=[whole[:count] for whole in self.active],
            hidden=self.hidden[:count],
            added=self.added[:count],
            d_hidden=self.d_hidden[:count],
            d_active=self.d_active[:count],
            mask=self.mask[:count],
            logits=np.empty((CLASSES, count), self.logits.dtype),
        )
