"""Registered frames on disk: what is written comes back, is valid FITS, and damage is noticed."""

import os

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.families.stacking import StackingError, tables
from ripresa.families.stacking.registered import DamagedFrame, Reader, Scale, Writer


@pytest.fixture
def rng():
    return np.random.default_rng(1)


TO_FRAME = np.array([[0.9998, -0.0175, 12.25], [0.0175, 0.9998, -3.5e-7]])


def write(path, frames, channels, scales, height, width):
    """A file and its table as CHANNEL_SPLIT leaves them, as far as readers look."""
    entries, sums = [], []
    with Writer(str(path), channels, width, height) as writer:
        for name, image in frames.items():
            planes, row_sum = writer.add(name, image, scales, TO_FRAME)
            entries.append({"name": name, "planes": planes})
            sums.append(row_sum)
    about = {
        "frames": entries,
        "bytes": path.stat().st_size,
        "width": width,
        "height": height,
        "channels": channels,
    }
    tables.save(str(path.with_suffix(".npz")), about, row_sum=np.array(sums, np.uint32))


def night(rng, shape, names, noise=30.0):
    frames = {}
    for name in names:
        image = rng.normal(800, noise, shape).astype(np.float32)
        image[..., 0, :] = np.nan
        image[..., -1, -1] = 60000
        frames[name] = image
    return frames


@pytest.mark.parametrize("width", [64, 65])
@pytest.mark.parametrize("noise", [30.0, 0.001])
def test_every_hdu_is_valid_fits_and_holds_the_pixels(tmp_path, rng, width, noise):
    frames = night(rng, (3, 40, width), ["b.fits", "a.fits"])
    scales = [Scale.choose(500, 60000, noise)] * 3
    path = tmp_path / "x.fits"
    write(path, frames, ["R", "G", "B"], scales, 40, width)
    with fits.open(path, checksum=True) as hdus:
        hdus.verify("exception")
        assert len(hdus) == 1 + 2 * 3
        for hdu in hdus:
            assert hdu.verify_checksum() == 1
            assert hdu.verify_datasum() == 1
        for n, (name, image) in enumerate(frames.items()):
            for c, channel in enumerate("RGB"):
                hdu = hdus[1 + 3 * n + c]
                assert (hdu.header["EXTNAME"], hdu.header["CHANNEL"]) == (name, channel)
                stored = np.array([[hdu.header[f"TR{i}_{j}"] for j in (1, 2, 3)] for i in (1, 2)])
                np.testing.assert_array_equal(stored, TO_FRAME)
                assert (hdu.header["BITPIX"] == -32) == (noise < 1)
                np.testing.assert_allclose(hdu.data, image[c], atol=scales[c].step / 2 + 1e-3)
    assert path.stat().st_size % 2880 == 0


