"""All sources, a row a second, until standard input ends."""

from __future__ import annotations

import gc
import os
import resource
import select
import sys
import time
from collections.abc import Sequence
from itertools import chain

from ripresa.families.benchmarks.collectors.devices import Disks, Network
from ripresa.families.benchmarks.collectors.source import Source
from ripresa.families.benchmarks.collectors.thermal import Frequency, Temperature, Throttling
from ripresa.families.benchmarks.collectors.usage import (
    CpuPressure,
    IoPressure,
    Load,
    Memory,
    MemoryPressure,
    Processors,
)

INTERVAL = 1.0
BEFORE = 0.25  # seconds of the first row, before the measurement begins
SHORTEST = 0.2  # a last interval below this is noise


SOURCES: tuple[type[Source], ...] = (
    Processors,
    Load,
    Memory,
    Disks,
    Network,
    CpuPressure,
    MemoryPressure,
    IoPressure,
    Temperature,
    Frequency,
    Throttling,
)

COLUMNS = ("time_s", "interval_s", "late_ms", *chain.from_iterable(source.COLUMNS for source in SOURCES))

# What a source raises that is not there (any more), or of which the kernel speaks in another way.
_NO_ANSWER = (OSError, LookupError, ValueError)


class Host:
    """The sources that the host under `root` has; what it has not stays empty for as long as this lives."""

    def __init__(self, root: str = "") -> None:
        self._sources: list[Source | None] = []
        for kind in SOURCES:
            source: Source | None
            try:
                source = kind(root)
                source.read(1.0)  # some files can be opened but not read
            except _NO_ANSWER:
                source = None
            self._sources.append(source)
        self._nothing = [(None,) * len(kind.COLUMNS) for kind in SOURCES]
        self._unread = [0.0] * len(SOURCES)  # seconds since each source answered

    def read(self, seconds: float) -> list[float | None]:
        """The values of all columns after the first three, rates over the `seconds` since the last call."""
        values: list[float | None] = []
        for i, source in enumerate(self._sources):
            found: Sequence[float | None] = self._nothing[i]
            if source:
                self._unread[i] += seconds
                try:
                    found = source.read(self._unread[i])
                    self._unread[i] = 0.0
                except _NO_ANSWER:  # a disk was pulled, a CPU went offline: this row does not know
                    pass
            values += found
        return values


def text_of(values: Sequence[float | None]) -> bytes:
    """A line of the table; None is empty."""
    return (",".join(["" if value is None else f"{value:.3f}" for value in values]) + "\n").encode()


def sample(output: int, owner: int, started: int) -> None:
    """Write rows into `output` until `owner` ends, and a line into `started` after the first (descriptors).

    The first row is about `BEFORE` seconds in which nothing has been started yet, and has the time 0; then
    a row is due every `INTERVAL`. How long an interval was is measured; a row that came late, as the machine
    was too busy for this process, says by how much, and a row due in the meantime is left out.
    """
    host = Host()
    gc.freeze()
    gc.disable()  # nothing here makes cycles
    os.write(output, (",".join(COLUMNS) + "\n").encode())
    before = time.monotonic()
    host.read(1.0)
    began = due = before + BEFORE
    over, rows = False, 0
    while not over:
        # The owner says nothing: it is readable once it has ended.
        over = bool(select.select([owner] if rows else [], [], [], max(due - time.monotonic(), 0))[0])
        now = time.monotonic()
        if over and now - before < SHORTEST:
            break
        seconds = now - before
        values = host.read(seconds)
        if not rows:
            began = due = now  # what follows is counted from here
            os.write(started, b"sampling\n")
        late = max(now - due, 0.0)
        os.write(output, text_of([now - began, seconds, 1000 * late, *values]))
        before, rows = now, rows + 1
        due += INTERVAL * (1 + late // INTERVAL)


def main(path: str) -> int:
    """Sample into the CSV file `path` while standard input is open; 1 with a line on stderr if that fails."""
    # Three files for each CPU: hundreds of CPUs have more than the 1024 that a shell usually allows.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        with open(path, "wb", buffering=0) as file:
            sample(file.fileno(), sys.stdin.fileno(), sys.stdout.fileno())
    except BrokenPipeError:  # the owner ended before it heard that it may begin
        return 0
    except OSError as error:
        print(f"error: samples: {path}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # Ctrl-C reaches the whole foreground; the owner knows what to do about it
        return 130
    return 0
