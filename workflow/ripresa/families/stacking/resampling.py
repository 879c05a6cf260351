"""Resampling of a frame to the pixel grid of the reference: Lanczos-3 or bicubic (Catmull-Rom), clamped.

**Two passes.** An affine map with little shear is taken apart into a pass along rows and one along columns
(Catmull and Smith 1980): I(X, v) is the frame at height v where it meets column X of the output, and the
output is interpolated between the six I above and below. Flips and quarter turns are done by reading the
frame in another order. Within a pass the distance between the output pixels and the input pixels left of
them changes slowly, so a run of output pixels reads consecutive input pixels and all of it is vector
arithmetic. Maps that turn by more than some degrees from every axis take 36 pixels at once instead.

**Weights** are polynomials in the distance: no tables, no trigonometry. Bicubic weights are cubics, which
keep quadratics. Those of Lanczos-3 are the polynomials of degree 7 that come nearest to it (0.002) among
those that keep cubics: Lanczos-3 itself does not even keep a ramp, and shifts stars by up to 0.02 px.

**Clamping.** An interpolated value may leave the range of its two neighbours by what noise and the curvature
of a star explain: below, by 1 sigma and 5 % of the signal, above, by 1 sigma and the signal (between two
pixels the peak of a star is higher than both). What goes beyond is ringing, and is taken back the more the
further it goes, down to the neighbour itself: no dark ring round a star, and neither noise nor peaks changed.

**Border.** A frame covers what lies between the centres of its outermost pixels; beyond them it is mirrored
for the taps. Pixels outside are NaN. Pixels that are NaN make those NaN that need them.

**Colour mosaics** are four lattices of their own, each with half the pixels along an axis. Each is resampled
to the full grid with its own offset; green is the mean of its two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import StackingError
from ripresa.families.stacking.kernels import kernel

Image = NDArray[np.float32]
Matrix = NDArray[np.float64]

# The channel of each pixel of a 2x2 pattern, in the order (y, x) = (0, 0), (0, 1), (1, 0), (1, 1).
PATTERNS = ("RGGB", "BGGR", "GBRG", "GRBG")

# Mirrored pixels on either side of a row.
_PAD = 8
# How far outside a position may lie by rounding, px.
_TOLERANCE = 1e-3
# By how much a map may miss whole pixels and be taken as one, px.
_WHOLE = 1e-6
# Beyond this shear (11 degrees of rotation) the intermediate image of two passes loses resolution.
_SHEAR = 0.2

_SIGMAS = 1.0
_BELOW = 0.05
_ABOVE = 1.0


def _lanczos3() -> NDArray[np.float32]:
    """Coefficients [3, 8] of the weights of taps k = 0, 1, 2 and 5 - k at distance t right of tap 2: with
    u = t - 1/2, even(u) + odd(u) and even(u) - odd(u), where even = a0 + a1 u^2 + a2 u^4 + a3 u^6 and
    odd = u (b0 + b1 u^2 + b2 u^4 + b3 u^6)."""
    u = np.cos(np.linspace(0, np.pi, 201)) / 2
    distance = u[:, None] + 0.5 - np.arange(-2, 4)
    weights = np.sinc(distance) * np.sinc(distance / 3)
    # The least change to the weights that keeps polynomials up to cubics.
    moments = distance[:, None, :] ** np.arange(4)[:, None]
    error = np.array([1.0, 0, 0, 0]) - np.einsum("tnk,tk->tn", moments, weights)
    factors = np.linalg.solve(moments @ moments.transpose(0, 2, 1), error[..., None])
    weights += np.einsum("tnk,tn->tk", moments, factors[..., 0])
    powers = (u * u)[:, None] ** np.arange(4)
    coefficients = np.empty((3, 8))
    # The ends of the interval, where the weights are 0 and 1, are held by their great weight in the fit.
    strength = np.where(np.abs(u) > 0.4999, 1e4, 1.0)[:, None]
    for k in range(3):
        even = (weights[:, k] + weights[:, 5 - k]) / 2
        odd = (weights[:, k] - weights[:, 5 - k]) / 2
        for half, (basis, values) in enumerate(((powers, even), (powers * u[:, None], odd))):
            fit = np.linalg.lstsq(basis * strength, values * strength[:, 0], rcond=None)[0]
            coefficients[k, 4 * half : 4 * half + 4] = fit
    return coefficients.astype(np.float32)


def _bicubic() -> NDArray[np.float32]:
    """The same for Catmull-Rom weights (Keys 1981, a = -1/2), which have four taps."""
    inner = [0.5625, -0.25, 0, 0, -1.375, 1.5, 0, 0]
    outer = [-0.0625, 0.25, 0, 0, 0.125, -0.5, 0, 0]
    return np.array([[0.0] * 8, outer, inner], np.float32)


_KERNELS = {"lanczos3": _lanczos3, "bicubic": _bicubic}


# Nothing is reordered: with multiplications and additions contracted only, NaN stays what it is.
_FAST = {"contract"}


@kernel(inline="always")
def _clamp(value: Any, low: Any, high: Any, k: Any) -> Any:
    """``value`` between neighbours ``low`` and ``high``; see the module's text. k[24] is the
    background, k[25] is 1 sigma."""
    zero = np.float32(0)
    allowed = k[25] + np.float32(_BELOW) * max(low - k[24], zero)
    below = low - value
    clamped = low - min(below, max(allowed + allowed - below, zero))
    allowed = k[25] + np.float32(_ABOVE) * max(high - k[24], zero)
    above = clamped - high
    return high + min(above, max(allowed + allowed - above, zero))


@kernel(inline="always")
def _weigh(u: Any, k: Any, f0: Any, f1: Any, f2: Any, f3: Any, f4: Any, f5: Any) -> Any:
    """The clamped value at distance u + 1/2 right of tap f2."""
    s = u * u
    value = (k[0] + s * (k[1] + s * (k[2] + s * k[3]))) * (f0 + f5)
    value += (k[8] + s * (k[9] + s * (k[10] + s * k[11]))) * (f1 + f4)
    value += (k[16] + s * (k[17] + s * (k[18] + s * k[19]))) * (f2 + f3)
    odd = (k[4] + s * (k[5] + s * (k[6] + s * k[7]))) * (f0 - f5)
    odd += (k[12] + s * (k[13] + s * (k[14] + s * k[15]))) * (f1 - f4)
    odd += (k[20] + s * (k[21] + s * (k[22] + s * k[23]))) * (f2 - f3)
    value += u * odd
    # The difference of a number and itself is NaN for NaN, which minima and maxima may lose.
    return _clamp(value, min(f2, f3), max(f2, f3), k) + (value - value)


@kernel(fastmath=_FAST)
def _along_row(line: Any, at: int, u: Any, du: Any, k: Any, out: Any) -> None:
    """A run of output pixels: ``out[j]`` from the six of ``line`` from at + j on, at distance u + du j."""
    for j in range(out.size):
        i = at + j
        f0, f1, f2, f3, f4, f5 = line[i], line[i + 1], line[i + 2], line[i + 3], line[i + 4], line[i + 5]
        out[j] = _weigh(u + du * np.float32(j), k, f0, f1, f2, f3, f4, f5)


@kernel(fastmath=_FAST)
def _down_columns(
    f0: Any, f1: Any, f2: Any, f3: Any, f4: Any, f5: Any, u: Any, du: Any, k: Any, out: Any
) -> None:
    """A run of output pixels from those above and below them in six rows."""
    for j in range(out.size):
        out[j] = _weigh(u + du * np.float32(j), k, f0[j], f1[j], f2[j], f3[j], f4[j], f5[j])


@kernel
def _mirror(i: int, n: int) -> int:
    """Index i of a row of n pixels that goes on mirrored at its outer edges: ... 1 0 | 0 1 2 ..."""
    i = (-1 - i if i < 0 else i) % (2 * n)
    return i if i < n else 2 * n - 1 - i


@kernel
def _stay(distance: float, drift: float, most: int) -> int:
    """For how many steps of ``drift`` a distance stays within 0..1, at least 1 and at most ``most``.

    One step too many or too few by rounding does no harm: the weights are smooth there.
    """
    if drift > 1e-12:
        length = (1.0 - distance) / drift
    elif drift < -1e-12:
        length = distance / -drift
    else:
        return most
    return min(most, max(1, math.ceil(min(length, 1e9))))


@kernel
def _span(slope: float, x: float, low: float, high: float, n: int) -> tuple[int, int]:
    """The integers j in 0..n with low <= x + slope j <= high, as a range."""
    if abs(slope) < 1e-12:
        return (0, n) if low <= x <= high else (0, 0)
    a, b = (low - x) / slope, (high - x) / slope
    if slope < 0:
        a, b = b, a
    return math.ceil(min(max(a, 0.0), float(n))), math.floor(min(max(b, -1.0), n - 1.0)) + 1


@kernel
def _read_line(pixels: Any, start: int, step: int, n: int, line: Any) -> None:
    """A row of n pixels with ``_PAD`` mirrored ones on either side."""
    if step == 1:
        for i in range(n):
            line[_PAD + i] = pixels[start + i]
    else:
        for i in range(n):
            line[_PAD + i] = pixels[start + i * step]
    for i in range(_PAD):
        line[i] = line[_PAD + _mirror(i - _PAD, n)]
        line[_PAD + n + i] = line[_PAD + _mirror(n + i, n)]


@kernel
def _of_phase(pixel: int, phase: int, phases: int) -> int:
    """How many output pixels before ``pixel`` are of a phase."""
    return max(0, (pixel - phase + phases - 1) // phases)


@kernel
def _first_pass(line: Any, x: float, slope: float, phases: int, k: Any, out: Any) -> None:
    """One row of I: at x + slope X for each output pixel X; those of one phase lie together in ``out``."""
    part = out.size // phases
    stride = slope * phases
    drift = stride - 1.0
    for p in range(phases):
        start = x + slope * p
        j, stop = _span(stride, start, 5.0 - _PAD, line.size - _PAD - 6.0, part)
        while j < stop:
            position = start + stride * j
            left = math.floor(position)
            length = _stay(position - left, drift, stop - j)
            at = p * part + j
            u = np.float32(position - left - 0.5)
            _along_row(line, left - 2 + _PAD, u, np.float32(drift), k, out[at : at + length])
            j += length


@kernel
def _second_pass(
    rows: Any, y: float, slope: float, begin: int, end: int, phases: int, k: Any, out: Any
) -> None:
    """Output pixels ``begin`` to ``end``, at y + slope X, from the rows of I: that of height v is v modulo
    their number."""
    window = len(rows)
    part = out.size // phases
    drift = slope * phases
    for p in range(phases):
        j, stop = _of_phase(begin, p, phases), _of_phase(end, p, phases)
        while j < stop:
            position = y + slope * (p + phases * j)
            above = math.floor(position)
            length = _stay(position - above, drift, stop - j)
            r = above - 2 + window
            at = p * part + j
            to = at + length
            _down_columns(
                rows[r % window, at:to],
                rows[(r + 1) % window, at:to],
                rows[(r + 2) % window, at:to],
                rows[(r + 3) % window, at:to],
                rows[(r + 4) % window, at:to],
                rows[(r + 5) % window, at:to],
                np.float32(position - above - 0.5),
                np.float32(drift),
                k,
                out[at:to],
            )
            j += length


@kernel
def _store(result: Any, begin: int, end: int, phases: int, mean: bool, out: Any) -> None:
    """Pixels ``begin`` to ``end`` of a row from their phases, the others NaN; or the mean of both rows."""
    part = result.size // phases
    if not mean:
        out[:begin] = np.float32(np.nan)
        out[end:] = np.float32(np.nan)
    for p in range(phases):
        low, high = _of_phase(begin, p, phases), _of_phase(end, p, phases)
        source = result[p * part : (p + 1) * part]
        if mean:
            for j in range(low, high):
                out[p + phases * j] = np.float32(0.5) * (out[p + phases * j] + source[j])
        else:
            for j in range(low, high):
                out[p + phases * j] = source[j]


@kernel
def _two_passes(
    pixels: Any, grid: Any, m: Any, bounds: Any, k: Any, phases: int, mean: bool, out: Any
) -> None:
    """Resample the lattice ``grid`` of ``pixels`` (flat) by the map ``m`` to ``out`` [H, W].

    ``grid`` = (first pixel, step from row to row, from pixel to pixel, rows, pixels in a row); ``m`` maps
    (X, Y) to (pixel, row) of the lattice, with m[0, 0], m[1, 1] and the determinant > 0; ``bounds`` =
    (x0, x1, y0, y1) is what the lattice covers; ``phases`` output pixels are one lattice pixel wide, roughly.
    With ``mean``, the mean of the result and ``out`` goes to ``out``.
    """
    first, row_step, pixel_step, rows, width = grid
    height, columns = out.shape
    a, b, c = m[0]
    d, e, f = m[1]
    x0, x1, y0, y1 = bounds
    part = (columns + phases - 1) // phases
    # As many rows of I as one output row may need.
    window = min(int(abs(d) * (columns + 2)), rows) + 16
    between = np.zeros((window, part * phases), np.float32)
    line = np.empty(width + 2 * _PAD, np.float32)
    result = np.empty(part * phases, np.float32)
    done = -_PAD
    for y in range(height):
        begin, end = _span(a, b * y + c, x0, x1, columns)
        begin_y, end_y = _span(d, e * y + f, y0, y1, columns)
        begin, end = max(begin, begin_y), min(end, end_y)
        if begin < end:
            ya, yb = d * begin + e * y + f, d * (end - 1) + e * y + f
            # Heights grow from one output row to the next, but for the rounding to whole pixels of where it
            # begins: rows passed over are never needed.
            done = max(done, math.floor(min(ya, yb) - abs(d)) - 2)
            while done < math.floor(max(ya, yb)) + 4:
                _read_line(pixels, first + _mirror(done, rows) * row_step, pixel_step, width, line)
                x = c + b / e * (done - f)
                _first_pass(line, x, a - b * d / e, phases, k, between[(done + window) % window])
                done += 1
            _second_pass(between, e * y + f, d, begin, end, phases, k, result)
        _store(result, begin, max(begin, end), phases, mean, out[y])


@kernel
def _at_once(pixels: Any, grid: Any, m: Any, bounds: Any, k: Any, mean: bool, out: Any) -> None:
    """The same for any map, from the 36 pixels round each position."""
    first, row_step, pixel_step, rows, width = grid
    height, columns = out.shape
    a, b, c = m[0]
    d, e, f = m[1]
    x0, x1, y0, y1 = bounds
    along = np.empty(width + 2 * _PAD, np.int64)
    for i in range(along.size):
        along[i] = first + _mirror(i - _PAD, width) * pixel_step
    down = np.empty(rows + 2 * _PAD, np.int64)
    for i in range(down.size):
        down[i] = _mirror(i - _PAD, rows) * row_step
    nan = np.float32(np.nan)
    column = np.empty(6, np.float32)
    for y in range(height):
        begin, end = _span(a, b * y + c, x0, x1, columns)
        begin_y, end_y = _span(d, e * y + f, y0, y1, columns)
        begin, end = max(begin, begin_y), max(begin, begin_y, min(end, end_y))
        if not mean:
            out[y, :begin] = nan
            out[y, end:] = nan
        for j in range(begin, end):
            px, py = a * j + b * y + c, d * j + e * y + f
            left, above = math.floor(px), math.floor(py)
            u, v = np.float32(px - left - 0.5), np.float32(py - above - 0.5)
            i = left - 2 + _PAD
            for n in range(6):
                r = down[above - 2 + n + _PAD]
                column[n] = _weigh(
                    u,
                    k,
                    pixels[along[i] + r],
                    pixels[along[i + 1] + r],
                    pixels[along[i + 2] + r],
                    pixels[along[i + 3] + r],
                    pixels[along[i + 4] + r],
                    pixels[along[i + 5] + r],
                )
            value = _weigh(v, k, column[0], column[1], column[2], column[3], column[4], column[5])
            out[y, j] = np.float32(0.5) * (out[y, j] + value) if mean else value


def _coefficients(interpolation: str) -> NDArray[np.float32]:
    if interpolation not in _KERNELS:
        raise StackingError(
            f"registration.interpolation: {interpolation!r} is none of {', '.join(sorted(_KERNELS))}"
        )
    return _KERNELS[interpolation]()


class Resampler:
    """Resamples frames to one output grid with one kernel, ``lanczos3`` or ``bicubic``."""

    def __init__(self, interpolation: str, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self._weights = tuple(_coefficients(interpolation).ravel())

    def plane(self, image: Image, to_frame: Matrix, background: float, noise: float, out: Image) -> None:
        """Resample ``image`` [h, w] to ``out`` [H, W], both contiguous; NaN outside what it covers.

        ``to_frame`` [2, 3] maps output to image pixels. ``background`` and ``noise`` (ADU, sigma of a pixel)
        are those of the image, which clamping goes by. A map by whole pixels copies them.
        """
        self._lattice(image, (0, 0, 1), to_frame, background, noise, False, out)

    def mosaic(
        self,
        image: Image,
        pattern: str,
        to_frame: Matrix,
        background: Sequence[float],
        noise: Sequence[float],
        out: Image,
    ) -> None:
        """Resample the colour mosaic ``image`` [h, w] to red, green and blue ``out`` [3, H, W].

        ``pattern`` is that of the pixels (0, 0), (0, 1), (1, 0), (1, 1), (y, x); the rest is as for `plane`,
        ``background`` and ``noise`` for each of R, G, B.
        """
        seen = set()
        for at, colour in enumerate(pattern):
            c = "RGB".index(colour)
            offset = (at // 2, at % 2, 2)
            self._lattice(image, offset, to_frame, background[c], noise[c], c in seen, out[c])
            seen.add(c)

    def _lattice(
        self,
        image: Image,
        offset: tuple[int, int, int],
        to_frame: Matrix,
        background: float,
        noise: float,
        mean: bool,
        out: Image,
    ) -> None:
        oy, ox, step = offset
        height, width = image.shape
        m = np.array(to_frame, np.float64)
        m[:, 2] -= (ox, oy)
        m /= step
        # In lattice pixels: from the centres of the outermost pixels of the whole image.
        low, high = -_TOLERANCE, _TOLERANCE
        limits = np.array([[low - ox, width - 1 + high - ox], [low - oy, height - 1 + high - oy]]) / step
        lattice = image[oy::step, ox::step]
        if abs(m[0, 1]) > abs(m[0, 0]):  # a quarter turn: rows are read as columns
            m, limits, lattice = m[::-1].copy(), limits[::-1].copy(), lattice.T
        if m[0, 0] < 0:
            m[0], limits[0] = _backwards(m[0], limits[0], lattice.shape[1])
            lattice = lattice[:, ::-1]
        if m[1, 1] < 0:
            m[1], limits[1] = _backwards(m[1], limits[1], lattice.shape[0])
            lattice = lattice[::-1]
        if step == 1 and _copy(lattice, m, out):
            return
        k = (*self._weights, np.float32(background), np.float32(_SIGMAS * noise))
        first, *strides = (
            n // image.itemsize for n in (_address(lattice) - _address(image), *lattice.strides)
        )
        grid = (first, *strides, *lattice.shape)
        bounds = (limits[0, 0], limits[0, 1], limits[1, 0], limits[1, 1])
        (a, b, _), (d, e, _) = m
        if a * e - b * d > 0 and abs(b) <= _SHEAR * e and abs(d) <= _SHEAR * a:
            phases = 2 if a < 0.75 else 1
            _two_passes(image.ravel(), grid, m, bounds, k, phases, mean, out)
        else:
            _at_once(image.ravel(), grid, m, bounds, k, mean, out)


def _address(image: Image) -> int:
    return int(image.__array_interface__["data"][0])


def _backwards(row: NDArray[np.float64], limits: NDArray[np.float64], n: int) -> tuple[Any, Any]:
    """A coordinate counted from the other end of ``n`` pixels, and its limits."""
    return np.array([0, 0, n - 1]) - row, n - 1 - limits[::-1]


def _copy(image: Image, m: Matrix, out: Image) -> bool:
    """Copy ``image`` to ``out`` if the map is one by whole pixels; whether it is."""
    shift = np.rint(m[:, 2])
    size = np.array([*out.shape[::-1], 1])
    if np.any(np.abs(m - np.column_stack([np.eye(2), shift])) * size > _WHOLE):
        return False
    dx, dy = int(shift[0]), int(shift[1])
    (rows, columns), (height, width) = image.shape, out.shape
    y0, y1 = min(max(-dy, 0), height), max(0, min(rows - dy, height))
    x0, x1 = min(max(-dx, 0), width), max(0, min(columns - dx, width))
    if y0 >= y1 or x0 >= x1:
        out[:] = np.nan
        return True
    out[:y0], out[y1:], out[y0:y1, :x0], out[y0:y1, x1:] = (np.float32(np.nan),) * 4
    out[y0:y1, x0:x1] = image[y0 + dy : y1 + dy, x0 + dx : x1 + dx]
    return True
