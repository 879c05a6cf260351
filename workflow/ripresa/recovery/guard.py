"""The guard: one process around a unit's command that leases, watches, classifies, publishes, records.

Started by the shell text that `ripresa.dsl.guard` makes; it must be quick, so this path imports the
standard library only and what a failure needs is imported when there is one. Its steps are those of
docs/recovery.md: take or adopt, check that the unit may run, execute, settle.
"""

from __future__ import annotations

import os
import sys
import time

from ripresa.journal import clock, leases, processes, publish, records
from ripresa.journal.events import emit
from ripresa.journal.paths import Run
from ripresa.recovery import breaker, execution, signals, validators
from ripresa.recovery.progress import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DONE, GAVE_UP, NOT_NOW = 0, 1, 75
STALL_S = 1800.0
GRACE_S = 10.0
_POLL_S = 0.2
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_")


class Task:
    """What the guard was asked to do.

    ``names`` are output names (``output.NAME``) and their positions, ``inputs`` the input files as one
    shell-quoted line, ``command`` the shell text with a placeholder where an output is meant, ``log``
    the rule's own ``log:`` file (empty without one), which shows the newest attempt.
    """

    def __init__(
        self,
        run: Run,
        target: str,
        rule: str,
        outputs: list[str],
        *,
        names: dict[str, int],
        inputs: str,
        command: str,
        scopes: list[str],
        resources: dict[str, str],
        log: str,
        options: dict[str, Any],
    ) -> None:
        self.run = run
        self.target = target
        self.rule = rule
        self.outputs = outputs
        self.names = names
        self.inputs = inputs
        self.command = command
        self.scopes = scopes
        self.resources = resources
        self.log = log
        self.options = options
        self.session = os.environ.get("RIPRESA_SESSION", "none")
        self.digest = publish.sha256(command.encode("utf-8", "surrogateescape")).hexdigest()


def main(arguments: list[str]) -> int:
    """Run one unit to its outcome; exits 0 only when its target is published."""
    execution.listen()
    try:
        task = _parse(arguments, sys.stdin.read())
    except ValueError as error:
        return _say(f"guard: {error}", GAVE_UP)
    try:
        return _run(task)
    except OSError as error:
        # The journal itself cannot be written (full disk, lost mount). Without a record nothing keeps
        # Snakemake from offering the unit at once again, so the guard waits here.
        _say(f"{task.target}: cannot write the journal: {error}; free space or repair {task.run.dir}")
        execution.pause(30.0 * _time_scale(task.run))
        return GAVE_UP


def _parse(arguments: list[str], text: str) -> Task:
    options: dict[str, list[str]] = {"--scope": [], "--resource": [], "--name": []}
    words = iter(arguments)
    plain: list[str] = []
    log = ""
    for word in words:
        if word.startswith("--log="):
            log = word.removeprefix("--log=")
        elif word == "--":
            plain += words
        elif word in options:
            options[word].append(next(words, ""))
        else:
            plain.append(word)
    if len(plain) < 3:
        raise ValueError(
            "usage: guard RULE DIGEST [--scope KIND=NAME] [--name NAME=PATH] OUTPUT... < COMMAND"
        )
    rule, digest, *outputs = plain
    directory = os.environ.get("RIPRESA_RUN")
    if not directory:
        raise ValueError("RIPRESA_RUN is not set; start units through snakemake, which names the run")
    run = Run(directory)
    target = run.target_of(outputs[0])
    if target is None:
        raise ValueError(f"output {outputs[0]} of rule {rule} lies outside the run {run.dir}; put it inside")
    inputs, _, command = text.partition("\n")
    names = dict(item.split("=", 1) for item in options["--name"])
    return Task(
        run,
        target,
        rule,
        outputs,
        names={name: outputs.index(path) for name, path in names.items() if path in outputs},
        inputs=inputs,
        command=command.rstrip("\n"),
        scopes=[f"host:{os.uname().nodename}"]
        + [f"{kind}:{name}" for kind, _, name in (s.partition("=") for s in options["--scope"])],
        resources=dict(item.split("=", 1) for item in options["--resource"]),
        log=log,
        options=records.read_json(run.guard(digest)) or {},
    )


