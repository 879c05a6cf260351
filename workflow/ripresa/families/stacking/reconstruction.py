"""TILE_RECONSTRUCTION: every pixel as the weighted mean of what is accepted there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ripresa.families.stacking import bands, robust, tables
from ripresa.families.stacking.bands import (
    Floats,
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
from ripresa.families.stacking.rejection import LANES, SLACK, accepted_interval, median_of, number, sort_lanes
from ripresa.families.stacking.sky import Background, background

# Below this sum of weights (they are around 1) the unweighted mean is taken.
LEAST_WEIGHT = 1e-6
# Shares of frames are summed in units of 2^-24: such sums are exact, hence the same for any bands.
_UNIT = 16777216.0
_FRAMES_FOR_SHARE = 5
_ROWS_FOR_SHARE = 8


def reconstruct(
    registered: list[str],
    cells: list[str],
    normalization: str,
    tile_grid: str,
    local_metrics: str,
    settings: Mapping[str, Any],
    band: tuple[int, int],
    output: str,
) -> None:
    """Write ``output`` for the rows y0..y1-1 of ``band`` (i of n, i from 1); ``settings``: ``rejection``.

    Maps [C, rows, W]:

    - ``image`` float32: sum w v / sum w over the accepted values v of the frames, NaN where no frame is;
    - ``weight`` float32: sum w; ``weight2`` float32: sum w^2;
    - ``coverage`` uint16: frames that have the pixel; ``rejected`` uint16: those of them rejected;
    - ``flagged`` bool: sum w is below ``LEAST_WEIGHT``, the image is the unweighted mean;
    - ``least``, ``most`` float32: the interval of accepted values; SYNTHETIC_FRAMES applies it again.

    Per frame: ``reject_counts`` int64 [F, C] and ``frame_weight`` float64 [F, C], the sum over the pixels of
    w / sum w. The `Background` that was used: ``sky`` [C, ny, nx], ``sky_x``, ``sky_y``. ``about``: y0, y1,
    channels, frames (each with its name), band.
    """
    from ripresa.families.stacking.registered import Reader

    with Reader(registered, cells) as frames:
        y0, y1 = bands.rows_of(frames.height, band)
        recipe = bands.recipe(frames, normalization, tile_grid, local_metrics)
        sky = background(cells, normalization)
        recipe = replace(recipe, noise=recipe.noise * resampled_share(frames, recipe)[:, None, None])
        arrays = compute(frames, recipe, sky, settings["rejection"], y0, y1)
    about = {
        "y0": y0,
        "y1": y1,
        "band": list(band),
        "channels": list(frames.channels),
        "frames": [{"name": name} for name in recipe.names],
    }
    tables.save(output, about, sky=sky.values, sky_x=sky.x, sky_y=sky.y, **arrays)


def resampled_share(frames: Frames, recipe: Recipe) -> Floats:
    """Per channel the scatter of the frames about their median in units of the noise of their raw pixels, at
    most 1: resampling averages neighbours, most of all where a colour is interpolated.

    From some rows of the whole image, the same ones whatever the band; 1 for fewer than 5 frames.
    """
    count, width, height = len(recipe.names), frames.width, frames.height
    share = np.ones(len(frames.channels), np.float32)
    if count < _FRAMES_FOR_SHARE:
        return share
    x = np.arange(width, dtype=np.float64)
    row = np.empty((1, width), np.float32)
    noise = np.empty((1, width), np.float32)
    values = np.empty((count, width), np.float32)
    for c in range(len(share)):
        found = []
        for y in ((2 * np.arange(_ROWS_FOR_SHARE) + 1) * height // (2 * _ROWS_FOR_SHARE)).tolist():
            basis = robust.quadratic(x, np.full(width, float(y)), width, height)
            for f in range(count):
                frames.rows(f, c, y, y + 1, row)
                values[f] = recipe.scale[f, c] * row[0] + basis @ recipe.offset[f, c]
            bands.blend(recipe.noise[c], recipe.window_x, recipe.of_channel(c, y, y + 1)[-1], noise)
            known = noise[0] > 0
            deviation = np.abs(values - robust.median(values, axis=0))
            found.append((deviation[:, known] / noise[0, known]).ravel())
        sample = np.concatenate(found)
        sample = sample[np.isfinite(sample)]
        if sample.size:
            share[c] = min(1.0, robust.MAD_TO_SIGMA * np.median(sample) / math.sqrt(1 - 1 / count))
    return share


def compute(
    frames: Frames,
    recipe: Recipe,
    below: Background,
    rejection: Mapping[str, Any],
    y0: int,
    y1: int,
    slack: float = SLACK,
) -> tables.Arrays:
    """The maps and sums of `reconstruct` for the rows y0..y1-1."""
    count, width, channels = len(recipe.names), frames.width, len(frames.channels)
    shape = (channels, y1 - y0, width)
    out: tables.Arrays = {
        name: np.empty(shape, np.float32) for name in ("image", "weight", "weight2", "least", "most")
    }
    out["coverage"] = np.empty(shape, np.uint16)
    out["rejected"] = np.empty(shape, np.uint16)
    out["flagged"] = np.empty(shape, np.bool_)
    rejections = np.zeros((channels, count), np.int64)
    shares = np.zeros((channels, count), np.float64)
    method, low, high = number(rejection["method"]), float(rejection["low"]), float(rejection["high"])
    u = bands.columns(width)
    for_samples, for_noise = bands.Scratch(), bands.Scratch()
    for start, end in bands.blocks(y0, y1, count * width * 4):
        samples = for_samples(count, end - start, width)
        noise = for_noise(end - start, width)
        at = slice(start - y0, end - y0)
        for c in range(channels):
            for f in range(count):
                frames.rows(f, c, start, end, samples[f])
            how = recipe.of_channel(c, start, end)
            bands.blend(recipe.noise[c], recipe.window_x, how[-1], noise)
            level = below.rows(c, start, end, width)
            maps = tuple(out[name][c, at] for name in _MAPS)
            _combine(
                samples, u, start, frames.height, how, noise, level, method, low, high, float(slack), maps,
                rejections[c], shares[c],
            )  # fmt: skip
        report(end - y0, y1 - y0)
    out["reject_counts"] = np.ascontiguousarray(rejections.T)
    out["frame_weight"] = np.ascontiguousarray(shares.T)
    return out


_MAPS = ("image", "weight", "weight2", "least", "most", "coverage", "rejected", "flagged")


@kernel
def _combine(
    samples: Any,
    u: Any,
    y0: int,
    height: int,
    recipe: Any,
    noise: Any,
    background: Any,
    method: int,
    low: float,
    high: float,
    slack: float,
    maps: Any,
    rejections: Any,
    shares: Any,
) -> None:
    """Reject and average ``samples`` [F, rows, W] strip by strip, into ``maps``; add to ``rejections`` and
    ``shares`` [F]."""
    scale, offset, weights, window_x, window_y = recipe
    count, rows, width = samples.shape
    terms = np.empty((count, 4), np.float32)
    of_tile = np.empty((count, window_x.shape[0]), np.float32)
    values = np.empty(count * LANES, np.float32)
    ordered = np.empty(count * LANES, np.float32)
    share = np.empty(count * LANES, np.float32)
    reach = np.empty(window_x.shape[0], np.int64)
    windows = np.empty((window_x.shape[0], LANES), np.float32)
    limits = np.empty((4, LANES), np.float32)
    sums = np.empty((5, LANES), np.float32)
    for r in range(rows):
        row_terms(scale, offset, y0 + r, height, terms)
        row_weights(weights, window_y, r, of_tile)
        for i in range(count * LANES):
            share[i] = 0
        for start in range(0, width, LANES):
            end = min(start + LANES, width)
            for f in range(count):
                strip = values[f * LANES : (f + 1) * LANES]
                normalise(samples[f, r, start:end], terms[f], u[start:end], strip)
            for i in range(count * LANES):
                ordered[i] = values[i]
            sort_lanes(ordered, count)
            _limits(
                ordered, count, end - start, method, low, high, slack,
                noise[r, start:end], background[r, start:end], limits,
            )  # fmt: skip
            known = windows_of(window_x, start, end, reach, windows)
            accepted = ordered  # no longer needed: takes the accepted weights
            for f in range(count):
                strip = values[f * LANES : (f + 1) * LANES]
                weighed = accepted[f * LANES : (f + 1) * LANES]
                weigh(of_tile[f], reach, windows, known, weighed)
            _sums(values, count, limits, accepted, sums)
            _store(values, count, limits, sums, accepted, r, start, end, maps)
            for f in range(count):
                strip = values[f * LANES : (f + 1) * LANES]
                rejections[f] += _lost(strip, limits)
                _add_products(
                    accepted[f * LANES : (f + 1) * LANES], sums[0], share[f * LANES : (f + 1) * LANES]
                )
        for f in range(count):
            total = 0.0
            for p in range(LANES):
                total += np.float64(share[f * LANES + p])
            shares[f] += math.floor(total * _UNIT + 0.5) / _UNIT


@kernel
def _limits(
    ordered: Any,
    count: int,
    used: int,
    method: int,
    low: float,
    high: float,
    slack: float,
    noise: Any,
    background: Any,
    out: Any,
) -> None:
    """Of each lane the median, the accepted interval and the number of values, into ``out`` [4, LANES]."""
    for p in range(LANES):
        left = 0  # the number of values: those there are not are inf
        right = count
        while left < right:
            half = (left + right) // 2
            if ordered[half * LANES + p] < np.inf:
                left = half + 1
            else:
                right = half
        out[0, p] = 0
        out[1, p] = np.inf
        out[2, p] = -np.inf
        out[3, p] = left
        if left > 0 and p < used:
            sigma = np.float64(noise[p])
            sky = np.float64(background[p])
            least, most = accepted_interval(ordered, p, left, method, low, high, sigma, sky, slack)
            out[0, p] = median_of(ordered, p, 0, left)
            out[1, p] = least
            out[2, p] = most


@kernel
def _sums(values: Any, count: int, limits: Any, weights: Any, out: Any) -> None:
    """Into ``out`` [5, LANES]: sum w, sum w^2, sum w v, sum v and the number of the accepted values v;
    ``weights`` are set to 0 where values are not accepted.

    Values are relative to their median: float32 then keeps the mean to far below the noise, and equal values
    give that very value.
    """
    middle = limits[0]
    least = limits[1]
    most = limits[2]
    sum_w = out[0]
    sum_w2 = out[1]
    sum_wv = out[2]
    sum_v = out[3]
    number = out[4]
    one = np.empty(LANES, np.float32)
    d = np.empty(LANES, np.float32)
    for k in range(5):
        for p in range(LANES):
            out[k, p] = 0
    # Several short loops: compilers make vector code of loops over few arrays only.
    for f in range(count):
        strip = values[f * LANES : (f + 1) * LANES]
        w = weights[f * LANES : (f + 1) * LANES]
        for p in range(LANES):
            v = strip[p]
            one[p] = np.float32(1) if (v >= least[p]) & (v <= most[p]) else np.float32(0)
        for p in range(LANES):
            d[p] = strip[p] - middle[p] if one[p] > 0 else np.float32(0)
            w[p] = w[p] * one[p]
        for p in range(LANES):
            sum_v[p] += d[p]
            sum_wv[p] += w[p] * d[p]
        for p in range(LANES):
            sum_w[p] += w[p]
            sum_w2[p] += w[p] * w[p]
        for p in range(LANES):
            number[p] += one[p]


@kernel
def _store(
    values: Any, count: int, limits: Any, sums: Any, weights: Any, r: int, start: int, end: int, maps: Any
) -> None:
    """What the sums of a strip amount to, into the ``maps``; then ``sums[0]`` is the factor that makes shares
    of the ``weights``."""
    image, weight, weight2, least_map, most_map, coverage, rejected, flagged = maps
    for p in range(LANES):
        n = sums[4, p]
        total = sums[0, p]
        plain = n > 0 and not total >= LEAST_WEIGHT
        if p < end - start:
            x = start + p
            if n == 0:
                image[r, x] = np.nan
            elif plain:
                image[r, x] = limits[0, p] + sums[3, p] / n
            else:
                image[r, x] = limits[0, p] + sums[2, p] / total
            weight[r, x] = total
            weight2[r, x] = sums[1, p]
            least_map[r, x] = limits[1, p]
            most_map[r, x] = limits[2, p]
            coverage[r, x] = int(limits[3, p])
            rejected[r, x] = int(limits[3, p] - n)
            flagged[r, x] = plain
        if plain:
            for f in range(count):
                v = values[f * LANES + p]
                good = (v >= limits[1, p]) & (v <= limits[2, p])
                weights[f * LANES + p] = np.float32(1) if good else np.float32(0)
            total = n
        sums[0, p] = np.float32(1) / total if n > 0 else np.float32(0)


@kernel(fastmath={"reassoc", "nsz"})
def _lost(values: Any, limits: Any) -> Any:
    """How many of the values of a strip are not accepted. (Small integers: the order of the sum is free.)"""
    infinity = np.float32(np.inf)
    least = limits[1]
    most = limits[2]
    total = np.float32(0)
    for p in range(LANES):
        v = values[p]
        lost = (v < infinity) & ((v < least[p]) | (v > most[p]))
        total += np.float32(1) if lost else np.float32(0)
    return total


@kernel
def _add_products(a: Any, b: Any, out: Any) -> None:
    for p in range(LANES):
        out[p] += a[p] * b[p]
