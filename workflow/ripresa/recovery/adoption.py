"""What earlier attempts of a unit left: live ones to wait for, dead ones to close, finished ones to adopt."""

from __future__ import annotations

import os

from ripresa.journal import clock, leases, processes, publish, records
from ripresa.journal.events import emit
from ripresa.recovery import execution, signals
from ripresa.recovery.attempt import new_record
from ripresa.recovery.unit import Unit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_POLL_S = 0.2


class Vigil:
    """Waits for the live attempt of a unit, and ends one that nobody can publish or wants."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.path = unit.run.lease(unit.target)
        self.dead = 0
        self.told: object = None

    def wait(self) -> bool:
        """Wait a moment; False when told to stop."""
        holder = leases.owner(self.path) or {}
        living = processes.alive(holder) if holder else None
        # A lease that was taken just now may still name the owner before, hence a few looks.
        self.dead = self.dead + 1 if living is False else 0
        if self.dead >= 3:
            # Its guard was killed, so what the command goes on to write would never be published.
            _end_orphans(self.path, holder)
        unwanted = holder.get("command_sha256") not in (None, self.unit.digest)
        if living and unwanted and self.told != holder["pid"]:
            # It computes what the campaign no longer asks for.
            self.told = holder["pid"]
            processes.kill(int(holder["pid"]), signals.SIGTERM)
        return not execution.pause(_POLL_S)


def _end_orphans(lease: str, holder: dict[str, Any]) -> None:
    """Kill what is left of an attempt whose guard is gone, if this is the boot it ran in."""
    if holder.get("host") != os.uname().nodename or holder.get("boot_id") != processes.boot_id():
        return
    group = holder.get("group")
    if isinstance(group, int) and group > 1 and _is_group_of(group, holder):
        processes.kill(-group, signals.SIGKILL)
    for pid in processes.holders(lease):
        processes.kill(pid, signals.SIGKILL)


def _is_group_of(group: int, holder: dict[str, Any]) -> bool:
    """Whether the process group still is the one recorded: its leader was not replaced by a new process."""
    started = processes.started(group)
    return started is None or started == holder.get("group_started")


def close_interrupted(unit: Unit, lease: leases.Lease) -> None:
    """Record the end of an attempt whose guard was killed, and clear what it left."""
    previous = lease.previous
    if not previous:
        return
    _end_orphans(lease.path, previous)
    number = previous.get("attempt")
    last = records.last(unit.run.attempts(unit.target)) or {}
    if not isinstance(number, int) or number <= int(last.get("attempt") or 0):
        return
    publish.discard(unit.run, unit.target)
    record = new_record(unit, number, previous.get("started"))
    record.update(
        outcome="interrupted",
        host=previous.get("host"),
        pid=previous.get("pid"),
        session=previous.get("session"),
        evidence="the guard of this attempt ended without a word (killed, or the machine went down)",
        decision="retry",
    )
    records.append(unit.run.attempts(unit.target), record)
    emit(unit.run, "unit_end", target=unit.target, attempt=number, outcome="interrupted")


def finished(unit: Unit, last: dict[str, Any], waited: bool) -> bool:
    """Whether the newest attempt already published what is asked for, though Snakemake does not know."""
    if last.get("outcome") not in ("published", "adopted") or last.get("command_sha256") != unit.digest:
        return False
    if os.environ.get("RIPRESA_FORCED") and not waited and last.get("session") != unit.session:
        return False
    number = int(last.get("attempt") or 0)
    staged = publish.staged_paths(unit.run, unit.target, number, unit.outputs)
    there = all(os.path.lexists(s) or os.path.lexists(o) for s, o in zip(staged, unit.outputs, strict=True))
    return there and not newer(unit, clock.seconds(last.get("started")))


def newer(unit: Unit, since: float) -> bool:
    """Whether an input, or a file that the command names, changed after a moment."""
    import shlex

    try:
        words = set(shlex.split(unit.inputs)) | set(shlex.split(unit.command, comments=True))
    except ValueError:
        words = set(unit.inputs.split()) | set(unit.command.split())
    for word in words:
        try:
            if os.stat(word).st_mtime > since:
                return True
        except (OSError, ValueError):
            continue
    return False


def adopt(unit: Unit, last: dict[str, Any]) -> bool:
    """Make the published outputs of an attempt appear (again) instead of executing the unit anew.

    False if they were damaged meanwhile; the next attempt starts from nothing.
    """
    number = int(last["attempt"])
    staged = publish.staged_paths(unit.run, unit.target, number, unit.outputs)
    publish.appear(staged, unit.outputs)
    if publish.checksum(unit.outputs[0]) != last.get("output_sha256"):
        os.unlink(unit.outputs[0])
        publish.discard(unit.run, unit.target)
        unit.say(f"the output of attempt {number} was damaged after it was published")
        return False
    for output in unit.outputs:
        os.utime(output)
    record = {**last, "outcome": "adopted", "session": unit.session, "adopted": clock.iso()}
    records.append(unit.run.attempts(unit.target), record)
    emit(unit.run, "unit_end", target=unit.target, attempt=number, outcome="adopted")
    return True
