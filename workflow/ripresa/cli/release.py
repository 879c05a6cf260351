"""`ripresa release`: ends the quarantine of units, that they were given up, or that devices are excluded."""

import argparse
import os
from collections.abc import Iterable
from typing import Any

from ripresa.cli import runs
from ripresa.cli.answers import Answer, Refusal, Table, count
from ripresa.journal import attempts, clock, events, exclusions, leases, records, state
from ripresa.journal.paths import Run

_STOPPED = (state.QUARANTINED, state.FAILED)


def answer(arguments: argparse.Namespace) -> Answer:
    """Exit code 1 if a unit that was named is not stopped, or a device not excluded; those of a pattern that
    are not do not count."""
    run = runs.chosen(arguments)
    devices = [name for name in arguments.device if exclusions.release(run, name)]
    if arguments.all:
        wanted = {unit.target: False for unit in state.states(run) if unit.state in _STOPPED}
    else:
        found = {word: runs.find(run, word) for word in arguments.targets}
        wanted = {target: targets == [target] for targets in found.values() for target in targets}
    released, refused = [], []
    for target, by_name in wanted.items():
        reason = _release(run, target)
        if reason is None:
            released.append(target)
        elif by_name:
            refused.append({"target": target, "reason": reason})
    if wanted and not released and not refused and not arguments.device:
        raise Refusal(f"of {count(len(wanted), 'unit')} that the pattern names none is stopped", 1)
    document = {"run_id": run.run_id, "released": released, "refused": refused, "devices": devices}
    errors = [f"{refusal['target']}: not released, it {refusal['reason']}" for refusal in refused]
    errors += [f"device {name}: is not excluded" for name in arguments.device if name not in devices]
    return Answer(document, lambda: _text(document), 1 if errors else 0, tuple(errors))


def _release(run: Run, target: str) -> str | None:
    """Release one unit, keeping all guards out meanwhile; returns why not, if not."""
    unit = state.state_of(run, target)
    sent = unit.state == state.STALE and isinstance(
        (leases.owner(run.lease(target)) or {}).get("remote"), dict
    )
    if unit.state not in _STOPPED and not sent:
        return f"is {unit.state}; only a unit that is {' or '.join(_STOPPED)} can be released"
    lease = leases.acquire(run, target)
    if lease is None:
        return "is being executed right now"
    if lease.previous and not sent:
        os.close(lease.fd)  # the file stays: it is the only trace of an attempt that has no record yet
        return "was interrupted; `snakemake --rerun-incomplete` clears that up"
    try:
        last = attempts.last(run, target)
        if sent:
            # Nobody will hear of that attempt any more, so its number is used up.
            last = {**last, "attempt": (lease.previous or {}).get("attempt")}
        elif last.get("decision") not in ("quarantine", "refused"):
            return "was released or executed just now"
        records.append(run.attempts(target), _record(run, target, last))
    finally:
        lease.release()
    events.emit(
        run,
        "unit_retry_scheduled",
        target=target,
        attempt=last.get("attempt"),
        not_before=None,
        failure_class=last.get("failure_class"),
        evidence="released by hand",
        decision="retry",
    )
    return None


def _record(run: Run, target: str, last: dict[str, Any]) -> dict[str, Any]:
    """The history stays as it is; this record says that what came before counts no more."""
    now = clock.iso()
    return {
        "attempt": last.get("attempt"),
        "target": target,
        "rule": last.get("rule"),
        "run_id": run.run_id,
        "outcome": "released",
        "decision": "retry",
        "not_before": None,
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "started": now,
        "ended": now,
        "session": None,
    }


def _text(document: dict[str, Any]) -> Iterable[str | Table]:
    released = document["released"]
    yield from (f"device {name}: units may have it again" for name in document["devices"])
    yield from (f"{target}: released" for target in released)
    if released:
        yield f"{count(len(released), 'unit')} released; `snakemake --rerun-incomplete` runs them"
    elif not document["refused"] and not document["devices"]:
        yield f"nothing is stopped in run {document['run_id']}"
