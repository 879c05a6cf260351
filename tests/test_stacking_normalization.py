"""NORMALIZATION: scales and backgrounds of frames come back as they were put in."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.families.stacking import StackingError, celltables, crossmatch, robust, tables
from ripresa.families.stacking.normalization import normalize
from stacking_campaign import Campaign

FEW = {"mode": {"minimum_frames": 1, "allow_few": False}}


def normalized(campaign, chunks=2, name="normalization.npz"):
    output = str(campaign.directory / name)
    normalize(*campaign.write(chunks), FEW, output)
    return tables.load(output)


def surface(campaign, coefficients):
    """A background [..., ny, nx] at the centres of the cells."""
    return np.einsum("...k,yxk->...yx", coefficients, campaign.quadratic(*campaign.cells()))


def backgrounds(campaign, arrays):
    """The true background of every normalised frame less that of the reference [F, C, ny, nx]."""
    coefficients = arrays["scale"][..., None] * campaign.background + arrays["offset"]
    return surface(campaign, coefficients - campaign.background[0])


@given(seed=st.integers(0, 10**6), channels=st.sampled_from([("L",), ("R", "G", "B")]))
@settings(max_examples=12, deadline=None)
def test_scales_are_those_of_the_sky_within_half_a_percent(tmp_path_factory, seed, channels):
    campaign = Campaign(tmp_path_factory.mktemp("x"), frames=12, stars=100, channels=channels, seed=seed)
    _, arrays = normalized(campaign)
    assert arrays["scale"].shape == (12, len(channels))
    error = arrays["scale"] * campaign.transparency - 1
    assert np.sqrt(np.mean(error[1:] ** 2)) < 0.005 and np.abs(error).max() < 0.015
    assert np.allclose(arrays["transparency"] * np.exp(np.log(arrays["scale"]).mean(axis=1)), 1)
    assert np.all(arrays["scale"][0] == 1) and np.all(arrays["offset"][0] == 0)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=12, deadline=None)
def test_every_normalised_frame_has_the_background_of_the_reference(tmp_path_factory, seed):
    campaign = Campaign(tmp_path_factory.mktemp("x"), frames=8, channels=("R", "G", "B"), seed=seed)
    _, arrays = normalized(campaign)
    # The scale need not be the true one for that; a few hundred cells of noise / 16 each fix a surface.
    assert np.abs(backgrounds(campaign, arrays)).max() < 0.1 * campaign.noise.max()


def test_bright_objects_and_trails_do_not_move_the_background(tmp_path):
    def bright(maps, campaign):
        x, y = campaign.cells()
        maps["background"][3:, :, np.hypot(x - 300, y - 200) < 70] += 3000  # clouds lit from behind
        maps["background"][5, :, np.abs(x - y) < 20] += 200

    campaign = Campaign(tmp_path, frames=8)
    campaign.change_cells = bright
    _, arrays = normalized(campaign)
    assert np.abs(backgrounds(campaign, arrays)).max() < 0.1 * campaign.noise.max()


def test_a_frame_that_covers_half_the_field_is_right_where_it_is(tmp_path):
    campaign = Campaign(tmp_path, frames=6)
    campaign.left[2] = 310
    campaign.seen[2] = campaign.star_x > 310
    about, arrays = normalized(campaign)
    x, _ = campaign.cells()
    assert np.abs(backgrounds(campaign, arrays)[2][:, x > 310]).max() < 0.1 * campaign.noise.max()
    assert abs(arrays["scale"][2, 0] * campaign.transparency[2, 0] - 1) < 0.005
    assert about["frames"][2]["background_terms"] == 6


@pytest.mark.parametrize(("right", "terms"), [(100, 3), (20, 3), (0, 0)])
def test_a_narrow_footprint_gets_a_simpler_background(tmp_path, right, terms):
    campaign = Campaign(tmp_path, frames=4, channels=("L",))
    campaign.right[1] = right
    campaign.background[1, :, 3:] = campaign.background[0, :, 3:] = 0
    about, arrays = normalized(campaign)
    assert about["frames"][1]["background_terms"] == terms
    assert np.count_nonzero(arrays["offset"][1, 0]) <= terms
    x, _ = campaign.cells()
    assert np.all(np.abs(backgrounds(campaign, arrays)[1][:, x < right]) < campaign.noise.max())


def test_variable_and_wrong_stars_do_not_matter(tmp_path):
    campaign = Campaign(tmp_path, frames=12, stars=60)
    campaign.star_flux *= 10
    written = campaign.write(1)
    _, arrays = tables.load(written[0][0])
    frames = [{"name": name, "exposure_s": 60.0} for name in campaign.names]
    wrong = np.random.default_rng(1).random(len(arrays["flux"])) < 0.2
    arrays["flux"][wrong & (arrays["star_frame"] > 0)] *= 1.5
    tables.save(written[0][0], {"frames": frames}, **arrays)
    normalize(*written, FEW, str(tmp_path / "out.npz"))
    scale = tables.load(str(tmp_path / "out.npz"), "scale")[1]["scale"]
    assert np.abs(scale * campaign.transparency - 1).max() < 0.01


def test_a_flip_a_drift_and_few_stars_are_no_obstacle(tmp_path):
    campaign = Campaign(tmp_path, frames=6, stars=15)
    campaign.star_flux[:] = 50000
    campaign.to_frame[3] = [[-1, 0, campaign.width + 40.0], [0, -1, campaign.height - 10.0]]
    campaign.seen[3, :6] = False
    about, arrays = normalized(campaign)
    assert about["frames"][3]["stars_matched"] == 9
    assert np.abs(arrays["scale"] * campaign.transparency - 1).max() < 0.01


def test_colours_that_are_badly_measured_do_not_scatter(tmp_path):
    campaign = Campaign(tmp_path, frames=40, stars=12, channels=("R", "G", "B"))
    campaign.star_flux[:] = 4000
    campaign.transparency[:] = campaign.transparency[:, :1]  # grey clouds
    _, arrays = normalized(campaign)
    flux = arrays["star_flux"].astype(np.float64)
    measured = np.nanmedian(flux[0] / flux, axis=1)
    before, after = (np.std(np.log(scale[1:, 2] / scale[1:, 1])) for scale in (measured, arrays["scale"]))
    assert after < before / 3


def test_colours_that_do_change_are_followed(tmp_path):
    campaign = Campaign(tmp_path, frames=40, stars=60, channels=("R", "G", "B"))
    campaign.star_flux *= 5
    campaign.transparency[:, 2] *= np.exp(-np.linspace(0, 0.2, 40))  # setting
    _, arrays = normalized(campaign)
    assert np.abs(arrays["scale"] * campaign.transparency - 1).max() < 0.01


def test_without_stars_exposures_tell_the_scale_and_then_backgrounds(tmp_path):
    campaign = Campaign(tmp_path, frames=5, stars=40)
    campaign.star_flux[:] = 30000
    campaign.seen[2:, 2:] = False
    campaign.exposure[2] = 30.0
    campaign.exposure[3] = 0  # not known
    campaign.background[3, 0] = 2 * campaign.background[0, 0]
    campaign.exposure[4] = 0
    campaign.background[4] = 0
    campaign.background[4, :, 0] = -50
    about, arrays = normalized(campaign)
    assert [frame["scale_from"] for frame in about["frames"]] == [
        "reference", "stars", "exposure", "background", "nothing",
    ]  # fmt: skip
    assert arrays["scale"][2, 0] == 2
    assert arrays["scale"][3, 0] == pytest.approx(0.5, rel=0.01)
    assert arrays["scale"][4, 0] == 1
    assert about["frames"][2]["scale_error"] is None
    assert about["frames"][1]["scale_error"] < 0.01
    assert np.abs(backgrounds(campaign, arrays)).max() < 0.2 * campaign.noise.max()


def test_chunks_cannot_be_seen(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    results = []
    for directory, chunks in (("a", 1), ("b", 3)):
        campaign = Campaign(tmp_path / directory, frames=9, stars=50)
        normalized(campaign, chunks)
        results.append((tmp_path / directory / "normalization.npz").read_bytes())
    assert results[0] == results[1]


def test_threads_cannot_be_seen(tmp_path):
    campaign = Campaign(tmp_path, frames=40, stars=200, width=1200, height=800)
    stars, registrations, cells, reference = campaign.write()
    results = []
    for threads in "12":
        output = str(tmp_path / f"{threads}.npz")
        call = "from ripresa.families.stacking.normalization import normalize; "
        call += f"normalize({stars}, {registrations}, {cells}, {reference!r}, {FEW}, {output!r})"
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", call], env=environment, check=True)
        with open(output, "rb") as file:
            results.append(file.read())
    assert results[0] == results[1]


def test_a_reference_that_was_taken_away_is_replaced_by_another_frame(tmp_path):
    campaign = Campaign(tmp_path, frames=3)
    stars, registrations, cells, reference = campaign.write(3)
    normalize(stars, registrations, cells[1:], reference, FEW, str(tmp_path / "out"))
    about, arrays = tables.load(str(tmp_path / "out"), "scale")
    names = [frame["name"] for frame in about["frames"]]
    assert "light_0000.fits" not in names and len(names) == 2
    assert np.all(arrays["scale"][names.index(about["reference"])] == 1)


def test_too_few_registered_frames_are_refused(tmp_path):
    campaign = Campaign(tmp_path, frames=4)
    limit = {"minimum_frames": 5, "allow_few": False}
    with pytest.raises(StackingError, match=r"only 4 frames could be registered.*minimum_frames is 5"):
        normalize(*campaign.write(), {"mode": limit}, str(tmp_path / "out"))
    normalize(*campaign.write(), {"mode": limit | {"allow_few": True}}, str(tmp_path / "out"))


def test_no_frame_at_all_is_one_line(tmp_path):
    path = str(tmp_path / "cells.npz")
    about = {"frames": [], "cell": 16, "width": 64, "height": 64, "channels": ["L"]}
    tables.save(path, about, coverage=np.zeros((0, 1, 4, 4), np.float32))
    with pytest.raises(StackingError, match="no frame could be registered"):
        celltables.read([path], "background")


def test_many_cells_are_averaged_where_they_are_covered(tmp_path):
    campaign = Campaign(tmp_path, frames=3, width=650, height=330)
    campaign.left[1] = 200
    _, _, paths, _ = campaign.write()
    fine, coarse = (celltables.read(paths, "background", maximum=limit) for limit in (128, 14))
    assert coarse["background"].shape == (3, 1, 7, 14)
    assert coarse.x[0] == (fine.x[0] + fine.x[2]) / 2 and coarse.x[-1] == (13 * 48 + 649) / 2
    x, y = np.meshgrid(coarse.x, coarse.y)
    expected = campaign.quadratic(x, y) @ campaign.background[1, 0]
    difference = coarse["background"][1, 0] - expected
    assert np.all(np.isnan(difference) == (coarse["coverage"][1, 0] == 0))
    assert np.nanmax(np.abs(difference[:, x[0] > 240])) < 3


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_the_nearest_star_is_the_nearest(data):
    random = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    stars = random.uniform(0, 30, (2, data.draw(st.integers(0, 40))))
    points = random.uniform(-3, 33, (2, data.draw(st.integers(0, 40))))
    radius = data.draw(st.floats(0.1, 10))
    best, distance = crossmatch.nearest(*points, *stars, radius)
    apart = np.hypot(points[0][:, None] - stars[0], points[1][:, None] - stars[1])
    for i, row in enumerate(apart):
        if len(row) and row.min() <= radius:
            assert best[i] == row.argmin() and distance[i] == row.min()
        else:
            assert best[i] == -1


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_medians_pass_over_what_is_not_known(seed, rows, columns):
    random = np.random.default_rng(seed)
    values = np.where(random.random((rows, columns)) < 0.4, np.nan, random.normal(size=(rows, columns)))
    expected = [np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan for row in values]
    assert np.array_equal(robust.median(values), expected, equal_nan=True)
    assert np.array_equal(robust.median(values.T, axis=0), expected, equal_nan=True)


@given(st.integers(0, 10**6), st.floats(-1e3, 1e3), st.floats(0.1, 1e3))
@settings(max_examples=50, deadline=None)
def test_scores_do_not_depend_on_units(seed, shift, factor):
    values = np.random.default_rng(seed).normal(size=31)
    assert np.allclose(robust.zscore(shift + factor * values), robust.zscore(values), atol=1e-6)


@pytest.mark.parametrize(
    ("values", "scores"),
    [
        ([5.0, 5, 5, 5], [0, 0, 0, 0]),
        ([5.0, 5 + 1e-12, 5, 5 - 1e-12], [0, 0, 0, 0]),
        ([np.nan, np.nan], [0, 0]),
        ([7.0], [0]),
        ([1.0, np.nan, 2, 3], [-0.674, 0, 0, 0.674]),
        # No median deviation: the mean deviation takes its place, and the odd one is far out, not infinitely.
        ([0.0, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0] * 9 + [7.979]),
    ],
)
def test_scores_where_there_is_little_to_tell(values, scores):
    assert robust.zscore(np.array(values)) == pytest.approx(scores, abs=1e-3)


@given(st.integers(0, 10**6), st.integers(0, 40))
@settings(max_examples=30, deadline=None)
def test_a_location_ignores_a_quarter_of_outliers(seed, outliers):
    random = np.random.default_rng(seed)
    sigma = random.uniform(0.5, 2, (2, 160))
    values = 100 + random.normal(0, sigma)
    values[:, :outliers] += 50
    found = robust.location(values, sigma**2)
    assert np.all(np.abs(found.value - 100) < 6 * found.error)
    assert np.all(found.error < 0.2)
