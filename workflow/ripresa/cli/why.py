"""`ripresa why TARGET`: what happened to a unit, what follows, and what a person should do about it."""

import argparse
import os
import time
from collections.abc import Iterable
from typing import Any

from ripresa.cli import runs
from ripresa.cli.answers import Answer, Table, lasted, local
from ripresa.cli.explanation import Situation, explain
from ripresa.cli.waits import waiting
from ripresa.journal import attempts, clock, controller, leases, state
from ripresa.journal.paths import Run
from ripresa.journal.text import printable
from ripresa.recovery import words
from ripresa.recovery.progress import fraction
from ripresa.slurm.ledger import Ledger


def answer(arguments: argparse.Namespace) -> Answer:
    """Exit code 1 if the unit is given up or in quarantine."""
    run = runs.chosen(arguments)
    target = runs.find_one(run, arguments.target)
    now = time.time()
    unit = state.state_of(run, target, now)
    history = [record for record in attempts.read(run, target) if record.get("outcome")]
    running = _running(run, target, history) if unit.state == state.RUNNING else None
    told = explain(Situation(run, unit, history, running, controller.holder(run), now))
    document = {
        "run_id": run.run_id,
        **unit._asdict(),
        "history": history,
        "running": running,
        "submissions": Ledger(run).history(target),
        "explanation": told,
        "advice": told["to_do"],
    }
    stopped = unit.state in (state.FAILED, state.QUARANTINED)
    return Answer(document, lambda: _text(run, unit, document, now), 1 if stopped else 0)


def _running(run: Run, target: str, history: list[dict[str, Any]]) -> dict[str, Any]:
    """The attempt whose process holds the lease now."""
    owner = leases.owner(run.lease(target)) or {}
    number = owner.get("attempt")
    if not isinstance(number, int):
        number = 1 + max((record["attempt"] for record in history), default=0)
    named = {key: owner.get(key) for key in ("host", "pid", "started", "session", "device")}
    far = fraction(run.progress(target, number))
    progress = f"{far[0]} of {far[1]}" if far else None
    return {"attempt": number, **named, "progress": progress, "log": os.path.abspath(run.log(target, number))}


def _text(run: Run, unit: state.UnitState, document: dict[str, Any], now: float) -> Iterable[str | Table]:
    told = document["explanation"]
    rule = f", rule {unit.rule}" if unit.rule else ""
    yield f"{unit.target}: {unit.state} (run {run.run_id}{rule})"
    if told["happened"]:
        yield _sentence(told["happened"])
    elif not document["history"]:
        yield _sentence(f"no attempt so far{f'; it waits: {held}' if (held := waiting(unit, now)) else ''}")
    if told["evidence"]:
        yield f"    {told['evidence']}"
    if told["then"] and document["history"]:
        yield told["then"]
    if len(document["history"]) > 1:
        yield from _history(document["history"], told["changed"])
    if document["submissions"]:
        yield from _submissions(document["submissions"])
    log = document["running"]["log"] if document["running"] else told["log"]
    if log:
        yield f"log: {printable(log)}"
    yield f"to do: {told['to_do']}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _history(history: list[dict[str, Any]], changed: list[dict[str, Any]]) -> Iterable[str | Table]:
    """One row for every record."""
    yield ""
    rows = [_row(record, changed) for record in history]
    yield Table(("ATTEMPT", "STARTED", "TOOK", "ON", "OUTCOME", "DECISION", "EVIDENCE"), rows)
    yield ""


def _submissions(submissions: list[dict[str, Any]]) -> Iterable[str | Table]:
    """One row for every job of SLURM, whether or not an attempt came of it."""
    rows: list[tuple[str, ...]] = []
    for one in submissions:
        said = [
            f"{s['state']} ({s['reason']})" if s.get("reason") else str(s["state"]) for s in one["states"]
        ]
        states = " > ".join(said[n] for n in range(len(said)) if n == 0 or said[n] != said[n - 1])
        job, nodes = printable(one["job"] or "?"), printable(", ".join(map(str, one["nodes"])))
        began = local(one["states"][0].get("ts"))
        rows.append((job, began, nodes, str(one["restarts"]), printable(one["log"] or ""), printable(states)))
    yield ""
    yield Table(("SLURM JOB", "SUBMITTED", "ON", "REQUEUED", "LOG", "STATES"), rows)
    yield ""


def _row(record: dict[str, Any], changed: list[dict[str, Any]]) -> tuple[str, ...]:
    number, outcome = str(record["attempt"]), printable(record["outcome"])
    host = ", ".join(filter(None, [printable(record.get("host") or "?"), printable(record.get("device"))]))
    if outcome in ("released", "adopted"):
        when = record.get("adopted") if outcome == "adopted" else record.get("ended")
        said = "its result counts, nothing ran again"
        if outcome == "released":
            said = f"by itself: {printable(record['evidence'])}" if record.get("changed") else "by hand"
        return number, local(when), "", host, outcome, "", said
    began, ended = clock.seconds(record.get("started")), clock.seconds(record.get("ended"))
    kind = printable(record.get("failure_class") or outcome)
    decision = printable(record.get("decision"))
    if record.get("decision") == "retry":
        after = clock.seconds(record.get("not_before")) - ended
        decision = f"retry after {lasted(after)}" if ended and after > 0 else "retry at once"
        decision = ", ".join(part for part in (decision, words.changes(record)) if part)
    new = [f"{c['what']} {c['before']} -> {c['after']}" for c in changed if c["attempt"] == record["attempt"]]
    evidence = "; ".join(part for part in (", ".join(new), printable(record.get("evidence"))) if part)
    took = lasted(ended - began) if 0 < began <= ended else ""
    return number, local(record.get("started")), took, host, kind, decision, evidence
