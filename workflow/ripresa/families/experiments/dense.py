"""Dense networks (linear and MLP) with the gradient written by hand, for NumPy.

A batch costs a few microseconds per layer: everything is computed into arrays that exist, biases are a row of
the weights and a column of ones of the activations, and the classes are rows, so that the softmax runs along
whole vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.experiments.architecture import CLASSES, Shape
from ripresa.families.experiments.weights import matrices

Array = NDArray[Any]


class Dense:
    """A network of dense layers that reads its weights, and writes their gradient, in two given vectors."""

    def __init__(self, shapes: list[tuple[Shape, Shape]], weights: Array, gradient: Array) -> None:
        self.weights = matrices(weights, shapes)
        self.gradients = matrices(gradient, shapes)
        self.sizes = [shape[-1] for shape, _ in shapes[:-1]]
        self._buffers: dict[int, _Buffers] = {}

    @staticmethod
    def prepared(images: Array) -> Array:
        """Images as inputs of the network: one row each, and a column of ones."""
        rows = images.reshape(len(images), -1)
        return np.concatenate([rows, np.ones((len(rows), 1), rows.dtype)], axis=1)

    def logits(self, inputs: Array) -> Array:
        """The outputs of the last layer (classes, n) for prepared inputs (n, inputs + 1)."""
        return self._forward(inputs, self._of(inputs))

    def backward(self, inputs: Array, d_logits: Array) -> None:
        """Write the gradient, given that of the logits of the last call (classes, n)."""
        buffers = self._of(inputs)
        last = len(self.sizes)
        outputs = buffers.outputs[-1] if last else inputs
        np.dot(outputs.T, d_logits.T, out=self.gradients[last])
        if not last:
            return
        d_output = buffers.d_outputs[-1]
        np.dot(d_logits.T, self.weights[last][:-1].T, out=d_output)
        for layer in range(last - 1, -1, -1):
            d_active = buffers.d_active[layer]
            np.greater(buffers.active[layer], 0, out=buffers.mask[layer])
            np.multiply(d_output, buffers.mask[layer], out=d_active)
            before = buffers.outputs[layer - 1] if layer else inputs
            np.dot(before.T, d_active, out=self.gradients[layer])
            if layer:
                d_before = buffers.d_outputs[layer - 1]
                np.dot(d_active, self.weights[layer][:-1].T, out=d_before)
                d_before += d_output
                d_output = d_before

    def _forward(self, inputs: Array, buffers: _Buffers) -> Array:
        before = inputs
        for layer, size in enumerate(self.sizes):
            active, output = buffers.active[layer], buffers.outputs[layer]
            np.dot(before, self.weights[layer], out=active)
            if layer:
                np.maximum(active, 0, out=active)
                np.add(before[:, :size], active, out=output[:, :size])
            else:
                np.maximum(active, 0, out=active)
                output[:, :size] = active
            before = output
        np.dot(self.weights[-1].T, before.T, out=buffers.logits)
        return buffers.logits

    def _of(self, inputs: Array) -> _Buffers:
        count = len(inputs)
        if count not in self._buffers:
            self._buffers[count] = _Buffers(self.sizes, count, inputs.dtype)
        return self._buffers[count]


class _Buffers:
    """Arrays for batches of one length."""

    def __init__(self, sizes: list[int], count: int, dtype: Any) -> None:
        self.active = [np.empty((count, size), dtype) for size in sizes]
        self.outputs = [np.ones((count, size + 1), dtype) for size in sizes]
        self.mask = [np.empty((count, size), bool) for size in sizes]
        self.d_active = [np.empty((count, size), dtype) for size in sizes]
        self.d_outputs = [np.empty((count, size), dtype) for size in sizes]
        self.logits = np.empty((CLASSES, count), dtype)
