"""Linear regression that learns one observation at a time.

Written out for lists because features are few and importing an array library costs a scheduler more than all
the predictions of a campaign.
"""

import math
from collections.abc import Mapping


class Regression:
    """Bayesian linear regression with unknown noise (the normal-inverse-gamma prior; Bishop, *Pattern
    Recognition and Machine Learning*, 2006, sections 2.3.6 and 3.3), by recursive least squares.

    Features are named, and come into being when they are first seen, each with a prior of its own.
    An observation costs time in the square of their number.
    """

    def __init__(self, noise: float, strength: float) -> None:
        """``noise`` is the standard deviation expected around the line, as surely as from ``strength``
        observations."""
        self._places: dict[str, int] = {}
        self._weights: list[float] = []
        self._covariance: list[list[float]] = []
        """Of the weights, in units of the noise variance."""
        self._shape = strength / 2
        self._rate = strength / 2 * noise**2

    @property
    def noise(self) -> float:
        """Standard deviation around the line."""
        return math.sqrt(self._rate / self._shape)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, name: str, mean: float, deviation: float) -> None:
        """A new feature: the prior of its weight, the deviation in units of the noise."""
        self._places[name] = len(self._places)
        self._weights.append(mean)
        for row in self._covariance:
            row.append(0.0)
        self._covariance.append([0.0] * (len(self._places) - 1) + [deviation**2])

    def predict(self, features: Mapping[str, float]) -> tuple[float, float]:
        """The value on the line, and the variance of the line there in units of the noise variance.

        Features that were never added count for nothing.
        """
        found = self._found(features)
        weights, covariance = self._weights, self._covariance
        mean = sum(weights[place] * value for place, value in found)
        variance = sum(covariance[one][other] * left * right for one, left in found for other, right in found)
        return mean, max(0.0, variance)

    def learn(self, features: Mapping[str, float], value: float, clip: float = math.inf) -> None:
        """Take in an observation; one further than ``clip`` noises from the line counts as that far away."""
        found = self._found(features)
        gains = [sum(row[place] * value for place, value in found) for row in self._covariance]
        variance = 1.0 + sum(gains[place] * value for place, value in found)
        mean = sum(self._weights[place] * value for place, value in found)
        furthest = clip * self.noise * math.sqrt(variance)
        error = max(-furthest, min(furthest, value - mean))
        scaled = [gain / variance for gain in gains]
        self._weights = [weight + gain * error for weight, gain in zip(self._weights, scaled, strict=True)]
        self._covariance = [
            [value - gain * other for value, other in zip(row, scaled, strict=True)] if gain else row
            for row, gain in zip(self._covariance, gains, strict=True)
        ]
        self._shape += 0.5
        self._rate += 0.5 * error**2 / variance

    def _found(self, features: Mapping[str, float]) -> list[tuple[int, float]]:
        return [(self._places[name], value) for name, value in features.items() if name in self._places]
