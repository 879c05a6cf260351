"""Stars are found where they are, as bright and as large as they are; what is no star is left out."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.families.stacking.detection import detect, luminance
from ripresa.families.stacking.matching import position_errors

HEIGHT, WIDTH = 260, 340
SKY, NOISE = 500.0, 10.0


def moffat(height, width, x, y, flux, fwhm, beta=3.5):
    """Stars without sky and noise, sampled at pixel centres: float64 [height, width]."""
    image = np.zeros((height, width))
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    reach = int(12 * fwhm)
    for x0, y0, f in zip(x, y, flux, strict=True):
        i0, i1 = max(int(y0) - reach, 0), min(int(y0) + reach + 1, height)
        j0, j1 = max(int(x0) - reach, 0), min(int(x0) + reach + 1, width)
        i, j = np.mgrid[i0:i1, j0:j1]
        profile = (1 + ((j - x0) ** 2 + (i - y0) ** 2) / alpha**2) ** -beta
        image[i0:i1, j0:j1] += f * profile * (beta - 1) / np.pi / alpha**2
    return image


def grid_of_stars(rng, height=HEIGHT, width=WIDTH, spacing=40.0):
    """Well separated positions at random fractions of a pixel."""
    x, y = np.meshgrid(np.arange(30, width - 25, spacing), np.arange(30, height - 25, spacing))
    return (q.ravel() + rng.uniform(-3, 3, x.size) for q in (x, y))


def noisy(image, rng, noise=NOISE):
    return (image + SKY + rng.normal(0, noise, image.shape)).astype(np.float32)


def pairs(stars, x, y, radius=1.5):
    """(index of detected star, index of true star) of those nearer than ``radius``."""
    distance = np.hypot(stars.x[:, None] - x, stars.y[:, None] - y)
    if not distance.size:
        return np.empty(0, int), np.empty(0, int)
    nearest = distance.argmin(axis=1)
    near = distance[np.arange(len(stars)), nearest] < radius
    return np.flatnonzero(near), nearest[near]


def test_positions_reach_the_photon_limit():
    rng = np.random.default_rng(1)
    x, y = grid_of_stars(rng)
    flux = rng.uniform(6e3, 3e4, len(x))
    off, expected = [], []
    for _ in range(6):
        stars = detect(noisy(moffat(HEIGHT, WIDTH, x, y, flux, 3.2, beta=30), rng)[None])
        found, true = pairs(stars, x, y)
        assert len(found) == len(x)
        assert len(stars) <= len(x) + 2
        off += [stars.x[found] - x[true], stars.y[found] - y[true]]
        # Variance of a coordinate of a Gaussian star on a bright sky: (sigma / snr)^2 2, with snr of the
        # optimally weighted flux.
        sigma = 3.2 / 2.3548
        snr = flux[true] / (NOISE * np.sqrt(4 * np.pi) * sigma)
        expected += 2 * [np.sqrt(2.0) * sigma / snr]
    ratio = np.concatenate(off) / np.concatenate(expected)
    assert ratio.std() < 1.15
    assert abs(ratio.mean()) < 0.15


def test_the_given_errors_of_positions_are_right():
    rng = np.random.default_rng(2)
    x, y = grid_of_stars(rng)
    flux = rng.uniform(3e3, 3e4, len(x))
    ratio = []
    for _ in range(5):
        stars = detect(noisy(moffat(HEIGHT, WIDTH, x, y, flux, 3.0, beta=4), rng)[None])
        found, true = pairs(stars, x, y)
        error = position_errors(stars.fwhm, stars.snr)[found]
        ratio += [(stars.x[found] - x[true]) / error, (stars.y[found] - y[true]) / error]
    assert 0.8 < np.concatenate(ratio).std() < 1.3


@pytest.mark.parametrize(("fwhm", "beta"), [*itertools.product((2.2, 3.0, 5.0, 8.0), (2.5, 3.5, 6.0))])
def test_fwhm_of_moffat_stars(fwhm, beta):
    rng = np.random.default_rng(3)
    x, y = grid_of_stars(rng, spacing=60.0)
    flux = rng.uniform(3e5, 6e5, len(x))
    stars = detect(noisy(moffat(HEIGHT, WIDTH, x, y, flux, fwhm, beta), rng)[None])
    assert stars.median_fwhm == pytest.approx(fwhm, rel=0.02)


def test_half_light_radius():
    rng = np.random.default_rng(4)
    x, y = grid_of_stars(rng)
    stars = detect(noisy(moffat(HEIGHT, WIDTH, x, y, np.full(len(x), 2e5), 4.0, beta=30), rng)[None])
    # Of a Gaussian it is half of the FWHM.
    assert np.median(stars.r50) == pytest.approx(2.0, rel=0.04)


def test_fluxes_of_frames_of_differing_seeing_agree():
    rng = np.random.default_rng(5)
    x, y = grid_of_stars(rng)
    flux = rng.uniform(1e5, 4e5, len(x))
    ratios = []
    for fwhm in (2.6, 4.4):
        stars = detect(noisy(moffat(HEIGHT, WIDTH, x, y, flux, fwhm), rng)[None])
        found, true = pairs(stars, x, y)
        ratios.append(np.median(stars.flux[found, 0] / flux[true]))
    assert ratios[0] == pytest.approx(ratios[1], rel=0.01)
    assert ratios[0] == pytest.approx(1.0, rel=0.04)


def test_elongation_and_its_direction():
    rng = np.random.default_rng(6)
    angle, major, minor = np.radians(30), 2.2, 1.4
    x, y = grid_of_stars(rng)
    i, j = np.mgrid[:HEIGHT, :WIDTH]
    image = np.zeros((HEIGHT, WIDTH))
    for x0, y0 in zip(x, y, strict=True):
        along = (j - x0) * np.cos(angle) + (i - y0) * np.sin(angle)
        across = (i - y0) * np.cos(angle) - (j - x0) * np.sin(angle)
        image += 4000 * np.exp(-0.5 * ((along / major) ** 2 + (across / minor) ** 2))
    stars = detect(noisy(image, rng)[None])
    assert len(stars) == len(x)
    assert np.median(stars.elongation) == pytest.approx(major / minor, rel=0.05)
    assert np.median(stars.theta) == pytest.approx(angle, abs=0.05)
    assert stars.median_eccentricity == pytest.approx(np.sqrt(1 - (minor / major) ** 2), rel=0.05)


def test_hot_pixels_trails_and_saturated_stars_are_no_stars():
    rng = np.random.default_rng(7)
    x, y = grid_of_stars(rng)
    flux = np.geomspace(5e3, 2e6, len(x))
    image = moffat(HEIGHT, WIDTH, x, y, flux, 3.0)
    i, j = np.mgrid[:HEIGHT, :WIDTH]
    image += 600 * np.exp(-0.5 * ((0.4 * j - i + 60) / 1.08) ** 2 / 1.3**2)
    image.flat[rng.choice(image.size, 300, replace=False)] += rng.uniform(300, 30000, 300)
    full = 20000.0
    stars = detect(np.minimum(noisy(image, rng), full)[None])
    found, true = pairs(stars, x, y)
    assert len(stars) - len(found) <= 4
    peak = flux * (3.5 - 1) / np.pi / (3.0 / 2 / np.sqrt(2 ** (1 / 3.5) - 1)) ** 2
    assert peak[true].max() < full
    # Nearly all others, but for those on the trail or beside a hot pixel.
    assert len(found) > 0.75 * np.count_nonzero(peak < 0.9 * (full - SKY))


@pytest.mark.parametrize("number", [0, 1, 15])
def test_few_stars_give_what_there_is(number):
    rng = np.random.default_rng(8)
    x, y = (q[:number] for q in grid_of_stars(rng))
    stars = detect(noisy(moffat(HEIGHT, WIDTH, x, y, np.full(number, 2e4), 3.0), rng)[None])
    found, _ = pairs(stars, x, y)
    assert len(found) == number
    assert len(stars) - number <= 2


@pytest.mark.parametrize("value", [0.0, 1000.0])
def test_an_empty_frame_has_no_stars(value):
    stars = detect(np.full((1, 100, 120), value, np.float32))
    assert len(stars) == 0
    assert np.isnan(stars.median_fwhm)
    assert stars.background == [value]
    assert stars.noise == [0.0]


def test_faint_and_wide_stars_are_found():
    """Peaks of two sigma a pixel, FWHM of 10 px: only smoothing shows them."""
    rng = np.random.default_rng(9)
    x, y = grid_of_stars(rng, spacing=70.0)
    height = 2.0 * NOISE
    image = moffat(HEIGHT, WIDTH, x, y, np.full(len(x), height * 1.2 * 10.0**2), 10.0)
    found, _ = pairs(detect(noisy(image, rng)[None]), x, y, radius=4.0)
    assert len(found) >= 0.8 * len(x)


@pytest.mark.parametrize("bayer", ["RGGB", "BGGR", "GBRG", "GRBG"])
def test_a_mosaic_is_measured_in_its_own_pixels(bayer):
    rng = np.random.default_rng(10)
    x, y = grid_of_stars(rng)
    flux = rng.uniform(1e5, 3e5, len(x))
    star = moffat(HEIGHT, WIDTH, x, y, flux, 3.5)
    gain = {"R": 0.6, "G": 1.0, "B": 0.4}
    sky = {"R": 300.0, "G": 500.0, "B": 250.0}
    mosaic = np.empty_like(star)
    for (i, j), colour in zip(itertools.product((0, 1), (0, 1)), bayer, strict=True):
        mosaic[i::2, j::2] = gain[colour] * star[i::2, j::2] + sky[colour]
    stars = detect((mosaic + rng.normal(0, NOISE, mosaic.shape)).astype(np.float32)[None], bayer)
    found, true = pairs(stars, x, y)
    assert len(found) == len(stars) == len(x)
    assert np.mean(stars.x[found] - x[true]) == pytest.approx(0.0, abs=0.08)
    assert np.mean(stars.y[found] - y[true]) == pytest.approx(0.0, abs=0.08)
    assert stars.median_fwhm == pytest.approx(3.5, rel=0.03)
    for channel, colour in enumerate("RGB"):
        measured = np.median(stars.flux[found, channel] / flux[true])
        assert measured == pytest.approx(gain[colour], rel=0.04)
    assert stars.background == pytest.approx([sky[colour] for colour in "RGB"], abs=5.0)


def test_planes_of_colours():
    rng = np.random.default_rng(11)
    x, y = grid_of_stars(rng)
    flux = rng.uniform(1e5, 3e5, len(x))
    star = moffat(HEIGHT, WIDTH, x, y, flux, 3.0)
    stars = detect(np.stack([noisy(factor * star, rng) for factor in (0.5, 1.0, 0.25)]))
    found, true = pairs(stars, x, y)
    assert len(found) == len(x)
    ratio = np.median(stars.flux[found] / flux[true, None], axis=0)
    assert ratio / ratio[1] == pytest.approx([0.5, 1.0, 0.25], rel=0.01)


def test_brightest_first_and_no_more_than_asked_for():
    rng = np.random.default_rng(12)
    x, y = grid_of_stars(rng)
    flux = rng.permutation(np.geomspace(2e4, 4e5, len(x)))
    stars = detect(noisy(moffat(HEIGHT, WIDTH, x, y, flux, 3.0), rng)[None], limit=10)
    assert len(stars) == 10
    assert np.all(np.diff(stars.flux[:, 0]) <= 0)
    assert stars.flux[0, 0] == pytest.approx(flux.max(), rel=0.05)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(40, 90), st.integers(40, 90), st.floats(-1e4, 6e4))
def test_anything_can_be_looked_at(seed, height, width, level):
    """Whatever the content: finite figures of stars within the frame."""
    rng = np.random.default_rng(seed)
    image = (level + rng.standard_cauchy((1, height, width)) * 10).astype(np.float32)
    stars = detect(image)
    for column in (stars.x, stars.y, stars.flux, stars.snr, stars.fwhm, stars.r50, stars.elongation):
        assert np.isfinite(column).all()
    assert np.all((stars.x >= 0) & (stars.x < width) & (stars.y >= 0) & (stars.y < height))


def test_superpixels_are_where_they_are_said_to_be():
    image = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
    assert luminance(image, "RGGB").tolist() == [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]]
    assert luminance(image, None).tolist() == image[0].tolist()
