"""NORMALIZATION: flux scale and background of every frame relative to the reference frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import StackingError, celltables, crossmatch, tables
from ripresa.families.stacking.celltables import Cells
from ripresa.families.stacking.crossmatch import Catalogue
from ripresa.families.stacking.plan import check_number
from ripresa.families.stacking.robust import Floats, fit, inflation, location, median, quadratic, spread

# Stars that scale a frame: none with a flux worse known than this (relative), and not fewer than this many.
LARGEST_ERROR = 0.3
MINIMUM_STARS = 4
# Colours of the sky's transparency vary at least so much, relative.
COLOUR_FLOOR = 0.003
# Flat field, blends and profile differ from frame to frame: no flux is better known than to 1 %.
FLUX_FLOOR = 0.01
# Cells with less of their area inside the footprint do not count.
MINIMUM_COVERAGE = 0.5
# Cells needed for each number of terms of the background: constant, plane, quadratic.
CELLS_FOR_TERMS = ((1, 1), (12, 3), (60, 6))
# Part of the reference that a quadratic must see in x and in y; a narrower footprint gets a plane.
QUADRATIC_SPAN = 0.25


def normalize(
    stars: list[str],
    registrations: list[str],
    cells: list[str],
    reference: str,
    settings: Mapping[str, Any],
    output: str,
) -> None:
    """Write ``output``, for the registered frames sorted by name:

    - ``scale`` [F, C]: scale * flux of the frame = flux in the reference frame;
    - ``offset`` [F, C, 6]: normalised(x, y) = scale * I(x, y) + sum offset_k b_k with the terms b of
      `robust.quadratic` on the grid, so that every frame has the background of the reference;
    - ``transparency`` [F]: 1 / scale, the geometric mean of the channels;
    - the catalogue of the matched reference stars, which later phases use: ``star_x``, ``star_y`` [S],
      ``star_flux`` [F, S, C], and snr, fwhm, r50, elongation, peak as ``star_...`` [F, S]; NaN where a frame
      has no such star.

    ``about["frames"]``: name, stars_used, stars_matched, stars_detected, scale_from (``reference``,
    ``stars``, ``exposure``, ``background`` or ``nothing``), scale_error (relative, of the worst channel, or
    null), background_terms (how many terms of the offset were fitted).

    ``settings["mode"]``: ``minimum_frames``, ``allow_few``. Raises StackingError if too few are registered.
    """
    cell = celltables.read(cells, "background")
    check_number(len(cell.names), settings["mode"], "frames could be registered")
    grid = tables.read_json(reference)
    catalogue = match_stars(stars, registrations, cell.names, grid)
    anchor = _anchor(catalogue, cell.names, grid["name"])
    photometry = Photometry(catalogue, anchor)
    facts = _facts(stars, cell.names)
    scale, origin = fill_in(photometry.scale, anchor, facts, cell)
    offset, terms = match_background(cell, scale, anchor)
    frames = [
        {
            "name": name,
            "stars_used": int(photometry.used[f]),
            "stars_matched": int(np.isfinite(catalogue.measured["snr"][f]).sum()),
            "stars_detected": int(catalogue.detected[f]),
            "scale_from": origin[f],
            "scale_error": float(photometry.error[f]) if np.isfinite(photometry.error[f]) else None,
            "background_terms": int(terms[f]),
        }
        for f, name in enumerate(cell.names)
    ]
    tables.save(
        output,
        {
            "frames": frames,
            "reference": cell.names[anchor],
            "channels": cell.channels,
            "width": cell.width,
            "height": cell.height,
            "terms": ["1", "u", "v", "u^2", "uv", "v^2"],
        },
        scale=scale,
        offset=offset,
        transparency=np.exp(-np.mean(np.log(scale), axis=1)),
        star_x=catalogue.x,
        star_y=catalogue.y,
        star_flux=catalogue.flux.astype(np.float32),
        **{f"star_{key}": values.astype(np.float32) for key, values in catalogue.measured.items()},
    )


def match_stars(
    stars: list[str], registrations: list[str], names: list[str], reference: Mapping[str, Any]
) -> Catalogue:
    """The stars of the reference frame in all of ``names``."""
    to_frame: dict[str, Floats] = {
        frame["name"]: np.array(frame["to_frame"], np.float64)
        for path in registrations
        for frame in tables.read_json(path)["frames"]
        if frame["status"] == "registered"
    }
    if missing := [name for name in names if name not in to_frame]:
        raise StackingError(f"{missing[0]} has cells but is not registered: run again from CHANNEL_SPLIT")
    found = reference["stars"]
    x, y = (np.array(found[key], np.float64) for key in ("x", "y"))
    fwhm = reference.get("fwhm_px") or 3.0
    # Wide enough for residuals of registration and for centroids of bad frames.
    return crossmatch.match(stars, to_frame, names, x, y, max(2.0, 0.7 * fwhm))


class Photometry:
    """The flux scale of every frame from all its stars: ensemble photometry (Honeycutt 1992, PASP 104, 435).

    Frame scales and mean star fluxes are found in turn, so that the noise of the reference frame's own fluxes
    averages out over the ensemble, and a frame that shares few stars with it is as well tied as the others.
    ``scale`` [F, C] (NaN without stars), ``error`` [F] relative, ``used`` [F] stars.
    """

    def __init__(self, catalogue: Catalogue, anchor: int) -> None:
        # The error of a flux, but for a factor: detection's ratio is that of another kind of flux.
        with np.errstate(divide="ignore", invalid="ignore"):
            error = catalogue.flux.sum(axis=2) / catalogue.measured["snr"]
        results = [_channel_scale(flux, error, anchor) for flux in np.moveaxis(catalogue.flux, 2, 0)]
        scale, error, used = (np.stack(column, axis=1) for column in zip(*results, strict=True))
        self.scale = steady_colours(scale, error, anchor)
        self.error = np.max(error, axis=1)
        self.used = np.min(used, axis=1)


def steady_colours(scale: Floats, error: Floats, anchor: int) -> Floats:
    """Scales [F, C] with relative errors [F, C], freed of noise in their ratios between channels.

    Clouds are grey and extinction reddens slowly: a frame whose colour is badly measured has more likely that
    of the campaign. How much colours do vary is what their scatter exceeds the errors by; each deviation is
    shrunk accordingly (empirical Bayes), and hardly at all where stars are many.
    """
    log, variance = np.log(scale), error**2
    sure = np.where(np.isfinite(log) & (variance > 0), 1 / np.where(variance > 0, variance, 1), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        common = np.sum(np.where(sure > 0, log * sure, 0), axis=1) / np.sum(sure, axis=1)
    colour = log - common[:, None]
    usual = median(colour, axis=0)
    excess = spread(colour, usual, 0) ** 2 - median(variance, axis=0)
    real = np.fmax(excess, 0) + COLOUR_FLOOR**2
    # What all frames deviate by is an error of the reference alone, if it is one.
    shrunk = usual * real / (real + variance[anchor]) + (colour - usual) * real / (real + variance)
    return np.where(np.arange(len(scale))[:, None] == anchor, scale, np.exp(common[:, None] + shrunk))


def _channel_scale(flux: Floats, error: Floats, anchor: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Scale [F], its relative error [F] and the number of stars [F] for fluxes [F, S] of one channel with
    errors [F, S] up to a common factor."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.where(flux > 0, np.log(flux), np.nan)
    scale = np.exp(median(log[anchor] - log))
    for _ in range(3):
        star = median(flux * scale[:, None], axis=0)
        # Errors and the choice of stars follow from the flux expected, not from the one measured: else stars
        # that happen to come out bright count more, and the faint ones only then.
        with np.errstate(divide="ignore", invalid="ignore"):
            expected = np.where(star > 0, star, np.nan) / scale[:, None]
            residual, relative = flux / expected - 1, error / expected
        relative *= inflation(residual, relative)
        good = np.where(relative < LARGEST_ERROR, residual, np.nan)
        found = location(good, relative**2 + FLUX_FLOOR**2)
        scale = np.where(found.number >= MINIMUM_STARS, scale / (1 + found.value), np.nan)
        scale = scale / scale[anchor]  # all NaN if the reference itself has too few stars
    known = np.isfinite(scale)
    return scale, np.where(known, found.error, np.nan), np.where(known, found.number, 0)


def _anchor(catalogue: Catalogue, names: list[str], wanted: str) -> int:
    """The frame to whose flux and background all others are brought: the reference; where that frame was
    taken away since (its grid stays), the one with the most of its stars."""
    if wanted in names:
        return names.index(wanted)
    return int(np.isfinite(catalogue.measured["snr"]).sum(axis=1).argmax())


def _facts(stars: list[str], names: list[str]) -> list[dict[str, Any]]:
    """What SCAN_INPUT says of each frame."""
    found: dict[str, dict[str, Any]] = {}
    for path in stars:
        about, _ = tables.load(path, "star_frame")
        found |= {frame["name"]: frame for frame in about["frames"]}
    return [found.get(name, {}) for name in names]


def fill_in(
    scale: Floats, anchor: int, facts: list[dict[str, Any]], cells: Cells
) -> tuple[Floats, list[str]]:
    """A scale for every frame and channel, and where it is from.

    A channel with too few stars has the scale of the frame's other channels. A frame without stars has the
    ratio of exposures, if both are known; else that of backgrounds, which say something of the exposure but
    little of the transparency, hence limited to a factor of 4; else 1.
    """
    scale = np.where(scale > 0, scale, np.nan)
    exposure = np.array([fact.get("exposure_s") or np.nan for fact in facts], np.float64)
    level = median(cells["background"].reshape(*scale.shape, -1)).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        background = np.where(level > 0, level[anchor] / level, np.nan)
    background = np.where((background > 0) & np.isfinite(background), np.clip(background, 0.25, 4), np.nan)
    origin = []
    for f in range(len(scale)):
        if f == anchor:
            scale[f], source = 1.0, "reference"
        elif np.any(np.isfinite(scale[f])):
            scale[f], source = np.where(np.isfinite(scale[f]), scale[f], np.nanmedian(scale[f])), "stars"
        elif np.isfinite(ratio := exposure[anchor] / exposure[f]):
            scale[f], source = ratio, "exposure"
        elif np.any(np.isfinite(background[f])):
            scale[f], source = np.nanmedian(background[f]), "background"
        else:
            scale[f], source = 1.0, "nothing"
        origin.append(source)
    return scale, origin


def match_background(cells: Cells, scale: Floats, anchor: int) -> tuple[Floats, NDArray[np.int64]]:
    """Coefficients [F, C, 6] of the surfaces that bring every frame's background to the reference's, and the
    number of terms fitted [F]: fewer where few cells or only a strip of the field is covered."""
    background = cells["background"]
    frames, channels, ny, nx = background.shape
    coverage = np.where(np.isfinite(background), cells["coverage"], 0)
    coverage = np.where(coverage >= MINIMUM_COVERAGE, coverage, 0)
    common = (coverage * (coverage[anchor] > 0)).min(axis=1).reshape(frames, ny, nx)
    terms = _terms(common > 0)
    x, y = np.meshgrid(cells.x, cells.y)
    basis = quadratic(x.ravel(), y.ravel(), cells.width, cells.height)
    penalty = np.where(np.arange(6) < terms[:, None], 0.0, np.inf)
    offset = np.zeros((frames, channels, 6))
    for channel in range(channels):
        target = background[anchor, channel]
        for at in range(0, frames, 32):  # a few at a time stay in the processor's cache
            rows = slice(at, at + 32)
            factor = scale[rows, channel].astype(np.float32)[:, None, None]
            difference = (target - factor * background[rows, channel]).reshape(-1, ny * nx)
            weights = common[rows].reshape(-1, ny * nx)
            offset[rows, channel] = fit(basis, difference, weights, penalty[rows])
    offset[anchor] = 0
    offset[terms == 0] = 0
    return offset, terms


def _terms(covered: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many terms the cells [F, ny, nx] of each frame support."""
    count = covered.sum(axis=(1, 2))
    terms = np.zeros(len(covered), np.int64)
    for needed, number in CELLS_FOR_TERMS:
        terms[count >= needed] = number
    span = np.minimum(covered.any(axis=1).mean(axis=1), covered.any(axis=2).mean(axis=1))
    return np.where(span < QUADRATIC_SPAN, np.minimum(terms, 3), terms)
