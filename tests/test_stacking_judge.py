"""The judge of stacked images: it must see what differs, and not be bribed by scale, mirroring or blur."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from conftest import wait_until
from ripresa.families.stacking.simulation import EASY, Settings, Truth, optics

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
from stacking import judge, match, memory, siril, truth
from stacking.verdict import Verdict

NIGHT = Settings(frames=4, width=600, height=400, seed=2, stars=150)
EASIER = replace(
    EASY, fwhm_px=3.0, seeing_scatter=0, tilt=0, coma=0, elongation=0, curvature=0, faintest=5000
)
KNOWN = Truth.of(NIGHT, EASIER)
FIRST, SECOND = (frame.name for frame in KNOWN.frames[:2])


def image(name=FIRST, noise=5.0, seed=0, fwhm_px=None):
    """A stack without faults."""
    light = KNOWN.light(name, fwhm_px=fwhm_px)[0].astype(float)
    return light + noise * np.random.default_rng(seed).standard_normal(light.shape)


def compare(first, second):
    return judge.compare(judge.prepare(first), judge.prepare(second))


def test_the_seeing_is_measured():
    both = compare(image(), image(fwhm_px=3.6, seed=1))
    assert both.first.fwhm_px == pytest.approx(KNOWN.frames[0].fwhm_px, rel=0.01)
    assert both.second.fwhm_px == pytest.approx(3.6, rel=0.01)
    assert both.fwhm == pytest.approx(KNOWN.frames[0].fwhm_px / 3.6, rel=0.01)
    assert both.first.ellipticity < 0.02


def test_the_signal_to_noise_ratio_is_that_of_the_noise():
    assert compare(image(noise=5), image(noise=10, seed=1)).snr == pytest.approx(2, rel=0.06)


def test_scale_offset_mirroring_and_reference_do_not_matter():
    one, other = image(), image(SECOND, seed=1)
    plain, strange = compare(one, other), compare(one, 700 - 0.01 * (-other[::-1]))
    assert plain.fwhm == pytest.approx(1, abs=0.01)
    assert strange.fwhm == pytest.approx(plain.fwhm, rel=1e-3)
    assert strange.snr == pytest.approx(plain.snr, rel=0.02)


def test_blur_makes_no_signal():
    sharp = image()
    both = compare(gaussian_filter(sharp, 0.8), sharp)
    assert both.fwhm > 1.05
    assert both.snr < 1.1  # the noise of its single pixels is three times less


def test_images_of_different_fields_are_not_compared():
    other = Truth.of(replace(NIGHT, seed=9), EASIER).light(FIRST)[0].astype(float)
    with pytest.raises(ValueError, match="stars"):
        compare(image(), other + np.random.default_rng(1).standard_normal(other.shape))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    turn=st.floats(0, 2 * np.pi),
    scale=st.floats(0.5, 2),
    mirrored=st.booleans(),
    lost=st.floats(0, 0.3),
)
@example(seed=61, turn=0.0, scale=0.5, mirrored=False, lost=0.25)  # a lost star has a near neighbour
def test_stars_are_matched_whatever_their_orientation(seed, turn, scale, mirrored, lost):
    random = np.random.default_rng(seed)
    points = random.uniform(0, 1000, (60, 2))
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    if mirrored:
        linear = linear @ np.diag([1, -1])
    matrix = np.column_stack([linear, random.uniform(-300, 300, 2)])
    kept = np.flatnonzero(random.uniform(0, 1, 60) >= lost)
    moved = match.apply(matrix, points[kept]) + random.normal(0, 0.02, (len(kept), 2))
    found, pairs = match.align(points, moved)
    assert np.abs(match.apply(found, points) - match.apply(matrix, points)).max() < 0.2
    assert {(int(a), int(kept[b])) for a, b in pairs} == {(int(i), int(i)) for i in kept}


def test_errors_of_transforms_are_found():
    found = {frame.name: KNOWN.transform(FIRST, frame.name).tolist() for frame in KNOWN.frames}
    assert truth.transforms(KNOWN, FIRST, found).max_px < 1e-9
    found[SECOND][0][2] += 0.3
    errors = truth.transforms(KNOWN, FIRST, found)
    assert (errors.max_px, errors.worst, errors.frames) == (pytest.approx(0.3), SECOND, 4)
    assert errors.median_px < 1e-9


def test_an_inverted_transform_is_no_small_error():
    found = {SECOND: optics.inverse(KNOWN.transform(FIRST, SECOND)).tolist()}
    assert truth.transforms(KNOWN, FIRST, found).median_px > 1


def test_wrong_light_of_some_stars_is_found():
    right = 2.0 * image(noise=1) + 100
    light = truth.photometry(right, KNOWN, FIRST, 3.0)
    assert (light.rms < 0.005, light.factor) == (True, pytest.approx(2, rel=0.005))
    x = np.arange(600) / 600
    assert truth.photometry(right * (1 + 0.1 * x), KNOWN, FIRST, 3.0).rms > 0.015


def test_stars_that_grow_towards_an_edge_keep_their_light_but_a_gradient_is_found():
    grown = [replace(frame, tilt=(0.12, -0.1), curvature=0.14, beta=3.2) for frame in KNOWN.frames]
    right = image(noise=1) - image(noise=0) + replace(KNOWN, frames=grown).light(FIRST, fwhm_px=3.3)[0]
    light = truth.photometry(right, KNOWN, FIRST, 3.3)
    assert light.rms < 0.005
    # What a stack that dims one side by 2 % and brightens the other must have: 2 % over the root of three.
    u = np.linspace(-1, 1, 600)
    wrong = truth.photometry(right * (1 + 0.02 * u), KNOWN, FIRST, 3.3)
    assert wrong.rms == pytest.approx(0.02 / np.sqrt(3), rel=0.3)
    assert wrong.rms > 0.01


def test_a_single_wrong_pixel_is_found_and_stars_are_none():
    names = [frame.name for frame in KNOWN.frames]
    stack = image(noise=2)
    good = truth.pixels(stack, KNOWN, FIRST, names, 1.0)
    assert good.off == 0
    assert good.judged > 0.7
    stars = KNOWN.light(FIRST, smooth=False)[0]
    row, column = np.argwhere(stars[100:300, 100:500] == 0)[1234] + (100, 100)
    stack[row, column] += 2 * 12 * np.sqrt(4 / KNOWN.coverage(FIRST, names)[row, column])
    bad = truth.pixels(stack, KNOWN, FIRST, names, 1.0)
    assert (bad.off, bad.where) == (1, (column, row))


def test_a_stack_on_its_head_is_turned():
    stack = image()
    assert np.array_equal(truth.upright(stack[::-1], KNOWN, FIRST), stack)
    with pytest.raises(ValueError, match="grid"):
        truth.upright(stack, KNOWN, SECOND)


def test_memory_of_descendants_is_seen():
    import subprocess

    child = "import sys; x = bytearray(80_000_000); sys.stdin.read()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    command = [sys.executable, "-c", code]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE) as process,
        memory.Watch(process.pid) as watch,
        process.stdin,  # the child ends with it
    ):
        wait_until(lambda: watch.largest[0] > 80)
    assert 80 < watch.largest[0] < 120
    assert "bytearray" in watch.largest[1]


def test_times_of_siril_are_read():
    assert siril._seconds("3.40 s.") == 3.4
    assert siril._seconds("1 min 02 s.") == 62
    assert siril._seconds("250.5 ms.") == 0.2505


def test_a_verdict_knows_what_was_missed(capsys):
    verdict = Verdict()
    verdict.most("low", 1.0, 2.0)
    verdict.least("high", 3.0, 2.0)
    assert verdict.end() == 0
    verdict.most("nothing", float("nan"), 2.0)
    verdict.absent("Siril", "not there")
    assert verdict.end() == 1
    assert "MISSED: nothing; Siril" in capsys.readouterr().out
