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
from ripresa.families.stacking.rejection import SLACK
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
    order = np.empty(k, np.int64)
    deviation = np.empty(k, np.float64)
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
        for x in range(width):
            if (worst[x] > limit or capped) and total[x] > 0 and not flagged[r, x]:
                _pixel(
                    rows[r], c, x, sky[r, x], cap, spread, sigma, slack, worst[x] > limit,
                    order, deviation, (image[r], weight[r], n_eff[r], clipped[r]),
                )  # fmt: skip


@kernel
def _pixel(
    clusters: Any,
    c: int,
    x: int,
    sky: float,
    cap: Any,
    spread: float,
    sigma: float,
    slack: float,
    clip: bool,
    order: Any,
    deviation: Any,
    maps: Any,
) -> None:
    """One pixel of `_combine`: ``clusters`` [K, C, 2, W]; ``order`` and ``deviation`` [K] are overwritten."""
    image, weight, n_eff, clipped = maps
    base = np.float64(image[x])
    present = 0
    total = 0.0
    for j in range(cap.size):  # the clusters that have the pixel, by their values
        if not clusters[j, c, 1, x] > 0:
            continue
        total += clusters[j, c, 1, x]
        at = present
        while at > 0 and clusters[order[at - 1], c, 0, x] > clusters[j, c, 0, x]:
            order[at] = order[at - 1]
            at -= 1
        order[at] = j
        present += 1
    middle = base
    limit = math.inf
    signal = max(base - sky, 0.0)
    if clip:
        below = 0.0
        for i in range(present):
            below += clusters[order[i], c, 1, x]
            if below >= 0.5 * total:
                middle = np.float64(clusters[order[i], c, 0, x])
                break
        for i in range(present):
            j = order[i]
            d = abs(clusters[j, c, 0, x] - middle) * math.sqrt(clusters[j, c, 1, x] * present / total)
            at = i
            while at > 0 and deviation[at - 1] > d:
                deviation[at] = deviation[at - 1]
                at -= 1
            deviation[at] = d
        mad = 0.5 * (deviation[(present - 1) // 2] + deviation[present // 2])
        limit = sigma * max(spread, _MAD_TO_SIGMA * mad)
    kept = 0.0
    mean = 0.0
    lost = 0
    for j in range(cap.size):
        w = np.float64(clusters[j, c, 1, x])
        if not w > 0:
            continue
        d = abs(clusters[j, c, 0, x] - middle) - slack * signal
        if d * math.sqrt(w * present / total) > limit:
            lost += 1
            continue
        kept += cap[j] * w
        mean += cap[j] * w * (clusters[j, c, 0, x] - base)
    image[x] = base + mean / kept
    n_eff[x] *= kept / total
    weight[x] = kept
    clipped[x] = lost
