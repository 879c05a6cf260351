"""Samples of the host at 1 Hz, taken by a process of its own beside a repetition.

    with sampled("rep1.samples.csv"):
        ...

The sampler (package `collectors`) ends when its standard input does, so it cannot outlive the process it
watches.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ripresa.families.benchmarks import collectors
from ripresa.families.benchmarks.collectors.sampler import COLUMNS
from ripresa.families.benchmarks.measurement import BenchmarkError

__all__ = ["COLUMNS", "command", "sampled"]


def command(path: str | os.PathLike[str]) -> list[str]:
    """The call that samples into the CSV file `path` until its standard input ends.

    It writes a line to its standard output once the measurement may begin.
    """
    entry = os.path.join(os.path.dirname(collectors.__file__), "__main__.py")
    return [sys.executable, "-IS", entry, os.fspath(path)]


@contextmanager
def sampled(path: str | os.PathLike[str]) -> Iterator[None]:
    """Sample the host into a CSV file (columns `COLUMNS`, a row for before, then one a second) meanwhile.

    BenchmarkError if it cannot be, or no longer could.
    """
    with subprocess.Popen(command(path), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sampler:
        assert sampler.stdin and sampler.stdout
        if not sampler.stdout.readline():  # it has started: its imports do not disturb the measurement
            raise BenchmarkError("the host cannot be sampled: the line above says why")
        try:
            yield
        finally:
            sampler.stdin.close()
    if sampler.returncode:
        raise BenchmarkError("the host could not be sampled to the end: the line above says why")
