"""The results of a run as series: the repetitions of one workload on one host."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ripresa.families.benchmarks.measurement import BenchmarkError

Result = Mapping[str, Any]

CONDITIONS = ("preset", "parameters", "fingerprint")


@dataclass(frozen=True)
class Series:
    """Repetitions that were measured under one set of conditions, in the order of their start.

    `left_out` counts repetitions under other conditions: what is left from before a change.
    """

    results: Sequence[Result]
    left_out: int = 0

    @property
    def newest(self) -> Result:
        return self.results[-1]

    def metrics(self) -> dict[str, Mapping[str, Any]]:
        """Unit and direction by the name of the metric."""
        return {metric["name"]: metric for result in self.results for metric in result["metrics"]}

    def values(self, name: str) -> list[float]:
        """What a metric was in each repetition that has it."""
        return [
            metric["value"]
            for result in self.results
            for metric in result["metrics"]
            if metric["name"] == name
        ]


def read(run: str | os.PathLike[str]) -> dict[tuple[str, str], Series]:
    """The series of a run by host and workload; BenchmarkError names a file that holds no result."""
    pattern = os.path.join(glob.escape(os.fspath(run)), "benchmarks", "*", "*", "rep*.json")
    groups: dict[tuple[str, str], list[Result]] = {}
    for path in sorted(glob.glob(pattern)):
        result = _load(path)
        groups.setdefault((result["host"], result["workload"]), []).append(result)
    return {key: series(group) for key, group in groups.items()}


def series(results: Iterable[Result]) -> Series:
    """The repetitions under the conditions of the newest one: a change measures all of them again."""
    ordered = sorted(results, key=lambda result: result["started"])
    current = [result for result in ordered if _conditions(result) == _conditions(ordered[-1])]
    return Series(current, len(ordered) - len(current))


def system(run: str | os.PathLike[str], host: str, digest: str) -> dict[str, str]:
    """The fingerprint of a host by dotted names, values as JSON; empty if another one is on file."""
    try:
        document = json.loads(Path(run, "benchmarks", host, "fingerprint.json").read_text())
        return dict(_flat(document["system"])) if document["digest"] == digest else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def changes(a: Mapping[str, str], b: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What differs between two fingerprints, by name; "" where a side lacks it."""
    names = sorted({*a, *b}) if a and b else []
    return {name: (a.get(name, ""), b.get(name, "")) for name in names if a.get(name) != b.get(name)}


def _load(path: str) -> Result:
    try:
        result = json.loads(Path(path).read_text())
        for name in ("host", "workload", "started", "primary", *CONDITIONS):
            result[name]
        for metric in result["metrics"]:
            metric["name"], metric["unit"], metric["direction"], float(metric["value"])
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{path}: no result of a repetition; `ripresa verify` compares it") from error
    return dict(result)


def _conditions(result: Result) -> list[Any]:
    return [result[name] for name in CONDITIONS]


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    else:
        yield name, json.dumps(value, sort_keys=True)
