"""One attempt of a unit: execute its command, then publish what it made or record how it failed."""

from __future__ import annotations

import os
import time

from ripresa.journal import attempts, clock, leases, processes, publish, records
from ripresa.journal.events import emit
from ripresa.recovery import circumstances, validators
from ripresa.recovery.execution import Execution
from ripresa.recovery.progress import Progress
from ripresa.recovery.stall import Stall
from ripresa.recovery.unit import Unit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ripresa.journal.devices import DeviceLease


class _Attempt:
    """What belongs to one attempt of a unit."""

    def __init__(self, unit: Unit, lease: leases.Lease, number: int, devices: list[DeviceLease]) -> None:
        self.unit = unit
        self.lease = lease
        self.devices = devices
        self.number = number
        self.began = time.time()
        self.log = unit.run.log(unit.target, number)
        self.staged = publish.staged_paths(unit.run, unit.target, number, unit.outputs)
        self.progress_file = unit.run.progress(unit.target, number)
        self.environment = {
            **os.environ,
            "PATH": os.path.dirname(unit.python) + os.pathsep + os.environ.get("PATH", os.defpath),
            "RIPRESA_TARGET": unit.target,
            "RIPRESA_ATTEMPT": str(number),
            "RIPRESA_PROGRESS": os.path.abspath(self.progress_file),
            "RIPRESA_LOG": os.path.abspath(self.log),
        }
        self.device = unit.resources.get("gpu_device")
        if self.device:
            from ripresa.journal.devices import environment

            self.environment.update(environment(self.device))

    def execute(self, command: str, progress: Progress, stall: Stall) -> Execution:
        """Run a command to its end. Its processes are named in the lease before they can be orphans."""
        lifeline = processes.Lifeline()
        owner = {
            **processes.me(),
            "target": self.unit.target,
            "session": self.unit.session,
            "attempt": self.number,
            "started": clock.iso(self.began),
            "command_sha256": self.unit.digest,
            "lifeline": lifeline.name,
            **_batch_job(),
        }
        if (node := processes.node()) != owner["host"]:
            owner["node"] = node
        if self.device:
            owner["device"] = self.device
        self.lease.write(owner)
        held = [self.lease.fd, *(device.fd for device in self.devices)]
        job = Execution(command, self.log, self.environment, held, lifeline)
        try:
            self.lease.write({**owner, "group": job.pid, "group_started": processes.started(job.pid)})
            job.watch(
                beat=lambda: self._beat(progress),
                beat_s=self.unit.beat_s,
                wall_s=self.unit.wall_s,
                stall=stall,
                grace_s=self.unit.grace_s,
                progress=progress,
            )
        except BaseException:
            job.abandon()
            raise
        return job

    def _beat(self, progress: Progress) -> None:
        try:
            self.lease.beat()
            for device in self.devices:
                device.beat()
        except OSError:
            return  # a beat more or less is no reason to end what runs
        if progress.changed and progress.value is not None:
            emit(
                self.unit.run,
                "unit_progress",
                target=self.unit.target,
                attempt=self.number,
                value=progress.value,
                total=progress.total,
            )

    def validate(self) -> tuple[str, str] | None:
        """Validate the staged outputs; returns the failure class and what is wrong, or None."""
        for path, validator in zip(self.staged, validators_of(self.unit), strict=True):
            problem = validators.check(validator, path)
            if problem:
                return "output_invalid", problem
            command = validators.command(validator, path, python=self.unit.python)
            if command:
                size = os.path.getsize(self.log)
                progress = Progress(None, self.log, self.progress_file, self.unit.beat_s)
                # What the rule's own command taught says nothing about its validators.
                stall = Stall(self.unit.stall.most_s, self.unit.stall.source)
                job = self.execute(command, progress, stall)
                if job.stopped:
                    return job.stopped, f"{job.evidence} while validating {os.path.basename(path)}"
                if job.exit_code != 0:
                    said = validators.last_line(self.log, size)
                    return "output_invalid", validators.rejection(validator, path, said)
        return None


def validators_of(unit: Unit) -> list[str]:
    """The validator of each output, in their order; empty text for what only has to be there."""
    wanted = unit.options.get("validate") or {}
    if isinstance(wanted, str):
        wanted = {"0": wanted}
    for name, position in unit.names.items():
        if name in wanted:
            wanted = {**wanted, str(position): wanted[name]}
    return [str(wanted.get(str(position), "")) for position in range(len(unit.outputs))]


