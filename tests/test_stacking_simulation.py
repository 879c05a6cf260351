"""Simulated nights: what is written is what the truth says, whoever asks for which part of it."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import sep
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from hypothesis import given
from hypothesis import strategies as st

from ripresa.families.stacking import StackingError
from ripresa.families.stacking.simulation import (
    EASY,
    RAW,
    TRUTH,
    Conditions,
    Settings,
    Truth,
    calibrate,
    frame_names,
    optics,
    simulate,
)
from ripresa.families.stacking.simulation.kernels import STEP, add_smooth, add_stars, add_trail, expose

SMALL = {"frames": 5, "width": 300, "height": 200, "seed": 3}
MONO = np.zeros((2, 2), np.int64)


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A small hard night: its directory and truth."""
    directory = tmp_path_factory.mktemp("night")
    return directory, simulate(SMALL, directory)


def data(path):
    return fits.getdata(path).astype(np.float64)


def files(directory):
    return {path.name: path.read_bytes() for path in directory.glob("*.fits")}


def test_a_seed_gives_the_same_bytes_whoever_makes_which_frames(night, tmp_path):
    directory, _ = night
    whole = files(directory)
    assert sorted(whole) == frame_names(SMALL) == [f"light_{n:04d}.fits" for n in range(1, 6)]
    for part in (["light_0004.fits", "light_0001.fits"], ["light_0002.fits"]):
        simulate(SMALL, tmp_path, only=part)
    assert files(tmp_path) == {name: whole[name] for name in files(tmp_path)}
    assert len(files(tmp_path)) == 3
    assert not (tmp_path / TRUTH).exists()


def test_another_seed_gives_another_night(night, tmp_path):
    directory, truth = night
    other = simulate({**SMALL, "seed": 4}, tmp_path, only=["light_0001.fits"])
    assert files(tmp_path)["light_0001.fits"] != files(directory)["light_0001.fits"]
    assert not np.array_equal(other.field.x[:20], truth.field.x[:20])


def test_a_longer_night_begins_like_a_shorter_one():
    short, long = (Truth.of(Settings(frames=n), Conditions()) for n in (8, 40))
    same = ("fwhm_px", "transparency", "sky", "ellipticity", "tilt", "gradient", "date_obs", "name")
    for one, other in zip(short.frames, long.frames, strict=False):
        assert [getattr(one, key) for key in same] == [getattr(other, key) for key in same]
    assert np.array_equal(short.field.flux, long.field.flux)


def test_the_truth_is_read_as_it_was_written(night):
    directory, truth = night
    read = Truth.load(directory / TRUTH)
    assert (read.settings, read.conditions, read.frames) == (truth.settings, truth.conditions, truth.frames)
    for key, value in vars(truth.field).items():
        assert np.array_equal(getattr(read.field, key), value), key
    assert np.array_equal(read.light("light_0003.fits"), truth.light("light_0003.fits"))


def test_a_field_without_stars_and_nebulae_is_written_and_read(tmp_path):
    truth = simulate({**SMALL, "frames": 1, "stars": 0}, tmp_path, conditions=EASY)
    read = Truth.load(tmp_path / TRUTH)
    assert read.light("light_0001.fits").shape == truth.light("light_0001.fits").shape == (1, 200, 300)


def test_headers_say_what_programs_look_for(night):
    directory, truth = night
    header = fits.getheader(directory / "light_0002.fits")
    assert (header["BITPIX"], header["BZERO"], header["NAXIS1"], header["NAXIS2"]) == (16, 32768, 300, 200)
    assert (header["IMAGETYP"], header["EXPTIME"], header["CCD-TEMP"]) == ("Light Frame", 60.0, -10.0)
    assert header["DATE-OBS"] == truth.frames[1].date_obs
    assert "BAYERPAT" not in header


def test_all_frames_place_a_star_at_the_same_point_of_the_sky(night):
    directory, truth = night
    assert {frame.flipped for frame in truth.frames} == {False, True}
    warnings.filterwarnings("ignore", category=FITSFixedWarning)
    places = [
        np.stack(WCS(fits.getheader(directory / frame.name)).all_pix2world(*truth.positions(frame.name), 0))
        for frame in truth.frames
    ]
    assert np.ptp(places, axis=0).max() < 1e-8


