"""What our programs print, and percentiles of latencies."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ripresa.families.benchmarks.measurement import BenchmarkError

LATENCY_PERCENTILES = (50.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True)
class Figures:
    """Values by name, and what explains them (sizes, checks)."""

    metrics: dict[str, float]
    details: dict[str, Any]


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile of ascending values: always a value that was measured."""
    rank = math.ceil(round(percent * len(ordered) / 100, 9))  # 99.9 % of 1000 is 999, not a trace more
    return ordered[max(rank, 1) - 1]


def latencies(name: str, microseconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and p99.9 in microseconds, as `<name>_p50`..."""
    ordered = sorted(microseconds)
    return {f"{name}_p{percent:g}": percentile(ordered, percent) for percent in LATENCY_PERCENTILES}


def optional(text: str) -> int | None:
    """A whole number, or None for an empty word: what null in a workload's parameters becomes."""
    return int(text) if text else None


def switch(text: str) -> bool:
    """1 or 0."""
    return bool(int(text))


def tell(run: Callable[..., Figures], parser: argparse.ArgumentParser) -> None:
    """Print the figures of `run`, called with the program's arguments, as JSON; an error is one line."""
    try:
        figures = run(**vars(parser.parse_args()))
    except BenchmarkError as error:
        sys.exit(str(error))
    json.dump(asdict(figures), sys.stdout)
    print()
