"""A failed attempt: name its class, decide, and tell the breakers. Imported only when there is one."""

from __future__ import annotations

import os
import re
from typing import Any

from ripresa.journal import clock, devices, exclusions, processes
from ripresa.journal.events import emit
from ripresa.journal.paths import Run
from ripresa.recovery import breaker, escalation, policy
from ripresa.recovery.classifier import classify

_HEAD, _TAIL = 256 * 1024, 256 * 1024
_RETRY_AFTER = re.compile(
    r"retry[-_ ]after['\"]?\s*[:=]?\s*['\"]?(\d+(?:\.\d+)?)\s*(ms|s\b|sec|min|$|['\"},])?", re.I | re.M
)


def read_log(path: str) -> str:
    """The beginning and the end of a log; what lies between rarely tells the cause."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= _HEAD + _TAIL:
                data = file.read()
            else:
                data = file.read(_HEAD) + b"\n"
                file.seek(size - _TAIL)
                data += file.read()
    except OSError:
        return ""
    return data.decode("utf-8", "replace")


def retry_after(text: str) -> float | None:
    """Seconds that a service asked to wait, from its last ``Retry-After``; None if it did not."""
    found = None
    for found in _RETRY_AFTER.finditer(text):  # noqa: B007
        pass
    if found is None:
        return None
    scale = {"ms": 0.001, "min": 60.0}.get((found.group(2) or "").lower(), 1.0)
    return min(float(found.group(1)) * scale, 86400.0)


def settle(
    run: Run,
    record: dict[str, Any],
    history: list[dict[str, Any]],
    *,
    log: str,
    failure_class: str | None,
    evidence: str | None,
    oom_killed: bool,
    full: str | None = None,
    give_up: str | None = None,
) -> None:
    """Complete the record of a failed attempt with its class, evidence and decision.

    ``failure_class`` is given where the guard itself knows (it stopped the command, or the output is
    invalid); else the classifier reads the log, the exit and the kernel's count of memory kills. ``full``
    names a file system without space, ``give_up`` is a reason to try no more, whatever the policy says.
    """
    rules = policy.load(run)
    text = read_log(log)
    now = clock.seconds(record["ended"])
    sensible: bool | None = None
    if failure_class is None:
        verdict = classify(
            text,
            exit_code=record["exit_code"],
            signal=record["signal"],
            oom_killed=oom_killed,
            extra_rules=rules.get("rules") or [],
        )
        failure_class, evidence, sensible = verdict.failure_class, verdict.evidence, verdict.retry
        record.update(outcome="failed", classifier_rule=verdict.rule)
        if failure_class == "unknown" and full:
            # The log is on the same disk, and the message that would say so found no place in it.
            failure_class, evidence = "disk", f"no space is left on {full}"
            record.update(classifier_rule="guard")
    else:
        record.update(
            outcome="interrupted" if failure_class == "cancelled" else "failed", classifier_rule="guard"
        )
    record.update(failure_class=failure_class, evidence=evidence)
    record["progressed"] = progressed(record, history)
    decision = policy.decide(
        rules,
        history,
        failure_class,
        sensible=sensible,
        retry_after=retry_after(text) if failure_class in ("network", "service") else None,
        progress=record.get("progress"),
        session=record["session"],
        now=now,
    )
    wanted = rules["classes"].get(failure_class, {}).get("changes") or {}
    decision = escalation.settle(run, record, history, wanted, decision)
    if _exclude_devices(run, record, text, now) and decision.decision == "retry":
        decision = decision._replace(not_before=None)  # it goes elsewhere
    if give_up:
        decision = policy.Decision("quarantine", None, {}, give_up)
    record.update(decision=decision.decision, not_before=decision.not_before)
    if decision.not_before:
        record.update(boot_id=processes.boot_id(), uptime_s=clock.steady())
    if decision.fruitless:
        record["evidence"] = f"{evidence}; {decision.reason}"
    if decision.decision != "retry":
        record["reason"] = decision.reason
    if decision.changes:
        record["changes"] = decision.changes
    _tell_breakers(run, record, rules, now)


def progressed(record: dict[str, Any], history: list[dict[str, Any]]) -> bool:
    """Whether this attempt came further than every earlier one since the last success."""
    earlier = map(policy.reached_by, policy.since_reset(history, record["session"]))
    return (policy.reached_by(record) or 0.0) > max((r for r in earlier if r is not None), default=0.0)


def _exclude_devices(run: Run, record: dict[str, Any], log: str, now: float) -> bool:
    """Let the run leave alone the devices that this failure shows to be broken; whether there are any."""
    names = devices.named(record.get("device"))
    if record["failure_class"] != "gpu_fault" or not names or record["host"] != processes.node():
        return False
    from ripresa.recovery import device_faults

    found = device_faults.faults(names, log, now - clock.seconds(record["started"]))
    for name, reason in found.items():
        exclusions.exclude(run, name, reason, target=record["target"], attempt=record["attempt"])
    return bool(found)


def _tell_breakers(run: Run, record: dict[str, Any], rules: policy.Policy, now: float) -> None:
    settings = policy.breaker_settings(rules)
    kinds = policy.scope_kinds(rules, record["failure_class"])
    counted = [scope for scope in record["scopes"] if scope.partition(":")[0] in kinds]
    # Where no batch system chooses a host, the campaign has this one only.
    home = f"host:{record['host']}" if record["external_jobid"] is None else None
    if set(counted) == {home} and kinds[0] != "host":
        counted = []

    def change(book: breaker.Book) -> list[breaker.Event]:
        told = breaker.fail(book, record["target"], counted, now, settings, home=home) if counted else []
        breaker.give_back(book.breakers, record["target"])
        return told

    def tell(event: breaker.Event) -> None:
        reason = {"failure_class": record["failure_class"]} if event["type"] == "breaker_opened" else {}
        emit(run, **event, **reason)

    try:
        if counted or any(breaker.covering(breaker.load(run), record["scopes"])):
            breaker.update(run, change, tell)
    except OSError:
        return  # a full disk, most likely: what happened to the unit is the more important to write down
