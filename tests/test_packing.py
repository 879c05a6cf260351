"""Packing: feasible, by priority, and at least as full as Snakemake's own integer program."""

import random
import sys
import threading
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.placement.ilp import Cbc, solve
from ripresa.placement.packing import Lot, Problem, Solver, bound, greedy, is_best, pack
from ripresa.placement.ready import Kind, Ready

CAPACITY = {"_cores": 16, "mem_mb": 20, "_nodes": sys.maxsize}


def lots_of(shapes):
    return [
        Lot(size, (("_cores", cores), ("_nodes", 1), *((("mem_mb", memory),) if memory else ())))
        for size, cores, memory in shapes
    ]


def load(lots, counts):
    return sum(lot.load * count for lot, count in zip(lots, counts, strict=True))


def used(lots, counts):
    total = Counter()
    for lot, count in zip(lots, counts, strict=True):
        assert 0 <= count <= lot.size
        for name, amount in lot.demand:
            total[name] += amount * count
    return total


def exhaustive(lots, capacity):
    """The greatest load of any packing, by trying them all."""
    if not lots:
        return 0
    lot, rest = lots[0], lots[1:]
    best = 0
    for count in range(lot.size + 1):
        left = dict(capacity)
        for name, amount in lot.demand:
            left[name] -= amount * count
        if min(left.values()) < 0:
            break
        best = max(best, lot.load * count + exhaustive(rest, left))
    return best


shapes = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(0, 12)), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(shapes)
def test_a_packing_is_feasible_and_has_the_greatest_load(shapes):
    lots = lots_of(shapes)
    counts = pack(lots, CAPACITY, Cbc(pytest.fail, time_limit=5.0, credit=100.0))
    assert all(used(lots, counts)[name] <= CAPACITY[name] for name in CAPACITY)
    assert load(lots, counts) == exhaustive(lots, CAPACITY)


@given(shapes)
def test_the_bound_is_never_below_the_greatest_load(shapes):
    lots = lots_of(shapes)
    best = exhaustive(lots, CAPACITY)
    assert bound(lots, CAPACITY) >= best
    counts = greedy(lots, CAPACITY)
    if is_best(lots, counts, CAPACITY):
        assert load(lots, counts) == best


@given(shapes)
def test_greedy_never_passes_over_a_preferred_job_that_fits(shapes):
    lots = lots_of(shapes)
    counts = greedy(lots, CAPACITY)
    for position, (lot, count) in enumerate(zip(lots, counts, strict=True)):
        taken = used(lots[: position + 1], counts[: position + 1])
        one_more = count < lot.size and all(
            taken[name] + amount <= CAPACITY[name] for name, amount in lot.demand
        )
        assert not one_more


@given(shapes)
def test_without_a_solution_in_time_it_is_feasible_and_no_less_full_than_greedy(shapes):
    lots = lots_of(shapes)
    counts = pack(lots, CAPACITY, Solver())
    assert all(used(lots, counts)[name] <= CAPACITY[name] for name in CAPACITY)
    assert load(lots, counts) >= load(lots, greedy(lots, CAPACITY))


def test_without_a_solution_in_time_jobs_that_block_the_others_wait():
    lots = lots_of([(4, 1, 10), (16, 1, 1), (9, 2, 1)])
    assert load(lots, greedy(lots, CAPACITY)) == 2
    assert load(lots, pack(lots, CAPACITY, Solver())) == 16


def test_the_solver_is_asked_only_where_greedy_may_be_beaten():
    class Unwanted(Solver):
        def solve(self, problem):
            raise AssertionError(problem)

    for shapes in ([(50, 1, 0)], [(50, 3, 7)], [(2, 1, 3), (1, 4, 9)], [(3, 4, 0), (20, 2, 0), (9, 1, 0)]):
        pack(lots_of(shapes), CAPACITY, Unwanted())


def test_solver_remembers_and_ends_when_its_time_is_used_up():
    first = Problem((3, 4), (3, 4), (1, 0), ((3.0,), (4.0,)), (8.0,))
    second = first._replace(capacity=(7.0,)).program()
    first = first.program()
    solver = Cbc(time_limit=5.0, share=0.0, credit=1e-9)
    assert list(solver.solve(first)) == [0, 2]
    assert list(solver.solve(first)) == [0, 2]
    assert solver.solve(second) is None


def test_a_solver_that_is_late_does_not_hold_up_the_round():
    draw, jobs = random.Random(1), range(250)
    demands = [tuple(float(draw.randint(1, 1000)) for _ in range(10)) for _ in jobs]
    loads = tuple(sum(demand) / 10 + draw.randint(1, 500) for demand in demands)
    half = tuple(sum(needs) / 2 for needs in zip(*demands, strict=True))
    hard = Problem(tuple(1 for _ in jobs), loads, tuple(0 for _ in jobs), tuple(demands), half)
    solver = Cbc(time_limit=0.02)
    start = time.perf_counter()
    assert solver.solve(hard.program()) is None
    assert time.perf_counter() - start < 5, (
        "0.03 s on an idle machine; left alone it takes more than half a minute"
    )


def test_the_problems_of_a_round_share_its_time(monkeypatch):
    problem = Problem((3, 4), (3, 4), (1, 0), ((3.0,), (4.0,)), (8.0,))
    goes_on = threading.Event()

    def late(program, time_limit):
        goes_on.wait(30)
        return solve(program, time_limit)

    monkeypatch.setattr("ripresa.placement.ilp.solve", late)
    solver = Cbc(time_limit=0.001)
    assert solver.solve(problem.program()) is None
    goes_on.set()
    solver._running.join()
    assert solver.solve(problem._replace(capacity=(9.0,)).program()) is None
    assert solver.solve(problem.program()) is not None, "what came late is known"