def _run(task: Task) -> int:
    vigil = None
    while True:
        lease = leases.acquire(task.run, task.target)
        if lease is None:
            if vigil is None:
                _say(f"{task.target}: a live attempt holds it; waiting for its outcome")
                vigil = _Vigil(task)
            if not vigil.wait():
                return _say(f"{task.target}: stopped while waiting for a live attempt", GAVE_UP)
            continue
        try:
            lease.write({**processes.me(), "target": task.target, "session": task.session})
            return _with_lease(task, lease, vigil is not None)
        finally:
            lease.release()


class _Vigil:
    """Waits for the live attempt of a unit, and ends one that nobody can publish or wants."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.path = task.run.lease(task.target)
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
        unwanted = holder.get("command_sha256") not in (None, self.task.digest)
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


def _with_lease(task: Task, lease: leases.Lease, waited: bool) -> int:
    run, target = task.run, task.target
    path = run.attempts(target)
    _close_interrupted(task, lease)
    last = records.last(path) or {}
    if _finished(task, last, waited):
        return _adopt(task, last)
    refusal = _refusal(task, last)
    if refusal is not None:
        _say(f"{target}: {refusal}")
        return GAVE_UP
    if waited and last.get("decision") == "retry" and last.get("session") != task.session:
        # The adopted attempt failed; whether and when to go on is the scheduler's to decide.
        return _say(f"{target}: the adopted attempt {last.get('attempt')} failed", GAVE_UP)
    if not _may_start(task, last):
        return NOT_NOW
    return _attempt(task, lease, int(last.get("attempt") or 0) + 1)


def _close_interrupted(task: Task, lease: leases.Lease) -> None:
    """Record the end of an attempt whose guard was killed, and clear what it left."""
    previous = lease.previous
    if not previous:
        return
    _end_orphans(lease.path, previous)
    number = previous.get("attempt")
    last = records.last(task.run.attempts(task.target)) or {}
    if not isinstance(number, int) or number <= int(last.get("attempt") or 0):
        return
    publish.discard(task.run, task.target)
    record = _record(task, number, previous.get("started"))
    record.update(
        outcome="interrupted",
        host=previous.get("host"),
        pid=previous.get("pid"),
        session=previous.get("session"),
        evidence="the guard of this attempt ended without a word (killed, or the machine went down)",
        decision="retry",
    )
    records.append(task.run.attempts(task.target), record)
    emit(task.run, "unit_end", target=task.target, attempt=number, outcome="interrupted")


def _finished(task: Task, last: dict[str, Any], waited: bool) -> bool:
    """Whether the newest attempt already published what is asked for, though Snakemake does not know."""
    if last.get("outcome") not in ("published", "adopted") or last.get("command_sha256") != task.digest:
        return False
    if os.environ.get("RIPRESA_FORCED") and not waited and last.get("session") != task.session:
        return False
    number = int(last.get("attempt") or 0)
    staged = publish.staged_paths(task.run, task.target, number, task.outputs)
    there = all(os.path.lexists(s) or os.path.lexists(o) for s, o in zip(staged, task.outputs, strict=True))
    return there and not _newer(task, clock.seconds(last.get("started")))


def _newer(task: Task, since: float) -> bool:
    """Whether an input, or a file that the command names, changed after a moment."""
    import shlex

    try:
        words = set(shlex.split(task.inputs)) | set(shlex.split(task.command, comments=True))
    except ValueError:
        words = set(task.inputs.split()) | set(task.command.split())
    for word in words:
        try:
            if os.stat(word).st_mtime > since:
                return True
        except (OSError, ValueError):
            continue
    return False


def _adopt(task: Task, last: dict[str, Any]) -> int:
    """Make the published outputs of an attempt appear (again) instead of executing the unit anew."""
    number = int(last["attempt"])
    staged = publish.staged_paths(task.run, task.target, number, task.outputs)
    publish.appear(staged, task.outputs)
    if publish.checksum(task.outputs[0]) != last.get("output_sha256"):
        os.unlink(task.outputs[0])
        publish.discard(task.run, task.target)
        return _say(
            f"{task.target}: the output of attempt {number} was damaged after it was published", GAVE_UP
        )
    for output in task.outputs:
        os.utime(output)
    record = {**last, "outcome": "adopted", "session": task.session, "adopted": clock.iso()}
    records.append(task.run.attempts(task.target), record)
    emit(task.run, "unit_end", target=task.target, attempt=number, outcome="adopted")
    return DONE


def _refusal(task: Task, last: dict[str, Any]) -> str | None:
    """Why the policy has stopped this unit, or None if it may run."""
    decision, failure_class = last.get("decision"), last.get("failure_class")
    if decision == "refused" and last.get("session") == task.session:
        return f"given up for this run after attempt {last.get('attempt')} ({failure_class})"
    same = last.get("command_sha256") == task.digest
    if decision == "quarantine" and same and not _newer(task, clock.seconds(last.get("ended"))):
        return (
            f"in quarantine since attempt {last.get('attempt')} ({failure_class}): {last.get('evidence')}; "
            f"correct the cause, then `ripresa release {task.target}`"
        )
    return None


def _may_start(task: Task, last: dict[str, Any]) -> bool:
    """Pass the backoff and the breakers. The recovery scheduler withholds units until then, so a unit
    that arrives early is sent back to it; under any other scheduler the guard itself waits."""
    scheduled = os.environ.get("RIPRESA_SCHEDULER") == "recovery"
    while True:
        now = time.time()
        wait = 0.0
        if last.get("decision") == "retry":
            wait = clock.seconds(last.get("not_before")) - now
        if wait <= 0 and _claim(task, now):
            return True
        if scheduled:
            _say(f"{task.target}: not yet, {'in backoff' if wait > 0 else 'a breaker is open'}")
            return False
        if execution.pause(wait if wait > 0 else 1.0):
            return False


def _claim(task: Task, now: float) -> bool:
    if not os.path.exists(task.run.breakers):
        return True
    from ripresa.recovery import policy

    settings = policy.breaker_settings(policy.load(task.run))
    allowed, half_open = breaker.update(
        task.run, lambda table: breaker.claim(table, task.scopes, now, settings)
    )
    for scope in half_open:
        emit(task.run, "breaker_half_open", scope=scope)
    return bool(allowed)


def _attempt(task: Task, lease: leases.Lease, number: int) -> int:
    run, target = task.run, task.target
    began = time.time()
    log = run.log(target, number)
    _open_log(task, log)
    staged = publish.stage(run, target, number, task.outputs)
    progress_file = run.staged(target, number) + "/.progress"
    owner = {
        **processes.me(),
        "target": target,
        "session": task.session,
        "attempt": number,
        "started": clock.iso(began),
        "command_sha256": task.digest,
    }
    # Named before the command starts: a guard killed in between must not hide the attempt.
    lease.write(owner)
    emit(
        run, "unit_start", target=target, rule=task.rule, attempt=number, pid=owner["pid"], host=owner["host"]
    )
    oom_before = _oom_kills()
    job = execution.Execution(
        _fill(task.command, task, staged),
        log,
        _environment(task, number, progress_file),
        lease.fd,
        lease.path,
    )
    lease.write({**owner, "group": job.pid, "group_started": processes.started(job.pid)})
    progress = Progress(task.options.get("progress"), log, progress_file)
    job.watch(
        beat=lambda: _beat(task, lease, progress, number),
        beat_s=float(task.options.get("beat", leases.HEARTBEAT_S)),
        wall_s=_wall(task),
        stall_s=_stall(task),
        grace_s=_grace(task),
        progress=progress,
    )
    record = _record(task, number, clock.iso(began))
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
        problem = _validate(task, staged, log)
        if problem is None:
            return _publish(task, record, staged, job.started)
        invalid = True
    failure_class = job.stopped or ("output_invalid" if invalid else None)
    return _fail(task, record, log, failure_class, problem, _oom_kills() > oom_before, job.started)


def _publish(task: Task, record: dict[str, Any], staged: list[str], began: float) -> int:
    run, target = task.run, task.target
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
            for o, s in zip(task.outputs[1:], staged[1:], strict=True)
        }
    records.append(run.attempts(target), record)
    publish.appear(staged, task.outputs)
    if os.path.exists(run.breakers):
        closed = breaker.update(run, lambda table: [s for s in task.scopes if breaker.succeed(table, s)])
        for scope in closed:
            emit(run, "breaker_closed", scope=scope)
    _unit_end(task, record, began)
    return DONE


def _fail(
    task: Task,
    record: dict[str, Any],
    log: str,
    failure_class: str | None,
    problem: str | None,
    oom_killed: bool,
    began: float,
) -> int:
    from ripresa.recovery import failure

    run, target = task.run, task.target
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
        _say(f"{target}: {record['evidence']}; check journal/recovery.json of the run")
    records.append(run.attempts(target), record)
    _unit_end(task, record, began)
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
    _say(
        f"{target}: attempt {record['attempt']} failed ({record['failure_class']}): {record['evidence']}; "
        f"{then.get(record['decision'], record['decision'])}; log: {log}"
    )
    return GAVE_UP


def _record(task: Task, number: int, started: Any) -> dict[str, Any]:
    """An attempt record with all fields of contract C4."""
    return {
        "attempt": number,
        "target": task.target,
        "rule": task.rule,
        "run_id": task.run.run_id,
        "outcome": None,
        "failure_class": None,
        "evidence": None,
        "classifier_rule": None,
        "exit_code": None,
        "signal": None,
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "external_jobid": os.environ.get("SLURM_JOB_ID"),
        "device": task.resources.get("gpu_device"),
        "started": started,
        "ended": clock.iso(),
        "max_rss_mb": None,
        "cpu_s": None,
        "resources": task.resources,
        "decision": None,
        "not_before": None,
        "log": task.run.log(task.target, number),
        "output_sha256": None,
        "session": task.session,
        "command_sha256": task.digest,
        "scopes": task.scopes,
    }


def _unit_end(task: Task, record: dict[str, Any], began: float) -> None:
    emit(
        task.run,
        "unit_end",
        target=task.target,
        rule=task.rule,
        attempt=record["attempt"],
        outcome=record["outcome"],
        failure_class=record["failure_class"],
        evidence=record["evidence"],
        decision=record["decision"],
        seconds=round(time.monotonic() - began, 3),
    )


def _validate(task: Task, staged: list[str], log: str) -> str | None:
    wanted = task.options.get("validate") or {}
    if isinstance(wanted, str):
        wanted = {"0": wanted}
    for name, position in task.names.items():
        if name in wanted:
            wanted = {**wanted, str(position): wanted[name]}
    for position, path in enumerate(staged):
        problem = validators.check(wanted.get(str(position), ""), path, python=_python(), log=log)
        if problem:
            return problem
    return None


def _beat(task: Task, lease: leases.Lease, progress: Progress, number: int) -> None:
    lease.beat()
    if progress.changed and progress.value is not None:
        emit(task.run, "unit_progress", target=task.target, attempt=number, value=progress.value)


def _open_log(task: Task, log: str) -> None:
    """Start the attempt's log and give it the name of the rule's ``log:`` too, where Snakemake looks."""
    os.makedirs(os.path.dirname(log), exist_ok=True)
    os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644))
    seen = task.log
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


def _fill(command: str, task: Task, staged: list[str]) -> str:
    """Put the staged paths where the command means its outputs."""
    names = {"": " ".join(map(_quote, staged))}
    names.update({f"[{number}]": _quote(path) for number, path in enumerate(staged)})
    names.update({f".{name}": _quote(staged[position]) for name, position in task.names.items()})
    for name, path in names.items():
        command = command.replace(f"__RIPRESA_OUTPUT{name}__", path)
    return command


def _quote(text: str) -> str:
    return text if set(text) <= _SAFE else "'" + text.replace("'", "'\"'\"'") + "'"


def _environment(task: Task, number: int, progress_file: str) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": os.path.dirname(_python()) + os.pathsep + os.environ.get("PATH", os.defpath),
        "RIPRESA_TARGET": task.target,
        "RIPRESA_ATTEMPT": str(number),
        "RIPRESA_PROGRESS": os.path.abspath(progress_file),
    }


def _python() -> str:
    return os.environ.get("RIPRESA_PYTHON") or sys.executable


def _wall(task: Task) -> float | None:
    """The wall-clock limit in s: what the rule declares, else Snakemake's ``runtime`` (minutes)."""
    if task.options.get("wall"):
        return float(task.options["wall"])
    runtime = task.resources.get("runtime", "")
    return 60.0 * float(runtime) if runtime.replace(".", "", 1).isdigit() else None


def _stall(task: Task) -> float | None:
    """The stall limit in s; a rule may declare 0 for none."""
    declared = task.options.get("stall")
    if declared is not None:
        return float(declared) or None
    return float(os.environ.get("RIPRESA_STALL_S", STALL_S))


def _grace(task: Task) -> float:
    declared = task.options.get("grace")
    return float(os.environ.get("RIPRESA_GRACE_S", GRACE_S) if declared is None else declared)


def _time_scale(run: Run) -> float:
    policy = records.read_json(run.recovery)
    return float(policy.get("time_scale", 1.0)) if isinstance(policy, dict) else 1.0


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


def _say(message: str, code: int = 0) -> int:
    print(f"ripresa: {message}", file=sys.stderr, flush=True)
    return code
