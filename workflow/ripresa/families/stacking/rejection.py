"""Rejection of outliers among the frames, per pixel: cosmic rays, hot pixels, trails.

All methods look at the sorted values of one pixel and keep a run of them, so that what they decide is an
interval of accepted values. Blocks of ``LANES`` pixels are sorted at once by a network of minima and maxima
(Batcher's odd-even merge sort), which has no branches and gives the same result on every machine.

**Methods.** Each is iterated until it rejects nothing; a majority of the values is always kept.

- ``winsorized``: the spread is the standard deviation of the values clamped to 1.5 sigma about their median,
  times 1.134 (which makes it unbiased for normal noise), iterated until it changes by less than 0.05 %
  (Huber, Robust Statistics).
- ``mad``: 1.4826 times the median of the absolute deviations from the median.
- ``linear_fit``: the values are compared with a straight line fitted to them in their order, the spread is
  the mean absolute residual. For frames whose level drifts.
- ``none``.

**What a value may differ by** is ``k * max(spread, noise) + SLACK * signal``:

- ``noise`` is what the frames are known to have at this place, after resampling. A spread estimated from the
  values falls below it by chance, the more so the fewer they are. And one bad value among few decides it:
  ``winsorized`` below ``FEW`` values and ``linear_fit`` below ``FEW_FOR_LINE`` are ``mad``, which for three
  values looks at the smaller of their two distances.
- ``signal`` is the median above the background. Frames of different seeing differ at a star by a share of its
  signal, by more than the noise and not normally distributed: without this term the sharpest frames are
  rejected in the cores of stars and the softest in their wings, which makes stars fainter and wider. On 200
  simulated frames whose FWHM scatters by 18 % it costs 0.3 % of the flux, 2.0 % of the peak and 0.6 % of the
  width. With half the signal tolerated it is 0.16, 0.4 and 0.1 %, with all of it nothing is left, even where
  the FWHM scatters by 35 %. The price is that a cosmic ray on a star which at that pixel is fainter than the
  star stays; on the sky, all of more than 10 sigma are rejected as before. A tolerance by the gradient
  would need neighbours and would miss the core, where the gradient is zero and frames differ most.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking.kernels import kernel

from . import StackingError

LANES = 64
"""Pixels handled together: enough for every vector unit, few enough that 1000 frames stay in the cache."""

NONE, WINSORIZED, MAD, LINEAR_FIT = range(4)
METHODS = {"none": NONE, "winsorized": WINSORIZED, "mad": MAD, "linear_fit": LINEAR_FIT}

SLACK = 1.0
"""Share of the signal that is tolerated."""
FEW = 8
"""From this many values on their winsorised spread means something."""
FEW_FOR_LINE = 15
"""A line through fewer values follows a single outlier so far that it is not 3 mean residuals away."""

_RUN = 64
_CLAMP = 1.5
_UNBIASED = 1.134
_CONVERGED = 0.0005
_ITERATIONS = 200
_MAD_TO_SIGMA = 1.4826


def number(method: str) -> int:
    """The number the kernels know a method by. Raises StackingError for a name that is none."""
    if method not in METHODS:
        raise StackingError(f"rejection.method: {method!r} is none of {', '.join(METHODS)}")
    return METHODS[method]


@kernel
def sort_lanes(values: Any, count: int) -> None:
    """Sort each of the ``LANES`` columns of ``values`` (flat float32 [count * LANES]) in place, ascending.

    There may be no NaN. Batcher's network for any length: the comparators that would touch values beyond the
    end are left out, as these could only be larger. Its first levels do not leave runs of ``_RUN`` rows, each
    of which stays in the innermost cache for them.
    """
    for first in range(0, count, _RUN):
        _levels(values, first, min(first + _RUN, count), 1, _RUN)
    _levels(values, 0, count, _RUN, count)


@kernel
def _levels(values: Any, first: int, end: int, p: int, last: int) -> None:
    """The levels p, 2 p, ... below ``last`` of the network, on the rows first..end-1."""
    while p < last:
        k = p
        while k >= 1:
            for j in range(first + k % p, end - k, 2 * k):
                if j // (2 * p) == (j + k) // (2 * p):
                    size = min(k, end - j - k) * LANES
                    lower = values[j * LANES : j * LANES + size]
                    upper = values[(j + k) * LANES : (j + k) * LANES + size]
                    for q in range(size):
                        a = lower[q]
                        b = upper[q]
                        lower[q] = min(a, b)
                        upper[q] = max(a, b)
            k //= 2
        p *= 2


@kernel
def median_of(ordered: Any, lane: int, first: int, end: int) -> float:
    """The median of the ordered values first..end-1 of a lane, as float64."""
    half = (first + end) // 2
    upper = np.float64(ordered[half * LANES + lane])
    if (end - first) % 2 == 1:
        return upper
    return 0.5 * (np.float64(ordered[(half - 1) * LANES + lane]) + upper)


@kernel
def _mad_sigma(ordered: Any, lane: int, first: int, end: int, middle: float) -> float:
    """1.4826 times the median absolute deviation: the deviations are merged outwards from the median."""
    count = end - first
    above = first
    left = first
    right = end
    while left < right:  # the first value that is not below the median
        above = (left + right) // 2
        if np.float64(ordered[above * LANES + lane]) < middle:
            left = above + 1
        else:
            right = above
    above = left
    below = above - 1
    deviation = 0.0
    previous = 0.0
    for _ in range(count // 2 + 1):
        previous = deviation
        down = math.inf if below < first else middle - np.float64(ordered[below * LANES + lane])
        up = math.inf if above >= end else np.float64(ordered[above * LANES + lane]) - middle
        if down < up:
            deviation = down
            below -= 1
        else:
            deviation = up
            above += 1
    return _MAD_TO_SIGMA * (deviation if count % 2 == 1 else 0.5 * (previous + deviation))


@kernel
def _winsorized_sigma(
    ordered: Any, lane: int, first: int, end: int, middle: float, origin: float, sum1: float, sum2: float
) -> float:
    """The spread by iterated winsorisation; ``sum1`` and ``sum2`` are the sums of (value - origin) and of its
    square over first..end-1. As the values are ordered, only the two ends of the run of values that are not
    clamped move between iterations, and the sums are corrected for what they pass."""
    count = end - first
    sigma = math.sqrt(max(0.0, (sum2 - sum1 * sum1 / count) / (count - 1)))
    a = first
    b = end
    for _ in range(_ITERATIONS):
        lowest = middle - _CLAMP * sigma - origin
        highest = middle + _CLAMP * sigma - origin
        while a < b:
            d = np.float64(ordered[a * LANES + lane]) - origin
            if d >= lowest:
                break
            sum1 -= d
            sum2 -= d * d
            a += 1
        while a > first:
            d = np.float64(ordered[(a - 1) * LANES + lane]) - origin
            if d < lowest:
                break
            sum1 += d
            sum2 += d * d
            a -= 1
        while b > a:
            d = np.float64(ordered[(b - 1) * LANES + lane]) - origin
            if d <= highest:
                break
            sum1 -= d
            sum2 -= d * d
            b -= 1
        while b < end:
            d = np.float64(ordered[b * LANES + lane]) - origin
            if d > highest:
                break
            sum1 += d
            sum2 += d * d
            b += 1
        low_count = a - first
        high_count = end - b
        all1 = sum1 + low_count * lowest + high_count * highest
        all2 = sum2 + low_count * lowest * lowest + high_count * highest * highest
        before = sigma
        sigma = _UNBIASED * math.sqrt(max(0.0, (all2 - all1 * all1 / count) / (count - 1)))
        if abs(sigma - before) <= _CONVERGED * before:
            break
    return sigma


@kernel
def _clip(
    ordered: Any,
    lane: int,
    count: int,
    method: int,
    low: float,
    high: float,
    noise: float,
    slack: float,
    origin: float,
) -> tuple[int, int]:
    """The run of ordered values that `winsorized` or `mad` keeps."""
    first = 0
    end = count
    keep = count // 2 + 1
    sum1 = 0.0
    sum2 = 0.0
    if method == WINSORIZED and count >= FEW:
        for i in range(count):
            d = np.float64(ordered[i * LANES + lane]) - origin
            sum1 += d
            sum2 += d * d
    while end - first > keep:
        middle = median_of(ordered, lane, first, end)
        if method == WINSORIZED and end - first >= FEW:
            sigma = _winsorized_sigma(ordered, lane, first, end, middle, origin, sum1, sum2)
        else:
            sigma = _mad_sigma(ordered, lane, first, end, middle)
        sigma = max(sigma, noise)
        lowest = middle - (low * sigma + slack)
        highest = middle + (high * sigma + slack)
        changed = False
        while end - first > keep:
            below = lowest - np.float64(ordered[first * LANES + lane])
            above = np.float64(ordered[(end - 1) * LANES + lane]) - highest
            if below <= 0.0 and above <= 0.0:
                break
            changed = True
            if above >= below:  # the farther one first, in case no more than a majority is left
                end -= 1
                d = np.float64(ordered[end * LANES + lane]) - origin
            else:
                d = np.float64(ordered[first * LANES + lane]) - origin
                first += 1
            sum1 -= d
            sum2 -= d * d
        if not changed:
            break
    return first, end


@kernel
def _clip_line(
    ordered: Any,
    lane: int,
    count: int,
    low: float,
    high: float,
    noise: float,
    slack: float,
    origin: float,
) -> tuple[int, int]:
    """The run of ordered values that `linear_fit` keeps."""
    first = 0
    end = count
    keep = count // 2 + 1
    while end - first > keep:
        n = end - first
        centre = 0.5 * (n - 1)
        sum_v = 0.0
        sum_rv = 0.0
        for i in range(n):
            d = np.float64(ordered[(first + i) * LANES + lane]) - origin
            sum_v += d
            sum_rv += (i - centre) * d
        mean = sum_v / n
        slope = 12.0 * sum_rv / (n * (np.float64(n) * n - 1.0))
        deviation = 0.0
        for i in range(n):
            d = np.float64(ordered[(first + i) * LANES + lane]) - origin
            deviation += abs(d - mean - slope * (i - centre))
        sigma = max(deviation / n, noise)
        start = first
        changed = False
        while end - first > keep:
            d_low = np.float64(ordered[first * LANES + lane]) - origin
            d_high = np.float64(ordered[(end - 1) * LANES + lane]) - origin
            below = mean + slope * (first - start - centre) - d_low - (low * sigma + slack)
            above = d_high - mean - slope * (end - 1 - start - centre) - (high * sigma + slack)
            if below <= 0.0 and above <= 0.0:
                break
            changed = True
            if above >= below:
                end -= 1
            else:
                first += 1
        if not changed:
            break
    return first, end


@kernel
def accepted_interval(
    ordered: Any,
    lane: int,
    count: int,
    method: int,
    low: float,
    high: float,
    noise: float,
    background: float,
    slack: float,
) -> tuple[float, float]:
    """The smallest and the largest accepted value of a lane whose first ``count`` values are ordered.

    ``low`` and ``high`` in sigma; ``noise`` and ``background`` in the unit of the values; ``slack`` is the
    share of the signal that is tolerated. With no value: (inf, -inf).
    """
    if count == 0:
        return math.inf, -math.inf
    smallest = np.float64(ordered[lane])
    largest = np.float64(ordered[(count - 1) * LANES + lane])
    if method == NONE or count < 3:
        return smallest, largest
    middle = median_of(ordered, lane, 0, count)
    tolerated = slack * max(0.0, middle - background)
    # The spread is taken as `noise` or more and the first limits lie about this very median: where both
    # extremes are within the limits for `noise`, the first round can reject nothing, and there is no second.
    line = method == LINEAR_FIT and count >= FEW_FOR_LINE
    if (
        not line
        and largest <= middle + (high * noise + tolerated)
        and smallest >= middle - (low * noise + tolerated)
    ):
        return smallest, largest
    if line:
        first, end = _clip_line(ordered, lane, count, low, high, noise, tolerated, middle)
    else:
        first, end = _clip(ordered, lane, count, method, low, high, noise, tolerated, middle)
    return np.float64(ordered[first * LANES + lane]), np.float64(ordered[(end - 1) * LANES + lane])


@kernel
def _accept(
    values: Any, method: int, low: float, high: float, noise: Any, background: Any, slack: float, out: Any
) -> None:
    frames, pixels = values.shape
    ordered = np.empty(frames * LANES, np.float32)
    for start in range(0, pixels, LANES):
        used = min(LANES, pixels - start)
        ordered[:] = np.inf
        for f in range(frames):
            for p in range(used):
                v = values[f, start + p]
                ordered[f * LANES + p] = v if v < np.inf else np.inf
        sort_lanes(ordered, frames)
        for p in range(used):
            count = 0
            for f in range(frames):
                count += values[f, start + p] < np.inf
            least, most = accepted_interval(
                ordered,
                p,
                count,
                method,
                low,
                high,
                np.float64(noise[start + p]),
                np.float64(background[start + p]),
                slack,
            )
            for f in range(frames):
                v = values[f, start + p]
                out[f, start + p] = v >= least and v <= most


def accept(
    values: NDArray[np.float32],
    method: str = "winsorized",
    low: float = 3.0,
    high: float = 3.0,
    noise: NDArray[np.float32] | float = 0.0,
    background: NDArray[np.float32] | float = math.inf,
    slack: float = SLACK,
) -> NDArray[np.bool_]:
    """Which of ``values`` [frames, pixels] are accepted; NaN (frame not there) never is.

    ``noise`` and ``background`` are per pixel or for all; the default background means that there is no
    signal. Raises StackingError for an unknown method.
    """
    _, pixels = values.shape
    out = np.empty(values.shape, np.bool_)
    _accept(
        np.ascontiguousarray(values, np.float32),
        number(method),
        float(low),
        float(high),
        np.ascontiguousarray(np.broadcast_to(np.asarray(noise, np.float32), (pixels,))),
        np.ascontiguousarray(np.broadcast_to(np.asarray(background, np.float32), (pixels,))),
        float(slack),
        out,
    )
    return out
