"""Pixels of the phases TILE_RECONSTRUCTION and SYNTHETIC_FRAMES, from frames in memory."""

import io
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.families.stacking import (
    StackingError,
    bands,
    cluster_means,
    registered,
    synthesis,
    tables,
    tiles,
)
from ripresa.families.stacking.final import combine
from ripresa.families.stacking.reconstruction import compute, reconstruct, resampled_share
from ripresa.families.stacking.rejection import LANES
from ripresa.families.stacking.sky import Background, _lower_quartile

WINSORIZED = {"method": "winsorized", "low": 3, "high": 3}
NONE = {"method": "none", "low": 3, "high": 3}
seeds = st.integers(0, 2**32 - 1)


class Memory:
    """Registered frames [F, C, H, W] in memory, read as `registered.Reader` reads files."""

    def __init__(self, data):
        self.data = np.asarray(data, np.float32)
        self.frames = [f"light_{i:03d}.fits" for i in range(len(self.data))]
        self.channels = ["L"] if self.data.shape[1] == 1 else ["R", "G", "B"]
        self.height, self.width = self.data.shape[2:]

    def rows(self, i, channel, y0, y1, out):
        out[:] = self.data[i, channel, y0:y1]


def grid(length, size=64, overlap=16):
    starts = list(range(0, max(length - size, 1), size - overlap))
    if starts[-1] + size < length:
        starts.append(length - size)
    return tiles.windows(starts, min(size, length), overlap, length)


def recipe(frames, seed=None, noise=10.0):
    """Scale 1, offset 0 and equal weights; with a seed, random weights for every tile."""
    count, channels = frames.data.shape[:2]
    window_x, window_y = grid(frames.width), grid(frames.height)
    shape = (count, channels, len(window_y), len(window_x))
    weights = np.ones(shape) if seed is None else np.random.default_rng(seed).uniform(0.2, 5, shape)
    return bands.Recipe(
        frames.frames,
        np.ones((count, channels), np.float32),
        np.zeros((count, channels, 6)),
        weights.astype(np.float32),
        np.full(shape[1:], noise, np.float32),
        window_x,
        window_y,
    )


def sky(frames, level=1000.0):
    return Background(np.full((len(frames.channels), 1, 1), level), np.zeros(1), np.zeros(1))


def stack(frames, how=None, rejection=WINSORIZED, rows=None):
    how = recipe(frames) if how is None else how
    return compute(frames, how, sky(frames), rejection, *(rows or (0, frames.height)))


def noisy(seed, frames=12, channels=1, height=37, width=2 * LANES + 21, gaps=True):
    """Frames with cosmic rays, and with borders of different width that are not covered."""
    rng = np.random.default_rng(seed)
    data = rng.normal(1000, 10, (frames, channels, height, width)).astype(np.float32)
    data[rng.random(data.shape) < 0.01] += 500
    if gaps:
        for f in range(frames):
            data[f, :, :, : rng.integers(0, 12)] = np.nan
            data[f, :, rng.integers(height - 8, height + 1) :] = np.nan
    return Memory(data)


def weight_maps(how, c=0):
    """The weights [F, H, W], written down plainly."""
    return np.einsum("yh,xw,fyx->fhw", how.window_y, how.window_x, how.weights[:, c].astype(np.float64))


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 12), st.sampled_from([WINSORIZED, NONE]))
def test_identical_frames_give_back_the_frame(seed, count, rejection):
    one = np.random.default_rng(seed).normal(1000, 300, (1, 1, 40, 150)).astype(np.float32)
    frames = Memory(np.repeat(one, count, axis=0))
    out = stack(frames, recipe(frames, seed), rejection)
    np.testing.assert_array_equal(out["image"], one[0])
    assert not out["rejected"].any() and (out["coverage"] == count).all()


