"""How much two samples differ, and how sure that is.

The 95 % interval of the ratio of two means is the wider one, at either end, of

- the percentile bootstrap (Efron 1979) with the expanded percentiles of Hesterberg (What Teachers Should Know
  About the Bootstrap, The American Statistician 69, 2015): resamples spread too little, by the factor
  sqrt((n - 1) / n), and the tails of a normal distribution are too thin where Student's belong. Here for two
  samples, with the degrees of freedom of Welch and Satterthwaite.
- Welch's interval (Biometrika 34, 1947) of the difference of the logarithms of the means, with their
  variances by the delta method.

Alone, percentile and BCa intervals hold the truth in 80 % of all cases with 3 repetitions and in 85 % with 5.
Expanded percentiles do in 95 % with 5, but in 89 % with 3, for no resample reaches beyond the values. The
p-value is that of the interval: one minus the level at which it would end at 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 9999
SEED = 20250101  # any fixed number: the same results always give the same interval

_AT_ONCE = 2_000_000  # values resampled at once


class Change(NamedTuple):
    """mean(b) / mean(a) - 1 with its 95 % interval and the p-value of no change."""

    estimate: float
    low: float
    high: float
    p: float


def relative_change(a: Sequence[float], b: Sequence[float]) -> Change:
    """How much the mean of b differs from that of a, relative to a.

    Both need at least two values, all above 0; ValueError otherwise.
    """
    import numpy as np
    from scipy.special import ndtr, ndtri, stdtr, stdtrit

    if min(len(a), len(b)) < 2 or min(*a, *b) <= 0:
        raise ValueError("a ratio needs at least two values a side, all above 0")
    samples = [np.asarray(values, dtype=float) for values in (a, b)]
    sizes = [len(values) for values in samples]
    estimate = math.log(samples[1].mean() / samples[0].mean())
    # Variance of the logarithm of each mean, by the delta method
    parts = [float(values.var(ddof=1) / len(values) / values.mean() ** 2) for values in samples]
    if not (variance := sum(parts)):
        same = math.expm1(estimate)
        return Change(same, same, same, 0.0 if estimate else 1.0)
    error = math.sqrt(variance)
    freedom = variance**2 / sum(part**2 / (n - 1) for part, n in zip(parts, sizes, strict=True))
    quantile = float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
    spread = math.sqrt(variance / sum(part * (n - 1) / n for part, n in zip(parts, sizes, strict=True)))

    generator = np.random.default_rng(SEED)
    first, second = (_resampled_means(values, generator) for values in samples)
    draws = np.log(second / first)
    tail = float(ndtr(-spread * quantile))
    low, high = np.quantile(draws, [tail, 1 - tail])
    below = float((np.mean(draws < 0) + np.mean(draws <= 0)) / 2)
    statistics = (abs(estimate) / error, abs(float(ndtri(below))) / spread)
    return Change(
        math.expm1(estimate),
        math.expm1(min(low, estimate - quantile * error)),
        math.expm1(max(high, estimate + quantile * error)),
        float(2 * stdtr(freedom, -min(statistics))),
    )


def _resampled_means(values: NDArray[float64], generator: object) -> NDArray[float64]:
    """Means of `RESAMPLES` samples with replacement, of the same size."""
    import numpy as np

    assert isinstance(generator, np.random.Generator)
    means = []
    for start in range(0, RESAMPLES, step := max(1, _AT_ONCE // len(values))):
        shape = (min(step, RESAMPLES - start), len(values))
        means.append(values[generator.integers(0, len(values), shape)].mean(axis=1))
    return np.concatenate(means)


def cliffs_delta(a: Sequence[float], b: Sequence[float]) -> float:
    """P(b > a) - P(b < a) over all pairs, from -1 to 1 (Cliff, Psychological Bulletin 114, 1993)."""
    import numpy as np

    ordered = np.sort(np.asarray(a, dtype=float))
    below, upto = (np.searchsorted(ordered, b, side=side).sum() for side in ("left", "right"))
    return float(below + upto) / (len(a) * len(b)) - 1


def adjusted(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Benjamini and Hochberg (J. R. Stat. Soc. B 57, 1995).

    Of those that are at most q, the expected share of false ones is at most q, also if they depend on each
    other positively (Benjamini and Yekutieli 2001), as metrics of one workload do.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i], reverse=True)
    least, found = 1.0, [1.0] * len(p_values)
    for rank, index in zip(range(len(p_values), 0, -1), order, strict=True):
        least = min(least, p_values[index] * len(p_values) / rank)
        found[index] = least
    return found
