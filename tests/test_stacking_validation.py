"""The checks of a finished stack: each bites beyond its limit, and none within it."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.configuration.schema import Checker
from ripresa.families.stacking import outputs, validation
from ripresa.families.stacking.outputs import measures
from ripresa.families.stacking.outputs.evidence import collect
from ripresa.families.stacking.tiles import plan, windows
from ripresa.families.stacking.validation import ValidationFailed
from stacking_tables import NOISE, SKY, final_of, limits, make, picture, places
from stacking_tables import settings as configured

SCHEMAS = Path(__file__).parents[1] / "workflow" / "schemas"
CONFIGURED = json.loads((SCHEMAS / "stacking.schema.json").read_text())["properties"]["validation"][
    "properties"
]
WIDTH, HEIGHT = 600, 400
GRID = plan(WIDTH, HEIGHT, 3.0)


def reported(directory, image=None, changed=None, **tables):
    """The report on a stack of these tables."""
    image = picture() if image is None else image
    evidence = collect(make(directory, **tables))
    return validation.report(evidence, measures.measure(final_of(image), evidence), changed or limits())


def check(report, name):
    return next(one for one in report["checks"] if one["name"] == name)


def tiled(amount, seed=0, hard=False):
    """Plain sky with levels of +-``amount`` sigma, one a tile: what tiles normalised one by one leave."""
    random = np.random.default_rng(seed)
    level = random.choice([-1, 1], (len(GRID["y"]), len(GRID["x"])))
    across, down = (
        windows(GRID[axis], GRID["size"], 1 if hard else GRID["overlap"], length).astype(float)
        for axis, length in (("x", WIDTH), ("y", HEIGHT))
    )
    return (
        SKY + amount * NOISE * (down.T @ level @ across) + random.normal(0, NOISE, (HEIGHT, WIDTH))
    ).astype(np.float32)


def test_a_good_stack_passes_every_check(tmp_path):
    report = reported(tmp_path)
    assert {one["name"]: one["verdict"] for one in report["checks"]} == dict.fromkeys(CONFIGURED, "pass")
    assert report["verdict"] == "pass"
    assert report["summary"]["fwhm_px"] == pytest.approx(3.0, rel=0.05)
    assert report["summary"]["noise"] == pytest.approx([NOISE], rel=0.05)


# For each check a stack that is beyond its limit, and what the report says of it.
TRIPPED = {
    "frames": ({}, None, 11, "10 of 12 frames are registered, below the limit of 11"),
    "exposure_tolerance": (
        {"scan": {3: {"exposure_s": 30.0}}}, None, 0.05, "light_003.fits with 30 s differs by 0.5",
    ),
    "registration_residual_px": (
        {"registration": {7: {"residual_px": 2.5}}}, None, 1, "the residual of light_007.fits is 2.5 px",
    ),
    "elongation": ({}, picture(stretch=1.7), 1.5, "major axis is"),
    "fwhm_improvement": ({}, picture(fwhm=4.5), -0.1, "FWHM 4."),
    "background_noise": ({}, picture(noise=2 * NOISE, seed=3), 1.5, "times what the frames promise"),
    "seam": ({"shape": (HEIGHT, WIDTH)}, tiled(0.5)[None], 3, "along a border of tiles"),
    "weight_variance": ({"weights": [30.0, *[1.0] * 9]}, None, 7, "light_000.fits weighs 7.692 times"),
}  # fmt: skip


def test_every_configured_check_has_a_case():
    assert list(TRIPPED) == list(CONFIGURED)


@pytest.mark.parametrize("action", ["warn", "fail", "off"])
@pytest.mark.parametrize("name", list(TRIPPED))
def test_every_check_bites(tmp_path, name, action):
    tables, image, limit, words = TRIPPED[name]
    others = {other: (1, "off") for other in TRIPPED if other != name}
    report = reported(tmp_path, image, limits(**others, **{name: (limit, action)}), **tables)
    found = check(report, name)
    assert found["verdict"] == action
    assert (found["value"] < limit) if name in {"frames", "fwhm_improvement"} else (found["value"] > limit)
    assert words in found["message"] and f"limit of {limit}" in found["message"]
    assert report["verdict"] == ("pass" if action == "off" else action)


@pytest.mark.parametrize("name", list(TRIPPED))
def test_the_limit_itself_is_allowed(tmp_path, name):
    tables, image, _, _ = TRIPPED[name]
    value = check(reported(tmp_path, image, **tables), name)["value"]
    assert (
        check(reported(tmp_path, image, limits(**{name: (value, "fail")}), **tables), name)["verdict"]
        == "pass"
    )


def test_several_failures_are_all_named(tmp_path):
    sources = make(tmp_path, registration={2: {"residual_px": 9.0}})
    strict = {"validation": limits(frames=(50, "fail"), registration_residual_px=(1, "fail"))}
    with pytest.raises(ValidationFailed) as failed:
        outputs.write(final_of(picture()), sources, configured() | strict, str(tmp_path / "out"))
    said = str(failed.value)
    assert "limit of 50" in said and "light_002.fits is 9 px, above the limit of 1" in said
    assert "\n" not in said


# Checks that cannot be made, and why.
BLIND = {
    "exposure_tolerance": ({"scan": {n: {"exposure_s": None} for n in range(10)}}, None, "EXPTIME"),
    "registration_residual_px": (
        {"registration": {n: {"residual_px": None} for n in range(10)}},
        None,
        "residual",
    ),
    "elongation": ({}, picture(stars=0), "stars are found"),
    "fwhm_improvement": ({"scan": {n: {"fwhm_px": None} for n in range(10)}}, None, "no FWHM"),
    "background_noise": ({}, np.full((1, 160, 240), np.nan, np.float32), "not known"),
    "weight_variance": ({"weights": [0.0] * 10}, None, "not known"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("name", list(BLIND))
def test_a_check_that_cannot_be_made_counts_as_beyond_its_limit(tmp_path, name):
    tables, image, why = BLIND[name]
    report = reported(tmp_path, image, limits(**{name: (1, "fail")}), **tables)
    found = check(report, name)
    assert found["value"] is None and found["verdict"] == "fail" == report["verdict"]
    assert "cannot be checked" in found["message"] and why in found["message"]
    json.dumps(report, allow_nan=False)


def test_frames_without_an_exposure_do_not_hide_the_others(tmp_path):
    report = reported(tmp_path, scan={0: {"exposure_s": None}, 1: {"exposure_s": 90.0}})
    assert check(report, "exposure_tolerance")["value"] == pytest.approx(0.5)


def test_the_same_stars_are_compared(tmp_path):
    """Faint stars, seen in the stack only, and blobs of noise are no measure of its sharpness."""
    x, y = places(stars=40)
    image = picture(stars=40, fwhm=2.5)
    smooth = np.random.default_rng(5).normal(0, 12, image.shape)
    blobs = sum(np.roll(smooth, k, axis=2) for k in range(6)) / 6  # long ones
    common = reported(tmp_path / "a", image + blobs.astype(np.float32), stars=(x, y), star_fwhm=4.0)
    summary, found = common["summary"], check(common, "fwhm_improvement")
    assert 25 <= summary["stars"] <= 40 and summary["frame_fwhm_px"] == 4.0
    assert summary["fwhm_px"] == pytest.approx(2.5, rel=0.1)
    assert found["value"] == pytest.approx(1 - summary["fwhm_px"] / 4.0)


def test_without_stars_in_common_all_are_taken(tmp_path):
    summary = reported(tmp_path, stars=([5.0, 50.0], [5.0, 50.0]))["summary"]
    assert summary["stars"] > 25 and summary["frame_fwhm_px"] == pytest.approx(3.2)


def test_the_worst_channel_counts(tmp_path):
    image = picture(3)
    image[2] = picture(noise=2 * NOISE, seed=5)[0]
    report = reported(tmp_path, image, channels=("R", "G", "B"))
    assert check(report, "background_noise")["value"] == pytest.approx(2, rel=0.1)


def test_the_report_follows_its_schema(tmp_path):
    schema = Checker(json.loads((SCHEMAS / "stacking_validation.schema.json").read_text()))
    for name, mode in (("a", "reduced"), ("b", "full")):
        outputs.write(
            final_of(picture()), make(tmp_path / name, mode=mode), configured(), str(tmp_path / "out")
        )
        report = json.loads((tmp_path / "out" / "validation.json").read_text())
        assert schema.errors(report) == []
        assert report["summary"]["mode"] == mode
        assert report["summary"]["excluded"] == [
            {"frame": "x_cloud.fits", "reason": "3 stars match, 6 are needed"},
            {"frame": "y_torn.fits", "reason": "it is truncated"},
        ]


def test_the_noise_that_the_frames_promise(tmp_path):
    """Independent frames of noise s and weights w: sqrt(sum w^2 s^2) / sum w."""
    evidence = collect(make(tmp_path, frames=16))
    assert np.allclose(evidence.expected_noise, NOISE), "16 frames of four times the noise"


# --- seams --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hard", [True, False], ids=["steps", "ramps"])
@pytest.mark.parametrize("seed", range(4))
def test_tiles_of_differing_level_are_seen(hard, seed):
    assert measures.seam(tiled(0.25, seed, hard), GRID) > 3


def test_one_bad_tile_among_all_is_seen():
    image = tiled(0, 5)
    y, x = GRID["y"][2], GRID["x"][3]
    image[y : y + GRID["size"], x : x + GRID["size"]] += NOISE
    assert measures.seam(image, GRID) > 3


def test_plain_noise_has_no_seams():
    values = [measures.seam(tiled(0, seed), GRID) for seed in range(40)]
    assert np.mean(np.array(values) > 3) <= 0.05 and np.median(values) < 1.5


def test_a_bright_line_between_tiles_is_seen():
    """What windows that do not sum to one leave behind."""
    image = tiled(0, 7)
    middle = (GRID["x"][2] + GRID["x"][1] + GRID["size"]) // 2
    image[:, middle - 8 : middle + 8] *= 1.01
    assert measures.seam(image, GRID) > 3


def test_gradients_stars_and_nebulae_are_no_seams():
    y, x = np.mgrid[:HEIGHT, :WIDTH] / HEIGHT
    random = np.random.default_rng(3)
    image = picture(1, HEIGHT, WIDTH, stars=120)[0]
    image += (200 * x - 100 * y + 60 * x * y).astype(np.float32)
    image += (40 * NOISE * np.exp(-((x - 0.6) ** 2 + (y - 0.4) ** 2) / 2 / 0.08**2)).astype(np.float32)
    smooth = np.kron(random.normal(0, 1, (9, 13)), np.ones((50, 50)))[:HEIGHT, :WIDTH]
    kernel = np.hanning(81) / np.hanning(81).sum()
    for axis in (0, 1):
        smooth = np.apply_along_axis(lambda line: np.convolve(line, kernel, mode="same"), axis, smooth)
    assert measures.seam(image + (6 * NOISE * smooth).astype(np.float32), GRID) < 3


def test_an_image_of_one_tile_has_no_border():
    assert measures.seam(np.zeros((64, 64), np.float32), plan(64, 64, 3.0)) == 0


@settings(deadline=None, max_examples=20)
@given(st.floats(-1e4, 1e4), st.floats(0.1, 100))
def test_seams_do_not_depend_on_level_or_unit(level, unit):
    image = tiled(0.6, 1)
    assert measures.seam(
        (image * np.float32(unit) + np.float32(level)).astype(np.float32), GRID
    ) == pytest.approx(measures.seam(image, GRID), rel=0.05)


# --- noise --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=8)
@given(st.floats(0.5, 50), st.integers(0, 2**31))
def test_noise_knows_neither_sky_nor_stars(noise, seed):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image = picture(1, HEIGHT, WIDTH, noise=noise, stars=60, seed=seed)[0] + (0.3 * x - 0.2 * y)
    tiles = measures.noise_of(image.astype(np.float32), GRID)
    assert tiles.shape == (len(GRID["y"]), len(GRID["x"]))
    assert np.median(tiles) == pytest.approx(noise, rel=0.06)


def test_noise_of_a_colour_mosaic_is_that_of_its_lattices(tmp_path):
    """Between the pixels of one colour there is interpolation only, without noise of its own."""
    coarse = np.random.default_rng(8).normal(SKY, NOISE, (3, 80, 120))
    image = np.repeat(np.repeat(coarse, 2, axis=1), 2, axis=2).astype(np.float32)
    cfa = reported(tmp_path / "a", image, channels=("R", "G", "B"), reference={"kind": "cfa"})
    assert check(cfa, "background_noise")["value"] == pytest.approx(1, rel=0.1)
