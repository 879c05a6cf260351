"""Cells: levels and noise that stars, shifts and borders do not change; the phase that writes them."""

import json

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.families.stacking import cells, channels, tables
from ripresa.families.stacking.frames import pixel_sum
from ripresa.families.stacking.registered import Reader
from ripresa.families.stacking.resampling import Resampler

H, W = 200, 230
SETTINGS = {"registration": {"interpolation": "lanczos3"}}


def sky(seed, level=800.0, noise=30.0, shape=(H, W)):
    return np.random.default_rng(seed).normal(level, noise, shape).astype(np.float32)


def with_stars(image, count, seed=5):
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[-15:16, -15:16]
    out = image.copy()
    height, width = image.shape
    for _ in range(count):
        y, x = rng.integers(15, height - 15), rng.integers(15, width - 15)
        peak = 10 ** rng.uniform(2, 4.7)
        out[y - 15 : y + 16, x - 15 : x + 16] += peak * (1 + (xx**2 + yy**2) / 6) ** -3.0
    return out


def test_background_follows_a_gradient_and_overlooks_stars():
    slope = np.linspace(0, 300, W, dtype=np.float32)
    found = cells.measure(with_stars(sky(1) + slope, 60)).background
    x = np.minimum(np.arange(found.shape[1]) * 16 + 15.5, W) / 2 + np.arange(found.shape[1]) * 8 - 0.25
    errors = found - (800 + 300 * x / (W - 1))
    assert np.median(errors) == pytest.approx(0, abs=3)
    assert np.mean(np.abs(errors) < 15) > 0.9


def test_background_of_plain_noise_is_unbiased():
    found = cells.measure(sky(2, shape=(640, 640))).background
    assert found.mean() == pytest.approx(800, abs=0.3)
    assert found.std() < 4


@given(level=st.floats(-1e4, 6e4))
@settings(max_examples=20, deadline=None)
def test_flat_images_have_their_level_and_no_noise(level):
    image = np.full((40, 50), level, np.float32)
    found = cells.measure(image)
    np.testing.assert_allclose(found.background, np.float32(level), rtol=1e-6)
    assert not found.energy.any() and (found.coverage == 1).all()
    assert (found.low, found.high) == (np.float32(level), np.float32(level))
    assert not cells.raw_noise(image).any()


def test_energy_of_a_ramp_is_its_slope_squared():
    y, x = np.mgrid[:H, :W].astype(np.float32)
    np.testing.assert_allclose(cells.measure(3 * x - 4 * y).energy, 25, rtol=1e-4)


def test_cells_outside_the_footprint_are_nan_and_cut_ones_count_what_they_have():
    image = sky(3)
    image[:, :40] = np.nan
    image[0:16, 48:64] = np.nan
    image[5, 55] = 801
    found = cells.measure(image)
    assert np.isnan(found.background[:, :2]).all() and (found.coverage[:, :2] == 0).all()
    assert (found.coverage[1:, 2] == 0.5).all()
    assert np.isfinite(found.background[1:, 2:]).all() and np.isfinite(found.energy[1:, 2:]).all()
    assert found.coverage[0, 3] == pytest.approx(1 / 256)
    assert found.background[0, 3] == pytest.approx(801)
    assert found.low == np.nanmin(image) and found.high == np.nanmax(image)


@pytest.mark.parametrize("stars", [0, 60])
def test_noise_overlooks_stars_and_gradients(stars):
    slope = np.linspace(0, 3000, W, dtype=np.float32)
    noise = cells.raw_noise(with_stars(sky(4) + slope, stars))
    assert np.median(noise) == pytest.approx(30, rel=0.03)
    carried = cells.carry(noise, np.eye(2, 3), np.ones_like(noise))
    assert np.mean(np.abs(carried / 30 - 1) < 0.15) > 0.95


