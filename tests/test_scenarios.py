"""Intervals of what units take together: they hold the truth as often as they say."""

import math
import random

from ripresa.placement.durations import Durations
from ripresa.placement.forecast import Job, forecast
from ripresa.placement.inventory import Device
from ripresa.placement.scenarios import Sort, interval, scenarios
from ripresa.placement.wishes import CPU, GPU

RESOURCES = {"gpu": 1, "gpu_share": 100, "gpu_mem_mb": 0, "device_kinds": "gpu"}


def test_the_end_of_a_campaign_lies_in_its_interval(monkeypatch):
    """Of many units only few have run, and what those showed is wrong of all others together.

    If they were drawn independently of each other, less than every second interval would have the end.
    """
    monkeypatch.setattr("ripresa.placement.ends._DRAWS", 40)
    truth, hits, widths = random.Random(4), 0, []
    for _ in range(30):
        durations, typical = Durations(), truth.gauss(5.0, 2.0)
        places = {f"model={name}": truth.gauss(typical, 0.3) for name in "abc"}
        for cost, place in places.items():
            for _ in range(2):
                durations.add("r", cost, "gpu", math.exp(truth.gauss(place, 0.4)))
        costs = [truth.choice(list(places)) for _ in range(40)]
        jobs = [Job(f"u{n}", "r", 1, {**RESOURCES, "cost": cost}) for n, cost in enumerate(costs)]
        found = forecast(jobs, [Device("g0", GPU)], 1, durations)
        end = sum(math.exp(truth.gauss(places[cost], 0.4)) for cost in costs)
        hits += found.interval[0] <= end <= found.interval[1]
        widths.append(found.interval[1] / found.interval[0])
    assert hits >= 23, hits
    assert sorted(widths)[15] < 2.5, "and not by being so wide that it says nothing"


def test_before_anything_is_known_all_units_may_be_short_or_long():
    sort = Sort("r", "size=1000", "gpu")
    chance = random.Random(2)
    totals = [
        spreads[sort].total(1000, chance) for spreads in scenarios(Durations(), {sort: 1000}, 80, chance)
    ]
    low, high = interval(totals, 1000 * 60.0)
    assert high / low > 100, "a thousand units do not make up for each other"


def test_what_many_units_have_shown_is_known():
    durations, sort, chance = Durations(), Sort("r", "", "cpu"), random.Random(3)
    seen = [math.exp(chance.gauss(4.0, 0.3)) for _ in range(200)]
    for seconds in seen:
        durations.add("r", "", "cpu", seconds)
    totals = [spreads[sort].total(1000, chance) for spreads in scenarios(durations, {sort: 1000}, 80, chance)]
    low, high = interval(totals, sum(totals) / 80)
    assert low < 1000 * sum(seen) / 200 < high < 1.15 * low
    (one,) = scenarios(durations, {sort: 1}, 1, random.Random(1))
    assert abs(one[sort].total(1, random.Random(7)) / one[sort].seconds(random.Random(7)) - 1) < 0.01


def test_a_plan_that_turns_out_to_be_bad_is_not_kept():
    """Nothing is known of CPUs. If they are slow nothing goes there, and the GPU alone is done in 40 min."""
    durations = Durations()
    for _ in range(30):
        durations.add("r", "", "gpu", 60.0)
    jobs = [Job(f"u{n}", "r", 1, {**RESOURCES, "device_kinds": "gpu,cpu"}) for n in range(40)]
    found = forecast(jobs, [Device("g0", GPU), Device("cpu0", CPU)], 2, durations)
    assert {unit.kind for unit in found.units} == {GPU, CPU}
    low, high = found.interval
    assert low < found.end < high < 1.2 * 40 * 60
