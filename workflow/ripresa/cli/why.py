"""`ripresa why TARGET`: every attempt of a unit, and what a person should do about it."""

import argparse
import os
import time
from collections.abc import Iterable
from typing import Any

from ripresa.cli import runs
from ripresa.cli.advice import advise
from ripresa.cli.answers import Answer, Table, lasted, local, printable
from ripresa.journal import attempts, clock, controller, leases, state
from ripresa.journal.paths import Run


def answer(arguments: argparse.Namespace) -> Answer:
    """Exit code 1 if the unit is given up or in quarantine."""
    run = runs.chosen(arguments)
    target = runs.find_one(run, arguments.target)
    now = time.time()
    unit = state.state_of(run, target, now)
    history = [record for record in attempts.read(run, target) if record.get("outcome")]
    running = _running(run, target, history) if unit.state == state.RUNNING else None
    made = [record for record in history if record["outcome"] != "released"]
    document = {
        "run_id": run.run_id,
        **unit._asdict(),
        "history": history,
        "running": running,
        "advice": advise(unit, made[-1] if made else {}, controller.holder(run), now),
    }
    stopped = unit.state in (state.FAILED, state.QUARANTINED)
    return Answer(document, lambda: _text(run, unit, document, now), 1 if stopped else 0)


def _running(run: Run, target: str, history: list[dict[str, Any]]) -> dict[str, Any]:
    """The attempt whose process holds the lease now."""
    owner = leases.owner(run.lease(target)) or {}
    number = owner.get("attempt")
    if not isinstance(number, int):
        number = 1 + max((record["attempt"] for record in history), default=0)
    named = {key: owner.get(key) for key in ("host", "pid", "started", "session")}
    return {"attempt": number, **named, "log": os.path.abspath(run.log(target, number))}


def _text(run: Run, unit: state.UnitState, document: dict[str, Any], now: float) -> Iterable[str | Table]:
    rule = f", rule {unit.rule}" if unit.rule else ""
    yield f"{unit.target}: {unit.state} (run {run.run_id}{rule})"
    for record in document["history"]:
        yield ""
        yield from _attempt(run, record)
    if running := document["running"]:
        since = clock.seconds(running["started"])
        yield ""
        yield (
            f"attempt {running['attempt']}: running since {local(running['started'])} "
            f"({lasted(now - since) if since else '?'}) on {_where(running)}"
        )
        yield f"  log         {running['log']}"
    elif not document["history"]:
        yield "no attempt so far"
    yield ""
    yield f"to do: {document['advice']}"


def _attempt(run: Run, record: dict[str, Any]) -> Iterable[str]:
    began, ended = clock.seconds(record.get("started")), clock.seconds(record.get("ended"))
    number, outcome = record["attempt"], printable(record["outcome"])
    if outcome == "released":
        itself = f"itself: {printable(record['evidence'])}," if record.get("changed") else "hand"
        yield f"released by {itself} at {local(record.get('ended'))} on {_where(record)}"
        return
    if outcome == "adopted":
        when = local(record.get("adopted"))
        yield f"attempt {number}: adopted at {when}: its result counts, nothing ran again"
        return
    length = f" ({lasted(ended - began)})" if 0 < began <= ended else ""
    yield f"attempt {number}: {outcome}, {local(record.get('started'))}{length} on {_where(record)}"
    for name, key in (
        ("class", "failure_class"),
        ("evidence", "evidence"),
        ("found by", "classifier_rule"),
        ("exit code", "exit_code"),
        ("signal", "signal"),
        ("device", "device"),
        ("decision", "decision"),
        ("reason", "reason"),
    ):
        # An exit code or decision of a success says nothing.
        if record.get(key) is not None and (outcome != "published" or key == "device"):
            yield f"  {name:<10}  {printable(record[key])}"
    yield from _escalation(record)
    if record.get("not_before"):
        yield f"  {'not before':<10}  {local(record['not_before'])}"
    log = record.get("log")
    if not isinstance(log, str) or not os.path.exists(log):  # the run was moved since
        log = run.log(str(record.get("target")), number)
    if os.path.exists(log):
        yield f"  {'log':<10}  {printable(log)}"


def _escalation(record: dict[str, Any]) -> Iterable[str]:
    """What an attempt had of the resources that its rule records, and what the next one is to have."""
    had = {n: amount for n, amount in (record.get("resources") or {}).items() if n != "threads"}
    if had:
        yield "  had         " + ", ".join(f"{printable(n)} {printable(amount)}" for n, amount in had.items())
    changes = record.get("changes") or {}
    if changes:
        shown = (f"{n} x {c:g}" if isinstance(c, int | float) else f"{c} {n}" for n, c in changes.items())
        yield "  next time   " + ", ".join(map(printable, shown))
    for kind, place in (record.get("excluded") or {}).items():
        yield f"  excluded    {printable(kind)} {printable(place)}"


def _where(record: dict[str, Any]) -> str:
    return f"{printable(record.get('host') or '?')}, process {printable(record.get('pid') or '?')}"
