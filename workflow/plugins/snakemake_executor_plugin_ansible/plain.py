"""A job without a guard, as any workflow has them: nothing is recorded of it but where it was sent.

Its lease is that of a run of its own, `.snakemake/ansible`, so that a job which goes on after its controller
was killed is found again, and never executed twice at a time.
"""

import os
import shlex
from collections.abc import Mapping
from typing import Any

from ripresa.hosts.work import Limits, Work
from ripresa.journal import clock, leases, processes
from ripresa.journal.paths import Run
from ripresa.journal.publish import sha256
from ripresa.recovery.dispatch import FAILED, HELD, PUBLISHED, Sent, unpack

BOOKS = ".snakemake/ansible"

Job = Any


class Plain:
    """A job, or the jobs of a group; ``command`` is what runs it where it needs Snakemake around it."""

    def __init__(self, job: Job, members: list[Job], command: str | None = None) -> None:
        self.job = job
        self.target = str(next(iter(job.output), f"job {job.jobid}"))
        self.digest = sha256((command or script_of(members)).encode("utf-8", "surrogateescape")).hexdigest()
        self._members = members
        self._command = command
        self._environment = threads_of(job)
        self._run = Run(BOOKS)
        self._lease: leases.Lease | None = None
        self._said = ""

    def take(self) -> Sent | str | None:
        """As `Dispatch.take`."""
        lease = leases.acquire(self._run, self.target)
        if lease is None:
            return HELD
        self._lease = lease
        known = (lease.previous or {}).get("remote")
        if isinstance(known, dict):
            try:
                sent = Sent(**known)
            except TypeError:
                return None
            try:
                lease.write(self._owner(sent))
            except OSError:
                self.leave()
                raise
            return sent
        return None

    def wait_s(self) -> float:
        """Seconds until it may start: Snakemake's own retries do not wait."""
        return 0.0

    def is_let_through(self, host: str) -> bool:
        """There are no breakers without a run."""
        return True

    def begin(self, host: str, token: str) -> Sent:
        """As `Dispatch.begin`."""
        assert self._lease is not None
        sent = Sent(host, token, self.job.attempt, clock.iso(), self.digest)
        for path in (self.log(sent.attempt), *self._products()):
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        os.close(os.open(self.log(sent.attempt), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644))
        self._lease.write(self._owner(sent))
        os.fsync(self._lease.fd)
        return sent

    def work(self, sent: Sent) -> Work:
        """What an attempt executes."""
        if self._command is not None:
            return Work(self._command, [], [], [], limits=self._limits())
        words = {word for one in self._members for word in _words(one.shellcmd)}
        products = self._products()
        return Work(
            command=script_of(self._members),
            inputs=[str(path) for path in self.job.input],
            mentioned=sorted(word for word in words if os.path.isfile(word) and word not in products),
            outputs=[path for path in products if path not in {*self._measured(), *self._logs()}],
            logs=self._logs(),
            environment=self._environment,
            limits=self._limits(),
            measure=bool(self._measured()),
        )

    def log(self, number: int) -> str:
        """As `Dispatch.log`."""
        return self._run.log(self.target, number)

    def progress(self, sent: Sent, fields: Mapping[str, Any]) -> None:
        """Nobody reads it."""

    def conclude(
        self, sent: Sent, result: Mapping[str, Any], outputs: str | None, most: Mapping[str, float]
    ) -> str:
        """Put the outputs in their places; where the job failed, its log files."""
        if outputs is not None:
            unpack(outputs, {path: path for path in self._products()})
        ended = result["outcome"] == "ended" and not (result.get("stopped") or result.get("error"))
        if not ended or result["exit_code"] != 0:
            how = result.get("evidence") or f"exit code {result.get('exit_code')}"
            self._said = f"host {sent.host}: {how}; its output is in {self.log(sent.attempt)}"
            return FAILED
        for path in self._measured():
            _write_benchmark(path, result)
        os.unlink(self.log(sent.attempt))
        return PUBLISHED

    def lose(self, sent: Sent, failure_class: str, evidence: str, *, give_up: str | None = None) -> str:
        """As `Dispatch.lose`."""
        self._said = f"{failure_class}: {give_up or evidence}"
        return FAILED

    def outcome(self) -> dict[str, Any]:
        """What there is to say about a failure."""
        return {"evidence": self._said}

    def beat(self) -> None:
        """As `Dispatch.beat`."""
        if self._lease is not None:
            self._lease.beat()

    def leave(self) -> None:
        """As `Dispatch.leave`."""
        if self._lease is not None:
            self._lease.leave()
            self.release()

    def release(self) -> None:
        """As `Dispatch.release`."""
        if self._lease is not None:
            lease, self._lease = self._lease, None
            lease.release()

    def _owner(self, sent: Sent) -> dict[str, Any]:
        return {**processes.me(), "target": self.target, "remote": sent._asdict()}

    def _logs(self) -> list[str]:
        return [str(path) for path in self.job.log]

    def _products(self) -> list[str]:
        return [str(path) for path in self.job.products()]

    def _limits(self) -> Limits:
        runtime = self.job.resources.get("runtime")
        return Limits(wall_s=60.0 * runtime if isinstance(runtime, int | float) else None)

    def _measured(self) -> list[str]:
        """The benchmark file, if the rule asks for one."""
        if self.job.is_group():
            return [str(one.benchmark) for one in self._members if one.benchmark is not None]
        return [str(self.job.benchmark)] if self.job.benchmark is not None else []


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=False)
    except ValueError:
        return text.split()


def _write_benchmark(path: str, result: Mapping[str, Any]) -> None:
    """The file of the directive ``benchmark:`` from what the host measured, in Snakemake's own format."""
    from snakemake.benchmark import BenchmarkRecord, write_benchmark_records

    measured = result.get("benchmark") or {}
    seconds = float(measured.get("seconds") or result.get("seconds") or 0.0)
    record = BenchmarkRecord(
        running_time=max(seconds, 1e-4),
        max_rss=measured.get("max_rss_mb"),
        max_vms=measured.get("max_vms_mb"),
        max_uss=measured.get("max_uss_mb"),
        max_pss=measured.get("max_pss_mb"),
        io_in=measured.get("io_in_mb"),
        io_out=measured.get("io_out_mb"),
        cpu_usage=float(measured.get("mean_load") or 0.0) * seconds,
        cpu_time=measured.get("cpu_s"),
    )
    record.data_collected = bool(measured)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    write_benchmark_records([record], path, False)


def threads_of(job: Job) -> Mapping[str, str]:
    """What Snakemake tells the libraries of a shell command about its threads."""
    names = [f"{library}_NUM_THREADS" for library in ("OMP", "GOTO", "OPENBLAS", "MKL")]
    names += ["VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"]
    return dict.fromkeys(names, str(int(job.threads)))


def script_of(members: list[Job]) -> str:
    """The commands of jobs, one after the other; the first that fails ends it."""
    texts = [one.shellcmd.strip() for one in members]
    if len(texts) == 1:
        return str(texts[0])
    return "\n".join(f"bash -c {shlex.quote('set -euo pipefail; ' + text)}" for text in texts)
