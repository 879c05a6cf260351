"""Statistics over the repetitions of each host and workload."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripresa.families.benchmarks.adaptive import coefficient_of_variation

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
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


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the mean (Student's t); nan for fewer than two values."""
    import numpy as np
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return math.nan, math.nan
    half = stdtrit(n - 1, (1 + CONFIDENCE) / 2) * np.std(values, ddof=1) / math.sqrt(n)
    return float(np.mean(values) - half), float(np.mean(values) + half)


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


def summarise(results: Iterable[Mapping[str, Any]], retried: Iterable[bool]) -> pd.DataFrame:
    """One row for each host, workload and metric (columns `COLUMNS`), over all repetitions.

    Nothing is left out: outliers and repetitions that needed a retry are counted and named.
    """
    import pandas as pd

    values = pd.DataFrame(
        {
            "host": result["host"],
            "workload": result["workload"],
            "repetition": result["repetition"],
            "retried": again,
            "metric": metric["name"],
            "primary": metric["name"] == result["primary"],
            **{key: metric[key] for key in ("value", "unit", "direction")},
        }
        for result, again in zip(results, retried, strict=True)
        for metric in result["metrics"]
    )
    if values.empty:
        return pd.DataFrame(columns=COLUMNS)
    groups = values.groupby(["host", "workload", "metric"], sort=False)
    return pd.DataFrame(_row(group.sort_values("repetition")) for _, group in groups)[COLUMNS]


def _row(group: pd.DataFrame) -> dict[str, Any]:
    values = group["value"].tolist()
    beyond = outliers(values)
    low, high = confidence_interval(values)
    return {
        **{name: group[name].iloc[0] for name in COLUMNS[: COLUMNS.index("n")]},
        "n": len(values),
        "mean": group["value"].mean(),
        "sd": group["value"].std(),
        "cv": coefficient_of_variation(values),
        "ci95_low": low,
        "ci95_high": high,
        "min": min(values),
        "median": group["value"].median(),
        "max": max(values),
        "outliers": sum(beyond),
        "outlier_repetitions": _listed(group["repetition"][beyond]),
        "retried": int(group["retried"].sum()),
        "retried_repetitions": _listed(group["repetition"][group["retried"]]),
    }


def _listed(repetitions: Iterable[int]) -> str:
    return " ".join(str(repetition) for repetition in repetitions)
