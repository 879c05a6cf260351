"""Convolutional networks with the gradient written by hand, for NumPy.

A convolution is one matrix product of the 3x3 patches around all pixels (im2col). The patches are made again
for the gradient, so that there is one array of them and not one for each layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.experiments.architecture import CLASSES, KERNEL, Shape
from ripresa.families.experiments.weights import matrices

Array = NDArray[Any]


class Convolutional:
    """A network that reads its weights, and writes their gradient, in two given vectors."""

    def __init__(self, shapes: list[tuple[Shape, Shape]], weights: Array, gradient: Array) -> None:
        self.weights = matrices(weights, shapes)
        self.gradients = matrices(gradient, shapes)
        self._depth, self._channels = len(shapes) - 1, shapes[0][0][-1]
        self._buffers: dict[int, _Buffers] = {}

    @staticmethod
    def prepared(images: Array) -> Array:
        """Images as inputs of the network: as they are, (n, height, width, channels)."""
        return images

    def logits(self, inputs: Array) -> Array:
        """The outputs of the last layer (classes, n)."""
        buffers = self._of(inputs)
        first = buffers.layers[0]
        first.forward(inputs, self.weights[0])
        np.add(_corner(first.active, 0, 0), _corner(first.active, 0, 1), out=buffers.outputs[0])
        for row, column in ((1, 0), (1, 1)):
            buffers.outputs[0] += _corner(first.active, row, column)
        buffers.outputs[0] *= 0.25
        for number in range(1, self._depth):
            before, layer = buffers.outputs[number - 1], buffers.layers[number]
            layer.forward(before, self.weights[number])
            np.add(before, layer.active, out=buffers.outputs[number])
        buffers.features[:, :-1] = buffers.outputs[-1].reshape(len(inputs), -1)
        np.dot(self.weights[-1].T, buffers.features.T, out=buffers.logits)
        return buffers.logits

    def backward(self, inputs: Array, d_logits: Array) -> None:
        """Write the gradient, given that of the logits of the last call (classes, n)."""
        buffers = self._of(inputs)
        np.dot(buffers.features.T, d_logits.T, out=self.gradients[-1])
        d_output = np.dot(d_logits.T, self.weights[-1][:-1].T).reshape(buffers.outputs[-1].shape)
        for number in range(self._depth - 1, 0, -1):
            before, layer = buffers.outputs[number - 1], buffers.layers[number]
            d_active = layer.backward(before, d_output, self.gradients[number])
            d_output += layer.d_input(d_active, self.weights[number])
        first, d_output = buffers.layers[0], d_output * 0.25
        d_whole = np.repeat(np.repeat(d_output, 2, axis=1), 2, axis=2)
        first.backward(inputs, d_whole, self.gradients[0])

    def _of(self, inputs: Array) -> _Buffers:
        if len(inputs) not in self._buffers:
            self._buffers[len(inputs)] = _Buffers(inputs, self._depth, self._channels)
        return self._buffers[len(inputs)]


class _Layer:
    """A convolution and its ReLU at one place of the network, for batches of one length."""

    def __init__(self, shape: Shape, outputs: int, dtype: Any, patches: Array) -> None:
        count, height, width, channels = shape
        self.active = np.empty((count, height, width, outputs), dtype)
        self._padded = np.zeros((count, height + 2, width + 2, channels), dtype)
        rows = patches[: count * height * width * (KERNEL**2 * channels + 1)]
        self._rows = rows.reshape(count * height * width, -1)
        inner = self._rows.reshape(count, height, width, -1)[..., :-1]
        self._patches = inner.reshape(count, height, width, KERNEL, KERNEL, channels)
        self._size = height, width

    def forward(self, inputs: Array, weights: Array) -> None:
        self._fill(inputs)
        flat = self.active.reshape(len(self._rows), -1)
        np.dot(self._rows, weights, out=flat)
        np.maximum(flat, 0, out=flat)

    def backward(self, inputs: Array, d_output: Array, gradient: Array) -> Array:
        """Write the gradient of the weights; return that of what ReLU was given, one row a pixel."""
        d_active = (d_output * (self.active > 0)).reshape(len(self._rows), -1)
        self._fill(inputs)
        np.dot(self._rows.T, d_active, out=gradient)
        return d_active

    def d_input(self, d_active: Array, weights: Array) -> Array:
        height, width = self._size
        d_patches = np.dot(d_active, weights[:-1].T).reshape(self._patches.shape)
        d_padded = np.zeros_like(self._padded)
        for row in range(KERNEL):
            for column in range(KERNEL):
                d_padded[:, row : row + height, column : column + width] += d_patches[:, :, :, row, column]
        return d_padded[:, 1:-1, 1:-1]

    def _fill(self, inputs: Array) -> None:
        height, width = self._size
        self._padded[:, 1:-1, 1:-1] = inputs
        for row in range(KERNEL):
            for column in range(KERNEL):
                around = self._padded[:, row : row + height, column : column + width]
                self._patches[:, :, :, row, column] = around
        self._rows[:, -1] = 1


class _Buffers:
    """Arrays for batches of one length."""

    def __init__(self, inputs: Array, depth: int, width: int) -> None:
        count, rows, columns, _ = inputs.shape
        inner = (count, rows // 2, columns // 2, width)
        shapes = [inputs.shape, *[inner] * (depth - 1)]
        sizes = [n * h * w * (KERNEL**2 * c + 1) for n, h, w, c in shapes]
        patches = np.empty(max(sizes), inputs.dtype)
        self.layers = [_Layer(shape, width, inputs.dtype, patches) for shape in shapes]
        self.outputs = [np.empty(inner, inputs.dtype) for _ in range(depth)]
        self.features = np.ones((count, inner[1] * inner[2] * width + 1), inputs.dtype)
        self.logits = np.empty((CLASSES, count), inputs.dtype)


def _corner(whole: Array, row: int, column: int) -> Array:
    """One pixel of each square of 2x2 pixels."""
    return whole[:, row::2, column::2]
