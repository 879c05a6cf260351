"""Resampling: what is exact stays so, stars keep flux, place and width, nothing rings, no border is lost."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ripresa.families.stacking import StackingError
from ripresa.families.stacking.resampling import PATTERNS, Resampler

H, W = 90, 110
Y, X = np.mgrid[:H, :W].astype(float)
CENTRE = np.array([(W - 1) / 2, (H - 1) / 2])
KERNELS = ("lanczos3", "bicubic")
ANGLES = (0, 0.4, -3, 9, 20, 45, 90.3, 179.6, -95)

angles = st.floats(-180, 180)
shifts = st.tuples(st.floats(-3, 3), st.floats(-3, 3))
quick = settings(max_examples=30, deadline=None)


def turn(degrees, shift=(0.0, 0.0), scale=1.0, parity=1):
    """A map about the centre of the image."""
    a = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(a), -np.sin(a) * parity], [np.sin(a), np.cos(a) * parity]])
    return np.column_stack([linear, CENTRE + shift - linear @ CENTRE])


def moffat(x, y, fwhm, flux, xs=X, ys=Y, beta=3.5):
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    r2 = (xs - x) ** 2 + (ys - y) ** 2
    return flux * (beta - 1) / np.pi / alpha**2 * (1 + r2 / alpha**2) ** -beta


def plane(image, to_frame, kernel="lanczos3", background=800.0, noise=5.0):
    out = np.full(image.shape, 7, np.float32)
    resampler = Resampler(kernel, image.shape[1], image.shape[0])
    resampler.plane(image.astype(np.float32), to_frame, background, noise, out)
    return out


def mosaic(image, pattern, to_frame, kernel="lanczos3", background=800.0, noise=5.0):
    out = np.full((3, *image.shape), 7, np.float32)
    resampler = Resampler(kernel, image.shape[1], image.shape[0])
    resampler.mosaic(image.astype(np.float32), pattern, to_frame, [background] * 3, [noise] * 3, out)
    return out


def inside(to_frame, margin=0.0):
    x = to_frame[0, 0] * X + to_frame[0, 1] * Y + to_frame[0, 2]
    y = to_frame[1, 0] * X + to_frame[1, 1] * Y + to_frame[1, 2]
    low, high = margin - 1e-3, 1e-3 - margin
    return (x >= low) & (x <= W - 1 + high) & (y >= low) & (y <= H - 1 + high)


def measure(image, x, y, background=800.0, radius=12):
    """Flux in an aperture, centroid, and the rms radius under a window about (x, y)."""
    r2 = (X - x) ** 2 + (Y - y) ** 2
    signal = np.where(r2 < radius**2, image - background, 0)
    flux = signal.sum()
    window = signal * np.exp(-r2 / 8)
    return (
        flux,
        (signal * X).sum() / flux,
        (signal * Y).sum() / flux,
        np.sqrt((window * r2).sum() / window.sum()),
    )


@pytest.mark.parametrize("kernel", KERNELS)
@given(dx=st.integers(-5, W + 2), dy=st.integers(-H, 4), half_turn=st.booleans())
@quick
def test_whole_pixels_are_copied(kernel, dx, dy, half_turn):
    image = np.random.default_rng(1).normal(0, 1e4, (H, W)).astype(np.float32)
    out = plane(image, turn(180 if half_turn else 0, (dx, dy)), kernel)
    x, y = (X + dx, Y + dy) if not half_turn else (W - 1 - X + dx, H - 1 - Y + dy)
    covered = (x >= 0) & (x < W) & (y >= 0) & (y < H)
    expected = image[np.clip(y, 0, H - 1).astype(int), np.clip(x, 0, W - 1).astype(int)]
    np.testing.assert_array_equal(out, np.where(covered, expected, np.float32(np.nan)))


@pytest.mark.parametrize("kernel", KERNELS)
@given(angle=angles, shift=shifts, scale=st.floats(0.4, 2.2), parity=st.sampled_from([1, -1]))
@example(angle=2.546875, shift=(0.0, 1.431640625), scale=1.78125, parity=1)
@quick
def test_a_constant_stays_constant_to_the_border(kernel, angle, shift, scale, parity):
    to_frame = turn(angle, shift, scale, parity)
    for out in (
        plane(np.full((H, W), 812.3), to_frame, kernel),
        *mosaic(np.full((H, W), 812.3), "GRBG", to_frame),
    ):
        np.testing.assert_allclose(out[~np.isnan(out)], 812.3, rtol=1e-6)
        missing = np.isnan(out) != ~inside(to_frame)
        assert not np.any(missing & (inside(to_frame, 1e-6) == inside(to_frame, -1e-6)))


@pytest.mark.parametrize(("kernel", "degree"), [("lanczos3", 3), ("bicubic", 2)])
@given(angle=angles, shift=shifts, seed=st.integers(0, 99))
@quick
def test_polynomials_are_kept(kernel, degree, angle, shift, seed):
    """A kernel that shifts or smears what it interpolates fails here."""
    to_frame = turn(angle, shift)
    rng = np.random.default_rng(seed)
    factors = {(p, q): rng.normal() for p in range(degree + 1) for q in range(degree + 1 - p)}

    def surface(x, y):
        u, v = (x - CENTRE[0]) / W, (y - CENTRE[1]) / H
        return 1000 + 100 * sum(f * u**p * v**q for (p, q), f in factors.items())

    out = plane(surface(X, Y), to_frame, kernel, noise=1e6)
    x, y = (to_frame[i, 0] * X + to_frame[i, 1] * Y + to_frame[i, 2] for i in (0, 1))
    interior = inside(to_frame, 7.0)
    np.testing.assert_allclose(out[interior], surface(x, y)[interior], atol=2e-3)


@pytest.mark.parametrize("fwhm", [2.5, 3.0, 4.5])
@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("parity", [1, -1])
def test_stars_keep_flux_place_and_width(fwhm, angle, parity):
    for shift in ((0.5, 0.5), (0.25, -0.5), (0.1, 0.3), (-0.33, 0.8)):
        to_frame = turn(angle, shift, parity=parity)
        at = CENTRE + np.array([4.3, -2.7])
        x, y = to_frame @ [*at, 1]
        out = plane(800 + moffat(x, y, fwhm, 1e6), to_frame)
        truth = measure(800 + moffat(*at, fwhm, 1e6), *at)
        found = measure(np.nan_to_num(out, nan=800), *at)
        assert found[0] == pytest.approx(truth[0], rel=1e-3)
        assert found[1:3] == pytest.approx(truth[1:3], abs=2e-3)
        assert found[3] == pytest.approx(truth[3], rel=0.01)


@pytest.mark.parametrize("angle", ANGLES)
def test_neither_dark_nor_bright_rings(angle):
    image = np.full((H, W), 800.0)
    image[45, 55] = 60000
    image[20:30, 70:80] = 60000
    to_frame = turn(angle, (0.4, 0.27))
    out = plane(image, to_frame, noise=5.0)
    assert np.nanmin(out) > 800 - 3 * 5
    x, y = (to_frame[i, 0] * X + to_frame[i, 1] * Y + to_frame[i, 2] for i in (0, 1))
    near = np.hypot(x - 55, y - 45) < 2 * np.sqrt(2)
    block = (np.abs(x - 74.5) < 7) & (np.abs(y - 24.5) < 7)
    assert np.nanmax(out[~near & ~block]) < 800 + 3 * 5
    assert np.nanmin(plane(image, to_frame, noise=1e6)) < 0, "without clamping it rings"


@pytest.mark.parametrize("kernel", KERNELS)
def test_clamping_leaves_noise_alone(kernel):
    image = np.random.default_rng(4).normal(800, 30, (H, W))
    to_frame = turn(2, (0.5, 0.5))
    clamped, free = (plane(image, to_frame, kernel, noise=noise) for noise in (30, 1e6))
    assert np.nanmean(np.abs(clamped - free)) < 0.01 * 30


def test_a_missing_pixel_leaves_a_small_hole():
    image = np.full((H, W), 800.0)
    image[45, 55] = np.nan
    for angle in (1, 30):
        to_frame = turn(angle, (0.3, 0.3))
        hole = np.isnan(plane(image, to_frame)) & inside(to_frame)
        assert 0 < hole.sum() <= 49
        back = np.linalg.solve(to_frame[:, :2], np.array([55, 45]) - to_frame[:, 2])
        assert np.hypot(X - back[0], Y - back[1])[hole].max() < 5


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_colours_lie_upon_each_other_and_keep_their_flux(pattern, kernel):
    strength = {"R": 1.0, "G": 2.0, "B": 0.5}
    for angle, shift in ((0, (0, 0)), (0.7, (0.5, 0.3)), (180.2, (1.25, -0.75)), (-40, (0.1, 2.6))):
        to_frame = turn(angle, shift)
        at = CENTRE + np.array([3.4, 1.7])
        star = moffat(*(to_frame @ [*at, 1]), 4.0, 1e6)
        raw = np.empty((H, W))
        for i, colour in enumerate(pattern):
            raw[i // 2 :: 2, i % 2 :: 2] = 800 + strength[colour] * star[i // 2 :: 2, i % 2 :: 2]
        truth = measure(800 + moffat(*at, 4.0, 1e6), *at)
        for out, colour in zip(mosaic(raw, pattern, to_frame, kernel), "RGB", strict=True):
            flux, x, y, _ = measure(np.nan_to_num(out, nan=800), *at)
            assert flux == pytest.approx(strength[colour] * truth[0], rel=2e-3)
            assert (x, y) == pytest.approx(truth[1:3], abs=0.01)


@pytest.mark.parametrize("shape", [(H, W), (H - 1, W - 1)])
def test_every_raw_pixel_counts_for_its_colour_only(shape):
    for y, x in ((0, 0), (0, 1), (31, 40), (shape[0] - 1, shape[1] - 1)):
        raw = np.zeros(shape)
        raw[y, x] = 1.0
        out = mosaic(raw, "RGGB", turn(0), background=0.0, noise=1e6)
        colour = {(0, 0): 0, (1, 1): 2}.get((y % 2, x % 2), 1)
        total = out.sum(axis=(1, 2))
        edge = min(y, shape[0] - 1 - y, x, shape[1] - 1 - x) < 6
        assert total[colour] == pytest.approx(2.0 if colour == 1 else 4.0, rel=1.0 if edge else 1e-4)
        assert total[colour] > 0.5
        assert not np.any(np.delete(out, colour, 0))


def test_frame_and_grid_may_differ_in_size():
    image = np.random.default_rng(5).normal(800, 30, (40, 70)).astype(np.float32)
    resampler = Resampler("lanczos3", 33, 50)
    out = np.empty((50, 33), np.float32)
    resampler.plane(image, np.array([[1.0, 0, 5], [0, 1, -4]]), 800, 30, out)
    np.testing.assert_array_equal(out[4:44], image[:40, 5:38])
    assert np.isnan(out[:4]).all() and np.isnan(out[44:]).all()
    resampler.plane(image, np.array([[1.0, 0, 500], [0, 1, 0.5]]), 800, 30, out)
    assert np.isnan(out).all()


def test_an_unknown_kernel_is_refused():
    with pytest.raises(StackingError, match=r"registration\.interpolation.*'cubic'.*bicubic, lanczos3"):
        Resampler("cubic", 10, 10)
