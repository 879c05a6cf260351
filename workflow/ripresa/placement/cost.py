"""What the declared cost of a unit says about its duration, learnt from units that ended."""

import math
from typing import NamedTuple

from ripresa.placement.regression import Regression

TYPICAL_S = 60.0
"""A duration before anything is known; it may as well be a hundredth of it or a hundred times it."""

GROWTH = 0.3
"""Before anything is known: durations grow with this power of the declared numbers together."""

SPEED_UP, SPEED_UP_GROWTH = 0.5, 0.1
"""Before anything is known: a GPU is sooner by exp(0.5), the more so (in that power) the larger the unit."""

NOISE, STRENGTH = 0.7, 4.0
"""Logarithmic scatter of durations before anything is known, and how many units say otherwise as loudly."""

CLIP = 4.0
"""A duration that is further from what was expected, in standard deviations, counts as that far away."""

MOST_FEATURES = 40
"""Costs with more different words and numbers than this are told apart as wholes only."""

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

    Logarithms of durations lie around a line in the logarithms of the declared numbers, shifted by each word
    and kind of device; the units of one cost lie around a place of their own near it, and so do those of one
    cost on one kind of device. With few units of a cost its place is near the line, with many it is their
    mean (partial pooling; Gelman and Hill, *Data Analysis Using Regression*, 2006, chapter 12).
    """

    def __init__(self) -> None:
        self._line = Regression(NOISE, STRENGTH)
        self._line.add("", math.log(TYPICAL_S), 2.0 / NOISE)
        self._costs: dict[str, tuple[dict[str, float], list[str]]] = {}
        self._origins: dict[str, float] = {}
        self._seen: dict[str, dict[str, list[float]]] = {}
        """By cost and kind: number, mean and sum of squares around it, of logarithms of durations."""
        self._within, self._degrees = NOISE**2 / 2 * STRENGTH, STRENGTH

    def learn(self, cost: str, kind: str, seconds: float) -> None:
        """A unit of this cost took ``seconds`` on this kind of device."""
        value = math.log(max(seconds, 1e-3))
        self._line.learn(self._features(cost, kind), value, clip=CLIP)
        place = self._seen.setdefault(cost, {}).setdefault(kind, [0.0, 0.0, 0.0])
        place[0] += 1
        change = value - place[1]
        place[1] += change / place[0]
        squares = change * (value - place[1])
        place[2] += squares
        if place[0] > 1:
            self._within += squares
            self._degrees += 1

    def predict(self, cost: str, kind: str) -> Prediction:
        """The duration to expect of a unit of this cost on this kind of device."""
        line, variance = self._line.predict(self._features(cost, kind))
        within = self._within / self._degrees
        between = max(self._line.noise**2 - within, 0.1 * within)
        pool = within / between
        seen = self._seen.get(cost, {})
        shifts = {
            other: mean - self._line.predict(self._features(cost, other))[0]
            for other, (_, mean, _) in seen.items()
        }
        total = sum(number for number, _, _ in seen.values())
        shared = sum(seen[other][0] * shift for other, shift in shifts.items()) / (total + pool)
        number, _, squares = seen.get(kind, (0.0, 0.0, 0.0))
        own = number / (number + pool) * (shifts.get(kind, 0.0) - shared)
        open_ = pool / (number + pool)
        unknown = open_ * (between * pool / (total + pool) + variance * self._line.noise**2)
        scatter = (squares + STRENGTH * within) / (max(number - 1, 0.0) + STRENGTH)
        spread = math.sqrt(scatter + unknown)
        return Prediction(math.exp(line + shared + own + min(spread, WIDEST) ** 2 / 2), spread)

    def _features(self, cost: str, kind: str) -> dict[str, float]:
        """The features of a unit; new ones are added to the line with what to expect of them."""
        if cost not in self._costs:
            self._costs[cost] = _parsed(cost)
        numbers, words = self._costs[cost]
        features = {"": 1.0}
        if kind != "cpu":
            self._offer(kind, -SPEED_UP, 1.0)
            features[kind] = 1.0
        for name, value in numbers.items():
            size = value - self._origins.setdefault(name, value)
            self._offer(name, GROWTH / len(numbers), 0.3)
            features[name] = size
            if kind != "cpu":
                self._offer(f"{name} on {kind}", -SPEED_UP_GROWTH / len(numbers), 0.15)
                features[f"{name} on {kind}"] = size
        for word in words:
            self._offer(word, 0.0, 1.0)
            features[word] = 1.0
        return features

    def _offer(self, name: str, mean: float, deviation: float) -> None:
        if name not in self._line and len(self._line) < MOST_FEATURES:
            self._line.add(name, mean, deviation / NOISE)


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
