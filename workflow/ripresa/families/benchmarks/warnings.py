"""What the samples of a repetition say against its numbers: the host throttled, or did something else too.

Every rule compares with a threshold whose reason stands beside it, and says nothing where the host does not
tell (an empty column) or a run was too short to judge.
"""

from __future__ import annotations

import csv
import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ripresa.families.benchmarks.measurement import BenchmarkError

Samples = Mapping[str, Sequence[float]]

# A benchmark with a thread for each CPU loses about this share of its rate. Repetitions often agree to 2 %,
# and half of that is not to be ignored.
STEAL_PERCENT = 1.0
# Before the measurement nothing of it runs. One thread at work keeps one CPU half busy or more; the
# controller, and the kernel after the last repetition, stay below.
BUSY_BEFORE_PERCENT = 50.0
# Alone, benchmarks with a thread for each CPU were seen to wait 0.2 to 3 % of the time, with short requests
# to a disk up to 15 %; beside one other busy thread, 50 %.
CPU_PRESSURE_PERCENT = 20.0
# Waiting for memory is reclaim or swap; a host with enough of it has none at all.
MEMORY_PRESSURE_PERCENT = 1.0
# Whoever measures a disk waits for it, so only time counts in which programs compute (above this share of all
# CPUs): what waits then is probably something else. A tenth is beyond the odd write of a log.
COMPUTING_PERCENT = 50.0
IO_PRESSURE_PERCENT = 10.0
# The kernel moves a few pages nobody uses now and then.
SWAP_GROWTH_MB = 10.0
# Clocks wander by some percent with temperature and instruction mix, even when nothing is wrong.
FREQUENCY_FALL = 0.10
# A process that hardly ever runs mostly gets a CPU within 20 ms, even beside 16 busy threads for each CPU.
LATE_MS = 100.0


@dataclass(frozen=True)
class Warning:
    """`kind` is one word for a table, `evidence` one line with the figures behind it."""

    kind: str
    evidence: str


def read(path: str | os.PathLike[str]) -> dict[str, list[float]]:
    """The columns of a file of samples, all of one length; nan for what the host did not tell.

    BenchmarkError if a value is no number, OSError if the file cannot be read.
    """
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.reader(file)
        header = next(table, [])
        columns: dict[str, list[float]] = {name: [] for name in header}
        for row in table:
            try:
                values = [float(cell) if cell else math.nan for cell in row]
                for i, name in enumerate(header):
                    columns[name].append(values[i])
            except (ValueError, IndexError) as error:
                raise BenchmarkError(
                    f"{os.fspath(path)}: line {table.line_num}: {error}: not a file of samples"
                ) from error
    return columns


def warnings_of(samples: Samples) -> list[Warning]:
    """What speaks against the numbers of the repetition with these samples (see `read`), if anything.

    Kinds: throttled, frequency, busy_before, steal, cpu_pressure, memory_pressure, io_pressure, swap, late.
    """
    return [
        Warning(kind, evidence) for kind, rule in _RULES.items() if (evidence := rule(samples)) is not None
    ]


def _measured(samples: Samples, *names: str) -> list[tuple[float, ...]]:
    """Rows of these columns from the measurement itself (not the first one, at 0 s) that have no gap."""
    rows: Iterable[tuple[float, ...]] = zip(
        samples.get("time_s", ()), *(samples.get(name, ()) for name in names), strict=False
    )
    return [row[1:] for row in rows if row[0] > 0 and not any(map(math.isnan, row))]


def _mean(rows: Sequence[tuple[float, ...]]) -> float:
    """Mean of the second column weighted with the first, seconds; nan without any."""
    seconds = sum(row[0] for row in rows)
    return sum(row[0] * row[1] for row in rows) / seconds if seconds else math.nan


