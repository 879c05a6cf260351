"""Collectors: what the samples say of a host is true, and empty where the host has nothing to say."""

import re
import socket
import subprocess
import sys

import psutil
import pytest

from ripresa.families.benchmarks.collectors import devices, sampler, thermal
from ripresa.families.benchmarks.collectors.files import KernelFile
from ripresa.families.benchmarks.hardware import read_text


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


def counters():
    """What psutil, and /proc where it does not, has counted up to now, in the units of the samples."""
    disks, nics = psutil.disk_io_counters(perdisk=True), psutil.net_io_counters(pernic=True)
    cpu = psutil.cpu_times()._asdict()
    pressure = re.search(r"total=(\d+)", read_text("/proc/pressure/cpu", "total=0"))[1]
    return {
        "user": cpu["user"] + cpu["nice"],
        "system": cpu["system"] + cpu["irq"] + cpu["softirq"],
        "all": sum(spent for name, spent in cpu.items() if not name.startswith("guest")),
        "context_switches_s": psutil.cpu_stats().ctx_switches,
        "disk_write_mb_s": sum(disks[name].write_bytes for name in devices.whole_disks("")) / 1e6,
        "disk_writes_s": sum(disks[name].write_count for name in devices.whole_disks("")),
        "net_receive_mb_s": sum(nics[name].bytes_recv for name in devices.interfaces("")) / 1e6,
        "net_receive_packets_s": sum(nics[name].packets_recv for name in devices.interfaces("")),
        "cpu_pressure_some_percent": int(pressure) / 1e4,
        "memory_available_mb": psutil.virtual_memory().available / 1e6,
        "swap_used_mb": psutil.swap_memory().used / 1e6,
        "load_1min": psutil.getloadavg()[0],
    }


NOW = {"memory_available_mb", "swap_used_mb", "load_1min"}
"""What is looked at as it is, not as it grows."""


def test_values_are_those_of_psutil_under_load(tmp_path):
    """A process that spins, one that writes to the disk, and packets through the loopback, for half a second.

    psutil looks before and after each look of the sources, so theirs lie between, however busy it is here.
    """
    host = sampler.Host()
    looks = [counters()]
    host.read(1.0)
    looks.append(counters())
    spin = "import time; end = time.monotonic() + 0.5\nwhile time.monotonic() < end: pass"
    dd = ["dd", "if=/dev/zero", f"of={tmp_path}/load", "bs=1M", "count=24", "conv=fsync", "status=none"]
    with subprocess.Popen([sys.executable, "-c", spin]), subprocess.Popen(dd), socket.socket(type=2) as udp:
        udp.bind(("127.0.0.1", 0))
        for _ in range(1000):
            udp.sendto(bytes(50_000), udp.getsockname())
    looks.append(counters())
    found = values_of(host)
    looks.append(counters())

    least = {name: looks[2][name] - looks[1][name] for name in looks[0]}
    most = {name: looks[3][name] - looks[0][name] for name in looks[0]}
    for name in least.keys() - NOW - {"user", "system", "all"}:
        if found[name] is not None:
            assert least[name] - 1e-3 <= found[name] <= most[name] + 1e-3, name
    for kind in ("user", "system"):  # I/O wait may count backwards, hence the margin
        low, high = 100 * least[kind] / most["all"], 100 * most[kind] / least["all"]
        assert low - 1 <= found[f"cpu_{kind}_percent"] <= high + 1
    assert found["cpu_percent"] == found["cpu_user_percent"] + found["cpu_system_percent"]
    # The kernel writes the line of each CPU after that of all, and ticks may pass in between.
    assert found["cpu_max_percent"] >= found["cpu_percent"] - 10
    assert found["cpu_max_percent"] > 0
    assert found["memory_used_mb"] + found["memory_available_mb"] == pytest.approx(
        psutil.virtual_memory().total / 1e6
    )
    # What comes and goes lies between, too, but for what others take and give back in a moment.
    for name, margin in (("memory_available_mb", 500), ("swap_used_mb", 500), ("load_1min", 0.01)):
        low, high = sorted(look[name] for look in looks[2:])
        assert low - margin <= found[name] <= high + margin, name
