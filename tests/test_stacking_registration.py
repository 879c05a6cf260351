"""Registration finds the transform that is there, in the right direction, and says so when there is none."""

import json
import math

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ripresa.families.stacking import StackingError, correlation, matching, tables, transforms
from ripresa.families.stacking.matching import Points
from ripresa.families.stacking.reference import choose
from ripresa.families.stacking.registration import register
from ripresa.families.stacking.scan import scan

WIDTH, HEIGHT = 1500, 1000
CENTRE = ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)
SETTINGS = {"registration": {"model": "auto", "interpolation": "lanczos3", "minimum_matches": 6}}
seeds = st.integers(0, 2**32 - 1)


def difference(one, other):
    return transforms.largest_difference(np.asarray(one), np.asarray(other), WIDTH, HEIGHT)


def points(x, y, error=0.1):
    return Points(np.asarray(x, float), np.asarray(y, float), np.full(len(x), error))


def sky(rng, number):
    """Stars around the reference frame, brightest first."""
    return rng.uniform(-0.6 * WIDTH, 1.6 * WIDTH, number), rng.uniform(-0.6 * HEIGHT, 1.6 * HEIGHT, number)


def seen(rng, x, y, to_frame=None, error=0.1, kept=1.0, strangers=0, limit=400):
    """What a frame shows of the stars: those on it, some missing, with errors, and false ones at any
    brightness."""
    if to_frame is not None:
        x, y = transforms.apply(np.asarray(to_frame), x, y)
    on_frame = (x > 0) & (x < WIDTH - 1) & (y > 0) & (y < HEIGHT - 1) & (rng.random(len(x)) < kept)
    rank = np.flatnonzero(on_frame) + rng.normal(0, 2.0, np.count_nonzero(on_frame))
    x, y = (q[on_frame] + rng.normal(0, error, len(rank)) for q in (x, y))
    x = np.concatenate([x, rng.uniform(0, WIDTH, strangers)])
    y = np.concatenate([y, rng.uniform(0, HEIGHT, strangers)])
    order = np.argsort(np.concatenate([rank, rng.uniform(0, rank.max(initial=1), strangers)]))[:limit]
    return points(x[order], y[order], max(error, 0.01))


# Transforms


@given(st.floats(0.9, 1.1), st.floats(-180, 180), st.tuples(st.floats(-900, 900), st.floats(-900, 900)))
def test_transforms_are_undone_by_their_inverses(scale, angle, shift):
    matrix = transforms.similarity(scale, angle, CENTRE, shift)
    assert difference(transforms.compose(transforms.invert(matrix), matrix), transforms.identity()) < 1e-8
    geometry = transforms.geometry(matrix)
    assert geometry.scale == pytest.approx(scale)
    assert math.cos(math.radians(geometry.rotation - angle)) == pytest.approx(1.0)
    assert geometry.shear == pytest.approx(0.0, abs=1e-7)
    assert not geometry.mirrored


@settings(deadline=None)
@given(seeds)
def test_fits_give_back_exact_transforms(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 1000, (2, 8))
    weight = rng.uniform(0.1, 10.0, 8)
    similar = transforms.similarity(rng.uniform(0.9, 1.1), rng.uniform(-180, 180), CENTRE, (50.0, -20.0))
    assert (
        difference(transforms.fit_similarity(x, y, *transforms.apply(similar, x, y), weight), similar) < 1e-6
    )
    affine = similar + np.array([[0.01, -0.02, 0.0], [0.015, 0.0, 0.0]])
    assert difference(transforms.fit_affine(x, y, *transforms.apply(affine, x, y), weight), affine) < 1e-5


def test_the_expected_shear_holds_back_a_fit():
    x, y = np.array([0.0, 900.0, 0.0, 900.0]), np.array([0.0, 0.0, 600.0, 600.0])
    sheared = np.array([[1.01, 0.0, 0.0], [0.0, 0.99, 0.0]])
    stars = (x, y, *transforms.apply(sheared, x, y))
    free = transforms.fit_affine(*stars, np.full(4, 1.0))
    held = transforms.fit_affine(*stars, np.full(4, 1.0), shear=1e-4)
    assert transforms.geometry(free).shear == pytest.approx(0.01, rel=1e-6)
    assert transforms.geometry(held).shear < 0.001


# Matching