def test_a_broken_solver_is_said_once_and_done_without(monkeypatch):
    import pulp

    def broken(*args, **kwargs):
        raise pulp.PulpSolverError("cannot execute cbc")

    monkeypatch.setattr(pulp, "PULP_CBC_CMD", broken)
    said = []
    solver = Cbc(said.append, time_limit=5.0)
    lots = lots_of([(1, 9, 1), (2, 8, 1)])
    assert pack(lots, CAPACITY, solver) == pack(lots, CAPACITY, solver) == [1, 0]
    assert len(said) == 1 and "cannot execute cbc" in said[0]


def test_among_the_fullest_packings_the_preferred_jobs_win():
    problem = Problem((1, 1, 1), (4, 4, 2), (0, 9, 5), ((4.0,), (4.0,), (2.0,)), (6.0,))
    assert list(solve(problem.program(), 5.0)) == [0, 1, 1]


def kind(priority=0, temp=0, rule=None, size=0, cores=1, **others):
    return Kind(priority, temp, rule, size, (("_cores", cores), *others.items()))


def ready_with(kinds, **arguments):
    ready = Ready(Solver(), **arguments)
    for name, what in kinds.items():
        ready.add(name, what)
    return ready


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (kind(priority=1), kind(temp=9, size=9)),
        (kind(priority=1), kind()._replace(again=True)),
        (kind()._replace(again=True), kind(temp=2, size=9)),
        (kind(temp=2), kind(rule="long", size=9)),
        (kind(rule="long"), kind(rule="short", size=9)),
        (kind(size=2), kind(size=1)),
        (kind(rule="short", size=2), kind(rule="short", size=1)),
    ],
)
def test_order_of_preference(first, second):
    rank = {"long": 7.0, "short": 1.0, None: 1.0}
    for kinds in ({"first": first, "second": second}, {"second": second, "first": first}):
        ready = ready_with(kinds, rank=lambda rule: rank[rule])
        assert [*ready.take({"_cores": 1})] == ["first"]
        assert [*ready.take({"_cores": 1})] == ["second"]
        assert [*ready.take({"_cores": 1})] == []


def test_a_high_priority_is_served_first_however_little_it_fills():
    ready = ready_with({"urgent": kind(priority=1, cores=3), "big": kind(cores=4), "small": kind(cores=1)})
    assert [*ready.take({"_cores": 4})] == ["urgent", "small"]


def test_equal_jobs_take_what_is_most_free():
    ready = ready_with(
        {f"{name}{i}": kind(cores=2, **{name: 4}) for name in ("mem_mb", "disk_mb") for i in range(9)}
    )
    assert [*ready.take({"_cores": 0, "mem_mb": 16, "disk_mb": 16})] == []
    assert next(iter(ready.take({"_cores": 2, "mem_mb": 16, "disk_mb": 12}))).startswith("mem")
    assert next(iter(ready.take({"_cores": 2, "mem_mb": 12, "disk_mb": 16}))).startswith("disk")


def test_removed_jobs_are_not_handed_out():
    ready = ready_with({"a": kind(), "b": kind()})
    ready.remove(["a", "unknown"])
    assert len(ready) == 1
    assert [*ready.take({"_cores": 5})] == ["b"]


def test_changed_ranks_count_after_reordering():
    rank = {"x": 1.0, "y": 2.0}
    ready = ready_with(
        {"x": kind(rule="x"), "y": kind(rule="y"), "y2": kind(rule="y")}, rank=rank.__getitem__
    )
    assert [*ready.take({"_cores": 1})] == ["y"]
    rank["x"] = 3.0
    ready.reorder()
    assert [*ready.take({"_cores": 1})] == ["x"]


jobs = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 6), st.integers(0, 12)), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(jobs)
def test_by_priority_no_worse_than_snakemakes_ilp(jobs):
    """The load of the jobs of the highest priority, compared with the program of `--scheduler ilp`."""
    ready = Ready(Cbc(time_limit=5.0, credit=100.0))
    for name, (priority, cores, memory) in enumerate(jobs):
        demand = [("_cores", cores)] + [("mem_mb", memory)] * (memory > 0)
        ready.add(name, Kind(priority, 0, None, 0, tuple(demand)))
    capacity = {"_cores": 8, "mem_mb": 20}
    highest = max(priority for priority, _, _ in jobs)

    def served(chosen):
        return sum(jobs[i][1] for i in chosen if jobs[i][0] == highest)

    ours = list(ready.take(capacity))
    assert all(sum(jobs[i][k] for i in ours) <= limit for k, limit in ((1, 8), (2, 20)))
    assert served(ours) >= served(snakemakes_choice(jobs, capacity))


def snakemakes_choice(jobs, capacity):
    import logging

    from snakemake.scheduling import milp
    from snakemake_interface_scheduler_plugins.tests import DummyJob

    class Job(DummyJob):
        priority = 0

    real = []
    for priority, cores, memory in jobs:
        job = Job([], [], {"_cores": cores, "mem_mb": memory})
        job.priority = priority
        real.append(job)
    scheduler = milp.Scheduler(None, milp.SchedulerSettings(), logging.getLogger("ilp"))
    chosen = scheduler.select_jobs(real, real, capacity, {}) or []
    return [index for index, job in enumerate(real) if any(job is other for other in chosen)]
