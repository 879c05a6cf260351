"""Assignment: feasible always, strict in priority, and no device idle for nothing."""

import math
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.placement.assignment import assign
from ripresa.placement.ilp import Cbc
from ripresa.placement.makespan import allot
from ripresa.placement.program import Solver
from ripresa.placement.ratios import Line, Work
from ripresa.placement.wishes import CPU, GPU, Option, Slot, Wish

ROOT = Path(__file__).resolve().parents[1]
TRACE = ROOT.parent / "shared/data/gpu_sweep_trace.csv"


class Linear(Solver):
    """Solves the programs of `makespan` in this process: the tests ask many."""

    def solve(self, program):
        from scipy.optimize import Bounds, LinearConstraint, milp

        places = range(len(program.costs))
        rows = [[dict(terms).get(place, 0.0) for place in places] for terms, _ in program.rows]
        return list(
            milp(
                program.costs,
                integrality=[place in program.whole for place in places],
                bounds=Bounds(0, program.most or math.inf),
                constraints=LinearConstraint(rows, ub=[most for _, most in program.rows]),
            ).x
        )


SOLVERS = {"program": Linear, "greedy": Solver}

gpus = st.builds(
    lambda number, free, memory, busy, starts: Slot(
        f"gpu{number}", GPU, free, memory, busy if free < 100 else 0.0, starts, memory and 24_000
    ),
    st.integers(0, 3),
    st.sampled_from((100, 100, 50, 0)),
    st.sampled_from((0, 8_000, 24_000)),
    st.sampled_from((10.0, 500.0, math.inf)),
    st.sampled_from((1 << 30, 1, 0)),
)
cpus = st.builds(
    lambda number, free, busy: Slot(f"cpu{number}", CPU, free, 0, 0.0 if free else busy),
    st.integers(0, 3),
    st.sampled_from((100, 100, 0)),
    st.sampled_from((10.0, 500.0, math.inf)),
)
slots = st.lists(st.one_of(gpus, cpus), max_size=7, unique_by=lambda slot: slot.name)
lengths = st.sampled_from((0.0, 1.0, 7.0, 60.0, 900.0))
spreads = st.sampled_from((0.0, 0.7))
on_gpu = st.builds(
    lambda shape, memory, seconds, spread: Option(GPU, *shape, memory, seconds, spread),
    st.sampled_from(((1, 100), (1, 100), (1, 50), (1, 30), (2, 100))),
    st.sampled_from((0, 5_000, 20_000)),
    lengths,
    spreads,
)
on_cpu = st.builds(lambda seconds, spread: Option(CPU, seconds=seconds, spread=spread), lengths, spreads)
options = st.one_of(st.tuples(on_gpu), st.tuples(on_cpu), st.tuples(on_gpu, on_cpu))
wishes = st.lists(
    st.builds(
        Wish,
        st.integers(1, 5),
        options,
        st.sampled_from((0, 0, 1)),
        st.sampled_from(((), (("_cores", 2),), (("breaker", 1),))),
        st.sampled_from((frozenset(), frozenset({"gpu0"}), frozenset({"gpu1", "cpu0"}))),
    ),
    max_size=6,
)
CAPACITY = {"_cores": 7, "breaker": 1}


def checked(wishes, slots, starts, capacity):
    """The slots after the starts; fails if one of them was not possible."""
    left = {slot.name: slot for slot in slots}
    units, taken = Counter(), Counter()
    for start in starts:
        wish = wishes[start.wish]
        option = next(option for option in wish.options if option.kind == start.kind)
        units[start.wish] += 1
        for name, amount in wish.demand:
            taken[name] += amount
        assert len(set(start.devices)) == option.devices
        assert not wish.avoid & set(start.devices)
        assert start.why
        for name in start.devices:
            slot = left[name]
            assert slot.kind == option.kind and slot.free >= option.share and slot.starts > 0
            assert not (slot.memory_mb and option.memory_mb) or slot.memory_mb >= option.memory_mb
            left[name] = occupied(slot, option)
    assert all(units[index] <= wishes[index].units for index in units)
    assert all(taken[name] <= capacity[name] for name in taken)
    return left.values(), units, taken


