"""Rejection of outliers among frames: what is caught, what must not be, and its invariances."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ripresa.families.stacking import StackingError
from ripresa.families.stacking.rejection import FEW, LANES, METHODS, accept, sort_lanes

CLIPPING = sorted(set(METHODS) - {"none"})
seeds = st.integers(0, 2**32 - 1)


def normal(seed, frames, pixels=LANES, sigma=10.0, level=1000.0):
    return np.random.default_rng(seed).normal(level, sigma, (frames, pixels)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 300))
def test_lanes_are_sorted_for_any_number_of_rows(seed, rows):
    values = np.random.default_rng(seed).integers(-20, 20, (rows, LANES)).astype(np.float32)
    values[values > 15] = np.inf
    flat = values.ravel().copy()
    sort_lanes(flat, rows)
    np.testing.assert_array_equal(flat.reshape(rows, LANES), np.sort(values, axis=0))


@pytest.mark.parametrize("method", CLIPPING)
@pytest.mark.parametrize("frames", [3, 4, 5, 7, 8, 10, 60, 200])
def test_a_cosmic_ray_is_rejected_and_little_else(method, frames):
    values = normal(frames, frames, 1000)
    hit = np.random.default_rng(1).integers(0, frames, values.shape[1])
    values[hit, np.arange(values.shape[1])] += 300.0
    accepted = accept(values, method, noise=10.0, background=1000.0)
    caught = ~accepted[hit, np.arange(values.shape[1])]
    assert caught.mean() >= 0.998
    assert (~accepted).sum() - caught.sum() < 0.01 * values.size


@pytest.mark.parametrize("method", CLIPPING)
def test_low_outliers_are_rejected_too_and_each_side_has_its_own_limit(method):
    values = normal(2, 40, 200)
    values[0] -= 90.0
    values[1] += 90.0
    wide_low = accept(values, method, low=30.0, high=3.0, noise=10.0)
    wide_high = accept(values, method, low=3.0, high=30.0, noise=10.0)
    assert wide_low[0].all() and wide_high[1].all()
    assert (~wide_low[1]).mean() > 0.99 and (~wide_high[0]).mean() > 0.99


def test_none_accepts_all_there_is():
    values = normal(3, 20)
    values[4] = 1e6
    values[7, ::3] = np.nan
    np.testing.assert_array_equal(accept(values, "none"), np.isfinite(values))


@pytest.mark.parametrize("method", METHODS)
def test_values_that_are_not_there_are_not_accepted_and_change_nothing(method):
    values = normal(4, 50)
    values[::7] += 400.0
    gaps = np.full((80, LANES), np.nan, np.float32)
    places = np.sort(np.random.default_rng(4).permutation(80)[:50])
    gaps[places] = values
    accepted = accept(gaps, method, noise=10.0)
    np.testing.assert_array_equal(accepted[places], accept(values, method, noise=10.0))
    assert not accepted[np.setdiff1d(np.arange(80), places)].any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("frames", [1, 2])
def test_one_or_two_values_are_all_accepted(method, frames):
    values = normal(5, frames)
    values[0] += 1e5
    assert accept(values, method, noise=10.0).all()


@pytest.mark.parametrize("method", METHODS)
def test_no_frame_at_all(method):
    assert not accept(np.full((5, 3), np.nan, np.float32), method).any()


@settings(max_examples=50, deadline=None)
@given(seeds, st.sampled_from(CLIPPING), st.integers(3, 40), st.floats(0.2, 30))
def test_a_majority_is_kept_whatever_the_values(seed, method, frames, spread):
    rng = np.random.default_rng(seed)
    values = np.exp(np.clip(rng.normal(0, spread, (frames, LANES)), -60, 60)).astype(np.float32)
    accepted = accept(values, method, low=0.1, high=0.1)
    assert (accepted.sum(axis=0) >= frames // 2 + 1).all()


@settings(max_examples=50, deadline=None)
@given(
    seeds,
    st.sampled_from(CLIPPING),
    st.integers(3, 60),
    st.sampled_from([2.0**n for n in range(-6, 7)]),
    st.integers(-4000, 4000),
)
def test_rejection_does_not_depend_on_scale_and_level(seed, method, frames, scale, level):
    # Such that nothing is rounded: integers of few bits, a power of two.
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(0, 100, (frames, LANES))).astype(np.float32)
    values[rng.random(values.shape) < 0.05] += 2000
    before = accept(values, method, noise=50.0, background=-30.0)
    after = accept(values * scale + level, method, noise=50.0 * scale, background=-30.0 * scale + level)
    np.testing.assert_array_equal(before, after)


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from(sorted(METHODS)))
def test_the_order_of_frames_and_the_place_of_pixels_do_not_matter(seed, method):
    rng = np.random.default_rng(seed)
    values = normal(seed, 30, 100)
    values[rng.random(values.shape) < 0.05] += 200
    values[rng.random(values.shape) < 0.1] = np.nan
    frames, pixels = rng.permutation(30), rng.permutation(100)
    np.testing.assert_array_equal(
        accept(values, method, noise=10.0)[frames][:, pixels],
        accept(values[frames][:, pixels], method, noise=10.0),
    )


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(FEW, 80))
def test_the_shortcut_for_small_deviations_is_exact(seed, frames):
    """Where both extremes are within the limits for the noise nothing is computed; with that noise as the
    floor of sigma, the full computation rejects nothing there either."""
    values = normal(seed, frames, 256)
    noise = 10.0
    middle = np.median(values, axis=0)
    inside = (np.abs(values - middle) <= 3 * noise).all(axis=0)
    sigma = np.maximum([reference_sigma(values[:, p]) for p in range(256)], noise)
    expected = np.abs(values - middle) <= 3 * sigma
    assert expected[:, inside].all()
    np.testing.assert_array_equal(accept(values, noise=noise, background=1e9)[:, inside], expected[:, inside])


def reference_sigma(values):
    """Winsorised standard deviation, written down plainly."""
    values = values.astype(np.float64)
    middle, sigma = np.median(values), np.std(values, ddof=1)
    for _ in range(200):
        clamped = np.clip(values, middle - 1.5 * sigma, middle + 1.5 * sigma)
        before, sigma = sigma, 1.134 * np.std(clamped, ddof=1)
        if abs(sigma - before) <= 0.0005 * before:
            break
    return sigma


def reference_winsorized(values, low, high):
    """The textbook iteration, but for one thing: it ends where no more than a majority would be left."""
    kept, majority = np.ones(values.size, bool), values.size // 2 + 1
    while True:
        middle, sigma = np.median(values[kept].astype(np.float64)), reference_sigma(values[kept])
        beyond = np.maximum(middle - low * sigma - values, values - (middle + high * sigma))
        farthest = [i for i in np.argsort(-beyond) if kept[i] and beyond[i] > 0]
        rejected = farthest[: kept.sum() - majority]
        if not rejected:
            return kept
        kept[rejected] = False


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(20, 120), st.floats(2.5, 4), st.floats(2.5, 4))
@example(423, 20, 3.0, 2.5)  # a majority is left
def test_winsorized_is_the_textbook_iteration(seed, frames, low, high):
    rng = np.random.default_rng(seed)
    values = normal(seed, frames, 40)
    values[rng.random(values.shape) < 0.04] += 150
    accepted = accept(values, "winsorized", low, high, slack=0.0)
    for p in range(values.shape[1]):
        np.testing.assert_array_equal(accepted[:, p], reference_winsorized(values[:, p], low, high))


def test_mad_is_the_textbook_iteration():
    values = normal(11, 31, 300)
    values[3] += 200
    accepted = accept(values, "mad", 3.0, 2.5)
    for p in range(values.shape[1]):
        v = values[:, p].astype(np.float64)
        kept = np.ones(v.size, bool)
        for _ in range(50):
            middle = np.median(v[kept])
            sigma = 1.4826 * np.median(np.abs(v[kept] - middle))
            kept &= (v >= middle - 3.0 * sigma) & (v <= middle + 2.5 * sigma)
        np.testing.assert_array_equal(accepted[:, p], kept)


def test_linear_fit_follows_a_drift_that_is_no_outlier():
    drift = np.linspace(0, 100, 50)[:, None] + normal(6, 50, 200, sigma=1.0)
    drift[20] += 300.0
    accepted = accept(drift.astype(np.float32), "linear_fit", noise=1.0)
    assert not accepted[20].any()
    assert accepted[np.arange(50) != 20].mean() > 0.99


def test_sharp_frames_are_kept_in_the_core_of_a_star():
    """Peaks that differ by the seeing, as exp(normal): a clip by noise and spread takes the sharpest."""
    rng = np.random.default_rng(7)
    peaks = 5000 * np.exp(rng.normal(0, 0.36, (200, 500))) + rng.normal(0, 20, (200, 500))
    values = (peaks + 1000).astype(np.float32)
    plain = accept(values, noise=20.0, background=1000.0, slack=0.0)
    assert (peaks * plain).sum() / plain.sum() < 0.985 * peaks.mean()
    kept = accept(values, noise=20.0, background=1000.0)
    assert abs((peaks * kept).sum() / kept.sum() / peaks.mean() - 1) < 0.002
    values[17] += 30000
    assert not accept(values, noise=20.0, background=1000.0)[17].any()


def test_on_the_sky_the_tolerance_for_stars_changes_next_to_nothing():
    values = normal(8, 60, 2000)
    with_slack = accept(values, noise=10.0, background=1000.0)
    without = accept(values, noise=10.0, background=1000.0, slack=0.0)
    assert (with_slack != without).mean() < 0.002


def test_an_unknown_method_is_an_error():
    with pytest.raises(StackingError, match="winsorised"):
        accept(normal(9, 3), "winsorised")
