"""What the phases that compute pixels share: bands of rows, normalised samples, weights that vary over x, y.

A band is a range of rows that one job computes, a block some rows of it that fit into memory, a strip
``LANES`` pixels of one row. What comes out for a pixel depends on none of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import StackingError, tables, tiles
from ripresa.families.stacking.kernels import kernel
from ripresa.families.stacking.rejection import LANES

Floats = NDArray[np.float32]

BLOCK_BYTES = 24 << 20


class Frames(Protocol):
    """Registered frames on one grid, as `registered.Reader` gives them."""

    @property
    def frames(self) -> Sequence[str]:
        """Names, sorted."""

    @property
    def channels(self) -> Sequence[str]: ...

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    def rows(self, i: int, channel: int, y0: int, y1: int, out: Floats) -> Any:
        """Rows y0..y1-1 of a frame and channel into ``out`` [y1 - y0, width], NaN where there is nothing."""


def rows_of(height: int, band: tuple[int, int]) -> tuple[int, int]:
    """First row and end of band ``i`` of ``n``, i from 1."""
    i, n = band
    if not 1 <= i <= n:
        raise ValueError(f"band {i} of {n}")
    return height * (i - 1) // n, height * i // n


def blocks(y0: int, y1: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of which each takes at most ``BLOCK_BYTES``, but one row at least."""
    step = max(1, BLOCK_BYTES // max(row_bytes, 1))
    for start in range(y0, y1, step):
        yield start, min(start + step, y1)


class Scratch:
    """Memory for one array after the other: fresh pages for each block cost as much as reading it."""

    def __init__(self) -> None:
        self._words = np.empty(0, np.float32)

    def __call__(self, *shape: int) -> Floats:
        """An array of this shape, in the place of the one before; what is in it is not defined."""
        size = math.prod(shape)
        if self._words.size < size:
            self._words = np.empty(size, np.float32)
        return self._words[:size].reshape(shape)


@dataclass(frozen=True)
class Recipe:
    """How samples of the frames ``names`` [F] are brought to one scale and weighted.

    ``scale`` float32 [F, C], ``offset`` float64 [F, C, 6] (see NORMALIZATION), ``weights`` float32
    [F, C, ty, tx] per tile, ``noise`` float32 [C, ty, tx] (median over the frames, normalised units),
    ``window_x`` float32 [tx, W], ``window_y`` float32 [ty, H].
    """

    names: list[str]
    scale: Floats
    offset: NDArray[np.float64]
    weights: Floats
    noise: Floats
    window_x: Floats
    window_y: Floats

    def of_channel(self, c: int, y0: int, y1: int) -> tuple[Any, ...]:
        """The arguments of `normalise` and `weigh` for the rows y0..y1-1 of a channel."""
        return (
            np.ascontiguousarray(self.scale[:, c]),
            np.ascontiguousarray(self.offset[:, c]),
            np.ascontiguousarray(self.weights[:, c]),
            self.window_x,
            np.ascontiguousarray(self.window_y[:, y0:y1]),
        )


def recipe(frames: Frames, normalization: str, tile_grid: str, local_metrics: str) -> Recipe:
    """Gather what NORMALIZATION, TILE_GRID and LOCAL_METRICS say about the frames.

    Raises StackingError where they are not of the same frames or not finite.
    """
    about, of_frames = tables.load(normalization, "scale", "offset")
    where, of_tiles = tables.load(local_metrics, "weights", "noise")
    grid = tables.read_json(tile_grid)
    names = [frame["name"] for frame in where["frames"]]
    if names != list(frames.frames) or names != [frame["name"] for frame in about["frames"]]:
        raise StackingError(
            f"{local_metrics} and {normalization} are not of the registered frames: run again "
            "from NORMALIZATION"
        )
    if (grid["width"], grid["height"]) != (frames.width, frames.height):
        raise StackingError(f"{tile_grid} is not of the registered frames: run again from TILE_GRID")
    weights = of_tiles["weights"].astype(np.float32)
    for path, values in ((local_metrics, weights), (normalization, of_frames["scale"])):
        if not np.isfinite(values).all() or (values < 0).any():
            raise StackingError(f"{path} holds values that are no weights or scales: run its phase again")
    return Recipe(
        names,
        of_frames["scale"].astype(np.float32),
        of_frames["offset"].astype(np.float64),
        weights,
        _median_noise(of_tiles["noise"]),
        np.ascontiguousarray(
            tiles.windows(grid["x"], grid["size"], grid["overlap"], grid["width"]), np.float32
        ),
        np.ascontiguousarray(
            tiles.windows(grid["y"], grid["size"], grid["overlap"], grid["height"]), np.float32
        ),
    )


def _median_noise(noise: NDArray[Any]) -> Floats:
    """The median over the frames [F, ...] of what is known; 0 where nothing is."""
    known = np.isfinite(noise) & (noise > 0)
    count = known.sum(axis=0)
    ordered = np.sort(np.where(known, noise, np.inf), axis=0)
    middle = np.take_along_axis(ordered, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    return np.where(count > 0, middle, 0).astype(np.float32)


def columns(width: int) -> Floats:
    """u = 2 x / (W - 1) - 1 for every column."""
    return (2 * np.arange(width) / max(width - 1, 1) - (1 if width > 1 else 0)).astype(np.float32)


@kernel
def row_terms(scale: Any, offset: Any, y: int, height: int, out: Any) -> None:
    """Per frame the numbers (a, c0, c1, c2) of row ``y``: normalised = a I + c0 + u (c1 + u c2), into ``out``
    (float32 [F, 4]); u runs from -1 to 1 along x."""
    v = 2.0 * y / (height - 1) - 1.0 if height > 1 else 0.0
    for f in range(scale.size):
        out[f, 0] = scale[f]
        out[f, 1] = offset[f, 0] + offset[f, 2] * v + offset[f, 5] * v * v
        out[f, 2] = offset[f, 1] + offset[f, 4] * v
        out[f, 3] = offset[f, 3]


@kernel
def row_weights(weights: Any, window_y: Any, r: int, out: Any) -> None:
    """Per frame the weight of each column of tiles in row ``r`` of ``window_y`` [ty, rows], into ``out``
    (float32 [F, tx])."""
    frames, high, wide = weights.shape
    for f in range(frames):
        for t in range(wide):
            total = np.float32(0)
            for s in range(high):
                if window_y[s, r] > 0:
                    total += window_y[s, r] * weights[f, s, t]
            out[f, t] = total


@kernel
def normalise(samples: Any, terms: Any, u: Any, out: Any) -> None:
    """The normalised ``samples`` of a strip of one frame into ``out`` [LANES]; inf where there is none.

    ``samples`` and ``u`` are as long as the strip, LANES or less at the end of a row.
    """
    a = terms[0]
    c0 = terms[1]
    c1 = terms[2]
    c2 = terms[3]
    infinity = np.float32(np.inf)
    for p in range(samples.size):
        v = a * samples[p] + (c0 + u[p] * (c1 + u[p] * c2))
        out[p] = v if v < infinity else infinity
    for p in range(samples.size, LANES):
        out[p] = infinity


@kernel
def windows_of(window_x: Any, start: int, end: int, reach: Any, windows: Any) -> int:
    """The windows that reach into the strip start..end-1: their tiles into ``reach``, their values into
    ``windows`` [tx, LANES] (0 beyond the strip); how many they are."""
    count = 0
    for t in range(window_x.shape[0]):
        inside = False
        for p in range(LANES):
            value = window_x[t, start + p] if start + p < end else np.float32(0)
            windows[count, p] = value
            if value > 0:
                inside = True
        if inside:
            reach[count] = t
            count += 1
    return count


@kernel
def weigh(of_tile: Any, reach: Any, windows: Any, count: int, out: Any) -> None:
    """The weights of one frame in a strip: sum over tiles of window * weight, into ``out`` [LANES]."""
    weight = of_tile[reach[0]] if count else np.float32(0)
    window = windows[0]
    for p in range(LANES):
        out[p] = weight * window[p]
    for k in range(1, count):
        weight = of_tile[reach[k]]
        window = windows[k]
        for p in range(LANES):
            out[p] += weight * window[p]


@kernel
def blend(of_tile: Any, window_x: Any, window_y: Any, out: Any) -> None:
    """A map of tiles [ty, tx] as a smooth map, into ``out`` [rows, W]; ``window_y`` [ty, rows]."""
    high, wide = of_tile.shape
    rows, width = out.shape
    of_row = np.empty((1, wide), np.float32)
    for r in range(rows):
        row_weights(of_tile.reshape((1, high, wide)), window_y, r, of_row)
        for x in range(width):
            out[r, x] = 0
        for t in range(wide):
            for x in range(width):
                out[r, x] += of_row[0, t] * window_x[t, x]
