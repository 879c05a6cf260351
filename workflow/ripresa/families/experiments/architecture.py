"""What a model consists of, known without building it: shapes of its weights, their number, memory, cost.

- MLP: ``depth`` hidden layers of ``4 * width_factor`` units with ReLU; of depth 0 it is linear (softmax
  regression).
- CNN: a 3x3 convolution to ``width_factor`` channels with ReLU and the mean of 2x2 pixels, ``depth - 1`` more
  3x3 convolutions at that resolution, and a linear layer on all that is left.

Hidden layers from the second on are residual, h + (relu(h) W + b) / sqrt(depth - 1): the order is that of He
et al. 2016 (Identity mappings), and the factor lets 64 of them train at the rate of one (Yang et al. 2024,
Tensor programs VI). There is no normalisation over a batch: then the gradient of a batch would not be the sum
of those of its parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

SHAPES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
"""Height, width and channels of an image of each data set."""
CLASSES = 10
UNITS = 4
"""Hidden units of an MLP of width factor 1."""
KERNEL = 3

_COST = {"MLP": 1, "CNN": 3}
_CONTEXT_MB = 600
_BYTES = 4
_COPIES = 6
"""Weights, gradient, momentum, and what the optimiser and the exchange with the server hold."""
_TRAINING_SAMPLES = {"digits": 1797, "mnist": 70_000, "fashion_mnist": 70_000, "cifar10": 60_000}

Shape = tuple[int, ...]


def layers(parameters: Mapping[str, Any]) -> list[tuple[Shape, Shape]]:
    """Shapes of the weights and of the biases of each layer, from the input to the classes.

    Weights of dense layers are (inputs, outputs), those of convolutions (3, 3, channels in, channels out).
    """
    height, width, channels = SHAPES[parameters["dataset"]]
    factor, depth = parameters["width_factor"], parameters["depth"]
    found: list[tuple[Shape, Shape]] = []
    if parameters["model_type"] == "MLP":
        size = height * width * channels
        for _ in range(depth):
            found.append(((size, UNITS * factor), (UNITS * factor,)))
            size = UNITS * factor
    else:
        for _ in range(depth):
            found.append(((KERNEL, KERNEL, channels, factor), (factor,)))
            channels = factor
        size = (height // 2) * (width // 2) * channels
    return [*found, ((size, CLASSES), (CLASSES,))]


def residual_factor(parameters: Mapping[str, Any]) -> float:
    """What the outputs of residual layers are multiplied with."""
    return 1 / max(parameters["depth"] - 1, 1) ** 0.5


def num_parameters(parameters: Mapping[str, Any]) -> int:
    """How many weights and biases the model has."""
    return sum(prod(weights) + prod(biases) for weights, biases in layers(parameters))


def cost(parameters: Mapping[str, Any]) -> str:
    """The cost features of an experiment, from which durations are predicted.

    ``complexity`` is the number of parameters, times three for a CNN, whose weights are used at many places.
    """
    model = parameters["model_type"]
    return f"model={model} complexity={_COST[model] * num_parameters(parameters)}"


def gpu_mem_mb(parameters: Mapping[str, Any]) -> int:
    """Device memory that training is expected to need with PyTorch, MB: an upper estimate.

    The context of the device, the data set, copies of the weights, and for every sample of a batch the
    outputs of all layers with their gradients (of convolutions also the columns they are multiplied as).
    """
    height, width, channels = SHAPES[parameters["dataset"]]
    data = height * width * channels * _TRAINING_SAMPLES[parameters["dataset"]]
    if parameters["model_type"] == "MLP":
        activations = parameters["depth"] * UNITS * parameters["width_factor"] * 4
    else:
        inner = max(parameters["depth"] - 1, 0) * (height // 2) * (width // 2)
        activations = (height * width + inner) * parameters["width_factor"] * 4
        activations += height * width * KERNEL * KERNEL * max(channels, parameters["width_factor"])
    values = data + _COPIES * num_parameters(parameters) + parameters["batch_size"] * activations
    return _CONTEXT_MB + -(-values * _BYTES // 1_000_000)
