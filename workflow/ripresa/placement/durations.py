"""How long the units of a rule take, learnt from the journal."""

import math
from typing import Any

from ripresa.journal import clock, records
from ripresa.journal.paths import Run
from ripresa.placement.cost import CostModel, Prediction

SAMPLE = 20
"""Attempts looked at per rule and declared cost when a run is resumed."""

LOOKED_AT = 200
"""Units per rule looked at in search of them."""

NEWS = 1.03
"""Predictions are made anew when this many times as many units have ended, or one of the same cost."""


class Durations:
    """Durations of the published attempts, by rule, declared cost and kind of device.

    Ranks are powers of two, so that they change seldom and a few seconds do not decide over the
    order. A rule of which nothing is known ranks first: it may be the longest.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, float]] = {}
        self._models: dict[str, CostModel] = {}
        self._made: dict[tuple[str, str, str], tuple[float, Prediction]] = {}
        """Predictions, and up to how many units of the rule they hold."""

    @classmethod
    def of(cls, run: Run) -> "Durations":
        """Learn from a sample of the attempts of a run, bounded per rule and not in its size."""
        durations = cls()
        looked_at: dict[str, int] = {}
        for unit in records.iterate(run.units):
            rule, target = unit.get("rule"), unit.get("target")
            if not isinstance(rule, str) or not isinstance(target, str):
                continue
            looked_at[rule] = looked_at.get(rule, 0) + 1
            if looked_at[rule] <= LOOKED_AT and durations._sums.get(rule, (0, 0.0))[0] < SAMPLE:
                durations.learn(records.last(run.attempts(target)))
        return durations

    def learn(self, record: dict[str, Any] | None) -> bool:
        """Take in an attempt record; says whether the rank of its rule changed."""
        if record is None or record.get("outcome") != "published" or not isinstance(record.get("rule"), str):
            return False
        started, ended = clock.seconds(record.get("started")), clock.seconds(record.get("ended"))
        if not 0.0 < started <= ended:
            return False
        rule = record["rule"]
        before = self.rank(rule)
        resources = record.get("resources")
        cost = str(resources.get("cost", "")) if isinstance(resources, dict) else ""
        self.add(rule, cost, kind_of(record.get("device")), ended - started)
        return self.rank(rule) != before

    def add(self, rule: str, cost: str, kind: str, seconds: float) -> None:
        """A unit of this rule and declared cost took ``seconds`` on this kind of device."""
        count, total = self._sums.get(rule, (0, 0.0))
        self._sums[rule] = count + 1, total + seconds
        self._models.setdefault(rule, CostModel()).learn(cost, kind, seconds)
        for other in "gpu", "cpu":
            self._made.pop((rule, cost, other), None)

    def predict(self, rule: str, cost: str, kind: str) -> Prediction:
        """The duration to expect of a unit; with nothing known, larger costs take longer."""
        count = self._sums.get(rule, (0, 0.0))[0]
        holds, prediction = self._made.get((rule, cost, kind), (-1.0, None))
        if prediction is None or count > holds:
            prediction = self._models.setdefault(rule, CostModel()).predict(cost, kind)
            self._made[rule, cost, kind] = NEWS * count, prediction
        return prediction

    def expected(self, rule: str | None) -> float | None:
        """Mean duration in seconds, or None if nothing is known."""
        count, total = self._sums.get(rule or "", (0, 0.0))
        return total / count if count else None

    def rank(self, rule: str | None) -> float:
        """The logarithm of the expected duration, rounded; infinity if nothing is known."""
        expected = self.expected(rule)
        return math.inf if expected is None else float(round(math.log2(max(expected, 1e-3))))


def kind_of(device: object) -> str:
    """The kind of device that an attempt had, by the names in its record: ``cpu`` if they begin with that, or
    if there are none."""
    return "gpu" if isinstance(device, str) and device and not device.startswith("cpu") else "cpu"
