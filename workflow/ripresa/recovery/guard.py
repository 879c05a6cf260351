"""The guard: one process around a unit's command that leases, watches, classifies, publishes, records.

Started by the shell text that `ripresa.dsl.guard` makes; it must be quick, so this path imports the
standard library only and what a failure needs is imported when there is one. Its steps are those of
docs/recovery.md: take or adopt, check that the unit may run, execute, settle.
"""

from __future__ import annotations

import sys
import time

from ripresa.journal import attempts, leases, processes
from ripresa.recovery import admission, adoption, execution
from ripresa.recovery.attempt import attempt
from ripresa.recovery.unit import Unit, parse, say

DONE, GAVE_UP, NOT_NOW = 0, 1, 75


def main(arguments: list[str]) -> int:
    """Run one unit to its outcome; exits 0 only when its target is published."""
    execution.listen()
    try:
        unit = parse(arguments, sys.stdin.read())
    except ValueError as error:
        say(f"guard: {error}")
        return GAVE_UP
    try:
        return _run(unit)
    except OSError as error:
        from ripresa.journal.devices import DeviceError

        # The journal itself cannot be written (full disk, lost mount), or no device be leased. Without a
        # record nothing keeps Snakemake from offering the unit at once again, so the guard waits here.
        advice = f"cannot use the journal: {error}; free space or repair {unit.run.dir}"
        unit.say(str(error) if isinstance(error, DeviceError) else advice)
        execution.pause(30.0 * _time_scale(unit))
        return GAVE_UP


def _run(unit: Unit) -> int:
    began = time.time()
    vigil = None
    while True:
        lease = leases.acquire(unit.run, unit.target)
        if lease is None:
            if vigil is None:
                unit.say("a live attempt holds it; waiting for its outcome")
                vigil = adoption.Vigil(unit)
            if not vigil.wait():
                unit.say("stopped while waiting for a live attempt")
                return GAVE_UP
            continue
        try:
            # Only what happened while this guard waited for it is news. Times alone do not tell: a clock
            # that was set back makes all records seem to be.
            return _with_lease(unit, lease, began if vigil is not None else float("inf"))
        finally:
            lease.release()


def _with_lease(unit: Unit, lease: leases.Lease, since: float) -> int:
    if owner := adoption.elsewhere(unit, lease):
        lease.leave()
        unit.say(
            f"attempt {owner['attempt']} may still run on host {owner['remote'].get('host')}; go on with "
            f"`--profile ansible`, or, if that host is gone for good, `ripresa release {unit.target}`"
        )
        return GAVE_UP
    adoption.close_interrupted(unit, lease)
    lease.write({**processes.me(), "target": unit.target, "session": unit.session})
    last = attempts.last(unit.run, unit.target)
    if adoption.adopt(unit, last, since):
        return DONE
    refusal = admission.refusal(unit, last)
    if refusal is not None:
        unit.say(refusal)
        return GAVE_UP
    if adoption.failed_meanwhile(unit, last, since):
        # Whether and when to go on is the scheduler's to decide.
        unit.say(f"the adopted attempt {last['attempt']} failed")
        return GAVE_UP
    devices = admission.start(unit, last)
    if devices is None:
        return NOT_NOW
    try:
        return DONE if attempt(unit, lease, last.get("attempt", 0) + 1, devices) else GAVE_UP
    finally:
        for device in devices:
            device.release()


def _time_scale(unit: Unit) -> float:
    from ripresa.recovery import policy

    try:
        return float(policy.load(unit.run)["time_scale"])
    except OSError:
        return 1.0
