"""CPUs, load, memory and pressure, after proc(5) and the kernel's Documentation/accounting/psi.rst."""

from __future__ import annotations

from operator import sub

from ripresa.families.benchmarks.collectors.files import KernelFile
from ripresa.families.benchmarks.collectors.source import Source


class Processors(Source):
    """Shares of the CPU time of all CPUs in %, and context switches a second.

    busy = user (with nice and guests) + system (with interrupts); what is left of 100 % after busy, I/O wait
    and steal is idle. The maximum is the busy share of the busiest CPU: a single thread at its limit shows
    there, whatever the number of CPUs.
    """

    COLUMNS = (
        "cpu_percent",
        "cpu_user_percent",
        "cpu_system_percent",
        "cpu_iowait_percent",
        "cpu_steal_percent",
        "cpu_max_percent",
        "context_switches_s",
    )

    def __init__(self, root: str) -> None:
        self._file = KernelFile(root + "/proc/stat")
        self._before = self._look()

    def _look(self) -> tuple[dict[bytes, list[int]], int]:
        """Ticks of each CPU (and of `cpu`, all of them), and the number of context switches since boot."""
        text = self._file.read()
        end = text.index(b"\nintr ")  # after the CPUs, a line of thousands of numbers that nobody asked for
        ticks = {}
        for line in text[:end].split(b"\n"):
            name, *fields = line.split()
            ticks[name] = [int(field) for field in fields[:8]]
        start = text.index(b"\nctxt ", end) + 6
        return ticks, int(text[start : text.index(b"\n", start)])

    def read(self, seconds: float) -> list[float]:
        (before, switches), self._before = self._before, self._look()
        now, switches_now = self._before
        user, system, iowait, steal = _shares(before[b"cpu"], now[b"cpu"])
        busiest = 0.0
        for name, ticks in now.items():
            if name != b"cpu" and name in before:  # a CPU may come and go
                shares = _shares(before[name], ticks)
                busiest = max(busiest, shares[0] + shares[1])
        return [user + system, user, system, iowait, steal, busiest, (switches_now - switches) / seconds]


def _shares(before: list[int], now: list[int]) -> tuple[float, float, float, float]:
    """User, system, I/O wait and steal in % of the ticks between two looks.

    A counter that went back, as I/O wait does now and then, counts as one that stood still.
    """
    spent = [max(ticks, 0) for ticks in map(sub, now, before)]
    user, nice, system, _, iowait, irq, softirq, steal = spent
    scale = 100 / (sum(spent) or 1)
    return (user + nice) * scale, (system + irq + softirq) * scale, iowait * scale, steal * scale


class Load(Source):
    """The load average over a minute."""

    COLUMNS = ("load_1min",)

    def __init__(self, root: str) -> None:
        self._file = KernelFile(root + "/proc/loadavg")

    def read(self, seconds: float) -> list[float]:
        return [float(self._file.read().split(None, 1)[0])]


class Memory(Source):
    """Memory in MB (10^6 bytes): used = total - available, where available is what the kernel estimates."""

    COLUMNS = ("memory_used_mb", "memory_available_mb", "swap_used_mb", "dirty_mb")

    def __init__(self, root: str) -> None:
        self._file = KernelFile(root + "/proc/meminfo")

    def read(self, seconds: float) -> list[float]:
        text = self._file.read()

        def megabytes(field: bytes) -> float:
            start = text.index(field) + len(field)
            return int(text[start : text.index(b"kB", start)]) * 1024 / 1e6

        available = megabytes(b"\nMemAvailable:")
        return [
            megabytes(b"MemTotal:") - available,
            available,
            megabytes(b"\nSwapTotal:") - megabytes(b"\nSwapFree:"),
            megabytes(b"\nDirty:"),
        ]


class Pressure(Source):
    """Pressure stall information: the share of the time in % in which some, or all, of the tasks that had
    something to do waited for the resource.

    From the running totals in microseconds, not from the averages over 10 s, which smear what happened.
    """

    RESOURCE = ""

    def __init__(self, root: str) -> None:
        self._file = KernelFile(f"{root}/proc/pressure/{self.RESOURCE}")
        self._before = self._look()

    def _look(self) -> list[int]:
        """Microseconds of `some` and, not for every kernel and resource, `full`."""
        return [int(line[line.index(b"total=") + 6 :]) for line in self._file.read().splitlines()]

    def read(self, seconds: float) -> list[float | None]:
        before, self._before = self._before, self._look()
        shares: list[float | None] = [waited / seconds / 1e4 for waited in map(sub, self._before, before)]
        return shares if len(shares) == 2 else [*shares, None]


class CpuPressure(Pressure):
    RESOURCE = "cpu"
    COLUMNS = ("cpu_pressure_some_percent", "cpu_pressure_full_percent")


class MemoryPressure(Pressure):
    RESOURCE = "memory"
    COLUMNS = ("memory_pressure_some_percent", "memory_pressure_full_percent")


class IoPressure(Pressure):
    RESOURCE = "io"
    COLUMNS = ("io_pressure_some_percent", "io_pressure_full_percent")
