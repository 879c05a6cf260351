"""Temperature, clocks and throttling of the CPUs."""

from __future__ import annotations

import os

from ripresa.families.benchmarks.collectors.files import KernelFile, names, readable, word
from ripresa.families.benchmarks.collectors.source import Source

# Drivers that read a register of the CPU. A sensor of a disk, a GPU or a board is left alone: to read it
# is to send a command to that device, or to wake it, in the middle of a measurement.
_CPU_DRIVERS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
_CPU_ZONES = ("x86_pkg_temp", "cpu", "soc")
# The sensor that stands for all others of its CPU: of Intel the hottest core, of AMD without the offset that
# Tctl has on some models.
_FOREMOST = ("Package id", "Tdie")


def sensors(root: str) -> list[str]:
    """Paths of the temperatures of the CPUs: of hwmon, else of the thermal zones."""
    found = []
    for device in names(root + "/sys/class/hwmon"):
        folder = f"{root}/sys/class/hwmon/{device}"
        if word(folder + "/name") in _CPU_DRIVERS:
            inputs = [name for name in names(folder, "temp") if name.endswith("_input")]
            labels = {name: word(f"{folder}/{name[: -len('_input')]}_label") for name in inputs}
            foremost = [name for name in inputs if labels[name].startswith(_FOREMOST)]
            found += [f"{folder}/{name}" for name in foremost or inputs]
    zones = root + "/sys/class/thermal"
    return found or [
        f"{zones}/{name}/temp"
        for name in names(zones, "thermal_zone")
        if word(f"{zones}/{name}/type").startswith(_CPU_ZONES)
    ]


class Temperature(Source):
    """The hottest sensor of the CPUs in degrees Celsius."""

    COLUMNS = ("cpu_temperature_c",)

    def __init__(self, root: str) -> None:
        self._files = readable(sensors(root))
        if not self._files:
            raise FileNotFoundError("no sensor")

    def read(self, seconds: float) -> list[float]:
        return [max(int(file.read()) for file in self._files) / 1000]


class Frequency(Source):
    """Clocks of the CPUs in MHz, as cpufreq says, else /proc/cpuinfo."""

    COLUMNS = ("cpu_min_mhz", "cpu_mean_mhz", "cpu_max_mhz")

    def __init__(self, root: str) -> None:
        self._policies: list[tuple[KernelFile, int]] = []
        self._cpuinfo: KernelFile | None = None
        folder = root + "/sys/devices/system/cpu/cpufreq"
        for name in names(folder, "policy"):
            # CPUs of one policy share a clock, and asking for it may be a call to the firmware.
            cpus = len(word(f"{folder}/{name}/affected_cpus").split())
            self._policies += [
                (file, max(cpus, 1)) for file in readable([f"{folder}/{name}/scaling_cur_freq"])
            ]
        if not self._policies:
            self._cpuinfo = KernelFile(root + "/proc/cpuinfo")
            # Without this feature, as in most virtual machines, "cpu MHz" is a constant, not a clock.
            if b" aperfmperf " not in self._cpuinfo.read_table():
                raise FileNotFoundError("no clocks")

    def read(self, seconds: float) -> list[float]:
        if self._cpuinfo:
            lines = self._cpuinfo.read_table().split(b"\n")
            clocks = [float(line.partition(b":")[2]) for line in lines if line.startswith(b"cpu MHz")]
            return [min(clocks), sum(clocks) / len(clocks), max(clocks)]
        lowest, highest, total, cpus = float("inf"), 0.0, 0.0, 0
        for file, count in self._policies:
            clock = int(file.read()) / 1000
            lowest, highest = min(lowest, clock), max(highest, clock)
            total, cpus = total + clock * count, cpus + count
        return [lowest, total / cpus, highest]


class Throttling(Source):
    """How often CPUs lowered their clock because of heat or power since the last sample, cores and packages
    together (Intel's thermal_throttle; every CPU counts for itself).
    """

    COLUMNS = ("throttle_events",)

    def __init__(self, root: str) -> None:
        cpus = root + "/sys/devices/system/cpu"
        self._files = readable(
            [
                f"{cpus}/{name}/thermal_throttle/{level}_throttle_count"
                for name in names(cpus, "cpu")
                if os.path.isdir(f"{cpus}/{name}/thermal_throttle")
                for level in ("core", "package")
            ]
        )
        if not self._files:
            raise FileNotFoundError("no counters")
        self._before = self._look()

    def _look(self) -> int:
        return sum(int(file.read()) for file in self._files)

    def read(self, seconds: float) -> list[float]:
        before, self._before = self._before, self._look()
        return [self._before - before]
