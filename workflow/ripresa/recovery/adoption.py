"""What earlier attempts of a unit left: live ones to wait for, dead ones to close, finished ones to adopt."""

from __future__ import annotations

import os
import stat

from ripresa.journal import attempts, clock, leases, processes, publish, records
from ripresa.journal.events import emit
from ripresa.recovery import execution, signals
from ripresa.recovery.attempt import new_record
from ripresa.recovery.orphans import end_orphans
from ripresa.recovery.progress import Progress
from ripresa.recovery.unit import Unit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_POLL_S = 0.2
_INTERRUPTED = 20
_WRITES = (">", ">>", "&>", ">|", ">&")
_MISSED = 1000
"""A lease that claims to be this many attempts ahead of the records is not believed."""


class Vigil:
    """Waits for the live attempt of a unit, and ends one that nobody can publish or wants."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.path = unit.run.lease(unit.target)
        self.told: object = None

    def wait(self) -> bool:
        """Wait a moment; False when told to stop."""
        holder = leases.owner(self.path) or {}
        living = processes.alive(holder) if holder else None
        if living is False:
            # Its guard was killed, so what the command goes on to write would never be published.
            end_orphans(holder)
        if living and processes.stopped(holder["pid"]) and holder["pid"] in processes.holders(self.path):
            # It could neither publish nor end. Who calls again wants the campaign to go on.
            processes.kill(int(holder["pid"]), signals.SIGCONT)
        unwanted = holder.get("command_sha256") not in (None, self.unit.digest)
        if living and unwanted and self.told != holder["pid"]:
            # It computes what the campaign no longer asks for. Told once, for twice means at once; and
            # only if it really has the lease, whatever the text in it says.
            self.told = holder["pid"]
            if holder["pid"] in processes.holders(self.path):
                processes.kill(int(holder["pid"]), signals.SIGTERM)
        return not execution.pause(_POLL_S)


def elsewhere(unit: Unit, lease: leases.Lease) -> dict[str, Any] | None:
    """Who took a unit to a host of the inventory, if what became of it there is not known yet.

    The text of the lease then says ``remote``: the host, and the token of the attempt.
    """
    previous = lease.previous or {}
    remote, number = previous.get("remote"), previous.get("attempt")
    if not isinstance(remote, dict) or not isinstance(number, int):
        return None
    return previous if number > attempts.last(unit.run, unit.target).get("attempt", 0) else None


def close_interrupted(unit: Unit, lease: leases.Lease) -> None:
    """Record the end of an attempt whose guard was killed, and clear what it left."""
    previous = lease.previous
    if not previous:
        return
    end_orphans(previous)
    number = previous.get("attempt")
    known = attempts.last(unit.run, unit.target).get("attempt", 0)
    if not isinstance(number, int) or not known < number <= known + _MISSED:
        return
    log, told = unit.run.log(unit.target, number), unit.run.progress(unit.target, number)
    progress = Progress(unit.options.get("progress"), log, told, unit.beat_s)
    progress.conclude()
    publish.discard(unit.run, unit.target)
    started = previous.get("started")
    record = new_record(unit, number, started if isinstance(started, str) else None)
    record.update(
        outcome="interrupted",
        host=previous.get("node") or previous.get("host"),
        pid=previous.get("pid"),
        device=previous.get("device"),
        session=previous.get("session"),
        external_jobid=previous.get("external_jobid"),
        requeues=previous.get("requeues", 0),
        evidence="the guard of this attempt ended without a word (killed, or the machine went down)",
        **progress.fields,
    )
    _decide(unit, record)
    records.append(unit.run.attempts(unit.target), record)
    emit(unit.run, "unit_end", target=unit.target, attempt=number, outcome="interrupted")


def _decide(unit: Unit, record: dict[str, Any]) -> None:
    """Give a unit up whose guards ended so often, under one living controller, that it must be the unit."""
    from ripresa.recovery import policy

    rules = policy.load(unit.run)
    history = policy.since_reset([*attempts.read(unit.run, unit.target), record], unit.session)
    ended = (r.get("outcome") == "interrupted" and r.get("session") == unit.session for r in history)
    idle, best = policy.restarts_without_progress(rules, history, unit.session)
    fruitless = best is not None and idle >= rules.get("restarts", 3)
    record["decision"] = "refused" if fruitless or sum(ended) > _INTERRUPTED else "retry"
    if best is not None and fruitless:
        record["evidence"] += f"; {policy.no_progress(idle, best)}"


def adopt(unit: Unit, last: dict[str, Any], since: float) -> bool:
    """Make the outputs of a published attempt appear again instead of executing the unit anew.

    Snakemake does not know of it if an earlier controller had started it. False if there is none that
    answers what is asked for: another command, changed inputs, a file missing or damaged, or units
    that were asked to run again (``since``: when this guard started; what was published later counts).
    """
    if last.get("outcome") not in ("published", "adopted") or last.get("command_sha256") != unit.digest:
        return False
    late = clock.seconds(last.get("ended")) >= since
    if os.environ.get("RIPRESA_FORCED") and not late and last.get("session") != unit.session:
        return False
    number = int(last["attempt"])
    staged = publish.staged_paths(unit.run, unit.target, number, unit.outputs)
    there = [s if os.path.lexists(s) else o for s, o in zip(staged, unit.outputs, strict=True)]
    began, ended = clock.seconds(last.get("started")), clock.seconds(last.get("ended"))
    if not all(map(os.path.lexists, there)) or newer(unit, began, ended):
        return False
    if not _as_published(unit, last, there):
        unit.say(f"the output of attempt {number} was damaged after it was published; executing it again")
        return False
    publish.appear(staged, unit.outputs)
    for output in unit.outputs:
        os.utime(output)
    record = {**last, "outcome": "adopted", "session": unit.session, "adopted": clock.iso()}
    records.append(unit.run.attempts(unit.target), record)
    emit(unit.run, "unit_end", target=unit.target, attempt=number, outcome="adopted")
    return True


def failed_meanwhile(unit: Unit, last: dict[str, Any], since: float) -> bool:
    """Whether an attempt of an earlier session failed while this guard waited for it."""
    return (
        last.get("outcome") == "failed"
        and last.get("decision") == "retry"
        and last.get("session") != unit.session
        and clock.seconds(last.get("ended")) >= since
    )


def _as_published(unit: Unit, last: dict[str, Any], paths: list[str]) -> bool:
    others = last.get("outputs") or {}
    sums = [last.get("output_sha256"), *(others.get(unit.run.target_of(o)) for o in unit.outputs[1:])]
    return [publish.checksum(path) for path in paths] == sums


def newer(unit: Unit, started: float, ended: float) -> bool:
    """Whether an input changed since an attempt started, or a file that the command names since it ended.

    The command may itself have written what it names, but not its inputs.
    """
    inputs, words = named(unit)
    return any(_modified(path) > started for path in inputs) or any(
        _modified(word, files_only=True) > ended for word in words
    )


def named(unit: Unit) -> tuple[list[str], set[str]]:
    """The input files of a unit, and all words of its command that may name a file or program it uses.

    Not those it redirects its output to.
    """
    import shlex

    try:
        inputs = shlex.split(unit.inputs)
        lexer = shlex.shlex(unit.command, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError:
        inputs, words = unit.inputs.split(), unit.command.split()
    words = [word for before, word in zip(["", *words], words, strict=False) if before[:2] not in _WRITES]
    # `--config=FILE` names a file, too. Directories change with every file made in them.
    return inputs, {*words, *(word.rpartition("=")[2] for word in words)}


def _modified(path: str, *, files_only: bool = False) -> float:
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return 0.0
    return 0.0 if files_only and not stat.S_ISREG(info.st_mode) else info.st_mtime
