"""TILE_GRID: overlapping square tiles over the grid of the stack, and the windows that blend them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ripresa.families.stacking import tables
from ripresa.families.stacking.robust import Floats

TILE_PER_FWHM = 32
SMALLEST = 64
# At least as many tiles fit along the shorter side, if that makes them no smaller than the smallest.
FEWEST = 6
OVERLAP = 0.25
# Where no star was measured.
DEFAULT_FWHM = 3.0


def make_grid(global_metrics: str, reference: str, output: str) -> None:
    """Write the grid as JSON: tile size and overlap in px, first pixels of the tiles along x and y, width,
    height, and the FWHM it was made for."""
    about, _ = tables.load(global_metrics, "quality")
    frame = tables.read_json(reference)
    fwhm = about["fwhm_px"] or frame.get("fwhm_px") or DEFAULT_FWHM
    tables.write_json(output, plan(frame["width"], frame["height"], fwhm))


def plan(width: int, height: int, fwhm: float) -> dict[str, Any]:
    """Tiles for an image: T = floor(clip(32 FWHM, 64, min(W, H)/6)); where the image is too small for that,
    64 px, and never more than the image has. They overlap evenly by T/4 or more and reach both borders."""
    shorter = min(width, height)
    size = min(shorter, math.floor(min(max(TILE_PER_FWHM * fwhm, SMALLEST), max(SMALLEST, shorter / FEWEST))))
    overlap = round(OVERLAP * size)
    return {
        "size": size,
        "overlap": overlap,
        "x": starts(width, size, overlap),
        "y": starts(height, size, overlap),
        "width": width,
        "height": height,
        "fwhm_px": fwhm,
    }


def starts(length: int, size: int, overlap: int) -> list[int]:
    """First pixels of as few tiles as cover ``length`` with at least ``overlap``, from border to border."""
    if length <= size:
        return [0]
    count = math.ceil((length - overlap) / (size - overlap))
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def profile(first: Sequence[int], size: int, overlap: int, position: Floats) -> Floats:
    """The windows [n_tiles, n] of tiles along one axis at pixel positions [n].

    Neighbours pass into each other by a Hann ramp ``overlap`` wide in the middle of what they share; every
    window is the difference of two such steps, so they sum to one at every position, whatever it is.
    """
    begin = np.asarray(first, np.float64)
    middle = (begin[1:] + begin[:-1] + size - 1) / 2
    inside = (np.asarray(position, np.float64) - middle[:, None]) / max(overlap, 1) + 0.5
    step = np.sin(np.pi / 2 * np.clip(inside, 0, 1)) ** 2
    rows = np.ones((1, np.shape(position)[0]))
    return np.concatenate([rows, step]) - np.concatenate([step, 0 * rows])


def windows(first: Sequence[int], size: int, overlap: int, length: int) -> Floats:
    """The windows [n_tiles, length] at every pixel of an axis: they sum to one; at most two are not zero."""
    return profile(first, size, overlap, np.arange(length, dtype=np.float64)).astype(np.float32)


def centres(first: Sequence[int], size: int) -> Floats:
    """Centres of the tiles along one axis, px."""
    return np.asarray(first, np.float64) + (size - 1) / 2
