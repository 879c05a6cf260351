"""Statistics that outliers do not move: medians, standard scores, weighted locations and polynomial fits.

Values that are not known are NaN everywhere; nothing here warns about them. Sums of products are einsum's,
not the BLAS': what that gives depends on its number of threads, and results must not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

MAD_TO_SIGMA = 1.4826
# The spread of a normal distribution in units of its mean absolute deviation, sqrt(pi / 2).
MEAN_DEVIATION_TO_SIGMA = 1.2533
SCORE_LIMIT = 3.0
# Tukey's biweight: 95 % efficient on normal errors (Beaton and Tukey 1974).
BIWEIGHT_CUT = 4.685
# Values that agree to this relative accuracy are the same value, told apart by rounding only.
SAME = 1e-6


def median(values: Floats, axis: int = -1) -> Floats:
    """The median along ``axis`` of what is not NaN; NaN where nothing is.

    Several times faster than numpy.nanmedian, which calls Python for every row.
    """
    ordered = np.sort(np.moveaxis(np.asarray(values), axis, -1), axis=-1)  # NaN comes last
    length = ordered.shape[-1]
    if length == 0:
        return np.full(ordered.shape[:-1], np.nan, ordered.dtype)
    known = np.sum(~np.isnan(ordered), axis=-1)
    low = np.maximum(known - 1, 0) // 2
    high = np.minimum(known // 2, length - 1)
    pick = [np.take_along_axis(ordered, place[..., None], -1)[..., 0] for place in (low, high)]
    return np.where(known > 0, (pick[0] + pick[1]) * ordered.dtype.type(0.5), np.nan).astype(ordered.dtype)


def thinning(length: int) -> int:
    """Every how many of so many values are enough for their median and scatter: a thousand or more."""
    return max(1, length // 1024)


def spread(values: Floats, center: Floats, axis: int = -1) -> Floats:
    """The standard deviation of normal values, from their median absolute deviation from ``center``.

    Where more than half the values are equal that deviation is zero; then the mean absolute deviation is
    taken instead. Zero if all values agree to rounding, NaN if there are none.
    """
    deviation = np.abs(values - np.expand_dims(center, axis))
    sigma = MAD_TO_SIGMA * median(deviation, axis)
    known = ~np.isnan(deviation)
    count = np.sum(known, axis=axis)
    mean = np.sum(np.where(known, deviation, 0), axis=axis) / np.maximum(count, 1)
    largest = np.max(np.where(known, np.abs(values), 0), axis=axis, initial=0)
    sigma = np.where(sigma > SAME * largest, sigma, MEAN_DEVIATION_TO_SIGMA * mean)
    return np.where(count > 0, np.where(sigma > SAME * largest, sigma, 0), np.nan)


def zscore(values: Floats, axis: int = 0) -> Floats:
    """(x - median) / (1.4826 MAD) along ``axis``.

    Zero where a value is not known or where all agree, so that such a value speaks neither for nor against.
    """
    values = np.asarray(values, np.float64)
    center = median(values, axis)
    sigma = np.expand_dims(spread(values, center, axis), axis)
    difference = values - np.expand_dims(center, axis)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = difference / sigma
    return np.where(np.isfinite(scores) & (sigma > 0), scores, 0.0)


def clip_score(quality: Floats) -> Floats:
    """A quality limited to +-3, which must happen before its exponential is taken."""
    return np.clip(quality, -SCORE_LIMIT, SCORE_LIMIT)


def biweight(residuals: Floats) -> Floats:
    """Tukey's weights (1 - (r/c)^2)^2 of residuals in units of their sigma; zero beyond c and for NaN."""
    inside = 1 - (residuals / residuals.dtype.type(BIWEIGHT_CUT)) ** 2
    return np.where(inside > 0, inside * inside, 0)  # a comparison with NaN is False


def inflation(residual: Floats, error: Floats) -> float:
    """By how much, at least 1, errors must be multiplied to agree with the residuals; arrays of one shape."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(residual / error).ravel()
    ratio = ratio[np.isfinite(ratio)]
    return max(1.0, MAD_TO_SIGMA * float(median(ratio[:: thinning(len(ratio))]))) if len(ratio) else 1.0


class Location(NamedTuple):
    """Of each row of values: where it is, the standard error of that, the scatter, how many values agree."""

    value: Floats
    error: Floats
    scatter: Floats
    number: NDArray[np.int64]


def location(values: Floats, variance: Floats, iterations: int = 4) -> Location:
    """Biweight mean along the last axis of values [..., n] with known variances [..., n], from the median on.

    ``scatter`` is that of the values in units of their sigma, never taken as less than 1: values that agree
    better than their variances promise do so by chance. Rows without any value give NaN.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(np.isfinite(values) & (variance > 0), 1 / variance, 0.0)
    sharp = np.sqrt(inverse)
    known = inverse > 0
    values = np.where(known, values, np.nan)
    center = median(values)
    residual = (values - center[..., None]) * sharp
    scatter = np.fmax(MAD_TO_SIGMA * median(np.abs(residual)), 1.0)
    filled = np.where(known, values, 0)
    for _ in range(iterations):
        weights = inverse * biweight((filled - center[..., None]) * sharp / scatter[..., None])
        total = np.sum(weights, axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            center = np.where(total > 0, np.sum(weights * filled, axis=-1) / total, center)
    with np.errstate(divide="ignore"):
        error = np.where(np.any(known, axis=-1), scatter / np.sqrt(np.sum(weights, axis=-1)), np.nan)
    return Location(center, error, scatter, np.sum(weights > 0, axis=-1))


def quadratic(x: Floats, y: Floats, width: int, height: int) -> Floats:
    """The terms 1, u, v, u^2, uv, v^2 at pixels (x, y) of a grid, u = 2x/(W-1)-1, v = 2y/(H-1)-1: [n, 6]."""
    u = 2 * np.asarray(x, np.float64) / max(width - 1, 1) - 1
    v = 2 * np.asarray(y, np.float64) / max(height - 1, 1) - 1
    return np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=-1)


