"""The mean of the synthetic frames, clipped against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import Damaged, tables
from ripresa.families.stacking.bands import Scratch
from ripresa.families.stacking.final import FinalImage
from ripresa.families.stacking.kernels import kernel
from ripresa.families.stacking.progress import report
from ripresa.families.stacking.rejection import LANES, SLACK, median_of, sort_lanes
from ripresa.families.stacking.sky import Background
from ripresa.families.stacking.synthesis import checksums

# Of the synthetic frames read at a time: so few stay in the cache until they are summed.
BLOCK_BYTES = 1 << 20
# The spread of the clusters is estimated on every row whose number is divisible by this.
_EVERY = 32
_MAD_TO_SIGMA = 1.4826


def mix(
    out: FinalImage,
    bands: Sequence[tuple[int, int, str]],
    sky: tables.Arrays,
    quality: Sequence[float],
    weight_cap: float,
    sigma: float,
) -> None:
    """Put the mean of the synthetic frames into ``out``, which holds the reconstruction.

    They are weighted by their maps and by `caps`, without those that `_combine` clips. ``bands``: y0, y1 and
    file of each; ``sky``: the arrays of a `Background`; ``quality`` [K].
    """
    background = Background(sky["sky"], sky["sky_x"], sky["sky_y"])
    cap = caps(quality, weight_cap)
    channels, height, width = out.image.shape
    opened: list[Synthetic] = []
    try:
        for y0, y1, path in bands:
            opened.append(Synthetic(path, y0, (y1 - y0, len(cap), channels, 2, width)))
        spread = [_spread(opened, out, c) for c in range(channels)]
        for band in opened:
            step = max(1, BLOCK_BYTES // band.row_bytes)
            for start in range(band.y0, band.y1, step):
                end = min(start + step, band.y1)
                rows = band.rows(start, end)
                for c in range(channels):
                    maps = (out.image, out.weight, out.n_eff, out.clipped, out.flagged)
                    _combine(
                        rows, c, background.rows(c, start, end, width), cap, spread[c], sigma, SLACK,
                        tuple(one[c, start:end] for one in maps),
                    )  # fmt: skip
                report(end, height)
    finally:
        for band in opened:
            band.file.close()


def caps(quality: Sequence[float], limit: float) -> NDArray[np.float32]:
    """The factor of each cluster's weights: no cluster has a quality (the mean weight of its frames) of more
    than ``limit`` times the mean quality of the clusters.

    It holds for the whole image. A cap from pixel to pixel would change the proportions of the weights where
    the coverage changes, which is where seams come from. And it is about the weight of a frame: a cluster of
    many frames weighs more for that reason, and to cap this would throw its frames away.
    """
    mean = float(np.mean(quality))
    return np.array([min(1.0, limit * mean / one) if one > 0 else 1.0 for one in quality], np.float32)


class Synthetic:
    """The synthetic frames of one band: ``rows`` [rows, K, C, 2, W] by blocks."""

    def __init__(self, path: str, y0: int, shape: tuple[int, int, int, int, int]) -> None:
        """Raises Damaged if this is no file of rows from ``y0`` on and of this shape."""
        self.path, self.shape, self.y0, self.y1 = path, shape, y0, y0 + shape[0]
        self.row_bytes = math.prod(shape[1:]) * 4
        self.scratch = Scratch()
        self.file = open(path, "rb")  # noqa: SIM115 - closed by who opened it
        try:
            if np.lib.format.read_magic(self.file) != (1, 0):
                raise ValueError("not as SYNTHETIC_FRAMES writes it")
            found = np.lib.format.read_array_header_1_0(self.file)
            if found != (shape, False, np.dtype("<f4")):
                raise ValueError(f"its shape is {found[0]}, not {shape}")
            self.start = self.file.tell()
            self.file.seek(self.start + self.row_bytes * shape[0])
            sums = self.file.read()
            if len(sums) != 4 * shape[0]:
                raise ValueError("it is cut off")
            self.sums = np.frombuffer(sums, "<u4")
        except ValueError as error:
            self.file.close()
            raise Damaged(path, str(error)) from None

    def rows(self, y0: int, y1: int) -> NDArray[np.float32]:
        """Rows y0..y1-1 of the image, all of them of this band; valid until the next call. Raises Damaged if
        they are not as written."""
        out = self.scratch(y1 - y0, *self.shape[1:])
        self.file.seek(self.start + (y0 - self.y0) * self.row_bytes)
        if self.file.readinto(out.data.cast("B")) != out.nbytes:
            raise Damaged(self.path, "it is cut off")
        wrong = np.flatnonzero(checksums(out) != self.sums[y0 - self.y0 : y1 - self.y0])
        if wrong.size:
            raise Damaged(self.path, f"row {y0 + wrong[0]} is not what was written")
        return out


def _spread(bands: Sequence[Synthetic], out: FinalImage, c: int) -> float:
    """The standard deviation of a cluster of mean weight about the mean of all, from a part of the rows."""
    found = []
    for band in bands:
        for y in range(-(-band.y0 // _EVERY) * _EVERY, band.y1, _EVERY):
            rows = band.rows(y, y + 1)[0, :, c]
            weight = np.where(rows[:, 1] > 0, rows[:, 1], 0)
            present = (weight > 0).sum(axis=0)
            unit = weight.sum(axis=0) / np.maximum(present, 1)
            with np.errstate(invalid="ignore", divide="ignore"):
                found.append(np.abs(rows[:, 0] - out.image[c, y]) * np.sqrt(weight / unit))
    values = np.concatenate([one[np.isfinite(one)] for one in found])
    return _MAD_TO_SIGMA * float(np.median(values)) if values.size else 0.0


@kernel
def _combine(
    rows: Any, c: int, sky: Any, cap: Any, spread: float, sigma: float, slack: float, maps: Any
) -> None:
    """Mean of the clusters ``rows`` [rows, K, C, 2, W] of channel ``c`` pixel by pixel, into ``maps``.

    The noise of a cluster goes with 1 / sqrt(weight), so deviations are compared in units of that of a
    cluster of the mean weight. A pixel is left alone if no cluster is further than ``sigma`` times ``spread``
    from the mean; the seeing of clusters differs by design, so ``slack`` times the signal is added as in
    `rejection`. Else it is decided about the weighted median (which a heavy cluster holds, an outlier does
    not), with the MAD of the pixel if that is larger than ``spread``.
    """
    image, weight, n_eff, clipped, flagged = maps
    count, k, _, _, width = rows.shape
    places = np.empty(LANES, np.int64)
    clip = np.empty(LANES, np.bool_)
    values, weights, deviation = (
        np.empty(k * LANES, np.float32),
        np.empty(k * LANES, np.float32),
        np.empty(k * LANES, np.float32),
    )
    worst = np.empty(width, np.float32)
    total = np.empty(width, np.float32)
    unit = np.empty(width, np.float32)
    allowed = np.empty(width, np.float32)
    limit = np.float32((sigma * spread) ** 2)
    share = np.float32(slack)
    zero = np.float32(0)
    capped = False
    for j in range(k):
        capped = capped or cap[j] < 1
    for r in range(count):
        mean = image[r]
        total[:] = zero
        unit[:] = zero
        worst[:] = zero
        for j in range(k):
            w = rows[r, j, c, 1]
            for x in range(width):
                total[x] += w[x]
                unit[x] += np.float32(1) if w[x] > 0 else zero
        for x in range(width):
            unit[x] = unit[x] / total[x] if total[x] > 0 else zero
            allowed[x] = share * max(mean[x] - sky[r, x], zero)
        for j in range(k):
            w = rows[r, j, c, 1]
            v = rows[r, j, c, 0]
            for x in range(width):
                excess = abs(v[x] - mean[x]) - allowed[x]
                excess = excess * excess * (w[x] * unit[x]) if excess > 0 else zero  # NaN is not above 0
                worst[x] = excess if excess > worst[x] else worst[x]
        found = 0
        for x in range(width):
            if (worst[x] > limit or capped) and total[x] > 0 and not flagged[r, x]:
                places[found], clip[found] = x, worst[x] > limit
                found += 1
            if found == LANES or (found > 0 and x == width - 1):
                _several(
                    rows[r], c, places, found, sky[r], cap, spread, sigma, slack, clip,
                    values, weights, deviation, (image[r], weight[r], n_eff[r], clipped[r]),
                )  # fmt: skip
                found = 0


@kernel
def _several(
    clusters: Any, c: int, places: Any, count: int, sky: Any, cap: Any, spread: float, sigma: float,
    slack: float, clip: Any, values: Any, weights: Any, deviation: Any, maps: Any,
) -> None:  # fmt: skip
    """Some pixels of `_combine` at once: the first ``count`` of ``places``, of ``clusters`` [K, C, 2, W].

    All loops but those over clusters run over lanes, without branches. ``clip`` [LANES]: which pixels are not
    left alone; ``values``, ``weights`` and ``deviation`` [K * LANES] are overwritten.
    """
    image, weight, n_eff, clipped = maps
    k = cap.size
    zero = np.float32(0)
    base, total, present, middle, unit, allowed, limit, kept, mean, lost = np.zeros((10, LANES), np.float32)
    for j in range(k):
        for lane in range(count):
            w = clusters[j, c, 1, places[lane]]
            values[j * LANES + lane] = clusters[j, c, 0, places[lane]] if w > 0 else zero
            weights[j * LANES + lane] = w if w > 0 else zero
        for lane in range(count, LANES):
            values[j * LANES + lane] = weights[j * LANES + lane] = zero
        w = weights[j * LANES : (j + 1) * LANES]
        for lane in range(LANES):
            total[lane] += w[lane]
            present[lane] += np.float32(1) if w[lane] > 0 else zero
    for lane in range(count):
        base[lane] = image[places[lane]]
        unit[lane] = present[lane] / total[lane]
        allowed[lane] = np.float32(slack) * max(base[lane] - sky[places[lane]], zero)
    _weighted_medians(values, weights, total, k, middle)
    for j in range(k):
        value = values[j * LANES : (j + 1) * LANES]
        w = weights[j * LANES : (j + 1) * LANES]
        d = deviation[j * LANES : (j + 1) * LANES]
        for lane in range(LANES):
            scaled = abs(value[lane] - middle[lane]) * np.sqrt(w[lane] * unit[lane])
            d[lane] = scaled if w[lane] > 0 else np.float32(np.inf)
    sort_lanes(deviation, k)
    for lane in range(count):
        mad = median_of(deviation, lane, 0, int(present[lane]))
        limit[lane] = sigma * max(spread, _MAD_TO_SIGMA * mad) if clip[lane] else np.inf
    for j in range(k):
        value = values[j * LANES : (j + 1) * LANES]
        w = weights[j * LANES : (j + 1) * LANES]
        factor = cap[j]
        for lane in range(LANES):
            off = abs(value[lane] - middle[lane]) - allowed[lane]
            out = off * np.sqrt(w[lane] * unit[lane]) > limit[lane]
            part = zero if out else factor * w[lane]
            kept[lane] += part
            mean[lane] += part * (value[lane] - base[lane])
            lost[lane] += np.float32(1) if out & (w[lane] > 0) else zero
    for lane in range(count):
        x = places[lane]
        image[x] = base[lane] + mean[lane] / kept[lane]
        n_eff[x] *= kept[lane] / total[lane]
        weight[x] = kept[lane]
        clipped[x] = lost[lane]


@kernel(inline="always")  # called, it would take twice the time: then its vectors might overlap
def _weighted_medians(values: Any, weights: Any, total: Any, k: int, out: Any) -> None:
    """Of each lane the least value that holds half of the ``total`` weight together with all below it.

    Counted for each value: that is more steps than to sort them, but they need no branches.
    """
    zero, infinite = np.float32(0), np.float32(np.inf)
    below = np.empty(LANES, np.float32)
    out[:] = infinite
    for i in range(k):
        value = values[i * LANES : (i + 1) * LANES]
        below[:] = zero
        for j in range(k):
            other = values[j * LANES : (j + 1) * LANES]
            heavy = weights[j * LANES : (j + 1) * LANES]
            for lane in range(LANES):
                below[lane] += heavy[lane] if other[lane] <= value[lane] else zero
        own = weights[i * LANES : (i + 1) * LANES]
        for lane in range(LANES):
            holds = (own[lane] > 0) & (below[lane] + below[lane] >= total[lane])
            out[lane] = min(out[lane], value[lane] if holds else infinite)
