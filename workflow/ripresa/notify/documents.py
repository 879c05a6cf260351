"""What is sent: one JSON document for each event that people may want to know."""

import hashlib
import os
from typing import Any

from ripresa.journal import attempts, state
from ripresa.journal.paths import Run
from ripresa.journal.text import printable
from ripresa.recovery import words

Event = dict[str, Any]


def name_of(event: Event) -> str | None:
    """What an event of the run is called here; None for one that is never sent."""
    match event.get("type"):
        case "run_end":
            return "finished"
        case "unit_end" if event.get("decision") == "quarantine":
            return "quarantined"
        case "breaker_opened":
            return "breaker_opened"
    return None


def identity(run: Run, line: bytes) -> str:
    """The same for the same event, whenever and however often it is sent."""
    return hashlib.sha256(run.run_id.encode() + b"\n" + line.strip()).hexdigest()[:32]


def document(run: Run, name: str, identity: str, event: Event) -> dict[str, Any]:
    """The document of an event: ``text`` for people, the rest for programs."""
    common = {
        "id": identity,
        "event": name,
        "run_id": run.run_id,
        "ts": event.get("ts"),
        "directory": os.path.abspath(run.dir),
    }
    details = {"finished": _finished, "quarantined": _quarantined, "breaker_opened": _breaker_opened}[name]
    return {**common, **details(run, event)}


def _finished(run: Run, event: Event) -> dict[str, Any]:
    counts = state.counts(state.states(run))
    stopped = event.get("stopped")
    how = "was stopped" if stopped else "is complete" if event.get("status") == "ok" else "could not complete"
    told = ", ".join(f"{number} {name}" for name, number in counts.items()) or "no units"
    return {
        "text": f"run {run.run_id} {how}: {told}",
        "status": event.get("status"),
        "stopped": stopped,
        "counts": counts,
        "seconds": event.get("seconds"),
    }


def _quarantined(run: Run, event: Event) -> dict[str, Any]:
    target, number = str(event.get("target")), event.get("attempt")
    history = attempts.read(run, target)
    record = next((one for one in reversed(history) if one["attempt"] == number), dict(event))
    evidence = printable(record.get("evidence"))
    to_do = words.remedy(record)
    return {
        "text": f"{target} of run {run.run_id} is in quarantine: {evidence}; {to_do}",
        "target": target,
        "rule": record.get("rule"),
        "attempt": number,
        "host": record.get("host"),
        "failure_class": record.get("failure_class"),
        "evidence": evidence,
        "why": f"attempt {number} {words.happened(record)}. {words.decided(record, None)}",
        "to_do": to_do,
        "log": record.get("log"),
    }


def _breaker_opened(run: Run, event: Event) -> dict[str, Any]:
    scope, until = printable(event.get("scope")), event.get("until")
    kind = printable(event.get("failure_class"))
    return {
        "text": f"{scope} keeps failing ({kind}): nothing of run {run.run_id} starts there until {until}",
        "scope": scope,
        "until": until,
        "failure_class": event.get("failure_class"),
    }