def occupied(slot, option):
    memory = slot.memory_mb and (slot.memory_mb - option.memory_mb or -1)
    return slot._replace(free=slot.free - option.share, memory_mb=memory, starts=slot.starts - 1)


def possible(wish, slots, taken, capacity):
    """How one more unit could start."""
    if any(taken[name] + amount > capacity[name] for name, amount in wish.demand):
        return
    for option in wish.options:
        fitting = [
            slot
            for slot in slots
            if slot.kind == option.kind
            and slot.free >= option.share
            and slot.starts > 0
            and (not (slot.memory_mb and option.memory_mb) or slot.memory_mb >= option.memory_mb)
            and slot.name not in wish.avoid
        ]
        if len(fitting) >= option.devices:
            yield option


def apart(option, wishes, slots):
    """Whether devices for one unit may not come together, although there are enough.

    They are of one class of memory, and what all units ask for makes the classes.
    """
    asked = any(other.memory_mb for wish in wishes for other in wish.options if other.kind == option.kind)
    there = {(slot.memory_mb, slot.total_mb) for slot in slots if slot.kind == option.kind}
    return option.devices > 1 and asked and len(there) > 1


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=150, deadline=None)
@given(wishes, slots)
def test_what_starts_is_possible(solver, wishes, slots):
    checked(wishes, slots, assign(wishes, slots, CAPACITY, solver=SOLVERS[solver]()), CAPACITY)


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=150, deadline=None)
@given(wishes, slots)
def test_a_unit_waits_only_for_a_device_on_which_it_ends_sooner(solver, wishes, slots):
    starts = assign(wishes, slots, CAPACITY, solver=SOLVERS[solver]())
    assert_patient(wishes, slots, starts, wishes)


def assert_patient(wishes, slots, starts, looked_at):
    """What has not started could not, or waits for something better."""
    left, units, taken = checked(wishes, slots, starts, CAPACITY)
    waiting = [wish for index, wish in enumerate(wishes) if units[index] < wish.units and wish in looked_at]
    patient = any(option.devices > 1 or option.share == 100 for wish in waiting for option in wish.options)
    in_use = [slot for slot in slots if slot.free < 100] or starts
    for wish in waiting:
        for option in possible(wish, left, taken, CAPACITY):
            sooner = [other for other in wish.options if other.kind != option.kind]
            # What waits for several devices, or for the whole of one in parts, may hold free ones.
            assert sooner or (patient and in_use) or apart(option, wishes, slots), (wish, option)


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=100, deadline=None)
@given(wishes, slots)
def test_what_is_less_urgent_gets_only_what_is_left(solver, wishes, slots):
    starts = assign(wishes, slots, CAPACITY, solver=SOLVERS[solver]())
    urgent = [start for start in starts if wishes[start.wish].priority]
    assert starts[: len(urgent)] == urgent
    assert_patient(wishes, slots, urgent, [wish for wish in wishes if wish.priority])


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=100, deadline=None)
@given(wishes, slots)
def test_something_starts_when_all_is_idle(solver, wishes, slots):
    idle = [slot._replace(free=100, free_in=0.0, starts=9) for slot in slots]
    starts = assign(wishes, idle, CAPACITY, solver=SOLVERS[solver]())
    found = [option for wish in wishes for option in possible(wish, idle, Counter(), CAPACITY)]
    if not all(apart(option, wishes, idle) for option in found):
        assert starts


BOTH = [Slot("gpu0", GPU), Slot("cpu0", CPU)]


def both(units, gpu, cpu, **others):
    return Wish(units, (Option(GPU, seconds=gpu), Option(CPU, seconds=cpu)), **others)


