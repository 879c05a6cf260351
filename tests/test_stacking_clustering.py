"""STATE_CLUSTERING: clusters that do not depend on how the frames are listed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.families.stacking import StackingError, tables
from ripresa.families.stacking.clustering import cluster, clusters, group, kmeans

LIMITS = {"minimum": 5, "maximum": 30}


def states(seed, frames, dimensions=5, distinct=None):
    """Random states, only so many of them distinct, and their worth."""
    random = np.random.default_rng(seed)
    state = random.normal(size=(frames, dimensions)) * random.uniform(0.1, 100, dimensions)
    if distinct:
        state = state[random.integers(0, min(distinct, frames), frames)]
    return state, random.uniform(0, 2, frames), [f"{i:03d}.fits" for i in range(frames)]


@given(st.integers(0, 10**6), st.integers(1, 120), st.integers(1, 12), st.sampled_from([None, 1, 3, 7]))
@settings(max_examples=60, deadline=None)
def test_no_cluster_is_empty_and_the_best_is_the_first(seed, frames, k, distinct):
    state, worth, names = states(seed, frames, distinct=distinct)
    label, quality = group(state, worth, names, k)
    count = np.bincount(label, minlength=len(quality))
    assert len(count) == len(quality) <= k and count.min() > 0
    assert quality == sorted(quality, reverse=True)
    for number, value in enumerate(quality):
        assert value == pytest.approx(np.mean(worth[np.array(label) == number]))
    if not distinct:
        assert len(quality) == min(k, frames)


@given(st.integers(0, 10**6), st.sampled_from([None, 4, 30]))
@settings(max_examples=30, deadline=None)
def test_the_order_of_frames_does_not_matter(seed, distinct):
    state, worth, names = states(seed, 60, distinct=distinct)
    label, quality = group(state, worth, names, 6)
    order = np.random.default_rng(seed + 1).permutation(60)
    again, same = group(state[order], worth[order], [names[i] for i in order], 6)
    assert again == [label[i] for i in order]
    assert same == pytest.approx(quality, rel=1e-12)


def test_clusters_that_are_there_are_found():
    random = np.random.default_rng(3)
    centre = random.permutation(6)[:, None] * np.array([1.0, 0.6]) + random.normal(0, 0.1, (6, 2))
    truth = np.repeat(np.arange(6), 20)
    label = kmeans(centre[truth] + random.normal(0, 0.02, (120, 2)), 6)
    assert all(len(set(label[truth == j])) == 1 for j in range(6))
    assert len(set(label)) == 6


def test_one_frame_far_out_does_not_put_all_others_together():
    state, worth, names = states(1, 200)
    state[7] *= 1e6
    label, _ = group(state, worth, names, 20)
    assert np.bincount(label).max() < 40


@pytest.mark.parametrize(("frames", "k"), [(422, 30), (200, 20), (77, 7), (40, 5), (3, 3)])
def test_the_number_of_clusters(frames, k):
    assert clusters(frames, LIMITS) == k


def test_limits_that_contradict_are_one_line():
    with pytest.raises(StackingError, match="minimum 9 is above maximum 4"):
        clusters(100, {"minimum": 9, "maximum": 4})


def written(directory, frames):
    """Run the phase on random tables; returns the document."""
    random = np.random.default_rng(2)
    whole, local, output = (str(directory / name) for name in ("g.npz", "l.npz", "c.json"))
    listed = {"frames": [{"name": f"{i:03d}.fits"} for i in range(frames)]}
    figures = {key: random.lognormal(size=frames) for key in ("weight", "background", "noise")}
    tables.save(whole, listed, **figures)
    tables.save(
        local,
        listed,
        mean_quality=random.normal(size=frames),
        var_quality=random.lognormal(size=frames),
        weights=random.lognormal(size=(frames, 3, 4, 5)).astype(np.float32),
    )
    cluster(whole, local, {"clusters": LIMITS, "mode": {"full_from": 200}}, output)
    return tables.read_json(output)


def test_full_mode_labels_every_frame(tmp_path):
    document = written(tmp_path, 220)
    assert document["mode"] == "full"
    assert document["k"] == len(document["quality"]) == 22
    assert list(document["labels"]) == [f"{i:03d}.fits" for i in range(220)]
    assert set(document["labels"].values()) == set(range(22))


def test_reduced_mode_has_no_clusters(tmp_path):
    assert written(tmp_path, 199) == {"mode": "reduced", "k": 0, "labels": {}, "quality": []}
