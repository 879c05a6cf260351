"""SYNTHETIC_FRAMES: the frames of each cluster as one frame and one map of weights."""

from __future__ import annotations

from typing import IO

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import StackingError, tables
from ripresa.families.stacking.progress import report


def synthesize(
    registered: list[str],
    cells: list[str],
    normalization: str,
    tile_grid: str,
    local_metrics: str,
    clusters: str,
    reconstruction: str,
    band: tuple[int, int],
    output: str,
) -> None:
    """Write the synthetic frames of a band, of which ``reconstruction`` is the table, as a ``.npy`` file.

    float32 [rows, K, C, 2, W]: per cluster sum w v / sum w (NaN where it has nothing) and sum w, over the
    values that TILE_RECONSTRUCTION accepted. Behind them a checksum of every row, uint32 [rows]. In reduced
    mode K is 0, and no frame is read.
    """
    groups = tables.read_json(clusters)
    k = int(groups["k"])
    if k == 0:
        about, _ = tables.load(reconstruction, "sky_x")
        rows = about["y1"] - about["y0"]
        shape = (rows, 0, len(about["channels"]), 2, tables.read_json(tile_grid)["width"])
        with open(output, "wb") as file:
            _begin(file, shape)
            file.write(checksums(np.empty(shape, np.float32)).tobytes())
        report(rows, rows)
        return
    # Reduced mode can do without them.
    from ripresa.families.stacking import bands
    from ripresa.families.stacking.cluster_means import compute
    from ripresa.families.stacking.registered import Reader

    about, maps = tables.load(reconstruction, "image", "least", "most")
    y0, y1 = about["y0"], about["y1"]
    names = [frame["name"] for frame in about["frames"]]
    with Reader(registered, cells) as frames, open(output, "wb") as file:
        recipe = bands.recipe(frames, normalization, tile_grid, local_metrics)
        if bands.rows_of(frames.height, band) != (y0, y1) or names != recipe.names:
            raise StackingError(
                f"{reconstruction} is not of these frames and rows: run again from TILE_RECONSTRUCTION"
            )
        labels = np.array([groups["labels"].get(name, -1) for name in names], np.int64)
        if labels.min() < 0 or labels.max() >= k:
            raise StackingError(f"{clusters} does not hold all frames: run again from STATE_CLUSTERING")
        _begin(file, (y1 - y0, k, len(about["channels"]), 2, frames.width))
        compute(frames, recipe, labels, k, maps, y0, y1, file)


def _begin(file: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def checksums(rows: NDArray[np.float32]) -> NDArray[np.uint32]:
    """The sum of the 32-bit words of each of ``rows`` [rows, ...], modulo 2^32."""
    words = rows.view(np.uint32).reshape(len(rows), rows[:1].size)
    return np.add.reduce(words, axis=1, dtype=np.uint32)
