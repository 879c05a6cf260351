"""Which files are stacked, what their headers say, what their pixels are, and what is wrong with bad ones."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.families.stacking import Changed, StackingError, tables
from ripresa.families.stacking.commands import reported
from ripresa.families.stacking.discovery import calibration_files, lights
from ripresa.families.stacking.frames import examine, inspect, read_pixels, read_rows
from ripresa.families.stacking.ready import load_frame
from ripresa.families.stacking.scan import scan

REAL = Path(__file__).parents[1] / "../shared/data/frames"
SETTINGS = {"bayer": "auto", "on_bad_frame": "skip", "calibration": {}}


def pixels(shape=(40, 50), seed=0):
    return np.random.default_rng(seed).integers(100, 4000, shape)


def write(path, data=None, **cards):
    """A FITS file; ``CCD_TEMP=...`` gives the card CCD-TEMP, except for keywords known with an underscore."""
    header = fits.Header()
    for name, value in cards.items():
        header[name.replace("_", "-")] = value
    data = pixels().astype(np.uint16) if data is None else data
    fits.PrimaryHDU(data, header).writeto(path, overwrite=True)
    return str(path)


def raw(path, cards, data=b"", shape=(50, 40), bitpix=16):
    """A FITS file with cards exactly as given, as odd programs write them."""
    lines = ["SIMPLE  =                    T", f"BITPIX  = {bitpix:20d}", f"NAXIS   = {len(shape):20d}"]
    lines += [f"NAXIS{n + 1:<3d}= {length:20d}" for n, length in enumerate(shape)]
    text = "".join(f"{line:<80}" for line in [*lines, *cards, "END"]).encode()
    data = data or pixels().astype(">i2").tobytes()
    path.write_bytes(
        text.ljust(-(-len(text) // 2880) * 2880) + data.ljust(-(-len(data) // 2880) * 2880, b"\0")
    )
    return str(path)


# --- which files


def names(places, recursive=False):
    return [name for name, _ in lights({"lights": places, "recursive": recursive})]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for path in (
        "night/b.fit", "night/a.FITS", "night/c.fts", "night/d.fits.fz", "night/notes.txt", "night/._a.FITS",
        "night/darks/x.fit", "other/a.FITS", "other/z.fit",
    ):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_directory_gives_its_fits_files_sorted(tree):
    assert lights({"lights": "night", "recursive": False}) == [
        (name, f"night/{name}") for name in ("a.FITS", "b.fit", "c.fts", "d.fits.fz")
    ]
    assert names(str(tree / "night")) == names("night") == names("night/")


def test_subdirectories_are_searched_if_asked(tree):
    assert names("night", recursive=True) == ["a.FITS", "b.fit", "c.fts", "d.fits.fz", "darks/x.fit"]


def test_files_and_globs(tree):
    assert names("night/b.fit") == ["b.fit"]
    assert names(["night/*.fi*", "other/z.fit"]) == ["b.fit", "d.fits.fz", "z.fit"]
    assert names("*/z.fit") == ["other/z.fit"]
    assert names("oth*") == ["other/a.FITS", "other/z.fit"]
    assert names("**/x.fit") == ["night/darks/x.fit"]
    assert names("./night/*.fit") == names(str(tree / "night" / "*.fit")) == ["b.fit"]
    assert names("night/**") == names("night", recursive=True)
    assert names(".", recursive=True) == names("./", recursive=True)


def test_a_directory_whose_name_looks_like_a_glob(tree):
    (tree / "night").rename(tree / "night [1]")
    assert "b.fit" in names("night [1]")


def test_a_file_that_two_entries_give_counts_once(tree):
    assert names(["night", "night/*.fit", str(tree / "night" / "b.fit")]) == names("night")


def test_equal_names_are_told_apart_by_their_directories(tree):
    found = lights({"lights": ["night", "other"], "recursive": False})
    assert len({name for name, _ in found}) == len(found) == 6
    assert {"night/a.FITS", "other/a.FITS"} <= {name for name, _ in found}
    assert all(os.path.samefile(tree / name, path) for name, path in found)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("nowhere", "does not exist"),
        ("*.fit", "matches no FITS"),
        ("empty", "has no FITS"),
        ("none/*/x", "matches no"),
    ],
)
def test_what_gives_no_frame_is_named(tree, place, says):
    (tree / "empty").mkdir()
    with pytest.raises(StackingError, match=says) as error:
        lights({"lights": ["night", place], "recursive": False})
    assert str(error.value).startswith(place) and "\n" not in str(error.value)


def test_ten_thousand_files_take_no_time_and_no_library(tmp_path):
    for number in range(10_000):
        (tmp_path / f"light_{number:05d}.fits").touch()
    before = time.process_time()
    assert len(lights({"lights": str(tmp_path), "recursive": False})) == 10_000
    assert time.process_time() - before < 0.5
    code = "import sys, ripresa.families.stacking.discovery; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- pixels


@pytest.mark.parametrize("shape", [(40, 50), (3, 40, 50), (1, 40, 50), (1, 1, 40, 50)])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_pixels_are_those_that_astropy_reads(tmp_path, dtype, shape):
    data = (pixels(shape) % (200 if dtype == "u1" else 4000)).astype(dtype)
    path = write(tmp_path / "a.fit", data)
    facts, image = examine(path)
    assert facts["status"] == "ok", facts["reason"]
    assert facts["kind"] == ("rgb" if shape[0] == 3 else "mono")
    assert (facts["width"], facts["height"]) == (50, 40)
    assert image.dtype == np.float32 and image.flags.c_contiguous
    assert np.array_equal(image, fits.getdata(path).astype(np.float32).reshape(image.shape))
    assert np.array_equal(read_pixels(facts), image)
    assert np.array_equal(read_rows(facts, 7, 13), image[:, 7:13])


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([("u1", 8), (">i2", 16), (">i4", 32), (">f4", -32), (">f8", -64)]),
    st.floats(0.01, 100),
    st.floats(-40_000, 40_000),
    st.integers(32, 900),
    st.integers(32, 60),
    st.integers(0, 1000),
)
def test_scaled_pixels(tmp_path_factory, kind, scale, zero, width, height, seed):
    dtype, bitpix = kind
    stored = np.random.default_rng(seed).integers(0, 200, (height, width)).astype(dtype)
    path = raw(
        tmp_path_factory.getbasetemp() / "scaled.fit",
        [f"BSCALE  = {scale!r:>20}", f"BZERO   = {zero!r:>20}"],
        stored.tobytes(),
        (width, height),
        bitpix,
    )
    _, image = examine(path)
    expected = stored.astype(np.float64) * scale + zero
    assert np.allclose(image[0], expected, rtol=3e-7, atol=3e-7 * (200 * scale + abs(zero)))


def test_a_file_larger_than_what_is_read_at_once(tmp_path):
    data = pixels((700, 1100)).astype(np.float32)
    facts, image = examine(write(tmp_path / "a.fit", data))
    assert np.array_equal(image[0], data) and np.array_equal(read_pixels(facts), image)


def test_pixels_without_a_value_are_nan(tmp_path):
    data = pixels().astype(np.float32)
    data[3, 4], data[5, 6], data[7, 8] = np.nan, np.inf, -1.6e38
    _, image = examine(write(tmp_path / "a.fit", data))
    assert (
        np.argwhere(~np.isfinite(image[0])).tolist() == [[3, 4], [5, 6], [7, 8]] and not np.isinf(image).any()
    )
    stored = pixels().astype(">i2")
    stored[7, 8] = -32768
    _, image = examine(raw(tmp_path / "b.fit", ["BLANK   =               -32768"], stored.tobytes()))
    assert np.argwhere(np.isnan(image[0])).tolist() == [[7, 8]]


def test_the_first_image_extension_with_what_the_primary_header_says(tmp_path):
    header = fits.Header({"EXPTIME": 12.0, "OBJECT": "M 1"})
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=np.arange(7))])
    image = fits.ImageHDU(pixels().astype(np.int16), fits.Header({"FILTER": "B"}))
    fits.HDUList([fits.PrimaryHDU(header=header), table, image]).writeto(tmp_path / "a.fit")
    facts, data = examine(str(tmp_path / "a.fit"))
    assert (facts["exposure_s"], facts["object"], facts["filter"]) == (12.0, "M 1", "B")
    assert np.array_equal(data[0], pixels())


def test_missing_padding_is_no_truncation(tmp_path):
    path = Path(write(tmp_path / "a.fit"))
    path.write_bytes(path.read_bytes()[: 2880 + 4000])
    assert inspect(str(path))["status"] == "ok"


# --- headers


def test_facts_and_checksum(tmp_path):
    path = write(
        tmp_path / "a.fit", EXPTIME=30, OBJECT="NGC 1 'O''Neill'", FILTER="Ha ", GAIN=100, CCD_TEMP=-9.9,
        DATE_OBS="2024-05-06T07:08:09.5", IMAGETYP="Light Frame",
    )  # fmt: skip
    facts = inspect(path, "night/a.fit")
    assert facts["name"] == "night/a.fit" and facts["path"] == path
    assert (facts["status"], facts["reason"], facts["kind"], facts["bayer"]) == ("ok", None, "mono", None)
    assert facts["object"] == "NGC 1 'O''Neill'" and facts["filter"] == "Ha" and facts["gain"] == 100
    assert facts["exposure_s"] == 30 and facts["temperature_c"] == -9.9
    assert facts["date_obs"] == "2024-05-06T07:08:09.500"
    said = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
    assert said.split()[0] == facts["sha256"] and os.path.getsize(path) == facts["bytes"]
    json.dumps(facts, allow_nan=False)


@pytest.mark.parametrize(
    ("cards", "date"),
    [
        (["DATE-OBS= '2017-12-19T18:33:43.317-0700'"], "2017-12-20T01:33:43.317"),
        (["DATE-OBS= '2025-03-27T01:20:32.955368'"], "2025-03-27T01:20:32.955"),
        (["DATE-OBS= '2025-03-27T01:20:32Z'"], "2025-03-27T01:20:32.000"),
        (["DATE-OBS= '2025-03-27 01:20:32'"], "2025-03-27T01:20:32.000"),
        (["DATE-OBS= '2025-03-27'", "TIME-OBS= '01:20:32.5'"], "2025-03-27T01:20:32.500"),
        (["DATE-OBS= '2025-03-27'"], "2025-03-27T00:00:00.000"),
        (["DATE-OBS= '27/03/99'", "UT      = '01:20:32'"], "1999-03-27T01:20:32.000"),
        (["DATE-OBS= 'yesterday'", "MJD-OBS =              60000.25"], "2023-02-25T06:00:00.000"),
        (["DATE-OBS= '2025-13-45T99:00:00'"], None),
        (["MJD-OBS =                1E+300"], None),
        ([], None),
    ],
)
def test_dates(tmp_path, cards, date):
    assert inspect(raw(tmp_path / "a.fit", cards))["date_obs"] == date


@pytest.mark.parametrize(
    ("cards", "celsius"),
    [
        (["CCD-TEMP=                -15.0"], -15.0),
        (["SET-TEMP=                -20"], -20.0),
        (["SET-TEMP=                -20", "CCD-TEMP= '-19.5   '"], -19.5),
        (["CAMTEMP = 271.0 / CCD Camera Temperature in Kelvin, =-1 if no data"], -2.15),
        (["CAMTEMP = -1 / CCD Camera Temperature in Kelvin, =-1 if no data"], None),
        (["CCD-TEMP=                 -999"], None),
        ([], None),
    ],
)
def test_temperatures(tmp_path, cards, celsius):
    assert inspect(raw(tmp_path / "a.fit", cards))["temperature_c"] == celsius


@pytest.mark.parametrize(
    ("card", "exposure"),
    [
        ("EXPTIME = 060.00 / Exposure time in Seconds", 60),
        ("EXPOSURE=                  10.", 10),
        ("EXPTIME = '120     '", 120),
        ("EXPTIME =             1.5D+02", 150),
        ("EXPTIME =                   -1", None),
        ("EXPTIME = 'long'", None),
        ("EXPTIME =                  NaN", None),
    ],
)
def test_exposures(tmp_path, card, exposure):
    assert inspect(raw(tmp_path / "a.fit", [card]))["exposure_s"] == exposure


@pytest.mark.parametrize(
    ("cards", "pattern"),
    [
        (["BAYERPAT= 'RGGB    '"], "RGGB"),
        (["BAYERPAT= 'bggr'"], "BGGR"),
        (["COLORTYP= 'GRBG'"], "GRBG"),
        (["BAYERPAT= 'GBRG'", "COLORTYP= 'GBRG'"], "GBRG"),
        (["BAYERPAT= 'RGGB'", "XBAYROFF= 1"], "GRBG"),
        (["BAYERPAT= 'RGGB'", "YBAYROFF= 1"], "GBRG"),
        (["BAYERPAT= 'RGGB'", "XBAYROFF= 1", "YBAYROFF= 1"], "BGGR"),
        (["BAYERPAT= 'GRBG'", "XBAYROFF= 2", "ROWORDER= 'TOP-DOWN'"], "GRBG"),
        (["BAYERPAT= 'RGGB'", "ROWORDER= 'BOTTOM-UP'"], "GBRG"),
        (["BAYERPAT= 'RGGB'", "YBAYROFF= 1", "ROWORDER= 'BOTTOM-UP'"], "RGGB"),
        (["BAYERPAT= 'NONE'"], None),
        (["BAYERPAT= '        '"], None),
        ([], None),
    ],
)
def test_bayer_patterns_of_headers(tmp_path, cards, pattern):
    facts = inspect(raw(tmp_path / "a.fit", cards))
    assert (facts["bayer"], facts["kind"]) == (pattern, "cfa" if pattern else "mono")


def test_the_row_order_does_not_matter_to_an_odd_number_of_rows(tmp_path):
    cards = ["BAYERPAT= 'RGGB'", "ROWORDER= 'BOTTOM-UP'"]
    path = raw(tmp_path / "a.fit", cards, pixels((41, 50)).astype(">i2").tobytes(), (50, 41))
    assert inspect(path)["bayer"] == "RGGB"


def test_the_configured_pattern_is_for_frames_without_one(tmp_path):
    assert inspect(write(tmp_path / "a.fit"), bayer="GBRG")["bayer"] == "GBRG"
    assert inspect(write(tmp_path / "b.fit", BAYERPAT="GBRG"), bayer="GBRG")["bayer"] == "GBRG"
    moved = raw(tmp_path / "c.fit", ["BAYERPAT= 'RGGB'", "XBAYROFF= 1"])
    assert inspect(moved, bayer="RGGB")["bayer"] == inspect(moved, bayer="GRBG")["bayer"] == "GRBG"
    cube = write(tmp_path / "d.fit", pixels((3, 40, 50)).astype(np.uint16), BAYERPAT="RGGB")
    assert inspect(cube, bayer="GBRG")["bayer"] is None


def test_a_pattern_that_contradicts_the_configuration_is_an_error(tmp_path):
    path = write(tmp_path / "a.fit", BAYERPAT="RGGB")
    with pytest.raises(StackingError, match=r"night/a.fit.*RGGB.*bayer: GBRG"):
        inspect(path, "night/a.fit", "GBRG")
    with pytest.raises(StackingError, match="RGGB"):
        scan([("a.fit", path)], None, SETTINGS | {"bayer": "GBRG"}, str(tmp_path / "m"), str(tmp_path / "s"))


def test_the_cards_that_the_stack_takes_over(tmp_path):
    path = write(
        tmp_path / "a.fit", CTYPE1="RA---TAN-SIP", CRPIX1=20.5, CD1_1=1e-4, PV1_1=1.0, OBJECT="M 1", RA=10.5,
        EXPTIME=3, DATE_OBS="2024-01-01T00:00:00",
    )  # fmt: skip
    with fits.open(path, mode="update") as file:
        file[0].header.rename_keyword("CD1-1", "CD1_1")
        file[0].header.rename_keyword("PV1-1", "PV1_1")
        file[0].header["A_1_1"] = 2e-7
    cards = inspect(path)["cards"]
    header = fits.Header.fromstring("".join(cards))
    assert dict(header) == {
        "CTYPE1": "RA---TAN-SIP", "CRPIX1": 20.5, "CD1_1": 1e-4, "PV1_1": 1.0, "OBJECT": "M 1", "RA": 10.5,
        "A_1_1": 2e-7,
    }  # fmt: skip
    assert {len(card) for card in cards} == {80}


# --- bad files


def truncated(path):
    whole = Path(write(path)).read_bytes()
    path.write_bytes(whole[: 2880 + 3990])


def compressed(path):
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(pixels().astype(np.int16))]).writeto(path)


def no_image(path):
    fits.HDUList(
        [fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1])])]
    ).writeto(path)


BAD = {
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "text": (lambda path: path.write_text("SIMPLE words\n" * 9), "no end"),
    "picture": (lambda path: path.write_bytes(b"\x89PNG" + bytes(5000)), "no FITS"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(bytes(9000))), "gunzip"),
    "half a header": (lambda path: path.write_bytes(b"SIMPLE  =                    T".ljust(2000)), "no end"),
    "truncated": (truncated, "truncated: 6870 bytes of 6880"),
    "compressed": (compressed, "funpack"),
    "no image": (no_image, "no image"),
    "one-dimensional": (lambda path: write(path, np.arange(5000, dtype=np.int16)), "no image"),
    "constant": (lambda path: write(path, np.full((40, 50), 7, np.int16)), "all its pixels are 7"),
    "nan": (lambda path: write(path, np.full((40, 50), np.nan, np.float32)), "none of its pixels"),
    "no green": (lambda path: write(path, pixels((3, 40, 50)) * [[[1]], [[0]], [[1]]]), "colour 2 are 0"),
    "colour last": (lambda path: write(path, pixels((40, 50, 3)).astype(np.int16)), "colour last"),
    "many planes": (lambda path: write(path, pixels((5, 40, 50)).astype(np.int16)), "50 x 40 x 5"),
    "small": (lambda path: write(path, pixels((20, 50)).astype(np.int16)), "smaller"),
    "dark": (lambda path: write(path, IMAGETYP="Dark Frame"), "no light.*Dark Frame"),
    "bias": (lambda path: write(path, IMAGETYP="BIAS"), "no light"),
    "zero": (lambda path: write(path, FRAME="zero"), "no light"),
    "flat": (lambda path: write(path, IMAGETYP="Flat Field"), "no light"),
    "master": (lambda path: write(path, IMAGETYP="Master Light"), "no light"),
    "colour filter": (lambda path: write(path, BAYERPAT="CYGM"), "CYGM"),
    "two patterns": (lambda path: write(path, BAYERPAT="RGGB", COLORTYP="BGGR"), "two Bayer patterns"),
    "no scale": (lambda path: raw(path, ["BSCALE  =                    0"]), "BSCALE 0"),
    "negative": (lambda path: raw(path, [], shape=(-50, 40)), "negative"),
    "bits": (lambda path: raw(path, [], bitpix=17), "BITPIX 17"),
    "words for numbers": (lambda path: raw(path, ["NAXIS1  = 'fifty'"], shape=()), "no image"),
    "directory": (lambda path: path.mkdir(), "no file"),
    "pipe": (os.mkfifo, "no file"),
    "missing": (lambda path: None, "No such file"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_has_its_reason(tmp_path, fault):
    make, reason = BAD[fault]
    path = tmp_path / "bad.fit"
    make(path)
    facts, image = examine(str(path), "bad.fit")
    assert facts["status"] == "bad" and image is None
    assert re.search(reason, facts["reason"]), facts["reason"]
    assert "\n" not in facts["reason"]
    assert path.is_file() == bool(facts["sha256"])
    json.dumps(facts, allow_nan=False)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1300), st.integers(0, 255)), min_size=1, max_size=20))
def test_no_damage_to_a_header_raises_anything(tmp_path_factory, damage):
    path = tmp_path_factory.getbasetemp() / "damaged.fit"
    content = bytearray(
        Path(write(path, BAYERPAT="RGGB", EXPTIME=3, DATE_OBS="2024-01-01T00:00:00")).read_bytes()
    )
    for at, value in damage:
        content[at] = value
    path.write_bytes(content)
    facts, image = examine(str(path), "damaged.fit")
    assert (facts["status"] == "ok") == (image is not None) == (facts["reason"] is None)
    json.dumps(facts, allow_nan=False)


# --- files that change


def test_a_frame_that_changed_since_the_scan_is_noticed(tmp_path):
    path = Path(write(tmp_path / "a.fit"))
    facts, image = examine(str(path), "night/a.fit")
    os.utime(path)
    assert np.array_equal(read_pixels(facts), image)  # another time, the same content
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(content)
    with pytest.raises(Changed, match=r"night/a.fit.*another content"):
        read_pixels(facts)
    os.utime(path, ns=(facts["mtime"], facts["mtime"]))  # as a failing disk does it
    with pytest.raises(Changed, match=r"night/a.fit.*another content"):
        read_pixels(facts)
    path.write_bytes(content + bytes(2880))
    with pytest.raises(Changed, match=r"night/a.fit.*another size"):
        read_pixels(facts)
    path.unlink()
    with pytest.raises(StackingError, match=r"night/a.fit.*no longer"):
        read_pixels(facts)


def test_what_tells_of_a_frame_that_changed_is_removed(tmp_path):
    path = Path(write(tmp_path / "a.fit"))
    facts, _ = examine(str(path), "night/a.fit")
    table = tmp_path / "scan.npz"
    table.write_bytes(b"")
    path.unlink()
    with pytest.raises(SystemExit, match=r"night/a.fit.*run the command again"), reported():
        load_frame(facts, None, np.empty(0, np.int64), str(table))
    assert not table.exists()


# --- the phase


def starfield(seed=0, shape=(96, 128), bayer=None):
    rng = np.random.default_rng(seed)
    image = rng.normal(1000, 10, shape)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for _ in range(12):
        cx, cy = rng.uniform(12, shape[1] - 12), rng.uniform(12, shape[0] - 12)
        image += rng.uniform(1000, 9000) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 2 / 1.5**2)
    return image.round().astype(np.uint16)


@pytest.fixture
def campaign(tmp_path):
    """Six frames, of which the third is truncated and the fifth is of another kind, and their list."""
    hot = np.random.default_rng(9).integers(0, 96 * 128, 30)
    for number in range(6):
        data = starfield(number)
        data.reshape(-1)[hot] += 20_000
        extra = {"BAYERPAT": "RGGB"} if number == 4 else {}
        write(tmp_path / f"light_{number}.fit", data, EXPTIME=30, **extra)
    path = tmp_path / "light_2.fit"
    path.write_bytes(path.read_bytes()[:9000])
    return lights({"lights": str(tmp_path), "recursive": False})


def scanned(paths, directory, name="all", **changes):
    manifest, stars = directory / f"{name}.json", directory / f"{name}.npz"
    scan(paths, None, SETTINGS | changes, str(manifest), str(stars))
    return tables.read_json(str(manifest))["frames"], *tables.load(str(stars))


def test_the_manifest_and_the_table_of_a_scan(campaign, tmp_path):
    frames, about, arrays = scanned(campaign, tmp_path)
    assert [frame["name"] for frame in frames] == [f"light_{n}.fit" for n in range(6)]
    assert [frame["status"] for frame in frames] == ["ok", "ok", "bad", "ok", "ok", "ok"]
    assert "truncated" in frames[2]["reason"] and frames[2]["n_stars"] is None
    for frame, full in zip(frames, about["frames"], strict=True):
        assert frame.items() <= full.items() and "pixels" not in frame
        if frame["status"] == "ok":
            assert {"n_stars", "fwhm_px", "eccentricity", "background", "noise", "peak"} <= set(frame)
            channels = 3 if frame["kind"] == "cfa" else 1
            for name in ("channel_noise", "channel_background", "channel_peak"):
                assert len(full[name]) == channels
    mono = frames[0]
    assert mono["background"] == pytest.approx(1000, abs=3) and mono["noise"] == pytest.approx(10, rel=0.15)
    assert mono["fwhm_px"] == pytest.approx(3.53, rel=0.05) and 6 <= mono["n_stars"] <= 12
    assert mono["peak"] < 20_000  # the hot pixels are gone
    count = len(arrays["star_frame"])
    assert arrays["star_frame"].dtype == np.int32 and count == sum(f["n_stars"] or 0 for f in frames)
    for name in ("x", "y", "snr", "fwhm", "r50", "elongation", "theta", "peak"):
        assert arrays[name].shape == (count,) and arrays[name].dtype == np.float64
    assert arrays["flux"].shape == (count, 3)
    assert arrays["hot_frame"].dtype == np.int32 and arrays["hot_index"].dtype == np.int64


def test_later_phases_load_the_frame_that_was_scanned(campaign, tmp_path):
    _, about, arrays = scanned(campaign, tmp_path)
    facts = about["frames"][0]
    hot = arrays["hot_index"][arrays["hot_frame"] == 0]
    assert 25 <= len(hot) <= 32
    image = load_frame(facts, None, hot)
    assert image.shape == (1, 96, 128) and image.max() == facts["channel_peak"][0]
    clean = starfield(0).astype(np.float32)
    assert (np.abs(image[0] - clean).reshape(-1)[hot] < 400).all()
    assert np.flatnonzero(image[0] != fits.getdata(facts["path"])).tolist() == hot.tolist()


def test_the_division_into_chunks_changes_nothing(campaign, tmp_path):
    frames, about, arrays = scanned(campaign, tmp_path)
    position = 0
    for number, chunk in enumerate([campaign[:1], campaign[1:4], campaign[4:]]):
        some, facts, parts = scanned(chunk[::-1], tmp_path, f"chunk{number}")
        assert some == frames[position : position + len(chunk)]
        assert facts["frames"] == about["frames"][position : position + len(chunk)]
        for column, frame in (("x", "star_frame"), ("fwhm", "star_frame"), ("hot_index", "hot_frame")):
            mine = (arrays[frame] >= position) & (arrays[frame] < position + len(chunk))
            assert np.array_equal(arrays[column][mine], parts[column])
            assert np.array_equal(arrays[frame][mine] - position, parts[frame])
        position += len(chunk)


def test_bad_frames_can_end_the_campaign(campaign, tmp_path):
    Path(campaign[0][1]).write_bytes(b"")
    with pytest.raises(
        StackingError, match=r"2 of 6 .*light_0\.fit: it is empty; light_2\.fit: it is trunc"
    ) as error:
        scanned(campaign, tmp_path, on_bad_frame="fail")
    assert "\n" not in str(error.value) and not (tmp_path / "all.npz").exists()


def test_a_chunk_without_any_usable_frame(campaign, tmp_path):
    frames, _, arrays = scanned(campaign[2:3], tmp_path)
    assert [frame["status"] for frame in frames] == ["bad"]
    assert len(arrays["x"]) == len(arrays["star_frame"]) == len(arrays["hot_index"]) == 0


@pytest.mark.parametrize("bayer", [None, "RGGB"])
@pytest.mark.parametrize(
    "image",
    {
        "half without values": np.where(np.arange(128) < 64, np.nan, starfield()),
        "a hole": np.where(np.hypot(*np.mgrid[-48:48, -64:64]) < 40, np.nan, starfield()),
        "one value": np.eye(96, 128) * (np.arange(128) == 50),
        "saturated": np.full((96, 128), 65535) - (np.arange(96) < 9)[:, None] * 60000,
        "no sky": np.random.default_rng(0).uniform(0, 65535, (96, 128)),
        "negative": -1.0 * starfield(),
        "faint": 1e-30 * starfield(),
        "bright": 1e9 * starfield(),
        "chequered": np.indices((96, 128)).sum(axis=0) % 2,
        "tiny": starfield()[:32, :33],
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.filterwarnings("error")
def test_no_picture_ends_the_scan(tmp_path, image, bayer):
    cards = {"BAYERPAT": bayer} if bayer else {}
    path = write(tmp_path / "a.fit", image[1].astype(np.float32), **cards)
    assert scanned([("a.fit", path)], tmp_path)[0][0]["status"] == "ok"


def test_names_that_are_no_text(tmp_path):
    name = os.fsdecode(b"light_\xff.fit")
    shutil.copy(write(tmp_path / "a.fit", starfield()), tmp_path / name)
    found = lights({"lights": str(tmp_path / name), "recursive": False})
    assert scanned(found, tmp_path)[0][0]["status"] == "ok"


def test_calibration_files_are_known_by_name(tmp_path):
    (tmp_path / "darks").mkdir()
    for name in ("b.fit", "a.fits"):
        write(tmp_path / "darks" / name)
    flat = write(tmp_path / "flat.fit")
    given_ = {"calibration": {"dark": str(tmp_path / "darks"), "flat": flat, "bias": None}}
    assert calibration_files(given_) == [str(tmp_path / "darks" / name) for name in ("a.fits", "b.fit")] + [
        flat
    ]


@pytest.mark.skipif(not REAL.is_dir(), reason="real frames are not here")
@pytest.mark.parametrize(
    ("place", "kind", "size", "exposure", "celsius", "date"),
    [
        ("hatp32", "mono", (650, 500), 60, -2.15, "2017-12-20T01:33:43.317"),
        ("m94_osc", "cfa", (1080, 1920), 10, 25.125, "2025-03-27T01:20:32.955"),
        ("m13", "mono", (1392, 1040), 5, None, "2013-05-05T04:09:39.000"),
        ("decam", "mono", (256, 256), 330, None, "2018-08-04T09:23:31.598"),
    ],
)
def test_real_frames(place, kind, size, exposure, celsius, date):
    found = lights({"lights": str(REAL / place), "recursive": False})
    facts, image = examine(found[0][1], found[0][0])
    assert (facts["status"], facts["kind"], facts["width"], facts["height"]) == ("ok", kind, *size)
    assert facts["bayer"] == ("GRBG" if kind == "cfa" else None)
    assert (facts["exposure_s"], facts["temperature_c"], facts["date_obs"]) == (exposure, celsius, date)
    assert np.array_equal(image[0], fits.getdata(found[0][1]).astype(np.float32))
    assert all(inspect(path)["status"] == "ok" for _, path in found[1:4])