def test_a_constant_image_stays_constant_to_the_border():
    frames = noisy(1)
    frames.data[np.isfinite(frames.data)] = 1234.5
    out = stack(frames, recipe(frames, 1))
    covered = out["coverage"][0] > 0
    assert (out["coverage"][0] < 12).any()
    assert (out["image"][0][covered] == np.float32(1234.5)).all()


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_the_image_is_the_weighted_mean_of_what_is_accepted(seed):
    frames = noisy(seed, channels=3)
    how = recipe(frames, seed)
    out = stack(frames, how)
    for c in range(3):
        v = frames.data[:, c].astype(np.float64)
        accepted = (v >= out["least"][c]) & (v <= out["most"][c])
        w = np.where(accepted, weight_maps(how, c), 0)
        with np.errstate(invalid="ignore"):
            mean = (w * np.where(accepted, v, 0)).sum(axis=0) / w.sum(axis=0)
        np.testing.assert_allclose(out["image"][c], mean, rtol=0, atol=2e-4)
        np.testing.assert_allclose(out["weight"][c], w.sum(axis=0), rtol=1e-5)
        np.testing.assert_allclose(out["weight2"][c], (w * w).sum(axis=0), rtol=1e-5)
        np.testing.assert_array_equal(out["coverage"][c], np.isfinite(v).sum(axis=0))
        np.testing.assert_array_equal(out["rejected"][c], (np.isfinite(v) & ~accepted).sum(axis=0))
        np.testing.assert_array_equal(
            out["reject_counts"][:, c], (np.isfinite(v) & ~accepted).sum(axis=(1, 2))
        )
        with np.errstate(invalid="ignore"):
            share = np.nansum(w / w.sum(axis=0), axis=(1, 2))
        np.testing.assert_allclose(out["frame_weight"][:, c], share, rtol=1e-4)
    assert out["rejected"].any()


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_weights_sum_to_one(seed):
    frames = noisy(seed)
    out = stack(frames, recipe(frames, seed))
    assert out["frame_weight"].sum() == pytest.approx((out["coverage"] > 0).sum(), rel=1e-5)


@settings(max_examples=8, deadline=None)
@given(seeds, st.integers(2, 7), st.integers(1, 5))
def test_neither_bands_nor_blocks_can_be_seen(seed, count, block_rows):
    frames = noisy(seed)
    how = recipe(frames, seed)
    whole = stack(frames, how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "BLOCK_BYTES", block_rows * 12 * frames.width * 4)
        parts = [stack(frames, how, rows=bands.rows_of(frames.height, (i + 1, count))) for i in range(count)]
    for name in ("image", "weight", "weight2", "coverage", "rejected", "flagged", "least", "most"):
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts], axis=1), whole[name])
    for name in ("reject_counts", "frame_weight"):
        np.testing.assert_array_equal(sum(part[name] for part in parts), whole[name])


@given(st.integers(1, 5000), st.integers(1, 40))
def test_bands_are_all_rows_once(height, count):
    rows = [y for i in range(1, count + 1) for y in range(*bands.rows_of(height, (i, count)))]
    assert rows == list(range(height))


def test_scale_and_offset_are_applied():
    frames = noisy(3, gaps=False)
    how = recipe(frames, 3)
    rng = np.random.default_rng(3)
    scale = rng.uniform(0.5, 2, (12, 1)).astype(np.float32)
    offset = rng.normal(0, 50, (12, 1, 6))
    v, u = np.mgrid[-1 : 1 : frames.height * 1j, -1 : 1 : frames.width * 1j]
    basis = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v])
    surface = np.einsum("fck,kyx->fcyx", offset, basis)
    raw = Memory((frames.data - surface) / scale[:, :, None, None])
    expected = stack(frames, how)
    out = stack(raw, replace(how, scale=scale, offset=offset))
    np.testing.assert_allclose(out["image"], expected["image"], atol=1.0, rtol=0)
    assert np.abs(out["image"] - expected["image"]).mean() < 0.01  # where rounding changes no rejection
    assert np.median(np.abs(out["image"] - expected["image"])) < 1e-3


def test_the_noise_is_that_of_resampled_pixels():
    frames = noisy(12, frames=20, channels=3)
    frames.data[:, 1] = 1000 + 0.6 * (frames.data[:, 1] - 1000)
    np.testing.assert_allclose(resampled_share(frames, recipe(frames)), [1, 0.6, 1], atol=0.05)
    np.testing.assert_allclose(
        resampled_share(frames, recipe(frames, noise=20.0)), [0.5, 0.3, 0.5], atol=0.03
    )
    assert (resampled_share(frames, recipe(frames, noise=5.0)) == 1).all()
    few = noisy(12, frames=4)
    assert resampled_share(few, recipe(few, noise=20.0)) == 1


def test_cosmic_rays_leave_nothing_behind():
    frames = noisy(4, frames=30, gaps=False)
    clean = np.random.default_rng(4).normal(1000, 10, frames.data.shape).astype(np.float32).mean(axis=0)
    out = stack(frames)
    assert np.abs(out["image"] - clean).max() < 8 * 10 / np.sqrt(30)


