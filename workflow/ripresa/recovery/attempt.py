"""One attempt of a unit: execute its command, then publish what it made or record how it failed."""

from __future__ import annotations

import os
import time

from ripresa.journal import clock, leases, processes, publish, records
from ripresa.journal.events import emit
from ripresa.recovery import breaker, execution, validators
from ripresa.recovery.progress import Progress
from ripresa.recovery.unit import Unit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_")


def attempt(unit: Unit, lease: leases.Lease, number: int) -> bool:
    """Execute a unit under its lease; True when its target is published."""
    run, target = unit.run, unit.target
    began = time.time()
    log = run.log(target, number)
    _open_log(unit, log)
    staged = publish.stage(run, target, number, unit.outputs)
    progress_file = run.staged(target, number) + "/.progress"
    owner = {
        **processes.me(),
        "target": target,
        "session": unit.session,
        "attempt": number,
        "started": clock.iso(began),
        "command_sha256": unit.digest,
    }
    # Named before the command starts: a guard killed in between must not hide the attempt.
    lease.write(owner)
    emit(
        run, "unit_start", target=target, rule=unit.rule, attempt=number, pid=owner["pid"], host=owner["host"]
    )
    oom_before = _oom_kills()
    job = execution.Execution(
        _fill(unit.command, unit, staged),
        log,
        _environment(unit, number, progress_file),
        lease.fd,
        lease.path,
    )
    lease.write({**owner, "group": job.pid, "group_started": processes.started(job.pid)})
    progress = Progress(unit.options.get("progress"), log, progress_file)
    job.watch(
        beat=lambda: _beat(unit, lease, progress, number),
        beat_s=float(unit.options.get("beat", leases.HEARTBEAT_S)),
        wall_s=unit.wall_s,
        stall_s=unit.stall_s,
        grace_s=unit.grace_s,
        progress=progress,
    )
    record = new_record(unit, number, clock.iso(began))
    record.update(
        exit_code=job.exit_code,
        signal=job.signal,
        max_rss_mb=round(job.max_rss_mb, 1),
        cpu_s=round(job.cpu_s, 3),
    )
    if progress.value is not None:
        record["progress"] = progress.value
    problem = job.evidence
    invalid = False
    if job.stopped is None and job.exit_code == 0:
        if os.path.lexists(progress_file):
            os.unlink(progress_file)
        problem = _validate(unit, staged, log)
        if problem is None:
            return _publish(unit, record, staged, job.started)
        invalid = True
    failure_class = job.stopped or ("output_invalid" if invalid else None)
    return _fail(unit, record, log, failure_class, problem, _oom_kills() > oom_before, job.started)


def _publish(unit: Unit, record: dict[str, Any], staged: list[str], began: float) -> bool:
    run, target = unit.run, unit.target
    publish.flush(staged)
    ended = time.time()
    record.update(
        outcome="published",
        decision="done",
        ended=clock.iso(ended),
        output_sha256=publish.checksum(staged[0]),
    )
    if len(staged) > 1:
        record["outputs"] = {
            str(run.target_of(o)): publish.checksum(s)
            for o, s in zip(unit.outputs[1:], staged[1:], strict=True)
        }
    records.append(run.attempts(target), record)
    publish.appear(staged, unit.outputs)
    if os.path.exists(run.breakers):
        closed = breaker.update(run, lambda table: [s for s in unit.scopes if breaker.succeed(table, s)])
        for scope in closed:
            emit(run, "breaker_closed", scope=scope)
    _unit_end(unit, record, began)
    return True


def _fail(
    unit: Unit,
    record: dict[str, Any],
    log: str,
    failure_class: str | None,
    problem: str | None,
    oom_killed: bool,
    began: float,
) -> bool:
    from ripresa.recovery import failure

    run, target = unit.run, unit.target
    publish.discard(run, target)
    record["ended"] = clock.iso()
    history = records.read(run.attempts(target))
    try:
        failure.settle(
            run,
            record,
            history,
            log=log,
            failure_class=failure_class,
            evidence=problem,
            oom_killed=oom_killed,
        )
    except Exception as error:  # a mistake in judging must not cost the record of what happened
        record.update(
            outcome="failed",
            failure_class=failure_class or "unknown",
            evidence=problem or f"the failure could not be judged: {type(error).__name__}: {error}",
            decision="refused",
        )
        unit.say(f"{record['evidence']}; check journal/recovery.json of the run")
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
    then = {"retry": f"retry {'after ' + record['not_before'] if record['not_before'] else 'at once'}"}
    unit.say(
        f"attempt {record['attempt']} failed ({record['failure_class']}): {record['evidence']}; "
        f"{then.get(record['decision'], record['decision'])}; log: {log}"
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
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "external_jobid": os.environ.get("SLURM_JOB_ID"),
        "device": unit.resources.get("gpu_device"),
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
    }


def _unit_end(unit: Unit, record: dict[str, Any], began: float) -> None:
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
        seconds=round(time.monotonic() - began, 3),
    )


def _validate(unit: Unit, staged: list[str], log: str) -> str | None:
    wanted = unit.options.get("validate") or {}
    if isinstance(wanted, str):
        wanted = {"0": wanted}
    for name, position in unit.names.items():
        if name in wanted:
            wanted = {**wanted, str(position): wanted[name]}
    for position, path in enumerate(staged):
        problem = validators.check(wanted.get(str(position), ""), path, python=unit.python, log=log)
        if problem:
            return problem
    return None


def _beat(unit: Unit, lease: leases.Lease, progress: Progress, number: int) -> None:
    lease.beat()
    if progress.changed and progress.value is not None:
        emit(unit.run, "unit_progress", target=unit.target, attempt=number, value=progress.value)


def _open_log(unit: Unit, log: str) -> None:
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


def _fill(command: str, unit: Unit, staged: list[str]) -> str:
    """Put the staged paths where the command means its outputs."""
    names = {"": " ".join(map(_quote, staged))}
    names.update({f"[{number}]": _quote(path) for number, path in enumerate(staged)})
    names.update({f".{name}": _quote(staged[position]) for name, position in unit.names.items()})
    for name, path in names.items():
        command = command.replace(f"__RIPRESA_OUTPUT{name}__", path)
    return command


def _quote(text: str) -> str:
    return text if set(text) <= _SAFE else "'" + text.replace("'", "'\"'\"'") + "'"


def _environment(unit: Unit, number: int, progress_file: str) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": os.path.dirname(unit.python) + os.pathsep + os.environ.get("PATH", os.defpath),
        "RIPRESA_TARGET": unit.target,
        "RIPRESA_ATTEMPT": str(number),
        "RIPRESA_PROGRESS": os.path.abspath(progress_file),
    }


def _oom_kills() -> int:
    """Out-of-memory kills that the kernel counts in this control group (versions 1 and 2)."""
    try:
        with open("/proc/self/cgroup") as file:
            groups = dict(line.rstrip("\n").split(":", 2)[1:] for line in file)
    except (OSError, ValueError):
        return 0
    for path in (
        f"/sys/fs/cgroup{groups.get('', '/')}/memory.events",
        f"/sys/fs/cgroup/memory{groups.get('memory', '/')}/memory.oom_control",
    ):
        try:
            with open(path) as file:
                for line in file:
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        except (OSError, ValueError):
            continue
    return 0
