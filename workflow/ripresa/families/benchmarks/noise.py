"""What makes results doubtful: spread, drift, outliers, retries, and what was seen beside the repetitions.

Spread, drift and outliers are those of the primary metric.
"""

from __future__ import annotations

import csv
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ripresa.families.benchmarks.adaptive import coefficient_of_variation
from ripresa.families.benchmarks.summary import outliers

FILE = "benchmarks/warnings.csv"  # in the directory of the run
COLUMNS = ("host", "workload", "repetition", "kind", "evidence")

VARIATION = 0.05  # the coefficient of variation above which to warn, where the configuration names none
# Below this p-value five repetitions count if each exceeds the one before (or is exceeded): 1 in 60.
DRIFT_LEVEL = 0.02
DRIFT_LEAST = 0.01  # of the median, over all repetitions

Result = Mapping[str, Any]


class Doubt(NamedTuple):
    """A row of warnings.csv; `repetition` is None where the whole series is meant."""

    host: str
    workload: str
    repetition: int | None
    kind: str
    evidence: str


def of_series(results: Sequence[Result], retried: Sequence[bool], limit: float | None = None) -> list[Doubt]:
    """What is doubtful about the repetitions of one workload on one host.

    `limit` is the coefficient of variation to be reached, None for `VARIATION`.
    """
    order = sorted(range(len(results)), key=lambda i: results[i]["started"])
    results, retried = [results[i] for i in order], [retried[i] for i in order]
    host, workload, primary = (results[0][name] for name in ("host", "workload", "primary"))
    found = []
    for kind, evidence in (
        ("variation", variation(values := _values(results, primary), limit or VARIATION)),
        ("drift", drift(values)),
    ):
        if evidence:
            found.append(Doubt(host, workload, None, kind, f"{primary}: {evidence}"))
    middle = statistics.median(values)
    for result, value, out, again in zip(results, values, outliers(values), retried, strict=True):
        number = result["repetition"]
        if out:
            evidence = f"{primary}: {value:.4g}, the median is {middle:.4g}"
            found.append(Doubt(host, workload, number, "outlier", evidence))
        if again:
            evidence = "published after an attempt that failed or was interrupted"
            found.append(Doubt(host, workload, number, "retried", evidence))
    return found


def variation(values: Sequence[float], limit: float) -> str | None:
    """Why values vary too much, None if they do not."""
    cv = coefficient_of_variation(values)
    if cv <= limit or len(values) < 2:
        return None
    return f"CV {100 * cv:.3g} % over {len(values)} repetitions, above {100 * limit:.3g} %"


def drift(values: Sequence[float]) -> str | None:
    """Why values in order of time follow a trend, None if they do not.

    The test is that of Mann (Econometrica 13, 1945) and Kendall: Kendall's tau against the order, exact
    without ties. The slope and its 95 % interval are those of Theil and Sen (J. Am. Stat. Assoc. 63, 1968).
    """
    if len(values) < 5 or len(set(values)) == 1:  # of fewer no order is rare enough
        return None
    from scipy.stats import kendalltau, theilslopes

    p = float(kendalltau(range(len(values)), values).pvalue)
    slope, _, low, high = theilslopes(values, alpha=0.95)
    middle = abs(statistics.median(values))
    total = abs(slope) * (len(values) - 1)
    if p > DRIFT_LEVEL or total <= DRIFT_LEAST * middle or not middle:
        return None
    least, most = sorted(math.copysign(100 / middle, slope) * end for end in (low, high))
    return (
        f"{'rises' if slope > 0 else 'falls'} by {100 * abs(slope) / middle:.2g} % a repetition "
        f"(95 % interval {least:.2g} to {most:.2g}), {100 * total / middle:.2g} % in all; "
        f"Mann-Kendall p {p:.2g}"
    )


def beside(result: Result, samples: str | os.PathLike[str]) -> list[Doubt]:
    """What the samples taken during a repetition warn of."""
    from ripresa.families.benchmarks import warnings

    return [
        Doubt(result["host"], result["workload"], result["repetition"], one.kind, one.evidence)
        for one in warnings.warnings_of(warnings.read(samples))
    ]


def write(path: str | os.PathLike[str], doubts: Iterable[Doubt]) -> None:
    """Write warnings as CSV with the columns `COLUMNS`."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(doubts)


def read(path: str | os.PathLike[str]) -> list[Doubt] | None:
    """The warnings in a file; None if there is no such file (yet)."""
    if not os.path.exists(path):
        return None
    with open(path, newline="", encoding="utf-8") as file:
        return [
            Doubt(
                row["host"],
                row["workload"],
                int(row["repetition"] or 0) or None,
                row["kind"],
                row["evidence"],
            )
            for row in csv.DictReader(file)
        ]


def _values(results: Sequence[Result], name: str) -> list[float]:
    """The values of a metric that every repetition has."""
    return [metric["value"] for result in results for metric in result["metrics"] if metric["name"] == name]