@pytest.mark.parametrize("solver", SOLVERS)
def test_large_units_go_to_the_gpu_and_small_ones_to_the_cpu(solver):
    starts = assign([both(1, 50, 60), both(1, 100, 1000)], BOTH, {}, solver=SOLVERS[solver]())
    assert {(start.wish, start.devices) for start in starts} == {(1, ("gpu0",)), (0, ("cpu0",))}


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_cpu_takes_no_unit_that_would_end_sooner_after_another_on_the_gpu(solver):
    busy = [Slot("gpu0", GPU, 0, free_in=100.0), Slot("cpu0", CPU)]
    assert assign([both(1, 50, 1000)], busy, {}, solver=SOLVERS[solver]()) == []
    [start] = assign([both(1, 50, 120)], busy, {}, solver=SOLVERS[solver]())
    assert start.devices == ("cpu0",)
    assert assign([both(1, 50, 120)], [busy[0]], {}, solver=SOLVERS[solver]()) == []


def test_the_longest_unit_starts_first_where_it_decides_the_end():
    wishes = [Wish(1, (Option(CPU, seconds=seconds),)) for seconds in (10, 300, 40)]
    [start] = assign(wishes, [Slot("cpu0", CPU)], {}, solver=Linear())
    assert start.wish == 1
    # Of two that take the same on average, the one of which less is known.
    wishes = [Wish(1, (Option(CPU, seconds=100, spread=spread),)) for spread in (0.1, 0.8)]
    [start] = assign(wishes, [Slot("cpu0", CPU)], {}, solver=Linear())
    assert start.wish == 1


def test_what_gains_most_is_done_first_while_the_end_is_far():
    wishes = [both(200, 10, 20), both(200, 10, 80), both(200, 10, 11)]
    starts = assign(wishes, BOTH, {}, solver=Linear())
    assert {(start.wish, start.kind) for start in starts} == {(1, GPU), (2, CPU)}


def test_a_unit_that_may_outlast_all_others_is_not_put_where_it_is_slow():
    """On average it would end in time, but it is one of those that may take ten times as long."""
    risky = Wish(1, (Option(GPU, seconds=50, spread=0.8), Option(CPU, seconds=100, spread=0.8)))
    sure = Wish(4, (Option(GPU, seconds=40), Option(CPU, seconds=41)))
    starts = assign([risky, sure], BOTH, {}, solver=Linear())
    assert {(start.wish, start.kind) for start in starts} == {(0, GPU), (1, CPU)}


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_unit_that_needs_two_gpus_is_not_passed_over_for_ever(solver):
    slots = [Slot("gpu0", GPU), Slot("gpu1", GPU, 0, free_in=100.0)]
    large = Wish(1, (Option(GPU, 2, seconds=500),))
    longer, shorter = (Wish(3, (Option(GPU, seconds=seconds),)) for seconds in (400, 60))
    starts = assign([large, longer, shorter], slots, {}, solver=SOLVERS[solver]())
    assert [start.wish for start in starts] == [2], "only what ends before the second GPU is free"
    freed = [slot._replace(free=100, free_in=0.0) for slot in slots]
    [start] = assign([large, longer, shorter], freed, {}, solver=SOLVERS[solver]())
    assert start.wish == 0 and set(start.devices) == {"gpu0", "gpu1"}


def test_shares_fill_one_device_before_the_next():
    wishes = [Wish(3, (Option(GPU, share=50, memory_mb=9_000, seconds=10),))]
    slots = [Slot(f"gpu{number}", GPU, memory_mb=20_000) for number in range(2)]
    starts = assign(wishes, slots, {})
    assert sorted(start.devices[0] for start in starts) == ["gpu0", "gpu0", "gpu1"]


def test_shares_of_a_device_of_unknown_memory_are_all_given():
    wish = Wish(2, (Option(GPU, share=50, memory_mb=5000, seconds=10),))
    assert len(assign([wish], [Slot("gpu0", GPU)], {})) == 2


def test_a_unit_runs_on_a_device_with_the_memory_it_needs_and_leaves_larger_ones():
    small, large = (Wish(1, (Option(GPU, memory_mb=memory, seconds=10),)) for memory in (8_000, 20_000))
    slots = [Slot("large", GPU, memory_mb=24_000), Slot("small", GPU, memory_mb=10_000)]
    for solver in (Linear(), Solver()):
        starts = assign([small, large], slots, {}, solver=solver)
        assert {(start.wish, start.devices) for start in starts} == {(0, ("small",)), (1, ("large",))}