def test_stars_are_where_the_truth_says_and_as_bright_and_as_wide(tmp_path):
    conditions = replace(EASY, rotation_deg=4, flip_at=0.5, faintest=1e5, sky=100, bias=0, brightest=3e5)
    truth = simulate({**SMALL, "frames": 6, "stars": 14}, tmp_path, conditions=conditions)
    seen = 0
    for frame in truth.frames:
        x, y = truth.positions(frame.name)
        crowd = np.hypot(x[:, None] - x, y[:, None] - y) + 1e9 * np.eye(len(x))
        good = (x > 30) & (x < 270) & (y > 30) & (y < 170) & (crowd.min(axis=1) > 40)
        x, y, flux = x[good], y[good], truth.flux(frame.name)[good, 0]
        image = data(tmp_path / frame.name)
        image -= np.median(image)
        found_x, found_y, _ = sep.winpos(image, x + 0.3, y - 0.3, np.full(len(x), frame.fwhm_px / 2.355))
        assert np.hypot(found_x - x, found_y - y).max() < 0.06
        light, _, _ = sep.sum_circle(image, x, y, 14.0, bkgann=(16, 24))
        assert np.abs(light / flux - 1).max() < 0.03
        # Half the light of a Moffat profile is within a sqrt(2^(1/(beta-1)) - 1).
        core = optics.widths(truth.settings, frame, x, y) / (2 * np.sqrt(2 ** (1 / frame.beta) - 1))
        r50, _ = sep.flux_radius(image, x, y, np.full(len(x), 14.0), 0.5, subpix=5)
        assert np.median(r50 / (core * np.sqrt(2 ** (1 / (frame.beta - 1)) - 1))) == pytest.approx(
            1, abs=0.04
        )
        seen += len(x)
    assert seen >= 10


@given(seed=st.integers(0, 50), pair=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_transforms_lead_from_frame_to_frame_and_back(seed, pair):
    truth = Truth.of(Settings(frames=10, seed=seed), Conditions())
    one, other = (truth.frames[i].name for i in pair)
    there = truth.transform(one, other)
    assert np.allclose(optics.apply(there, *truth.positions(one)), truth.positions(other))
    back = optics.compose(truth.transform(other, one), there)
    assert np.allclose(back, [[1, 0, 0], [0, 1, 0]], atol=1e-9)


@given(seed=st.integers(0, 50), rotation=st.floats(-10, 10), drift=st.floats(0, 200))
def test_every_pointing_lies_within_the_field_of_stars(seed, rotation, drift):
    settings = Settings(frames=20, seed=seed, width=200, height=120)
    truth = Truth.of(settings, replace(Conditions(), rotation_deg=rotation, drift_px=drift))
    x_margin, y_margin = np.abs(truth.field.x - 99.5).max() - 99.5, np.abs(truth.field.y - 59.5).max() - 59.5
    corners = np.array([[0, 199, 0, 199], [0, 0, 119, 119.0]])
    for frame in truth.frames:
        x, y = optics.apply(optics.inverse(frame.to_frame), *corners)
        # The outermost stars are within the mean distance of stars, some 60 px, of the border of the field.
        assert np.abs(x - 99.5).max() - 99.5 < x_margin + 60
        assert np.abs(y - 59.5).max() - 59.5 < y_margin + 60


def test_noise_is_that_of_light_and_reading():
    random = np.random.default_rng(0)
    counts = np.empty((1000, 1000), np.uint16)
    for mean in (30.0, 800.0):
        noise = random.standard_normal(counts.shape, np.float32)
        expose(np.full(counts.shape, mean, np.float32), noise, 8.0, 300.0, counts)
        electrons = counts.astype(float) - 300
        assert electrons.mean() == pytest.approx(mean, abs=0.1)
        assert electrons.var() == pytest.approx(mean + 64 + 1 / 12, rel=0.01)
        third = np.mean((electrons - electrons.mean()) ** 3)
        assert third == pytest.approx(
            mean, abs=6 * np.sqrt(15 * electrons.var() ** 3 / counts.size) + 0.05 * mean
        )


def test_what_is_too_bright_is_saturated():
    counts = np.empty((4, 4), np.uint16)
    expose(np.full((4, 4), 1e6, np.float32), np.zeros((4, 4), np.float32), 8.0, 300.0, counts)
    assert (counts == 65535).all()


def test_a_profile_holds_its_flux():
    image = np.zeros((401, 401), np.float32)
    form = np.array([[0.12, 0.03, 0.08]])
    add_stars(image, MONO, np.array([200.3]), np.array([199.6]), np.array([[1e6]]), form, 3.5)
    assert image.sum() == pytest.approx(1e6, rel=2e-3)
    image[:] = 0
    add_stars(image, MONO, np.array([-0.5]), np.array([200.0]), np.array([[1e6]]), form, 3.5)
    assert image.sum() == pytest.approx(5e5, rel=0.2)  # half of it is beside the image


def test_smooth_light_is_interpolated_between_its_points():
    rows, columns = np.mgrid[0:8, 0:9] * float(STEP)
    plane = (3 + 0.5 * columns - 0.25 * rows).astype(np.float32)
    image = np.zeros((50, 61), np.float32)
    add_smooth(image, MONO, plane[None])
    y, x = np.mgrid[:50, :61]
    assert np.allclose(image, 3 + 0.5 * x - 0.25 * y, atol=1e-4)


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.5, np.pi / 2, 2.5])
def test_a_trail_crosses_the_frame_with_its_width(angle):
    image = np.zeros((120, 160), np.float32)
    add_trail(image, 80.0, 60.0, angle, 1.5, 100.0)
    y, x = np.mgrid[:120, :160]
    distance = (x - 80) * np.sin(angle) - (y - 60) * np.cos(angle)
    assert np.allclose(image, 100 * np.exp(-0.5 * (distance / 1.5) ** 2), atol=0.01)


