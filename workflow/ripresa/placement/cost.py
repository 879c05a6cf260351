"""What the declared cost of a unit says about its duration, learnt from units that ended."""

import math
from typing import NamedTuple

from ripresa.placement.regression import Regression
from ripresa.placement.wishes import GPU

TYPICAL_S = 60.0
"""A duration before anything is known; it may as well be a hundredth of it or a hundred times it."""

GROWTH = 0.3
"""Before anything is known: durations grow with this power of the declared numbers together."""

SPEED_UP, SPEED_UP_GROWTH = 0.5, 0.1
"""Before anything is known: a GPU is sooner by exp(0.5), and by this power more the larger the unit."""

NOISE, STRENGTH = 0.7, 4.0
"""Logarithmic scatter of durations before anything is known, and how many units say otherwise as loudly."""

CLIP = 4.0
"""A duration that is further from what was expected, in standard deviations, counts as that far away."""

ALIKE, ALIKE_ON_KIND = 1.2, 0.4
"""How far a cost lies from the line, and on one kind of device from there, in units of the noise."""

MOST_FEATURES = 200
"""Costs beyond those that this many features tell apart are known by the line only."""

WIDEST = 1.5
"""The largest logarithmic spread that counts for a mean: little known is no reason to expect an age."""


class Prediction(NamedTuple):
    """A duration, log-normal."""

    seconds: float
    """Its mean."""
    spread: float
    """Standard deviation of its logarithm, with what is not known about the mean."""

    def remaining(self, elapsed: float) -> float:
        """The seconds still to expect of a unit that has run for ``elapsed`` seconds.

        The mean excess of the log-normal distribution. It grows with ``elapsed`` once that is far beyond the
        mean: a unit in the tail is one of the long ones.
        """
        if elapsed <= 0:
            return self.seconds
        if self.spread < 1e-6:
            return max(0.0, self.seconds - elapsed)
        median = math.log(self.seconds) - min(self.spread, WIDEST) ** 2 / 2
        beyond = (median - math.log(elapsed)) / self.spread
        if beyond < -4:  # where the quotient of the tails is no longer sure
            return elapsed * self.spread / -beyond
        return self.seconds * _normal(beyond + self.spread) / _normal(beyond) - elapsed


class CostModel:
    """Durations of the units of one rule, by their cost and the kind of device.

    Logarithms of durations lie around a line in the logarithms of the declared numbers, shifted by each word,
    by the kind of device, by each cost and by each cost on each kind. All these shifts are drawn to zero, so
    that with few units of a cost its place is near the line, and with many it is their mean (partial pooling;
    Gelman and Hill, *Data Analysis Using Regression*, 2006, chapter 12). What one kind of device gains on
    another is thus learnt from costs that ran on both.
    """

    def __init__(self) -> None:
        self._line = Regression(NOISE, STRENGTH)
        self._line.add("", math.log(TYPICAL_S), 2.0 / NOISE)
        self._costs: dict[str, tuple[dict[str, float], list[str]]] = {}
        self._origins: dict[str, float] = {}
        self._scatter: dict[str, list[float]] = {}
        """By cost: number and sum of squares of what was not expected, in units of the variance expected."""

    def learn(self, cost: str, kind: str, seconds: float) -> None:
        """A unit of this cost took ``seconds`` on this kind of device."""
        value = math.log(max(seconds, 1e-3))
        features = self._features(cost, kind, seen=True)
        expected, variance = self._line.predict(features)
        scatter = self._scatter.setdefault(cost, [0.0, 0.0])
        scatter[0] += 1
        scatter[1] += min(CLIP**2, (value - expected) ** 2 / (1.0 + variance) / self._line.noise**2)
        self._line.learn(features, value, clip=CLIP)

    def predict(self, cost: str, kind: str) -> Prediction:
        """The duration to expect of a unit of this cost on this kind of device."""
        features = self._features(cost, kind)
        middle, variance = self._line.predict(features)
        number, squares = self._scatter.get(cost, (0.0, 0.0))
        scatter = (squares + STRENGTH) / (number + STRENGTH)
        open_ = sum(
            weight**2
            for name, weight in ((f"{cost} ", ALIKE), (f"{cost} on {kind}", ALIKE_ON_KIND))
            if name not in features
        )
        spread = self._line.noise * math.sqrt(scatter + variance + open_)
        return Prediction(math.exp(middle + min(spread, WIDEST) ** 2 / 2), spread)

    def _features(self, cost: str, kind: str, *, seen: bool = False) -> dict[str, float]:
        """The features of a unit; new ones are added to the line with what to expect of them."""
        if cost not in self._costs:
            self._costs[cost] = _parsed(cost)
        numbers, words = self._costs[cost]
        features = {"": 1.0}
        sooner = -0.5 if kind == GPU else 0.5
        self._offer(kind, sooner * SPEED_UP, 0.7 / NOISE)
        features[kind] = 1.0
        for name, value in numbers.items():
            size = value - self._origins.setdefault(name, value)
            self._offer(name, GROWTH / len(numbers), 0.3 / NOISE)
            features[name] = size
            self._offer(f"{name} on {kind}", sooner * SPEED_UP_GROWTH / len(numbers), 0.2 / NOISE)
            features[f"{name} on {kind}"] = size
        for word in words:
            self._offer(word, 0.0, 1.0 / NOISE)
            features[word] = 1.0
        for name, deviation in (f"{cost} ", ALIKE), (f"{cost} on {kind}", ALIKE_ON_KIND):
            if seen:
                self._offer(name, 0.0, deviation)
            if name in self._line:
                features[name] = 1.0
        return features

    def _offer(self, name: str, mean: float, deviation: float) -> None:
        if name not in self._line and len(self._line) < MOST_FEATURES:
            self._line.add(name, mean, deviation)


def _parsed(cost: str) -> tuple[dict[str, float], list[str]]:
    """The numbers of a cost, as logarithms, and its words: ``model=CNN complexity=7011294``."""
    numbers, words = {}, []
    for item in cost.split():
        name, _, value = item.rpartition("=")
        try:
            numbers[name] = math.log1p(abs(float(value)))
        except ValueError:
            words.append(item)
    return numbers, words


def _normal(value: float) -> float:
    """The cumulative distribution of the standard normal distribution."""
    return 0.5 * math.erfc(-value / math.sqrt(2.0))