def test_noise_does_not_depend_on_the_shift_and_goes_where_its_pixels_go():
    """Resampled noise shrinks with the sub-pixel shift; what is carried over must not."""
    raw = sky(6)
    raw[:, W // 2 :] += sky(7, 0.0, 52.0)[:, W // 2 :]
    spreads, carried = [], []
    for shift in (0.0, 0.5):
        for turned in (False, True):
            m = np.array([[1.0, 0, shift], [0, 1, shift]])
            if turned:
                m = np.array([[-1.0, 0, W - 1 - shift], [0, -1, H - 1 - shift]])
            out = np.empty_like(raw)
            Resampler("lanczos3", W, H).plane(raw, m, 800.0, 30.0, out)
            noise = cells.carry(cells.raw_noise(raw), m, cells.measure(out).coverage)
            halves = [noise[:, :6], noise[:, 8:]]
            carried.append([np.median(half) for half in (halves[::-1] if turned else halves)])
            spreads.append(np.nanstd(out[:, 120:] if turned else out[:, :110]))
    assert min(spreads) < 0.92 * max(spreads)
    np.testing.assert_allclose(carried, [[30, 60]] * 4, rtol=0.06)


def campaign(tmp_path, kind, names, width=96, height=80, offset=0.37):
    """Files as the phases before leave them: frames of ``kind`` shifted by multiples of ``offset``."""
    count = 3 if kind == "rgb" else 1
    facts, entries = [], []
    for k, name in enumerate(names):
        image = np.random.default_rng(k).normal(800, 30, (count, height, width)).astype(">f4")
        image[:, 40, 50] += 20000
        path = tmp_path / f"{k}.raw"
        path.write_bytes(image.tobytes())
        stat = path.stat()
        pixels = {"offset": 0, "dtype": ">f4", "shape": [count, height, width], "bscale": 1.0, "bzero": 0.0}
        levels = 1 if kind == "mono" else 3
        facts.append(
            {
                "name": name,
                "path": str(path),
                "status": "ok",
                "kind": kind,
                "bayer": "RGGB" if kind == "cfa" else None,
                "width": width,
                "height": height,
                "bytes": stat.st_size,
                "mtime": stat.st_mtime_ns,
                "sha256": "",
                "pixels": pixels | {"blank": None, "sum": pixel_sum(image.astype(np.float32))},
                "channel_background": [800.0] * levels,
                "channel_noise": [30.0] * levels,
            }
        )
        shift = k * offset
        entry = {"name": name, "status": "registered", "to_frame": [[1, 0, shift], [0, 1, -shift]]}
        entries.append(entry)
    entries[-1] = {"name": names[-1], "status": "excluded", "to_frame": None}
    grid = {"width": width, "height": height, "channels": ["L"] if kind == "mono" else ["R", "G", "B"]}
    tables.write_json(str(tmp_path / "reference.json"), grid)
    return facts, entries


def split(tmp_path, facts, entries, name):
    hot = np.zeros(len(facts), np.int64) + 40 * facts[0]["width"] + 50
    tables.save(
        str(tmp_path / f"{name}.stars"),
        {"frames": facts},
        hot_frame=np.arange(len(facts), dtype=np.int32),
        hot_index=hot,
    )
    tables.write_json(str(tmp_path / f"{name}.registration"), {"frames": entries})
    out = [str(tmp_path / f"{name}.{suffix}") for suffix in ("fits", "npz")]
    files = [str(tmp_path / f) for f in (f"{name}.stars", f"{name}.registration", "reference.json")]
    channels.split(*files, None, SETTINGS, *out)
    return out


@pytest.mark.parametrize(("kind", "count"), [("mono", 1), ("cfa", 3), ("rgb", 3)])
def test_a_chunk_is_split_repaired_and_measured(tmp_path, kind, count):
    facts, entries = campaign(tmp_path, kind, ["b", "a", "c"])
    registered, table = split(tmp_path, facts, entries, "x")
    about, arrays = tables.load(table)
    assert [frame["name"] for frame in about["frames"]] == ["a", "b"]
    assert arrays["background"].shape == (2, count, 5, 6) == arrays["noise"].shape
    np.testing.assert_allclose(arrays["noise"], 30, rtol=0.5)
    np.testing.assert_allclose(np.median(arrays["background"], axis=(2, 3)), 800, rtol=0.02)
    with fits.open(registered, checksum=True) as hdus, Reader([registered], [table]) as reader:
        hdus.verify("exception")
        assert reader.frames == ["a", "b"] and len(hdus) == 1 + 2 * count
        out = np.empty((2, 80, 96), np.float32)
        for c in range(count):
            reader.block(0, 80, c, out)
            for f in range(2):
                np.testing.assert_array_equal(out[f], hdus[1 + f * count + c].data)
            assert np.nanmax(out) < 3000 or kind == "rgb", "the hot pixel is repaired before resampling"
            assert np.isnan(out[0, 0]).all() and not np.isnan(out[1]).any()


def test_the_division_into_chunks_cannot_be_seen(tmp_path):
    facts, entries = campaign(tmp_path, "cfa", ["b", "a", "d", "c", "e"])
    whole = split(tmp_path, facts, entries, "whole")
    parts = [split(tmp_path, facts[k], entries[k], f"part{n}") for n, k in enumerate([slice(2), slice(2, 5)])]
    frames, arrays = tables.gather([table for _, table in parts])
    about, expected = tables.load(whole[1])
    assert [frame["name"] for frame in frames] == [frame["name"] for frame in about["frames"]]
    for name, values in expected.items():
        np.testing.assert_array_equal(arrays[name], values)
    blocks = []
    for files in ([whole], parts):
        with Reader([a for a, _ in files], [b for _, b in files]) as reader:
            block = np.empty((len(reader.frames), 80, 96), np.float32)
            reader.block(0, 80, 1, block)
            blocks.append(block)
    np.testing.assert_array_equal(*blocks)
    again = split(tmp_path, facts, entries, "again")
    for one, other in zip(whole, again, strict=True):
        with open(one, "rb") as first, open(other, "rb") as second:
            assert first.read() == second.read()


def test_frames_without_a_place_give_an_empty_chunk(tmp_path):
    facts, entries = campaign(tmp_path, "mono", ["a"])
    registered, table = split(tmp_path, facts, entries, "x")
    with Reader([registered], [table]) as reader:
        assert reader.frames == []
    assert json.loads(json.dumps(tables.load(table)[0]))["frames"] == []


def test_a_frame_beside_the_field_is_kept_as_empty(tmp_path):
    facts, entries = campaign(tmp_path, "mono", ["a", "b"])
    entries[0]["to_frame"] = [[1, 0, 5000.5], [0, 1, 0]]
    registered, table = split(tmp_path, facts, entries, "x")
    out = np.zeros((1, 80, 96), np.float32)
    with Reader([registered], [table]) as reader:
        reader.block(0, 80, 0, out)
    assert np.isnan(out).all()
    assert not tables.load(table)[1]["coverage"].any()
