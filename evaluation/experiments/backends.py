"""Whether NumPy and PyTorch give the same accuracy: the same experiments on digits, computed with both.

    python evaluation/experiments/backends.py

MLPs and CNNs with FedAvg and with the median, on clean and on poisoned labels, each with several seeds, which
set weights, clients and batches at the start. Both compute the same numbers but for the rounding of their
sums, which training amplifies, so single experiments may differ by some images. For each model is judged:

- equivalence: two one-sided t-tests at the level of 5 % on the paired differences of test accuracy, that is,
  whether the 90 % interval of their mean lies between -0.5 and +0.5 points;
- noise: whether the two backends differ by less (root mean square) than seeds do (standard deviation, pooled
  over the parameter sets).

Needs PyTorch (the extra `torch`), which uses a GPU where there is one. Exits 1 where it is missing, or if one
of these does not hold.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from importlib.util import find_spec
from itertools import product

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the models are small
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy import stats
from workspace import computed

MODELS = {
    "MLP": {"model_type": "MLP", "width_factor": 16, "depth": 2, "rounds": 30},
    "CNN": {"model_type": "CNN", "width_factor": 8, "depth": 2, "rounds": 15},
}
AGGREGATORS = ("fedavg", "median")
POISON = {
    "clean": {"poison_ratio": 0},
    "flips 0.3": {"poison_ratio": 0.3, "poison_type": "label_flip"},
    "noise 0.4": {"poison_ratio": 0.4, "poison_type": "random_noise"},
}
MARGIN, LEVEL = 0.5, 0.05
"""Points of accuracy, and the level of each of the two tests."""


def accuracies(parameters: dict[str, object], seeds: range) -> np.ndarray:
    """Test accuracy in percent by backend (NumPy, PyTorch) and seed."""
    return np.array(
        [
            [100 * computed(parameters | {"seed": seed}, name)["metrics"]["test_accuracy"] for seed in seeds]
            for name in ("numpy", "torch")
        ]
    )


def interval(differences: np.ndarray) -> tuple[float, float]:
    """The interval of their mean that is within the margin if and only if both tests say so."""
    half = stats.t.ppf(1 - LEVEL, len(differences) - 1) * stats.sem(differences)
    return differences.mean() - half, differences.mean() + half


def equal(model: str, seeds: range) -> bool:
    """Print what both backends reach with a model; whether that is the same."""
    differences, spreads = [], []
    for aggregator, (poison, attack) in product(AGGREGATORS, POISON.items()):
        found = accuracies({**MODELS[model], **attack, "aggregator": aggregator}, seeds)
        differences.append(found[1] - found[0])
        spreads.append(found[0].std(ddof=1))
        low, high = interval(differences[-1])
        print(
            f"{model:6}{aggregator:8}{poison:10}{found[0].mean():9.2f}{found[1].mean():9.2f}"
            f"{differences[-1].mean():+12.2f}   {f'{low:+.2f} to {high:+.2f}':18}{spreads[-1]:8.2f}",
            flush=True,
        )
    every = np.concatenate(differences)
    low, high = interval(every)
    apart, noise = np.sqrt(np.mean(every**2)), np.sqrt(np.mean(np.square(spreads)))
    equivalent, within = max(-low, high) < MARGIN, apart < noise
    print(
        f"{model}: mean difference {every.mean():+.2f} points, {low:+.2f} to {high:+.2f}: "
        f"{'equivalent' if equivalent else 'NOT EQUIVALENT'}; backends differ by {apart:.2f}, seeds by "
        f"{noise:.2f}: {'within' if within else 'BEYOND'} noise; {np.count_nonzero(every)} of {len(every)} "
        "experiments differ at all\n"
    )
    return bool(equivalent and within)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    if find_spec("torch") is None:
        sys.exit(
            "error: PyTorch is not installed, so there is nothing to compare with: install the extra `torch`"
        )
    began = time.monotonic()
    print("test accuracy in %, difference in points with its 90 % interval, spread over seeds:")
    print(
        f"{'model':6}{'server':8}{'labels':10}{'NumPy':>9}{'PyTorch':>9}{'difference':>12}   "
        f"{'interval':18}{'spread':>8}"
    )
    same = [equal(model, range(arguments.seeds)) for model in MODELS]
    count = 2 * arguments.seeds * len(MODELS) * len(AGGREGATORS) * len(POISON)
    print(f"{count} experiments in {time.monotonic() - began:.0f} s: {'met' if all(same) else 'MISSED'}")
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
