"""The judge's ledger: what the commands themselves say happened, in lines ``MICROSECONDS WHAT UNIT PID``."""

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """``what`` is start, ready, fault, done, overlap (the unit runs already) or shared (its device is used
    already); ``at`` in s since the epoch."""

    at: float
    what: str
    unit: str
    pid: int


class Ledger:
    """Reads the ledger as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.entries: list[Entry] = []
        self.of: dict[str, list[Entry]] = defaultdict(list)

    def read(self) -> list[Entry]:
        """Take in what was added since; returns it."""
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        new = []
        for line in whole.decode().splitlines():
            micros, what, unit, pid = line.split()
            new.append(Entry(int(micros) / 1e6, what, unit, int(pid)))
        for entry in new:
            self.of[entry.unit].append(entry)
        self.entries += new
        return new
