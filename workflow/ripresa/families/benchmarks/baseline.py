"""Baseline: the machine left alone. How idle is it, and how late does it wake a sleeping process?"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from ripresa.families.benchmarks.hardware import read_text
from ripresa.families.benchmarks.measurement import Measurement, Metric, latency_metrics

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "low": {"seconds": 2, "sleep_ms": 1},
    "medium": {"seconds": 30, "sleep_ms": 1},
    "high": {"seconds": 300, "sleep_ms": 1},
}

# Order of the `cpu` line of /proc/stat (proc_stat(5)); guest time is already part of user and nice.
STATES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


def cpu_ticks(stat: str) -> dict[str, int]:
    """Ticks that all CPUs together spent in each state, and `ctxt`, from the text of /proc/stat."""
    lines = {line.split(maxsplit=1)[0]: line.split()[1:] for line in stat.splitlines() if line}
    ticks = dict(zip(STATES, map(int, lines["cpu"]), strict=False))
    return {**ticks, "ctxt": int(lines["ctxt"][0])}


def run(parameters: Mapping[str, Any], scratch: str) -> Measurement:
    """Sleep again and again for `seconds`; lateness is how much longer than `sleep_ms` each sleep took."""
    sleep = parameters["sleep_ms"] / 1e3
    load = os.getloadavg()[0]
    before = cpu_ticks(read_text("/proc/stat"))
    started = ended = time.perf_counter()
    late: list[float] = []
    while ended - started < parameters["seconds"]:
        slept = time.perf_counter()
        time.sleep(sleep)
        ended = time.perf_counter()
        late.append((ended - slept - sleep) * 1e6)
    after = cpu_ticks(read_text("/proc/stat"))
    spent = {state: after.get(state, 0) - before.get(state, 0) for state in STATES}
    total = sum(spent.values()) or 1
    metrics = [
        Metric("cpu_idle", 100 * spent["idle"] / total, "%", "higher"),
        Metric("cpu_steal", 100 * spent["steal"] / total, "%", "lower"),
        Metric("load_1min", load, "processes", "lower"),
        Metric("context_switches", (after["ctxt"] - before["ctxt"]) / (ended - started), "1/s", "lower"),
        *latency_metrics("wakeup", late),
    ]
    return Measurement(metrics, {"wakeups": len(late), "sleep_ms": parameters["sleep_ms"]})
