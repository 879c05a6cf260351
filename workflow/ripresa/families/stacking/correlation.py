"""Registration by the images themselves, for frames whose stars are too faint or too few to be matched.

First the whole images, binned, at half a turn and at none (and at small rotations, if need be), then tiles of
the full images around the place found. All light counts, also that of stars too faint to be detected.

The pattern of the detector itself (hot pixels, fixed noise) correlates too, at the place where nothing has
moved. It is a spike there, one pixel wide, while the sky's correlation is as wide as its stars: images are
therefore correlated as they are, the spike is taken out, and only then the correlation is smoothed.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import detection, robust, transforms

Image = NDArray[np.float32]
Matrix = NDArray[np.float64]

LONGEST = 512  # px of a binned image
ANGLE = 0.75  # degrees, step of the rotations that are tried
TURNS = 4  # steps to either side
ROTATION_GAIN = 1.15  # by how much a rotation must raise the peak
LEAST_OVERLAP = 0.15  # of the area
SIGNIFICANCE = 8.0  # of the peak, in sigma of the correlation elsewhere
RUNNER_UP = 1.25  # by how much the peak must be higher than any other
TILE = 128  # px
TILES = 48


@dataclass(frozen=True)
class Peak:
    """Where a frame lies according to the correlation; ``significance`` in sigma, ``uncertainty`` in px."""

    to_frame: Matrix
    significance: float
    uncertainty: float


class Correlator:
    """The reference image, prepared once, to which frames are compared."""

    def __init__(self, image: Image, bayer: str | None, fwhm: float) -> None:
        """``image`` is float32 [C, H, W] (a mosaic if ``bayer`` is given), ``fwhm`` in px of full
        resolution."""
        self._bayer = bayer
        self._unit = 2.0 if bayer else 1.0
        self._plane = detection.luminance(image, bayer)
        self._sigma = min(max(fwhm / self._unit / 2.355, 0.8), 8.0)
        self._bin = _binning(self._plane)
        self._coarse_sigma = max(self._sigma / self._bin, 0.8)
        self._coarse = _binned(self._plane, self._bin, self._coarse_sigma)
        height, width = self._coarse.shape
        self._shape = _fast(2 * height), _fast(2 * width)
        self._spectrum = np.conj(np.fft.rfft2(self._coarse, self._shape))
        self._share = _overlaps(height, width, self._shape)

    def locate(self, image: Image) -> Peak | None:
        """Where the frame ``image`` lies, or None if no peak stands out."""
        plane = detection.luminance(image, self._bayer)
        coarse = _binned(plane, self._bin, self._coarse_sigma)
        tried = {(turn, 0): self._peak(coarse, turn, 0.0) for turn in (0.0, 180.0)}
        if max(significance for significance, _ in tried.values()) < SIGNIFICANCE:
            for turn, k in itertools.product((0.0, 180.0), range(-TURNS, TURNS + 1)):
                tried[turn, k] = self._peak(coarse, turn, k * ANGLE)
        significance, binned = self._turned(coarse, tried)
        if significance < SIGNIFICANCE:
            return None
        matrix = _scaled(binned, float(self._bin))
        matrix, uncertainty = self._refined(plane, matrix)
        return Peak(_scaled(matrix, self._unit), significance, uncertainty * self._unit)

    def _turned(
        self, coarse: Image, tried: dict[tuple[float, int], tuple[float, Matrix]]
    ) -> tuple[float, Matrix]:
        """The highest peak over rotations: from the best of those tried uphill in steps, then between
        them."""
        turn, k = max(tried, key=lambda key: (tried[key][0], -abs(key[1]), -key[0]))
        if not tried[turn, k][0] > 0:
            return tried[turn, k]
        # Where nearly nothing has moved, the detector's pattern would be what fits better when turned a
        # little.
        if turn == k == 0 and np.abs(tried[turn, k][1][:, 2]).max() < 4.0 * self._coarse_sigma + 2.0:
            return tried[turn, k]
        for _ in range(TURNS):
            for near in (k - 1, k + 1):
                if (turn, near) not in tried:
                    tried[turn, near] = self._peak(coarse, turn, near * ANGLE)
            best = max((k, k - 1, k + 1), key=lambda one: tried[turn, one][0])
            if best == k:
                break
            k = best
        # Without a clear gain there is no rotation.
        if tried[turn, k][0] < ROTATION_GAIN * tried.get((turn, 0), (0.0, None))[0]:
            return tried[turn, 0]
        before, at, after = (
            tried[turn, one][0] if (turn, one) in tried else 0.0 for one in (k - 1, k, k + 1)
        )
        offset = 0.5 * (before - after) / min(before - 2.0 * at + after, -1e-9)
        finer = self._peak(coarse, turn, (k + float(np.clip(offset, -0.5, 0.5))) * ANGLE)
        return max(finer, tried[turn, k], key=lambda one: one[0])

    def _peak(self, coarse: Image, turn: float, angle: float) -> tuple[float, Matrix]:
        """Significance and transform (binned px) of the highest peak, the frame turned back by some angle."""
        height, width = coarse.shape
        back = transforms.similarity(1.0, turn + angle, ((width - 1) / 2.0, (height - 1) / 2.0), (0.0, 0.0))
        turned = coarse[::-1, ::-1] if turn == 180.0 else coarse
        if angle:
            small = transforms.similarity(1.0, angle, ((width - 1) / 2.0, (height - 1) / 2.0), (0.0, 0.0))
            turned = _resampled(turned, small)
        correlation = np.fft.irfft2(np.fft.rfft2(turned, self._shape) * self._spectrum, self._shape)
        if turn == angle == 0.0:
            _despike(correlation, 0, 0)
        correlation = _smoothed_cyclic(correlation, math.sqrt(2.0) * self._coarse_sigma)
        with np.errstate(divide="ignore", invalid="ignore"):
            correlation = np.where(self._share > LEAST_OVERLAP, correlation / np.sqrt(self._share), 0.0)
        elsewhere = correlation[self._share > LEAST_OVERLAP]
        middle = float(np.median(elsewhere))
        sigma = robust.MAD_TO_SIGMA * float(np.median(np.abs(elsewhere - middle)))
        if not sigma > 0:
            return 0.0, transforms.identity()
        i, j = np.unravel_index(int(np.argmax(correlation)), correlation.shape)
        height_of_peak = float(correlation[i, j]) - middle
        dy, dx = _subpixel(correlation, int(i), int(j))
        # Everything but the peak itself and its slopes.
        reach = math.ceil(4.0 * self._coarse_sigma) + 1
        rows = (np.arange(-reach, reach + 1) + i) % correlation.shape[0]
        columns = (np.arange(-reach, reach + 1) + j) % correlation.shape[1]
        correlation[np.ix_(rows, columns)] = middle
        if height_of_peak < RUNNER_UP * (float(correlation.max()) - middle):
            return 0.0, transforms.identity()
        shift = np.array([[1.0, 0.0, dx], [0.0, 1.0, dy]])
        return height_of_peak / sigma, transforms.compose(back, shift)

    def _refined(self, plane: Image, matrix: Matrix) -> tuple[Matrix, float]:
        """The shift improved at full resolution, and its uncertainty from two halves of the tiles."""
        uncertainty = 0.5 * self._bin
        for search in (float(self._bin) + 4.0, 4.0):
            around, pieces = _tiles(self._plane, plane, matrix, search, self._sigma)
            if len(pieces) < 4:
                return matrix, uncertainty
            whole = _tile_shift(sum(pieces[1:], pieces[0]), search)
            one = _tile_shift(sum(pieces[2::2], pieces[0]), search)
            other = _tile_shift(sum(pieces[3::2], pieces[1]), search)
            if whole is None:
                return matrix, uncertainty
            if one is not None and other is not None:
                uncertainty = max(0.5 * math.hypot(one[0] - other[0], one[1] - other[1]), 0.02)
            if self._bin == 1:  # the whole images told the place already, and better
                return matrix, uncertainty
            matrix = transforms.compose(around, np.array([[1.0, 0.0, whole[0]], [0.0, 1.0, whole[1]]]))
        return matrix, uncertainty


def _binning(plane: Image) -> int:
    return max(1, math.ceil(max(plane.shape) / LONGEST))


def _binned(plane: Image, binning: int, sigma: float) -> Image:
    """The mean of squares of pixels, flattened."""
    height, width = plane.shape[0] // binning, plane.shape[1] // binning
    squares = plane[: height * binning, : width * binning].reshape(height, binning, width, binning)
    return _flattened(squares.mean(axis=(1, 3), dtype=np.float32), sigma)


def _flattened(image: Image, sigma: float) -> Image:
    """Without sky, light wider than stars, and bands; clipped, so that nothing dominates; faded at the
    border."""
    image = np.nan_to_num(image, nan=float(np.nanmedian(image)))
    flat = image - _smoothed(image, min(12.0 * sigma, min(image.shape) / 4.0))
    flat -= np.median(flat, axis=1, keepdims=True)
    flat -= np.median(flat, axis=0, keepdims=True)
    noise = robust.MAD_TO_SIGMA * float(np.median(np.abs(flat))) or 1.0
    faded = np.clip(flat, -4.0 * noise, 12.0 * noise) * _fade(len(flat))[:, None] * _fade(flat.shape[1])
    return faded.astype(np.float32)


def _despike(correlation: NDArray[np.float64], i: int, j: int) -> None:
    """Put the mean of the ring around 3x3 values, at a cyclic lag, in their place."""
    rows = (np.arange(i - 2, i + 3)) % correlation.shape[0]
    columns = (np.arange(j - 2, j + 3)) % correlation.shape[1]
    box = correlation[np.ix_(rows, columns)]
    ring = (box.sum() - box[1:4, 1:4].sum()) / 16.0
    correlation[np.ix_(rows[1:4], columns[1:4])] = ring


def _smoothed_cyclic(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Convolved with a Gaussian, cyclically."""
    height, width = values.shape
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    transfer = np.exp(-2.0 * (np.pi * sigma) ** 2 * (fy * fy + fx * fx))
    return np.fft.irfft2(np.fft.rfft2(values) * transfer, (height, width))


