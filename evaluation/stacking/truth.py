"""A stack against the truth about its simulated frames: transforms, photometry, pixels."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from ripresa.families.stacking.simulation import Truth
from ripresa.families.stacking.simulation.optics import apply
from stacking import judge, match

Floats = NDArray[np.float64]

_GRID = 7
_BRIGHT_SNR = 200.0
_SATURATED_E = 45000.0
_FAR_SIGMA = 8.0


@dataclass(frozen=True)
class Transforms:
    """Errors of positions, px, over a grid of points that reference and frame share."""

    median_px: float
    max_px: float
    worst: str
    """The frame with the largest error."""
    frames: int


def transforms(truth: Truth, reference: str, found: Mapping[str, list[list[float]]]) -> Transforms:
    """Compare 2x3 matrices from the reference to frames, by name, with the true ones."""
    width, height = truth.settings.width, truth.settings.height
    x, y = (
        g.ravel() for g in np.meshgrid(np.linspace(0, width - 1, _GRID), np.linspace(0, height - 1, _GRID))
    )
    errors, largest = [], {}
    for name, matrix in found.items():
        true_x, true_y = apply(truth.transform(reference, name), x, y)
        seen = (true_x >= 0) & (true_x <= width - 1) & (true_y >= 0) & (true_y <= height - 1)
        found_x, found_y = apply(matrix, x, y)
        error = np.hypot(found_x - true_x, found_y - true_y)[seen]
        errors.append(error)
        largest[name] = float(error.max())
    worst = max(largest, key=lambda name: largest[name])
    return Transforms(float(np.median(np.concatenate(errors))), largest[worst], worst, len(found))


def upright(image: Floats, truth: Truth, reference: str) -> Floats:
    """The stack [H, W] with its rows in the order of the reference's; ValueError if it is on another grid."""
    x, y = truth.positions(reference)
    bright = np.argsort(-truth.field.flux.mean(axis=1))
    width, height = truth.settings.width, truth.settings.height
    inside = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    known = np.column_stack([x, y])[bright[inside[bright]]]
    for candidate in (image, image[::-1]):
        matrix, _ = match.align(known, judge.prepare(candidate).stars)
        if np.hypot(*(match.apply(matrix, known) - known).T).max() < 0.5:
            return candidate
    raise ValueError(f"the stack is not on the grid of {reference}")


@dataclass(frozen=True)
class Photometry:
    """Light of bright, unsaturated stars in wide apertures over the true light, after one factor for all."""

    rms: float
    factor: float
    """Light in the stack for each electron in the reference."""
    noise: float
    """What noise alone makes of it."""
    stars: int


def photometry(image: Floats, truth: Truth, reference: str, fwhm: float, channel: int = 0) -> Photometry:
    """Measure stars of an `upright` stack [H, W] and of the true image of the reference alike."""
    exact = truth.light(reference, fwhm_px=fwhm)[channel].astype(float)
    radius, ring = 2.0 * fwhm, (4.0 * fwhm, 6.0 * fwhm)
    x, y = truth.positions(reference)
    flux = truth.flux(reference)[:, channel]
    width, height = truth.settings.width, truth.settings.height
    edge = ring[1] + 0.05 * min(width, height)
    inside = (x > edge) & (x < width - 1 - edge) & (y > edge) & (y < height - 1 - edge)
    # The brightest pixel of a star in the sharpest frame, where it saturates first.
    sharpest = max(truth.frames, key=lambda one: one.transparency / one.fwhm_px**2)
    peak = flux / truth.frame(reference).transparency * sharpest.transparency * 0.72 / sharpest.fwhm_px**2
    lonely = np.ones(len(x), bool)
    for i in np.flatnonzero(inside):
        near = np.hypot(x - x[i], y - y[i]) < ring[1]
        near[i] = False
        lonely[i] = not (flux[near] > 0.02 * flux[i]).any()
    chosen = np.flatnonzero(inside & lonely & (peak < _SATURATED_E))

    def measured(data: Floats) -> Floats:
        data = np.ascontiguousarray(np.where(np.isfinite(data), data, np.nanmedian(data)), np.float64)
        light, _, _ = sep.sum_circle(data, x[chosen], y[chosen], radius, bkgann=ring, subpix=0)
        return np.asarray(light)

    ours, true = measured(image), measured(exact)
    factor = np.median((ours / true)[np.argsort(-true)[:30]])
    error = judge.noise_of_apertures(judge.prepare(image), radius) / factor / true
    bright = error < 1 / _BRIGHT_SNR
    if bright.sum() < 5:
        raise ValueError(
            f"only {int(bright.sum())} lonely, unsaturated stars are bright enough for photometry"
        )
    ratio = (ours / true)[bright]
    factor = float(np.average(ratio, weights=error[bright] ** -2))
    ratio = ratio / factor
    return Photometry(
        float(np.sqrt(np.mean((ratio - 1) ** 2))),
        factor,
        float(np.sqrt(np.mean(error[bright] ** 2))),
        len(ratio),
    )


@dataclass(frozen=True)
class Pixels:
    """Pixels outside stars against the true sky and nebulae, in units of the local noise."""

    off: int
    """More than 8 sigma away."""
    off_where_few: int
    """Those of them that fewer than a quarter of the frames reach."""
    largest: float
    where: tuple[int, int]
    """Column and row of the largest."""
    judged: float
    """Share of the pixels that was judged; the rest is stars, and what no frame reaches."""
    empty: int
    """Pixels without a value though frames reach them."""
    smooth: float
    """Largest difference after averaging over 64x64 px, in the noise of one pixel."""


def pixels(
    image: Floats, truth: Truth, reference: str, names: list[str], factor: float, channel: int = 0
) -> Pixels:
    """Judge an `upright` stack [H, W] of the frames ``names`` whose `photometry` gave ``factor``.

    What varies smoothly, over more than 64 px, is told apart: another sky than the reference's is no fault of
    single pixels.
    """
    coverage = truth.coverage(reference, names)
    smooth = truth.light(reference, stars=False)[channel].astype(float)
    widest = max(truth.frame(name).fwhm_px for name in names)
    stars = np.maximum(*(truth.light(reference, smooth=False, fwhm_px=f)[channel] for f in (2.0, widest)))
    known = np.isfinite(image) & (coverage > 0)
    residual = np.where(known, image / factor - smooth, 0.0)
    rough = 1.4826 * np.median(np.abs(residual[known] - np.median(residual[known])))
    dark = known & ~binary_dilation(stars > 0.3 * rough, iterations=2)
    background = sep.Background(np.ascontiguousarray(residual), mask=~dark, bw=64, bh=64)
    residual = residual - background.back()
    full = dark & (coverage >= 0.9 * coverage.max())
    noise = 1.4826 * np.median(np.abs(residual[full]))
    sigma = np.maximum(noise * np.sqrt(coverage.max() / np.maximum(coverage, 1)), background.rms())
    away = np.where(dark, np.abs(residual) / sigma, 0.0)
    off = away > _FAR_SIGMA
    row, column = np.unravel_index(int(np.argmax(away)), away.shape)
    back = background.back()[full]
    return Pixels(
        int(off.sum()),
        int((off & (coverage < 0.25 * coverage.max())).sum()),
        float(away.max()),
        (int(column), int(row)),
        float(dark.mean()),
        int((~np.isfinite(image) & (coverage > 0)).sum()),
        float(np.abs(back - np.median(back)).max() / noise),
    )
