"""What is measured on the pixels of a finished stack."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking.final import FinalImage
from ripresa.families.stacking.outputs.evidence import Evidence
from ripresa.families.stacking.robust import MAD_TO_SIGMA

if TYPE_CHECKING:
    from ripresa.families.stacking.detection import Stars

FEW = 5
"""Fewer values than these give no median worth the name."""
SAME_PX = 2.0
"""A star of the stack this near to one of the frames is the same."""
_HALF_NORMAL_MEDIAN = 0.6745
"""Median of |x|, x normal with a standard deviation of 1."""


def measure(final: FinalImage, evidence: Evidence) -> dict[str, Any]:
    """Figures of the finished stack; None where there is nothing to measure by.

    n_eff (median of the map), stars (see `shapes`), background and noise of each channel, noise_ratio (to
    what the frames promise), seam (see `seam`), flagged (pixels without weights)."""
    from ripresa.families.stacking.detection import detect

    stars = detect(_filled(final.image))
    lag = 2 if evidence.reference.get("kind") == "cfa" else 1
    noise = [noise_of(channel, evidence.grid, lag) for channel in final.image]
    pairs = zip(noise, evidence.expected_noise, strict=True)
    return {
        "n_eff": final.median_n_eff,
        **shapes(stars, evidence),
        "background": [float(level) for level in stars.background],
        "noise": [_median(tiles) for tiles in noise],
        "noise_ratio": _largest(_median(tiles / expected) for tiles, expected in pairs),
        "seam": _largest(seam(channel, evidence.grid) for channel in final.image),
        "flagged": int(np.count_nonzero(final.flagged)),
    }


def shapes(stars: "Stars", evidence: Evidence) -> dict[str, Any]:
    """How many stars tell the following medians: fwhm_px and elongation in the stack, frame_fwhm_px of the
    same stars in the median frame. None for the medians of too few.

    These are the stars that most frames have in common: what else is found in a stack of few frames may be
    noise, whose blobs are not round. Where there are none, as with frames registered by their images, it is
    all that is found, and the median FWHM of each frame."""
    known = evidence.known_stars
    own = np.column_stack([stars.x, stars.y])
    apart = np.hypot(*(own[:, None] - known[None, :, :2]).transpose(2, 0, 1))
    pairs = np.argwhere(apart < SAME_PX)
    mine, theirs = pairs[:, 0], pairs[:, 1]
    if len(mine) >= FEW:
        before = float(np.median(known[theirs, 2]))
    else:
        mine = np.arange(len(stars))
        alone = [frame.fwhm_px for frame in evidence.stacked if frame.fwhm_px is not None]
        before = float(np.median(alone)) if alone else math.nan
    enough = len(mine) >= FEW
    return {
        "stars": len(mine),
        "fwhm_px": float(np.median(stars.fwhm[mine])) if enough else None,
        "elongation": float(np.median(stars.elongation[mine])) if enough else None,
        "frame_fwhm_px": before if math.isfinite(before) else None,
    }


def noise_of(channel: NDArray[np.float32], grid: dict[str, Any], lag: int = 1) -> NDArray[np.float64]:
    """Noise of a pixel in each tile, [ty, tx], by differences over ``lag`` px that know neither sky nor
    stars.

    Resampling makes the noise of neighbours alike, so this is 0.75 to 1 times what a pixel has; over more
    than the distance of independent values (2 px in a colour mosaic) it would be nearer, but the stars of a
    crowded field would be taken for noise."""
    rough = _rough(channel, lag)
    size = grid["size"] - 2 * lag
    noise = np.full((len(grid["y"]), len(grid["x"])), np.nan)
    for row, y in enumerate(grid["y"]):
        for column, x in enumerate(grid["x"]):
            tile = rough[y : y + size, x : x + size]
            tile = tile[np.isfinite(tile)]
            if tile.size:
                noise[row, column] = MAD_TO_SIGMA * np.median(tile)
    return noise


def _rough(channel: NDArray[np.float32], lag: int) -> NDArray[np.float32]:
    """What is left of an image without its constant and linear parts, as a deviation of one pixel: second
    differences along both axes (Immerkaer 1996), whose weights have a root sum of squares of 6."""
    rows = channel[: -2 * lag] - 2 * channel[lag:-lag] + channel[2 * lag :]
    both = rows[:, : -2 * lag] - 2 * rows[:, lag:-lag] + rows[:, 2 * lag :]
    return np.asarray(np.abs(both) / np.float32(6), np.float32)


def seam(channel: NDArray[np.float32], grid: dict[str, Any]) -> float | None:
    """The worst step across borders of tiles, in sigma beyond chance; None if none can be measured.

    Borders are searched one tile's length at a time, at both ends and in the middle of what two tiles share.
    A step is the difference between the means of the plain sky on its two sides (over half an overlap), less
    that of its neighbours, so that a gradient is none. The same inside the tiles tells what steps are without
    a border. The value is the larger of what says that one border is bad, and that all of them are:

    - sqrt(z^2 - 2 ln N) of the largest step z of N, since by chance it is about sqrt(2 ln N). Where nebulae
      make the largest step inside tiles t times what chance makes it, z counts t^2 times less;
    - the excess of the median step over that inside the tiles, in standard errors.
    """
    if len(grid["x"]) == len(grid["y"]) == 1:
        return 0.0
    values, known, noise = _plain_sky(channel, grid["size"])
    across = _steps(values, known, grid["x"], grid["y"], grid)
    down = _steps(values.T, known.T, grid["y"], grid["x"], grid)
    places = [np.concatenate(pair) for pair in zip(across, down, strict=True)]
    inside, borders = places[-1], [place for place in places[:-1] if place.size]
    if not borders:
        return None
    sigma, usual, tail = noise, 0.0, 1.0
    if inside.size >= FEW:
        usual = float(np.median(inside))
        scatter = max(noise, usual / _HALF_NORMAL_MEDIAN)
        tail = max(1.0, float(inside.max()) / (scatter * math.sqrt(2 * math.log(inside.size))))
        sigma = scatter * tail**2
    largest, count = max(place.max() for place in borders), sum(place.size for place in borders)
    if sigma == 0:
        return 0.0 if largest == 0 else None
    one = math.sqrt(max(0.0, (largest / sigma) ** 2 - 2 * math.log(count)))
    # The median of n values |x|, x normal, has a relative standard error of 1.17 / sqrt(n); here are two.
    excess = [
        (np.median(place) / usual - 1) / (1.17 * math.sqrt(2 / place.size))
        for place in borders
        if usual > 0 and place.size >= FEW
    ]
    return float(max([one, *excess]))


def _plain_sky(
    channel: NDArray[np.float32], size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """The image about zero where it is plain sky, else 0; 1 where it is sky, else 0; and the noise of the
    sky."""
    import sep

    mesh, gaps = max(16, size // 2), ~np.isfinite(channel)
    channel = _filled(channel[None])[0]
    sky = sep.Background(np.ascontiguousarray(channel), mask=gaps, bw=mesh, bh=mesh)
    rest = channel - sky.back(dtype=np.float32)
    known = ((np.abs(rest) <= np.float32(3 * sky.globalrms)) & ~gaps).astype(np.float32)
    return (channel - np.float32(sky.globalback)) * known, known, float(sky.globalrms)


def _steps(
    values: NDArray[np.float32],
    known: NDArray[np.float32],
    starts: Sequence[int],
    segments: Sequence[int],
    grid: dict[str, Any],
) -> list[NDArray[np.float64]]:
    """Sizes of steps along x, one for each row of tiles (``segments``): at each of five places of every
    border, then inside the tiles. In their unit, sigma is that of a pixel where pixels are independent."""
    width, half = values.shape[1], max(4, grid["overlap"] // 2)
    pairs = [(right, left + grid["size"]) for left, right in itertools.pairwise(starts)]
    shared = np.array(pairs, np.int64).reshape(-1, 2)
    # Windows blend over grid["overlap"] in the middle of what two tiles share, which may be more.
    middle = shared.sum(axis=1) // 2
    far = np.arange(width + 1)
    for low, high in shared:
        margin = 2 * half - half // 2
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
        return np.asarray(np.abs((total / count) @ share) / np.sqrt((1 / count) @ share**2))

    return [at(one) for one in (*shared.T, middle - half, middle, middle + half, far)]


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