@given(
    width=st.integers(1, 40),
    height=st.integers(1, 30),
    noise=st.sampled_from([100.0, 0.0]),
    rows=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
@settings(max_examples=25, deadline=None)
def test_any_rows_come_back(tmp_path_factory, width, height, noise, rows):
    path = tmp_path_factory.mktemp("r") / "x.fits"
    image = np.random.default_rng(1).normal(100, 50, (1, height, width)).astype(np.float32)
    image[0, :, 0] = np.nan
    scale = Scale.choose(-1000, 1000, noise)
    write(path, {"a": image}, ["L"], [scale], height, width)
    y0, y1 = sorted(min(y, height) for y in rows)
    out = np.zeros((y1 - y0, width), np.float32)
    with Reader([str(path)]) as reader:
        reader.rows(0, 0, y0, y1, out)
    np.testing.assert_allclose(out, image[0, y0:y1], atol=scale.step / 2)


def test_sums_of_very_long_rows_do_not_run_over(tmp_path, rng):
    image = np.full((1, 1, 300_001), -32767, np.float32)
    image[0, 0, rng.integers(0, 300_001, 1000)] = 5
    path = tmp_path / "x.fits"
    write(path, {"a": image}, ["L"], [Scale(1.0, 0.0)], 1, 300_001)
    with fits.open(path, checksum=True) as hdus:
        assert hdus[1].verify_datasum() == 1
    out = np.empty((1, 1, 300_001), np.float32)
    with Reader([str(path)]) as reader:
        reader.block(0, 1, 0, out)
    np.testing.assert_array_equal(out, image)


def test_integers_come_back_exactly(tmp_path, rng):
    image = rng.integers(100, 65536, (1, 16, 16)).astype(np.float32)
    scale = Scale.choose(100, 65535, 7.0)
    write(tmp_path / "x.fits", {"a": image}, ["L"], [scale], 16, 16)
    out = np.empty((16, 16), np.float32)
    Reader([str(tmp_path / "x.fits")]).rows(0, 0, 0, 16, out)
    assert scale.step == 1
    np.testing.assert_array_equal(out, image[0])


def test_the_division_into_files_cannot_be_seen(tmp_path, rng):
    frames = night(rng, (1, 20, 30), ["d", "b", "c", "a"])
    scales = [Scale.choose(500, 60000, 30.0)]
    write(tmp_path / "all.fits", frames, ["L"], scales, 20, 30)
    for k, part in enumerate([["d", "a"], ["c", "b"]]):
        write(tmp_path / f"{k}.fits", {n: frames[n] for n in part}, ["L"], scales, 20, 30)
    blocks = []
    for names in (["all"], ["0", "1"], ["1", "0"]):
        with Reader([str(tmp_path / f"{name}.fits") for name in names]) as reader:
            assert reader.frames == ["a", "b", "c", "d"]
            block = np.empty((4, 7, 30), np.float32)
            reader.block(9, 16, 0, block)
            blocks.append(block.tobytes())
    assert len(set(blocks)) == 1
    np.testing.assert_allclose(
        np.frombuffer(blocks[0], np.float32).reshape(4, 7, 30)[0], frames["a"][0, 9:16], atol=0.6
    )


@pytest.mark.parametrize("noise", [30.0, 0.0])
@given(at=st.integers(0, 40 * 33 - 1), bit=st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_a_changed_bit_is_noticed_and_named(tmp_path_factory, noise, at, bit):
    folder = tmp_path_factory.mktemp("d")
    frames = night(np.random.default_rng(2), (1, 40, 33), ["sub/good", "sub/hurt"])
    scale = Scale.choose(500, 60000, noise)
    path = folder / "x.fits"
    write(path, frames, ["L"], [scale], 40, 33)
    about, _ = tables.load(str(path.with_suffix(".npz")))
    size = 2 if scale.step else 4
    offset = about["frames"][1]["planes"][0]["offset"] + at * size
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)
    out = np.empty((2, 40, 33), np.float32)
    with Reader([str(path)]) as reader:
        reader.rows(0, 0, 0, 40, out[0])
        with pytest.raises(DamagedFrame, match="sub/hurt") as caught:
            reader.block(0, 40, 0, out)
        assert str(path) in str(caught.value)
        row = at // 33
        reader.rows(1, 0, 0, row, out[1, :row])  # the rest of the frame is sound
        reader.rows(1, 0, row + 1, 40, out[1, row + 1 :])


def test_a_file_cut_short_is_refused(tmp_path, rng):
    path = tmp_path / "x.fits"
    write(path, night(rng, (1, 8, 8), ["a"]), ["L"], [Scale.choose(0, 60000, 30.0)], 8, 8)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(StackingError, match=r"x\.fits is damaged"):
        Reader([str(path)])


def test_files_of_different_grids_are_refused(tmp_path, rng):
    scales = [Scale.choose(0, 60000, 30.0)]
    write(tmp_path / "a.fits", night(rng, (1, 8, 8), ["a"]), ["L"], scales, 8, 8)
    write(tmp_path / "b.fits", night(rng, (1, 8, 9), ["b"]), ["L"], scales, 8, 9)
    with pytest.raises(StackingError, match="one grid"):
        Reader([str(tmp_path / "a.fits"), str(tmp_path / "b.fits")])


def test_a_chunk_without_frames_is_valid_and_reads_as_nothing(tmp_path, rng):
    scales = [Scale.choose(0, 60000, 30.0)]
    write(tmp_path / "a.fits", {}, ["L"], scales, 8, 8)
    write(tmp_path / "b.fits", night(rng, (1, 8, 8), ["b"]), ["L"], scales, 8, 8)
    with fits.open(tmp_path / "a.fits", checksum=True) as hdus:
        hdus.verify("exception")
        assert len(hdus) == 1
    with Reader([str(tmp_path / "a.fits"), str(tmp_path / "b.fits")]) as reader:
        assert reader.frames == ["b"]


@pytest.mark.parametrize("name", ["it's " * 40, "nébuleuse\n/light_1.fits", "x'" * 67, "y" * 68, "a/b.fits"])
def test_any_file_name_gives_a_valid_header(tmp_path, rng, name):
    write(tmp_path / "x.fits", night(rng, (1, 8, 8), [name]), ["L"], [Scale.choose(0, 60000, 30.0)], 8, 8)
    with fits.open(tmp_path / "x.fits", checksum=True) as hdus:
        hdus.verify("exception")
        assert hdus[1].verify_checksum() == 1
        if name.isascii():
            assert hdus[1].header["EXTNAME"].strip() == name.strip()
    assert Reader([str(tmp_path / "x.fits")]).frames == [name]


@given(low=st.floats(-1e6, 1e6), span=st.floats(0, 1e7), noise=st.floats(1e-6, 1e4), share=st.floats(0, 1))
@settings(deadline=None)
def test_a_scale_holds_its_range_at_a_step_small_against_the_noise(low, span, noise, share):
    scale = Scale.choose(low, low + span, noise)
    if not scale.step:
        assert span / 65000 > noise / 6 * 0.999 or abs(low) + span > noise / 6 * 2**21
        return
    assert scale.step <= noise / 6
    stored = round((low + share * span - scale.zero) / scale.step)
    assert -32767 <= stored <= 32767


def test_disk_full_is_an_error_of_the_system(tmp_path):
    with pytest.raises(OSError, match="No space left"), Writer("/dev/full", ["L"], 8, 8) as writer:
        writer.add("a", np.zeros((1, 8, 8), np.float32), [Scale(1.0, 0.0)], TO_FRAME)
