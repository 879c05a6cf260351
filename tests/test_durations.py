"""Durations predicted from the declared cost: what is learnt, how sure it is, and when it is learnt anew."""

import csv
import math
import random
import statistics
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.placement.cost import CostModel, Prediction
from ripresa.placement.durations import Durations
from ripresa.placement.wishes import CPU, GPU

TRACE = Path(__file__).resolve().parents[2] / "shared/data/gpu_sweep_trace.csv"


def truth(size, kind, noise=0.0, chance=None):
    """Seconds that grow with a power of the size, less steeply on a GPU."""
    seconds = 2.0 * size**0.5 if kind == GPU else 0.4 * size**0.9
    return seconds * math.exp(chance.gauss(0, noise) if noise else 0.0)


def learnt(units, noise=0.2, seed=1, kinds=(GPU, CPU)):
    """A model that has seen so many units, of sizes of all orders up to 10**5."""
    chance, model = random.Random(seed), CostModel()
    for _ in range(units):
        size, kind = math.exp(chance.uniform(0, 11)), chance.choice(kinds)
        model.learn(f"model=CNN size={size:.6g}", kind, truth(size, kind, noise, chance))
    return model


def test_before_anything_is_known_larger_units_take_longer_and_nothing_is_sure():
    model = CostModel()
    small, large, beside = (
        model.predict(f"size={size}", kind) for size, kind in ((10, GPU), (10**6, GPU), (10**6, CPU))
    )
    assert small.seconds < large.seconds < beside.seconds
    assert min(small.spread, large.spread, beside.spread) > 1.0


@pytest.mark.parametrize("kind", [GPU, CPU])
def test_the_growth_with_the_cost_is_learnt_for_each_kind_of_device(kind):
    model = learnt(120)
    for size in (30, 1000, 30_000):
        predicted = model.predict(f"model=CNN size={size}", kind).seconds
        assert predicted == pytest.approx(truth(size, kind), rel=0.35)


def test_what_one_kind_of_device_gains_is_learnt_from_costs_that_ran_on_both():
    model = CostModel()
    for number in range(6):
        model.learn("name=a", GPU, 10.0 + number / 10)
        model.learn("name=b", GPU, 50.0 + number / 10)
        model.learn("name=a", CPU, 40.0 + number / 10)
    unseen = model.predict("name=b", CPU)
    assert unseen.seconds == pytest.approx(200, rel=0.25)
    assert unseen.spread > model.predict("name=b", GPU).spread


def test_a_cost_that_is_far_from_the_line_is_known_by_its_own_units():
    model = learnt(60)
    odd = "model=CNN size=500 data=slow"
    before = model.predict(odd, GPU).seconds
    for _ in range(8):
        model.learn(odd, GPU, 40 * before)
    after = model.predict(odd, GPU)
    assert after.seconds == pytest.approx(40 * before, rel=0.3)
    others = model.predict("model=CNN size=501", GPU).seconds
    assert others == pytest.approx(before, rel=0.6), "and the others are where they were"


def test_one_unit_that_hung_for_a_day_says_little():
    model = learnt(60)
    before = model.predict("model=CNN size=1000", GPU).seconds
    model.learn("model=CNN size=999", GPU, 86_400.0)
    assert model.predict("model=CNN size=1000", GPU).seconds < 2 * before


@pytest.mark.parametrize("units", [12, 100])
def test_nine_of_ten_durations_lie_where_nine_of_ten_are_said_to_lie(units):
    inside, number, chance = 0, 0, random.Random(7)
    for seed in range(20):
        model = learnt(units, noise=0.3, seed=seed)
        for _ in range(10):
            size, kind = math.exp(chance.uniform(0, 11)), chance.choice((GPU, CPU))
            mean, spread = model.predict(f"model=CNN size={size:.6g}", kind)
            middle = math.log(mean) - min(spread, 1.5) ** 2 / 2
            inside += abs(math.log(truth(size, kind, 0.3, chance)) - middle) < 1.645 * spread
            number += 1
    assert 0.85 <= inside / number <= 1.0


@given(st.floats(0.1, 1e5), st.floats(0.05, 1.5), st.floats(0.01, 3))
@settings(max_examples=60, deadline=None)
def test_what_remains_is_the_mean_of_those_that_still_run(seconds, spread, part):
    chance = random.Random(3)
    drawn = [seconds * math.exp(chance.gauss(-spread * spread / 2, spread)) for _ in range(4000)]
    elapsed = part * seconds
    rest = [one - elapsed for one in drawn if one > elapsed]
    prediction = Prediction(seconds, spread)
    assert prediction.remaining(0.0) == seconds
    if len(rest) > 400:
        error = 5 * statistics.stdev(rest) / math.sqrt(len(rest)) + 0.03 * seconds
        assert prediction.remaining(elapsed) == pytest.approx(statistics.fmean(rest), abs=error)
    assert prediction.remaining(1e3 * seconds) > 0, "what is overdue goes on for a while"


def test_a_sure_duration_ends_when_it_said():
    assert Prediction(100.0, 0.0).remaining(40.0) == 60.0
    assert Prediction(100.0, 0.0).remaining(140.0) == 0.0


def test_predictions_are_renewed_by_units_of_the_same_cost_and_by_many_others():
    durations = Durations()
    for number in range(100):
        durations.add("train", f"size={10 + number}", GPU, 10.0)
    before = durations.predict("train", "size=50", GPU)
    durations.add("other", "size=50", GPU, 500.0)
    durations.add("train", "size=51", GPU, 500.0)
    assert durations.predict("train", "size=50", GPU) == before, "one of hundred others says nothing new"
    durations.add("train", "size=50", GPU, 500.0)
    renewed = durations.predict("train", "size=50", GPU)
    assert renewed.seconds > before.seconds
    for _ in range(10):
        durations.add("train", "size=51", GPU, 500.0)
    assert durations.predict("train", "size=50", GPU) != renewed


@pytest.mark.skipif(not TRACE.exists(), reason="the trace is not here")
def test_durations_of_a_real_sweep_are_learnt_while_it_runs():
    durations, errors, inside = Durations(), [], []
    with TRACE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(1).shuffle(rows)
    for number, row in enumerate(rows[:600]):
        cost = " ".join(f"{name}={row[name]}" for name in ("model", "num_parameters", "complexity"))
        kind, seconds = row["worker_kind"], float(row["seconds"])
        if number >= 100:
            mean, spread = durations.predict("unit", cost, kind)
            middle = math.log(mean) - min(spread, 1.5) ** 2 / 2
            errors.append(abs(math.log(seconds) - middle))
            inside.append(errors[-1] < 1.645 * spread)
        durations.add("unit", cost, kind, seconds)
    assert statistics.median(errors) < math.log(2), "half of them to within a factor of 2"
    assert 0.8 <= statistics.fmean(inside) <= 0.99
