"""Programs solved by the CBC that comes with pulp."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import pulp

from ripresa.placement.program import Program, Solver

REMEMBERED = 1024

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
        self._known: OrderedDict[Program, Sequence[float] | None] = OrderedDict()
        self._spent = -credit
        self._start = time.monotonic()
        self._running: threading.Thread | None = None
        self._broken = False

    def solve(self, program: Program) -> Sequence[float] | None:
        """Values of the variables; None when there is no solver, no time, or no answer in time.

        The solver runs beside us: when it is late its answer is remembered for the next time.
        """
        if program in self._known:
            self._known.move_to_end(program)
            return self._known[program]
        now = time.monotonic()
        if self._broken or self._spent > self._share * (now - self._start):
            return None
        if self._left <= 0 or (self._running is not None and self._running.is_alive()):
            return None
        self._running = threading.Thread(target=self._work, args=(program,), daemon=True)
        self._running.start()
        self._running.join(self._left)
        self._left -= time.monotonic() - now
        return self._known.get(program)

    def start_round(self) -> None:
        """Grant the next programs the time limit anew."""
        self._left = self._time_limit

    def _work(self, program: Program) -> None:
        start = time.monotonic()
        try:
            solution = solve(program, PATIENCE * self._time_limit)
        except (pulp.PulpError, OSError) as error:
            self._broken = True
            self._warn(f"no programs from here on, placing jobs greedily: the CBC solver fails ({error})")
            return
        self._spent += time.monotonic() - start
        self._known[program] = solution
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


def solve(program: Program, time_limit: float) -> Sequence[float] | None:
    """The best values that CBC finds within ``time_limit`` seconds, or None."""
    variables = [
        pulp.LpVariable(
            f"x{index}",
            lowBound=0,
            upBound=program.limit(index),
            cat=pulp.LpInteger if index in program.whole else pulp.LpContinuous,
        )
        for index in range(len(program.costs))
    ]
    stated = pulp.LpProblem("placement", pulp.LpMinimize)
    stated += pulp.LpAffineExpression(zip(variables, program.costs, strict=True))
    for terms, most in program.rows:
        stated += pulp.LpAffineExpression((variables[place], factor) for place, factor in terms) <= most
    # No `threads`: with it, even 1, about one in a thousand CBC processes sleeps for 10 s at its end.
    stated.solve(pulp.PULP_CBC_CMD(msg=False, timeLimit=time_limit, gapRel=program.gap or None))
    found = {pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible}
    if stated.sol_status not in found or any(variable.varValue is None for variable in variables):
        return None
    return [variable.varValue for variable in variables]
