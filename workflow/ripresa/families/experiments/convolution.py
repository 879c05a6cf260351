"""Convolutional networks with the gradient written by hand, for NumPy.

A convolution is one matrix product of the 3x3 patches around all pixels (im2col). The patches are made again
for the gradient, so that there is one array of them and not one for each layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.experiments.architecture import KERNEL, SHAPES, Shape, layers, residual_factor
from ripresa.families.experiments.weights import matrices

Array = NDArray[Any]


class Convolutional:
    """A network that reads its weights, and writes their gradient, in two given vectors.

    ``most`` is the longest batch.
    """

    evaluated = 64
    """How many images are best evaluated at once."""

    def __init__(self, parameters: Mapping[str, Any], weights: Array, gradient: Array, most: int) -> None:
        shapes = layers(parameters)
        self._weights, self._gradients = matrices(weights, shapes), matrices(gradient, shapes)
        dtype = weights.dtype
        self._factor = dtype.type(residual_factor(parameters))
        image, channels = SHAPES[parameters["dataset"]], parameters["width_factor"]
        inner = (image[0] // 2, image[1] // 2, channels)
        self._first, self._others = _Patches(most, image, dtype), _Patches(most, inner, dtype)
        self._stem = np.empty((most, *image[:2], channels), dtype)
        self._hidden, self._added = np.empty((most, *inner), dtype), np.empty((most, *inner), dtype)
        self._active = [np.empty((most, *inner), dtype) for _ in shapes[1:]]

    @staticmethod
    def prepared(images: Array) -> Array:
        """Images as inputs of the network: as they are, (n, height, width, channels)."""
        return images

    def logits(self, inputs: Array) -> Array:
        """The outputs of the last layer (classes, n)."""
        count = len(inputs)
        stem, hidden, added = self._stem[:count], self._hidden[:count], self._added[:count]
        self._first.convolve(inputs, self._weights[0], stem)
        np.maximum(stem, 0, out=stem)
        np.add(stem[:, ::2, ::2], stem[:, ::2, 1::2], out=hidden)
        hidden += stem[:, 1::2, ::2]
        hidden += stem[:, 1::2, 1::2]
        hidden *= 0.25
        for number, active in enumerate(self._active, 1):
            np.maximum(hidden, 0, out=active[:count])
            if number < len(self._active):
                self._others.convolve(active[:count], self._weights[number], added)
                added *= self._factor
                hidden += added
        last, features = self._weights[-1], self._active[-1][:count].reshape(count, -1)
        return np.dot(last[:-1].T, features.T) + last[-1][:, None]

    def backward(self, inputs: Array, d_logits: Array) -> None:
        """Write the gradient, given that of the logits of the last call (classes, n)."""
        count = len(inputs)
        active = [whole[:count] for whole in self._active]
        np.dot(active[-1].reshape(count, -1).T, d_logits.T, out=self._gradients[-1][:-1])
        d_logits.sum(axis=1, out=self._gradients[-1][-1])
        d_hidden = np.dot(d_logits.T, self._weights[-1][:-1].T).reshape(active[-1].shape)
        d_hidden *= active[-1] > 0
        for number in range(len(active) - 1, 0, -1):
            d_added = d_hidden * self._factor
            self._others.gradient(active[number - 1], d_added, self._gradients[number])
            d_hidden += self._others.back(d_added, self._weights[number]) * (active[number - 1] > 0)
        d_hidden *= 0.25
        d_stem = d_hidden.repeat(2, axis=1).repeat(2, axis=2)
        d_stem *= self._stem[:count] > 0
        self._first.gradient(inputs, d_stem, self._gradients[0])


class _Patches:
    """The 3x3 patches around all pixels of images of one shape, beyond whose edges lie zeros."""

    def __init__(self, most: int, image: Shape, dtype: Any) -> None:
        self._height, self._width, self._channels = image
        self._columns = KERNEL**2 * self._channels
        self._padded = np.zeros((most, self._height + 2, self._width + 2, self._channels), dtype)
        self._memory = np.empty(most * self._height * self._width * (self._columns + 1), dtype)

    def convolve(self, images: Array, weights: Array, out: Array) -> None:
        """The convolution of images."""
        rows = self._rows(images)
        np.dot(rows, weights, out=out.reshape(len(rows), -1))

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
