"""The supervisor of a unit: a process that watches the command to its end and tells what came of it.

It is forked by the call that starts the unit, so that nothing has to be loaded again, and has neither that
call's session nor anything of its connection.
"""

from __future__ import annotations

import os
import time

from ripresa.hosts.agent import errors, folders, packing
from ripresa.hosts.agent import result as results
from ripresa.hosts.agent.errors import Refused
from ripresa.hosts.agent.measuring import Measured
from ripresa.hosts.agent.units import IDENTITY, Unit
from ripresa.journal import clock, jsontext, leases, processes, records
from ripresa.recovery import circumstances, execution, signals
from ripresa.recovery.execution import Execution
from ripresa.recovery.stall import Stall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ripresa.hosts.agent.call import Here
    from ripresa.recovery.progress import Progress

_KILLED = {"error": "unknown", "evidence": "the supervisor was killed at once"}
_MEASURE_S = 1.0
_NOT_STARTED = 126
"""The exit code of a command that could not be started, as shells have it."""


def launch(unit: Unit, operation: dict[str, Any], lease: leases.Lease, here: Here) -> None:
    """Fork the supervisor of a unit; returns once it is named in the lease, which it has inherited.

    Raises Refused for what it could not do.
    """
    ready, told = os.pipe()
    # A cancellation that comes before the supervisor listens waits until it does.
    before = signals.pthread_sigmask(signals.SIG_BLOCK, execution.STOP_SIGNALS)
    child = os.fork()
    if child == 0:
        try:
            _detach(lease.fd, told)
            _supervise(unit, operation, lease, here, told)
        finally:
            os._exit(0)
    signals.pthread_sigmask(signals.SIG_SETMASK, before)
    os.close(told)
    os.waitpid(child, 0)
    with open(ready, "rb") as file:
        said = file.read()
    if said != b"{}":
        answer = jsontext.loads(said.decode()) if said else _KILLED
        raise Refused(answer["error"], answer["evidence"])


def _detach(*kept: int) -> None:
    """Leave the session, the terminal and the connection of the call, and all it has open."""
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in range(3):
        os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                continue  # the listing itself


def _supervise(unit: Unit, operation: dict[str, Any], lease: leases.Lease, here: Here, told: int) -> None:
    """Run a unit to its result; what fails before its command runs is told to the call, which waits."""
    execution.listen()
    lifeline = processes.Lifeline()
    owner = {
        **processes.me(),
        **{name: operation[name] for name in IDENTITY},
        "started": clock.iso(),
        "lifeline": lifeline.name,
    }
    try:
        lease.write(owner)
        _tell(unit, {})
        unit.hold_bell()
    except OSError as error:
        os.write(told, records.encode(errors.answer(error)))
        return
    os.write(told, b"{}")
    os.close(told)
    watch = _Watch(unit, operation, lease, owner)
    try:
        known = watch.execute(lifeline, here)
    except Exception as error:  # whatever it is, the controller must hear of it
        known = errors.answer(error)
        known["disk_full"] = known["error"] == "disk"
    watch.known.update(known, log_size=results.size_of(unit.log))
    unit.conclude(results.new(operation, **watch.known))
    lease.release()


def _tell(unit: Unit, status: dict[str, Any]) -> None:
    """Say how far a unit is. Readers see the old or the new whole, but after a crash perhaps neither."""
    temporary = unit.status + ".tmp"
    with open(temporary, "wb") as file:
        file.write(records.encode(status))
    os.rename(temporary, unit.status)