@settings(max_examples=40, deadline=None)
@given(
    seeds,
    st.floats(-180, 180),
    st.floats(-0.5, 0.5),
    st.floats(-0.5, 0.5),
    st.floats(0.97, 1.03),
    st.floats(0.5, 1.0),
    st.integers(0, 100),
)
@example(1, 0.0, 0.5, 0.5, 1.0, 0.7, 100)
@example(2, 180.0, 0.0, 0.0, 1.0, 1.0, 0)
@example(3, 90.0, -0.5, 0.0, 0.97, 0.6, 50)
def test_a_random_transform_is_found(seed, angle, dx, dy, scale, kept, strangers):
    """Any rotation, drifts up to half a frame, missing stars, false ones."""
    rng = np.random.default_rng(seed)
    x, y = sky(rng, 900)
    true = transforms.similarity(scale, angle, CENTRE, (dx * WIDTH, dy * HEIGHT))
    found = matching.match(
        seen(rng, x, y, strangers=strangers // 2),
        seen(rng, x, y, true, kept=kept, strangers=strangers),
        WIDTH,
        HEIGHT,
    )
    assert found is not None
    # At the corners beyond the overlap errors are larger than where there are stars.
    assert difference(found.to_frame, true) < max(8.0 * found.uncertainty, 0.3)
    assert found.uncertainty < 0.3
    assert 0.05 < found.residual < 0.4


def test_the_transform_goes_from_the_reference_to_the_frame():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(100, 900, (2, 60))
    found = matching.match(points(x, y), points(x + 37.0, y - 12.0), WIDTH, HEIGHT)
    assert found is not None
    assert transforms.apply(found.to_frame, np.array([500.0]), np.array([400.0])) == (
        pytest.approx(537.0, abs=1e-3),
        pytest.approx(388.0, abs=1e-3),
    )


@settings(max_examples=40, deadline=None)
@given(seeds, st.floats(-180, 180))
@example(336265, 58.0)
def test_eight_of_fifteen_stars_in_common_suffice(seed, angle):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0.3 * WIDTH, 0.7 * WIDTH, 8), rng.uniform(0.2 * HEIGHT, 0.8 * HEIGHT, 8)
    apart = np.hypot(x[:, None] - x, y[:, None] - y)[np.triu_indices(8, 1)]
    assume(apart.min() > 25)
    true = transforms.similarity(1.0, angle, CENTRE, (30.0, -20.0))

    def with_strangers(x, y):
        both = np.concatenate([x, rng.uniform(0, WIDTH, 7)]), np.concatenate([y, rng.uniform(0, HEIGHT, 7)])
        order = rng.permutation(15)
        return points(both[0][order] + rng.normal(0, 0.1, 15), both[1][order] + rng.normal(0, 0.1, 15))

    found = matching.match(with_strangers(x, y), with_strangers(*transforms.apply(true, x, y)), WIDTH, HEIGHT)
    assert found is not None
    # Of eight stars with this noise one in some thousand skies has one that is clipped: what counts is below.
    assert found.matches >= 7
    xs, ys = transforms.apply(found.to_frame, x, y)
    xt, yt = transforms.apply(true, x, y)
    assert np.hypot(xs - xt, ys - yt).max() < 0.6


@settings(max_examples=12, deadline=None)
@given(seeds, st.integers(3, 250), st.integers(3, 250))
def test_frames_with_nothing_in_common_do_not_match(seed, ours, theirs):
    rng = np.random.default_rng(seed)
    one = points(rng.uniform(0, WIDTH, ours), rng.uniform(0, HEIGHT, ours))
    other = points(rng.uniform(0, WIDTH, theirs), rng.uniform(0, HEIGHT, theirs))
    assert matching.match(one, other, WIDTH, HEIGHT) is None


