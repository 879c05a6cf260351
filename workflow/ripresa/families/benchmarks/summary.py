"""Statistics over the repetitions of each host and workload."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ripresa.families.benchmarks.adaptive import coefficient_of_variation
from ripresa.families.intervals import confidence_interval

FENCE = 1.5  # Tukey's inner fences: quartiles -+ 1.5 interquartile ranges

COLUMNS = [
    *("host", "workload", "metric", "unit", "direction", "primary"),
    *("n", "mean", "sd", "cv", "ci95_low", "ci95_high", "min", "median", "max"),
    *("outliers", "outlier_repetitions", "retried", "retried_repetitions"),
]


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A published result."""
    document: dict[str, Any] = json.loads(Path(path).read_text())
    return document


def attempts_of(result: str, run: str) -> str:
    """The attempt records of a result of a run."""
    return os.path.join(run, "journal", "attempts", os.path.relpath(result, run) + ".jsonl")


def needed_retry(attempts: str | os.PathLike[str]) -> bool:
    """Whether the published result of a unit took more than one attempt, from its attempt records.

    Records before an earlier publication belong to an earlier result. Torn lines are passed over.
    """
    if not os.path.exists(attempts):
        return False
    unsuccessful = [False]  # one entry for each result so far, the last for the one to come
    for line in Path(attempts).read_text(errors="replace").splitlines():
        try:
            outcome = json.loads(line)["outcome"]
        except (ValueError, KeyError, TypeError):
            continue
        if outcome == "published":
            unsuccessful.append(False)
        elif outcome in ("failed", "interrupted"):
            unsuccessful[-1] = True
    return unsuccessful[-2] if len(unsuccessful) > 1 else unsuccessful[-1]


def outliers(values: Sequence[float]) -> list[bool]:
    """Which values lie beyond Tukey's fences (quartiles by linear interpolation).

    Three values or fewer never do: their quartiles follow the extremes.
    """
    import numpy as np

    if len(values) < 4:
        return [False] * len(values)
    low, high = np.percentile(values, [25, 75])
    reach = FENCE * (high - low)
    return [bool(value < low - reach or value > high + reach) for value in values]


def summarise(results: Iterable[Mapping[str, Any]], retried: Iterable[bool]) -> list[dict[str, Any]]:
    """One row for each host, workload and metric (keys `COLUMNS`), over all repetitions.

    Nothing is left out: outliers and repetitions that needed a retry are counted and named.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for result, again in zip(results, retried, strict=True):
        for metric in result["metrics"]:
            group = groups.setdefault((result["host"], result["workload"], metric["name"]), [])
            one = {key: result[key] for key in ("host", "workload", "repetition")}
            one |= {key: metric[key] for key in ("value", "unit", "direction")}
            primary = metric["name"] == result["primary"]
            group.append({**one, "metric": metric["name"], "primary": primary, "retried": again})
    return [_row(sorted(group, key=lambda one: one["repetition"])) for group in groups.values()]


def _row(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [one["value"] for one in group]
    beyond = outliers(values)
    low, high = confidence_interval(values)
    repetitions = [str(one["repetition"]) for one in group]
    again = [one["retried"] for one in group]
    return {
        **{name: group[0][name] for name in COLUMNS[: COLUMNS.index("n")]},
        "n": len(values),
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else math.nan,
        "cv": coefficient_of_variation(values),
        "ci95_low": low,
        "ci95_high": high,
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
        "outliers": sum(beyond),
        "outlier_repetitions": " ".join(itertools.compress(repetitions, beyond)),
        "retried": sum(again),
        "retried_repetitions": " ".join(itertools.compress(repetitions, again)),
    }


def write(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV, numbers to six digits; what is not known is left empty."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow({name: _text(value) for name, value in row.items()})


def _text(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
