"""Bad pixels are found and replaced; stars, however sharp, stay as they are."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.families.stacking import cosmetic
from ripresa.families.stacking.discovery import lights
from ripresa.families.stacking.frames import examine

REAL = Path(__file__).parents[1] / "../shared/data/frames"
SKY, SIGMA = 800.0, 20.0


def noise(shape=(120, 160), seed=0, sigma=SIGMA):
    return np.random.default_rng(seed).normal(SKY, sigma, shape).astype(np.float32)[None]


def light_in_pixels(centre, fwhm, length):
    """The share of a Gaussian profile that falls into each of ``length`` pixels."""
    edges = (np.arange(length + 1) - 0.5 - centre) / (fwhm / 2.3548) / math.sqrt(2)
    return np.diff([math.erf(edge) for edge in edges]) / 2


def add_star(image, x, y, flux, fwhm):
    height, width = image.shape[1:]
    image[0] += flux * np.outer(light_in_pixels(y, fwhm, height), light_in_pixels(x, fwhm, width)).astype(
        np.float32
    )


def found(image, cfa=False):
    width = image.shape[2]
    return {divmod(int(index), width) for index in cosmetic.find(image, cfa)}


@pytest.mark.parametrize("cfa", [False, True])
def test_hot_and_cold_pixels_are_found_and_little_else(cfa):
    image = noise((300, 400))
    rng = np.random.default_rng(1)
    places = {
        (int(y), int(x)) for y, x in zip(rng.integers(2, 298, 300), rng.integers(2, 398, 300), strict=True)
    }
    for number, place in enumerate(sorted(places)):
        image[(0, *place)] += (14 + number) * SIGMA * (-1 if number % 3 == 0 else 1)
    said = found(image, cfa)
    # Two that touch may hide each other.
    assert len(said & places) >= 0.98 * len(places)
    assert len(said - places) <= 2


@pytest.mark.parametrize("flux", [400, 2000, 20_000, 1e6])
def test_undersampled_stars_survive(flux):
    image = noise((300, 300))
    rng = np.random.default_rng(int(flux))
    for y in range(10, 290, 12):
        for x in range(10, 290, 12):
            add_star(image, x + rng.uniform(-0.5, 0.5), y + rng.uniform(-0.5, 0.5), flux, 1.4)
    # Shot noise, of a camera of 1 e/ADU.
    image += rng.normal(0, np.sqrt(np.maximum(image - SKY, 0))).astype(np.float32)
    # Of 576; noise makes a few of the faintest, at the limit of what can be seen, look like a single pixel.
    assert len(found(image)) <= (5 if flux == 400 else 0)


@pytest.mark.parametrize("colours", [(1, 1, 1), (1, 0.5, 0.3)])
@pytest.mark.parametrize("flux", [2000, 50_000])
def test_sharp_stars_of_a_mosaic_survive(flux, colours):
    image = noise((300, 300))
    rng = np.random.default_rng(int(flux))
    for y in range(10, 290, 12):
        for x in range(10, 290, 12):
            add_star(image, x + rng.uniform(-0.5, 0.5), y + rng.uniform(-0.5, 0.5), flux, 2.0)
    red, green, blue = colours
    light = image - SKY
    light[:, ::2, ::2] *= red
    light[:, 1::2, ::2] *= green
    light[:, ::2, 1::2] *= green
    light[:, 1::2, 1::2] *= blue
    assert len(found(SKY + light, cfa=True)) <= 3  # of 576


def test_a_hot_pixel_on_the_flank_of_a_star_is_found():
    image = noise()
    add_star(image, 80.2, 60.1, 40_000, 4.0)
    image[0, 62, 83] += 20_000
    assert found(image) == {(62, 83)}


@pytest.mark.parametrize(
    "track",
    [
        [(50, 60), (50, 61)],
        [(50, 60), (51, 61), (52, 62)],
        [(50, 60), (50, 61), (50, 62), (50, 63)],
    ],
)
def test_tracks_of_cosmic_rays_are_found_whole(track):
    image = noise()
    for y, x in track:
        image[0, y, x] += 100 * SIGMA
    assert found(image) == set(track)


def test_a_trail_is_no_cosmic_ray():
    image = noise()
    y, x = np.mgrid[:120, :160]
    image[0] += 3000 * np.exp(-(((x - 40) * 0.8 - (y - 10) * 0.6) ** 2) / 2 / 1.2**2)
    assert len(found(image)) <= 1


def test_at_the_border_hot_pixels_are_found_and_cut_stars_stay():
    image = noise()
    hot = {(0, 40), (119, 70), (50, 0), (90, 159)}
    for place in hot:
        image[(0, *place)] += 50 * SIGMA
    for x in range(20, 150, 13):
        add_star(image, x + 0.3, -0.9, 30_000, 1.8)  # its middle lies outside
    assert found(image) >= hot
    assert not {place for place in found(image) - hot if place[0] < 3}


def test_nothing_is_found_in_a_picture_without_noise_but_what_differs():
    image = np.full((1, 64, 64), 7, np.float32)
    assert not found(image)
    image[0, 20, 30] = 9
    assert found(image) == {(20, 30)}


def test_single_counts_in_a_dark_sky_are_no_hot_pixels():
    image = (np.random.default_rng(0).random((1, 200, 200)) < 0.02).astype(np.float32)
    assert not found(image)


def test_missing_pixels_are_repaired_where_neighbours_can_and_left_elsewhere():
    image = noise()
    image[0, 10, 10] = np.nan
    image[0, 40:60, 40:60] = np.nan
    indices = cosmetic.find(image, False)
    assert 10 * 160 + 10 in indices
    cosmetic.repair(image, indices, False)
    assert abs(image[0, 10, 10] - SKY) < 3 * SIGMA
    assert np.isnan(image[0, 48:52, 48:52]).all()


def test_a_repaired_mosaic_keeps_its_colours():
    image = np.empty((1, 40, 40), np.float32)
    for number, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        image[0, i::2, j::2] = 100 * (number + 1)
    whole = image.copy()
    places = np.array([0, 45, 405, 846, 1599])
    image.reshape(-1)[places] = 50_000
    assert (cosmetic.repair(image, places, True) == whole).all()


def test_repair_uses_no_bad_pixel_and_changes_no_good_one():
    image = noise()
    block = [(y, x) for y in range(30, 33) for x in range(70, 73)]
    indices = np.array(sorted(y * 160 + x for y, x in block))
    whole = image.copy()
    image.reshape(-1)[indices] = 1e6
    cosmetic.repair(image, indices, False)
    assert np.flatnonzero(image != whole).tolist() == indices.tolist()
    assert (np.abs(image.reshape(-1)[indices] - SKY) < 3 * SIGMA).all()


def test_planes_of_a_cube_are_independent():
    image = np.concatenate([noise(seed=number) for number in range(3)])
    image[2, 5, 6] += 100 * SIGMA
    indices = cosmetic.find(image, False)
    assert indices.tolist() == [(2 * 120 + 5) * 160 + 6]
    before = image.copy()
    cosmetic.repair(image, indices, False)
    assert (image[:2] == before[:2]).all() and abs(image[2, 5, 6] - SKY) < 3 * SIGMA


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([(1, -1), (-1, 1), (-1, -1)]))
def test_what_is_found_does_not_depend_on_the_orientation(seed, cfa, steps):
    rng = np.random.default_rng(seed)
    image = noise((48, 64), seed)
    image.reshape(-1)[rng.integers(0, image.size, 40)] += rng.uniform(-400, 4000, 40).astype(np.float32)
    for _ in range(4):
        add_star(image, *rng.uniform(0, 48, 2), 10_000, 1.6)
    turned = np.ascontiguousarray(image[:, :: steps[0], :: steps[1]])
    places = {(y if steps[0] > 0 else 47 - y, x if steps[1] > 0 else 63 - x) for y, x in found(image, cfa)}
    assert found(turned, cfa) == places


@pytest.mark.parametrize(("sigma", "integers"), [(20.0, False), (1.3, True), (0.6, True)])
def test_the_noise_is_right_for_few_levels_too(sigma, integers):
    image = noise((300, 300), sigma=sigma)[0]
    if integers:
        image = np.round(image)
    truth = math.hypot(sigma, math.sqrt(1 / 12) if integers else 0)
    assert cosmetic.noise(image) == pytest.approx(truth, rel=0.04)


def test_stars_hardly_change_the_noise():
    image = noise((300, 300))
    rng = np.random.default_rng(3)
    for _ in range(40):
        add_star(image, *rng.uniform(0, 300, 2), 50_000, 3)
    assert cosmetic.noise(image[0]) == pytest.approx(SIGMA, rel=0.08)


@pytest.mark.skipif(not REAL.is_dir(), reason="real frames are not here")
@pytest.mark.parametrize(("campaign", "most"), [("hatp32", 900), ("m94_osc", 30), ("m13", 400), ("decam", 5)])
def test_real_frames_lose_no_star(campaign, most):
    """The fraction of pixels found is that of a camera's bad ones, and those of the sharp real stars are
    not among them.
    """
    name, path = lights({"lights": str(REAL / campaign), "recursive": False})[0]
    facts, image = examine(path, name)
    cfa = facts["kind"] == "cfa"
    indices = cosmetic.find(image, cfa)
    assert len(indices) <= most
    repaired = cosmetic.repair(image.copy(), indices, cfa)
    changed = (image - repaired).reshape(-1)[indices]
    # Next to each changed pixel there is no second one nearly as bright, as a star would have.
    step = 2 if cfa else 1
    y, x = np.divmod(indices, facts["width"])
    inner = (y >= step) & (y < facts["height"] - step) & (x >= step) & (x < facts["width"] - step)
    neighbours = np.sort(
        [
            repaired[0][y[inner] + dy, x[inner] + dx]
            for dy, dx in ((0, step), (0, -step), (step, 0), (-step, 0))
        ],
        0,
    )
    level = np.median(repaired)
    bright = changed[inner] > 50 * cosmetic.noise(image[0], step)
    assert (neighbours[-2][bright] - level < 0.5 * changed[inner][bright] + 0.5 * level).all()
