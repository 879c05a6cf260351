"""How long an epoch of the MLP takes with NumPy and with PyTorch on the CPU: same model, batches, weights.

    python evaluation/experiments/speed.py

Needs PyTorch (the extra `torch`), and exits 1 where it is missing. Samples are random, of the size of digits
(8x8) and of MNIST (28x28). Both are timed in turn, on one and on two threads, and each is judged by the
number of threads that suits it better; of each, the median of the rounds counts. Exits 1 if NumPy is slower
for any model.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ripresa.families.experiments.architecture import SHAPES, UNITS, num_parameters
from ripresa.families.experiments.numpy_backend import NumpyBackend
from ripresa.families.experiments.parameters import canonical
from ripresa.families.experiments.weights import initial

SAMPLES = {"digits": 2400, "mnist": 2400}
WIDTHS, DEPTHS, THREADS = (1, 4, 16, 64), (1, 4), (1, 2)


@contextmanager
def threads(backend: str, count: int) -> Iterator[None]:
    """Let a backend compute on so many threads."""
    if backend == "torch":
        import torch

        torch.set_num_threads(count)
        yield
    else:
        with threadpool_limits(count, "blas"):
            yield


def epochs(parameters: dict[str, Any], rounds: int) -> dict[tuple[str, int], float]:
    """Median time of an epoch by backend and number of threads, ms."""
    from ripresa.families.experiments.torch_backend import TorchBackend

    rng = np.random.default_rng(0)
    count = SAMPLES[parameters["dataset"]]
    images = rng.standard_normal((count, *SHAPES[parameters["dataset"]])).astype(np.float32)
    labels, orders, start = rng.integers(10, size=count), [rng.permutation(count)], initial(parameters)
    batch = parameters["batch_size"]
    backends = [NumpyBackend(parameters, batch), TorchBackend(parameters, batch, "cpu")]
    loaded = [backend.load(images, labels) for backend in backends]
    times: dict[tuple[str, int], list[float]] = {}
    for repeat in range(rounds + 1):
        for number in THREADS:
            for backend, samples in zip(backends, loaded, strict=True):
                with threads(backend.name, number):
                    began = time.perf_counter()
                    backend.train(start, samples, orders, lambda samples: None)
                    elapsed = time.perf_counter() - began
                if repeat:  # the first warms up
                    times.setdefault((backend.name, number), []).append(1000 * elapsed)
    return {how: statistics.median(values) for how, values in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="epochs of each that are timed")
    parser.add_argument("--batch", type=int, default=32, help="samples of a batch")
    arguments = parser.parse_args()
    if find_spec("torch") is None:
        sys.exit(
            "error: PyTorch is not installed, so there is nothing to compare with: install the extra `torch`"
        )
    head = [f"{name}, {count} thr." for name in ("NumPy", "PyTorch") for count in THREADS]
    print(
        f"{'samples':8}{'layers':>7}{'units':>6}{'weights':>9}" + "".join(f"{one:>17}" for one in head),
        end="",
    )
    print(f"{'ratio':>8}   (ms per epoch of {SAMPLES['mnist']} samples)")
    ratios = []
    for dataset in SAMPLES:
        for depth in DEPTHS:
            for width in WIDTHS:
                plan = {
                    "dataset": dataset,
                    "depth": depth,
                    "width_factor": width,
                    "batch_size": arguments.batch,
                }
                parameters = canonical(plan)
                found = epochs(parameters, arguments.rounds)
                best = {
                    name: min(ms for (backend, _), ms in found.items() if backend == name)
                    for name in ("numpy", "torch")
                }
                ratios.append(best["torch"] / best["numpy"])
                row = f"{dataset:8}{depth:7}{UNITS * width:6}{num_parameters(parameters):9}"
                columns = [found[name, count] for name in ("numpy", "torch") for count in THREADS]
                print(row + "".join(f"{ms:17.2f}" for ms in columns) + f"{ratios[-1]:8.2f}", flush=True)
    met = min(ratios) >= 1
    print(
        f"\nPyTorch's time / NumPy's: {min(ratios):.2f} to {max(ratios):.2f} "
        f"(goal: at least 1 for every model): {'met' if met else 'MISSED'}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
