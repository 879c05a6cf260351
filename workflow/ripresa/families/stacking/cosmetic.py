"""Single pixels that no light through a telescope explains: hot, cold and hit by cosmic rays.

A star, however sharp, lights at least two of the four pixels next to its brightest one; a hot pixel lights
none, a cosmic ray rarely more than one. What is as dark as a pixel is bright is judged in the same way.
Pixels of a mosaic are compared with those of their own colour, and then with their direct neighbours.

Frames are judged one by one: what is found in a frame does not depend on which others are processed with it.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

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
# The same for direct neighbours of another colour in a mosaic, in which the star may be fainter. A PSF of 2
# px FWHM, the narrowest a mosaic can make use of, has 0.54 in the same colour.
OTHER_COLOUR_SHARE = 0.12
# Standard deviation from the third and the third-last of 16 sorted normal values, which are 1.98 sigma apart.
_RANGE_TO_SIGMA = 1 / 1.976
_MAD_OF_DIFFERENCE_TO_SIGMA = 1.4826 / np.sqrt(2)
_MEAN_DEVIATION_OF_DIFFERENCE_TO_SIGMA = np.sqrt(np.pi) / 2


def find(image: Image, cfa: bool) -> Indices:
    """Flat indices, ascending, into ``image`` (float32 [C, H, W], or [1, H, W] of a mosaic: ``cfa``) of its
    bad pixels.

    Pixels without a value (NaN) count as bad where their neighbours can replace them.
    """
    planes, height, width = image.shape
    step = 2 if cfa else 1
    mask = np.zeros(image.shape, np.uint8)
    if min(height, width) > 4 * step:
        for plane in range(planes):
            sigma = noise(image[plane], step)
            _mark(image[plane], step, sigma if sigma > 0 else np.inf, mask[plane])
    return np.flatnonzero(mask)


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
    """Standard deviation of the noise of a plane [H, W] from differences of pixels ``step`` apart; stars
    hardly count.

    A sample of 64 rows; zero if all is equal.
    """
    rows = plane[:: max(1, plane.shape[0] // 64)]
    difference = (rows[:, step:] - rows[:, :-step])[:, :: max(1, plane.shape[1] // 512)].ravel()
    difference = np.abs(difference[np.isfinite(difference)])
    if not len(difference):
        return 0.0
    middle = float(np.partition(difference, len(difference) // 2)[len(difference) // 2])
    # More than half the differences are zero in data of few levels.
    if middle > 0:
        return _MAD_OF_DIFFERENCE_TO_SIGMA * middle
    return float(_MEAN_DEVIATION_OF_DIFFERENCE_TO_SIGMA * difference.mean(dtype=np.float64))


@njit(cache=True, nogil=True)
def _mirrored(i: int, n: int) -> int:
    return -i if i < 0 else 2 * (n - 1) - i if i >= n else i


@njit(cache=True, nogil=True)
def _mark(plane: Image, step: int, sigma: float, mask: Mask) -> None:
    """Set ``mask`` at bad pixels."""
    height, width = plane.shape
    # Whoever stands THRESHOLD sigma above the sky stands at least this above three of its four neighbours.
    t = np.float32(0.5 * THRESHOLD * sigma)
    flags = np.empty(width, np.uint8)
    pairs = np.empty((2048, 2), np.int64)
    n = 0
    for y in range(height):
        up, row, down = plane[_mirrored(y - step, height)], plane[y], plane[_mirrored(y + step, height)]
        for x in range(step, width - step):
            v = row[x]
            high, low = v - t, v + t
            left, right = row[x - step], row[x + step]
            hot = ((high > left) | (high > right)) & ((high > up[x]) | (high > down[x]))
            cold = ((low < left) | (low < right)) & ((low < up[x]) | (low < down[x]))
            flags[x] = hot | cold | (v != v)
        for k in range(2 * step):
            x = k if k < step else width - 1 - (k - step)
            side = row[_mirrored(x + step, width)]
            v = row[x]
            hot = (v - t > side) & ((v - t > up[x]) | (v - t > down[x]))
            cold = (v + t < side) & ((v + t < up[x]) | (v + t < down[x]))
            flags[x] = hot | cold | (v != v)
        for x in range(width):
            if flags[x] and _is_bad(plane, y, x, step, sigma, THRESHOLD, mask, False):
                mask[y, x] = 1
                if n == len(pairs):
                    more = np.empty((2 * n, 2), np.int64)
                    more[:n] = pairs
                    pairs = more
                pairs[n, 0], pairs[n, 1] = y, x
                n += 1
    first = 0
    for _ in range(GROWTH_ROUNDS):
        last = n
        for k in range(first, last):
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    y, x = pairs[k, 0] + dy, pairs[k, 1] + dx
                    if y < 0 or y >= height or x < 0 or x >= width or mask[y, x]:
                        continue
                    if _is_bad(plane, y, x, step, sigma, GROWTH_THRESHOLD, mask, True):
                        mask[y, x] = 1
                        if n == len(pairs):
                            more = np.empty((2 * n, 2), np.int64)
                            more[:n] = pairs
                            pairs = more
                        pairs[n, 0], pairs[n, 1] = y, x
                        n += 1
        first = last


@njit(cache=True, nogil=True)
def _is_bad(
    plane: Image, y: int, x: int, step: int, sigma: float, threshold: float, mask: Mask, masked: bool
) -> bool:
    """Whether one pixel stands out of its surroundings as no PSF does. ``masked``: leave out what ``mask``
    marks.
    """
    height, width = plane.shape
    # Sky and scatter: the 16 pixels of the same colour at distance two, which a sharp star does not reach.
    ring = np.empty(16, np.float32)
    n = 0
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            if max(abs(dy), abs(dx)) == 2:
                i, j = _mirrored(y + dy * step, height), _mirrored(x + dx * step, width)
                w = plane[i, j]
                if w == w and not (masked and mask[i, j]):
                    k = n  # insert in order
                    while k > 0 and ring[k - 1] > w:
                        ring[k] = ring[k - 1]
                        k -= 1
                    ring[k] = w
                    n += 1
    v = plane[y, x]
    if v != v:
        return n >= 8
    if n < 8:
        return False
    sky = 0.5 * (ring[(n - 1) // 2] + ring[n // 2])
    scatter = (ring[n - 1 - n // 8] - ring[n // 8]) * _RANGE_TO_SIGMA
    height_ = v - sky
    sign = 1.0 if height_ > 0 else -1.0
    height_ *= sign
    if not height_ > threshold * max(scatter, sigma):
        return False
    # The second-highest of the four neighbours of the same colour.
    highest = second = -np.inf
    for k in range(4):
        dy = (k == 0) - (k == 1)
        dx = (k == 2) - (k == 3)
        i, j = _mirrored(y + dy * step, height), _mirrored(x + dx * step, width)
        if masked and mask[i, j]:
            continue
        w = sign * (plane[i, j] - sky)
        if w > highest:
            highest, second = w, highest
        elif w > second:
            second = w
    if second > SHARE * height_:
        return False
    if step == 1:
        return True
    # A mosaic: a star as sharp as that in its own colour shows in the pixels between.
    highest = second = -np.inf
    for k in range(4):
        i = _mirrored(y + (k == 0) - (k == 1), height)
        j = _mirrored(x + (k == 2) - (k == 3), width)
        if masked and mask[i, j]:
            continue
        n = 0
        for dy in range(-2, 3, 2):
            for dx in range(-2, 3, 2):
                w = plane[_mirrored(i + dy, height), _mirrored(j + dx, width)]
                if (dy or dx) and w == w:
                    m = n
                    while m > 0 and ring[m - 1] > w:
                        ring[m] = ring[m - 1]
                        m -= 1
                    ring[m] = w
                    n += 1
        if n == 0:
            continue
        w = sign * (plane[i, j] - ring[n // 2])
        if w > highest:
            highest, second = w, highest
        elif w > second:
            second = w
    return second <= OTHER_COLOUR_SHARE * height_


@njit(cache=True, nogil=True)
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
                    if not mask[i, j] and plane[i, j] == plane[i, j]:
                        good[n] = plane[i, j]
                        n += 1
            if n >= 3:
                break
        if n:
            plane[y, x] = np.median(good[:n])
