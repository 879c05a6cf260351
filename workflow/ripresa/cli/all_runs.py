"""`ripresa runs`: all runs here."""

import argparse
from collections.abc import Iterable
from typing import Any

from ripresa.cli import runs
from ripresa.cli.answers import Answer, Table, count, local
from ripresa.journal import controller, records, state
from ripresa.journal.paths import Run
from ripresa.journal.text import printable


def answer(arguments: argparse.Namespace) -> Answer:
    """All runs, the newest first; with ``--run`` that one."""
    listed = [runs.chosen(arguments).run_id] if arguments.run else runs.existing()
    document = [_described(Run(f"{runs.RUNS}/{name}")) for name in listed]
    return Answer({"runs": document}, lambda: _text(document))


def state_of(run: Run) -> str:
    """How a run stands: ``running`` (a controller holds it), ``completed``, ``failed``, ``stopped`` (on
    request), ``interrupted`` (its controller ended without a word) or ``new``.
    """
    if controller.holder(run) is not None:
        return "running"
    return _ended(_last_of_controller(run))


def _described(run: Run) -> dict[str, Any]:
    units = state.states(run)
    counts = state.counts(units)
    last = records.last(run.events) or {}
    first = next(iter(records.iterate(run.events)), {})
    return {
        "run_id": run.run_id,
        "state": state_of(run),
        "units": len(units),
        "counts": counts,
        "families": sorted({unit.family for unit in units}),
        "started": first.get("ts"),
        "last_event": {key: last.get(key) for key in ("type", "ts")} if last else None,
    }


def _last_of_controller(run: Run) -> dict[str, Any]:
    """The last event that tells how a controller ended, or that one began."""
    found: dict[str, Any] = {}
    for event in records.iterate(run.events):
        if event.get("type") in ("run_start", "run_resume", "run_end"):
            found = event
    return found


def _ended(event: dict[str, Any]) -> str:
    if not event:
        return "new"
    if event.get("type") != "run_end":
        return "interrupted"
    if event.get("stopped"):
        return "stopped"
    return "completed" if event.get("status") == "ok" else "failed"


def _text(document: list[dict[str, Any]]) -> Iterable[str | Table]:
    if not document:
        yield f"no runs in {runs.RUNS}/; `snakemake --rerun-incomplete` starts one"
        return
    heading = ("RUN", "STATE", "UNITS", "COMPLETED", "STARTED", "LAST EVENT")
    yield Table(heading, [_row(one) for one in document])
    yield ""
    yield count(len(document), "run")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    last = one["last_event"]
    return (
        one["run_id"],
        one["state"],
        f"{one['units']:,}",
        f"{one['counts'].get(state.COMPLETED, 0):,}",
        local(one["started"]) if one["started"] else "",
        f"{printable(last['type'])} {local(last['ts'])}" if last else "",
    )
