"""GLOBAL_METRICS: what each frame is worth as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ripresa.families.stacking import StackingError, celltables, tables
from ripresa.families.stacking.celltables import Cells
from ripresa.families.stacking.robust import Floats, clip_score, median, thinning, zscore

# A cell with this many times the gradient energy that frames usually have there, and that most cells of a
# sharp frame have beside the usual, holds a trail: such a frame is no sharper one.
EXCESS = 2.0
# Cells that a trail crosses are fewer than the rest of this.
MOST = 0.95
# As many frames tell what is usual.
SAMPLE = 64


def measure(
    cells: list[str],
    normalization: str,
    settings: Mapping[str, Any],
    output: str,
) -> None:
    """Write ``output``, arrays [F] for the registered frames sorted by name:

    - ``background`` B, median level; ``noise`` sigma, per pixel; ``energy`` E, mean squared gradient: all in
      the flux units of the reference frame, averaged over channels. B is taken before the offset of
      NORMALIZATION is added, since afterwards all frames have one background;
    - ``fwhm`` and ``r50`` in px of the reference grid, ``eccentricity``, medians of the matched stars (NaN
      without any), ``n_stars`` detected in the frame;
    - ``quality`` Q = a (-z(B)) + b (-z(sigma)) + g z(E), clipped to +-3, and ``weight`` G = exp(Q).

    ``settings["quality"]``: ``background``, ``noise``, ``gradient``, the shares a, b, g.
    """
    shares = settings["quality"]
    check_shares(shares)
    about, normal = tables.load(normalization)
    cell = celltables.read(cells, "background", "noise", "energy")
    background, noise, energy = levels(cell, normal["scale"])
    quality = clip_score(
        shares["background"] * -zscore(background)
        + shares["noise"] * -zscore(noise)
        + shares["gradient"] * zscore(energy)
    )
    elongation = median(normal["star_elongation"])
    tables.save(
        output,
        {"frames": [{"name": name} for name in cell.names], "fwhm_px": _typical(normal["star_fwhm"])},
        background=background,
        noise=noise,
        energy=energy,
        fwhm=median(normal["star_fwhm"]).astype(np.float64),
        r50=median(normal["star_r50"]).astype(np.float64),
        eccentricity=np.sqrt(1 - np.maximum(elongation, 1).astype(np.float64) ** -2),
        n_stars=np.array([frame["stars_detected"] for frame in about["frames"]], np.int32),
        quality=quality,
        weight=np.exp(quality),
    )


def check_shares(shares: Mapping[str, float]) -> None:
    """Raises StackingError unless the three shares of the global quality sum to 1."""
    total = sum(shares[name] for name in ("background", "noise", "gradient"))
    if not math.isclose(total, 1, abs_tol=1e-6):
        raise StackingError(
            f"stacking.quality: background, noise and gradient sum to {total:g}; make them sum to 1"
        )


def levels(cells: Cells, scale: Floats) -> tuple[Floats, Floats, Floats]:
    """Background, noise and gradient energy [F] of flux-calibrated frames, for scale [F, C].

    The energy is a mean over the frame's own cells relative to what frames usually have in those cells, so
    that a frame which covers a poor part of the field does not look dull, nor one with a trail sharp.
    """
    flat = (*scale.shape, -1)
    few = thinning(cells["noise"][0, 0].size)
    level, sigma = (median(cells[name].reshape(flat)[..., ::few]) for name in ("background", "noise"))
    background = np.mean(scale * level, axis=1)
    noise = np.sqrt(np.mean((scale * sigma) ** 2, axis=1))
    gradient = cells["energy"].reshape(flat) * (scale**2).astype(np.float32)[:, :, None]
    typical, capped = without_trails(gradient)
    known = np.isfinite(capped)
    total = np.sum(np.where(known, capped, 0), axis=-1, dtype=float)
    expected = np.sum(np.where(known, typical, 0), axis=-1, dtype=float)
    mean = np.array([np.mean(row[np.isfinite(row)]) if np.isfinite(row).any() else 0.0 for row in typical])
    with np.errstate(divide="ignore", invalid="ignore"):
        energy = np.where(expected > 0, mean * total / expected, np.nan)
    return background, noise, np.mean(energy, axis=1)


def without_trails(energy: Floats) -> tuple[Floats, Floats]:
    """What frames usually have, [C, n], of the gradient energy [F, C, n] of cells; and the energy with no
    cell far above that. A sharp frame may be far above it in many cells."""
    typical = median(energy[:: max(1, len(energy) // SAMPLE)], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sort((energy / typical)[..., :: thinning(energy.shape[-1])], axis=-1)
    place = MOST * np.maximum(np.sum(~np.isnan(ratio), axis=-1, keepdims=True) - 1, 0)
    most = np.take_along_axis(ratio, place.astype(np.intp), -1)
    return typical, np.minimum(energy, np.float32(EXCESS) * np.fmax(most, 1) * typical)


def _typical(fwhm: Floats) -> float | None:
    """The median over frames of their FWHM."""
    value = float(median(median(fwhm)))
    return value if math.isfinite(value) else None
