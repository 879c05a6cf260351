"""Two sets of results, metric by metric: what became better or worse, and what cannot be told."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from ripresa.families.benchmarks.adaptive import coefficient_of_variation
from ripresa.families.benchmarks.inference import (
    CONFIDENCE,
    Change,
    adjusted,
    cliffs_delta,
    relative_change,
)
from ripresa.families.benchmarks.results import Series

LEAST = 3  # repetitions a side
THRESHOLD = 0.01  # of the first: a difference that matters

Verdict = Literal["better", "same", "worse", "undecided", "incomparable"]
VERDICTS: tuple[Verdict, ...] = ("better", "same", "worse", "undecided", "incomparable")


class Side(NamedTuple):
    """What a metric was on one side."""

    n: int
    mean: float
    median: float
    cv: float


@dataclass(frozen=True)
class Row:
    """One metric on both sides; a side without it is None.

    `gain` is the difference of the means relative to that of the first, above 0 if the second is better;
    `low` and `high` are its 95 % interval; `delta` is Cliff's, -1 if every value of the second side is worse
    than every one of the first. Each is None where there is none. `p_adjusted` counts the other rows in.
    """

    host: str | None
    workload: str
    metric: str
    unit: str
    direction: str
    primary: bool
    a: Side | None
    b: Side | None
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    delta: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    verdict: Verdict = "incomparable"
    remarks: tuple[str, ...] = ()


Pair = tuple[str | None, str, Series | None, Series | None]
"""Host (None: the sides are hosts), workload and the two sides."""


def of_runs(a: Mapping[tuple[str, str], Series], b: Mapping[tuple[str, str], Series]) -> list[Pair]:
    """The series of two runs, matched by host and workload."""
    return [(*key, a.get(key), b.get(key)) for key in dict.fromkeys((*a, *b))]


def of_hosts(run: Mapping[tuple[str, str], Series], a: str, b: str) -> list[Pair]:
    """The series of two hosts of one run, matched by workload."""
    workloads = dict.fromkeys(workload for host, workload in run if host in (a, b))
    return [(None, workload, run.get((a, workload)), run.get((b, workload))) for workload in workloads]


def compare(
    pairs: Iterable[Pair], metrics: Sequence[str] | None = None, threshold: float = THRESHOLD
) -> list[Row]:
    """One row for each metric (of `metrics`, if given) of each pair, in their order.

    better, worse: the interval excludes 0, the adjusted p-value is at most 0.05, and the gain is beyond the
    threshold. same: the interval lies within the threshold on both sides. undecided: neither.
    incomparable: it is on one side only, one side has fewer than `LEAST` values, or preset, parameters, unit
    or direction differ.

    p-values are adjusted for the primary metrics of the table among themselves, and for all others.
    """
    rows = [
        _row(host, workload, name, a, b)
        for host, workload, a, b in pairs
        for name in dict.fromkeys(name for side in (a, b) if side for name in side.metrics())
        if metrics is None or name in metrics
    ]
    for primary in (True, False):
        places = [i for i, row in enumerate(rows) if row.primary is primary and row.p is not None]
        for place, p in zip(places, adjusted([rows[i].p or 0.0 for i in places]), strict=True):
            rows[place] = _judged(replace(rows[place], p_adjusted=p), threshold)
    return rows


def conditions(a: Series, b: Series) -> tuple[list[str], bool]:
    """What differs between two series beside their values, and whether they measured the same thing."""
    first, second = a.newest, b.newest
    said = []
    if first["preset"] != second["preset"]:
        said.append(f"preset {first['preset']} / {second['preset']}")
    names = dict.fromkeys((*first["parameters"], *second["parameters"]))
    given = [(name, *(one["parameters"].get(name) for one in (first, second))) for name in names]
    said += [f"{name} {_short(x)} / {_short(y)}" for name, x, y in given if x != y]
    alike = not said
    if first["fingerprint"] != second["fingerprint"]:
        said.append("other fingerprint")
    said += [
        f"{side.left_out} of {name} left out, measured under other conditions"
        for name, side in (("A", a), ("B", b))
        if side.left_out
    ]
    return said, alike


def _row(host: str | None, workload: str, name: str, a: Series | None, b: Series | None) -> Row:
    kinds = [side.metrics()[name] for side in (a, b) if side and name in side.metrics()]
    row = Row(
        host=host,
        workload=workload,
        metric=name,
        unit=kinds[0]["unit"],
        direction=kinds[0]["direction"],
        primary=any(side.newest["primary"] == name for side in (a, b) if side),
        a=_side(a, name),
        b=_side(b, name),
    )
    if a is None or b is None or row.a is None or row.b is None:
        return replace(row, remarks=(f"only in {'A' if row.a else 'B'}",))
    said, alike = conditions(a, b)
    if any((kind["unit"], kind["direction"]) != (row.unit, row.direction) for kind in kinds):
        return replace(row, remarks=(*said, "other unit or direction"))
    if min(row.a.n, row.b.n) < LEAST:
        said.append(f"too few: {row.a.n} and {row.b.n} repetitions, {LEAST} each are needed")
    return _measured(replace(row, remarks=tuple(said)), a.values(name), b.values(name), alike)


def _side(series: Series | None, name: str) -> Side | None:
    values = series.values(name) if series else []
    if not values:
        return None
    return Side(
        len(values), statistics.fmean(values), statistics.median(values), coefficient_of_variation(values)
    )


def _measured(row: Row, a: Sequence[float], b: Sequence[float], alike: bool) -> Row:
    """The row with what its values tell, and a p-value if it is to be judged."""
    better = 1.0 if row.direction == "higher" else -1.0
    enough = min(len(a), len(b)) >= LEAST
    verdict: Verdict = "undecided" if alike and enough else "incomparable"
    row = replace(row, delta=better * cliffs_delta(a, b) + 0.0, verdict=verdict)  # + 0.0: no -0.0
    if len({*a, *b}) == 1:
        change = Change(0.0, 0.0, 0.0, 1.0)
    elif min(*a, *b) <= 0:
        return replace(row, remarks=(*row.remarks, "values of 0 or below have no ratio"))
    elif enough:
        change = relative_change(a, b)
    else:
        change = Change(statistics.fmean(b) / statistics.fmean(a) - 1, math.nan, math.nan, math.nan)
    row = replace(row, gain=better * change.estimate + 0.0)
    if not enough:
        return row
    low, high = sorted((better * change.low + 0.0, better * change.high + 0.0))
    # What is not comparable is shown, but it is no question that the table asks.
    return replace(row, low=low, high=high, p=change.p if alike else None)


def _judged(row: Row, threshold: float) -> Row:
    """The row, whose p-value is adjusted, with its verdict."""
    assert (
        row.gain is not None and row.low is not None and row.high is not None and row.p_adjusted is not None
    )
    if -threshold <= row.low and row.high <= threshold:
        return replace(row, verdict="same")
    if row.low <= 0 <= row.high or abs(row.gain) <= threshold:
        return row
    if row.p_adjusted > 1 - CONFIDENCE:
        remark = f"p {row.p:.2g} alone, {row.p_adjusted:.2g} among all"
        return replace(row, remarks=(*row.remarks, remark))
    return replace(row, verdict="better" if row.gain > 0 else "worse")


def as_document(row: Row) -> dict[str, Any]:
    """A row for JSON: shares as percentages, null for what is unknown or infinite."""

    def number(value: float | None, factor: float = 1.0) -> float | None:
        return None if value is None or not math.isfinite(value) else factor * value

    def side(one: Side | None) -> dict[str, Any] | None:
        return one and {"n": one.n, "mean": one.mean, "median": one.median, "cv": number(one.cv)}

    return {
        **{
            name: getattr(row, name)
            for name in ("host", "workload", "metric", "unit", "direction", "primary")
        },
        "a": side(row.a),
        "b": side(row.b),
        "gain_percent": number(row.gain, 100),
        "interval_percent": None if row.low is None else [number(row.low, 100), number(row.high, 100)],
        "cliffs_delta": row.delta,
        "p": row.p,
        "p_adjusted": row.p_adjusted,
        "verdict": row.verdict,
        "remarks": list(row.remarks),
    }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 20 else text[:17] + "..."
