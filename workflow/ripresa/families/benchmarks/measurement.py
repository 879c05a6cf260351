"""What a workload hands back: metrics with a unit and a direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Direction = Literal["higher", "lower"]

LATENCY_PERCENTILES = (50.0, 95.0, 99.0, 99.9)


class BenchmarkError(Exception):
    """A workload could not give a valid number; the message is one line for the user."""


@dataclass(frozen=True)
class Metric:
    """One figure of a repetition; `direction` says which way is better."""

    name: str
    value: float
    unit: str
    direction: Direction


@dataclass(frozen=True)
class Measurement:
    """All figures of one repetition.

    The first metric is the primary one: adaptive repetition stops on its coefficient of variation.
    `details` holds what explains the figures (sizes, versions, checks) and is never summarised.
    """

    metrics: Sequence[Metric]
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def primary(self) -> Metric:
        return self.metrics[0]


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile of ascending values: always a value that was measured."""
    rank = math.ceil(round(percent * len(ordered) / 100, 9))  # 99.9 % of 1000 is 999, not a trace more
    return ordered[max(rank, 1) - 1]


def latency_metrics(name: str, microseconds: Sequence[float]) -> list[Metric]:
    """p50, p95, p99 and p99.9 of latencies in microseconds, as metrics `<name>_p50`..."""
    ordered = sorted(microseconds)
    return [
        Metric(f"{name}_p{percent:g}", percentile(ordered, percent), "us", "lower")
        for percent in LATENCY_PERCENTILES
    ]