class _Watch:
    """One execution of a unit's command, from its start to what is known of it."""

    def __init__(
        self, unit: Unit, operation: dict[str, Any], lease: leases.Lease, owner: dict[str, Any]
    ) -> None:
        self.unit = unit
        self.operation = operation
        self.lease = lease
        self.owner = owner
        self.directory = operation["directory"] or unit.work
        self.known: dict[str, Any] = {"started": owner["started"], "pid": owner["pid"]}
        """What the result will say."""
        self._told_at = 0.0

    def execute(self, lifeline: processes.Lifeline, here: Here) -> dict[str, Any]:
        """Run the command to its end and pack what it made; returns what else the result will say."""
        limits, measure = self.operation["limits"], self.operation["measure"]
        beat_s = min(limits["beat_s"], _MEASURE_S) if measure else limits["beat_s"]
        progress = results.progress_of(self.unit, self.operation["progress"], self.directory, beat_s)
        kills = circumstances.oom_kills()
        job = self._begin(lifeline, here)
        try:
            self.lease.write({**self.owner, "group": job.pid, "group_started": processes.started(job.pid)})
            job.watch(
                beat=lambda: self._beat(job, progress),
                beat_s=beat_s,
                wall_s=limits["wall_s"],
                stall=Stall(limits["stall_s"], limits["stall_source"]),
                grace_s=limits["grace_s"],
                progress=progress,
            )
        except BaseException:
            job.abandon()
            raise
        progress.conclude()
        places = (self.unit.folder, self.directory)
        self.known.update(
            ended=clock.iso(),
            seconds=round(time.monotonic() - job.started, 4),
            exit_code=job.exit_code,
            signal=job.signal,
            stopped=job.stopped,
            cpu_s=round(job.cpu_s, 3),
            max_rss_mb=round(job.max_rss_mb, 1),
            silence_s=round(progress.silence_s, 3),
            oom_killed=circumstances.oom_kills() > kills,
            disk_full=any(map(circumstances.is_full, places)),
            progress=progress.fields,
        )
        if isinstance(job, Measured):
            self.known["benchmark"] = job.benchmark
        for folder in (self.unit.scratch, self.unit.tmp):
            _clear(folder)
        return {"evidence": job.evidence, **self._pack(job)}

    def _begin(self, lifeline: processes.Lifeline, here: Here) -> Execution:
        kind = Measured if self.operation["measure"] else Execution
        umask = os.umask(here.umask)
        try:
            os.chdir(self.directory)
            return kind(
                self.operation["command"],
                self.unit.log,
                _environment(self.unit, self.operation, here),
                [self.lease.fd],
                lifeline,
            )
        except OSError as error:
            self.known["exit_code"] = _NOT_STARTED
            if error.filename == execution.SHELL and isinstance(error, FileNotFoundError):
                raise Refused("environment", f"this host has no {execution.SHELL}; install it") from None
            raise
        finally:
            os.chdir("/")
            os.umask(umask)

    def _beat(self, job: Execution, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._told_at + leases.HEARTBEAT_S and not progress.changed:
            return
        self._told_at = now
        try:
            self.lease.beat()
            _tell(self.unit, {"progress": progress.fields, "rss_mb": round(job.rss_mb, 1)})
        except OSError:
            return  # a beat more or less is no reason to end what runs

    def _pack(self, job: Execution) -> dict[str, Any]:
        """Pack what a unit made; if it failed, its log files alone."""
        wanted = list(self.operation["logs"])
        if job.exit_code == 0 and job.stopped is None:
            outputs = self.operation["outputs"]
            self.known["missing"] = packing.absent(self.directory, outputs)
            wanted += outputs
        if self.operation["directory"] is not None or not wanted:
            return {}
        try:
            return {"outputs_size": packing.pack(self.directory, wanted, self.unit.outputs)}
        except OSError as error:
            problem = errors.answer(error)
            if problem["error"] == "disk":
                self.known["disk_full"] = True
            return {**problem, "evidence": f"its outputs cannot be packed: {problem['evidence']}"}


def _clear(folder: str) -> None:
    try:
        folders.remove(folder)
    except OSError:
        return  # of another user, perhaps; who forgets the unit is told


def _environment(unit: Unit, operation: dict[str, Any], here: Here) -> dict[str, str]:
    """The variables of a command: the login's, the given ones over them, then ours.

    On a shared file system the controller's own Python and packages are there, and the bundle, which has
    less, must not stand in for them.
    """
    known = {name: value for name, value in here.environment.items() if not name.startswith("SSH_")}
    known.update(operation["environment"])
    python = f"{here.bundle}/bin/python"
    if operation["directory"] is None:
        known["PYTHONPATH"] = os.pathsep.join([here.bundle, *filter(None, [known.get("PYTHONPATH")])])
    else:
        python = known.get("RIPRESA_PYTHON", python)
    return {
        **known,
        "PATH": f"{os.path.dirname(python)}{os.pathsep}{known.get('PATH', os.defpath)}",
        "TMPDIR": unit.tmp,
        "RIPRESA_TARGET": operation["target"],
        "RIPRESA_ATTEMPT": str(operation["attempt"]),
        "RIPRESA_PROGRESS": unit.progress,
        "RIPRESA_LOG": unit.log,
        "RIPRESA_PYTHON": python,
        "RIPRESA_SCRATCH": unit.scratch,
    }
