"""How often to repeat: a fixed number of times, or until the spread of the primary metric is small."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ripresa.families.benchmarks.measurement import BenchmarkError

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Repetitions:
    """At least `minimum`, at most `maximum`; between them until the coefficient of variation is <= `cv`."""

    minimum: int
    maximum: int
    cv: float | None = None

    @classmethod
    def of(cls, setting: int | Mapping[str, Any]) -> Repetitions:
        """From the configuration: `3`, or `{min: 3, max: 10, cv: 0.02}`."""
        if isinstance(setting, int):
            return cls(setting, setting)
        if setting["max"] < setting["min"]:
            raise BenchmarkError(
                f"repetitions: max {setting['max']} is below min {setting['min']}: raise max or lower min"
            )
        return cls(setting["min"], setting["max"], setting["cv"])


def coefficient_of_variation(values: Sequence[float]) -> float:
    """Sample standard deviation over |mean|: nan for fewer than two values, inf for a spread around 0."""
    if len(values) < 2:
        return math.nan
    spread, mean = statistics.stdev(values), abs(statistics.fmean(values))
    return spread / mean if mean else (math.inf if spread else 0.0)


def judge(results: Sequence[Result], limit: float) -> dict[str, Any]:
    """Whether these repetitions are enough: {"metric", "n", "cv", "limit", "enough"}."""
    name = results[0]["primary"]
    values = [metric["value"] for result in results for metric in result["metrics"] if metric["name"] == name]
    cv = coefficient_of_variation(values)
    return {
        "metric": name,
        "n": len(values),
        "cv": cv if math.isfinite(cv) else None,
        "limit": limit,
        "enough": cv <= limit,
    }
