"""`ripresa stack status`: the phases of a stack, and its frames."""

import argparse
import glob
import time
from collections.abc import Iterable
from typing import Any

from ripresa.cli.all_runs import state_of
from ripresa.cli.answers import Answer, Table, count, cut, lasted, local
from ripresa.cli.stack import chosen, directory, progress, results
from ripresa.journal import records
from ripresa.journal.paths import Run
from ripresa.journal.text import printable

_SHOWN = 20


def answer(arguments: argparse.Namespace) -> Answer:
    """Exit code 1 if a phase failed."""
    run = chosen(arguments)
    phases = progress.phases(run)
    document = {
        "run_id": run.run_id,
        "state": state_of(run),
        "phases": phases,
        **_frames(run),
        "results": results.files(run),
        "summary": results.summary(run),
    }
    failed = any(phase["state"] == progress.FAILED for phase in phases)
    return Answer(document, lambda: _text(run, document), 1 if failed else 0)


def _frames(run: Run) -> dict[str, Any]:
    """Frames known so far: all, the registered ones, the excluded ones with reasons."""
    excluded: dict[str, str] = {}
    known: set[str] = set()
    registered: set[str] = set()
    for path in sorted(glob.glob(glob.escape(directory(run)) + "/scan/*.json")):
        for frame in _listed(path):
            known.add(frame["name"])
            if frame.get("status") == "bad":
                excluded[frame["name"]] = printable(frame.get("reason"))
    for path in sorted(glob.glob(glob.escape(directory(run)) + "/registration/*.json")):
        for frame in _listed(path):
            if frame.get("status") == "registered":
                registered.add(frame["name"])
            elif frame["name"] in known:
                excluded[frame["name"]] = printable(frame.get("reason"))
    return {
        "frames": len(known),
        "registered": len(registered & known),
        "excluded": [{"frame": name, "reason": reason} for name, reason in sorted(excluded.items())],
    }


def _listed(path: str) -> list[dict[str, Any]]:
    """The frames of a document between phases."""
    document = records.read_json(path)
    frames = document.get("frames") if isinstance(document, dict) else None
    frames = frames if isinstance(frames, list) else []
    return [one for one in frames if isinstance(one, dict) and isinstance(one.get("name"), str)]


def _text(run: Run, document: dict[str, Any]) -> Iterable[str | Table]:
    now = time.time()
    yield f"run {run.run_id}: {document['state']}"
    if document["frames"]:
        excluded = len(document["excluded"])
        known = count(document["frames"], "frame")
        yield f"{known}, {document['registered']} registered, {excluded} excluded"
    yield ""
    yield Table(
        ("PHASE", "NAME", "STATE", "PROGRESS", "STARTED", "TOOK"),
        [_row(one, now) for one in document["phases"]],
    )
    shown, hidden = cut(document["excluded"], _SHOWN)
    if shown:
        yield ""
        yield Table(("EXCLUDED", "REASON"), [(printable(one["frame"]), one["reason"]) for one in shown])
    if hidden:
        yield f"... and {hidden:,} more; --json lists all"
    if document["results"]:
        yield ""
        yield from (f"{key + ':':<9}{path}" for key, path in document["results"].items())


def _row(phase: dict[str, Any], now: float) -> tuple[str, ...]:
    current, total = phase["current"], phase["total"]
    far = f"{current}/{total}" if total else ""
    took = phase["seconds"]
    if phase["state"] == progress.RUNNING:
        took = progress.seconds_since(phase["started"], now)
    return (
        str(phase["phase"]),
        phase["phase_name"],
        phase["state"],
        far,
        local(phase["started"]) if phase["started"] else "",
        "" if took is None else lasted(took),
    )
