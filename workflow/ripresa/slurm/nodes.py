"""Nodes that jobs are kept away from for a while, remembered over controllers."""

import time
from typing import Any

from ripresa.journal import clock, records
from ripresa.journal.paths import Run
from ripresa.slurm import commands

BLAMED = ("node", "gpu_fault", "communication")
"""Failure classes for which the same unit is not sent to the same node again."""


class BadNodes:
    """`journal/slurm/nodes.json`: nodes that failed, until when they are left out, and why.

    ``expiry_s`` is how long a node is left out, in s.
    """

    def __init__(self, run: Run, expiry_s: float) -> None:
        self._path = f"{run.slurm}/nodes.json"
        self._expiry_s = expiry_s

    def add(self, node: str, why: str) -> None:
        """Leave a node out for a while, from now on."""
        known = self._known()
        until = clock.iso(time.time() + self._expiry_s)
        records.write_json(self._path, {**known, node: {"until": until, "why": why}})

    def options(self, request: list[str], also: set[str]) -> list[str]:
        """The sbatch options that leave these nodes, and those of ``also``, out of a request.

        None if nobody would be left: a node that failed is better than none.
        """
        now = time.time()
        bad = {
            name for name, entry in self._known().items() if clock.seconds(entry.get("until")) > now
        } | also
        bad = {name for name in bad if "[" not in name and "," not in name}
        if not bad:
            return []
        partitions = [word for word in request if word.startswith(("--partition=", "--clusters="))]
        try:
            there = commands.ask(["sinfo", "--noheader", "--Node", "--format=%N", *partitions]).split()
        except commands.Unanswered:
            return []
        return [f"--exclude={','.join(sorted(bad))}"] if set(there) - bad else []

    def _known(self) -> dict[str, dict[str, Any]]:
        document = records.read_json(self._path)
        if not isinstance(document, dict):
            return {}
        return {name: entry for name, entry in document.items() if isinstance(entry, dict)}
