"""The memory of a process and of all that it starts, watched while it runs."""

import contextlib
import os
import threading
from pathlib import Path

_EVERY_S = 0.05


class Watch:
    """Remembers the peak resident memory of every process below one, with its command line.

    The kernel's own high-water mark is read, so a process only has to be seen near its end.
    """

    def __init__(self, pid: int) -> None:
        self.peaks_mb: dict[int, tuple[float, str]] = {}
        self._pid = pid
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    @property
    def largest(self) -> tuple[float, str]:
        """MB (10^6 bytes) and command line of the process that had the most."""
        return max([*self.peaks_mb.values()], default=(0.0, "nothing seen"))

    def _run(self) -> None:
        while not self._end.wait(_EVERY_S):
            for pid in family(self._pid):
                with contextlib.suppress(OSError):
                    status = Path(f"/proc/{pid}/status").read_text()
                    peak = next((int(x.split()[1]) for x in status.splitlines() if x.startswith("VmHWM")), 0)
                    known = self.peaks_mb.get(pid)
                    if known is None or peak * 1.024e-3 > known[0]:
                        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                        self.peaks_mb[pid] = peak * 1.024e-3, line[:200]


def family(pid: int) -> list[int]:
    """A process and everything below it, by the kernel's lists of children."""
    found, ahead = [], [pid]
    while ahead:
        found.append(one := ahead.pop())
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{one}/task"):
                with contextlib.suppress(OSError):
                    ahead += map(int, Path(f"/proc/{one}/task/{thread}/children").read_text().split())
    return found


def size(directory: Path) -> int:
    """Bytes of disk that a directory takes, links not followed."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total
