"""What became of every submission: an append-only file that outlives controllers."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from ripresa.journal import clock, records
from ripresa.journal.paths import Run
from ripresa.slurm.batch import Batch
from ripresa.slurm.sighting import Sighting

SUBMITTED, REFUSED = "SUBMITTED", "REFUSED"


class Entry(NamedTuple):
    """The newest that is known of one submission."""

    job_id: str | None
    ended: bool


class Ledger:
    """`journal/slurm/ledger.jsonl` of a run: the newest line of a target says where it is.

    What finds no place on a full disk is forgotten: jobs are known by their names, and SLURM can be asked
    again.
    """

    def __init__(self, run: Run) -> None:
        self._path = f"{run.slurm}/ledger.jsonl"

    def lines(self) -> Iterator[dict[str, Any]]:
        """All readable lines, oldest first."""
        return records.iterate(self._path)

    def entries(self) -> dict[tuple[str, int], Entry]:
        """The submissions by batch and index."""
        found: dict[tuple[str, int], Entry] = {}
        for line in self.lines():
            batch, index, job_id = line.get("batch"), line.get("index"), line.get("job")
            if isinstance(batch, str) and isinstance(index, int):
                found[batch, index] = Entry(
                    job_id if isinstance(job_id, str) else None, line.get("ended") is True
                )
        return found

    def history(self, target: str) -> list[dict[str, Any]]:
        """The submissions of a unit, oldest first, whatever attempts came of them.

        Each has ``job`` (its newest id), ``states`` (each with ``ts``, ``state``, ``reason`` and ``node``,
        and how it ended), ``nodes``, ``restarts`` and ``log``, the path of what the job itself printed.
        """
        found: dict[tuple[Any, Any], dict[str, Any]] = {}
        for line in self.lines():
            if line.get("target") != target:
                continue
            one = found.setdefault((line.get("batch"), line.get("index")), {"states": [], "nodes": []})
            facts = ("ts", "state", "reason", "node", "exit_code", "signal", "steps")
            one["states"].append({name: line[name] for name in facts if line.get(name) is not None})
            one["job"] = line.get("job") or one.get("job")
            one["restarts"] = max(one.get("restarts", 0), line.get("restarts") or 0)
            one["log"] = line.get("log")
            if line.get("node") and line["node"] not in one["nodes"]:
                one["nodes"].append(line["node"])
        return list(found.values())

    def submitted(self, batch: Batch, job_ids: list[str]) -> None:
        """SLURM accepted a batch."""
        self._append(
            *(_line(batch, index, job_id, SUBMITTED) for index, job_id in enumerate(job_ids)),
        )

    def never(self, batch: Batch, index: int, state: str, reason: str) -> None:
        """A unit was not submitted after all."""
        self._append(_line(batch, index, None, state, reason=reason, ended=True))

    def seen(self, batch: Batch, index: int, seen: Sighting, *, ended: bool = False) -> None:
        """A job changed."""
        more: dict[str, Any] = {}
        if ended:
            status = {"exit_code": seen.exit_code, "signal": seen.signal, "steps": dict(seen.steps)}
            more = {"ended": True, **{name: value for name, value in status.items() if value}}
        state = f"{seen.state} {seen.detail}".rstrip()
        self._append(
            _line(batch, index, seen.job_id, state, seen.reason, seen.nodes, seen.restarts, **more),
            fsync=ended,
        )

    def settled(self, batch: Batch, index: int, job_id: str | None, state: str) -> None:
        """The journal says what came of it, before SLURM does."""
        self._append(_line(batch, index, job_id, state, ended=True), fsync=False)

    def _append(self, *lines: dict[str, Any], fsync: bool = True) -> None:
        with contextlib.suppress(OSError):
            records.append(self._path, *lines, fsync=fsync)


def _line(
    batch: Batch,
    index: int,
    job_id: str | None,
    state: str,
    reason: str = "",
    node: str = "",
    restarts: int = 0,
    **more: Any,
) -> dict[str, Any]:
    return {
        "ts": clock.iso(),
        "target": batch.tasks[index].target,
        "job": job_id,
        "state": state,
        "reason": reason or None,
        "node": node or None,
        "restarts": restarts,
        "attempt": batch.tasks[index].token,
        "batch": batch.directory.rpartition("/")[2],
        "index": index,
        "log": batch.log(index),
        **more,
    }
