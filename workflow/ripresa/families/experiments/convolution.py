"""Convolutional networks with the gradient written by hand, for NumPy.

A convolution is one matrix product of the 3x3 patches around all pixels (im2col). The patches are made again
for the gradient, so that there is one array of them and not one for each layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.experiments.architecture import KERNEL, Shape
from ripresa.families.experiments.weights import matrices

Array = NDArray[Any]


class Convolutional:
    """A network that reads its weights, and writes their gradient, in two given vectors.

    ``image`` is the shape of an image, ``most`` the longest batch.
    """

    evaluated = 64
    """How many images are best evaluated at once."""

    def __init__(
        self, shapes: list[tuple[Shape, Shape]], image: Shape, weights: Array, gradient: Array, most: int
    ) -> None:
        self.weights = matrices(weights, shapes)
        self.gradients = matrices(gradient, shapes)
        height, width, _ = image
        units = shapes[0][0][-1]
        self._inner = (height // 2, width // 2, units)
        dtype = weights.dtype
        self._first = _Patches(most, image, dtype)
        self._others = _Patches(most, self._inner, dtype)
        self._active = [np.empty((most, height, width, units), dtype)]
        self._active += [np.empty((most, *self._inner), dtype) for _ in shapes[1:-1]]
        self._outputs = [np.empty((most, *self._inner), dtype) for _ in shapes[:-1]]

    @staticmethod
    def prepared(images: Array) -> Array:
        """Images as inputs of the network: as they are, (n, height, width, channels)."""
        return images

    def logits(self, inputs: Array) -> Array:
        """The outputs of the last layer (classes, n)."""
        count = len(inputs)
        active, output = self._active[0][:count], self._outputs[0][:count]
        self._first.convolve(inputs, self.weights[0], active)
        np.add(active[:, ::2, ::2], active[:, ::2, 1::2], out=output)
        output += active[:, 1::2, ::2]
        output += active[:, 1::2, 1::2]
        output *= 0.25
        for number in range(1, len(self._outputs)):
            before, active, output = output, self._active[number][:count], self._outputs[number][:count]
            self._others.convolve(before, self.weights[number], active)
            np.add(before, active, out=output)
        last = self.weights[-1]
        return np.dot(last[:-1].T, output.reshape(count, -1).T) + last[-1][:, None]

    def backward(self, inputs: Array, d_logits: Array) -> None:
        """Write the gradient, given that of the logits of the last call (classes, n)."""
        count = len(inputs)
        features = self._outputs[-1][:count].reshape(count, -1)
        np.dot(features.T, d_logits.T, out=self.gradients[-1][:-1])
        d_logits.sum(axis=1, out=self.gradients[-1][-1])
        d_output = np.dot(d_logits.T, self.weights[-1][:-1].T).reshape(count, *self._inner)
        for number in range(len(self._outputs) - 1, 0, -1):
            d_active = d_output * (self._active[number][:count] > 0)
            self._others.gradient(self._outputs[number - 1][:count], d_active, self.gradients[number])
            d_output += self._others.back(d_active, self.weights[number])
        d_output *= 0.25
        d_active = d_output.repeat(2, axis=1).repeat(2, axis=2)
        d_active *= self._active[0][:count] > 0
        self._first.gradient(inputs, d_active, self.gradients[0])


class _Patches:
    """The 3x3 patches around all pixels of images of one shape, beyond whose edges lie zeros."""

    def __init__(self, most: int, image: Shape, dtype: Any) -> None:
        self._height, self._width, self._channels = image
        self._columns = KERNEL**2 * self._channels
        self._padded = np.zeros((most, self._height + 2, self._width + 2, self._channels), dtype)
        self._memory = np.empty(most * self._height * self._width * (self._columns + 1), dtype)

    def convolve(self, images: Array, weights: Array, out: Array) -> None:
        """The convolution of images with its ReLU."""
        rows = self._rows(images)
        flat = out.reshape(len(rows), -1)
        np.dot(rows, weights, out=flat)
        np.maximum(flat, 0, out=flat)

    def gradient(self, images: Array, d_out: Array, out: Array) -> None:
        """The gradient of the weights, given that of the convolution."""
        rows = self._rows(images)
        np.dot(rows.T, d_out.reshape(len(rows), -1), out=out)

    def back(self, d_out: Array, weights: Array) -> Array:
        """The gradient of the images, given that of the convolution; valid until the next call."""
        count = len(d_out)
        flat = d_out.reshape(-1, d_out.shape[-1])
        rows = self._memory[: len(flat) * self._columns].reshape(len(flat), -1)
        np.dot(flat, weights[:-1].T, out=rows)
        patches = rows.reshape(count, self._height, self._width, KERNEL, KERNEL, self._channels)
        padded = np.zeros_like(self._padded[:count])
        for row in range(KERNEL):
            for column in range(KERNEL):
                self._around(padded, row, column)[...] += patches[:, :, :, row, column]
        return padded[:, 1:-1, 1:-1]

    def _rows(self, images: Array) -> Array:
        """One row for each pixel: its patch, and a one that the biases are multiplied with."""
        count = len(images)
        padded = self._padded[:count]
        padded[:, 1:-1, 1:-1] = images
        pixels = count * self._height * self._width
        rows = self._memory[: pixels * (self._columns + 1)].reshape(pixels, -1)
        patches = rows.reshape(count, self._height, self._width, -1)[..., :-1]
        patches = patches.reshape(count, self._height, self._width, KERNEL, KERNEL, self._channels)
        for row in range(KERNEL):
            for column in range(KERNEL):
                patches[:, :, :, row, column] = self._around(padded, row, column)
        rows[:, -1] = 1
        return rows

    def _around(self, padded: Array, row: int, column: int) -> Array:
        return padded[:, row : row + self._height, column : column + self._width]
