"""Nodes that jobs are kept away from for a while, remembered over controllers."""

import contextlib
import time
from typing import Any

from ripresa.journal import clock, records
from ripresa.journal.paths import Run
from ripresa.slurm import commands

BLAMED = ("node", "gpu_fault", "communication")
"""Failure classes for which the same unit is not sent to the same node again."""

_EXCLUDE = "--exclude="


class BadNodes:
    """`journal/slurm/nodes.json`: nodes that failed, until when they are left out, and why.

    ``expiry_s`` is how long a node is left out, in s.
    """

    def __init__(self, run: Run, expiry_s: float) -> None:
        self._path = f"{run.slurm}/nodes.json"
        self._expiry_s = expiry_s
        self._there: dict[tuple[str, ...], set[str]] = {}
        """The nodes of partitions, so that SLURM is asked once for all requests."""

    def add(self, node: str, why: str) -> None:
        """Leave a node out for a while, from now on. It is forgotten if the disk is full."""
        known = self._known()
        until = clock.iso(time.time() + self._expiry_s)
        with contextlib.suppress(OSError):
            records.write_json(self._path, {**known, node: {"until": until, "why": why}})

    def left_out(self, request: list[str], also: set[str]) -> list[str]:
        """A request, options of sbatch, that leaves these nodes and those of ``also`` out.

        Unchanged if nobody would be left: a node that failed is better than none.
        """
        now = time.time()
        bad = {
            name for name, entry in self._known().items() if clock.seconds(entry.get("until")) > now
        } | also
        bad = {name for name in bad if "[" not in name and "," not in name}
        if not bad:
            return request
        if not self._nodes(request) - bad:
            return request
        own = [word.partition("=")[2] for word in request if word.startswith(_EXCLUDE)]
        others = [word for word in request if not word.startswith(_EXCLUDE)]
        return [*others, _EXCLUDE + ",".join([*own, *sorted(bad)])]

    def _nodes(self, request: list[str]) -> set[str]:
        """All nodes that a request may get; none if SLURM does not answer."""
        partitions = tuple(word for word in request if word.startswith(("--partition=", "--clusters=")))
        if partitions not in self._there:
            try:
                said = commands.ask(["sinfo", "--noheader", "--Node", "--format=%N", *partitions])
            except commands.Unanswered:
                said = ""
            self._there[partitions] = set(said.split())
        return self._there[partitions]

    def _known(self) -> dict[str, dict[str, Any]]:
        document = records.read_json(self._path)
        if not isinstance(document, dict):
            return {}
        return {name: entry for name, entry in document.items() if isinstance(entry, dict)}
