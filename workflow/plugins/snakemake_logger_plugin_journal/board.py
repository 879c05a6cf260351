"""How a run stands: what runs, waits and failed, from Snakemake's records and the guards' events."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ripresa.journal import clock
from ripresa.journal.phases import Phases


@dataclass
class Job:
    """One execution of a job, as Snakemake started it."""

    name: str
    """What people read: the target, else the first output, else the rule."""
    target: str | None
    command: str
    since: float
    attempt: int | None = None
    host: str | None = None
    progress: str = ""
    told: bool = False
    """Whether the guard told how this execution ended."""
    rule: str = ""


@dataclass(frozen=True)
class Failure:
    failure_class: str
    evidence: str
    attempt: int | None
    not_before: float | None = None
    """Seconds since the epoch of the next attempt; None if there is none."""


@dataclass
class Board:
    total: int = 0
    done: int = 0
    began: float = 0.0
    stopping: str | None = None
    """None, ``drain`` (running jobs may finish) or ``cancel``."""
    running: dict[int, Job] = field(default_factory=dict)
    waiting: dict[str, Failure] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    breakers: dict[str, float] = field(default_factory=dict)
    """Scopes that are held back, and until when."""
    phases: Phases | None = None
    """The phases of the run, where it has any."""
    _by_target: dict[str, Job] = field(default_factory=dict)
    _told: set[int] = field(default_factory=set)

    def start(self) -> None:
        self.began = time.time()

    def begin(self, jobid: int, job: Job) -> None:
        """A job was handed to the executor."""
        self.running[jobid] = job
        self.failures.pop(job.name, None)
        if job.target:
            self._by_target[job.target] = job

    def executing(self) -> list[Job]:
        """The jobs at work, the longest first: not those whose guard waits, or has come to an end."""
        jobs = (job for job in self.running.values() if not job.told and job.name not in self.waiting)
        return sorted(jobs, key=lambda job: job.since)

    def finish(self, jobid: int) -> Job | None:
        """A job is complete for Snakemake; None if it never began here."""
        self.done += 1
        job = self._remove(jobid)
        if job:
            self.waiting.pop(job.name, None)
        return job

    def fail(self, jobid: int) -> None:
        """A job's execution failed."""
        job = self._remove(jobid)
        self._told.discard(jobid)
        if job and job.told:
            self._told.add(jobid)
        elif job:
            self.failures[job.name] = Failure("", "", job.attempt)

    def told_of_job(self, jobid: int) -> bool:
        """Whether the guard explained the last failure of a job."""
        return jobid in self._told

    def _remove(self, jobid: int) -> Job | None:
        job = self.running.pop(jobid, None)
        if job and job.target:
            self._by_target.pop(job.target, None)
        return job

    def job_of_command(self, message: str) -> Job | None:
        """The running job whose command an error message names."""
        return next((job for job in self.running.values() if job.command and job.command in message), None)

    def remember(self, job: Job, last: dict[str, Any], session: str | None) -> None:
        """A job ended without an attempt: its guard refused it because of its ``last`` attempt, if so."""
        decision, not_before = last.get("decision"), clock.seconds(last.get("not_before"))
        if decision == "quarantine" or (decision == "refused" and last.get("session") == session):
            self.failures[job.name] = _failure(last, None)
        elif decision == "retry" and not_before > time.time():
            self.waiting[job.name] = _failure(last, not_before)
        else:
            return
        job.told, job.attempt = True, _number(last.get("attempt"))

    def recall(self, history: Iterable[dict[str, Any]]) -> None:
        """Take over what earlier sessions left: units still in backoff, breakers still open."""
        for event in history:
            self.apply(event)
        now = time.time()
        self.failures.clear()
        self.waiting = {name: wait for name, wait in self.waiting.items() if (wait.not_before or 0) > now}
        self.breakers = {scope: until for scope, until in self.breakers.items() if until > now}

    def apply(self, event: dict[str, Any]) -> None:
        """Take in an event of a guard. Others, and malformed ones, change nothing."""
        scope, target = event.get("scope"), event.get("target")
        if isinstance(scope, str):
            self._apply_to_breaker(str(event.get("type")), scope, event)
        if not isinstance(target, str):
            return
        job = self._by_target.get(target)
        match event.get("type"):
            case "unit_start":
                self.waiting.pop(target, None)
                self.failures.pop(target, None)
                if job:
                    job.attempt, job.host, job.told = _number(event.get("attempt")), event.get("host"), False
                    job.since = clock.seconds(event.get("ts")) or job.since
            case "unit_progress" if job:
                job.progress = _progress(event)
            case "unit_end" if event.get("outcome") != "interrupted":
                if job:
                    job.told = True
                self.waiting.pop(target, None)
                if event.get("outcome") == "failed":
                    self.failures[target] = _failure(event, None)
            case "unit_retry_scheduled":
                self.failures.pop(target, None)
                self.waiting[target] = _failure(event, clock.seconds(event.get("not_before")))

    def _apply_to_breaker(self, type: str, scope: str, event: dict[str, Any]) -> None:
        if type == "breaker_opened":
            self.breakers[scope] = clock.seconds(event.get("until"))
        elif type in ("breaker_half_open", "breaker_closed"):
            self.breakers.pop(scope, None)


def _failure(event: dict[str, Any], not_before: float | None) -> Failure:
    return Failure(
        str(event.get("failure_class") or "unknown"),
        str(event.get("evidence") or ""),
        _number(event.get("attempt")),
        not_before,
    )


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _progress(event: dict[str, Any]) -> str:
    value = event.get("value")
    total = event.get("total")
    return "" if value is None else str(value) if total is None else f"{value}/{total}"
