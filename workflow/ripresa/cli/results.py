"""`ripresa results [PHASE]`: the results of experiments that there are, while others are still computed."""

import argparse
import os
from collections.abc import Iterable
from typing import Any

from ripresa.cli import experiments, runs
from ripresa.cli.answers import Answer, Refusal, Table, count, cut
from ripresa.families.experiments import table
from ripresa.families.experiments.plan import Phase
from ripresa.journal.paths import Run
from ripresa.journal.text import printable

_SHOWN = 20
_FIGURES = ("mean_test_accuracy", "std_test_accuracy", "mean_test_loss", "best_epoch")


def answer(arguments: argparse.Namespace) -> Answer:
    """Exit code 2 if there is no such phase. Results that are still to come are no error."""
    run = runs.chosen(arguments)
    phases = experiments.of(run, experiments.configuration(run, arguments.run))
    if arguments.phase is not None:
        phases = [_named(run, phases, arguments.phase)]
    found = [_phase(run, phase) for phase in phases]
    if arguments.csv is not None:
        rows = [row for one in found for row in one["rows"]]
        table.write_csv(arguments.csv, rows)
    document = {
        "run_id": run.run_id,
        "csv": os.path.abspath(arguments.csv) if arguments.csv is not None else None,
        "phases": found,
    }
    return Answer(document, lambda: _text(document))


def _named(run: Run, phases: list[Phase], name: str) -> Phase:
    for phase in phases:
        if phase.name == name:
            return phase
    there = ", ".join(phase.name for phase in phases)
    message = f"run '{run.run_id}' has no phase {printable(name)!r}; there is {there}"
    raise Refusal(message, name="PHASE_INVALID")


def _phase(run: Run, phase: Phase) -> dict[str, Any]:
    rows = [table.row(phase.name, result) for result in table.published(run.dir, phase.experiments)]
    return {
        "phase": phase.name,
        "units": len(phase.experiments),
        "published": len(rows),
        "diverged": sum(row["status"] == "diverged" for row in rows),
        "rows": rows,
    }


def _text(document: dict[str, Any]) -> Iterable[str | Table]:
    for number, phase in enumerate(document["phases"]):
        if number:
            yield ""
        diverged = f", {phase['diverged']} of them diverged" if phase["diverged"] else ""
        yield f"{phase['phase']}: {phase['published']:,} of {count(phase['units'], 'result')}{diverged}"
        if document["csv"] is None and phase["rows"]:
            yield from _table(phase["rows"])
    if document["csv"] is not None:
        yield document["csv"]


def _table(rows: list[dict[str, Any]]) -> Iterable[str | Table]:
    """The parameters in which rows differ, and the figures that people look at first."""
    parameters = [name for name in (*table.ALL_PARAMETERS, "seed") if len({row[name] for row in rows}) > 1]
    names = [*parameters, *_FIGURES]
    shown, hidden = cut(rows, _SHOWN)
    heading = (*(name.upper() for name in names), "REMARK")
    yield Table(
        heading, [(*(_short(row[name]) for name in names), printable(row["reason"] or "")) for row in shown]
    )
    if hidden:
        yield f"... and {hidden:,} more; --csv FILE has all"


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else printable(value)
