"""Noise that neighbouring pixels share is seen, and only that."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.families.stacking import cells, grain
from ripresa.families.stacking.simulation import EASY, Settings, Truth


def of(image):
    image = np.ascontiguousarray(image, np.float32)
    return grain.coarseness(image, cells.raw_noise(image))


def shifted(noise, x, y):
    """Linear interpolation."""
    noise = (1 - x) * noise[:, :-1] + x * noise[:, 1:]
    return (1 - y) * noise[:-1] + y * noise[1:]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), x=st.floats(0, 1), y=st.floats(0, 1))
def test_interpolated_frames_have_most_of_the_noise_they_had_before(seed, x, y):
    before = np.random.default_rng(seed).normal(500, 10, (300, 300))
    after = np.ascontiguousarray(shifted(before, x, y), np.float32)
    level = cells.raw_noise(after)
    # Half a pixel along both axes leaves a sixth in single pixels, and still takes some from sums of 2 x 2.
    assert 0.55 < grain.coarseness(after, level) * np.median(level) / 10 < 1.08


def test_half_a_pixel_hides_half_of_the_noise_and_more():
    before = np.random.default_rng(0).normal(500, 10, (300, 300))
    after = np.ascontiguousarray(shifted(before, 0.5, 0.5), np.float32)
    assert np.median(cells.raw_noise(after)) < 3
    assert of(after) > 2


def test_raw_frames_keep_their_noise_though_there_are_stars():
    truth = Truth.of(Settings(frames=1, width=600, height=400, seed=2, stars=300), EASY)
    light = truth.light(truth.frames[0].name)[0]
    assert of(light + np.random.default_rng(1).normal(0, 10, light.shape)) == 1


@pytest.mark.parametrize("image", [np.zeros((200, 200)), np.full((200, 200), np.nan), np.ones((20, 300))])
def test_what_has_no_noise_has_no_grain(image):
    assert of(image) == 1
