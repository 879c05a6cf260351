"""Why a unit is where it is, in plain words and as stable fields: what happened, what follows, what to do."""

import os
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from ripresa.cli.advice import advise
from ripresa.cli.answers import count, lasted, local
from ripresa.cli.waits import waiting
from ripresa.journal import clock, state
from ripresa.journal.paths import Run
from ripresa.journal.text import printable
from ripresa.recovery import policy, words

Record = dict[str, Any]
_UNCOUNTED = ("released", "adopted")


class Situation(NamedTuple):
    """All that an explanation is made of."""

    run: Run
    unit: state.UnitState
    history: list[Record]
    running: Mapping[str, Any] | None
    """The attempt under way, if there is one."""
    controller: Mapping[str, Any] | None
    now: float


def explain(case: Situation) -> dict[str, Any]:
    """The explanation of a unit.

    ``happened`` and ``then`` are sentences (None where nothing happened or follows), ``evidence`` the line
    of the log, ``budget`` the retries for failures of the class, ``limit`` what stopped the attempt or holds
    the unit back, ``changed`` what differs between attempts, ``log`` the newest attempt's, ``to_do`` is for a
    person.
    """
    made = [record for record in case.history if record["outcome"] != "released"]
    last: Record = made[-1] if made else {}
    before = case.history[: next((n for n, one in enumerate(case.history) if one is last), 0)]
    completed = case.unit.state == state.COMPLETED
    left = None if completed else words.budget(policy.load(case.run), before, last)
    return {
        "happened": _happened(case, last),
        "failure_class": last.get("failure_class"),
        "evidence": printable(last["evidence"]) if last.get("evidence") and not completed else None,
        "decision": last.get("decision"),
        "then": _then(case, last, left),
        "until": case.unit.not_before,
        "waits_for": case.unit.waits_for,
        "budget": left._asdict() if left else None,
        "limit": _limit(case, last, left),
        "changed": changed(made),
        "log": log_of(case.run, last),
        "to_do": advise(case.unit, last, case.controller, case.now),
    }


def log_of(run: Run, record: Mapping[str, Any]) -> str | None:
    """The log of an attempt, where it is now."""
    if not record:
        return None
    log = record.get("log")
    if not isinstance(log, str) or not os.path.exists(log):  # the run was moved since
        log = run.log(str(record.get("target")), record["attempt"])
    return log if os.path.exists(log) else None


def changed(history: list[Record]) -> list[dict[str, Any]]:
    """What is different in an attempt from the one before: its resources, its device, its host."""
    found = []
    real = [record for record in history if record["outcome"] not in _UNCOUNTED]
    for before, after in pairwise(real):
        old, new = (_circumstances(record) for record in (before, after))
        found += [
            {"attempt": after["attempt"], "what": name, "before": old[name], "after": new[name]}
            for name in new
            if name in old and old[name] != new[name]
        ]
    return found


def _circumstances(record: Record) -> dict[str, str]:
    own = {name: record[name] for name in ("device", "host") if record.get(name) is not None}
    # The device is among the resources too, by another name.
    resources = {n: v for n, v in (record.get("resources") or {}).items() if n != "gpu_device"}
    return {name: printable(value) for name, value in (resources | own).items()}


def _happened(case: Situation, last: Record) -> str | None:
    if case.unit.state == state.RUNNING and case.running:
        return _under_way(case, case.running)
    if not last:
        return None
    if case.unit.state == state.COMPLETED:
        return _recovered(case.history)
    began, ended = clock.seconds(last.get("started")), clock.seconds(last.get("ended"))
    after = f" after {lasted(ended - began)}" if 0 < began <= ended else ""
    ago = f", {lasted(case.now - ended)} ago" if 0 < ended <= case.now else ""
    what, _, why = words.happened(last).partition(":")
    ends = (("", "failure_class"), ("exit code ", "exit_code"), ("signal ", "signal"))
    details = [f"{name}{printable(last[key])}" for name, key in ends if last.get(key) not in (None, 0)]
    name = f" ({', '.join(details)})" if details else ""
    host = printable(last.get("host") or "?")
    return f"attempt {last['attempt']} {what}{after} on {host}{ago}{':' if why else ''}{why}{name}"


def _under_way(case: Situation, running: Mapping[str, Any]) -> str:
    since = clock.seconds(running["started"])
    for_long = f" for {lasted(case.now - since)}" if since else ""
    host, pid = printable(running.get("host") or "?"), printable(running.get("pid") or "?")
    far = f", and is at {running['progress']}" if running.get("progress") else ""
    earlier = ""
    if case.unit.waits_for:
        earlier = "; it was started by an earlier call, and its result will be taken over"
    device = f" with device {printable(running['device'])}" if running.get("device") else ""
    who = f"{host} (process {pid}){device}"
    return f"attempt {running['attempt']} has been running{for_long} on {who}{far}{earlier}"


def _recovered(history: list[Record]) -> str:
    """How a unit came to its end, with what it recovered from on the way."""
    made = [record for record in history if record["outcome"] != "released"]
    last = made[-1]
    first = max((n for n, r in enumerate(made[:-1]) if r["outcome"] in ("published", "adopted")), default=-1)
    failures = [record for record in made[first + 1 :] if record["outcome"] in ("failed", "interrupted")]
    when = local(last.get("adopted") or last.get("ended"))
    told = f"attempt {last['attempt']} {words.happened(last)} ({when})"
    if not failures:
        return told
    kinds = [printable(record.get("failure_class") or "cut short") for record in failures]
    list_of = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    took = clock.seconds(last.get("ended")) - clock.seconds(failures[0].get("ended"))
    by = "with a person's help" if any(r["outcome"] == "released" for r in history) else "by itself"
    return f"{told}; it recovered {by} from {count(len(failures), 'failure')} ({list_of}) in {lasted(took)}"


def _then(case: Situation, last: Record, left: words.Budget | None) -> str | None:
    unit = case.unit
    if unit.state in (state.RUNNING, state.COMPLETED, state.SKIPPED):
        return None
    if unit.state == state.STALE:
        return "The process that held it is gone without a word: the next call clears up and runs it again."
    released = bool(case.history) and case.history[-1]["outcome"] == "released"
    if released:
        return "It was released by hand since, and runs again with all its retries."
    held = waiting(unit, case.now)
    told = words.decided(last, left, _when(unit, case.now)) if last else ""
    if unit.waits_for and unit.waits_for["what"] != "time":
        told = f"{told} It waits: {held}.".lstrip()
    return told or None


def _when(unit: state.UnitState, now: float) -> str:
    if unit.not_before:
        return f"at {local(unit.not_before)}, in {lasted(clock.seconds(unit.not_before) - now)}"
    return "as soon as something is free"


def _limit(case: Situation, last: Record, left: words.Budget | None) -> dict[str, Any] | None:
    """The limit that stopped the last attempt, that its unit has used up, or that holds it back."""
    found = case.unit.waits_for
    if found and found["what"] == "breaker":
        return {"kind": "breaker", "what": ", ".join(found["names"]), "until": found["until"]}
    if case.unit.state == state.FAILED and left:
        kind = "budget" if left.counts else "cap"
        return {"kind": kind, "what": f"{left.used} of {left.limit}", "until": None}
    own = last.get("classifier_rule") == "guard" and last.get("failure_class") in ("time_limit", "hang")
    if own and case.unit.state != state.COMPLETED:
        kind = "time" if last["failure_class"] == "time_limit" else "progress"
        return {"kind": kind, "what": printable(last.get("evidence")), "until": None}
    return None
