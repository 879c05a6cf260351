"""LOCAL_METRICS: what each frame is worth in each tile, and the weights of the stack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import celltables, tables, tiles, weights
from ripresa.families.stacking.celltables import Cells
from ripresa.families.stacking.global_metrics import without_trails
from ripresa.families.stacking.robust import (
    Floats,
    clip_score,
    evaluate,
    fit,
    inflation,
    median,
    quadratic,
    thinning,
    zscore,
)

# Relative error of a star's size at high signal-to-noise ratio: sampling, blends, pixel phase.
SIZE_FLOOR = 0.03
# How much, relative, the size of stars is expected to vary over a frame beyond what all frames share; with
# few stars the fit stays that near to the frame's median.
VARIATION = 0.1
CAMPAIGN_VARIATION = 0.3
# No field departs further (natural logarithm) from its own level than this, however few stars hold it there.
FIELD_LIMIT = 0.5
# Stars that a frame needs for its own level, and a tile to be one of stars.
FRAME_STARS = 3
TILE_STARS = 3
# Noise below this part of the campaign's median is none that can be trusted (flat or empty images).
NOISE_FLOOR = 1e-3


def measure(
    cells: list[str],
    normalization: str,
    global_metrics: str,
    tile_grid: str,
    settings: Mapping[str, Any],
    output: str,
) -> None:
    """Write ``output``, for F registered frames sorted by name, C channels and ty x tx tiles:

    - ``r50`` and ``fwhm`` [F, ty, tx], px: smooth fields of each frame at the centres of the tiles;
    - ``noise`` [F, C, ty, tx] per pixel, in the flux units of the reference frame;
    - ``star_tile`` [ty, tx]: whether a tile has stars enough to be judged by;
    - ``quality`` [F, ty, tx], clipped to +-3: Q = .6(-z(FWHM)) + .2 z(roundness) + .2 z(contrast) where it
      has, else Q = .7 z(E/sigma) - .3 z(B), z over the frames in the tile; 0 where the frame has no pixels.
      Roundness is b/a, contrast the height of stars of one brightness over the noise, B the background before
      NORMALIZATION's offset; ``mean_quality`` and ``var_quality`` [F] over the tiles that a frame covers;
    - ``weights`` [F, C, ty, tx] by ``settings["weighting"]``: see `weights`.

    ``about``: frames, channels, weighting, psf_exponent, and sharpness {mu, width, snr} (`weights.Sharpness`)
    where it was chosen (psf_exponent ``auto``), else null.
    """
    _, normal = tables.load(normalization)
    _, whole = tables.load(global_metrics, "quality")
    grid = tables.read_json(tile_grid)
    size = grid["size"]
    # At least two cells to a tile.
    finest = max(celltables.MAXIMUM, 2 * max(grid["width"], grid["height"]) // size)
    cell = celltables.read(cells, "background", "noise", "energy", maximum=finest)
    blend = _Blend(cell, grid)
    scale = normal["scale"]

    fields = StarFields(normal, scale, grid)
    fwhm, r50 = fields.of("star_fwhm"), fields.of("star_r50")
    noise = tile_noise(cell, scale, blend)
    covered = blend.covered
    sigma = np.sqrt(np.mean(noise**2, axis=1))
    star_tile = count_stars(normal, grid) >= TILE_STARS
    by_stars = (
        -0.6 * zscore(np.where(covered, fwhm, np.nan))
        + 0.2 * zscore(np.where(covered, 1 / fields.of("star_elongation"), np.nan))
        + 0.2 * zscore(np.where(covered, fields.of("star_peak", scale) / sigma, np.nan))
    )
    background = np.mean(blend(cell["background"]) * scale[:, :, None, None], axis=1)
    gradient = cell["energy"] * (scale**2).astype(np.float32)[:, :, None, None]
    _, capped = without_trails(gradient.reshape(*scale.shape, -1))
    energy = np.mean(blend(capped.reshape(gradient.shape)), axis=1)
    by_structure = 0.7 * zscore(energy / np.where(covered, sigma, np.nan)) - 0.3 * zscore(background)
    quality = clip_score(np.where(covered, np.where(star_tile, by_stars, by_structure), 0))

    channels = scale.shape[1]
    weighting, exponent = settings["weighting"], settings["psf_exponent"]
    sharpness = None
    if weighting == "physical" and exponent == "auto":
        sharpness = weights.sharpest(noise, r50, covered)
        weight = weights.sharpened(noise, r50, sharpness.mu)
    elif weighting == "physical":
        weight = weights.physical(noise, r50, exponent)
    elif weighting == "quality":
        weight = weights.quality(whole["quality"], quality, channels)
    else:
        weight = weights.uniform(noise.shape)
    count = np.maximum(covered.sum(axis=(1, 2)), 1)
    mean = np.sum(quality, axis=(1, 2)) / count
    variance = np.sum(np.where(covered, (quality - mean[:, None, None]) ** 2, 0), axis=(1, 2)) / count
    tables.save(
        output,
        {
            "frames": [{"name": name} for name in cell.names],
            "channels": cell.channels,
            "weighting": weighting,
            "psf_exponent": exponent if weighting == "physical" else None,
            "sharpness": None if sharpness is None else sharpness._asdict(),
        },
        r50=r50.astype(np.float32),
        fwhm=fwhm.astype(np.float32),
        noise=noise.astype(np.float32),
        star_tile=star_tile,
        quality=quality.astype(np.float32),
        mean_quality=mean,
        var_quality=variance,
        weights=weight.astype(np.float32),
    )


class StarFields:
    """Smooth fields over the tiles of what stars measure, frame by frame.

    The logarithm of a measurement is a star's own level, common to all frames, plus a quadratic surface of
    the frame. The levels are again a quadratic over the field. Their sum is what a star at a tile has in
    that frame.
    """

    def __init__(self, normal: Mapping[str, NDArray[Any]], scale: Floats, grid: Mapping[str, Any]) -> None:
        self.normal = normal
        self.width, self.height = grid["width"], grid["height"]
        y, x = np.meshgrid(
            tiles.centres(grid["y"], grid["size"]), tiles.centres(grid["x"], grid["size"]), indexing="ij"
        )
        self.shape = (len(scale), *x.shape)
        self.at_stars = quadratic(normal["star_x"], normal["star_y"], self.width, self.height)
        self.at_tiles = quadratic(x.ravel(), y.ravel(), self.width, self.height)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / (normal["star_snr"].astype(np.float64) ** -2 + SIZE_FLOOR**2)
        self.inverse = np.where(np.isfinite(inverse), inverse, 0)  # of the variance of a logarithm

    def of(self, name: str, scale: Floats | None = None) -> Floats:
        """The field [F, ty, tx] of one measurement, times the scale [F, C] of the frame if given.

        A frame with too few stars is given the level of the worst frame (the largest stars, the lowest peak).
        Without stars in any frame it is 1.
        """
        values = self.normal[name].astype(np.float64)
        if scale is not None:
            values = values * np.exp(np.mean(np.log(scale), axis=1))[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.where((values > 0) & (self.inverse > 0), np.log(values), np.nan)
        log[np.isfinite(log).sum(axis=1) < FRAME_STARS] = np.nan
        measured = np.isfinite(log).any(axis=1)
        if not measured.any():
            return np.ones(self.shape)
        # Stars are seen on different frames: one that only bad frames show is not itself a large star.
        frame = median(log - median(log, axis=0))
        level = median(log - frame[:, None], axis=0)
        residual = log - level - frame[:, None]
        with np.errstate(divide="ignore"):
            inverse = self.inverse / inflation(residual, self.inverse**-0.5) ** 2
        own = fit(self.at_stars, log - level, inverse, _ridge(VARIATION), 3)
        worst = np.min(own[measured, 0]) if scale is not None else np.max(own[measured, 0])
        own[~measured] = np.array([worst, 0, 0, 0, 0, 0])
        seen = np.sum(np.where(np.isfinite(log), inverse, 0), axis=0)
        sure = np.minimum(seen, SIZE_FLOOR**-2)
        common = fit(self.at_stars, level[None], sure[None], _ridge(CAMPAIGN_VARIATION))
        field = self._bounded(own) + self._bounded(common)
        return np.exp(field).reshape(self.shape)

    def _bounded(self, coefficients: Floats) -> Floats:
        """The surfaces at the tiles, held near to their own median."""
        field = evaluate(coefficients, self.at_tiles)
        center = np.median(field, axis=1, keepdims=True)
        return np.clip(field, center - FIELD_LIMIT, center + FIELD_LIMIT)


def _ridge(variation: float) -> Floats:
    """The penalty of a quadratic whose terms but the first are of the size ``variation``."""
    return np.array([0.0, *[variation**-2] * 5])


class _Blend:
    """Averages of cells over tiles, weighted by the windows of the tiles, so that tiles vary smoothly."""

    def __init__(self, cells: Cells, grid: Mapping[str, Any]) -> None:
        self.x, self.y = (
            tiles.profile(grid[axis], grid["size"], grid["overlap"], position).astype(np.float32)
            for axis, position in (("x", cells.x), ("y", cells.y))
        )
        self.coverage = cells["coverage"]
        self.covered: weights.Mask = np.asarray((self._sum(self.coverage) > 0).all(axis=1))

    def _sum(self, maps: Floats) -> Floats:
        rows = [np.einsum("fcyx,y->fcx", maps[:, :, at], window[at]) for at, window in _parts(self.y)]
        strips = np.stack(rows, axis=2)
        columns = [np.einsum("fcyx,x->fcy", strips[..., at], window[at]) for at, window in _parts(self.x)]
        return np.stack(columns, axis=3)

    def __call__(self, maps: Floats) -> Floats:
        """[F, C, ty, tx] of maps [F, C, ny, nx]; NaN where a frame has no pixels."""
        known = np.isfinite(maps) & (self.coverage > 0)
        weight = self._sum(np.where(known, self.coverage, 0))
        total = self._sum(np.where(known, maps * self.coverage, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(weight > 0, total / weight, np.nan).astype(np.float64)


def _parts(windows: Floats) -> Iterator[tuple[slice, Floats]]:
    """Each window with the positions where it is not zero, which are few."""
    for window in windows:
        place = np.flatnonzero(window)
        yield slice(place[0], place[-1] + 1), window


def tile_noise(cells: Cells, scale: Floats, blend: _Blend) -> Floats:
    """Noise [F, C, ty, tx] in flux units of the reference: finite and positive everywhere.

    Cells with twice the noise of their frame hold a bright star or a trail and count no more than that. Where
    a frame has no pixels it has its own median.
    """
    noise = cells["noise"]
    few = thinning(noise[0, 0].size)
    level = median(noise.reshape(*scale.shape, -1)[..., ::few])[:, :, None, None]
    tile = blend(np.minimum(noise, 2 * level)) * scale[:, :, None, None]
    own = median(tile.reshape(*scale.shape, -1))[:, :, None, None]
    tile = np.where(np.isfinite(tile), tile, own)
    campaign = median(own, axis=0)
    campaign = np.where(campaign > 0, campaign, 1.0)  # a flat image, or no frame at all: all are equal
    return np.maximum(np.where(np.isfinite(tile), tile, campaign), NOISE_FLOOR * campaign)


def count_stars(normal: Mapping[str, NDArray[Any]], grid: Mapping[str, Any]) -> NDArray[np.int64]:
    """How many stars of the catalogue, found in a third of the frames or more, are in each tile [ty, tx]."""
    found = np.isfinite(normal["star_fwhm"])
    common = found.sum(axis=0) >= max(1, len(found) / 3)
    inside = []
    for axis, position in (("x", normal["star_x"]), ("y", normal["star_y"])):
        first = np.array(grid[axis])[:, None]
        inside.append(((position >= first) & (position < first + grid["size"]) & common).astype(np.int64))
    return inside[1] @ inside[0].T
