"""`ripresa verify`: whether every published file still is what was published."""

import argparse
import os
from collections.abc import Iterable, Iterator
from typing import Any

from ripresa.cli import runs
from ripresa.cli.answers import Answer, Table, count
from ripresa.journal import attempts, leases, publish, state
from ripresa.journal.paths import Run

MISSING, CHANGED, UNREADABLE, UNRECORDED = "missing", "changed", "unreadable", "unrecorded"


def answer(arguments: argparse.Namespace) -> Answer:
    """Exit code 1 if a published file is missing, changed or unreadable, or a target nobody published."""
    run = runs.chosen(arguments)
    problems: list[dict[str, Any]] = []
    checked = files = 0
    for target in state.targets(run):
        number, wrong = _verify(run, target)
        checked += number > 0
        files += number
        problems += wrong
    document = {
        "run_id": run.run_id,
        "ok": not problems,
        "units": checked,
        "files": files,
        "problems": problems,
    }
    return Answer(document, lambda: _text(document), 1 if problems else 0)


def _verify(run: Run, target: str) -> tuple[int, list[dict[str, Any]]]:
    """How many files of a unit were compared, and what is wrong with which."""
    while True:
        record = attempts.last(run, target)
        promised = dict(_promised(target, record))
        wrong = [
            {"target": target, "file": file, "problem": problem, "attempt": record.get("attempt")}
            for file, checksum in promised.items()
            if (problem := _compare(run.path(file), checksum))
        ]
        if record and not promised and os.path.lexists(run.path(target)):
            wrong = [{"target": target, "file": target, "problem": UNRECORDED, "attempt": None}]
        if not wrong:
            return len(promised), []
        if leases.held(run.lease(target)):
            return 0, []  # it is being made anew right now
        if attempts.last(run, target) == record:
            return len(promised), wrong


def _promised(target: str, record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (file, checksum) for all outputs, if the newest attempt of the unit published them."""
    if record.get("outcome") not in ("published", "adopted"):
        return
    promised = {target: record.get("output_sha256"), **(record.get("outputs") or {})}
    yield from ((file, checksum) for file, checksum in promised.items() if isinstance(checksum, str))


def _compare(path: str, checksum: str) -> str | None:
    try:
        if not os.path.lexists(path):
            return MISSING
        return None if publish.checksum(path) == checksum else CHANGED
    except OSError as error:
        return f"{UNREADABLE}: {error.strerror}"


def _text(document: dict[str, Any]) -> Iterable[str | Table]:
    compared = f"{count(document['files'], 'file')} of {count(document['units'], 'published unit')}"
    if document["ok"]:
        yield f"run {document['run_id']}: {compared} compared, all as published"
        return
    problems = document["problems"]
    yield f"run {document['run_id']}: {compared} compared, {count(len(problems), 'problem')}"
    yield ""
    yield Table(("PROBLEM", "FILE"), [(problem["problem"], problem["file"]) for problem in problems])
    yield ""
    yield (
        "to do: put the file back from a copy, or remove it; `snakemake --rerun-incomplete` then makes what "
        "is missing"
    )