@settings(max_examples=6, deadline=None)
@given(seeds, st.floats(-180, 180))
def test_a_mirror_image_is_refused_and_recognised(seed, angle):
    rng = np.random.default_rng(seed)
    x, y = sky(rng, 500)
    reference = seen(rng, x, y)
    frame = seen(rng, x, y, transforms.similarity(1.0, angle, CENTRE, (20.0, 10.0)))
    mirrored = Points(frame.x, HEIGHT - 1 - frame.y, frame.error)
    assert matching.match(reference, mirrored, WIDTH, HEIGHT) is None
    assert matching.is_mirrored(reference, mirrored, WIDTH, HEIGHT)
    assert not matching.is_mirrored(reference, frame, WIDTH, HEIGHT)


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(-5, 5), st.floats(5, 60))
def test_hot_pixels_do_not_hold_the_sky_still(seed, angle, shift):
    """Three hundred false stars at the same pixels in both frames, brighter than most true ones."""
    rng = np.random.default_rng(seed)
    x, y = sky(rng, 700)
    hot_x, hot_y = rng.uniform(0, WIDTH, 300), rng.uniform(0, HEIGHT, 300)
    true = transforms.similarity(1.0, angle, CENTRE, (shift, -shift))

    def with_hot(stars):
        x, y = np.concatenate([hot_x, stars.x]), np.concatenate([hot_y, stars.y])
        order = np.argsort(np.concatenate([np.arange(300.0), np.arange(len(stars)) * 1.5 + 20]))[:400]
        return points(x[order], y[order])

    found = matching.match(with_hot(seen(rng, x, y)), with_hot(seen(rng, x, y, true)), WIDTH, HEIGHT)
    assert found is not None
    assert difference(found.to_frame, true) < 0.4


def test_a_well_guided_sequence_stays_where_it_is():
    rng = np.random.default_rng(4)
    x, y = sky(rng, 600)
    found = matching.match(seen(rng, x, y, strangers=40), seen(rng, x, y, strangers=40), WIDTH, HEIGHT)
    assert found is not None
    assert difference(found.to_frame, transforms.identity()) < 0.1


def test_affine_where_it_is_asked_for_or_supported():
    rng = np.random.default_rng(5)
    x, y = sky(rng, 900)
    true = np.array([[1.002, 0.001, 5.0], [0.0, 0.999, -7.0]])
    reference, frame = seen(rng, x, y), seen(rng, x, y, true)
    for model in ("auto", "affine"):
        found = matching.match(reference, frame, WIDTH, HEIGHT, model=model)
        assert found is not None
        assert found.model == "affine"
        assert difference(found.to_frame, true) < 0.15
    rigid = matching.match(reference, frame, WIDTH, HEIGHT, model="similarity")
    assert rigid is not None
    assert rigid.model == "similarity"
    assert transforms.geometry(rigid.to_frame).shear < 1e-9


def test_stars_that_say_little_about_rotation_give_a_shift():
    rng = np.random.default_rng(6)
    x, y = rng.uniform(600, 800, 10), rng.uniform(400, 560, 10)
    frame = points(x + 20 + rng.normal(0, 1.0, 10), y - 9 + rng.normal(0, 1.0, 10), 0.7)
    found = matching.refine(points(x, y, 0.7), frame, np.array([[1.0, 0, 21], [0, 1, -9]]), WIDTH, HEIGHT)
    assert found is not None
    assert found.model == "shift"
    assert found.to_frame[:, :2].tolist() == [[1, 0], [0, 1]]
    assert found.to_frame[:, 2] == pytest.approx([20, -9], abs=1.0)


def test_the_uncertainty_is_honest():
    rng = np.random.default_rng(7)
    ratio = []
    for _ in range(30):
        x, y = rng.uniform(100, 900, (2, 12))
        true = transforms.similarity(1.0, rng.uniform(-3, 3), CENTRE, (15.0, 8.0))
        u, v = (q + rng.normal(0, 0.3, 12) for q in transforms.apply(true, x, y))
        found = matching.refine(points(x, y, 0.2), points(u, v, 0.2), true, WIDTH, HEIGHT)
        if found is not None:
            ratio.append(difference(found.to_frame, true) / found.uncertainty)
    assert len(ratio) > 20
    assert 0.3 < np.median(ratio) < 2.0


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_the_same_stars_give_the_same_bytes(seed):
    rng = np.random.default_rng(seed)
    x, y = sky(rng, 500)
    reference, frame = seen(rng, x, y), seen(rng, x, y, transforms.similarity(1.0, 3.0, CENTRE, (9.0, 4.0)))
    one, other = (matching.match(reference, frame, WIDTH, HEIGHT) for _ in range(2))
    assert one is not None and other is not None
    assert one.to_frame.tobytes() == other.to_frame.tobytes()


# Correlation


