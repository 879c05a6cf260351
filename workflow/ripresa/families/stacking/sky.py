"""The background under the stars of the normalised frames: what is above it is signal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import celltables, robust, tables
from ripresa.families.stacking.kernels import kernel

# The background under a pixel is the lower quartile of this many cells around it squared, so that a star of
# the size of a cell is not taken for background.
_AROUND = 5


class Background:
    """The level of the sky, and of what is smooth, given at cell centres ``x`` and ``y`` as [C, ny, nx]."""

    def __init__(self, values: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> None:
        self.values = np.ascontiguousarray(values, np.float64)
        self.x = np.ascontiguousarray(x, np.float64)
        self.y = np.ascontiguousarray(y, np.float64)

    def rows(self, channel: int, y0: int, y1: int, width: int) -> NDArray[np.float32]:
        """Interpolated to the pixels of the rows y0..y1-1."""
        out = np.empty((y1 - y0, width), np.float32)
        _interpolate(self.values[channel], self.x, self.y, y0, out)
        return out


def background(cells: list[str], normalization: str) -> Background:
    """The background under the stars of the normalised frames: per cell the median over the frames, of which
    the lower quartile of a neighbourhood is taken."""
    table = celltables.read(cells, "background")
    _, arrays = tables.load(normalization, "scale", "offset")
    grid_x, grid_y = np.meshgrid(table.x, table.y)
    basis = robust.quadratic(grid_x.ravel(), grid_y.ravel(), table.width, table.height)
    values = table["background"]
    for f in range(len(values)):
        surface = (arrays["offset"][f] @ basis.T).reshape(values.shape[1:])
        values[f] = arrays["scale"][f][:, None, None] * values[f] + surface
    middle = robust.median(values, axis=0).astype(np.float64)
    return Background(np.stack([_lower_quartile(channel) for channel in middle]), table.x, table.y)


def _lower_quartile(values: NDArray[np.float64]) -> NDArray[np.float64]:
    half = _AROUND // 2
    ny, nx = values.shape
    padded = np.pad(values, half, constant_values=np.nan)
    around = np.stack([padded[j : j + ny, i : i + nx] for j in range(_AROUND) for i in range(_AROUND)], -1)
    ordered = np.sort(around, axis=-1)  # NaN last
    known = np.isfinite(ordered).sum(axis=-1)
    quartile = np.take_along_axis(ordered, np.maximum(known - 1, 0)[..., None] // 4, axis=-1)[..., 0]
    # Where nothing is known there are hardly any pixels: what is taken there must only be finite.
    typical = np.median(quartile[known > 0]) if known.any() else 0.0
    return np.where(known > 0, quartile, typical)


@kernel
def _interpolate(values: Any, x: Any, y: Any, y0: int, out: Any) -> None:
    """Bilinear interpolation of ``values`` [ny, nx] given at ``x`` [nx] and ``y`` [ny], into the rows of
    ``out`` [rows, W] from row ``y0`` on; constant beyond the outermost points."""
    rows, width = out.shape
    nx = x.size
    ny = y.size
    j = 0
    for r in range(rows):
        while j + 1 < ny - 1 and y[j + 1] <= y0 + r:
            j += 1
        below = min(j + 1, ny - 1)
        fy = 0.0 if below == j else min(1.0, max(0.0, (y0 + r - y[j]) / (y[below] - y[j])))
        i = 0
        for c in range(width):
            while i + 1 < nx - 1 and x[i + 1] <= c:
                i += 1
            right = min(i + 1, nx - 1)
            fx = 0.0 if right == i else min(1.0, max(0.0, (c - x[i]) / (x[right] - x[i])))
            top = (1.0 - fx) * values[j, i] + fx * values[j, right]
            bottom = (1.0 - fx) * values[below, i] + fx * values[below, right]
            out[r, c] = (1.0 - fy) * top + fy * bottom
