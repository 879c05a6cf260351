"""Single pixels that no light through a telescope explains: hot, cold and hit by cosmic rays.

A star, however sharp, lights at least two of the four pixels next to its brightest one; a hot pixel lights
none, a cosmic ray rarely more than one. What is as dark as a pixel is bright is judged in the same way.
Pixels of a mosaic are compared with those of their own colour, and then with their direct neighbours.

Frames are judged one by one: what is found in a frame does not depend on which others are processed with it.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking.kernels import kernel

Image = NDArray[np.float32]
Mask = NDArray[np.uint8]
Indices = NDArray[np.int64]

# Height above the surroundings in sigma. Below it, the second-brightest neighbour of a star in the noise
# could be mistaken for none.
THRESHOLD = 8.0
# The same for a pixel next to one that was found: the rest of a track.
GROWTH_THRESHOLD = 5.0
GROWTH_ROUNDS = 3
# Of the four neighbours of a star's brightest pixel, the second-brightest has at least 0.32 of its height
# if the PSF is a Gaussian of 1.4 px FWHM (0.24 for 1.2 px), wherever in the pixel the star is.
SHARE = 0.2
# The three fainter ones have 0.25 in the mean, which says more in noise.
MEAN_SHARE = 0.12
# The same for direct neighbours of another colour in a mosaic, in which the star may be fainter. A PSF of 2
# px FWHM, the narrowest a mosaic can make use of, has 0.54 in the same colour.
OTHER_COLOUR_SHARE = 0.12
# Standard deviation from the third and the third-last of 16 sorted normal values, which are 1.98 sigma apart.
RANGE_TO_SIGMA = 1 / 1.976
# Standard deviation of normal values within three sigma.
CLIPPED_AT_3_SIGMA = 0.9866


def find(image: Image, cfa: bool) -> Indices:
    """Flat indices, ascending, into ``image`` (float32 [C, H, W], or [1, H, W] of a mosaic: ``cfa``) of its
    bad pixels.

    Pixels without a value (NaN) count as bad where their neighbours can replace them.
    """
    planes, height, width = image.shape
    step = 2 if cfa else 1
    parts = [np.empty(0, np.int64)]
    if min(height, width) > 4 * step:
        for plane in range(planes):
            sigma = noise(image[plane], step)
            rows = np.empty((4096, 2), np.int64)
            while (count := _found(image[plane], step, sigma, rows)) > len(rows):
                rows = np.empty((count, 2), np.int64)
            found = rows[:count, 0] * width + rows[:count, 1]
            parts.append(np.unique(found) + plane * height * width)
    return np.concatenate(parts)


def repair(image: Image, indices: Indices, cfa: bool) -> Image:
    """Replace the pixels at ``indices`` (as `find` gives them) in place by the median of their good
    neighbours.

    Only pixels of the same colour that are neither in ``indices`` nor NaN are good; where the nearest eight
    have fewer than three, the next sixteen count too. Pixels without any keep what they have. Gives
    ``image`` back.
    """
    if len(indices):
        mask = np.zeros(image.shape, np.uint8)
        mask.reshape(-1)[indices] = 1
        height, width = image.shape[1:]
        for plane in range(image.shape[0]):
            size = height * width
            first, last = np.searchsorted(indices, [plane * size, (plane + 1) * size])
            _fill(image[plane], mask[plane], indices[first:last] - plane * size, 2 if cfa else 1)
    return image


def noise(plane: Image, step: int = 1) -> float:
    """Standard deviation of the noise of a plane [H, W], from a sample of 64 rows; zero if all is equal.

    Found from differences of pixels ``step`` apart, which stars and gradients hardly change. Clipped, and
    not only a median, because few levels (integers of low noise) make that one too coarse.
    """
    rows = plane[:: max(1, plane.shape[0] // 64)]
    difference = (rows[:, step:] - rows[:, :-step])[:, :: max(1, plane.shape[1] // 512)].ravel()
    difference = np.abs(difference[np.isfinite(difference)]).astype(np.float64)
    if not len(difference):
        return 0.0
    sigma = 1.4826 * float(np.partition(difference, len(difference) // 2)[len(difference) // 2])
    if sigma == 0:  # so few levels that clipping would leave a single one
        return float(np.sqrt(np.mean(difference**2) / 2))
    for _ in range(4):
        kept = difference[difference <= 3 * sigma]
        sigma = float(np.sqrt(np.mean(kept**2))) / CLIPPED_AT_3_SIGMA
    return sigma / math.sqrt(2)


@kernel
def _mirrored(i: int, n: int) -> int:
    return -i if i < 0 else 2 * (n - 1) - i if i >= n else i


@kernel
def _suspects(up: Image, row: Image, down: Image, step: int, t: np.float32, flags: Mask) -> None:
    """Flag the pixels of a row that are ``t`` higher, or lower, than at least three of their four neighbours.

    ``row`` has ``step`` more pixels at both ends than the others. Written so that it runs in vector
    instructions.
    """
    n = len(flags)
    left, middle, right = row[:n], row[step : step + n], row[2 * step : 2 * step + n]
    for x in range(n):
        v = middle[x]
        high, low = v - t, v + t
        a, b, c, d = high > left[x], high > right[x], high > up[x], high > down[x]
        hot = (a & b & (c | d)) | (c & d & (a | b))
        a, b, c, d = low < left[x], low < right[x], low < up[x], low < down[x]
        cold = (a & b & (c | d)) | (c & d & (a | b))
        flags[x] = hot | cold | math.isnan(v)


@kernel
def _all_suspects(plane: Image, step: int, t: np.float32, found: Indices) -> int:
    """Put (y, x) of the suspects of a plane into ``found``; gives their number, which may be larger.

    Apart from `_found` and without making arrays, else the compiler uses no vector instructions.
    """
    height, width = plane.shape
    flags = np.empty(width, np.uint8)
    row = np.empty(width + 2 * step, np.float32)
    n = 0
    for y in range(height):
        row[step : step + width] = plane[y]
        for k in range(step):
            row[k], row[step + width + k] = plane[y, step - k], plane[y, width - 2 - k]
        up, down = plane[_mirrored(y - step, height)], plane[_mirrored(y + step, height)]
        _suspects(up, row, down, step, t, flags)
        for x in range(width):
            if flags[x]:
                if n < len(found):
                    found[n, 0], found[n, 1] = y, x
                n += 1
    return n


@kernel
def _found(plane: Image, step: int, sigma: float, found: Indices) -> int:
    """Put (y, x) of the bad pixels of a plane whose noise is ``sigma``, some perhaps twice, into ``found``.

    Gives their number, or a number larger than that of the rows in ``found``: so many would be of use.
    """
    height, width = plane.shape
    mask = np.zeros(plane.shape, np.uint8)
    around = np.empty(16, np.float32)
    t = np.float32((1 - SHARE) * THRESHOLD * sigma)
    suspects = _all_suspects(plane, step, t, found)
    if suspects > len(found):
        return suspects
    n = 0
    for k in range(suspects):
        if _stands_out(plane, found[k, 0], found[k, 1], step, sigma, THRESHOLD, mask, around):
            found[n] = found[k]
            n += 1
    first = 0
    for turn in range(GROWTH_ROUNDS + 1):
        for k in range(first, n):
            mask[found[k, 0], found[k, 1]] = 1
        if turn == GROWTH_ROUNDS:
            break
        last = n
        for k in range(9 * first, 9 * last):
            y, x = found[k // 9, 0] + k % 9 // 3 - 1, found[k // 9, 1] + k % 3 - 1
            if not (0 <= y < height and 0 <= x < width) or mask[y, x]:
                continue
            if _stands_out(plane, y, x, step, sigma, GROWTH_THRESHOLD, mask, around):
                if n == len(found):
                    return 2 * n
                found[n, 0], found[n, 1] = y, x
                n += 1
        first = last
    return n


@kernel
def _ring(plane: Image, y: int, x: int, reach: int, step: int, mask: Mask, values: Image) -> int:
    """The pixels ``reach`` steps around one that have a value and are not masked, sorted; gives their
    number.
    """
    height, width = plane.shape
    n = 0
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if max(abs(dy), abs(dx)) == reach:
                i, j = _mirrored(y + dy * step, height), _mirrored(x + dx * step, width)
                v = plane[i, j]
                if not (mask[i, j] or math.isnan(v)):
                    k = n
                    while k > 0 and values[k - 1] > v:
                        values[k] = values[k - 1]
                        k -= 1
                    values[k] = v
                    n += 1
    return n


@kernel
def _but_the_highest(
    plane: Image, y: int, x: int, distance: int, sign: float, sky: float, mask: Mask, around: Image
) -> tuple[float, float]:
    """Of the four neighbours at a distance, less those in ``mask``: the second-highest, and the mean
    without the highest; each above ``sky`` (or above its own surroundings if that is NaN) and times
    ``sign``.
    """
    height, width = plane.shape
    highest = second = -np.inf
    total, n = 0.0, 0
    for k in range(4):
        i = y + distance * ((k == 0) - (k == 1))
        j = x + distance * ((k == 2) - (k == 3))
        v = np.inf  # beyond the border there may be the middle of a star
        if 0 <= i < height and 0 <= j < width:
            if mask[i, j]:
                continue
            v = np.float64(plane[i, j])
            base = sky
            if math.isnan(sky):
                m = _ring(plane, i, j, 1, 2, mask, around)
                base = np.float64(around[m // 2]) if m else v
            v = sign * (v - base)
        if v > highest:
            v, highest = highest, v
        second = max(second, v)
        if v > -np.inf:
            total += v
            n += 1
    return second, total / n if n else -np.inf


@kernel
def _stands_out(
    plane: Image, y: int, x: int, step: int, sigma: float, threshold: float, mask: Mask, around: Image
) -> bool:
    """Whether a pixel differs from its surroundings, less those in ``mask``, as no PSF makes it.

    ``around`` is room for 16 values.
    """
    v = np.float64(plane[y, x])
    # What is ``threshold`` sigma from the sky, and its neighbours but one SHARE of that, is far from them
    # too.
    least = (1 - SHARE) * threshold * sigma
    sign = 1.0
    if v - _but_the_highest(plane, y, x, step, 1.0, 0.0, mask, around)[0] < least:
        sign = -1.0
        if -v - _but_the_highest(plane, y, x, step, -1.0, 0.0, mask, around)[0] < least:
            return False
    # Sky and scatter: the pixels of the same colour at distance two, which a sharp star does not reach.
    n = _ring(plane, y, x, 2, step, mask, around)
    if n < 8 or math.isnan(v):
        return n >= 8
    sky = 0.5 * (np.float64(around[(n - 1) // 2]) + around[n // 2])
    scatter = (around[n - 1 - n // 8] - around[n // 8]) * RANGE_TO_SIGMA
    excess = sign * (v - sky)
    if not excess > threshold * max(scatter, sigma):
        return False
    second, mean = _but_the_highest(plane, y, x, step, sign, sky, mask, around)
    if second > SHARE * excess or mean > MEAN_SHARE * excess:
        return False
    if step == 1:
        return True
    return _but_the_highest(plane, y, x, 1, sign, np.nan, mask, around)[0] <= OTHER_COLOUR_SHARE * excess


@kernel
def _fill(plane: Image, mask: Mask, indices: Indices, step: int) -> None:
    height, width = plane.shape
    good = np.empty(24, np.float32)
    for index in indices:
        y, x = index // width, index % width
        n = 0
        for reach in range(1, 3):
            for dy in range(-reach, reach + 1):
                for dx in range(-reach, reach + 1):
                    i, j = y + dy * step, x + dx * step
                    if max(abs(dy), abs(dx)) != reach or i < 0 or i >= height or j < 0 or j >= width:
                        continue
                    if not (mask[i, j] or math.isnan(plane[i, j])):
                        good[n] = plane[i, j]
                        n += 1
            if n >= 3:
                break
        if n:
            plane[y, x] = np.median(good[:n])
