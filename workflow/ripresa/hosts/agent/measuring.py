"""What a command used, as Snakemake's benchmarks have it: peaks of memory, bytes moved, mean load."""

from __future__ import annotations

import os
import time

from ripresa.journal import processes
from ripresa.recovery.execution import Execution

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MB = 1 << 20
_SPARE = 50
"""A look at shared and private memory walks the page tables of the process, so it gets 1/50 of the time."""


class Measured(Execution):
    """An execution that is measured at every beat and at its end.

    Memory in MB (2**20 bytes) is that of all processes of the command at one time; null if the command ended
    before the first look. Bytes are those that went to or came from disks.
    """

    def __init__(self, *given: Any) -> None:
        self._max = {"vms": 0, "uss": 0, "pss": 0}
        self._moved = (0, 0)
        self._ended = 0.0
        self._next_full = 0.0
        super().__init__(*given)

    @property
    def benchmark(self) -> dict[str, Any]:
        """The measures; ``mean_load`` in % of one CPU."""
        seconds = max((self._ended or time.monotonic()) - self.started, 1e-6)
        peaks = {
            f"max_{name}_mb": round(value / _MB, 2) if value else None for name, value in self._max.items()
        }
        return {
            "seconds": round(seconds, 4),
            "max_rss_mb": round(self.max_rss_mb, 2),
            **peaks,
            "io_in_mb": round(self._moved[0] / _MB, 2),
            "io_out_mb": round(self._moved[1] / _MB, 2),
            "mean_load": round(100 * self.cpu_s / seconds, 2),
            "cpu_s": round(self.cpu_s, 2),
        }

    def _family(self) -> list[tuple[int, list[bytes]]]:
        family = super()._family()
        self._keep("vms", sum(int(fields[20]) for _, fields in family))
        pids = [pid for pid, _ in family]
        self._move(pids)
        began = time.monotonic()
        if began >= self._next_full:
            full = [_memory(pid) for pid in pids]
            self._keep("pss", sum(pss for pss, _ in full))
            self._keep("uss", sum(uss for _, uss in full))
            now = time.monotonic()
            self._next_full = now + _SPARE * (now - began)
        return family

    def _reap(self) -> bool:
        # What its ended children moved counts as its own, and is lost with it.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            self._ended = time.monotonic()
            self._move([self.pid])
        return super()._reap()

    def _keep(self, name: str, value: int) -> None:
        self._max[name] = max(self._max[name], value)

    def _move(self, pids: list[int]) -> None:
        moved = [processes.io_counts(pid) for pid in pids]
        read = sum(one.get(b"read_bytes", 0) for one in moved)
        written = sum(one.get(b"write_bytes", 0) for one in moved)
        self._moved = max(self._moved[0], read), max(self._moved[1], written)


def _memory(pid: int) -> tuple[int, int]:
    """Bytes of proportional and of private memory; zeros for a process that is gone or of another user."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            lines = [line.split() for line in file]
    except OSError:
        return 0, 0
    sizes = {words[0]: int(words[1]) * 1024 for words in lines if words[-1] == b"kB"}
    private = sum(size for name, size in sizes.items() if name.startswith(b"Private_"))
    return sizes.get(b"Pss:", 0), private
