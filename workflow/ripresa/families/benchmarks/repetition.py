"""One repetition of a workload, from its parameters to its result document."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from ripresa.families.benchmarks import running
from ripresa.families.benchmarks.hardware import usable_cpus
from ripresa.families.benchmarks.measurement import BenchmarkError
from ripresa.families.benchmarks.sampling import sampled

_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def use_all_cpus() -> None:
    """Let numeric libraries use every CPU we may run on, whatever number of threads Snakemake exported.

    Otherwise `--cores` would change the numbers. To be called before those libraries are imported.
    """
    os.environ.update(dict.fromkeys(_THREAD_LIMITS, str(usable_cpus())))


def execute(
    unit: Mapping[str, Any], fingerprint: str, scratch: str, samples: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Run a unit once and return its result (schema benchmark_result.schema.json).

    `unit` has host, workload, preset, repetition (null for the warm-up), and what `running.measure` needs;
    `fingerprint` is the digest of the system; `samples` names the CSV file for the 1 Hz samples.
    """
    with sampled(samples) if samples else nullcontext():
        started, clock = datetime.now(timezone.utc), time.monotonic()
        measurement = running.measure(unit, scratch)
        elapsed = time.monotonic() - clock
    for metric in measurement.metrics:
        if not math.isfinite(metric.value):
            raise BenchmarkError(f"{metric.name} is {metric.value}: numerical error")
    return {
        "host": unit["host"],
        "workload": unit["workload"],
        "repetition": unit["repetition"],
        "preset": unit["preset"],
        "parameters": dict(unit["parameters"]),
        "fingerprint": fingerprint,
        "started": started.isoformat(timespec="milliseconds"),
        "elapsed_s": round(elapsed, 3),
        "primary": measurement.primary.name,
        "metrics": [asdict(metric) for metric in measurement.metrics],
        "details": measurement.details,
    }