def attempt(unit: Unit, lease: leases.Lease, number: int, devices: list[DeviceLease]) -> bool:
    """Execute a unit under its lease and those of its devices; True when its target is published."""
    this = _Attempt(unit, lease, number, devices)
    open_log(unit, this.log)
    publish.stage(unit.run, unit.target, number, unit.outputs)
    emit(
        unit.run,
        "unit_start",
        target=unit.target,
        rule=unit.rule,
        attempt=number,
        pid=os.getpid(),
        host=processes.node(),
    )
    began = time.monotonic()
    oom_before = circumstances.oom_kills()
    progress = Progress(unit.options.get("progress"), this.log, this.progress_file, unit.beat_s)
    job = this.execute(fill(unit.command, unit, this.staged), progress, unit.stall)
    progress.conclude()
    record = new_record(unit, number, clock.iso(this.began))
    record.update(
        exit_code=job.exit_code,
        signal=job.signal,
        max_rss_mb=round(job.max_rss_mb, 1),
        cpu_s=round(job.cpu_s, 3),
        silence_s=round(progress.silence_s, 3),
    )
    if unit.stall.limit_s is not None:
        record.update(stall_s=round(unit.stall.limit_s, 3), stall_from=unit.stall.source)
    record.update(progress.fields)
    failure_class, problem = job.stopped, job.evidence
    if job.stopped is None and job.exit_code == 0:
        if os.path.lexists(this.progress_file):
            os.unlink(this.progress_file)
        invalid = this.validate()
        if invalid is None:
            return commit(unit, record, this.staged, began)
        failure_class, problem = invalid
    oom_killed = circumstances.oom_kills() > oom_before
    return fail(unit, record, this.log, failure_class, problem, oom_killed=oom_killed, began=began)


def commit(unit: Unit, record: dict[str, Any], staged: list[str], began: float) -> bool:
    """Publish valid staged outputs: the record first, which is what counts; True."""
    run, target = unit.run, unit.target
    publish.commit(run, record, staged, unit.outputs)
    unit.stall.published(record["silence_s"])
    if record["attempt"] > 1 and len(unit.resources) > 1:
        from ripresa.recovery import escalation

        escalation.learn(run, record, attempts.read(run, target)[:-1])
    _close_breakers(unit)
    _unit_end(unit, record, began)
    return True


def _close_breakers(unit: Unit) -> None:
    if records.is_void(unit.run.breakers):
        return
    from ripresa.recovery import breaker

    try:
        if breaker.minds(breaker.read(unit.run), unit.scopes):
            breaker.update(
                unit.run,
                lambda book: breaker.succeed(book, unit.scopes),
                lambda event: emit(unit.run, **event),
            )
    except OSError as error:
        unit.say(f"published, but its breakers stay as they were: {error}")


def fail(
    unit: Unit,
    record: dict[str, Any],
    log: str,
    failure_class: str | None,
    problem: str | None,
    *,
    oom_killed: bool = False,
    full: str | None = None,
    give_up: str | None = None,
    began: float | None = None,
) -> bool:
    """Classify a failed attempt, decide what follows, record it; False.

    ``failure_class`` and ``problem`` are given where the cause is known, ``full`` names a file system without
    space where the command ran (here, that of the run is looked at), ``give_up`` is why the unit goes into
    quarantine whatever the policy says, ``began`` is by the monotonic clock.
    """
    from ripresa.recovery import failure

    run, target = unit.run, unit.target
    if full is None and circumstances.is_full(run.dir):
        full = f"the file system of {run.dir}"
    publish.discard(run, target)
    record["ended"] = clock.iso()
    history = attempts.read(run, target)
    try:
        failure.settle(
            run,
            record,
            history,
            log=log,
            failure_class=failure_class,
            evidence=problem,
            oom_killed=oom_killed,
            full=full,
            give_up=give_up,
        )
    except Exception as error:  # a mistake in judging must not cost the record of what happened
        record.update(
            outcome="failed",
            failure_class=failure_class or "unknown",
            evidence=problem or f"the failure could not be judged: {type(error).__name__}: {error}",
            decision="refused",
        )
        unit.say(f"{record['evidence']}; check journal/recovery.json of the run")
    if record["decision"] == "quarantine":
        from ripresa.recovery import blame

        try:
            record["blamed"] = blame.blamed(unit, record, history, failure.read_log(log))
        except Exception as error:  # nor must one in looking round
            unit.say(f"only `ripresa release` will end its quarantine: {type(error).__name__}: {error}")
    records.append(run.attempts(target), record)
    _unit_end(unit, record, began)
    if record["decision"] == "retry":
        emit(
            run,
            "unit_retry_scheduled",
            target=target,
            attempt=record["attempt"],
            not_before=record["not_before"],
            failure_class=record["failure_class"],
            evidence=record["evidence"],
            decision="retry",
        )
    # The journal logger tells it from the events just written.
    if not os.environ.get("RIPRESA_LOGGER"):
        again = f"retry {'after ' + record['not_before'] if record['not_before'] else 'at once'}"
        unit.say(
            f"attempt {record['attempt']} failed ({record['failure_class']}): {record['evidence']}; "
            f"{again if record['decision'] == 'retry' else record['decision']}; log: {log}"
        )
    return False


