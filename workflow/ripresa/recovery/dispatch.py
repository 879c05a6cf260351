"""A unit whose command runs on a host that has no part in the journal.

What the guard does at home is divided there: the host executes and watches the command, and the controller,
which this is for, holds the lease, validates and publishes what comes back, or judges the failure. The text
of the lease says where the command was sent, so that the next controller asks there before anything else.
"""

import os
import shlex
import shutil
import subprocess
import tarfile
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ripresa.journal import attempts, clock, leases, processes, publish, records
from ripresa.journal.events import emit
from ripresa.recovery import admission, adoption, validators
from ripresa.recovery.attempt import commit, fail, fill, new_record, open_log, validators_of
from ripresa.recovery.unit import Unit

PUBLISHED, FAILED, HELD = "published", "failed", "held"


class Sent(NamedTuple):
    """Where an attempt was sent: the host, and the token by which it is known there."""

    host: str
    token: str
    attempt: int
    started: str
    """ISO 8601, by the clock of the controller that sent it."""
    digest: str
    """Of the command that was sent."""


class Dispatch:
    """A unit from when its controller takes it until its outcome is recorded."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.target = unit.target
        self.digest = unit.digest
        self._declared = unit.scopes[1:]  # the first is this machine
        self._lease: leases.Lease | None = None

    def take(self) -> Sent | str | None:
        """Take the unit's lease, and tell what is to be done.

        None: it is to be sent to a host. `Sent`: ask that host first. Else there is nothing to do and nothing
        is held: `HELD` by a live process, `PUBLISHED`, or the reason why it must not run.
        """
        unit = self.unit
        lease = leases.acquire(unit.run, unit.target)
        if lease is None:
            return HELD
        self._lease = lease
        sent = None
        try:
            if owner := adoption.elsewhere(unit, lease):
                sent = _sent(owner)
            elif not lease.previous:
                sent = self._begun()
            if sent:
                lease.write(self._owner(sent))
                return sent
            adoption.close_interrupted(unit, lease)
            lease.write({**processes.me(), "target": unit.target, "session": unit.session})
            last = attempts.last(unit.run, unit.target)
            done = PUBLISHED if adoption.adopt(unit, last, float("inf")) else admission.refusal(unit, last)
        except BaseException:
            if sent or lease.previous:
                lease.leave()
            self.release()
            raise
        if done is not None:
            self.release()
        return done

    def _begun(self) -> Sent | None:
        """An attempt that was sent away although no lease says so: it is torn, or was removed.

        Its log is there, and the events know its host. It is asked first, under a new token, for it knows
        what runs there by the unit. Else a unit that may go to several hosts could be executed on another one
        beside itself.
        """
        unit = self.unit
        number = int(attempts.last(unit.run, unit.target).get("attempt", 0)) + 1
        if not os.path.lexists(self.log(number)):
            return None
        event = None
        for one in records.iterate(unit.run.events):
            if one.get("type") == "unit_start" and one.get("target") == unit.target:
                event = one
        if event is None or event.get("attempt") != number or not event.get("external_jobid"):
            return None
        return Sent(str(event["host"]), uuid.uuid4().hex, number, str(event["ts"]), unit.digest)

    def wait_s(self) -> float:
        """Seconds for which its backoff still lasts."""
        return attempts.wait_s(attempts.last(self.unit.run, self.unit.target), time.time())

    def is_let_through(self, host: str) -> bool:
        """Whether the breakers let it through to a host now."""
        self._goes_to(host)
        return admission.claim(self.unit, time.time())

    def begin(self, host: str, token: str) -> Sent:
        """Begin an attempt: written down, and on the disk, before anything is sent."""
        assert self._lease is not None
        unit = self.unit
        self._goes_to(host)
        number = int(attempts.last(unit.run, unit.target).get("attempt", 0)) + 1
        sent = Sent(host, token, number, clock.iso(), unit.digest)
        open_log(unit, unit.run.log(unit.target, number))
        publish.stage(unit.run, unit.target, number, unit.outputs)
        self._lease.write(self._owner(sent))
        os.fsync(self._lease.fd)
        emit(
            unit.run,
            "unit_start",
            target=unit.target,
            rule=unit.rule,
            attempt=number,
            pid=os.getpid(),
            host=host,
            external_jobid=_job(sent),
        )
        return sent

    def command(self, number: int) -> str:
        """The command of an attempt, which names its outputs relative to the working directory."""
        unit = self.unit
        filled = fill(unit.command, unit, self.outputs(number))
        run = shlex.quote(_relative(unit.run.dir))
        return f'export RIPRESA_RUN="$PWD"/{run}; {filled}'

    def outputs(self, number: int) -> list[str]:
        """Where the command of an attempt writes its outputs, relative to the working directory."""
        unit = self.unit
        return [_relative(path) for path in publish.staged_paths(unit.run, unit.target, number, unit.outputs)]

    def files(self) -> tuple[list[str], list[str]]:
        """The inputs of the unit, and the other files that its command names."""
        inputs, words = adoption.named(self.unit)
        return inputs, sorted(word for word in words - set(inputs) if word and os.path.isfile(word))

    def log(self, number: int) -> str:
        """The file for what the command of an attempt printed."""
        return self.unit.run.log(self.target, number)

    def beat(self) -> None:
        """Show that the unit is looked after."""
        if self._lease is not None:
            self._lease.beat()

    def progress(self, sent: Sent, fields: Mapping[str, Any]) -> None:
        """Tell how far the command is by what its host saw."""
        if "progress" in fields:
            emit(
                self.unit.run,
                "unit_progress",
                target=self.target,
                attempt=sent.attempt,
                value=fields["progress"],
                total=fields.get("progress_total"),
            )

    def conclude(
        self, sent: Sent, result: Mapping[str, Any], outputs: str | None, most: Mapping[str, float]
    ) -> str:
        """Publish what an attempt made, or record how it failed: `PUBLISHED` or `FAILED`.

        ``result`` is that of the host, whose log is in place; ``outputs`` is the archive of what it made,
        None if that is in place too; ``most`` says how much of each resource the host has.
        """
        unit, number = self.unit, sent.attempt
        self._goes_to(sent.host)
        record = self._record(sent, result, most)
        if result["outcome"] == "interrupted":
            problem: tuple[str | None, str | None] = ("node", str(result["evidence"]))
        elif said := result.get("stopped") or result.get("error"):
            problem = str(said), str(result["evidence"])
        elif result["exit_code"] != 0:
            problem = None, None
        else:
            staged = publish.staged_paths(unit.run, unit.target, number, unit.outputs)
            invalid = None
            if outputs is not None:
                publish.stage(unit.run, unit.target, number, unit.outputs)
                try:
                    unpack(outputs, dict(zip(self.outputs(number), staged, strict=True)))
                except tarfile.TarError as error:  # e.g. a link to a place outside
                    invalid = f"the outputs cannot be unpacked: {error}"
            invalid = invalid or self._validate(number, staged)
            if invalid is None:
                commit(unit, record, staged, time.monotonic() - float(result.get("seconds") or 0.0))
                return PUBLISHED
            problem = "output_invalid", invalid
        full = f"the disk of host {sent.host}" if result.get("disk_full") else None
        killed = bool(result.get("oom_killed"))
        fail(unit, record, self.log(number), *problem, oom_killed=killed, full=full or "")
        return FAILED

    def lose(self, sent: Sent, failure_class: str, evidence: str, *, give_up: str | None = None) -> str:
        """Record an attempt of which nothing came back; ``give_up`` is why it is not to be tried again."""
        self._goes_to(sent.host)
        record, log = self._record(sent, {}, {}), self.log(sent.attempt)
        fail(self.unit, record, log, failure_class, evidence, full="", give_up=give_up)
        return FAILED

    def outcome(self) -> dict[str, Any]:
        """The newest attempt record."""
        return attempts.last(self.unit.run, self.target)

    def leave(self) -> None:
        """Let go while the command goes on: the next controller finds it by what the lease says."""
        if self._lease is not None:
            self._lease.leave()
            self.release()

    def release(self) -> None:
        """Give the lease back."""
        if self._lease is not None:
            lease, self._lease = self._lease, None
            lease.release()

    def _goes_to(self, host: str) -> None:
        self.unit.scopes = [f"host:{host}", *self._declared]

    def _owner(self, sent: Sent) -> dict[str, Any]:
        return {
            **processes.me(),
            "target": self.target,
            "session": self.unit.session,
            "attempt": sent.attempt,
            "started": sent.started,
            "command_sha256": sent.digest,
            "node": sent.host,
            "remote": {"host": sent.host, "token": sent.token},
        }

    def _record(self, sent: Sent, result: Mapping[str, Any], most: Mapping[str, float]) -> dict[str, Any]:
        unit = self.unit
        record = new_record(unit, sent.attempt, sent.started)
        record.update(
            host=sent.host,
            pid=result.get("pid"),
            external_jobid=_job(sent),
            command_sha256=sent.digest,
            exit_code=result.get("exit_code"),
            signal=result.get("signal"),
            max_rss_mb=result.get("max_rss_mb"),
            cpu_s=result.get("cpu_s"),
            silence_s=float(result.get("silence_s") or 0.0),
            most=dict(most),
            **(result.get("progress") or {}),
        )
        if unit.stall.limit_s is not None:
            record.update(stall_s=round(unit.stall.limit_s, 3), stall_from=unit.stall.source)
        return record

    def _validate(self, number: int, staged: Iterable[str]) -> str | None:
        """What is wrong with the outputs that came back; None if nothing."""
        for path, validator in zip(staged, validators_of(self.unit), strict=True):
            problem = validators.check(validator, path) or self._validate_at_length(number, validator, path)
            if problem:
                return problem
        return None

    def _validate_at_length(self, number: int, validator: str, path: str) -> str | None:
        command = validators.command(validator, path, python=self.unit.python)
        if command is None:
            return None
        if not validator.startswith("command:"):
            return validators.wrong(validator, path)  # the libraries are loaded once for all units
        log = self.log(number)
        size = os.path.getsize(log)
        with open(log, "ab") as output, open(os.devnull, "rb") as nothing:
            done = subprocess.Popen(
                ["bash", "-c", "set -euo pipefail; " + command],
                stdin=nothing,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                code = done.wait(self.unit.wall_s)
            except subprocess.TimeoutExpired:
                os.killpg(done.pid, 9)
                done.wait()
                return f"the validation of {os.path.basename(path)} took longer than {self.unit.wall_s:g} s"
        return validators.rejection(validator, path, validators.last_line(log, size)) if code else None


def unpack(archive: str, places: Mapping[str, str]) -> None:
    """Put the files and directories of an archive where they belong: ``places`` by their names in it.

    What else is in it is ignored. Each appears whole or not at all.
    """
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        for name, place in places.items():
            wanted = [one for one in members if one.name == name or one.name.startswith(name + "/")]
            if wanted:
                _unpack(tar, wanted, name, place)


def _unpack(tar: tarfile.TarFile, members: list[tarfile.TarInfo], name: str, place: str) -> None:
    parent, last = os.path.split(place)
    os.makedirs(parent or ".", exist_ok=True)
    folder = os.path.join(parent, f".{last}.unpacked")  # only within a file system is a renaming all at once
    shutil.rmtree(folder, ignore_errors=True)
    try:
        tar.extractall(folder, members, filter="data")
        if os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place)
        os.replace(os.path.join(folder, name), place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _relative(path: str) -> str:
    return os.path.relpath(path)


def _job(sent: Sent) -> str:
    return f"{sent.host}:{sent.token}"


def _sent(owner: Mapping[str, Any]) -> Sent | None:
    remote = owner["remote"]
    host, token = remote.get("host"), remote.get("token")
    if not isinstance(host, str) or not isinstance(token, str):
        return None
    return Sent(host, token, owner["attempt"], str(owner.get("started")), str(owner.get("command_sha256")))