def faint_sky(rng, to_frame, height=320, width=420, fwhm=5.0, peak=1.6, noise=1.0):
    """Stars of under two sigma a pixel; some hundred of them."""
    field = np.random.default_rng(99)
    x, y = field.uniform(-200, width + 200, 400), field.uniform(-200, height + 200, 400)
    heights = peak * field.uniform(0.5, 1.5, 400)
    x, y = transforms.apply(np.asarray(to_frame), x, y)
    i, j = np.mgrid[:height, :width]
    image = rng.normal(100.0, noise, (height, width))
    for x0, y0, top in zip(x, y, heights, strict=True):
        if -9 < x0 < width + 9 and -9 < y0 < height + 9:
            rows = slice(max(int(y0) - 12, 0), max(int(y0) + 13, 0))
            columns = slice(max(int(x0) - 12, 0), max(int(x0) + 13, 0))
            d = (j[rows, columns] - x0) ** 2 + (i[rows, columns] - y0) ** 2
            image[rows, columns] += top * np.exp(-4 * math.log(2) * d / fwhm**2)
    return image.astype(np.float32)[None]


@pytest.mark.parametrize(("angle", "shift"), [(0, (31.4, -17.8)), (180, (-12.3, 40.6)), (0, (2.5, 1.5))])
def test_images_are_placed_by_all_their_light(angle, shift):
    rng = np.random.default_rng(10)
    true = transforms.similarity(1.0, angle, (209.5, 159.5), shift)
    found = correlation.Correlator(faint_sky(rng, transforms.identity()), None, 5.0).locate(
        faint_sky(rng, true)
    )
    assert found is not None
    assert transforms.largest_difference(found.to_frame, true, 420, 320) < 0.4
    assert found.uncertainty < 0.5


def test_a_small_rotation_is_found_by_trying():
    rng = np.random.default_rng(11)
    true = transforms.similarity(1.0, 2.0, (209.5, 159.5), (15.0, -8.0))
    found = correlation.Correlator(faint_sky(rng, transforms.identity(), peak=5.0), None, 5.0).locate(
        faint_sky(rng, true, peak=5.0)
    )
    assert found is not None
    assert transforms.largest_difference(found.to_frame, true, 420, 320) < 2.5


def test_the_pattern_of_the_detector_does_not_draw_the_sky_towards_it():
    rng = np.random.default_rng(12)
    pattern = rng.normal(0, 1.5, (1, 320, 420)).astype(np.float32)
    true = np.array([[1.0, 0.0, 4.0], [0.0, 1.0, -3.0]])
    reference, frame = (
        faint_sky(rng, matrix, peak=3.0) + pattern for matrix in (transforms.identity(), true)
    )
    found = correlation.Correlator(reference, None, 5.0).locate(frame)
    assert found is not None
    assert transforms.largest_difference(found.to_frame, true, 420, 320) < 0.35


def test_a_mosaic_is_placed_in_its_own_pixels():
    rng = np.random.default_rng(13)
    true = transforms.similarity(1.0, 180.0, (209.5, 159.5), (12.0, -7.0))
    reference, frame = (faint_sky(rng, matrix, peak=3.0) for matrix in (transforms.identity(), true))
    found = correlation.Correlator(reference, "RGGB", 5.0).locate(frame)
    assert found is not None
    assert transforms.largest_difference(found.to_frame, true, 420, 320) < 0.4


def test_noise_correlates_with_nothing():
    rng = np.random.default_rng(14)
    correlator = correlation.Correlator(faint_sky(rng, transforms.identity()), None, 5.0)
    assert correlator.locate(rng.normal(100, 1, (1, 320, 420)).astype(np.float32)) is None


# The reference


