"""Disks and networks: what passed the hardware, each byte once.

Devices made of others (partitions, LVM, RAID, bonds, bridges, virtual Ethernet) would count it again and are
left out.
"""

from __future__ import annotations

import os
from operator import add, sub

from ripresa.families.benchmarks.collectors.files import KernelFile, names, readable, word
from ripresa.families.benchmarks.collectors.source import Source

SECTOR = 512  # of Documentation/block/stat.rst, whatever the disk's own
_IN_MEMORY = ("loop", "ram", "zram")


def whole_disks(root: str) -> list[str]:
    """The disks of the host by name, without what is in memory, in a file or made of other disks.

    An NVMe disk that is reached over several paths is shown beside them; before Linux 6.4 only the paths
    count, so they stand for it.
    """
    block = root + "/sys/block"
    found = [
        name
        for name in names(block)
        if not name.startswith(_IN_MEMORY) and not names(f"{block}/{name}/slaves")
    ]
    replaced = set()
    for name in found:
        disk, is_path, rest = name.partition("c")  # nvme0c1n2 is a path to nvme0n2
        if is_path and disk.startswith("nvme"):
            replaced.add(f"{disk}n{rest.partition('n')[2]}")
    return [name for name in found if name not in replaced]


class Disks(Source):
    """MB/s (10^6 bytes) and requests a second over all disks; the share of the time in % with a request in
    flight, and the mean number of requests queued or in flight, each of the disk where it is highest.
    """

    COLUMNS = (
        "disk_read_mb_s",
        "disk_write_mb_s",
        "disk_reads_s",
        "disk_writes_s",
        "disk_busy_max_percent",
        "disk_queue_max",
    )

    def __init__(self, root: str) -> None:
        self._files = readable([f"{root}/sys/block/{name}/stat" for name in whole_disks(root)])
        if not self._files:
            raise FileNotFoundError("no disks")
        self._before = self._look()

    def _look(self) -> list[list[int]]:
        """For each disk: reads, sectors read, writes, sectors written, ms busy, ms of all requests."""
        found = []
        for file in self._files:
            fields = file.read().split(None, 11)
            found.append([int(fields[i]) for i in (0, 2, 4, 6, 9, 10)])
        return found

    def read(self, seconds: float) -> list[float]:
        before, self._before = self._before, self._look()
        total, busiest, longest = [0] * 4, 0, 0
        for i, new in enumerate(self._before):
            *moved, busy_ms, requests_ms = map(sub, new, before[i])
            total = list(map(add, total, moved))
            busiest = max(busiest, busy_ms)
            longest = max(longest, requests_ms)
        reads, read, writes, written = total
        return [
            read * SECTOR / seconds / 1e6,
            written * SECTOR / seconds / 1e6,
            reads / seconds,
            writes / seconds,
            min(busiest / seconds / 10, 100.0),
            longest / seconds / 1000,
        ]


def interfaces(root: str) -> list[str]:
    """The network interfaces by name that are hardware; if none is, as in a container, all but `lo`."""
    folder = root + "/sys/class/net"
    found = [name for name in names(folder) if word(f"{folder}/{name}/ifindex") and name != "lo"]
    hardware = [name for name in found if os.path.exists(f"{folder}/{name}/device")]
    return hardware or found


class Network(Source):
    """MB/s (10^6 bytes), packets, errors and drops a second over all interfaces, both ways."""

    COLUMNS = (
        "net_receive_mb_s",
        "net_send_mb_s",
        "net_receive_packets_s",
        "net_send_packets_s",
        "net_errors_s",
        "net_drops_s",
    )

    def __init__(self, root: str) -> None:
        self._names = frozenset(name.encode() for name in interfaces(root))
        if not self._names:
            raise FileNotFoundError("no network interfaces")
        self._file = KernelFile(root + "/proc/net/dev")
        self._before = self._look()

    def _look(self) -> dict[bytes, list[int]]:
        """For each interface the 16 counters of a line of /proc/net/dev, 8 received and 8 sent."""
        found = {}
        for line in self._file.read_table().split(b"\n"):
            name, _, counters = line.partition(b":")
            name = name.strip()
            if name in self._names:
                found[name] = [int(value) for value in counters.split()]
        return found

    def read(self, seconds: float) -> list[float]:
        before, self._before = self._before, self._look()
        total = [0] * 16
        for name, new in self._before.items():
            old = before.get(name, new)  # an interface that has just come up starts from here
            total = list(map(add, total, map(sub, new, old)))
        received, packets, errors, drops = total[:4]
        sent, packets_sent, errors_sent, drops_sent = total[8:12]
        return [
            received / seconds / 1e6,
            sent / seconds / 1e6,
            packets / seconds,
            packets_sent / seconds,
            (errors + errors_sent) / seconds,
            (drops + drops_sent) / seconds,
        ]
