"""STACKING, its pixels: the reconstruction, in full mode with the clusters clipped against each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ripresa.families.stacking import Damaged, StackingError, tables
from ripresa.families.stacking.progress import report
from ripresa.families.stacking.reconstruction import Background
from ripresa.families.stacking.rejection import SLACK
from ripresa.families.stacking.synthesis import checksums

BLOCK_BYTES = 8 << 20
# The spread of the clusters is estimated on every row whose number is divisible by this.
_EVERY = 32
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class FinalImage:
    """The finished pixels, each [C, y, x].

    ``image``; ``weight`` (sum of the weights); ``coverage`` (frames in the footprint); ``rejected`` (frames
    rejected); ``flagged`` (no weights there, the plain mean); ``n_eff`` ((sum w)^2 / sum w^2 over the frames,
    times the share of the weight that was not clipped); ``clipped`` (clusters clipped).
    """

    image: NDArray[np.float32]
    weight: NDArray[np.float32]
    coverage: NDArray[np.uint16]
    rejected: NDArray[np.uint16]
    flagged: NDArray[np.bool_]
    n_eff: NDArray[np.float32]
    clipped: NDArray[np.uint8]

    @property
    def median_n_eff(self) -> float:
        """The median of ``n_eff`` over the pixels that any frame covers; 0 if none does."""
        covered = self.n_eff[self.coverage > 0]
        return float(np.median(covered)) if covered.size else 0.0


def combine(
    reconstructions: Sequence[str], synthetics: Sequence[str], clusters: str, settings: Mapping[str, Any]
) -> FinalImage:
    """The finished pixels from the tables and files of all bands; ``settings``: ``clusters``.

    In reduced mode the reconstruction. In full mode the mean of the synthetic frames, weighted by their maps
    and by `caps`, without those that `_combine` clips. Both are the same where nothing is clipped and no cap
    is active. Raises Damaged for a file that is not as it was written.
    """
    groups = tables.read_json(clusters)
    tasks = sorted(_bands(reconstructions, synthetics), key=lambda task: task[0]["y0"])
    if not tasks:
        raise StackingError("there is no band to put together")
    out, sky = _reconstructed(tasks)
    if int(groups["k"]) > 0:
        cap = caps(groups["quality"], float(settings["clusters"]["weight_cap"]))
        opened = [Synthetic(about, path, len(cap), out.image.shape) for about, _, path in tasks]
        try:
            _clusters(opened, out, sky, cap, float(settings["clusters"]["sigma"]))
        finally:
            for one in opened:
                one.file.close()
    return out


def caps(quality: Sequence[float], limit: float) -> NDArray[np.float32]:
    """The factor of each cluster's weights: no cluster has a quality (the mean weight of its frames) of more
    than ``limit`` times the mean quality of the clusters.

    It holds for the whole image. A cap from pixel to pixel would change the proportions of the weights where
    the coverage changes, which is where seams come from. And it is about the weight of a frame: a cluster of
    many frames weighs more for that reason, and to cap this would throw its frames away.
    """
    mean = float(np.mean(quality))
    return np.array([min(1.0, limit * mean / one) if one > 0 else 1.0 for one in quality], np.float32)


_Task = tuple[dict[str, Any], str, str]


def _bands(reconstructions: Sequence[str], synthetics: Sequence[str]) -> Iterator[_Task]:
    if len(reconstructions) != len(synthetics):
        raise StackingError(
            f"{len(reconstructions)} bands were reconstructed, {len(synthetics)} have synthetic frames: run "
            "again from TILE_RECONSTRUCTION"
        )
    for table, frames in zip(reconstructions, synthetics, strict=True):
        yield tables.load(table, "sky_x")[0], table, frames


def _reconstructed(tasks: Sequence[_Task]) -> tuple[FinalImage, Background]:
    """The maps of all bands in one, and the background they are of."""
    height, channels = tasks[-1][0]["y1"], len(tasks[0][0]["channels"])
    ends = [0] + [about["y1"] for about, _, _ in tasks]
    for (about, table, _), start in zip(tasks, ends, strict=False):
        if about["y0"] != start or about["channels"] != tasks[0][0]["channels"]:
            raise StackingError(f"{table} does not begin at row {start}: run again from TILE_RECONSTRUCTION")
    out = None
    for about, table, _ in tasks:
        _, maps = tables.load(table)
        if out is None:
            shape = (channels, height, maps["image"].shape[2])
            out = FinalImage(
                np.empty(shape, np.float32),
                np.empty(shape, np.float32),
                np.empty(shape, np.uint16),
                np.empty(shape, np.uint16),
                np.empty(shape, np.bool_),
                np.empty(shape, np.float32),
                np.zeros(shape, np.uint8),
            )
            sky = Background(maps["sky"], maps["sky_x"], maps["sky_y"])
        rows = slice(about["y0"], about["y1"])
        for name in ("image", "weight", "coverage", "rejected", "flagged"):
            getattr(out, name)[:, rows] = maps[name]
        _effective(maps["weight"], maps["weight2"], maps["coverage"], maps["rejected"], out.n_eff[:, rows])
    assert out is not None
    return out, sky


def _effective(weight: Any, weight2: Any, coverage: Any, rejected: Any, out: NDArray[np.float32]) -> None:
    """(sum w)^2 / sum w^2; where there are no weights, the number of frames in the plain mean."""
    with np.errstate(invalid="ignore", divide="ignore"):
        np.divide(weight * weight, weight2, out=out)
    plain = ~(weight2 > 0)
    out[plain] = coverage[plain] - rejected[plain]


class Synthetic:
    """The synthetic frames of one band: ``rows`` [rows, K, C, 2, W] by blocks."""

    def __init__(self, about: dict[str, Any], path: str, k: int, image: tuple[int, ...]) -> None:
        """``image``: the shape [C, H, W] of the stack. Raises Damaged if this is no such file."""
        self.path, self.y0, self.y1 = path, about["y0"], about["y1"]
        self.file = open(path, "rb")  # noqa: SIM115 - closed by who opened it
        shape = (self.y1 - self.y0, k, image[0], 2, image[2])
        try:
            if np.lib.format.read_magic(self.file) != (1, 0):
                raise ValueError("not as SYNTHETIC_FRAMES writes it")
            found = np.lib.format.read_array_header_1_0(self.file)
            if found != (shape, False, np.dtype("<f4")):
                raise ValueError(f"its shape is {found[0]}, not {shape}")
            self.start = self.file.tell()
            self.row_bytes = math.prod(shape[1:]) * 4
            self.file.seek(self.start + self.row_bytes * shape[0])
            self.sums = np.frombuffer(self.file.read(), "<u4")
            if self.sums.size != shape[0]:
                raise ValueError("it is cut off")
        except ValueError as error:
            self.file.close()
            raise Damaged(path, str(error)) from None
        self.shape = shape

    def rows(self, y0: int, y1: int) -> NDArray[np.float32]:
        """Rows y0..y1-1 of the image, all of them of this band. Raises Damaged if they are not as written."""
        out = np.empty((y1 - y0, *self.shape[1:]), np.float32)
        self.file.seek(self.start + (y0 - self.y0) * self.row_bytes)
        if self.file.readinto(out.data.cast("B")) != out.nbytes:
            raise Damaged(self.path, "it is cut off")
        wrong = np.flatnonzero(checksums(out) != self.sums[y0 - self.y0 : y1 - self.y0])
        if wrong.size:
            raise Damaged(self.path, f"row {y0 + wrong[0]} is not what was written")
        return out


def _clusters(
    bands: Sequence[Synthetic], out: FinalImage, sky: Background, cap: NDArray[np.float32], sigma: float
) -> None:
    """Put the mean of the synthetic frames into ``out``, which holds the reconstruction."""
    height, width = out.image.shape[1:]
    spread = [_spread(bands, out, c) for c in range(len(out.image))]
    for band in bands:
        step = max(1, BLOCK_BYTES // band.row_bytes)
        for start in range(band.y0, band.y1, step):
            end = min(start + step, band.y1)
            rows = band.rows(start, end)
            for c in range(len(out.image)):
                _combine(
                    rows[:, :, c], sky.rows(c, start, end, width), cap, spread[c], sigma, SLACK,
                    (out.image[c, start:end], out.weight[c, start:end], out.n_eff[c, start:end],
                     out.clipped[c, start:end], out.flagged[c, start:end]),
                )  # fmt: skip
            report(end, height)


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


@njit(cache=True, nogil=True)
def _combine(rows: Any, sky: Any, cap: Any, spread: float, sigma: float, slack: float, maps: Any) -> None:
    """Mean of the clusters ``rows`` [rows, K, 2, W] pixel by pixel, into ``maps``.

    The noise of a cluster goes with 1 / sqrt(weight), so deviations are compared in units of that of a
    cluster of the mean weight. A pixel is left alone if no cluster is further than ``sigma`` times ``spread``
    from the mean; the seeing of clusters differs by design, so ``slack`` times the signal is added as in
    `rejection`. Else it is decided about the weighted median (which a heavy cluster holds, an outlier does
    not), with the MAD of the pixel if that is larger than ``spread``.
    """
    image, weight, n_eff, clipped, flagged = maps
    count, k, _, width = rows.shape
    order = np.empty(k, np.int64)
    deviation = np.empty(k, np.float64)
    worst = np.empty(width, np.float32)
    total = np.empty(width, np.float32)
    capped = False
    for j in range(k):
        capped = capped or cap[j] < 1
    for r in range(count):
        total[:] = np.float32(0)
        unit = np.zeros(width, np.float32)
        worst[:] = np.float32(0)
        for j in range(k):
            w = rows[r, j, 1]
            for x in range(width):
                total[x] += w[x]
                unit[x] += np.float32(1) if w[x] > 0 else np.float32(0)
        for x in range(width):
            unit[x] = unit[x] / total[x] if total[x] > 0 else np.float32(0)
        for j in range(k):
            w = rows[r, j, 1]
            v = rows[r, j, 0]
            for x in range(width):
                d = v[x] - image[r, x]
                size = w[x] * unit[x]
                signal = max(image[r, x] - sky[r, x], np.float32(0))
                excess = abs(d) - np.float32(slack) * signal
                excess = excess * excess * size if (excess > 0) & (w[x] > 0) else np.float32(0)
                worst[x] = max(worst[x], excess)
        limit = np.float32(sigma * spread) ** 2
        for x in range(width):
            if (worst[x] > limit or capped) and total[x] > 0 and not flagged[r, x]:
                _pixel(
                    rows[r], x, sky[r, x], cap, spread, sigma, slack, worst[x] > limit,
                    order, deviation, (image[r], weight[r], n_eff[r], clipped[r]),
                )  # fmt: skip


@njit(cache=True, nogil=True)
def _pixel(
    clusters: Any,
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
    """One pixel of `_combine`: ``clusters`` [K, 2, W]; ``order`` and ``deviation`` [K] are overwritten."""
    image, weight, n_eff, clipped = maps
    base = np.float64(image[x])
    present = 0
    total = 0.0
    for j in range(cap.size):  # the clusters that have the pixel, by their values
        if not clusters[j, 1, x] > 0:
            continue
        total += clusters[j, 1, x]
        at = present
        while at > 0 and clusters[order[at - 1], 0, x] > clusters[j, 0, x]:
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
            below += clusters[order[i], 1, x]
            if below >= 0.5 * total:
                middle = np.float64(clusters[order[i], 0, x])
                break
        for i in range(present):
            j = order[i]
            d = abs(clusters[j, 0, x] - middle) * math.sqrt(clusters[j, 1, x] * present / total)
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
        w = np.float64(clusters[j, 1, x])
        if not w > 0:
            continue
        d = abs(clusters[j, 0, x] - middle) - slack * signal
        if d * math.sqrt(w * present / total) > limit:
            lost += 1
            continue
        kept += cap[j] * w
        mean += cap[j] * w * (clusters[j, 0, x] - base)
    image[x] = base + mean / kept
    n_eff[x] *= kept / total
    weight[x] = kept
    clipped[x] = lost
