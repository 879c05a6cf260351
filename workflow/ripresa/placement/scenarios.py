"""How long units may take, all together: what is not known of a rule, its units have in common."""

import math
import pickle
import random
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ripresa.placement.cost import WIDEST, Prediction
from ripresa.placement.durations import Durations

LEVEL = 0.9
"""What is drawn lies in its interval with this probability, if the model of durations is right."""

DREAMT = 24
"""So many units of a rule are imagined for a scenario."""


class Sort(NamedTuple):
    """What makes units alike as far as their durations can be told."""

    rule: str
    cost: str
    kind: str
    """Of the device."""


class Spread(NamedTuple):
    """The durations of the units of a sort in one scenario, log-normal and independent of each other."""

    middle: float
    """Mean of the logarithms, of durations in s."""
    deviation: float
    """Their standard deviation."""

    @property
    def mean(self) -> float:
        """The expected duration, in s."""
        return math.exp(self.middle + min(self.deviation, WIDEST) ** 2 / 2)

    def seconds(self, chance: random.Random) -> float:
        """The duration of one unit."""
        return math.exp(chance.gauss(self.middle, self.deviation))

    def total(self, number: int, chance: random.Random) -> float:
        """The durations of so many units together, in s.

        The sum of log-normal variables is drawn from the log-normal distribution with its mean and variance
        (Fenton, *IRE Transactions on Communications Systems* 8, 1960).
        """
        variance = math.log1p(math.expm1(min(self.deviation, 5.0) ** 2) / number)
        mean = math.log(number) + self.middle + self.deviation**2 / 2
        return math.exp(chance.gauss(mean - variance / 2, math.sqrt(variance)))


def scenarios(
    durations: Durations, sorts: Mapping[Sort, int], number: int, chance: random.Random
) -> Iterator[dict[Sort, Spread]]:
    """So many ways in which the durations of units may turn out; of each sort there are as many as it says.

    What few units have shown may be wrong of all others together. So each scenario imagines some more units
    of every rule, one after another, and learns from each before the next, as if it had run: what a model
    predicts then is drawn from what it holds for possible (predictive resampling; Fong, Holmes and Walker,
    *Journal of the Royal Statistical Society B* 85, 2023). The more units of a rule did run, the less these
    few change; what infinitely many would have changed is their change times sqrt(1 + ran / imagined), as
    for a mean.
    """
    rules: dict[str, dict[Sort, int]] = {}
    for sort, units in sorted(sorts.items()):  # the same in whatever order
        rules.setdefault(sort.rule, {})[sort] = units
    before = {sort: _spread(durations, sort) for sort in sorts}
    stretch = {rule: math.sqrt(1.0 + durations.number(rule) / DREAMT) for rule in rules}
    frozen = pickle.dumps(durations)
    for _ in range(number):
        dreamt: Durations = pickle.loads(frozen)
        for rule, members in rules.items():
            for sort in chance.choices(list(members), list(members.values()), k=DREAMT):
                dreamt.add(rule, sort.cost, sort.kind, _spread(dreamt, sort).seconds(chance))
        found = {}
        for sort, known in before.items():
            after = _spread(dreamt, sort)
            middle = known.middle + stretch[sort.rule] * (after.middle - known.middle)
            found[sort] = Spread(middle, after.deviation)
        yield found


def interval(drawn: list[float], expected: float) -> tuple[float, float]:
    """The bounds between which values lie with probability `LEVEL`, of which ``drawn`` are a sample; what is
    expected is always within."""
    drawn = sorted(drawn)
    tail = (1 - LEVEL) / 2
    low, high = drawn[int(tail * len(drawn))], drawn[math.ceil((1 - tail) * len(drawn)) - 1]
    return min(low, expected), max(high, expected)


def _spread(durations: Durations, sort: Sort) -> Spread:
    found: Prediction = durations.predict(*sort)
    # The mean that was predicted counts no larger spread.
    return Spread(math.log(found.seconds) - min(found.spread, WIDEST) ** 2 / 2, found.spread)