def new_record(unit: Unit, number: int, started: Any) -> dict[str, Any]:
    """An attempt record with all fields of contract C4."""
    return {
        "attempt": number,
        "target": unit.target,
        "rule": unit.rule,
        "run_id": unit.run.run_id,
        "outcome": None,
        "failure_class": None,
        "evidence": None,
        "classifier_rule": None,
        "exit_code": None,
        "signal": None,
        "host": processes.node(),
        "pid": os.getpid(),
        "external_jobid": None,
        "device": unit.resources.get("gpu_device") or None,
        "started": started,
        "ended": clock.iso(),
        "max_rss_mb": None,
        "cpu_s": None,
        "resources": unit.resources,
        "decision": None,
        "not_before": None,
        "log": unit.run.log(unit.target, number),
        "output_sha256": None,
        "session": unit.session,
        "command_sha256": unit.digest,
        "scopes": unit.scopes,
        **_batch_job(),
    }


def _batch_job() -> dict[str, Any]:
    """The job of a batch system in which this runs, as its commands take it (``123``, ``123_7``).

    ``requeues`` says how often it was started again under that name before, ``most`` how much it could have
    asked for.
    """
    job, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
    if job is None:
        return {}
    again, most = os.environ.get("SLURM_RESTART_COUNT", ""), os.environ.get("RIPRESA_MOST")
    amounts = {name: float(value) for name, _, value in (one.partition("=") for one in (most or "").split())}
    return {
        "external_jobid": f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else job,
        **({"requeues": int(again)} if again.isdigit() and again != "0" else {}),
        **({"most": amounts} if most is not None else {}),
    }


def _unit_end(unit: Unit, record: dict[str, Any], began: float | None) -> None:
    emit(
        unit.run,
        "unit_end",
        target=unit.target,
        rule=unit.rule,
        attempt=record["attempt"],
        outcome=record["outcome"],
        failure_class=record["failure_class"],
        evidence=record["evidence"],
        decision=record["decision"],
        seconds=None if began is None else round(time.monotonic() - began, 3),
    )


def open_log(unit: Unit, log: str) -> None:
    """Start the attempt's log and give it the name of the rule's ``log:`` too, where Snakemake looks."""
    os.makedirs(os.path.dirname(log), exist_ok=True)
    os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644))
    seen = unit.log
    for _ in range(2 if seen else 0):
        try:
            os.link(log, seen)
            return
        except FileExistsError:
            os.unlink(seen)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(seen), exist_ok=True)
        except OSError:
            return


def fill(command: str, unit: Unit, staged: list[str]) -> str:
    """Put the staged paths where the command means its outputs, and amounts where it means its resources."""
    names = {"": " ".join(map(validators.quote, staged))}
    names.update({f"[{number}]": validators.quote(path) for number, path in enumerate(staged)})
    names.update({f".{name}": validators.quote(staged[position]) for name, position in unit.names.items()})
    for name, path in names.items():
        command = command.replace(f"__RIPRESA_OUTPUT{name}__", path)
    for name, amount in unit.resources.items():
        command = command.replace(f"__RIPRESA_RESOURCE.{name}__", validators.quote(amount))
    return command