def table(path, frames):
    """A table of the scan: frames are (name, x, y, {fact or column: value})."""
    columns: dict[str, list] = {name: [] for name in ("x", "y", "snr", "fwhm", "r50", "elongation")}
    listed, number, flux = [], [], []
    for index, (name, x, y, more) in enumerate(frames):
        facts = {
            "name": name, "path": f"/frames/{name}", "status": "ok", "reason": None, "kind": "mono", "bayer":
            None, "width": WIDTH, "height": HEIGHT, "date_obs": None, "exposure_s": 60.0, "cards": [],
        }  # fmt: skip
        listed.append(facts | {key: value for key, value in more.items() if key in facts})
        number += [index] * len(x)
        flux.append(np.geomspace(1e5, 1e3, max(len(x), 1))[: len(x), None])
        defaults = {
            "snr": np.geomspace(300, 10, max(len(x), 1))[: len(x)],
            "fwhm": 3.0,
            "r50": 1.8,
            "elongation": 1.1,
        }
        for column, values in columns.items():
            value = {"x": x, "y": y}.get(column, more.get(column, defaults.get(column)))
            values.append(np.broadcast_to(np.asarray(value, float), len(x)))
    arrays = {name: np.concatenate([np.empty(0), *values]) for name, values in columns.items()}
    tables.save(
        str(path), {"frames": listed}, star_frame=np.array(number, np.int32),
        flux=np.concatenate([np.empty((0, 1)), *flux]), hot_frame=np.empty(0, np.int32),
        hot_index=np.empty(0, np.int64), **arrays,
    )  # fmt: skip
    return str(path)


def night(rng, number=12, drift=0.0):
    """Frames of one sky, each moved on by ``drift`` of the width."""
    x, y = sky(rng, 900)
    frames = []
    for k in range(number):
        true = transforms.similarity(1.0, 0.1 * k, CENTRE, (drift * WIDTH * k, 3.0 * k))
        stars = seen(rng, x, y, true)
        frames.append((f"light_{k:02d}.fits", stars.x, stars.y, {"date_obs": f"2025-01-01T00:{k:02d}:00"}))
    return frames


def chosen(tmp_path, *star_tables, **settings_):
    output = tmp_path / "reference.json"
    choose(list(star_tables), {"reference": None} | settings_, str(output))
    return json.loads(output.read_text())


def test_the_sharpest_frame_is_the_reference_whatever_the_order(tmp_path):
    frames = night(np.random.default_rng(20))
    frames[7][3]["fwhm"] = 2.0
    whole = chosen(tmp_path, table(tmp_path / "a.npz", frames))
    assert whole["name"] == "light_07.fits"
    one, other = table(tmp_path / "b.npz", frames[::-2]), table(tmp_path / "c.npz", frames[-2::-2])
    assert chosen(tmp_path, other, one) == whole
    assert whole["frames"] == 12
    assert whole["channels"] == ["L"]
    assert whole["fwhm_px"] == 3.0
    assert len(whole["stars"]["x"]) == min(len(frames[7][1]), 400)


def test_of_equal_frames_one_in_the_middle_of_the_drift(tmp_path):
    reference = chosen(tmp_path, table(tmp_path / "a.npz", night(np.random.default_rng(21), 11, drift=0.05)))
    assert reference["name"] in {"light_04.fits", "light_05.fits", "light_06.fits"}


def test_clouds_and_trailed_stars_make_no_reference(tmp_path):
    frames = night(np.random.default_rng(22), 4)
    frames[0][3]["elongation"] = 2.0
    frames[1][3]["snr"] = 6.0
    frames[2] = (frames[2][0], frames[2][1][:10], frames[2][2][:10], frames[2][3])
    assert chosen(tmp_path, table(tmp_path / "a.npz", frames))["name"] == "light_03.fits"


def test_the_wanted_reference(tmp_path):
    path = table(tmp_path / "a.npz", night(np.random.default_rng(23), 4))
    assert chosen(tmp_path, path, reference="light_02.fits")["name"] == "light_02.fits"
    with pytest.raises(StackingError, match=r"stacking.reference: 'nothing' names 0 of 4 frames"):
        chosen(tmp_path, path, reference="nothing")


def test_too_few_frames_are_refused_with_the_key_to_change(tmp_path):
    frames = night(np.random.default_rng(24), 4)
    frames[0][3].update(status="bad", reason="it is truncated: 1 bytes of 2")
    path = table(tmp_path / "a.npz", frames)
    mode = {"minimum_frames": 4, "full_from": 200, "allow_few": False}
    with pytest.raises(StackingError, match=r"only 3 .*stacking\.mode\.allow_few"):
        chosen(tmp_path, path, mode=mode)
    assert chosen(tmp_path, path, mode=mode | {"allow_few": True})["mode"] == "reduced"
    assert chosen(tmp_path, path, mode=mode | {"minimum_frames": 3, "full_from": 3})["mode"] == "full"
    bad = {"status": "bad", "reason": "it has no image"}
    nothing = table(tmp_path / "b.npz", [(name, x[:0], y[:0], bad) for name, x, y, _ in frames])
    with pytest.raises(StackingError, match="none of 4 frames can be used; most often: it has no image"):
        chosen(tmp_path, nothing)


