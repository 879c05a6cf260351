"""`ripresa import`: what another manager has computed becomes published units of a run."""

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

from ripresa.cli import experiments, runs
from ripresa.cli.answers import Answer, Refusal, Table, count
from ripresa.cli.snakemake import configuration
from ripresa.families.experiments import ExperimentError, migration, table
from ripresa.families.experiments.plan import union
from ripresa.journal import controller, foreign
from ripresa.journal.paths import Run
from ripresa.journal.text import printable

RULE = "experiment"
SESSION = "import"
DIFFERENT, HELD_BACK = "different", "not published"
_SHOWN = 5  # of each kind


def answer(arguments: argparse.Namespace) -> Answer:
    """Exit code 1 if rows could not be taken, or if a controller has the run."""
    run = runs.named(arguments)
    phases = experiments.of(run, runs.configured(arguments.run))
    known = union(phases)
    try:
        found = migration.read(phases, arguments.table, arguments.state)
    except ExperimentError as error:
        raise Refusal(printable(error), name="INPUT_INVALID") from None
    try:
        controller.hold(run, SESSION)
    except controller.RunIsHeld as error:
        raise Refusal(str(error), 1, "RUN_HELD") from None
    try:
        imported, there, more = _publish(run, found.results)
    finally:
        controller.release(run)
    findings = [*found.findings, *more]
    document = {
        "run_id": run.run_id,
        "rows": found.rows,
        "imported": imported,
        "present": there,
        "to_compute": len(known) - sum(_is_there(run, digest) for digest in known),
        "counts": dict(Counter(finding.kind for finding in findings)),
        "findings": [finding._asdict() for finding in findings],
    }
    left_out = (*migration.LEFT_OUT, DIFFERENT, HELD_BACK)
    failed = any(finding.kind in left_out for finding in findings)
    return Answer(document, lambda: _text(document, arguments.run), int(failed))


def _publish(
    run: Run, results: dict[str, dict[str, Any]]
) -> tuple[list[str], list[str], list[migration.Finding]]:
    """Targets that are published now, those that were there with the same figures, and what is wrong with
    others."""
    imported, there, findings = [], [], []
    for digest, document in results.items():
        target, origin = f"experiments/{digest}.json", document["provenance"]
        where = f"{origin['table']}:{origin['row']}"
        if _is_there(run, digest):
            if _same_figures(run, digest, document):
                there.append(target)
            else:
                message = f"{target} is published with other figures, and stays"
                findings.append(migration.Finding(DIFFERENT, where, message))
            continue
        evidence = f"imported from {where} (sha256 {origin['sha256'][:12]})"
        problem = foreign.publish_foreign(run, target, RULE, evidence, partial(_write, document))
        if problem is None:
            imported.append(target)
        else:
            findings.append(migration.Finding(HELD_BACK, where, f"{target} {problem}"))
    return imported, there, findings


def _is_there(run: Run, digest: str) -> bool:
    return os.path.lexists(table.result_path(run.dir, digest))


def _same_figures(run: Run, digest: str, document: dict[str, Any]) -> bool:
    before, after = (table.row("", one) for one in (table.load(table.result_path(run.dir, digest)), document))
    return all(before[name] == after[name] for name in table.COLUMNS)


def _write(document: dict[str, Any], path: str) -> str | None:
    """Write a result; returns what its schema finds wrong with it."""
    from ripresa.configuration import schema
    from ripresa.configuration.settings import SCHEMAS

    for error in schema.load(SCHEMAS / "experiment_result.schema.json").errors(document):
        return f"would be invalid at {error.json_path}: {error.message}"
    with open(path, "w", encoding="ascii") as file:
        json.dump(document, file, indent=1, allow_nan=False)
        file.write("\n")
    return None


def _text(document: dict[str, Any], run_id: str | None) -> Iterable[str | Table]:
    yield (
        f"run {document['run_id']}: {count(len(document['imported']), 'result')} imported from "
        f"{count(document['rows'], 'row')}, {len(document['present']):,} were there already; "
        f"{count(document['to_compute'], 'experiment')} left to compute"
    )
    if document["findings"]:
        seen: Counter[str] = Counter()
        rows, hidden = [], Counter[str]()
        for one in document["findings"]:
            seen[one["kind"]] += 1
            if seen[one["kind"]] <= _SHOWN:
                rows.append(tuple(printable(one[key]) for key in ("kind", "where", "message")))
            else:
                hidden[one["kind"]] += 1
        yield ""
        yield Table(("FINDING", "WHERE", "WHAT"), rows)
        for kind, number in hidden.items():
            yield f"... and {number:,} more: {kind}; --json lists all"
    if document["imported"] and document["to_compute"]:
        yield ""
        words = " ".join(["snakemake", "--rerun-incomplete", *configuration(run_id)])
        yield f"to do: `{words}` computes the rest"
