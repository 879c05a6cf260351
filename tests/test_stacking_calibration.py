"""Masters are built rightly, the right ones are applied, and what they cannot correct is said."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.families.stacking import StackingError, masters, tables
from ripresa.families.stacking.calibration import Calibrator, Mismatch
from ripresa.families.stacking.frames import examine
from ripresa.families.stacking.masters import build_masters, combine
from ripresa.families.stacking.ready import load_frame
from ripresa.families.stacking.scan import scan

H, W = 64, 80
READ_NOISE = 3.0
BIAS = 500 + np.fromfunction(lambda y, x: 5 * np.sin(x), (H, W))
HOT = [(10, 20), (30, 40), (63, 79)]
DEAD = [(15, 50), (40, 7)]
TOLERANCES = {"exposure_tolerance": 0.05, "temperature_tolerance_c": 2}


def dark_current(exposure, celsius=-10.0):
    current = np.full((H, W), 0.5)
    for number, place in enumerate(HOT):
        current[place] = 60 * (number + 1)
    return current * exposure * 2 ** ((celsius + 10) / 6)


def vignetting():
    y, x = np.mgrid[:H, :W]
    flat = 1 - 0.4 * (((x - W / 2) / W) ** 2 + ((y - H / 2) / H) ** 2)
    for place in DEAD:
        flat[place] *= 0.1
    return flat


def write(path, data, noise=READ_NOISE, dtype=np.uint16, **cards):
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    data = data + rng.normal(0, noise, data.shape)
    if np.dtype(dtype).kind == "u":
        data = np.clip(data, 0, 65535).round()
    header = fits.Header()
    for name, value in cards.items():
        header[name.replace("_", "-")] = value
    path.parent.mkdir(exist_ok=True, parents=True)
    fits.PrimaryHDU(data.astype(dtype), header).writeto(path, overwrite=True)
    return str(path)


def raw_bias(directory, count=12):
    for number in range(count):
        write(directory / f"bias_{number}.fit", BIAS, IMAGETYP="Bias Frame", EXPTIME=0.0)
    return str(directory)


def raw_darks(directory, *conditions, count=8):
    for exposure, celsius in conditions:
        for number in range(count):
            write(
                directory / f"dark_{exposure}_{celsius}_{number}.fit",
                BIAS + dark_current(exposure, celsius),
                IMAGETYP="Dark Frame",
                EXPTIME=exposure,
                CCD_TEMP=celsius + 0.1 * (number % 3),
            )
    return str(directory)


def raw_flats(directory, count=8, lamp=None, exposure=2.0, **cards):
    lamp = np.ones((H, W)) if lamp is None else lamp
    for number in range(count):
        level = 20_000 * (1 - 0.07 * number)  # twilight
        data = BIAS + level * vignetting() * lamp
        write(directory / f"flat_{number}.fit", data, 60, IMAGETYP="Flat Field", EXPTIME=exposure, **cards)
    return str(directory)


def light(path, exposure=60.0, celsius=-10.0, sky=None, noise=READ_NOISE, **cards):
    sky = np.full((H, W), 1000.0) if sky is None else sky
    data = BIAS + dark_current(exposure, celsius) + sky * vignetting()
    return write(path, data, noise, EXPTIME=exposure, CCD_TEMP=celsius, IMAGETYP="Light", **cards)


def built(tmp_path, **places):
    output = str(tmp_path / "masters.npz")
    build_masters({"bias": None, "dark": None, "flat": None, **TOLERANCES, **places}, output)
    return output


def about(path):
    return tables.load(path, "about")[0]


def array(path, name):
    return tables.load(path, name)[1][name]


# --- building


def test_a_master_is_the_mean_without_outliers(tmp_path):
    for number in range(20):
        data = BIAS.copy()
        data[number, number] += 5000  # a cosmic ray in each
        write(tmp_path / "bias" / f"{number}.fit", data)
    master = array(built(tmp_path, bias=str(tmp_path / "bias")), "bias")
    error = master[0] - BIAS
    assert np.abs(error).max() < 6 * READ_NOISE / np.sqrt(20)
    # Of what is no outlier little is lost.
    assert error.std() < 1.08 * READ_NOISE / np.sqrt(20)


@pytest.mark.parametrize("count", [3, 5, 8])
def test_one_outlier_among_few_frames_is_left_out(tmp_path, count):
    frames = []
    for number in range(count):
        data = BIAS.copy()
        data[5, 6] += 3000 * (number == 1)
        frames.append(examine(write(tmp_path / f"{number}.fit", data))[0])
    assert abs(combine(frames)[0, 5, 6] - BIAS[5, 6]) < 4 * READ_NOISE


def test_one_or_two_frames_give_their_mean(tmp_path):
    frames = [examine(write(tmp_path / f"{number}.fit", BIAS, dtype=np.float32))[0] for number in range(2)]
    pixels = [fits.getdata(frame["path"]) for frame in frames]
    assert np.allclose(combine(frames[:1])[0], pixels[0])
    assert np.allclose(combine(frames)[0], np.mean(pixels, axis=0))


def test_bands_change_nothing(tmp_path, monkeypatch):
    places = {"bias": raw_bias(tmp_path / "b"), "flat": raw_flats(tmp_path / "f")}
    whole = built(tmp_path, **places)
    content = Path(whole).read_bytes()
    for rows in (1, 7):
        monkeypatch.setattr(masters, "_BUFFER_BYTES", rows * 8 * W * 4)
        assert Path(built(tmp_path, **places)).read_bytes() == content


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=25), st.randoms())
def test_the_clipped_mean_lies_among_its_values_whatever_their_order(values, random):
    column = np.array(values, np.float32).reshape(-1, 1, 1)
    out = np.empty((2, 1), np.float32)
    masters._clipped_means(column, 1, 3.0, out[:1])
    random.shuffle(values)
    masters._clipped_means(np.array(values, np.float32).reshape(-1, 1, 1), 1, 3.0, out[1:])
    assert out[0, 0] == pytest.approx(out[1, 0], rel=1e-6, abs=1e-3)
    assert column.min() - 1e-3 <= out[0, 0] <= column.max() + 1e-3


def test_a_file_is_taken_as_it_is(tmp_path):
    path = write(tmp_path / "masterbias.fit", BIAS, dtype=np.float32)
    assert np.array_equal(array(built(tmp_path, bias=path), "bias")[0], fits.getdata(path))


def test_darks_are_grouped_by_exposure_temperature_and_gain(tmp_path):
    raw_darks(tmp_path / "d", (60.0, -10.0), (60.0, -15.0), (120.0, -10.0), (61.0, -10.0), count=4)
    write(
        tmp_path / "d" / "gain.fit",
        BIAS + dark_current(60),
        IMAGETYP="Dark",
        EXPTIME=60.0,
        GAIN=100,
        CCD_TEMP=-20,
    )
    darks = about(built(tmp_path, dark=str(tmp_path / "d")))["darks"]
    said = sorted(
        (round(dark["exposure_s"], 1), round(dark["temperature_c"]), dark["frames"]) for dark in darks
    )
    assert said == [(60.0, -20, 1), (60.0, -15, 4), (60.5, -10, 8), (120.0, -10, 4)]


def test_master_darks_in_a_directory_stay_apart(tmp_path):
    for exposure in (60.0, 61.0):
        data = BIAS + dark_current(exposure)
        write(
            tmp_path / "d" / f"{exposure}.fit",
            data,
            IMAGETYP="Master Dark",
            EXPTIME=exposure,
            dtype=np.float32,
        )
    assert [dark["frames"] for dark in about(built(tmp_path, dark=str(tmp_path / "d")))["darks"]] == [1, 1]


def test_kinds_in_one_directory_are_told_apart(tmp_path):
    place = raw_bias(tmp_path / "all", 4)
    raw_darks(tmp_path / "all", (60.0, -10.0), count=3)
    raw_flats(tmp_path / "all", 5)
    light(tmp_path / "all" / "light.fit")
    said = about(built(tmp_path, bias=place, dark=place, flat=place))
    assert (said["bias"]["frames"], said["darks"][0]["frames"], said["flat"]["frames"]) == (4, 3, 5)


def test_the_hot_and_the_dead_are_known(tmp_path):
    path = built(
        tmp_path,
        bias=raw_bias(tmp_path / "b"),
        dark=raw_darks(tmp_path / "d", (60.0, -10.0)),
        flat=raw_flats(tmp_path / "f"),
    )
    assert {divmod(int(i), W) for i in array(path, "hot_0")} >= set(HOT)
    assert len(array(path, "hot_0")) <= len(HOT) + 3
    assert [divmod(int(i), W) for i in array(path, "dead")] == sorted(DEAD)


# --- errors


def dark_flats(directory):
    for number in range(2):
        write(directory / f"{number}.fit", BIAS - 9)
    return str(directory)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda d: {"bias": str(d / "nowhere")}, "nowhere does not exist"),
        (lambda d: (d / "empty").mkdir() or {"dark": str(d / "empty")}, "has no FITS files"),
        (lambda d: (d / "x.fit").write_text("x") and {"flat": str(d / "x.fit")}, "flat frame .*x.fit.*no F"),
        (lambda d: {"dark": raw_bias(d / "b")}, "no dark frame, only bias"),
        (
            lambda d: {"bias": raw_bias(d / "b"), "dark": write(d / "dark.fit", BIAS[:40], EXPTIME=60.0)},
            "80x64.*dark.fit is 80x40",
        ),
        (lambda d: {"bias": raw_bias(d / "b"), "flat": dark_flats(d / "f")}, "no brighter than its bias"),
    ],
)  # fmt: skip
def test_unusable_calibration_frames_are_named(tmp_path, make, says):
    with pytest.raises(StackingError, match=says) as error:
        built(tmp_path, **make(tmp_path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "masters.npz").exists()


def test_lights_of_another_size_do_not_fit(tmp_path):
    calibrator = Calibrator(built(tmp_path, bias=raw_bias(tmp_path / "b")))
    facts, image = examine(write(tmp_path / "light.fit", BIAS[:40]))
    with pytest.raises(Mismatch, match=r"80x40.*80x64"):
        calibrator.apply(image, facts)


# --- applying


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    place = tmp_path_factory.mktemp("masters")
    return built(
        place,
        bias=raw_bias(place / "b", 20),
        dark=raw_darks(place / "d", (60.0, -10.0), (60.0, -4.0), (120.0, -10.0), count=20),
        flat=raw_flats(place / "f", 12),
    )


def calibrated(path, masters_table):
    facts, image = examine(path)
    return Calibrator(masters_table).apply(image, facts), facts


def test_a_calibrated_light_is_the_sky(tmp_path, everything):
    image, facts = calibrated(light(tmp_path / "light.fit", noise=0), everything)
    good = np.ones((H, W), bool)
    for place in DEAD:
        good[place] = False
    error = image[0][good] / (1000 * np.median(vignetting())) - 1
    assert abs(np.median(error)) < 0.001 and np.abs(error).max() < 0.015
    said = Calibrator(everything).described(facts)
    assert said["dark"].startswith("60 s, -9.9") and said["flat"]
    assert not said["bias"] and said["warning"] is None


def test_what_the_masters_know_as_bad_is_replaced(tmp_path, everything):
    facts, _ = examine(light(tmp_path / "light.fit"))
    image = load_frame(facts, Calibrator(everything), np.empty(0, np.int64))
    level = np.median(image)
    for place in DEAD + HOT:
        assert image[(0, *place)] == pytest.approx(level, rel=0.03)


@pytest.mark.parametrize(
    ("exposure", "celsius", "dark"),
    [
        (60.0, -10.0, 60), (62.9, -10.0, 60), (57.1, -11.8, 60), (64.0, -10.0, None), (120.0, -9.0, 120),
        (60.0, -5.0, 60), (60.0, -14.0, None), (60.0, None, 60), (None, -10.0, None),
    ],
)  # fmt: skip
def test_the_dark_is_matched_by_exposure_and_temperature(everything, tmp_path, exposure, celsius, dark):
    cards = {"EXPTIME": exposure, "CCD_TEMP": celsius}
    path = write(
        tmp_path / "light.fit", BIAS, **{name: value for name, value in cards.items() if value is not None}
    )
    said = Calibrator(everything).described(examine(path)[0])
    assert (said["dark"] is None) == (dark is None) == said["bias"]
    if dark:
        assert said["dark"].startswith(f"{dark} s") and said["warning"] is None
    else:
        assert "no dark fits" in said["warning"] and "the bias is subtracted" in said["warning"]


def test_of_several_darks_the_nearest_is_taken(everything, tmp_path):
    said = [
        Calibrator(everything).described(examine(light(tmp_path / f"{c}.fit", celsius=c))[0])["dark"]
        for c in (-9.0, -5.5)
    ]
    assert "-9.9" in said[0] and "-3.9" in said[1]


def test_without_a_fitting_dark_the_bias_is_subtracted(everything, tmp_path):
    image, _ = calibrated(light(tmp_path / "light.fit", exposure=10.0, noise=0), everything)
    expected = 1000 + dark_current(10) / vignetting()
    keep = vignetting() > 0.3
    assert image[0][keep] / np.median(vignetting()) == pytest.approx(expected[keep], rel=0.02)


def test_one_calibrator_serves_lights_of_differing_exposure(everything, tmp_path):
    calibrator = Calibrator(everything)
    for exposure in (60.0, 120.0, 60.0):
        facts, image = examine(light(tmp_path / f"{exposure}.fit", exposure))
        own = calibrated(facts["path"], everything)[0]
        assert np.array_equal(calibrator.apply(image, facts), own)


def test_the_flat_of_a_mosaic_keeps_the_colours_of_lights(tmp_path):
    lamp = np.ones((H, W))
    lamp[::2, ::2], lamp[1::2, 1::2] = 0.5, 0.7  # a yellow lamp
    table = built(
        tmp_path, bias=raw_bias(tmp_path / "b", 20), flat=raw_flats(tmp_path / "f", 12, lamp, BAYERPAT="RGGB")
    )
    image, _ = calibrated(light(tmp_path / "light.fit", 0.0, noise=0, BAYERPAT="RGGB"), table)
    red, green, blue = (np.median(image[0, i::2, j::2]) for i, j in ((0, 0), (0, 1), (1, 1)))
    assert red / green == pytest.approx(1, abs=0.01) and blue / green == pytest.approx(1, abs=0.01)
    # Divided by a flat that does not know its colours, it would have those of the lamp.
    assert np.std(image[0, 5:9, 5:9]) < 20


def test_flats_whose_dark_is_there_use_it(tmp_path):
    dark = raw_darks(tmp_path / "d", (60.0, -10.0), (2.0, -10.0))
    for flat in (raw_flats(tmp_path / "f", 4, CCD_TEMP=-10.0), raw_flats(tmp_path / "g", 4, exposure=60.0)):
        number = 0 if flat.endswith("f") else 1
        assert about(built(tmp_path, dark=dark, flat=flat))["flat"]["subtracted"] == [f"dark_{number}"]
    alone = raw_flats(tmp_path / "h", 4, exposure=5.0)
    assert about(built(tmp_path, dark=dark, flat=alone))["flat"]["subtracted"] == []


def test_masters_from_zero_to_one_mean_full_scale(tmp_path):
    data = (BIAS + dark_current(60)) / 65535
    dark = write(tmp_path / "dark.fit", data, 0, dtype=np.float32, EXPTIME=60.0, IMAGETYP="Master Dark")
    image, _ = calibrated(light(tmp_path / "light.fit", noise=0), built(tmp_path, dark=dark))
    assert np.abs(image[0] - 1000 * vignetting()).max() < 1


def test_a_dark_without_its_bias_gets_it_back(tmp_path):
    dark = write(tmp_path / "dark.fit", dark_current(60), 0, dtype=np.float32, EXPTIME=60.0)
    table = built(tmp_path, bias=raw_bias(tmp_path / "b", 20), dark=dark)
    image, facts = calibrated(light(tmp_path / "light.fit", noise=0), table)
    assert Calibrator(table).described(facts)["bias"] and about(table)["darks"][0]["bias_subtracted"]
    assert np.abs(image[0] - 1000 * vignetting()).max() < 6


def test_a_scan_says_how_each_light_was_calibrated(tmp_path, everything):
    for name, exposure in (("a", 60.0), ("b", 10.0)):
        light(tmp_path / "lights" / f"{name}.fit", exposure)
    write(tmp_path / "lights" / "c.fit", BIAS[:40])
    paths = [(f"{name}.fit", str(tmp_path / "lights" / f"{name}.fit")) for name in "abc"]
    given_ = {"bayer": "auto", "on_bad_frame": "skip", "calibration": {}}
    scan(paths, everything, given_, str(tmp_path / "m.json"), str(tmp_path / "s.npz"))
    frames = tables.read_json(str(tmp_path / "m.json"))["frames"]
    assert frames[0]["calibration"]["dark"].startswith("60 s") and not frames[0]["calibration"]["warning"]
    assert "no dark fits 10 s" in frames[1]["calibration"]["warning"]
    assert frames[2]["status"] == "bad" and "80x40" in frames[2]["reason"]
    # Bad pixels that the masters know are not repeated.
    table, arrays = tables.load(str(tmp_path / "s.npz"))
    known = {y * W + x for y, x in DEAD} | {y * W + x for y, x in HOT}
    assert not known & set(arrays["hot_index"][arrays["hot_frame"] == 0].tolist())
    assert table["frames"][0]["background"] == pytest.approx(1000 * np.median(vignetting()), rel=0.02)


def test_without_masters_nothing_is_done(tmp_path):
    facts, image = examine(light(tmp_path / "light.fit"))
    calibrator = Calibrator(None)
    assert np.array_equal(calibrator.apply(image.copy(), facts), image)
    assert calibrator.described(facts) is None and not len(calibrator.bad_indices(facts))