def test_the_reference_is_of_the_size_most_frames_have(tmp_path):
    frames = night(np.random.default_rng(25), 5)
    for frame in frames[:2]:
        frame[3].update(width=WIDTH + 2, fwhm=1.5)
    reference = chosen(tmp_path, table(tmp_path / "a.npz", frames))
    assert reference["width"] == WIDTH
    assert reference["frames"] == 3


# The phase


def registered(tmp_path, stars, reference, settings_=SETTINGS):
    output = tmp_path / "registration.json"
    register(stars, str(reference), None, settings_, str(output))
    return json.loads(output.read_text())["frames"]


def test_chunks_cannot_be_seen_in_the_result(tmp_path):
    frames = night(np.random.default_rng(30), 8, drift=0.02)
    whole = table(tmp_path / "whole.npz", frames)
    reference = tmp_path / "reference.json"
    choose([whole], {"reference": None}, str(reference))
    together = registered(tmp_path, whole, reference)
    apart = [
        entry
        for part in (frames[1::2], frames[::2])
        for entry in registered(tmp_path, table(tmp_path / "part.npz", part), reference)
    ]
    assert together == sorted(apart, key=lambda entry: entry["name"])
    assert [entry["status"] for entry in together] == ["registered"] * 8
    assert [entry["method"] for entry in together].count("reference") == 1


def test_every_frame_has_an_entry_with_what_became_of_it(tmp_path):
    """From files: shifted, flipped, too faint for its stars, empty, of another size, truncated."""
    rng = np.random.default_rng(31)
    flip = transforms.similarity(1.0, 180.0, (209.5, 159.5), (6.0, 4.0))
    moved = np.array([[1.0, 0.0, 11.5], [0.0, 1.0, -7.25]])
    images = {
        "a_reference.fits": faint_sky(rng, transforms.identity(), peak=30.0)[0],
        "b_moved.fits": faint_sky(rng, moved, peak=25.0)[0],
        "c_flipped.fits": faint_sky(rng, flip, peak=25.0)[0],
        "d_faint.fits": faint_sky(rng, moved, peak=0.6)[0],
        "e_empty.fits": rng.normal(100, 1, (320, 420)).astype(np.float32),
        "f_small.fits": faint_sky(rng, moved, height=300, peak=25.0)[0],
        "g_truncated.fits": faint_sky(rng, moved, peak=25.0)[0],
    }
    paths = []
    for name, image in images.items():
        fits.PrimaryHDU(image).writeto(tmp_path / name)
        paths.append((name, str(tmp_path / name)))
    with open(tmp_path / "g_truncated.fits", "r+b") as file:
        file.truncate(50_000)
    stars, reference = str(tmp_path / "stars.npz"), tmp_path / "reference.json"
    scan(
        paths,
        None,
        {"bayer": "auto", "on_bad_frame": "skip", "calibration": {}},
        str(tmp_path / "m.json"),
        stars,
    )
    choose([stars], {"reference": "a_reference.fits"}, str(reference))
    entries = {entry["name"]: entry for entry in registered(tmp_path, stars, reference)}
    assert list(entries) == sorted(images)
    assert {name: entry["method"] for name, entry in entries.items()} == {
        "a_reference.fits": "reference",
        "b_moved.fits": "stars",
        "c_flipped.fits": "stars",
        "d_faint.fits": "correlation",
        "e_empty.fits": None,
        "f_small.fits": None,
        "g_truncated.fits": None,
    }
    for name, true, within in (
        ("b_moved.fits", moved, 0.15),
        ("c_flipped.fits", flip, 0.15),
        ("d_faint.fits", moved, 0.8),
    ):
        assert transforms.largest_difference(np.array(entries[name]["to_frame"]), true, 420, 320) < within
    for name, reason in (
        ("e_empty.fits", "do not correlate"),
        ("f_small.fits", "420x300"),
        ("g_truncated.fits", "truncated"),
    ):
        assert entries[name]["status"] == "excluded"
        assert reason in entries[name]["reason"]
        assert entries[name]["to_frame"] is None