def test_the_reason_is_told():
    starts = assign([both(1, 50, 60), both(1, 100, 1000)], BOTH, {}, solver=Linear())
    assert {start.kind: start.why for start in starts} == {
        GPU: "10.0 times as long elsewhere; 100 s",
        CPU: "1.2 times as long as elsewhere, where others gain more; 60 s",
    }


@pytest.mark.parametrize("solver", [Solver, lambda: Cbc(pytest.fail, time_limit=5.0, credit=100.0)])
def test_work_is_allotted_so_that_all_ends_together(solver):
    """Units at 1, 2 and 4 times the duration on a CPU, on four CPUs and two GPUs, which are busy: by hand."""
    small, large, cpu = places = (GPU, 0), (GPU, 1), (CPU, 0)
    lines = {small: Line(1, 20.0), large: Line(1, 20.0), cpu: Line(4, 0.0)}
    works = [
        Work(60, {small: 10.0, large: 10.0, cpu: 10.0 * ratio}, dict.fromkeys(places, 0.0))
        for ratio in (1, 2, 4)
    ]
    allotment = allot(works, lines, solver())
    # On GPUs the 60 with ratio 4 and x with ratio 2: (640 + 10 x) / 2 = (600 + 20 (60 - x)) / 4, so x = 13.
    assert allotment.end == pytest.approx(385.0)
    assert [share.get(cpu, 0.0) for share in allotment.shares] == pytest.approx([60.0, 47.0, 0.0], abs=1e-3)
    assert [sum(share.values()) for share in allotment.shares] == pytest.approx([60.0] * 3)


@pytest.mark.parametrize("solver", [Linear, lambda: Cbc(pytest.fail, time_limit=5.0, credit=100.0)])
def test_few_units_are_not_cut(solver):
    """Cut in two, the first would be done on two CPUs at the same time and all would end after 55 s."""
    places = (GPU, 0), (CPU, 0)
    lines = {places[0]: Line(1, 0.0), places[1]: Line(2, 0.0)}
    loads = [{places[0]: 60.0, places[1]: cpu} for cpu in (100.0, 61.0)]
    works = [Work(1, one, one) for one in loads]
    allotment = allot(works, lines, solver())
    assert allotment.shares == [{places[0]: 1.0}, {places[1]: 1.0}]
    assert allotment.end == pytest.approx(61.0, rel=0.01)


@pytest.mark.slow
@pytest.mark.skipif(not TRACE.exists(), reason="the trace is not here")
def test_a_real_sweep_ends_early_while_durations_are_learnt(monkeypatch):
    """On four GPUs and five CPU workers; first come, first served ends a sixth later than necessary."""
    monkeypatch.syspath_prepend(ROOT / "evaluation")
    from placing.bounds import bounds
    from placing.policies import Ours, Sorted
    from placing.simulation import Device, simulate
    from placing.trace import measured, on_both, speed_up

    there = measured(TRACE)
    units = on_both(there, speed_up(there))
    devices = [Device(f"{kind}{n}", kind) for kind, many in ((GPU, 4), (CPU, 5)) for n in range(many)]
    least = bounds(units, devices).best
    assert least <= simulate(units, devices, Ours(devices, Solver, known=False)).makespan <= 1.10 * least
    assert simulate(units, devices, Sorted(devices)).makespan > 1.10 * least


@pytest.mark.slow
@pytest.mark.quiet
def test_a_thousand_different_units_are_placed_in_less_than_50_ms():
    draw = random.Random(1)
    wishes = [both(1, gpu := draw.uniform(10, 900), gpu * draw.uniform(0.5, 20)) for _ in range(1000)]
    slots = [Slot(f"{kind}{number}", kind) for kind, many in ((GPU, 8), (CPU, 5)) for number in range(many)]
    solver = Cbc(pytest.fail, credit=100.0)
    times = []
    for _ in range(8):
        busy = draw.sample(slots, 11)
        now = [
            slot._replace(free=0, free_in=draw.uniform(1, 900)) if slot in busy else slot for slot in slots
        ]
        solver.start_round()
        begun = time.perf_counter()
        assert assign(wishes, now, {}, solver=solver)
        times.append(time.perf_counter() - begun)
    assert sum(times) / len(times) < 0.05
