"""The weights of a model as one vector, and as what they are to each layer."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.experiments.architecture import Shape, layers
from ripresa.families.experiments.randomness import Purpose, stream

Vector = NDArray[np.float32]


def initial(parameters: Mapping[str, Any]) -> Vector:
    """Random weights before training: normal of variance 2 / inputs (He et al. 2015), biases 0.

    After the last layer there is no ReLU: 1 / inputs.
    """
    rng = stream(parameters["seed"], Purpose.WEIGHTS)
    shapes = layers(parameters)
    parts = []
    for number, (weights, biases) in enumerate(shapes):
        variance = (1 if number == len(shapes) - 1 else 2) / prod(weights[:-1])
        values = rng.standard_normal(prod(weights), np.float32) * np.float32(variance**0.5)
        parts += [values, np.zeros(prod(biases), np.float32)]
    return np.concatenate(parts)


def matrices(vector: NDArray[Any], shapes: list[tuple[Shape, Shape]]) -> list[NDArray[Any]]:
    """Views of the vector, one matrix (inputs + 1, outputs) for each layer: the biases are its last row."""
    found, start = [], 0
    for weights, _ in shapes:
        rows, columns = prod(weights[:-1]) + 1, weights[-1]
        found.append(vector[start : start + rows * columns].reshape(rows, columns))
        start += rows * columns
    return found
