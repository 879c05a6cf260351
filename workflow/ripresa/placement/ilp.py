"""The integer program of a packing, solved by the CBC that comes with pulp."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import pulp

from ripresa.placement.packing import LEVELS, Problem, Solver

REMEMBERED = 4096

PATIENCE = 10
"""A solution that no round waits for any more may take this many times the limit of a round."""


class Cbc(Solver):
    """Solves within a time limit, remembers what it solved, and takes a bounded share of the time.

    A campaign asks the same small question whenever a job ends, so most answers are remembered. New
    ones are worth their price only while jobs last longer than a solution takes: in the long run
    solving may use ``share`` of the elapsed time.
    """

    def __init__(
        self,
        warn: Callable[[str], None] = lambda message: None,
        *,
        time_limit: float = 0.1,
        share: float = 0.02,
        credit: float = 0.25,
    ) -> None:
        """``time_limit`` in seconds a round, ``credit`` seconds of solving before ``share`` applies."""
        self._warn = warn
        self._time_limit = self._left = time_limit
        self._share = share
        self._known: OrderedDict[Problem, Sequence[int] | None] = OrderedDict()
        self._spent = -credit
        self._start = time.monotonic()
        self._running: threading.Thread | None = None
        self._broken = False

    def solve(self, problem: Problem) -> Sequence[int] | None:
        """Counts per variable; None when there is no solver, no time, or no answer in time.

        The solver runs beside us: when it is late its answer is remembered for the next time.
        """
        if problem in self._known:
            self._known.move_to_end(problem)
            return self._known[problem]
        now = time.monotonic()
        if self._broken or self._spent > self._share * (now - self._start):
            return None
        if self._left <= 0 or (self._running is not None and self._running.is_alive()):
            return None
        self._running = threading.Thread(target=self._work, args=(problem,), daemon=True)
        self._running.start()
        self._running.join(self._left)
        self._left -= time.monotonic() - now
        return self._known.get(problem)

    def start_round(self) -> None:
        """Grant the next problems the time limit anew."""
        self._left = self._time_limit

    def _work(self, problem: Problem) -> None:
        start = time.monotonic()
        try:
            solution = solve(problem, PATIENCE * self._time_limit)
        except (pulp.PulpError, OSError) as error:
            self._broken = True
            self._warn(
                f"no integer programs from here on, packing jobs greedily: the CBC solver fails ({error})"
            )
            return
        self._spent += time.monotonic() - start
        self._known[problem] = solution
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


def solve(problem: Problem, time_limit: float) -> Sequence[int] | None:
    """The best counts that CBC finds within ``time_limit`` seconds, or None.

    Maximises sum(load_i x_i) and, subordinate to it, sum(load_i level_i x_i), subject to
    sum(demand_ij x_i) <= capacity_j and 0 <= x_i <= count_i, all x_i whole.
    """
    counts = [
        pulp.LpVariable(f"x{index}", lowBound=0, upBound=count, cat=pulp.LpInteger)
        for index, count in enumerate(problem.counts)
    ]
    greatest = sum(load * count for load, count in zip(problem.loads, problem.counts, strict=True))
    # One unit of load outweighs any preference: all levels together stay below 1 per unit of `major`.
    major = greatest * LEVELS
    program = pulp.LpProblem("packing", pulp.LpMaximize)
    program += pulp.lpSum(
        load * (major + level) * x
        for load, level, x in zip(problem.loads, problem.levels, counts, strict=True)
    )
    for resource, available in enumerate(problem.capacity):
        program += (
            pulp.lpSum(demand[resource] * x for demand, x in zip(problem.demands, counts, strict=True))
            <= available
        )
    # No `threads`: with it, even 1, about one in a thousand CBC processes sleeps for 10 s at its end.
    program.solve(pulp.PULP_CBC_CMD(msg=False, timeLimit=time_limit))
    if any(x.varValue is None for x in counts):
        return None
    return [round(x.varValue) for x in counts]