def solve(basis: Floats, values: Floats, weights: Floats, penalty: Floats) -> Floats:
    """Least squares for many rows at once: coefficients [m, k] of basis [n, k] for values [m, n].

    ``penalty`` [m, k] or [k] is added to the diagonal of the normal equations (it holds a coefficient near
    zero; infinite fixes it at zero). Directions that the data do not determine are left at zero.
    """
    terms = basis.shape[1]
    upper = np.triu_indices(terms)
    products = (basis[:, upper[0]] * basis[:, upper[1]]).T.astype(weights.dtype, order="C")
    packed = np.einsum("mn,kn->mk", weights, products).astype(np.float64)
    normal = np.zeros((len(values), terms, terms))
    normal[:, upper[0], upper[1]] = packed
    normal[:, upper[1], upper[0]] = packed
    columns = basis.T.astype(weights.dtype, order="C")
    right = np.einsum("mn,kn->mk", weights * values, columns).astype(np.float64)
    penalty = np.broadcast_to(penalty, (len(values), terms))
    free = np.isfinite(penalty)
    normal *= free[:, :, None] & free[:, None, :]
    diagonal = np.arange(terms)
    normal[:, diagonal, diagonal] += np.where(free, penalty, 1.0)
    # Scaled to a unit diagonal, an eigenvalue tells how well its direction is determined.
    size = np.sqrt(normal[:, diagonal, diagonal])
    size = np.where(size > 0, size, 1.0)
    eigenvalues, vectors = np.linalg.eigh(normal / (size[:, :, None] * size[:, None, :]))
    sound = eigenvalues > 1e-6
    inverse = np.where(sound, 1 / np.where(sound, eigenvalues, 1), 0)
    projected = np.einsum("mkj,mk->mj", vectors, np.where(free, right, 0) / size) * inverse
    return np.where(free, np.einsum("mkj,mj->mk", vectors, projected) / size, 0.0)


def evaluate(coefficients: Floats, basis: Floats) -> Floats:
    """The surfaces [m, n] of coefficients [m, k] at the points of a basis [n, k]."""
    return np.einsum("mk,kn->mn", coefficients, np.ascontiguousarray(basis.T))


def fit(basis: Floats, values: Floats, weights: Floats, penalty: Floats, iterations: int = 4) -> Floats:
    """Robust weighted polynomial fit to many rows at once: coefficients [m, k] for values [m, n].

    Iterated with biweights of the residuals from the median of each row on, so that a bright object cannot
    pull the surface towards it. ``weights`` [m, n] are inverse variances up to a factor per
    row, zero or with NaN values where nothing is known.
    """
    kind = values.dtype
    known = np.isfinite(values) & (weights > 0)
    weights = np.where(known, weights, 0).astype(kind)
    few = slice(None, None, thinning(values.shape[1]))
    center = median(np.where(known, values, np.nan)[:, few])
    center = np.where(np.isfinite(center), center, 0).astype(kind)
    rest = np.where(known, values - center[:, None], 0)
    sharp = np.sqrt(weights)
    coefficients: Floats = np.zeros((len(values), basis.shape[1]))
    for turn in range(iterations):
        # Which values are outliers is as well told by a thousand of them; only the last fit needs all.
        use = slice(None) if turn == iterations - 1 else few
        residual = (rest[:, use] - evaluate(coefficients.astype(kind), basis[use].astype(kind))) * sharp[
            :, use
        ]
        size = np.where(known[:, use], np.abs(residual), np.nan)
        sigma = MAD_TO_SIGMA * median(size if turn < iterations - 1 else size[:, few])
        sigma = np.where(sigma > 0, sigma, np.inf).astype(kind)
        trust = weights[:, use] * biweight(residual / sigma[:, None])
        coefficients = solve(basis[use], rest[:, use], trust, penalty)
    coefficients[:, 0] += center
    return coefficients
