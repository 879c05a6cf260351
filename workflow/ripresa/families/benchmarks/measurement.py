"""What a workload hands back: metrics with a unit and a direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Direction = Literal["higher", "lower"]


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
