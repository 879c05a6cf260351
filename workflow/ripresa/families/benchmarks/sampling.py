"""Samples of CPU, memory and I/O at 1 Hz, taken by a process of its own beside a repetition.

    with sampled("rep1.samples.csv"):
        ...

The sampler ends when its standard input does, so it cannot outlive the process it watches.
"""

from __future__ import annotations

import csv
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

INTERVAL = 1.0
SHORTEST = 0.2  # a last interval below this is noise, unless it is the only one

COLUMNS = (
    "time_s",
    "cpu_percent",
    "iowait_percent",
    "load_1min",
    "memory_used_mb",
    "read_mb_s",
    "write_mb_s",
    "reads_s",
    "writes_s",
)


@contextmanager
def sampled(path: str | os.PathLike[str]) -> Iterator[None]:
    """Sample the host into a CSV file (columns `COLUMNS`, one row a second, at least one) meanwhile."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__, os.fspath(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as sampler:
        assert sampler.stdin and sampler.stdout
        sampler.stdout.readline()  # it has started: its imports do not disturb the measurement
        try:
            yield
        finally:
            sampler.stdin.close()


def _main(path: str) -> None:
    import psutil

    def read() -> tuple[float, float, list[float]]:
        """Monotonic time and counters: busy and waiting CPU seconds (per CPU), bytes and requests."""
        cpu = psutil.cpu_times()
        idle, iowait = cpu.idle, getattr(cpu, "iowait", 0.0)
        disks = psutil.disk_io_counters()
        moved = (
            (disks.read_bytes, disks.write_bytes, disks.read_count, disks.write_count) if disks else (0,) * 4
        )
        total = sum(cpu) - getattr(cpu, "guest", 0.0) - getattr(cpu, "guest_nice", 0.0)
        return time.monotonic(), total, [total - idle - iowait, iowait, *moved]

    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        began, total, counters = read()
        before, rows, over = began, 0, False
        print("sampling", flush=True)
        while not over:
            due = began + (rows + 1) * INTERVAL
            over = bool(select.select([sys.stdin], [], [], max(due - time.monotonic(), 0))[0])
            now, now_total, now_counters = read()
            if over and rows and now - before < SHORTEST:
                break
            seconds, ticks = max(now - before, 1e-6), max(now_total - total, 1e-6)
            busy, waiting, *moved = (b - a for a, b in zip(counters, now_counters, strict=True))
            memory = psutil.virtual_memory()
            row = [now - began, 100 * busy / ticks, 100 * waiting / ticks, os.getloadavg()[0]]
            row += [(memory.total - memory.available) / 1e6]
            row += [moved[0] / seconds / 1e6, moved[1] / seconds / 1e6]
            row += [moved[2] / seconds, moved[3] / seconds]
            table.writerow(f"{value:.3f}" for value in row)
            file.flush()
            before, total, counters, rows = now, now_total, now_counters, rows + 1


if __name__ == "__main__":
    _main(sys.argv[1])