def test_defects_of_the_camera_stay_and_cosmic_rays_do_not(tmp_path):
    conditions = replace(EASY, hot_pixels=100, cold_pixels=5, cosmic_rays=300, gradient=0, curvature=0)
    simulate({**SMALL, "frames": 4, "stars": 0}, tmp_path, conditions=conditions)
    images = np.stack([data(path) for path in sorted(tmp_path.glob("*.fits"))])
    away = (images - np.median(images, axis=(1, 2), keepdims=True)) / np.sqrt(864)
    assert (away > 9).all(axis=0).sum() == 100
    assert (away < -9).all(axis=0).sum() == 5
    once = ((away > 9).sum(axis=0) == 1).sum()
    assert once > 30


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GBRG", "GRBG"])
def test_colours_lie_in_their_pattern(pattern, tmp_path):
    truth = simulate({**SMALL, "frames": 1, "bayer": pattern}, tmp_path)
    assert fits.getheader(tmp_path / "light_0001.fits")["BAYERPAT"] == pattern
    image, light = data(tmp_path / "light_0001.fits"), truth.light("light_0001.fits")
    assert light.shape == (3, 200, 300)
    for position, colour in enumerate(pattern):
        row, column = divmod(position, 2)
        expected = np.median(light["RGB".index(colour), row::2, column::2])
        assert np.median(image[row::2, column::2]) - 300 == pytest.approx(expected, rel=0.01)


def test_masters_take_away_what_the_camera_adds(tmp_path):
    conditions = replace(RAW, trails=0, cosmic_rays=0)
    truth = simulate({**SMALL, "frames": 1}, tmp_path / "lights", conditions=conditions)
    folders = calibrate(SMALL, tmp_path / "masters", count=8, conditions=conditions)
    masters = {
        kind: np.median([data(p) for p in folder.glob("*.fits")], 0) for kind, folder in folders.items()
    }
    types = {kind: fits.getheader(next(folder.glob("*")))["IMAGETYP"] for kind, folder in folders.items()}
    assert types == {"bias": "Bias Frame", "dark": "Dark Frame", "flat": "Flat Frame"}
    raw = data(tmp_path / "lights" / "light_0001.fits")
    flat = masters["flat"] - masters["bias"]
    flat /= flat[80:120, 120:180].mean()
    middle, corner = (slice(80, 120), slice(120, 180)), (slice(0, 30), slice(0, 30))
    light = truth.light("light_0001.fits")[0]
    before, after = raw - 300, (raw - masters["dark"]) / flat
    assert np.median(after[corner]) / np.median(after[middle]) == pytest.approx(
        np.median(light[corner]) / np.median(light[middle]), rel=0.02
    )
    assert np.median(before[corner]) < 0.9 * np.median(after[corner])


def test_coverage_counts_the_frames_that_reach_a_pixel(night):
    _, truth = night
    coverage = truth.coverage("light_0001.fits")
    assert coverage.shape == (200, 300)
    assert 1 <= coverage.min() < coverage.max() == 5
    assert (truth.coverage("light_0001.fits", ["light_0001.fits"]) == 1).all()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"frames": 0}, "0 frames"),
        ({"width": 3}, "3x400"),
        ({"bayer": "RGBG"}, "RGBG"),
        ({"stras": 5}, "stras"),
    ],
)
def test_settings_without_sense_are_refused_in_one_line(settings, says, tmp_path):
    with pytest.raises(StackingError, match=says) as caught:
        simulate(settings, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_frame_that_the_night_has_not_is_refused(tmp_path):
    with pytest.raises(StackingError, match=r"light_0009\.fits"):
        simulate(SMALL, tmp_path, only=["light_0009.fits"])
