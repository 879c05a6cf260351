"""Collectors: what the samples say is true, they come in time or say so, and warnings are drawn from them."""

import csv
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripresa.families.benchmarks import collectors, sampling
from ripresa.families.benchmarks.collectors import devices, sampler, thermal
from ripresa.families.benchmarks.collectors.files import KernelFile
from ripresa.families.benchmarks.hardware import read_text
from ripresa.families.benchmarks.measurement import BenchmarkError
from ripresa.families.benchmarks.warnings import Warning, read, warnings_of

ROOT = Path(__file__).parents[1]
PACKAGE = Path(collectors.__file__).parent


def values_of(host, seconds=1.0):
    return dict(zip(sampler.COLUMNS[3:], host.read(seconds), strict=True))


# A host made of files


def write(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def stat(cpu0, cpu1, switches):
    total = [a + b for a, b in zip(cpu0, cpu1, strict=True)]
    lines = [
        " ".join(map(str, [name, *ticks]))
        for name, ticks in (("cpu ", total), ("cpu0", cpu0), ("cpu1", cpu1))
    ]
    return "\n".join([*lines, "intr 5 4 3" + " 0" * 6000, f"ctxt {switches}", "btime 1", ""])


def net(**interfaces):
    head = "Inter-|   Receive         |  Transmit\n face |bytes    packets errs|bytes packets errs\n"
    return head + "".join(
        f"{name:>6}: {' '.join(map(str, counters))}\n" for name, counters in interfaces.items()
    )


MEMINFO = """MemTotal:       16000000 kB
MemFree:         1000000 kB
MemAvailable:   12000000 kB
SwapCached:            0 kB
SwapTotal:       2000000 kB
SwapFree:        1500000 kB
Dirty:              1000 kB
"""
CPU = "sys/devices/system/cpu"
HOST = {
    "proc/stat": stat([100] * 10, [200] * 10, 1000),
    "proc/loadavg": "1.50 0.70 0.30 2/300 4711\n",
    "proc/meminfo": MEMINFO,
    "proc/net/dev": net(
        lo=[7] * 16, eth0=[10] * 16, eth1=[20] * 16, **{f"veth{i}": [5] * 16 for i in range(300)}
    ),
    "sys/class/net/lo/ifindex": "1",
    "sys/class/net/eth0/ifindex": "2",
    "sys/class/net/eth0/device/vendor": "0x8086",
    "sys/class/net/eth1/ifindex": "3",
    "sys/class/net/eth1/device/vendor": "0x8086",
    "sys/class/net/veth0/ifindex": "4",
    "sys/class/net/bonding_masters": "",
    "proc/pressure/cpu": "some avg10=1.00 avg60=0.00 avg300=0.00 total=1000\n",
    "proc/pressure/io": "some avg10=1.00 avg60=0.00 avg300=0.00 total=1000\nfull avg10=0.00 total=500\n",
    "sys/block/sda/stat": "   100 0 2000 9 200 0 4000 9 0 1000 3000 0 0 0 0 0 0\n",
    "sys/block/sdb/stat": "   100 0 2000 9 200 0 4000 9 0 1000 3000\n",  # an old kernel
    "sys/block/dm-0/stat": "   100 0 2000 9 200 0 4000 9 0 1000 3000\n",
    "sys/block/dm-0/slaves/sda/dev": "8:0",
    "sys/block/loop0/stat": "   100 0 2000 9 200 0 4000 9 0 1000 3000\n",
    f"{CPU}/cpufreq/policy0/scaling_cur_freq": "2000000\n",
    f"{CPU}/cpufreq/policy0/affected_cpus": "0 1 2",
    f"{CPU}/cpufreq/policy3/scaling_cur_freq": "4000000\n",
    f"{CPU}/cpufreq/policy3/affected_cpus": "3",
    f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "5\n",
    f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "7\n",
    f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "0\n",
    "sys/class/hwmon/hwmon0/name": "nvme",
    "sys/class/hwmon/hwmon0/temp1_input": "99000\n",
    "sys/class/hwmon/hwmon1/name": "coretemp",
    "sys/class/hwmon/hwmon1/temp1_input": "61000\n",
    "sys/class/hwmon/hwmon1/temp1_label": "Package id 0",
    "sys/class/hwmon/hwmon1/temp2_input": "60000\n",
    "sys/class/hwmon/hwmon1/temp2_label": "Core 0",
    "sys/class/hwmon/hwmon2/name": "coretemp",
    "sys/class/hwmon/hwmon2/temp1_input": "64500\n",
    "sys/class/hwmon/hwmon2/temp1_label": "Package id 1",
}


def test_every_column_of_a_host_that_has_everything(tmp_path):
    """Over two seconds, so that a rate is told from a difference."""
    write(tmp_path, HOST)
    host = sampler.Host(str(tmp_path))
    host.read(1.0)
    # user nice system idle iowait irq softirq steal, and guests, which are in user and nice already
    first = [100 + n for n in (50, 10, 20, 80, 20, 4, 6, 10, 50, 10)]
    second = [200 + n for n in (0, 0, 0, 200, 0, 0, 0, 0, 0, 0)]
    write(
        tmp_path,
        {
            "proc/stat": stat(first, second, 1500),
            "proc/loadavg": "2.25 0.70 0.30 2/300 4711\n",
            "proc/net/dev": net(
                lo=[9] * 16,
                veth0=[9] * 16,
                eth0=[10 + n for n in (4_000_000, 2000, 3, 5, 0, 0, 0, 0, 2_000_000, 1000, 1, 0, 0, 0, 0, 0)],
                eth1=[20 + n for n in (2_000_000, 1000, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0)],
            ),
            "proc/pressure/cpu": "some avg10=1.00 avg60=0.00 avg300=0.00 total=1001000\n",
            "proc/pressure/io": "some avg10=1.00 total=501000\nfull avg10=0.00 total=200500\n",
            "sys/block/sda/stat": "   300 0 6000 9 260 0 8000 9 0 2000 9000 0 0 0 0 0 0\n",
            "sys/block/sdb/stat": "   102 0 2000 9 200 0 4000 9 0 1500 3001\n",
            "sys/block/dm-0/stat": "   900 0 9000 9 900 0 9000 9 0 9000 90000\n",
            f"{CPU}/cpufreq/policy3/scaling_cur_freq": "3000000\n",
            f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "9\n",
            f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "1\n",
        },
    )
    found = values_of(host, 2.0)
    expected = {
        "cpu_percent": 22.5,
        "cpu_user_percent": 15,
        "cpu_system_percent": 7.5,
        "cpu_iowait_percent": 5,
        "cpu_steal_percent": 2.5,
        "cpu_max_percent": 45,
        "context_switches_s": 250,
        "load_1min": 2.25,
        "memory_used_mb": 4096,
        "memory_available_mb": 12288,
        "swap_used_mb": 512,
        "dirty_mb": 1.024,
        "disk_read_mb_s": 4000 * 512 / 2e6,
        "disk_write_mb_s": 4000 * 512 / 2e6,
        "disk_reads_s": 101,
        "disk_writes_s": 30,
        "disk_busy_max_percent": 50,
        "disk_queue_max": 3,
        "net_receive_mb_s": 3,
        "net_send_mb_s": 1,
        "net_receive_packets_s": 1500,
        "net_send_packets_s": 500,
        "net_errors_s": 2,
        "net_drops_s": 4,
        "cpu_pressure_some_percent": 50,
        "cpu_pressure_full_percent": None,
        "memory_pressure_some_percent": None,
        "memory_pressure_full_percent": None,
        "io_pressure_some_percent": 25,
        "io_pressure_full_percent": 10,
        "cpu_temperature_c": 64.5,
        "cpu_min_mhz": 2000,
        "cpu_mean_mhz": 2250,
        "cpu_max_mhz": 3000,
        "throttle_events": 3,
    }
    assert found == pytest.approx(expected)


def test_a_host_that_has_nothing(tmp_path):
    assert set(values_of(sampler.Host(str(tmp_path))).values()) == {None}


def test_a_source_that_is_gone_for_a_while_counts_from_its_last_answer(tmp_path):
    write(tmp_path, HOST)
    host = sampler.Host(str(tmp_path))
    host.read(1.0)
    write(tmp_path, {"proc/stat": "", "proc/loadavg": ""})
    found = values_of(host)
    assert {name for name, value in found.items() if value is None} >= {"cpu_percent", "load_1min"}
    assert found["memory_used_mb"] == 4096
    write(tmp_path, {"proc/stat": stat([200] * 10, [200] * 10, 1300)})
    assert values_of(host)["context_switches_s"] == 150


def test_a_cpu_that_comes_and_a_counter_that_goes_back(tmp_path):
    write(tmp_path, HOST)
    host = sampler.Host(str(tmp_path))
    lines = stat([100, 100, 100, 200, 90, 100, 100, 100], [300, 0, 0, 0, 0, 0, 0, 0], 1000).replace(
        "cpu1", "cpu7"
    )
    write(tmp_path, {"proc/stat": lines})
    found = values_of(host)
    assert (found["cpu_max_percent"], found["cpu_iowait_percent"]) == (0, 0)


def test_paths_of_an_nvme_disk_stand_for_it(tmp_path):
    write(
        tmp_path, {f"sys/block/{name}/stat": "" for name in ("nvme0n1", "nvme0c0n1", "nvme0c1n1", "nvme1n1")}
    )
    assert devices.whole_disks(str(tmp_path)) == ["nvme0c0n1", "nvme0c1n1", "nvme1n1"]


def test_a_container_has_interfaces_without_hardware(tmp_path):
    write(tmp_path, {f"sys/class/net/{name}/ifindex": "1" for name in ("lo", "eth0")})
    assert devices.interfaces(str(tmp_path)) == ["eth0"]


def test_thermal_zones_where_there_is_no_driver_of_the_cpu(tmp_path):
    zones = {"0": ("acpitz", "20000"), "1": ("cpu0-thermal", "50000"), "2": ("soc_thermal", "55000")}
    for number, (kind, degrees) in zones.items():
        folder = f"sys/class/thermal/thermal_zone{number}"
        write(tmp_path, {f"{folder}/type": kind, f"{folder}/temp": degrees})
    assert thermal.Temperature(str(tmp_path)).read(1.0) == [55]


@pytest.mark.parametrize(
    ("flags", "clocks"), [("fpu aperfmperf sse", [1000, 1500.25, 2000.5]), ("fpu sse", None)]
)
def test_clocks_of_cpuinfo_only_where_they_are_measured(tmp_path, flags, clocks):
    entries = [f"cpu MHz\t\t: {clock}\nflags\t\t: {flags}\n\n" for clock in ("1000.000", "2000.500")]
    write(tmp_path, {"proc/cpuinfo": "".join(entries)})
    found = values_of(sampler.Host(str(tmp_path)))
    assert found["cpu_min_mhz"] == (clocks[0] if clocks else None)
    if clocks:
        assert thermal.Frequency(str(tmp_path)).read(1.0) == clocks


@pytest.mark.parametrize("size", [0, 10, 8192, 100_000])
def test_a_file_of_any_length_is_read_whole(tmp_path, size):
    (tmp_path / "file").write_bytes(b"x" * size)
    file = KernelFile(str(tmp_path / "file"))
    for _ in range(2):
        assert len(file.read()) == len(file.read_table()) == size


# This host


def test_values_are_those_of_psutil_under_load(tmp_path):
    """A process that spins, writes to the disk and packets through the loopback, for a second."""
    host = sampler.Host()

    def counters():
        disks, nics = psutil.disk_io_counters(perdisk=True), psutil.net_io_counters(pernic=True)
        written = sum(disks[name].write_bytes for name in devices.whole_disks("") if name in disks)
        received = sum(nics[name].bytes_recv for name in devices.interfaces(""))
        pressure = re.search(r"total=(\d+)", read_text("/proc/pressure/cpu", "total=0"))[1]
        switches = psutil.cpu_stats().ctx_switches
        return psutil.cpu_times(), switches, written, received, int(pressure), time.monotonic()

    host.read(1.0)
    before = counters()
    spin = "import time; end = time.monotonic() + 1\nwhile time.monotonic() < end: pass"
    target = tmp_path / "load"
    dd = ["dd", "if=/dev/zero", f"of={target}", "bs=1M", "count=24", "conv=fsync", "status=none"]
    with subprocess.Popen([sys.executable, "-c", spin]), subprocess.Popen(dd), socket.socket(type=2) as udp:
        udp.bind(("127.0.0.1", 0))
        for _ in range(1000):
            udp.sendto(bytes(50_000), udp.getsockname())
    after = counters()
    seconds = after[-1] - before[-1]
    found = values_of(host, seconds)

    spent = {name: b - a for name, a, b in zip(after[0]._fields, before[0], after[0], strict=True)}
    total = sum(spent[name] for name in spent if not name.startswith("guest"))
    assert found["cpu_user_percent"] == pytest.approx(100 * (spent["user"] + spent["nice"]) / total, abs=3)
    system = spent["system"] + spent["irq"] + spent["softirq"]
    assert found["cpu_system_percent"] == pytest.approx(100 * system / total, abs=3)
    assert found["cpu_percent"] == found["cpu_user_percent"] + found["cpu_system_percent"]
    assert found["cpu_percent"] > 50 / os.cpu_count()
    assert found["cpu_max_percent"] >= found["cpu_percent"]
    assert found["context_switches_s"] == pytest.approx((after[1] - before[1]) / seconds, rel=0.1)
    if devices.whole_disks(""):
        rate = (after[2] - before[2]) / seconds / 1e6
        assert found["disk_write_mb_s"] == pytest.approx(rate, rel=0.1, abs=0.5)
    if found["cpu_pressure_some_percent"] is not None:
        waited = (after[4] - before[4]) / seconds / 1e4
        assert found["cpu_pressure_some_percent"] == pytest.approx(waited, rel=0.1, abs=2)
    assert found["net_receive_mb_s"] == pytest.approx((after[3] - before[3]) / seconds / 1e6, rel=0.2, abs=1)
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    assert found["memory_available_mb"] == pytest.approx(memory.available / 1e6, rel=0.02)
    assert found["memory_used_mb"] + found["memory_available_mb"] == pytest.approx(memory.total / 1e6)
    assert found["swap_used_mb"] == pytest.approx(swap.used / 1e6, abs=2)
    assert found["load_1min"] == pytest.approx(psutil.getloadavg()[0], abs=0.5)


# The process


def rows_of(path):
    with open(path, newline="") as file:
        return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]


