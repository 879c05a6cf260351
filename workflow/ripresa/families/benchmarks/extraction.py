"""Figures from what the steps of a workload said: by a path into JSON, or by a regular expression.

A reading, of a metric or a detail, has

- `json`: a path (see `json_path`) into the first JSON document on standard output, or
- `pattern`: a regular expression, searched in standard output, then standard error, with a group `value`.
  Divided by a group `per` if it has one (a rate from an amount and its seconds). Without a `name` of its
  own the reading gives one figure for every match, named by its group `name`.
- `step`: the step whose output is read; may be left out where there is only one.

Where several values are found the last one counts. A value that is not found is an error: a workload that
ended without its figures has not measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ripresa.families.benchmarks import json_path
from ripresa.families.benchmarks.measurement import BenchmarkError, Metric
from ripresa.families.benchmarks.shell import Output

Reading = Mapping[str, Any]


def metrics(readings: Sequence[Reading], outputs: Mapping[str, Output]) -> list[Metric]:
    """The metrics, each value times its `scale`, in the order of the readings.

    `outputs` are by name of the step. BenchmarkError for a value that is not there or no number, and for a
    name that comes twice.
    """
    found: dict[str, Metric] = {}
    for reading in readings:
        for name, value in _values(reading, outputs):
            if name in found:
                raise BenchmarkError(f"{name}: is there twice in its output")
            number = _number(name, value) * reading.get("scale", 1)
            found[name] = Metric(name, number, reading["unit"], reading["direction"])
    return list(found.values())


def details(readings: Sequence[Reading], outputs: Mapping[str, Output]) -> dict[str, Any]:
    """Details by name, as they were found. Without a name, a `json` path leads to a mapping of several."""
    found: dict[str, Any] = {}
    for reading in readings:
        if "json" in reading and "name" not in reading:
            several = _at_path(reading, outputs)
            if not isinstance(several, dict):
                raise BenchmarkError(f"{reading['json']} in its output is no mapping of details")
            found.update(several)
        else:
            found.update(_values(reading, outputs))
    return found


def _values(reading: Reading, outputs: Mapping[str, Output]) -> Iterator[tuple[str, Any]]:
    """Names and values of one reading, at least one."""
    if "json" in reading:
        yield reading["name"], _at_path(reading, outputs)
        return
    output = _output(reading, outputs)
    matches = [
        match
        for text in (output.stdout, output.stderr)
        for match in re.finditer(reading["pattern"], text, re.MULTILINE)
    ]
    if not matches:
        raise BenchmarkError(f"{_of(reading)}nothing in its output matches {reading['pattern']!r}")
    for match in matches if "name" not in reading else matches[-1:]:
        groups = match.groupdict()
        name, value = reading.get("name") or groups["name"], groups["value"]
        if "per" in groups:
            seconds = _number(name, groups["per"])
            value = _number(name, value) / seconds if seconds else float("inf")
        yield name, value


def _at_path(reading: Reading, outputs: Mapping[str, Output]) -> Any:
    found = json_path.find(_document(_output(reading, outputs).stdout), reading["json"])
    if not found:
        raise BenchmarkError(f"{_of(reading)}there is no {reading['json']} in its output")
    return found[-1]


def _of(reading: Reading) -> str:
    return f"{reading['name']}: " if "name" in reading else ""


def _output(reading: Reading, outputs: Mapping[str, Output]) -> Output:
    return outputs[reading["step"]] if "step" in reading else next(iter(outputs.values()))


def _document(text: str) -> Any:
    """The first JSON document in a text; programs put notices before it, on lines of their own."""
    for line in re.finditer(r"^\s*[\[{]", text, re.MULTILINE):
        try:
            return json.JSONDecoder().raw_decode(text, line.end() - 1)[0]
        except ValueError:
            continue
    raise BenchmarkError("there is no JSON document in its output")


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise BenchmarkError(f"{name}: {str(value)[:60]!r} in its output is no number") from None
