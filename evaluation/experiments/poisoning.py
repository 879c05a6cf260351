"""What label poisoning does to federated learning on digits, and what the median does against it.

    python evaluation/experiments/poisoning.py

The test accuracy of an MLP by the share of poisoned clients, with FedAvg and with the coordinate-wise median,
for label flips (c to 9 - c) and random labels; mean over the seeds and standard deviation. Two claims are
judged, each by paired t-tests over the seeds at the level of 5 %, shared by its tests (Bonferroni):

- accuracy falls with the ratio: from the lowest to the highest, and rises significantly at no step;
- the median is better than FedAvg against label flips at every ratio from 0.2 to below one half (at one tenth
  there is little to gain), and at none from 0.1 on worse; at one half nobody can be.

What the median gains at all other ratios and against random labels is printed, with 95 % intervals, and not
judged. Exits 1 if one of the claims does not hold.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the models are small
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.stats import sem, t, ttest_rel
from workspace import computed

RATIOS = {"label_flip": [n / 10 for n in range(11)], "random_noise": [n / 5 for n in range(6)]}
AGGREGATORS = ("fedavg", "median")
MODEL = {"dataset": "digits", "width_factor": 16, "rounds": 30}
RESISTED, NOTICED = [0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.4]
LEVEL = 0.05


def accuracies(attack: str, aggregator: str, seeds: range) -> np.ndarray:
    """Test accuracy by ratio (rows) and seed."""
    plan = {"poison_type": attack, "aggregator": aggregator, **MODEL}
    return np.array(
        [
            [computed({**plan, "poison_ratio": ratio, "seed": n})["metrics"]["test_accuracy"] for n in seeds]
            for ratio in RATIOS[attack]
        ]
    )


def greater(values: np.ndarray, others: np.ndarray, tests: int) -> bool:
    """Whether values exceed others of the same seeds, beyond what chance would do in so many tests."""
    if (values == others).all():
        return False
    return ttest_rel(values, others, alternative="greater").pvalue < LEVEL / tests


def falls(found: dict[tuple[str, str], np.ndarray]) -> bool:
    """Whether accuracy falls with the ratio in every series."""
    steps = sum(len(values) - 1 for values in found.values())
    rising = [
        f"{attack}, {aggregator}: {RATIOS[attack][n]} to {RATIOS[attack][n + 1]}"
        for (attack, aggregator), values in found.items()
        for n in range(len(values) - 1)
        if greater(values[n + 1], values[n], steps)
    ]
    fallen = all(greater(values[0], values[-1], len(found)) for values in found.values())
    print(f"\naccuracy falls with the ratio: {'yes' if fallen and not rising else 'NO'}", *rising)
    return fallen and not rising


def resists(found: dict[tuple[str, str], np.ndarray]) -> bool:
    """Whether the median beats FedAvg below one half of flipping clients."""
    mean, median = (dict(zip(RATIOS["label_flip"], found["label_flip", a], strict=True)) for a in AGGREGATORS)
    better = [ratio for ratio in NOTICED if greater(median[ratio], mean[ratio], len(NOTICED))]
    worse = [ratio for ratio in RESISTED if greater(mean[ratio], median[ratio], len(RESISTED))]
    holds = better == NOTICED and not worse
    print(f"the median resists flips better than FedAvg below one half: {'yes' if holds else 'NO'}")
    return holds


def gains(found: dict[tuple[str, str], np.ndarray]) -> None:
    """Print by how much the median is better than FedAvg."""
    print("\nmedian - FedAvg in points, and its 95 % interval:")
    for attack, ratios in RATIOS.items():
        print(f"{attack:20}" + "".join(f"{ratio:>14g}" for ratio in ratios))
        mean, median = (found[attack, aggregator] for aggregator in AGGREGATORS)
        gained = 100 * (median - mean)
        half = t.ppf(0.975, gained.shape[1] - 1) * sem(gained, axis=1)
        cells = zip(gained.mean(axis=1), half, strict=True)
        print(f"{'':20}" + "".join(f"{f'{gain:+.1f} ±{width:.1f}':>14}" for gain, width in cells))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="fewer than five are too few for the tests")
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds")
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    began, found = time.monotonic(), {}
    for attack, ratios in RATIOS.items():
        print(f"{attack:20}" + "".join(f"{ratio:>14g}" for ratio in ratios))
        for aggregator in AGGREGATORS:
            values = accuracies(attack, aggregator, seeds)
            found[attack, aggregator] = values
            cells = zip(values.mean(axis=1), values.std(axis=1, ddof=1), strict=True)
            row = "".join(f"{f'{mean:.3f} ±{spread:.3f}':>14}" for mean, spread in cells)
            print(f"{aggregator:20}{row}", flush=True)
    gains(found)
    holds = [falls(found), resists(found)]
    count = sum(values.size for values in found.values())
    print(f"{count} experiments in {time.monotonic() - began:.0f} s: {'met' if all(holds) else 'MISSED'}")
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
