"""The cells of all registered frames, read together: what CHANNEL_SPLIT measured in small squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ripresa.families.stacking import StackingError, tables
from ripresa.families.stacking.robust import Floats

# More cells along an axis than this are averaged: no surface needs them, and they would fill the memory.
MAXIMUM = 128
_BLOCK = 1 << 24  # bytes


@dataclass(frozen=True)
class Cells:
    """Maps [F, C, ny, nx] of the frames ``names`` (sorted); ``x`` [nx] and ``y`` [ny] are centres in px.

    NaN where a frame has no pixels; ``coverage`` is the fraction of a cell inside the footprint.
    """

    names: list[str]
    channels: list[str]
    width: int
    height: int
    x: Floats
    y: Floats
    maps: dict[str, Floats]

    def __getitem__(self, name: str) -> Floats:
        return self.maps[name]


def read(paths: list[str], *names: str, maximum: int = MAXIMUM) -> Cells:
    """The maps ``names`` and ``coverage`` of cells tables, at most ``maximum`` cells along each axis.

    Memory is that of what is returned and some frames more. Raises StackingError if there is no frame, or if
    the tables are not of one grid.
    """
    frames: list[str] = []
    parts: dict[str, list[Floats]] = {name: [] for name in ("coverage", *names)}
    grids: dict[tuple[Any, ...], str] = {}
    for path in paths:
        about, arrays = tables.load(path, "coverage")
        if not about["frames"]:
            continue
        grid = (about["cell"], about["width"], about["height"], tuple(about["channels"]))
        grids.setdefault(grid, path)
        frames += [frame["name"] for frame in about["frames"]]
        fine = arrays["coverage"]
        factor = _factor(max(fine.shape[-2:]), maximum)
        parts["coverage"].append(_add_up(fine, factor) / _add_up(np.ones_like(fine[:1]), factor))
        for name in names:
            parts[name].append(_read_map(path, name, fine, factor))
    if not frames:
        raise StackingError(
            "no frame could be registered: the status of each is in stacking/registration/*.json; check that "
            "the lights show one field"
        )
    if len(grids) > 1:
        first, second = list(grids.values())[:2]
        raise StackingError(f"{first} and {second} are of different grids: run again from CHANNEL_SPLIT")
    cell, width, height, channels = next(iter(grids))
    order = sorted(range(len(frames)), key=frames.__getitem__)
    maps = {name: np.concatenate(part)[order] for name, part in parts.items()}
    step = cell * _factor(-(-max(width, height) // cell), maximum)
    return Cells(
        [frames[i] for i in order],
        list(channels),
        width,
        height,
        _centres(width, step),
        _centres(height, step),
        maps,
    )


def _centres(length: int, step: int) -> Floats:
    """Centres of cells of ``step`` pixels along an axis; the last one may be cut."""
    start = np.arange(0, length, step)
    return (start + np.minimum(start + step, length) - 1) / 2


def _factor(count: int, maximum: int) -> int:
    return max(1, -(-count // maximum))


def _read_map(path: str, name: str, coverage: Floats, factor: int) -> Floats:
    """One map of one table: factor x factor cells are averaged, weighted by their coverage."""
    parts = []
    at = 0
    with tables.opened(path) as archive:
        for block in tables.pieces(archive, name, _BLOCK):
            parts.append(_average(block, coverage[at : at + len(block)], factor))
            at += len(block)
        return np.concatenate(parts)


def _average(values: Floats, coverage: Floats, factor: int) -> Floats:
    known = (coverage > 0) & np.isfinite(values)
    if factor == 1:
        return np.where(known, values, np.float32(np.nan))
    weight = _add_up(np.where(known, coverage, 0), factor)
    with np.errstate(invalid="ignore"):
        return _add_up(np.where(known, values * coverage, 0), factor) / np.where(weight > 0, weight, np.nan)


def _add_up(values: Floats, factor: int) -> Floats:
    """Sums over factor x factor cells; those at the far borders may have fewer."""
    if factor == 1:
        return values
    rows = np.add.reduceat(values, np.arange(0, values.shape[-2], factor), axis=-2)
    return np.add.reduceat(rows, np.arange(0, values.shape[-1], factor), axis=-1)
