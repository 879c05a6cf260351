"""sysbench: prime numbers (cpu) and memory writes (memory) on all CPUs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ripresa.families.benchmarks.hardware import usable_cpus
from ripresa.families.benchmarks.measurement import BenchmarkError, Measurement, Metric
from ripresa.families.benchmarks.tools import missing, output_of, version_of

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "low": {"seconds": 1, "max_prime": 10000, "memory_block_kb": 1024, "threads": None},
    "medium": {"seconds": 20, "max_prime": 20000, "memory_block_kb": 1024, "threads": None},
    "high": {"seconds": 60, "max_prime": 20000, "memory_block_kb": 1024, "threads": None},
}


def unavailable() -> str | None:
    return missing("sysbench")


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if not found:
        raise BenchmarkError(f"sysbench: nothing in its output matches {pattern!r}: is this version 1.0?")
    return float(found[1])


def parse_cpu(text: str) -> list[Metric]:
    """Events a second and latencies of `sysbench cpu run`."""
    return [
        Metric("cpu", _number(r"events per second:\s+([\d.]+)", text), "events/s", "higher"),
        Metric("cpu_average", 1e3 * _number(r"avg:\s+([\d.]+)", text), "us", "lower"),
        Metric("cpu_p95", 1e3 * _number(r"95th percentile:\s+([\d.]+)", text), "us", "lower"),
    ]


def parse_memory(text: str) -> list[Metric]:
    """Rate of `sysbench memory run`."""
    return [Metric("memory", _number(r"transferred \(([\d.]+) MiB/sec\)", text), "MiB/s", "higher")]


def run(parameters: Mapping[str, Any], scratch: str) -> Measurement:
    """Run both tests for `seconds` each."""
    threads = parameters["threads"] or usable_cpus()
    common = [f"--threads={threads}", f"--time={parameters['seconds']}"]
    cpu = output_of(["sysbench", "cpu", f"--cpu-max-prime={parameters['max_prime']}", *common, "run"])
    block = f"--memory-block-size={parameters['memory_block_kb']}K"
    # The total is out of reach, so that the time ends the test.
    memory = output_of(["sysbench", "memory", block, "--memory-total-size=1000T", *common, "run"])
    return Measurement(
        parse_cpu(cpu) + parse_memory(memory), {"threads": threads, "version": version_of("sysbench")}
    )
