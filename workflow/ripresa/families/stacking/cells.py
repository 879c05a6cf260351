"""What a registered frame is like in each cell of 16 x 16 px: background, noise, gradients, coverage.

**Background**: the median of what remains of a cell when its bright and dark pixels are clipped.

**Noise** is that of one raw pixel, measured on the frame before it is resampled and carried over to the
cells. Resampling makes neighbours alike, the more so the further the new pixels lie from old ones: the spread
of resampled pixels depends on the sub-pixel shift (by up to a factor of two), while the noise of anything
wider than a pixel stays that of the raw frame. It is taken from second differences along both axes, which see
no gradients and little of a star (mask 1 -2 1 times 1 -2 1, Immerkaer 1996), as the width of the core of
their distribution.

**Gradient energy**: the mean of gx^2 + gy^2, from central differences. NaN where there are none, as in a cell
of which the footprint holds single pixels.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking.kernels import kernel

Image = NDArray[np.float32]

CELL = 16
# Sums in any order, so that they can be vectors; NaN stays NaN.
_SUMS = {"reassoc", "contract", "nsz"}

# The mask's weights squared add up to 36.
_MASK = 6.0
# Second differences beyond this many sigma are no noise; the rms of normal values within is this many sigma.
_CORE = 2.0
_CORE_RMS = 0.8796
_MEAN_TO_SIGMA = 1.2533
# Clipping of the background.
_LOW = 3.0
_HIGH = 2.0
# By how much that makes the median of normal values less, in units of their remaining spread.
_LOST = 0.055
_ITERATIONS = 8


class Measured(NamedTuple):
    """Maps [ny, nx] of a registered image, NaN where it has no pixels; its lowest and highest value."""

    background: Image
    energy: Image
    coverage: Image
    low: float
    high: float


def shape(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of cells; the last ones may be cut."""
    return -(-height // CELL), -(-width // CELL)


def measure(image: Image) -> Measured:
    """Background, gradient energy and coverage of the cells of ``image`` [H, W], contiguous, NaN where it has
    no pixels."""
    grid = shape(*image.shape)
    background, energy, coverage = (np.empty(grid, np.float32) for _ in range(3))
    extremes = np.empty(2, np.float32)
    _measure(image, background, energy, coverage, extremes)
    return Measured(background, energy, coverage, float(extremes[0]), float(extremes[1]))


def raw_noise(image: Image) -> Image:
    """Noise [ny, nx] in cells of 16 x 16 px of a raw ``image`` [h, w], contiguous: sigma of one pixel."""
    noise = np.empty(shape(*image.shape), np.float32)
    _noise(image, noise)
    return noise


def carry(noise: Image, to_plane: NDArray[np.float64], coverage: Image) -> Image:
    """The noise of a raw plane in the cells of the registered image, NaN where ``coverage`` is 0.

    ``to_plane`` [2, 3] maps pixels of the registered image to those of the plane. The median of 3 x 3 cells
    of the plane is taken, so that a star does not count.
    """
    out = np.empty(coverage.shape, np.float32)
    _carry(noise, np.ascontiguousarray(to_plane, np.float64), coverage, out)
    return out


@kernel(fastmath=_SUMS)
def _clipped(values: Any, low: Any, high: Any) -> Any:
    """Count, sum and sum of squares of the values between ``low`` and ``high``."""
    count = np.int32(0)
    total = np.float32(0)
    squares = np.float32(0)
    for i in range(values.size):
        value = values[i]
        inside = (value >= low) & (value <= high)
        kept = value if inside else np.float32(0)
        count += np.int32(inside)
        total += kept
        squares += kept * kept
    return count, total, squares


@kernel(fastmath=_SUMS)
def _count(values: Any, low: Any, high: Any) -> Any:
    """How many values lie from ``low`` to ``high``."""
    count = np.int32(0)
    for i in range(values.size):
        count += np.int32((values[i] >= low) & (values[i] <= high))
    return count


@kernel
def _background(values: Any) -> Any:
    """The median of clipped values, to 1 % of their sigma."""
    # Relative to a value of their own, so that squares keep their digits.
    origin = values[0]
    for i in range(values.size):
        values[i] -= origin
    low, high = np.float32(-np.inf), np.float32(np.inf)
    kept = np.int32(values.size + values.size)
    mean, sigma = np.float32(0), np.float32(0)
    for _ in range(_ITERATIONS):
        count, total, squares = _clipped(values, low, high)
        if kept - count <= count // 128 or count == 0:
            break
        kept = count
        mean = total / np.float32(count)
        sigma = np.float32(math.sqrt(max(squares / np.float32(count) - mean * mean, np.float32(0))))
        low = mean - np.float32(_LOW) * sigma
        high = mean + np.float32(_HIGH) * sigma
    # The median is less than a sigma from the mean, whatever the distribution.
    half = np.float32(0.5) * np.float32(_count(values, low, high))
    a, b = mean - sigma, mean + sigma
    for _ in range(7):
        middle = np.float32(0.5) * (a + b)
        if np.float32(_count(values, low, middle)) < half:
            a = middle
        else:
            b = middle
    return origin + np.float32(0.5) * (a + b) + np.float32(_LOST) * sigma


@kernel
def _strip(image: Any, y0: int, y1: int, low: Any, high: Any, energy: Any, known: Any) -> None:
    """Of each column of the rows ``y0`` to ``y1``: lowest and highest value so far, sum of gx^2 + gy^2 but
    for pixels beside NaN or the border, and their number."""
    height, width = image.shape
    energy[:] = np.float32(0)
    known[:] = np.float32(0)
    for y in range(y0, y1):
        row = image[y]
        for x in range(width):
            value = row[x]
            low[x] = value if value < low[x] else low[x]
            high[x] = value if value > high[x] else high[x]
        if 0 < y < height - 1:
            above, below = image[y - 1], image[y + 1]
            for x in range(1, width - 1):
                gx = row[x + 1] - row[x - 1]
                gy = below[x] - above[x]
                value = np.float32(0.25) * (gx * gx + gy * gy)
                finite = value >= np.float32(0)
                energy[x] += value if finite else np.float32(0)
                known[x] += np.float32(1) if finite else np.float32(0)


@kernel
def _measure(image: Any, background: Any, energy: Any, coverage: Any, extremes: Any) -> None:
    height, width = image.shape
    values = np.empty(CELL * CELL, np.float32)
    low, high = np.full(width, np.inf, np.float32), np.full(width, -np.inf, np.float32)
    squares, numbers = np.empty(width, np.float32), np.empty(width, np.float32)
    for j in range(background.shape[0]):
        y0, y1 = j * CELL, min(height, (j + 1) * CELL)
        _strip(image, y0, y1, low, high, squares, numbers)
        for i in range(background.shape[1]):
            x0, x1 = i * CELL, min(width, (i + 1) * CELL)
            n = 0
            for y in range(y0, y1):
                row = image[y]
                for x in range(x0, x1):
                    values[n + x - x0] = row[x]
                n += x1 - x0
            known = _count(values[:n], np.float32(-np.inf), np.float32(np.inf))
            coverage[j, i] = np.float32(known) / np.float32(n)
            if known < n:
                n = 0
                for y in range(y0, y1):
                    for x in range(x0, x1):
                        if not np.isnan(image[y, x]):
                            values[n] = image[y, x]
                            n += 1
            background[j, i] = _background(values[:n]) if n > 0 else np.float32(np.nan)
            number = numbers[x0:x1].sum()
            energy[j, i] = squares[x0:x1].sum() / number if number > 0 else np.float32(np.nan)
    extremes[0], extremes[1] = low.min(), high.max()


@kernel(fastmath=_SUMS)
def _mean_deviation(values: Any) -> Any:
    """Mean of the absolute values that are known; NaN if none is."""
    count = np.int32(0)
    total = np.float32(0)
    for i in range(values.size):
        size = abs(values[i])
        known = size >= np.float32(0)
        total += size if known else np.float32(0)
        count += np.int32(known)
    return total / np.float32(count) if count > 0 else np.float32(np.nan)


@kernel(fastmath=_SUMS)
def _core(values: Any, sigma: Any) -> Any:
    """Sigma of normal values from those within some of it, given a first guess; NaN counts as nothing."""
    limit = np.float32(_CORE) * sigma
    count = np.int32(0)
    squares = np.float32(0)
    for i in range(values.size):
        value = values[i]
        inside = abs(value) <= limit
        squares += value * value if inside else np.float32(0)
        count += np.int32(inside)
    if count == 0:
        return sigma
    return np.float32(math.sqrt(squares / np.float32(count))) / np.float32(_CORE_RMS)


@kernel
def _noise(image: Any, noise: Any) -> None:
    height, width = image.shape
    along = np.empty((3, width), np.float32)
    differences = np.zeros((CELL, width), np.float32)
    values = np.empty(CELL * CELL, np.float32)
    for j in range(noise.shape[0]):
        # A cell cut by the border takes the rows and columns before it.
        y0 = max(0, min(j * CELL, height - CELL))
        rows = min(CELL, height - y0)
        for y in range(rows):
            source = image[y0 + y]
            target = along[y % 3]
            for x in range(1, width - 1):
                target[x] = source[x - 1] - source[x] - source[x] + source[x + 1]
            if y >= 2:
                above, middle = along[(y - 2) % 3], along[(y - 1) % 3]
                result = differences[y - 1]
                for x in range(1, width - 1):
                    result[x] = above[x] - middle[x] - middle[x] + target[x]
        for i in range(noise.shape[1]):
            x0 = max(0, min(i * CELL, width - CELL))
            columns = min(CELL, width - x0)
            n = 0
            for y in range(1, rows - 1):
                row = differences[y]
                for x in range(x0 + 1, x0 + columns - 1):
                    values[n + x - x0 - 1] = row[x]
                n += max(columns - 2, 0)
            sigma = _mean_deviation(values[:n]) * np.float32(_MEAN_TO_SIGMA)
            for _ in range(_ITERATIONS):
                before = sigma
                sigma = _core(values[:n], sigma)
                if abs(sigma - before) <= np.float32(0.003) * before:
                    break
            noise[j, i] = sigma / np.float32(_MASK)


@kernel
def _carry(noise: Any, m: Any, coverage: Any, out: Any) -> None:
    ny, nx = noise.shape
    values = np.empty(9, np.float32)
    half = (CELL - 1) / 2
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            out[j, i] = np.float32(np.nan)
            if coverage[j, i] == 0:
                continue
            x, y = i * CELL + half, j * CELL + half
            u = int((m[0, 0] * x + m[0, 1] * y + m[0, 2] + 0.5) // CELL)
            v = int((m[1, 0] * x + m[1, 1] * y + m[1, 2] + 0.5) // CELL)
            u, v = min(max(u, 0), nx - 1), min(max(v, 0), ny - 1)
            n = 0
            for q in range(max(0, v - 1), min(ny, v + 2)):
                for p in range(max(0, u - 1), min(nx, u + 2)):
                    value = noise[q, p]
                    if not np.isnan(value):
                        k = n
                        while k > 0 and values[k - 1] > value:
                            values[k] = values[k - 1]
                            k -= 1
                        values[k] = value
                        n += 1
            if n > 0:
                out[j, i] = np.float32(0.5) * (values[(n - 1) // 2] + values[n // 2])
