"""Results that were made elsewhere, published as units of a run as if an attempt had made them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ripresa.journal import attempts, clock, events, leases, processes, publish
from ripresa.journal.paths import Run


def publish_foreign(
    run: Run, target: str, rule: str, evidence: str, write: Callable[[str], str | None]
) -> str | None:
    """Publish a target that no attempt here made; returns why not, None if it is published now.

    ``write`` makes the file under the path that it is given, and says what is wrong with it, if anything is:
    then nothing is published. The attempt record says by ``evidence`` where the file comes from. It has no
    start, so that nothing is learnt from how long it took. Nobody else can have the target meanwhile.
    """
    lease = leases.acquire(run, target)
    if lease is None:
        return "is being executed right now"
    if lease.previous:
        os.close(lease.fd)  # the file stays: it is the only trace of an attempt that has no record yet
        return "was interrupted; `snakemake --rerun-incomplete` clears that up"
    try:
        if os.path.lexists(run.path(target)):
            return "is there already"
        number = attempts.last(run, target).get("attempt", 0) + 1
        (staged,) = publish.stage(run, target, number, [run.path(target)])
        if problem := write(staged):
            return problem
        publish.commit(run, _record(run, target, rule, number, evidence), [staged], [run.path(target)])
    finally:
        publish.discard(run, target)
        lease.release()
    events.emit(
        run,
        "unit_end",
        target=target,
        rule=rule,
        attempt=number,
        outcome="published",
        failure_class=None,
        evidence=evidence,
        decision="done",
        seconds=None,
    )
    return None


def _record(run: Run, target: str, rule: str, number: int, evidence: str) -> dict[str, Any]:
    """An attempt record (contract C4) of which most is not known."""
    nothing = (
        "failure_class",
        "classifier_rule",
        "exit_code",
        "signal",
        "external_jobid",
        "device",
        "started",
    )
    return {
        "attempt": number,
        "target": target,
        "rule": rule,
        "run_id": run.run_id,
        "evidence": evidence,
        "host": processes.node(),
        "pid": os.getpid(),
        **dict.fromkeys((*nothing, "max_rss_mb", "cpu_s", "not_before", "log", "session")),
        "ended": clock.iso(),
        "resources": {},
        "scopes": [],
        "source": "imported",
    }
