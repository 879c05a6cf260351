"""Whether a unit may be executed now: by the last decision on it, its backoff, devices and breakers."""

from __future__ import annotations

import os
import time

from ripresa.journal import attempts, clock, records
from ripresa.journal.events import emit
from ripresa.recovery import execution
from ripresa.recovery.unit import Unit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ripresa.journal.devices import DeviceLease


_LONGEST_PAUSE_S = 60.0
"""Timers stand still while a machine sleeps."""

NO_DEVICE = "no_device"
"""What stands in place of a classifier rule where there is nothing that a unit could run on."""


def refusal(unit: Unit, last: dict[str, Any]) -> str | None:
    """Why the policy has stopped this unit, or None if it may run."""
    decision, failure_class = last.get("decision"), last.get("failure_class")
    if decision == "refused" and last.get("session") == unit.session and not _sent_again(last):
        return f"given up for this run after attempt {last.get('attempt')} ({failure_class})"
    if decision == "quarantine":
        from ripresa.recovery import blame

        # What is seen from here may differ from what a node has seen: that is no change.
        seen_elsewhere = bool(last.get("external_jobid")) and last.get("session") == unit.session
        changed = [] if seen_elsewhere else blame.changed(unit, last)
        if not changed:
            why = last.get("reason") if last.get("spent") else last.get("evidence")
            return (
                f"in quarantine since attempt {last.get('attempt')} ({failure_class}): {why}; "
                f"correct the cause, then `ripresa release {unit.target}`"
            )
        blame.release(unit, last, changed)
    return _broken(unit)


def _broken(unit: Unit) -> str | None:
    """Which of its devices the run leaves alone because it is broken; None if it has none such."""
    if not unit.resources.get("gpu_device") or not os.path.exists(unit.run.devices):
        return None
    from ripresa.journal import devices, exclusions

    excluded = exclusions.excluded(unit.run)
    for name in devices.named(unit.resources["gpu_device"]):
        if name in excluded:
            return (
                f"device {name} is excluded: {excluded[name]}; once it is well again, "
                f"`ripresa release --device {name}`"
            )
    return None


def refuse(unit: Unit, evidence: str) -> bool:
    """Record that there is nothing here that a unit could ever run on, which gives it up for this session.

    False if a live process has the unit, and so knows better.
    """
    from ripresa.journal import leases
    from ripresa.recovery.attempt import new_record

    lease = leases.acquire(unit.run, unit.target)
    if lease is None:
        return False
    try:
        number = attempts.last(unit.run, unit.target).get("attempt", 0) + 1
        record = new_record(unit, number, clock.iso())
        record.update(outcome="failed", failure_class="configuration", evidence=evidence, decision="refused")
        record.update(classifier_rule=NO_DEVICE, reason=evidence, log=None, ended=record["started"])
        records.append(unit.run.attempts(unit.target), record)
    finally:
        lease.release()
    told = {name: record[name] for name in ("attempt", "outcome", "failure_class", "evidence", "decision")}
    emit(unit.run, "unit_end", target=unit.target, rule=unit.rule, seconds=0.0, **told)
    return True


def _sent_again(last: dict[str, Any]) -> bool:
    """Whether a unit whose attempt was told to end comes once more by way of a batch system.

    The controller sends no unit that it has given up, so SLURM or an administrator wants it to run.
    """
    return last.get("failure_class") == "cancelled" and "RIPRESA_BATCH" in os.environ


def start(unit: Unit, last: dict[str, Any]) -> list[DeviceLease] | None:
    """Pass the backoff, the leases of devices and the breakers; returns the devices taken, None for not now.

    The recovery scheduler withholds units until then, so a unit that arrives early is sent back to it; under
    any other scheduler the guard itself waits. Raises DeviceError where a device cannot be leased at all.
    """
    scheduled = os.environ.get("RIPRESA_SCHEDULER") == "recovery"
    until = clock.steady() + (0.0 if _is_elsewhere(unit, last) else attempts.wait_s(last, time.time()))
    while True:
        wait = until - clock.steady()
        why = "in backoff"
        if wait <= 0:
            devices = _take(unit)
            why = f"{unit.resources.get('gpu_device')} is in use"
            if devices is not None:
                if claim(unit, time.time()):
                    for device in devices:
                        device.sign({"run": unit.run.dir, "run_id": unit.run.run_id, "target": unit.target})
                    return devices
                why = "a breaker is open"
                for device in devices:
                    device.release()
        if scheduled:
            unit.say(f"not yet, {why}")
            return None
        if execution.pause(min(wait, _LONGEST_PAUSE_S) if wait > 0 else 1.0):
            return None


def _is_elsewhere(unit: Unit, last: dict[str, Any]) -> bool:
    """Whether a unit whose device failed comes with other ones: then there is nothing to wait for."""
    failed, device = (last.get("excluded") or {}).get("gpu"), unit.resources.get("gpu_device")
    if not failed or not device:
        return False
    from ripresa.journal.devices import named

    return set(named(str(failed))).isdisjoint(named(device))


def _take(unit: Unit) -> list[DeviceLease] | None:
    """Lease the devices of the unit, if it has any; None if one is held by another."""
    if not unit.resources.get("gpu_device"):
        return []
    from ripresa.journal import devices

    return devices.take(unit.resources["gpu_device"])


def claim(unit: Unit, now: float) -> bool:
    """Whether the breakers of its scopes let a unit through now; of a half-open one it then is a probe."""
    if records.is_void(unit.run.breakers):
        return True
    from ripresa.recovery import breaker, policy

    if not any(breaker.covering(breaker.load(unit.run), unit.scopes)):
        return True
    settings = policy.breaker_settings(policy.load(unit.run))
    allowed = False

    def change(book: breaker.Book) -> list[breaker.Event]:
        nonlocal allowed
        told = breaker.claim(book.breakers, unit.target, unit.scopes, now, settings, breaker.alive(unit.run))
        allowed = told is not None
        return told or []

    breaker.update(unit.run, change, lambda event: emit(unit.run, **event))
    return allowed