def _fade(length: int) -> Image:
    """One inside, falling to zero at both ends."""
    border = max(length // 24, 2)
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(border) + 0.5) / border)
    out = np.ones(length)
    out[:border] = ramp
    out[-border:] = ramp[::-1]
    return out.astype(np.float32)


def _smoothed(image: Image, sigma: float) -> Image:
    """Convolved with a Gaussian, the image mirrored at its borders."""
    pad = min(math.ceil(3.0 * sigma), min(image.shape) - 1)
    smooth = _smoothed_cyclic(np.pad(image, pad, mode="reflect").astype(np.float64), sigma)
    return smooth[pad : pad + image.shape[0], pad : pad + image.shape[1]].astype(np.float32)


def _fast(length: int) -> int:
    """The next length with small prime factors only, for which transforms are fast."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1


def _overlaps(height: int, width: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """The share of the area in which two images overlap, for each cyclic lag."""
    dy = np.abs((np.arange(shape[0]) + shape[0] // 2) % shape[0] - shape[0] // 2)
    dx = np.abs((np.arange(shape[1]) + shape[1] // 2) % shape[1] - shape[1] // 2)
    return np.maximum(1.0 - dy / height, 0.0)[:, None] * np.maximum(1.0 - dx / width, 0.0)


def _subpixel(values: NDArray[np.float64], i: int, j: int) -> tuple[float, float]:
    """The place of a peak as a signed cyclic lag (y, x), from parabolas through its neighbours."""
    height, width = values.shape

    def vertex(before: float, at: float, after: float) -> float:
        curve = before - 2.0 * at + after
        return 0.5 * (before - after) / curve if curve < 0 else 0.0

    di = vertex(values[i - 1, j], values[i, j], values[(i + 1) % height, j])
    dj = vertex(values[i, j - 1], values[i, j], values[i, (j + 1) % width])
    signed_i = i - height if i > height // 2 else i
    signed_j = j - width if j > width // 2 else j
    return signed_i + di, signed_j + dj


def _resampled(image: Image, matrix: Matrix) -> Image:
    """The image seen through a transform of the plane, to the nearest pixel; zero outside."""
    height, width = image.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    x, y = transforms.apply(matrix, x, y)
    i, j = np.round(y).astype(np.intp), np.round(x).astype(np.intp)
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
    return np.where(inside, image[np.clip(i, 0, height - 1), np.clip(j, 0, width - 1)], np.float32(0))


def _scaled(matrix: Matrix, factor: float) -> Matrix:
    """A transform of binned pixels as one of pixels: the middle of bin i is factor * i + (factor - 1) / 2."""
    up = np.array([[factor, 0.0, (factor - 1) / 2.0], [0.0, factor, (factor - 1) / 2.0]])
    return transforms.compose(up, transforms.compose(matrix, transforms.invert(up)))


def _tiles(
    reference: Image, frame: Image, matrix: Matrix, search: float, sigma: float
) -> tuple[Matrix, list[NDArray[np.float64]]]:
    """Correlations of the tiles with the most structure, lags up to about ``search`` px; and the transform
    (the given one, where that is a mere shift rounded to whole pixels) to which the lags are relative."""
    shifted = np.array_equal(matrix[:, :2], np.eye(2))
    if shifted:
        matrix = np.round(matrix)
    height, width = reference.shape
    size = TILE if min(height, width) >= 5 * TILE else TILE // 2
    found = []
    for y0 in range(0, height - size + 1, size):
        for x0 in range(0, width - size + 1, size):
            corners = np.array([x0, x0 + size, x0, x0 + size]), np.array([y0, y0, y0 + size, y0 + size])
            x, y = transforms.apply(matrix, *corners)
            if min(x.min(), y.min()) >= 1 and x.max() < frame.shape[1] - 1 and y.max() < frame.shape[0] - 1:
                tile = _flattened(reference[y0 : y0 + size, x0 : x0 + size], sigma)
                found.append((float(_smoothed(tile, sigma).std()), y0, x0, tile))
    found.sort(key=lambda one: (-one[0], one[1], one[2]))
    # Room for the smoothing of the correlation beyond the lags that are looked at.
    reach = min(math.ceil(search + 4.5 * sigma), size // 2 - 1)
    lags = np.arange(-reach, reach + 1) % size
    pieces = []
    for _, y0, x0, tile in found[:TILES]:
        local = transforms.compose(matrix, np.array([[1.0, 0.0, float(x0)], [0.0, 1.0, float(y0)]]))
        if shifted:
            i, j = int(local[1, 2]), int(local[0, 2])
            other = _flattened(frame[i : i + size, j : j + size], sigma)
        else:
            other = _flattened(_sampled(frame, local, size), sigma)
        correlation = np.fft.irfft2(np.fft.rfft2(other) * np.conj(np.fft.rfft2(tile)), tile.shape)
        if shifted and max(abs(matrix[0, 2]), abs(matrix[1, 2])) < size // 2 - 2:
            _despike(correlation, -int(matrix[1, 2]), -int(matrix[0, 2]))
        correlation = _smoothed_cyclic(correlation, math.sqrt(2.0) * sigma)
        pieces.append(correlation[np.ix_(lags, lags)])
    return matrix, pieces


def _sampled(frame: Image, matrix: Matrix, size: int) -> Image:
    """A square of the frame seen through a transform, bilinear."""
    x, y = np.meshgrid(np.arange(size, dtype=np.float64), np.arange(size, dtype=np.float64))
    x, y = transforms.apply(matrix, x, y)
    x0, y0 = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    fx, fy = x - x0, y - y0
    upper = frame[y0, x0] * (1 - fx) + frame[y0, x0 + 1] * fx
    lower = frame[y0 + 1, x0] * (1 - fx) + frame[y0 + 1, x0 + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy, np.float32)


def _tile_shift(correlation: NDArray[np.float64], search: float) -> tuple[float, float] | None:
    """The lag (x, y) of the peak of a correlation around lag zero; None if it is at the border."""
    reach = len(correlation) // 2
    i, j = (int(k) for k in np.unravel_index(int(np.argmax(correlation)), correlation.shape))
    if not (0 < i < 2 * reach and 0 < j < 2 * reach) or math.hypot(i - reach, j - reach) > search:
        return None
    box = correlation[i - 1 : i + 2, j - 1 : j + 2]
    padded = np.zeros((5, 5))
    padded[1:4, 1:4] = box
    dy, dx = _subpixel(padded, 2, 2)
    return j - reach + dx - 2, i - reach + dy - 2
