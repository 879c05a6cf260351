#!/usr/bin/python3 -IS
"""A command that leaves its marks on the host that executes it, and the judge who reads those of all hosts.

On a host it is `/srv/witness TARGET ATTEMPT SECONDS`. It sleeps, and from start to end appends lines

    <target> <attempt> start|alive|end <time> <process id>

to /var/tmp/witness.log, which is on the host's disk and nowhere near the folders of the agent. Times are of
CLOCK_MONOTONIC, in seconds, which all hosts have in common since they share a kernel. A killed command
leaves no `end`, but was `alive` within the twentieth of a second before.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

COMMAND = "/srv/witness"
LOG = "/var/tmp/witness.log"
BEAT_S = 0.05


class Execution(NamedTuple):
    """One execution of a target on a host; times in seconds, the last one that of its last mark."""

    target: str
    attempt: int
    host: str
    began: float
    ended: float
    whole: bool  # whether it came to its end


def install(folder: Path) -> None:
    """Put the command into a folder."""
    file = folder / Path(COMMAND).name
    shutil.copyfile(__file__, file)
    file.chmod(0o755)


def executions(logs: Iterable[tuple[str, str]]) -> dict[str, list[Execution]]:
    """All executions of each target in order of their starts, from host names and the texts of their logs."""
    found: list[Execution] = []
    for host, text in logs:
        running: dict[tuple[str, str, str], Execution] = {}
        # A line that the end of the host or of its disk has cut short says nothing.
        for line in (line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")):
            target, attempt, mark, at, process = line
            key = (target, attempt, process)
            if mark == "start":
                if key in running:  # of a boot before, since process ids begin anew
                    found.append(running.pop(key))
                running[key] = Execution(target, int(attempt), host, float(at), float(at), False)
            else:
                running[key] = running[key]._replace(ended=float(at), whole=mark == "end")
        found += running.values()
    by_target: dict[str, list[Execution]] = {}
    for execution in sorted(found, key=lambda one: one.began):
        by_target.setdefault(execution.target, []).append(execution)
    return by_target


def overlaps(executed: dict[str, list[Execution]]) -> list[tuple[Execution, Execution]]:
    """Pairs of executions of the same target, on whatever hosts, that both ran at some moment."""
    pairs = (pair for several in executed.values() for pair in combinations(several, 2))
    return [(earlier, later) for earlier, later in pairs if later.began < earlier.ended]


def main(arguments: Sequence[str]) -> None:
    target, attempt, seconds = arguments
    log = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def mark(word: str) -> None:
        os.write(log, f"{target} {attempt} {word} {time.monotonic():.4f} {os.getpid()}\n".encode())

    mark("start")
    end = time.monotonic() + float(seconds)
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(BEAT_S, left))
        mark("alive")
    mark("end")


if __name__ == "__main__":
    main(sys.argv[1:])
