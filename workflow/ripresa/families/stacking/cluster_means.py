"""The weighted mean of the frames of each cluster, row block by row block."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import bands, tables
from ripresa.families.stacking.bands import (
    Frames,
    Recipe,
    normalise,
    row_terms,
    row_weights,
    weigh,
    windows_of,
)
from ripresa.families.stacking.kernels import kernel
from ripresa.families.stacking.progress import report
from ripresa.families.stacking.rejection import LANES
from ripresa.families.stacking.synthesis import checksums


def compute(
    frames: Frames,
    recipe: Recipe,
    labels: NDArray[np.int64],
    k: int,
    maps: tables.Arrays,
    y0: int,
    y1: int,
    file: IO[bytes],
) -> None:
    """Append the rows y0..y1-1 of the ``k`` synthetic frames to ``file``; ``maps`` as TILE_RECONSTRUCTION
    made them, ``labels`` [F] the cluster of each frame."""
    count, width, channels = len(recipe.names), frames.width, len(frames.channels)
    u = bands.columns(width)
    sums = []
    for_samples, for_result = bands.Scratch(), bands.Scratch()
    for start, end in bands.blocks(y0, y1, (count + 2 * k * channels) * width * 4):
        samples = for_samples(count, end - start, width)
        out = for_result(end - start, k, channels, 2, width)
        at = slice(start - y0, end - y0)
        for c in range(channels):
            for f in range(count):
                frames.rows(f, c, start, end, samples[f])
            _group(
                samples, u, start, frames.height, recipe.of_channel(c, start, end), labels, k,
                (maps["image"][c, at], maps["least"][c, at], maps["most"][c, at]), c, out,
            )  # fmt: skip
        sums.append(checksums(out))
        file.write(out.data)
        report(end - y0, y1 - y0)
    file.write(np.concatenate(sums).tobytes())


@kernel
def _group(
    samples: Any, u: Any, y0: int, height: int, recipe: Any, labels: Any, k: int, maps: Any, c: int, out: Any
) -> None:
    """Average the accepted samples of each cluster, into channel ``c`` of ``out`` [rows, K, C, 2, W]. What is
    summed is relative to the image of all frames."""
    scale, offset, weights, window_x, window_y = recipe
    image, least_map, most_map = maps
    count, rows, width = samples.shape
    terms = np.empty((count, 4), np.float32)
    of_tile = np.empty((count, window_x.shape[0]), np.float32)
    reach = np.empty(window_x.shape[0], np.int64)
    windows = np.empty((window_x.shape[0], LANES), np.float32)
    strip = np.empty(LANES, np.float32)
    w = np.empty(LANES, np.float32)
    base = np.zeros(LANES, np.float32)
    least = np.empty(LANES, np.float32)
    most = np.empty(LANES, np.float32)
    sum_w = np.empty(k * LANES, np.float32)
    sum_wv = np.empty(k * LANES, np.float32)
    for r in range(rows):
        row_terms(scale, offset, y0 + r, height, terms)
        row_weights(weights, window_y, r, of_tile)
        for start in range(0, width, LANES):
            end = min(start + LANES, width)
            reached = windows_of(window_x, start, end, reach, windows)
            for p in range(LANES):
                inside = start + p < width
                base[p] = image[r, start + p] if inside else np.float32(0)
                least[p] = least_map[r, start + p] if inside else np.float32(np.inf)
                most[p] = most_map[r, start + p] if inside else np.float32(-np.inf)
            for i in range(k * LANES):
                sum_w[i] = 0
                sum_wv[i] = 0
            for f in range(count):
                normalise(samples[f, r, start:end], terms[f], u[start:end], strip)
                weigh(of_tile[f], reach, windows, reached, w)
                at = labels[f] * LANES
                _add(strip, w, base, least, most, sum_w[at : at + LANES], sum_wv[at : at + LANES])
            for j in range(k):
                for p in range(end - start):
                    total = sum_w[j * LANES + p]
                    known = total > 0
                    out[r, j, c, 0, start + p] = base[p] + sum_wv[j * LANES + p] / total if known else np.nan
                    out[r, j, c, 1, start + p] = total


@kernel
def _add(values: Any, weights: Any, base: Any, least: Any, most: Any, sum_w: Any, sum_wv: Any) -> None:
    """Add the accepted values of a strip, relative to ``base``, and their weights; both are overwritten."""
    # Several short loops: compilers make vector code of loops over few arrays only.
    for p in range(LANES):
        v = values[p]
        weights[p] = weights[p] if (v >= least[p]) & (v <= most[p]) else np.float32(0)
    for p in range(LANES):
        values[p] = values[p] - base[p] if weights[p] > 0 else np.float32(0)
    for p in range(LANES):
        sum_w[p] += weights[p]
        sum_wv[p] += weights[p] * values[p]
