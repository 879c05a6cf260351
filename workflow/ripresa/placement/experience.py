"""What is known of durations before a run has published anything: what the same rules took in other runs."""

import os
from collections.abc import Collection
from typing import NamedTuple

from ripresa.journal.paths import Run
from ripresa.placement.durations import Durations

RUNS = 10
"""So many other runs are looked at, the newest first."""


class Experience(NamedTuple):
    """Durations, and where those of some rules are from."""

    durations: Durations
    others: dict[str, tuple[str, int]]
    """Of rules that this run knows nothing of: another run, and how many units of it are known."""


def experience(run: Run, rules: Collection[str]) -> Experience:
    """What there is to know of these rules: from the run itself, else from the newest other run beside it
    that has published units of the rule."""
    durations = Durations.of(run)
    others: dict[str, tuple[str, int]] = {}
    missing = {rule for rule in rules if not durations.number(rule)}
    for other in _beside(run) if missing else ():
        durations.read(other, missing)
        found = {rule for rule in missing if durations.number(rule)}
        others.update((rule, (other.run_id, durations.number(rule))) for rule in found)
        missing -= found
        if not missing:
            break
    return Experience(durations, others)


def _beside(run: Run) -> list[Run]:
    """The other runs of the checkout, the newest first."""
    folder, name = os.path.split(os.path.abspath(run.dir))
    times: dict[str, float] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                other = Run(entry.path)
                if entry.name != name and os.path.isfile(other.units):
                    times[entry.path] = os.stat(
                        other.events if os.path.isfile(other.events) else other.units
                    ).st_mtime
    except OSError:
        pass  # what is gone meanwhile is no experience
    return [Run(path) for path in sorted(times, key=lambda path: -times[path])[:RUNS]]
