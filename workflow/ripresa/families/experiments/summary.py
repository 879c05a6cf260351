"""Statistics over the seeds of each configuration."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

from ripresa.families.experiments.table import ALL_PARAMETERS, METRICS, Row
from ripresa.families.intervals import confidence_interval

STATISTICS = ("mean", "sd", "ci95_low", "ci95_high")
COLUMNS = (
    *("phase", *ALL_PARAMETERS, "num_parameters", "seeds", "diverged"),
    *(f"{metric}_{statistic}" for metric in METRICS for statistic in STATISTICS),
)
_BOUNDS = {"accuracy": (0.0, 1.0), "loss": (0.0, math.inf)}
_RESULTS = {"signature", "seed", "best_epoch", "status", "reason"} | {
    f"{figure}_{metric}" for metric in METRICS for figure in ("mean", "std")
}


def configurations(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows in groups that differ in their seeds only, in the order of their first rows."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for one in rows:
        key = tuple(value for name, value in one.items() if name not in _RESULTS)
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def summarise(rows: Iterable[Row]) -> list[Row]:
    """One row for each configuration (keys `COLUMNS`): mean, standard deviation and 95 % confidence
    interval of the mean (Student's t) over its seeds.

    Seeds that diverged have no figures; they are counted, so that nobody takes the rest for all. Intervals
    end where accuracies and losses do. None for what a single seed does not tell.
    """
    return [_summary(group) for group in configurations(rows)]


def interval(values: list[float], metric: str) -> tuple[float | None, float | None]:
    """The 95 % confidence interval of the mean of a metric, within its range; None for fewer than two."""
    if len(values) < 2:
        return None, None
    low, high = confidence_interval(values)
    least, most = _BOUNDS[metric.rpartition("_")[2]]
    return max(low, least), min(high, most)


def _summary(group: list[Row]) -> Row:
    summary = {
        "phase": group[0]["phase"],
        **{name: group[0][name] for name in ALL_PARAMETERS},
        "num_parameters": group[0]["num_parameters"],
        "seeds": len(group),
        "diverged": sum(one["status"] == "diverged" for one in group),
    }
    for metric in METRICS:
        values = [one[f"mean_{metric}"] for one in group if one[f"mean_{metric}"] is not None]
        low, high = interval(values, metric)
        summary |= {
            f"{metric}_mean": statistics.fmean(values) if values else None,
            f"{metric}_sd": statistics.stdev(values) if len(values) > 1 else None,
            f"{metric}_ci95_low": low,
            f"{metric}_ci95_high": high,
        }
    return summary