def _throttled(samples: Samples) -> str | None:
    found = [(time, count) for time, count in _measured(samples, "time_s", "throttle_events") if count > 0]
    if not found:
        return None
    degrees = [row[0] for row in _measured(samples, "cpu_temperature_c")]
    hottest = f", hottest {max(degrees):.0f} C" if degrees else ""
    times = sum(count for _, count in found)
    return f"CPUs throttled {times:.0f} times, first within the second before {found[0][0]:.0f} s{hottest}"


def _frequency(samples: Samples) -> str | None:
    """The fastest clock is compared among samples of like load only: more busy cores have lower clocks."""
    rows = _measured(samples, "cpu_max_mhz", "cpu_percent", "cpu_max_percent")
    most = max((row[1] for row in rows), default=0.0)
    clocks = [row[0] for row in rows if row[2] >= 50 and row[1] >= most - 10]
    steady = [statistics.median(clocks[i : i + 3]) for i in range(len(clocks) - 2)]  # without single readings
    highest, worst = 0.0, (0.0, 0.0, 0.0)
    for clock in steady:
        highest = max(highest, clock)
        worst = max(worst, (1 - clock / highest if highest else 0.0, highest, clock))
    fall, before, after = worst
    if fall <= FREQUENCY_FALL:
        return None
    return f"fastest CPU clock fell from {before:.0f} to {after:.0f} MHz ({100 * fall:.0f} %) while busy"


def _busy_before(samples: Samples) -> str | None:
    rows = zip(samples.get("time_s", ()), samples.get("cpu_max_percent", ()), strict=False)
    before = [busy for time, busy in rows if time <= 0]
    if not before or not before[0] >= BUSY_BEFORE_PERCENT:
        return None
    return f"something else ran: one CPU was {before[0]:.0f} % busy just before the measurement"


def _steal(samples: Samples) -> str | None:
    share = _mean(_measured(samples, "interval_s", "cpu_steal_percent"))
    if not share >= STEAL_PERCENT:
        return None
    return f"the hypervisor gave {share:.1f} % of the CPU time to others"


def _cpu_pressure(samples: Samples) -> str | None:
    share = _mean(_measured(samples, "interval_s", "cpu_pressure_some_percent"))
    if not share >= CPU_PRESSURE_PERCENT:
        return None
    return f"tasks waited for a CPU {share:.0f} % of the time: other load, or more threads than CPUs"


def _memory_pressure(samples: Samples) -> str | None:
    share = _mean(_measured(samples, "interval_s", "memory_pressure_some_percent"))
    if not share >= MEMORY_PRESSURE_PERCENT:
        return None
    return f"tasks waited for memory {share:.1f} % of the time: it is too small for what runs"


def _io_pressure(samples: Samples) -> str | None:
    rows = _measured(samples, "interval_s", "io_pressure_some_percent", "cpu_user_percent")
    share = _mean([row for row in rows if row[2] >= COMPUTING_PERCENT])
    if not share >= IO_PRESSURE_PERCENT:
        return None
    return f"tasks waited for I/O {share:.0f} % of the time while others computed"


def _swap(samples: Samples) -> str | None:
    used = [value for value in samples.get("swap_used_mb", ()) if not math.isnan(value)]
    if not used or max(used) - used[0] < SWAP_GROWTH_MB:
        return None
    return f"swap in use grew from {used[0]:.0f} to {max(used):.0f} MB"


def _late(samples: Samples) -> str | None:
    late, time = max(_measured(samples, "late_ms", "time_s"), default=(0.0, 0.0))
    if late < LATE_MS:
        return None
    return f"the sample at {time:.0f} s came {late:.0f} ms late: even the sampler had to wait for a CPU"


_RULES: Mapping[str, Callable[[Samples], str | None]] = {
    "throttled": _throttled,
    "frequency": _frequency,
    "busy_before": _busy_before,
    "steal": _steal,
    "cpu_pressure": _cpu_pressure,
    "memory_pressure": _memory_pressure,
    "io_pressure": _io_pressure,
    "swap": _swap,
    "late": _late,
}
