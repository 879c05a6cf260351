"""What is measured on the pixels of a finished stack."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking.outputs.evidence import Evidence
from ripresa.families.stacking.outputs.stacked_file import Final

FEW = 5
"""Fewer values than these give no median worth the name."""


def measure(final: Final, evidence: Evidence) -> dict[str, Any]:
    """Figures of the finished stack; None where there is nothing to measure by.

    n_eff (median of the map), stars, fwhm_px and elongation (medians of the stars), background and noise of
    each channel, noise_ratio (to what the frames promise), seam (see `seam`), flagged (pixels without
    weights)."""
    from ripresa.families.stacking.detection import detect

    image = _filled(final.image)
    stars = detect(image)
    enough = len(stars) >= FEW
    noise = [noise_of(channel, evidence.grid) for channel in image]
    pairs = zip(noise, evidence.expected_noise, strict=True)
    covered = final.n_eff[final.coverage > 0]
    return {
        "n_eff": float(np.median(covered)) if covered.size else None,
        "stars": len(stars),
        "fwhm_px": float(np.median(stars.fwhm)) if enough else None,
        "elongation": float(np.median(stars.elongation)) if enough else None,
        "background": [float(level) for level in stars.background],
        "noise": [_median(tiles) for tiles in noise],
        "noise_ratio": _largest(_median(tiles / expected) for tiles, expected in pairs),
        "seam": _largest(seam(channel, evidence.grid) for channel in image),
        "flagged": int(np.count_nonzero(final.flagged)),
    }


def noise_of(channel: NDArray[np.float32], grid: dict[str, Any]) -> NDArray[np.float64]:
    """Noise of each tile, [ty, tx], from differences that know neither sky nor stars."""
    rough = _rough(channel)
    size = grid["size"]
    noise = np.full((len(grid["y"]), len(grid["x"])), np.nan)
    for row, y in enumerate(grid["y"]):
        for column, x in enumerate(grid["x"]):
            tile = rough[y : y + size - 2, x : x + size - 2]
            tile = tile[np.isfinite(tile)]
            if tile.size:
                noise[row, column] = 1.4826 * np.median(tile)
    return noise


def _rough(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left of an image without its constant and linear parts, as a deviation of one pixel:
    differences of second order along both axes (Immerkaer 1996), whose weights have a root sum of squares of
    6."""
    rows = channel[:-2] - 2 * channel[1:-1] + channel[2:]
    both = rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]
    return np.asarray(np.abs(both) / np.float32(6), np.float32)


def seam(channel: NDArray[np.float32], grid: dict[str, Any]) -> float | None:
    """The largest step across a border of tiles, in sigma beyond what chance gives; None if none can be
    measured.

    Borders are searched one tile's length at a time, at both ends and in the middle of every overlap. A step
    is the difference between the means of the plain sky on its two sides (over half an overlap), less that of
    its neighbours, so that a gradient is none. Sigma is the scatter of such steps inside tiles, where there
    is no border. Of N steps one lies about sqrt(2 ln N) sigma off by chance: the value is sqrt(z^2 - 2 ln N),
    or 0."""
    if len(grid["x"]) == len(grid["y"]) == 1:
        return 0.0
    values, known, sigma = _plain_sky(channel, grid["size"])
    parts = [
        _steps(values, known, grid["x"], grid["y"], grid),
        _steps(values.T, known.T, grid["y"], grid["x"], grid),
    ]
    borders, inside = (np.abs(np.concatenate(part)) for part in zip(*parts, strict=True))
    if not borders.size:
        return None
    if inside.size >= FEW:
        by_chance = math.sqrt(2 * math.log(inside.size))
        sigma = max(sigma, 1.4826 * float(np.median(inside)), float(inside.max()) / by_chance)
    if sigma == 0:
        return math.inf if borders.any() else 0.0
    z = float(borders.max()) / sigma
    return math.sqrt(max(0.0, z * z - 2 * math.log(borders.size)))


def _plain_sky(
    channel: NDArray[np.float32], size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """The image about zero where it is plain sky, else 0; 1 where it is sky, else 0; and the noise of the
    sky."""
    import sep

    mesh = max(16, size // 2)
    sky = sep.Background(np.ascontiguousarray(channel), bw=mesh, bh=mesh)
    rest = channel - sky.back(dtype=np.float32)
    known = (np.abs(rest) <= np.float32(3 * sky.globalrms)).astype(np.float32)
    return (channel - np.float32(sky.globalback)) * known, known, float(sky.globalrms)


def _steps(
    values: NDArray[np.float32],
    known: NDArray[np.float32],
    starts: Sequence[int],
    segments: Sequence[int],
    grid: dict[str, Any],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps along x at the borders, and inside the tiles, one for each row of tiles (``segments``), in units
    in which their sigma is that of a pixel where pixels are independent."""
    width, half = values.shape[1], max(4, grid["overlap"] // 2)
    overlaps = [(right, left + grid["size"]) for left, right in itertools.pairwise(starts)]
    # Windows blend over grid["overlap"] in the middle of what two tiles share, which may be more.
    ramps = [
        (middle - half, middle, middle + half) for middle in ((low + high) // 2 for low, high in overlaps)
    ]
    at_borders = sorted({at for places in (*overlaps, *ramps) for at in places})
    margin = 2 * half - half // 2
    far = np.arange(width + 1)
    for low, high in overlaps:
        far = far[(far <= low - margin) | (far >= high + margin)]
    sums, counts = (
        np.pad(np.cumsum(np.add.reduceat(part, segments, axis=0), axis=1, dtype=np.float64), ((0, 0), (1, 0)))
        for part in (values, known)
    )
    rows = np.diff([*segments, len(values)])[:, None]

    def at(places: NDArray[np.int64]) -> NDArray[np.float64]:
        places = places[(places >= 2 * half) & (places <= width - 2 * half)]
        edges = places[:, None] + half * np.arange(-2, 3)
        total, count = np.diff(sums[:, edges], axis=-1), np.diff(counts[:, edges], axis=-1)
        enough = (count >= 0.5 * half * rows[:, :, None]).all(axis=-1)
        share = np.array([0.5, -1.5, 1.5, -0.5])
        total, count = total[enough], count[enough]
        return np.asarray((total / count) @ share / np.sqrt((1 / count) @ share**2))

    return at(np.array(at_borders, np.int64)), at(far)


def _filled(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The image with its median where it has no value."""
    gaps = ~np.isfinite(image)
    if not gaps.any():
        return image
    filled = image.copy()
    for channel, holes in zip(filled, gaps, strict=True):
        channel[holes] = np.median(channel[~holes]) if not holes.all() else 0
    return filled


def _median(values: NDArray[Any]) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else None


def _largest(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return max(known) if known else None
