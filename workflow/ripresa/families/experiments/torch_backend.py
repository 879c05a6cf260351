"""Training and evaluation with PyTorch, on the GPU that is visible, else on the CPU.

The model, its weights at the start and the order of the samples are those of `numpy_backend`, so that both
differ by the rounding of their sums only. Everything is deterministic: a training that is resumed ends as one
that was not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

# Read when CUDA starts: without it, matrix products are not deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ripresa.families.experiments import ExperimentError
from ripresa.families.experiments.architecture import layers, residual_factor
from ripresa.families.experiments.progress import Count
from ripresa.families.experiments.weights import Vector, matrices

_EVALUATED = 512
"""Samples that are evaluated at once."""

P = ParamSpec("P")
R = TypeVar("R")
Samples = tuple[torch.Tensor, torch.Tensor]


def _reporting_memory(function: Callable[P, R]) -> Callable[P, R]:
    """Make an experiment's error of the lack of device memory; its text says how much was asked for."""

    @wraps(function)
    def wrapper(*args: P.args, **options: P.kwargs) -> R:
        try:
            return function(*args, **options)
        except torch.OutOfMemoryError as error:
            what = " ".join(str(error).split())
            raise ExperimentError(f"{what} (a smaller --micro-batch needs less)") from None

    return wrapper


class TorchBackend:
    """A model on a device, trained from one set of weights after the other.

    Only ``micro_batch`` samples are computed at a time; the gradient of a batch is the sum over its parts.
    """

    name = "torch"

    def __init__(self, parameters: Mapping[str, Any], micro_batch: int, device: str) -> None:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self._device = torch.device(device)
        self.versions = {"torch": torch.__version__, "device": _name(self._device)}
        self._shapes = layers(parameters)
        self._factor = residual_factor(parameters)
        self._outputs = _dense if parameters["model_type"] == "MLP" else _convolutional
        self._batch, self._micro = parameters["batch_size"], micro_batch
        self._rate, self._momentum = parameters["learning_rate"], parameters["momentum"]

    def load(self, images: NDArray[np.float32], labels: NDArray[np.intp]) -> Samples:
        """Samples as the other functions take them."""
        if self._outputs is _dense:
            images = images.reshape(len(images), -1)
        else:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return torch.from_numpy(images).to(self._device), torch.from_numpy(labels).to(self._device)

    @_reporting_memory
    def train(
        self, start: Vector, samples: Samples, orders: list[NDArray[np.intp]], count: Count
    ) -> tuple[Vector, float]:
        """As of the NumPy backend."""
        weights = [part.requires_grad_() for part in self._tensors(start)]
        optimizer = torch.optim.SGD(weights, self._rate, self._momentum)
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for order in orders:
            chosen = torch.from_numpy(order).to(self._device)
            images, labels = samples[0][chosen], samples[1][chosen]
            for first in range(0, len(order), self._batch):
                stop = min(first + self._batch, len(order))
                optimizer.zero_grad()
                for begin in range(first, stop, self._micro):
                    end = min(begin + self._micro, stop)
                    outputs = self._outputs(images[begin:end], weights, self._factor)
                    loss = functional.cross_entropy(outputs, labels[begin:end], reduction="sum")
                    (loss / (stop - first)).backward()
                    total += loss.detach()
                    count(end - begin)
                optimizer.step()
        merged = torch.cat([part.detach().reshape(-1) for part in weights])
        return merged.cpu().numpy(), float(total) / sum(map(len, orders))

    @_reporting_memory
    @torch.no_grad()
    def evaluate(
        self, weights: Vector, samples: Samples, count: Count
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The loss of each sample, and whether it was classified rightly."""
        tensors = self._tensors(weights)
        losses, right = [], []
        for images, labels in zip(*(part.split(_EVALUATED) for part in samples), strict=True):
            outputs = self._outputs(images, tensors, self._factor)
            losses.append(functional.cross_entropy(outputs.double(), labels, reduction="none"))
            right.append(outputs.argmax(1) == labels)
            count(len(labels))
        return torch.cat(losses).cpu().numpy(), torch.cat(right).cpu().numpy()

    def _tensors(self, vector: Vector) -> list[torch.Tensor]:
        """Weights and biases of each layer in turn, copies on the device."""
        parts = []
        for (weights, biases), matrix in zip(self._shapes, matrices(vector, self._shapes), strict=True):
            parts += [matrix[:-1].reshape(weights), matrix[-1].reshape(biases)]
        return [torch.tensor(part, device=self._device) for part in parts]


def _dense(images: torch.Tensor, parts: list[torch.Tensor], factor: float) -> torch.Tensor:
    hidden = torch.addmm(parts[1], images, parts[0])
    for layer in range(2, len(parts) - 2, 2):
        hidden = hidden.add(torch.addmm(parts[layer + 1], hidden.relu(), parts[layer]), alpha=factor)
    return torch.addmm(parts[-1], hidden.relu(), parts[-2]) if len(parts) > 2 else hidden


def _convolutional(images: torch.Tensor, parts: list[torch.Tensor], factor: float) -> torch.Tensor:
    kernels = [part.permute(3, 2, 0, 1) for part in parts[:-2:2]]
    hidden = functional.avg_pool2d(functional.conv2d(images, kernels[0], parts[1], padding=1).relu(), 2)
    for kernel, biases in zip(kernels[1:], parts[3:-2:2], strict=True):
        hidden = hidden.add(functional.conv2d(hidden.relu(), kernel, biases, padding=1), alpha=factor)
    return torch.addmm(parts[-1], hidden.relu().permute(0, 2, 3, 1).flatten(1), parts[-2])


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
