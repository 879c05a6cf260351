"""TILE_GRID: tiles cover the image to its borders, and their windows sum to one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.families.stacking import tables, tiles

lengths = st.integers(1, 3000)
fwhms = st.floats(0.5, 30)


@given(width=lengths, height=lengths, fwhm=fwhms)
@settings(max_examples=200, deadline=None)
def test_windows_sum_to_one_everywhere_and_at_most_two_are_not_zero(width, height, fwhm):
    grid = tiles.plan(width, height, fwhm)
    for axis, length in (("x", width), ("y", height)):
        windows = tiles.windows(grid[axis], grid["size"], grid["overlap"], length)
        assert windows.shape == (len(grid[axis]), length) and windows.dtype == np.float32
        assert np.abs(windows.sum(axis=0, dtype=np.float64) - 1).max() < 1e-6
        assert windows.min() >= 0
        assert (windows > 0).sum(axis=0).max() <= 2
        inside = np.arange(length) - np.array(grid[axis])[:, None]
        assert np.all(windows[(inside < 0) | (inside >= grid["size"])] == 0)


@given(width=lengths, height=lengths, fwhm=fwhms)
@settings(max_examples=200, deadline=None)
def test_tiles_reach_both_borders_and_overlap_by_a_quarter(width, height, fwhm):
    grid = tiles.plan(width, height, fwhm)
    size, overlap = grid["size"], grid["overlap"]
    assert overlap == round(0.25 * size)
    for axis, length in (("x", width), ("y", height)):
        first = np.array(grid[axis])
        assert first[0] == 0 and first[-1] + size == max(size, length) and size <= length
        if len(first) > 1:
            # Rounding to pixels may take one of them.
            assert np.diff(first).min() > 0 and np.diff(first).max() <= size - overlap + 1


@given(length=st.integers(64, 2000), fwhm=fwhms)
@settings(max_examples=100, deadline=None)
def test_windows_blend_smoothly(length, fwhm):
    grid = tiles.plan(length, length, fwhm)
    windows = tiles.windows(grid["x"], grid["size"], grid["overlap"], length)
    # A Hann ramp is nowhere steeper than pi/2 over its width.
    assert np.abs(np.diff(windows, axis=1)).max() <= np.pi / 2 / max(grid["overlap"], 1) + 1e-6


@pytest.mark.parametrize(
    ("width", "height", "fwhm", "size"),
    [
        (1500, 1000, 3.0, 96),
        (1500, 1000, 3.1, 99),
        (1500, 1000, 1.0, 64),
        (1500, 1000, 9.0, 166),
        (650, 500, 3.0, 83),
        (256, 256, 3.0, 64),
        (100, 80, 3.0, 64),
        (100, 40, 3.0, 40),
    ],
)
def test_the_size_of_tiles(width, height, fwhm, size):
    assert tiles.plan(width, height, fwhm)["size"] == size


@pytest.mark.parametrize(
    ("known", "of_reference", "used"), [(3.5, 9.0, 3.5), (None, 2.5, 2.5), (None, None, 3.0)]
)
def test_the_grid_is_that_of_the_reference_and_of_the_frames_sharpness(tmp_path, known, of_reference, used):
    metrics, reference, output = (str(tmp_path / name) for name in ("g.npz", "r.json", "grid.json"))
    tables.save(metrics, {"fwhm_px": known}, quality=np.zeros(3))
    tables.write_json(reference, {"width": 700, "height": 900, "fwhm_px": of_reference})
    tiles.make_grid(metrics, reference, output)
    assert tables.read_json(output) == tiles.plan(700, 900, used)
