"""Linear and integer programs, and what solves them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

Terms = tuple[tuple[int, float], ...]
"""A linear expression: (position of the variable, coefficient) pairs."""


class Program(NamedTuple):
    """Minimise the costs of variables that are not negative."""

    costs: tuple[float, ...]
    """One a variable."""
    rows: tuple[tuple[Terms, float], ...]
    """Expressions and the most that each may be."""
    most: tuple[float, ...] = ()
    """The most that each variable may be, where there is such a limit; none by default."""
    whole: frozenset[int] = frozenset()
    """The variables that must be whole numbers."""
    gap: float = 0.0
    """What is worse than the best by this part of it will do."""

    def limit(self, variable: int) -> float | None:
        """The most that a variable may be, or None."""
        return self.most[variable] if self.most and self.most[variable] < math.inf else None


class Solver:
    """Solves programs; this one never does."""

    def solve(self, program: Program) -> Sequence[float] | None:
        """Values of the variables, or None when there is no answer in time."""
        return None

    def start_round(self) -> None:
        """The programs up to the next call belong to one round and share its time."""
