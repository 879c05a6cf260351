"""Baseline: the machine left alone. How idle is it, and how late does it wake a sleeping process?"""

from __future__ import annotations

import argparse
import os
import time

from ripresa.families.benchmarks.hardware import read_text
from ripresa.families.benchmarks.programs.figures import Figures, latencies, tell

# Order of the `cpu` line of /proc/stat (proc_stat(5)); guest time is already part of user and nice.
STATES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


def cpu_ticks(stat: str) -> dict[str, int]:
    """Ticks that all CPUs together spent in each state, and `ctxt`, from the text of /proc/stat."""
    lines = {line.split(maxsplit=1)[0]: line.split()[1:] for line in stat.splitlines() if line}
    ticks = dict(zip(STATES, map(int, lines["cpu"])))
    return {**ticks, "ctxt": int(lines["ctxt"][0])}


def run(seconds: float, sleep_ms: float) -> Figures:
    """Sleep again and again for `seconds`; lateness is how much longer than `sleep_ms` each sleep took."""
    sleep = sleep_ms / 1e3
    load = os.getloadavg()[0]
    before = cpu_ticks(read_text("/proc/stat"))
    started = ended = time.perf_counter()
    late: list[float] = []
    while ended - started < seconds:
        slept = time.perf_counter()
        time.sleep(sleep)
        ended = time.perf_counter()
        late.append((ended - slept - sleep) * 1e6)
    after = cpu_ticks(read_text("/proc/stat"))
    spent = {state: after.get(state, 0) - before.get(state, 0) for state in STATES}
    total = sum(spent.values()) or 1
    metrics = {
        "cpu_idle": 100 * spent["idle"] / total,  # %
        "cpu_steal": 100 * spent["steal"] / total,
        "load_1min": load,
        "context_switches": (after["ctxt"] - before["ctxt"]) / (ended - started),
        **latencies("wakeup", late),
    }
    return Figures(metrics, {"wakeups": len(late), "sleep_ms": sleep_ms})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, required=True, help="how long to watch, s")
    parser.add_argument("--sleep-ms", type=float, required=True, help="length of each sleep, ms")
    tell(run, parser)


if __name__ == "__main__":
    main()