def samplers():
    return [one for one in psutil.Process().children() if str(PACKAGE) in " ".join(one.cmdline())]


def test_samples_come_once_a_second_or_say_that_they_are_late(tmp_path):
    """The sampler is stopped when its first row is due; the second comes when it should again."""
    path = tmp_path / "samples.csv"
    with sampling.sampled(path):
        started = time.monotonic()
        (process,) = samplers()
        time.sleep(0.8)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        process.send_signal(signal.SIGCONT)
        time.sleep(2.3 - (time.monotonic() - started))
    before, late, timely, last = rows_of(path)
    assert tuple(before) == sampling.COLUMNS
    assert before["time_s"] == 0
    assert before["interval_s"] == pytest.approx(sampler.BEFORE, abs=0.1)
    assert 1.25 < late["time_s"] < 1.85
    assert late["late_ms"] == pytest.approx(1000 * (late["time_s"] - 1), abs=1)
    assert timely["time_s"] == pytest.approx(2, abs=0.15)
    assert 2.25 < last["time_s"] < 3
    assert last["late_ms"] == 0
    assert sum(row["interval_s"] for row in (late, timely, last)) == pytest.approx(last["time_s"], abs=0.01)


def test_the_sampler_ends_with_its_owner(tmp_path):
    path = tmp_path / "samples.csv"
    code = f"""if 1:
        import os, signal
        from ripresa.families.benchmarks.sampling import sampled
        with sampled({str(path)!r}):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    read_end, write_end = os.pipe()  # whoever inherits the writing end keeps it open
    with subprocess.Popen([sys.executable, "-c", code], pass_fds=[write_end], stderr=write_end) as owner:
        os.close(write_end)
    assert owner.returncode == -signal.SIGKILL
    with os.fdopen(read_end) as pipe:
        assert pipe.read() == ""  # returns once the sampler, which has it as its standard error, is gone
    assert len(rows_of(path)) == 1


@pytest.mark.parametrize("path", ["nowhere/samples.csv", "/dev/full"])
def test_without_samples_nothing_is_measured(path, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BenchmarkError, match="the host cannot be sampled"), sampling.sampled(path):
        pytest.fail("measured")
    assert re.fullmatch(rf"error: samples: {path}: No .*\n", capfd.readouterr().err)


def test_a_sampler_that_dies_spoils_the_repetition(tmp_path):
    with (
        pytest.raises(BenchmarkError, match="not be sampled to the end"),
        sampling.sampled(tmp_path / "s.csv"),
    ):
        samplers()[0].kill()


def test_many_files_are_open_where_the_limit_allows_few(tmp_path):
    path = tmp_path / "samples.csv"
    shell = ["sh", "-c", 'ulimit -S -n 8; exec "$@"', "sh", *sampling.command(path)]
    subprocess.run(shell, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    seen = {name for name, value in rows_of(path)[-1].items() if not math.isnan(value)}
    expected = {name for name, value in values_of(sampler.Host()).items() if value is not None}
    assert seen == {"time_s", "interval_s", "late_ms"} | expected


def test_the_sampler_needs_little_and_an_old_python():
    command = [sys.executable, "-IS", "-X", "importtime", PACKAGE / "__main__.py", os.devnull]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "ripresa.families.benchmarks.collectors.sampler" in modules
    tops = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names
    assert tops <= {"ripresa", "imported package"}
    assert not {"re", "enum", "subprocess", "logging", "asyncio", "inspect", "csv"} & modules
    vermin = [Path(sys.executable).with_name("vermin"), "--target=3.9-", "--violations", "--no-tips", PACKAGE]
    done = subprocess.run(vermin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# Warnings

QUIET = {
    "time_s": [0, 1, 2, 3, 4, 5, 6],
    "interval_s": [0.25, 1, 1, 1, 1, 1, 1],
    "late_ms": [0, 1, 20, 1, 1, 1, 0],
    "cpu_percent": [3, 50, 99, 99, 99, 99, 70],
    "cpu_max_percent": [9, 100, 100, 100, 100, 100, 99],
    "cpu_user_percent": [3, 45, 97, 97, 97, 97, 60],
    "cpu_steal_percent": [0, 0, 0, 1, 0, 0, 0],
    "cpu_pressure_some_percent": [0, 2, 3, 3, 40, 1, 5],
    "memory_pressure_some_percent": [0, 0, 0, 0, 0, 0, 0],
    "io_pressure_some_percent": [90, 5, 2, 0, 0, 0, 7],
    "swap_used_mb": [100, 100, 100, 101, 101, 101, 101],
    "cpu_temperature_c": [50, 60, 70, 80, 90, 90, 90],
    # A single busy core is faster than all of them, and one reading is odd.
    "cpu_max_mhz": [1200, 5000, 4000, 3900, 2000, 3900, 3800],
    "throttle_events": [3, 0, 0, 0, 0, 0, 0],
}


@pytest.mark.parametrize(
    ("column", "values", "kind", "evidence"),
    [
        (
            "throttle_events",
            [0, 0, 0, 4, 0, 2, 0],
            "throttled",
            "CPUs throttled 6 times, first within the second before 3 s, hottest 90 C",
        ),
        (
            "cpu_max_mhz",
            [1200, 4000, 4000, 4000, 3000, 3000, 3000],
            "frequency",
            "fastest CPU clock fell from 4000 to 3000 MHz (25 %) while busy",
        ),
        (
            "cpu_max_percent",
            [96, 99, 99, 99, 99, 99, 99],
            "busy_before",
            "something else ran: one CPU was 96 % busy just before the measurement",
        ),
        (
            "cpu_steal_percent",
            [0, 0, 0, 9, 3, 0, 0],
            "steal",
            "the hypervisor gave 2.0 % of the CPU time to others",
        ),
        (
            "cpu_pressure_some_percent",
            [0, 50, 50, 50, 50, 50, 50],
            "cpu_pressure",
            "tasks waited for a CPU 50 % of the time: other load, or more threads than CPUs",
        ),
        (
            "memory_pressure_some_percent",
            [0, 0, 0, 12, 0, 0, 0],
            "memory_pressure",
            "tasks waited for memory 2.0 % of the time: it is too small for what runs",
        ),
        (
            "io_pressure_some_percent",
            [0, 99, 20, 30, 0, 50, 0],
            "io_pressure",
            "tasks waited for I/O 20 % of the time while others computed",
        ),
        ("swap_used_mb", [100, 100, 100, 160, 150, 150, 150], "swap", "swap in use grew from 100 to 160 MB"),
        (
            "late_ms",
            [0, 1, 340, 1, 1, 1, 0],
            "late",
            "the sample at 2 s came 340 ms late: even the sampler had to wait for a CPU",
        ),
    ],
)
def test_a_warning_says_what_was_seen(column, values, kind, evidence):
    assert warnings_of(QUIET) == []
    assert warnings_of({**QUIET, column: values}) == [Warning(kind, evidence)]


def test_nothing_is_said_of_what_is_not_known():
    assert warnings_of({}) == []
    assert warnings_of({name: [] for name in sampling.COLUMNS}) == []
    assert warnings_of({name: [math.nan] * 3 for name in sampling.COLUMNS} | {"time_s": [0, 1, 2]}) == []


@given(st.lists(st.floats(min_value=500, max_value=6000), min_size=6, max_size=6), st.floats(1, 60))
def test_clocks_within_a_tenth_are_no_fall(clocks, share):
    """Whatever the clocks of a run, as long as none is more than a tenth below another."""
    top = max(clocks)
    near = [0.0, *(max(clock, 0.901 * top) for clock in clocks)]
    samples = {**QUIET, "cpu_percent": [share] * 7, "cpu_max_mhz": near}
    assert "frequency" not in {one.kind for one in warnings_of(samples)}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "samples.csv"
    with sampling.sampled(path):
        time.sleep(0.25)
    found = read(path)
    assert tuple(found) == sampling.COLUMNS
    assert [len(values) for values in found.values()] == [2] * len(found)
    for name, values in found.items():
        assert values == pytest.approx([row[name] for row in rows_of(path)], nan_ok=True)
    warnings_of(found)


@pytest.mark.parametrize("line", ["1,two", "1"])
def test_what_is_no_file_of_samples(tmp_path, line):
    path = tmp_path / "samples.csv"
    path.write_text(f"time_s,load_1min\n0,\n{line}\n")
    with pytest.raises(BenchmarkError, match=rf"^{re.escape(str(path))}: line 3: .*: not a file of samples$"):
        read(path)


def test_every_column_and_every_warning_is_on_the_page():
    page = (ROOT / "docs" / "benchmarks.md").read_text().partition("## Collectors")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z0-9_]+)`", page))
    kinds = re.search(r"Kinds: (.*?)\.", warnings_of.__doc__, re.DOTALL)[1].replace("\n", " ").split(",")
    assert {*sampling.COLUMNS, *(kind.strip() for kind in kinds)} - named == set()