def test_without_weights_the_plain_mean_stands_and_is_flagged():
    frames = noisy(5, frames=4)
    how = recipe(frames)
    how.weights[:, :, :, 0] = 0
    out = stack(frames, how, NONE)
    assert out["flagged"][0, :, 12:40].any() and not out["flagged"][0, :, 80:].any()
    flagged = out["flagged"][0]
    with np.errstate(invalid="ignore"):
        plain = np.nansum(frames.data[:, 0], axis=0, dtype=np.float64) / out["coverage"][0]
    np.testing.assert_allclose(out["image"][0][flagged], plain[flagged], atol=1e-3, rtol=0)
    assert (out["weight"][0][flagged] < 1e-6).all()


@pytest.mark.filterwarnings("error")
def test_where_no_frame_is_there_is_no_value():
    frames = noisy(6, gaps=False)
    frames.data[:, :, 5:9, 30:70] = np.nan
    out = stack(frames)
    nothing = np.zeros((frames.height, frames.width), bool)
    nothing[5:9, 30:70] = True
    np.testing.assert_array_equal(np.isnan(out["image"][0]), nothing)
    np.testing.assert_array_equal(out["coverage"][0] == 0, nothing)
    assert not out["weight"][0][nothing].any() and not out["flagged"][0][nothing].any()
    assert np.isfinite(out["frame_weight"]).all()


def test_precision_far_from_zero():
    rng = np.random.default_rng(7)
    values = (rng.integers(0, 64, (400, 1, 1, LANES)) / 8 + 60000).astype(np.float32)
    frames = Memory(values)
    out = stack(frames, recipe(frames), NONE)
    exact = values.astype(np.float64).mean(axis=0)
    assert np.abs(out["image"] - exact).max() < 0.0021  # half a step of float32 at 60000 is 0.002


def test_the_background_under_a_star_is_that_around_it():
    cells = np.full((20, 20), 100.0)
    cells[7, 7] = 900.0
    cells[0, 0] = np.nan
    under = _lower_quartile(cells)
    assert (under == 100.0).all()


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_background_is_interpolated_between_cells(seed):
    rng = np.random.default_rng(seed)
    gx, gy, g0 = rng.uniform(-1, 1, 3)
    x, y = np.array([7.5, 23.5, 34.5]), np.array([7.5, 23.5, 39.5, 50.0])
    plane = Background((g0 + gx * x + gy * y[:, None])[None], x, y)
    rows = plane.rows(0, 10, 50, 40)
    columns = np.clip(np.arange(40), 7.5, 34.5)
    np.testing.assert_allclose(rows, g0 + gx * columns + gy * np.arange(10, 50)[:, None], atol=1e-4)
    np.testing.assert_array_equal(plane.rows(0, 30, 33, 40), rows[20:23])


def synthetic(frames, how, labels, k, maps, rows=None):
    y0, y1 = rows or (0, frames.height)
    file = io.BytesIO()
    part = {name: np.ascontiguousarray(maps[name][:, y0:y1]) for name in ("image", "least", "most")}
    cluster_means.compute(frames, how, np.asarray(labels, np.int64), k, part, y0, y1, file)
    shape = (y1 - y0, k, len(frames.channels), 2, frames.width)
    size = int(np.prod(shape)) * 4
    data = file.getvalue()
    out = np.frombuffer(data[:size], np.float32).reshape(shape)
    np.testing.assert_array_equal(np.frombuffer(data[size:], np.uint32), synthesis.checksums(out))
    return out


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_a_synthetic_frame_is_the_mean_of_its_cluster(seed):
    frames = noisy(seed, channels=3)
    how = recipe(frames, seed)
    maps = stack(frames, how)
    labels = np.random.default_rng(seed).integers(0, 4, 12)
    out = synthetic(frames, how, labels, 4, maps)
    for c in range(3):
        v = frames.data[:, c].astype(np.float64)
        accepted = (v >= maps["least"][c]) & (v <= maps["most"][c])
        w = np.where(accepted, weight_maps(how, c), 0)
        for j in range(4):
            total = w[labels == j].sum(axis=0)
            with np.errstate(invalid="ignore"):
                mean = (w * np.where(accepted, v, 0))[labels == j].sum(axis=0) / total
            np.testing.assert_allclose(out[:, j, c, 1], total, rtol=1e-5)
            np.testing.assert_allclose(out[:, j, c, 0], mean, atol=2e-4, rtol=0)


