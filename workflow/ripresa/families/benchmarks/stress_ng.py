"""stress-ng: bogo operations a second of its stressors, one after the other on all CPUs.

Bogo operations are comparable between runs of one version of stress-ng only; the version is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ripresa.families.benchmarks.hardware import usable_cpus
from ripresa.families.benchmarks.measurement import BenchmarkError, Measurement, Metric
from ripresa.families.benchmarks.tools import missing, output_of, version_of

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "low": {"stressors": ["cpu", "matrix"], "seconds": 1, "threads": None},
    "medium": {"stressors": ["cpu", "matrix", "memcpy", "cache", "switch"], "seconds": 20, "threads": None},
    "high": {"stressors": ["cpu", "matrix", "memcpy", "cache", "switch"], "seconds": 60, "threads": None},
}

# stressor, bogo ops, real, usr and sys seconds, bogo ops/s (real time), bogo ops/s (CPU time)
_ROW = re.compile(r"\] (?P<stressor>[\w-]+)\s+\d+(?:\s+[\d.]+){3}\s+(?P<rate>[\d.]+)\s+[\d.]+(?:\s|$)")


def unavailable() -> str | None:
    return missing("stress-ng")


def parse(text: str) -> list[Metric]:
    """Bogo operations a second of real time, from the table that --metrics prints."""
    rows = (_ROW.search(line) for line in text.splitlines())
    return [Metric(row["stressor"], float(row["rate"]), "bogo-op/s", "higher") for row in rows if row]


def run(parameters: Mapping[str, Any], scratch: str) -> Measurement:
    """Run each stressor for `seconds` with `threads` instances (all CPUs if null)."""
    instances = parameters["threads"] or usable_cpus()
    metrics = []
    for stressor in parameters["stressors"]:
        wanted = [f"--{stressor}", str(instances), "--timeout", f"{parameters['seconds']}s"]
        text = output_of(["stress-ng", *wanted, "--metrics-brief", "--temp-path", scratch])
        found = parse(text)
        if not found:
            raise BenchmarkError(
                f"stress-ng: no metrics of {stressor} in its output: is it known to this version?"
            )
        metrics += found
    return Measurement(metrics, {"instances": instances, "version": version_of("stress-ng")})
