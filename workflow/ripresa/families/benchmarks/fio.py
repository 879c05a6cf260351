"""fio, the flexible I/O tester: the four access patterns of `disk` with many requests in flight."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ripresa.families.benchmarks.measurement import (
    LATENCY_PERCENTILES,
    BenchmarkError,
    Measurement,
    Metric,
)
from ripresa.families.benchmarks.scratch import scratch_file
from ripresa.families.benchmarks.tools import missing, output_of, version_of

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "low": {"file_mb": 128, "seconds": 0.5, "iodepth": 16, "engine": "libaio", "direct": True},
    "medium": {"file_mb": 4096, "seconds": 20, "iodepth": 16, "engine": "libaio", "direct": True},
    "high": {"file_mb": 32768, "seconds": 60, "iodepth": 32, "engine": "libaio", "direct": True},
}

# job name -> fio's pattern; the order is that of the metrics, so the random read is primary
PATTERNS = {
    "random_read": "randread",
    "random_write": "randwrite",
    "sequential_write": "write",
    "sequential_read": "read",
}


def unavailable() -> str | None:
    return missing("fio")


def command(parameters: Mapping[str, Any], filename: str, direct: bool) -> list[str]:
    """The fio call: the file is written first, then one pattern after the other, each on its own."""
    call = [
        "fio",
        "--output-format=json",
        f"--filename={filename}",
        f"--size={parameters['file_mb']}m",
        f"--ioengine={parameters['engine']}",
        f"--direct={int(direct)}",
        f"--percentile_list={':'.join(f'{percent:g}' for percent in LATENCY_PERCENTILES)}",
    ]
    for name in ("sequential_write", "sequential_read", "random_read", "random_write"):
        call += [f"--name={name}", "--stonewall", f"--rw={PATTERNS[name]}"]
        if name.startswith("random"):
            call += ["--bs=4k", f"--iodepth={parameters['iodepth']}"]
            call += ["--time_based", f"--runtime={round(parameters['seconds'] * 1000)}ms"]
        else:
            call += ["--bs=1m", "--end_fsync=1"]
    return call


def parse(text: str) -> list[Metric]:
    """Metrics from fio's JSON report (notices before it are skipped): MB/s, or IOPS with latencies."""
    try:
        report = json.loads(text[text.index("{") :])
        jobs = {job["jobname"]: job for job in report["jobs"]}
        metrics = []
        for name, pattern in PATTERNS.items():
            if jobs[name]["error"]:
                raise BenchmarkError(f"fio: job {name}: {os.strerror(jobs[name]['error'])}")
            side = jobs[name]["write" if "write" in pattern else "read"]
            if not name.startswith("random"):
                metrics.append(Metric(name, side["bw_bytes"] / 1e6, "MB/s", "higher"))
                continue
            metrics.append(Metric(name, side["iops"], "IOPS", "higher"))
            reached = {float(key): value for key, value in side["clat_ns"]["percentile"].items()}
            metrics += [
                Metric(f"{name}_p{percent:g}", reached[percent] / 1e3, "us", "lower")
                for percent in LATENCY_PERCENTILES
            ]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(
            f"fio: its report cannot be read ({error!r}): is this fio 3 or newer?"
        ) from error
    return metrics


def run(parameters: Mapping[str, Any], scratch: str) -> Measurement:
    """Run fio on a nameless file in the folder `scratch`."""
    size = parameters["file_mb"] << 20
    with scratch_file(scratch, size, parameters["direct"]) as file:
        os.ftruncate(file.fd, size)  # fio replaces a file that is too short, which has no name to replace
        metrics = parse(output_of(command(parameters, file.path, file.direct)))
        direct = file.direct
    return Measurement(metrics, {"direct": direct, "file_bytes": size, "version": version_of("fio")})
