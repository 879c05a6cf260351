"""STACKING, its pixels: the reconstruction, in full mode with the clusters clipped against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import StackingError, tables
from ripresa.families.stacking.progress import report


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
    def median_n_eff(self) -> float | None:
        """The median of ``n_eff`` over the pixels that any frame covers; None if none does."""
        covered = self.n_eff[self.coverage > 0]
        return float(np.median(covered)) if covered.size else None


def combine(
    reconstructions: Sequence[str], synthetics: Sequence[str], clusters: str, settings: Mapping[str, Any]
) -> FinalImage:
    """The finished pixels from the tables and files of all bands; ``settings``: ``clusters``.

    In reduced mode the reconstruction; in full mode the clipped mean of the synthetic frames (see `mixture`).
    Both are the same where nothing is clipped and no cap is active. Raises Damaged for a file that is not as
    it was written.
    """
    groups = tables.read_json(clusters)
    tasks = sorted(_bands(reconstructions, synthetics), key=lambda task: task[0]["y0"])
    if not tasks:
        raise StackingError("there is no band to put together")
    out = _reconstructed(tasks)
    report(0, out.image.shape[1])
    if int(groups["k"]) > 0:
        from ripresa.families.stacking.mixture import mix  # it builds on this module

        limits = settings["clusters"]
        bands = [(about["y0"], about["y1"], path) for about, _, path in tasks]
        _, sky = tables.load(tasks[0][1], "sky", "sky_x", "sky_y")
        mix(out, bands, sky, groups["quality"], float(limits["weight_cap"]), float(limits["sigma"]))
    report(out.image.shape[1], out.image.shape[1])
    return out


_COPIED = ("image", "weight", "coverage", "rejected", "flagged")
_Task = tuple[dict[str, Any], str, str]


def _bands(reconstructions: Sequence[str], synthetics: Sequence[str]) -> Iterator[_Task]:
    if len(reconstructions) != len(synthetics):
        raise StackingError(
            f"{len(reconstructions)} bands were reconstructed, {len(synthetics)} have synthetic frames: run "
            "again from TILE_RECONSTRUCTION"
        )
    for table, frames in zip(reconstructions, synthetics, strict=True):
        yield tables.load(table, "sky_x")[0], table, frames


def _reconstructed(tasks: Sequence[_Task]) -> FinalImage:
    """The maps of all bands in one."""
    height, channels = tasks[-1][0]["y1"], len(tasks[0][0]["channels"])
    ends = [0] + [about["y1"] for about, _, _ in tasks]
    for (about, table, _), start in zip(tasks, ends, strict=False):
        if about["y0"] != start or about["channels"] != tasks[0][0]["channels"]:
            raise StackingError(f"{table} does not begin at row {start}: run again from TILE_RECONSTRUCTION")
    out = None
    for about, table, _ in tasks:
        _, maps = tables.load(table, *_COPIED, "weight2")
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
        rows = slice(about["y0"], about["y1"])
        for name in _COPIED:
            getattr(out, name)[:, rows] = maps[name]
        _effective(maps["weight"], maps["weight2"], maps["coverage"], maps["rejected"], out.n_eff[:, rows])
    assert out is not None
    return out


def _effective(weight: Any, weight2: Any, coverage: Any, rejected: Any, out: NDArray[np.float32]) -> None:
    """(sum w)^2 / sum w^2; where there are no weights, the number of frames in the plain mean."""
    with np.errstate(invalid="ignore", divide="ignore"):
        np.divide(weight * weight, weight2, out=out)
    plain = ~(weight2 > 0)
    out[plain] = coverage[plain] - rejected[plain]
