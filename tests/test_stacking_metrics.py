"""GLOBAL_METRICS and LOCAL_METRICS: what frames are worth, as a whole and tile by tile."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.families.stacking import StackingError, global_metrics, local_metrics, tables, tiles, weights
from ripresa.families.stacking.normalization import normalize
from ripresa.families.stacking.outputs import stacked_file
from stacking_campaign import Campaign

FEW = {"mode": {"minimum_frames": 1, "allow_few": False}}
SHARES = {"background": 0.4, "noise": 0.3, "gradient": 0.3}


class Measured:
    """The phases 3 to 6 of a campaign, and the arrays they leave."""

    def __init__(self, campaign, weighting="physical", exponent=2, shares=SHARES, chunks=2):
        stars, registrations, cells, reference = campaign.write(chunks)
        names = ("normalization.npz", "global.npz", "grid.json", "local.npz")
        normal, whole, grid, local = self.paths = [str(campaign.directory / name) for name in names]
        normalize(
            stars, registrations, cells, reference, {"mode": {"minimum_frames": 1, "allow_few": True}}, normal
        )
        global_metrics.measure(cells, normal, {"quality": shares}, whole)
        tiles.make_grid(whole, reference, grid)
        chosen = {"weighting": weighting, "psf_exponent": exponent}
        local_metrics.measure(cells, normal, whole, grid, chosen, local)
        self.normal, self.whole, self.local = (tables.load(path)[1] for path in (normal, whole, local))
        self.about = tables.load(local)[0]
        self.grid = tables.read_json(grid)
        size = self.grid["size"]
        self.x, self.y = np.meshgrid(*(tiles.centres(self.grid[axis], size) for axis in "xy"))

    def windows(self):
        """The blended weight of each frame at every pixel of channel 0, as TILE_RECONSTRUCTION blends it."""
        grid = self.grid
        y, x = (
            tiles.windows(grid[axis], grid["size"], grid["overlap"], grid[side])
            for axis, side in (("y", "height"), ("x", "width"))
        )
        return np.einsum("ty,ftu,ux->fyx", y, self.local["weights"][:, 0], x)


def score(x):
    """A robust standard score, written out again."""
    deviation = x - np.median(x, axis=0)
    return deviation / (1.4826 * np.median(np.abs(deviation), axis=0))


def varied(directory, **options):
    campaign = Campaign(directory, **options)
    random = np.random.default_rng(5)
    frames = len(campaign.names)
    campaign.energy = 1000 * np.exp(random.normal(0, 0.3, frames))
    campaign.elongation = random.uniform(1.02, 1.4, frames)
    campaign.size_field = random.normal(0, 0.05, (frames, 6))
    campaign.size_field[:, 0] = 0
    return campaign


def test_the_global_quality_is_that_of_the_design(tmp_path):
    campaign = varied(tmp_path, channels=("R", "G", "B"), frames=25)
    whole = Measured(campaign, shares={"background": 0.5, "noise": 0.3, "gradient": 0.2}).whole
    scale = 1 / campaign.transparency
    terms = campaign.quadratic(*campaign.cells())
    level = np.median(np.einsum("fck,yxk->fcyx", campaign.background, terms).reshape(25, 3, -1), axis=2)
    background = np.mean(scale * level, axis=1)
    noise = campaign.noise * np.sqrt(np.mean(scale**2, axis=1))
    energy = campaign.energy * np.mean(scale**2, axis=1)
    assert np.allclose(whole["background"], background, rtol=0.01)
    assert np.allclose(whole["noise"], noise, rtol=0.01)
    assert np.allclose(whole["energy"], energy, rtol=0.02)
    quality = -0.5 * score(background) - 0.3 * score(noise) + 0.2 * score(energy)
    assert np.abs(whole["quality"] - np.clip(quality, -3, 3)).max() < 0.3
    assert np.array_equal(whole["weight"], np.exp(whole["quality"]))
    assert np.abs(whole["r50"] / campaign.size - 1).max() < 0.1
    assert np.allclose(whole["eccentricity"], np.sqrt(1 - campaign.elongation**-2.0), atol=1e-6)


@given(st.integers(0, 10**6), st.floats(1, 1e6))
@settings(max_examples=5, deadline=None)
def test_scores_are_clamped_before_the_exponential(tmp_path_factory, seed, factor):
    campaign = varied(tmp_path_factory.mktemp("x"), frames=8, stars=30, seed=seed)
    campaign.noise[3] *= factor
    campaign.energy[2] *= factor
    measured = Measured(campaign, "quality")
    assert measured.whole["weight"].max() <= np.exp(3) and measured.whole["weight"].min() >= np.exp(-3)
    assert np.abs(measured.local["quality"]).max() <= 3
    worth = measured.local["weights"]
    assert worth.max() <= np.exp(6) * 1.00001 and worth.min() >= np.exp(-6) * 0.99999


def test_a_trail_does_not_make_a_frame_sharp(tmp_path):
    def trail(maps, campaign):
        x, y = campaign.cells()
        maps["energy"][4, :, np.abs(x - y) < 12] *= 100

    results = []
    for name, change in (("a", lambda *_: None), ("b", trail)):
        (tmp_path / name).mkdir()
        campaign = varied(tmp_path / name, frames=15)
        campaign.change_cells = change
        results.append(Measured(campaign))
    (before, after) = ((result.whole["energy"][4], result.local["quality"][4]) for result in results)
    assert after[0] < 1.1 * before[0]  # 100 times as much in 4 % of the cells is five times as much
    assert np.abs(after[1] - before[1]).max() < 1.3


def test_a_frame_of_the_dull_half_of_the_field_is_not_dull(tmp_path):
    def half(maps, campaign):
        maps["energy"][:, :, campaign.cells()[0] > 300] *= 0.1

    campaign = Campaign(tmp_path, frames=15)
    campaign.transparency[:] = 1
    campaign.left[6] = 310
    campaign.change_cells = half
    energy = Measured(campaign).whole["energy"]
    assert np.abs(energy / energy[0] - 1).max() < 0.01


def test_shares_must_sum_to_one(tmp_path):
    with pytest.raises(StackingError, match=r"sum to 1\.1; make them sum to 1"):
        Measured(Campaign(tmp_path, frames=3), shares={"background": 0.5, "noise": 0.3, "gradient": 0.3})


@given(seed=st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_fields_of_star_sizes_come_back(tmp_path_factory, seed):
    campaign = Campaign(tmp_path_factory.mktemp("x"), frames=20, stars=150, seed=seed)
    campaign.size_field[:, 1:] = np.random.default_rng(seed).normal(0, 0.05, (20, 5))
    campaign.common_field[3:] = 0.1, 0, 0.1
    measured = Measured(campaign)
    truth = campaign.r50(measured.x.ravel(), measured.y.ravel()).reshape(measured.local["r50"].shape)
    error = measured.local["r50"] / truth - 1
    assert np.sqrt(np.mean(error**2)) < 0.015
    assert np.abs(error).max() < 0.08
    assert np.allclose(measured.local["fwhm"], 2 * measured.local["r50"], rtol=1e-5)


def test_with_few_stars_the_field_stays_at_the_frames_own_size(tmp_path):
    campaign = Campaign(tmp_path, frames=12, stars=15)
    campaign.star_flux[:] = 8000
    measured = Measured(campaign)
    truth = campaign.size[:, None, None]
    assert np.abs(measured.local["r50"] / truth - 1).max() < 0.12


def test_a_frame_without_stars_is_taken_for_the_worst(tmp_path):
    campaign = Campaign(tmp_path, frames=12, stars=60)
    campaign.star_flux *= 10
    campaign.seen[5] = False
    local = Measured(campaign).local
    assert np.all(np.isfinite(local["r50"]))
    assert np.median(local["r50"][5]) == pytest.approx(np.median(local["r50"], axis=(1, 2)).max(), rel=0.02)


def test_a_field_without_any_star_is_weighted_by_noise(tmp_path):
    campaign = Campaign(tmp_path, frames=9, stars=5)
    campaign.seen[:] = False
    measured = Measured(campaign)
    assert not measured.local["star_tile"].any()
    assert np.all(np.isnan(measured.whole["fwhm"]))
    ratio = measured.local["weights"][:, 0] * campaign.noise[:, None, None] ** 2
    assert np.abs(ratio / np.median(ratio) - 1).max() < 0.12


@pytest.mark.parametrize("exponent", [0, 2, 4])
def test_physical_weights_are_those_of_the_truth(tmp_path, exponent):
    campaign = varied(tmp_path, frames=15, stars=200, channels=("R", "G", "B"))
    measured = Measured(campaign, exponent=exponent)
    r50 = campaign.r50(measured.x.ravel(), measured.y.ravel()).reshape(15, 1, *measured.x.shape)
    noise = (campaign.noise[:, None] / campaign.transparency)[..., None, None]
    ratio = measured.local["weights"] * noise**2 * r50**exponent
    for channel in range(3):
        assert np.abs(ratio[:, channel] / np.median(ratio[:, channel]) - 1).max() < 0.12 + 0.06 * exponent
        assert np.median(measured.local["weights"][:, channel]) == pytest.approx(1, rel=1e-3)


def merit(weight, noise, r50):
    """Peak of stars per light and their signal-to-noise ratio in the weighted mean along the first axis,
    written out again."""
    weight = weight / weight.sum(axis=0)
    peak = (weight / r50**2).sum(axis=0)
    return peak, np.sqrt(peak / (weight**2 * noise**2).sum(axis=0))


def frames(seed, count=40, seeing=0.2):
    random = np.random.default_rng(seed)
    noise = np.exp(random.normal(0, 0.3, (count, 1, 1, 1))) * np.ones((count, 1, 2, 3))
    r50 = 2 * np.exp(random.normal(0, seeing, (count, 1, 1)) + random.normal(0, 0.05, (count, 2, 3)))
    return noise, r50


@given(seed=st.integers(0, 10**6), mu=st.floats(0, 0.8))
@settings(max_examples=30, deadline=None)
def test_no_other_weights_are_sharper_at_the_same_noise(seed, mu):
    noise, r50 = frames(seed)
    best = weights.sharpened(noise, r50, mu)[:, 0]
    peak, ratio = merit(best, noise[:, 0], r50)
    random = np.random.default_rng(seed)
    others = [weights.physical(noise, r50, p)[:, 0] for p in np.arange(0, 8, 0.5)]
    others += [np.abs(best * (1 + random.normal(0, s, best.shape))) for s in (0.03, 0.3)]
    for other in others:
        its_peak, its_ratio = merit(other, noise[:, 0], r50)
        # What is never weighted quite to zero costs a little.
        assert not np.any((its_peak > 1.02 * peak) & (its_ratio > 1.02 * ratio))


def test_mu_zero_gives_points_the_best_signal_to_noise_ratio():
    noise, r50 = frames(1)
    ratio = weights.sharpened(noise, r50, 0.0) * noise**2 * r50[:, None] ** 2
    assert np.allclose(ratio[:, :, 0, 0], ratio[0, :, 0, 0], rtol=1e-9)


# Sizes that differ more reach the bounds of the weights, of which the merit here knows nothing.
@given(seed=st.integers(0, 10**6), seeing=st.floats(0.01, 0.3), count=st.integers(2, 60))
@settings(max_examples=30, deadline=None)
def test_what_is_chosen_keeps_its_promise(seed, seeing, count):
    noise, r50 = frames(seed, count, seeing)
    chosen = weights.sharpest(noise, r50, np.ones(r50.shape, bool))
    plain = merit(np.ones_like(r50), noise[:, 0], r50)
    mine = merit(weights.sharpened(noise, r50, chosen.mu)[:, 0], noise[:, 0], r50)
    width, snr = np.median(np.sqrt(plain[0] / mine[0])), np.median(mine[1] / plain[1])
    assert (chosen.width, chosen.snr) == pytest.approx((width, snr), rel=1e-3)
    assert chosen.mu == 0 or chosen.snr >= weights.LEAST_SNR
    if chosen.mu > 0 and chosen.snr < weights.KEPT_SNR:  # then sharpness was wanting a step before
        before = merit(weights.sharpened(noise, r50, chosen.mu - 0.01)[:, 0], noise[:, 0], r50)
        assert np.median(np.sqrt(plain[0] / before[0])) > weights.WORTHWHILE_WIDTH
    best = merit(weights.sharpened(noise, r50, 0.0)[:, 0], noise[:, 0], r50)
    # No per cent of width costs more than the price.
    at_best = np.median(best[1] / plain[1]), np.median(np.sqrt(plain[0] / best[0]))
    assert chosen.snr * chosen.width**-5 >= at_best[0] * at_best[1] ** -5 * (1 - 1e-9)


def test_noise_is_paid_for_sharpness_only_where_there_is_little_of_it():
    rich_noise, rich = np.full((60, 1, 1, 1), 1.0), 2 * np.exp(np.linspace(-0.4, 0.4, 60))[:, None, None]
    chosen = weights.sharpest(rich_noise, rich, np.ones(rich.shape, bool))
    assert chosen.snr == pytest.approx(weights.KEPT_SNR, abs=0.01) and chosen.width < 0.92
    # Ten frames, of which the sharper half has nearly twice the noise.
    poor_noise = np.repeat([1.0, 1.8], 5)[:, None, None, None]
    poor = np.array([2.0, 2.4, 2.5, 2.6, 2.3, 1.9, 2.0, 1.9, 2.05, 1.95])[:, None, None]
    chosen = weights.sharpest(poor_noise, poor, np.ones(poor.shape, bool))
    assert weights.LEAST_SNR <= chosen.snr < weights.KEPT_SNR
    assert chosen.width > weights.WORTHWHILE_WIDTH - 0.01


def test_differing_seeing_gives_a_sharper_stack_than_its_frames(tmp_path):
    campaign = Campaign(tmp_path, frames=40, stars=200)
    campaign.size = 2 * np.exp(np.random.default_rng(3).normal(0, 0.2, 40))
    measured = Measured(campaign, exponent="auto")
    chosen = measured.about["sharpness"]
    assert 0.3 < chosen["mu"] <= 0.8 and chosen["width"] < 0.9
    noise = campaign.noise / campaign.transparency[:, 0]
    worth = measured.local["weights"][:, 0].mean(axis=(1, 2)) * noise**2
    blurred = campaign.size > np.quantile(campaign.size, 0.75)
    sharp = campaign.size < np.quantile(campaign.size, 0.25)
    assert worth[blurred].max() < 0.5 * worth[sharp].min()
    assert worth.min() > 0


def test_a_field_of_equals_is_weighted_by_noise_alone(tmp_path):
    campaign = Campaign(tmp_path, frames=9, stars=5)
    campaign.seen[:] = False  # no star says how sharp a frame is
    measured = Measured(campaign, exponent="auto")
    assert measured.about["sharpness"]["mu"] == 0
    ratio = measured.local["weights"][:, 0] * campaign.noise[:, None, None] ** 2
    assert np.abs(ratio / np.median(ratio) - 1).max() < 0.12


def test_the_colours_of_a_star_have_one_shape(tmp_path):
    measured = Measured(varied(tmp_path, frames=15, stars=200, channels=("R", "G", "B")), exponent="auto")
    share = measured.local["weights"] * measured.local["noise"].astype(float) ** 2
    assert np.allclose(
        share / share.mean(axis=(0, 2, 3), keepdims=True), share[:, :1] / share[:, :1].mean(), rtol=1e-4
    )


def test_where_no_two_frames_are_there_is_no_choice():
    noise, r50 = frames(2, 3)
    covered = np.zeros(r50.shape, bool)
    covered[0] = True
    assert weights.sharpest(noise, r50, covered) == weights.Sharpness(0.0, 1.0, 1.0)


def test_the_local_quality_is_that_of_the_design(tmp_path):
    campaign = varied(tmp_path, frames=25, stars=300)
    campaign.star_flux *= 20
    dark = campaign.star_x < 200
    campaign.star_x[dark] += 220  # no stars on the left
    measured = Measured(campaign, "quality")
    local, whole = measured.local, measured.whole
    shape = local["quality"].shape
    left = measured.x < 150
    assert local["star_tile"].mean() > 0.5 and not local["star_tile"][left].any()

    fwhm = 2 * campaign.r50(measured.x.ravel(), measured.y.ravel()).reshape(shape)
    scale = 1 / campaign.transparency[:, 0, None, None]
    sigma = campaign.noise[:, None, None] * scale
    roundness = np.broadcast_to(1 / campaign.elongation[:, None, None], shape)
    by_stars = -0.6 * score(fwhm) + 0.2 * score(roundness) + 0.2 * score(1 / (fwhm**2 * sigma))
    energy = campaign.energy[:, None, None] * scale**2 * np.ones(shape)
    terms = campaign.quadratic(measured.x, measured.y)
    background = scale * np.einsum("fk,yxk->fyx", campaign.background[:, 0], terms)
    by_structure = 0.7 * score(energy / sigma) - 0.3 * score(background)
    for quality, where in ((by_stars, ~left & local["star_tile"]), (by_structure, left)):
        difference = np.clip(quality, -3, 3)[:, where] - local["quality"][:, where]
        assert np.median(np.abs(difference)) < 0.1 and np.percentile(np.abs(difference), 95) < 0.6
    assert np.allclose(local["mean_quality"], local["quality"].mean(axis=(1, 2)), atol=1e-5)
    assert np.allclose(local["var_quality"], local["quality"].var(axis=(1, 2)), atol=1e-5)
    product = whole["weight"][:, None, None] * np.exp(local["quality"])
    assert np.allclose(local["weights"][:, 0], product, rtol=1e-5)


def test_without_weighting_all_are_one(tmp_path):
    assert np.all(Measured(Campaign(tmp_path, frames=4), "none").local["weights"] == 1)


@given(
    seed=st.integers(0, 10**6),
    weighting=st.sampled_from(["physical", "quality", "none"]),
    stars=st.sampled_from([0, 4, 40]),
    empty=st.booleans(),
    exponent=st.sampled_from([2, "auto"]),
)
@settings(max_examples=15, deadline=None)
def test_weights_are_positive_and_can_be_made_to_sum_to_one(
    tmp_path_factory, seed, weighting, stars, empty, exponent
):
    campaign = varied(tmp_path_factory.mktemp("x"), frames=6, stars=stars, width=260, height=200, seed=seed)
    random = np.random.default_rng(seed)
    campaign.left = random.integers(0, 240, 6) * (random.random(6) < 0.5)
    campaign.left[0] = 0
    campaign.noise *= np.exp(random.normal(0, 3, 6))
    if empty:  # the sky of a simulated image without noise
        campaign.noise[:] = 0 * campaign.noise + 1e-30
        campaign.energy[:] = 0
    worth = Measured(campaign, weighting, exponent).windows()
    assert np.all(np.isfinite(worth)) and worth.min() > 0
    total = worth.sum(axis=0)
    assert total.min() > 1e-6  # else the reconstruction would take the plain mean
    assert np.abs((worth / total).sum(axis=0) - 1).max() < 1e-6


def test_no_frame_is_weighted_out_of_all_proportion():
    noise = np.ones((9, 1, 2, 2))
    noise[0], noise[1] = 1e-3, 1e6
    worth = weights.physical(noise, np.ones((9, 2, 2)), 2)[:, 0, 0, 0]
    assert worth[0] == pytest.approx(weights.HEAVIEST) and worth[1] == pytest.approx(weights.LIGHTEST)
    assert np.allclose(worth[2:], 1)


def test_chunks_cannot_be_seen(tmp_path):
    results = []
    for name, chunks in (("a", 1), ("b", 3)):
        (tmp_path / name).mkdir()
        measured = Measured(varied(tmp_path / name, frames=9), exponent="auto", chunks=chunks)
        results.append([Path(path).read_bytes() for path in measured.paths])
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("exponent", "sharpness", "formula"),
    [("auto", {"mu": 0.62, "width": 0.9, "snr": 0.95}, "max(h/<h> - 0.62, 0)"), (2.5, None, "r50^2.5")],
)
def test_the_header_tells_the_weights(exponent, sharpness, formula):
    settings = {"weighting": "physical", "psf_exponent": exponent}
    assert formula in stacked_file.weighting(settings, sharpness)