def test_a_cluster_of_identical_frames_gives_back_the_frame():
    one, other = np.random.default_rng(8).normal(1000, 10, (2, 1, 20, 100)).astype(np.float32)
    frames = Memory(np.stack([one, other, one, other, one]))
    how = recipe(frames, 8)
    out = synthetic(frames, how, [0, 1, 0, 1, 0], 2, stack(frames, how, NONE))
    np.testing.assert_allclose(out[:, 0, 0, 0], one[0], atol=2e-4, rtol=0)
    np.testing.assert_allclose(out[:, 1, 0, 0], other[0], atol=2e-4, rtol=0)


def test_synthetic_frames_do_not_depend_on_bands():
    frames = noisy(9)
    how = recipe(frames, 9)
    maps = stack(frames, how)
    labels = np.arange(12) % 5
    whole = synthetic(frames, how, labels, 5, maps)
    parts = [synthetic(frames, how, labels, 5, maps, bands.rows_of(frames.height, (i, 3))) for i in (1, 2, 3)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


class Files:
    """The files that the phases before leave behind, for the frames ``data`` [F, C, H, W] in some chunks."""

    CELL = 16

    def __init__(self, directory, data, chunks=2, tile=64):
        frames = Memory(data)
        self.frames, self.names = frames, frames.frames
        self.registered, self.cells = [], []
        for i in range(chunks):
            self.registered.append(str(directory / f"{i + 1}-of-{chunks}.fits"))
            self.cells.append(str(directory / f"{i + 1}-of-{chunks}.npz"))
            self._chunk(i, range(i, len(data), chunks))
        self.normalization = str(directory / "normalization.npz")
        self.grid = str(directory / "tile_grid.json")
        self.metrics = str(directory / "local_metrics.npz")
        self.clusters = str(directory / "clusters.json")
        count, channels = data.shape[:2]
        about = {"frames": [{"name": name} for name in self.names]}
        scale, offset = np.ones((count, channels)), np.zeros((count, channels, 6))
        tables.save(self.normalization, about, scale=scale, offset=offset)
        overlap = tile // 4
        starts = [
            [*range(0, length - tile, tile - overlap), length - tile]
            for length in (frames.width, frames.height)
        ]
        document = {"size": tile, "overlap": overlap, "x": starts[0], "y": starts[1]}
        tables.write_json(self.grid, {**document, "width": frames.width, "height": frames.height})
        shape = (count, channels, len(starts[1]), len(starts[0]))
        weights = np.random.default_rng(0).uniform(0.5, 2, shape)
        noise = np.full(shape, 10.0)
        noise[0] = np.nan
        tables.save(self.metrics, about, weights=weights, noise=noise)

    def _chunk(self, i, members):
        f = self.frames
        planes, sums = [], []
        with registered.Writer(self.registered[i], f.channels, f.width, f.height) as writer:
            for j in members:
                scales = [registered.Scale(2.0**-6, 1000.0)] * len(f.channels)
                written = writer.add(f.frames[j], f.data[j], scales, np.eye(2, 3))
                planes.append(written[0])
                sums.append(written[1])
        shape = (len(planes), len(f.channels), -(-f.height // self.CELL), -(-f.width // self.CELL))
        about = {
            "cell": self.CELL,
            "width": f.width,
            "height": f.height,
            "channels": f.channels,
            "bytes": os.path.getsize(self.registered[i]),
            "frames": [{"name": f.frames[j], "planes": p} for j, p in zip(members, planes, strict=True)],
        }
        maps = {"coverage": np.ones(shape, np.float32), "background": np.full(shape, 1000, np.float32)}
        tables.save(self.cells[i], about, row_sum=np.stack(sums), **maps)

    def reconstruct(self, output, band=(1, 1), rejection=WINSORIZED):
        tables_of_frames = (self.normalization, self.grid, self.metrics)
        reconstruct(
            self.registered, self.cells, *tables_of_frames, {"rejection": rejection}, band, str(output)
        )
        return tables.load(str(output))

    def synthesize(self, output, table, labels, band=(1, 1)):
        named = dict(zip(self.names, labels, strict=True))
        k = max(labels, default=-1) + 1
        tables.write_json(self.clusters, {"mode": "full", "k": k, "labels": named, "quality": [1.0] * k})
        synthesis.synthesize(
            self.registered, self.cells, self.normalization, self.grid, self.metrics,
            self.clusters, str(table), band, str(output),
        )  # fmt: skip
        return np.load(output)


def steps(seed, frames=9, channels=1, height=70, width=140):
    """Values that 16-bit integers of step 1/64 hold exactly."""
    rng = np.random.default_rng(seed)
    data = np.round(rng.normal(1000, 10, (frames, channels, height, width)) * 64) / 64
    data[rng.random(data.shape) < 0.01] += 300
    data[:, :, :3] = np.nan
    data[2, :, :, 100:] = np.nan
    return data.astype(np.float32)


def test_the_chunks_of_the_frames_cannot_be_seen(tmp_path):
    data = steps(1, channels=3)
    outputs = []
    for chunks in (1, 2, 4):
        directory = tmp_path / str(chunks)
        directory.mkdir()
        files = Files(directory, data, chunks)
        files.reconstruct(directory / "r.npz", (2, 3))
        files.synthesize(directory / "s.npy", directory / "r.npz", [0, 1, 2] * 3, (2, 3))
        outputs.append([(directory / name).read_bytes() for name in ("r.npz", "s.npy")])
    assert outputs[0] == outputs[1] == outputs[2]


def test_from_files_to_the_finished_pixels(tmp_path):
    files = Files(tmp_path, steps(2, channels=3))
    made = []
    for i in (1, 2):
        table, frames = tmp_path / f"r{i}.npz", tmp_path / f"s{i}.npy"
        about, maps = files.reconstruct(table, (i, 2))
        assert [frame["name"] for frame in about["frames"]] == files.names
        assert (about["y0"], about["y1"]) == ((i - 1) * 35, i * 35)
        clusters = files.synthesize(frames, table, [0, 1, 1, 0, 1, 0, 2, 2, 2], (i, 2))
        value, weight = np.moveaxis(clusters.astype(np.float64), 3, 0)
        with np.errstate(invalid="ignore"):
            mean = np.nansum(value * weight, axis=1) / weight.sum(axis=1)
        np.testing.assert_allclose(np.moveaxis(mean, 1, 0), maps["image"], atol=3e-4, rtol=0)
        made.append((str(table), str(frames), maps))
    out = combine(
        [one[0] for one in made],
        [one[1] for one in made],
        files.clusters,
        {"clusters": {"weight_cap": 4, "sigma": 100}},
    )
    np.testing.assert_array_equal(out.image, np.concatenate([one[2]["image"] for one in made], axis=1))
    assert out.coverage[:, 3:, :100].min() == 9 and out.coverage[:, 3:, 100:].max() == 8
    assert np.isnan(out.image[:, :3]).all()


def test_in_reduced_mode_no_frame_is_read(tmp_path):
    files = Files(tmp_path, steps(3))
    files.reconstruct(tmp_path / "r.npz")
    for path in files.registered:
        os.unlink(path)
    tables.write_json(files.clusters, {"mode": "reduced", "k": 0, "labels": {}, "quality": []})
    synthesis.synthesize(
        files.registered, files.cells, files.normalization, files.grid, files.metrics,
        files.clusters, str(tmp_path / "r.npz"), (1, 1), str(tmp_path / "s.npy"),
    )  # fmt: skip
    assert np.load(tmp_path / "s.npy").shape == (70, 0, 1, 2, 140)


def test_a_damaged_frame_is_named(tmp_path):
    files = Files(tmp_path, steps(4))
    with open(files.registered[1], "r+b") as file:
        file.seek(-5000, 2)
        file.write(b"damage")
    with pytest.raises(registered.DamagedFrame, match=r"2-of-2\.fits") as error:
        files.reconstruct(tmp_path / "r.npz")
    assert error.value.path == files.registered[1] and error.value.name == files.names[7]


def test_tables_of_other_frames_are_an_error(tmp_path):
    files = Files(tmp_path, steps(5))
    about, arrays = tables.load(files.metrics)
    about["frames"][3]["name"] = "another.fits"
    tables.save(files.metrics, about, **arrays)
    with pytest.raises(StackingError, match="NORMALIZATION"):
        files.reconstruct(tmp_path / "r.npz")
    arrays["weights"][1] = np.nan
    tables.save(files.metrics, {"frames": [{"name": name} for name in files.names]}, **arrays)
    with pytest.raises(StackingError, match="local_metrics"):
        files.reconstruct(tmp_path / "r.npz")


def test_clusters_of_other_frames_are_an_error(tmp_path):
    files = Files(tmp_path, steps(6))
    files.reconstruct(tmp_path / "r.npz")
    files.names = [*files.names[:-1], "another.fits"]
    with pytest.raises(StackingError, match="STATE_CLUSTERING"):
        files.synthesize(tmp_path / "s.npy", tmp_path / "r.npz", [0] * 9)
