"""A stack against the truth about its simulated frames: transforms, photometry, pixels."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from ripresa.families.stacking.simulation import Truth, optics
from ripresa.families.stacking.simulation.optics import apply
from stacking import judge, match

Floats = NDArray[np.float64]

_GRID = 7
_BRIGHT_SNR = 200.0
_SATURATED_E = 45000.0
_FAR_SIGMA = 8.0
_NARROW, _WIDE, _RING = 2.0, 4.0, (5.0, 7.0)
"""Apertures and the ring of their background, in FWHM. Beyond the wide one is 0.1 % of the light of a Moffat
profile with beta = 3.5, beyond the narrow one 2.3 %."""


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
    """All light of bright, unsaturated stars over the true light, after one factor for all."""

    rms: float
    factor: float
    """Light in the stack for each electron in the reference."""
    noise: float
    """What noise alone makes of it."""
    stars: int


def photometry(image: Floats, truth: Truth, reference: str, fwhm: float, channel: int = 0) -> Photometry:
    """Measure stars of an `upright` stack [H, W] and of the true image of the reference.

    What is to be kept is all the light of a star. A narrow aperture misses a part of it that goes with the
    size of stars, and the size in a stack varies over the field otherwise than in its reference (2 to 4 % of
    the light between two corners, at twice the FWHM). So light is measured as everywhere in aperture
    photometry: in a narrow aperture, times how much more there is in a wide one, which is a smooth `growth`
    over the field. That factor is a ratio of the light of one star in one image. Hence nothing that brightens
    or dims stars, with or without a trend over the field, can hide in it, only where in the star its light
    is. Each ratio is compared with that of the same star in the true image, which has the same neighbours.
    """
    exact = truth.light(reference, fwhm_px=fwhm)[channel].astype(float)
    narrow, wide, ring = _NARROW * fwhm, _WIDE * fwhm, (_RING[0] * fwhm, _RING[1] * fwhm)
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
        away = np.delete(np.hypot(x - x[i], y - y[i]), i) / ring[1]
        # Wings of stars beyond the ring reach into it.
        most = np.where(away < 1, 0.02, 0.5 * away**5) * flux[i]
        lonely[i] = not (np.delete(flux, i) > most).any()
    chosen = np.flatnonzero(inside & lonely & (peak < _SATURATED_E))
    x, y = x[chosen], y[chosen]

    def measured(data: Floats, radius: float) -> Floats:
        data = np.ascontiguousarray(np.where(np.isfinite(data), data, np.nanmedian(data)), np.float64)
        light, _, _ = sep.sum_circle(data, x, y, radius, bkgann=ring, subpix=0)
        return np.asarray(light)

    core, true = measured(image, narrow), measured(exact, narrow)
    factor = np.median((core / true)[np.argsort(-true)[:30]])
    error = judge.noise_of_apertures(judge.prepare(image), narrow) / factor / flux[chosen]
    bright = error < 1 / _BRIGHT_SNR
    if bright.sum() < 5:
        raise ValueError(
            f"only {int(bright.sum())} lonely, unsaturated stars are bright enough for photometry"
        )
    u, v = optics.relative(truth.settings, x[bright], y[bright])
    more = growth(
        u, v, (measured(image, wide) / core / (measured(exact, wide) / true))[bright], error[bright]
    )
    ratio, error = (core / true)[bright] * more, error[bright]
    factor = float(np.average(ratio, weights=error**-2))
    ratio = ratio / factor
    return Photometry(
        float(np.sqrt(np.mean((ratio - 1) ** 2))),
        factor,
        float(np.sqrt(np.mean(error**2))),
        len(ratio),
    )


def growth(u: Floats, v: Floats, ratio: Floats, error: Floats) -> Floats:
    """A ``ratio`` of light in wide apertures to that in narrow ones, as a smooth function of the place: a
    surface of second order at most, and no higher than three stars to each of its terms allow."""
    terms = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)
    terms = terms[:, : max(n for n in (1, 3, 6) if n == 1 or 3 * n <= len(u))]
    solution = np.linalg.lstsq(terms / error[:, None], ratio / error, rcond=None)[0]
    return np.asarray(terms @ solution)


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
