"""The scheduler: between Snakemake's jobs and the packing of ready jobs."""

import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from snakemake_interface_scheduler_plugins.base import SchedulerBase

from ripresa.journal import records
from ripresa.journal.paths import Run
from ripresa.placement.durations import Durations
from ripresa.placement.ilp import Cbc
from ripresa.placement.packing import Demand
from ripresa.placement.ready import Kind, Ready
from ripresa.placement.withholding import FREE, Outlook, Withholding
from snakemake_scheduler_plugin_recovery.control import Alarm, drain_on_term, reevaluate

Job = Any
"""A single or a group job; Snakemake's own classes offer more than their scheduler interface."""

BREAKER = "breaker "
"""A scope is a resource: half-open it has as much as its breaker lets through, open it has none."""

_SCOPE = re.compile(r"--scope (\w+)=((?:[^\s{}]|\{wildcards\.\w+\})+)(?=\s)")


class Scheduler(SchedulerBase):
    """Starts jobs by priority and expected duration, and leaves out units that are to wait.

    What there is to know of a ready job is worked out when it becomes ready (again) and not per round,
    for Snakemake asks with all ready jobs after every single one that ends.
    """

    def __post_init__(self) -> None:
        self._run = _run_of(self.dag)
        self._durations = Durations()
        if self._run is not None:
            self._durations = Durations.of(self._run)
            self._withholding = Withholding(self._run, os.environ.get("RIPRESA_SESSION"))
            # Tells the guard that a unit may be sent back here instead of waiting in its slot.
            os.environ["RIPRESA_SCHEDULER"] = "recovery"
        self._ready: Ready[Job] = Ready(Cbc(self.logger.warning), self._durations.rank)
        self._known: set[Job] = set()
        self._names: frozenset[str] = frozenset()
        self._waiting: dict[Job, float] = {}
        self._scopes: set[str] = set()
        self._attempts: dict[Job, int] = {}
        self._started: dict[Job, int] = {}
        self._alarm = Alarm(lambda: reevaluate(self.dag))

    def select_jobs(
        self,
        selectable_jobs: Iterable[Job],
        remaining_jobs: Sequence[Job],
        available_resources: Mapping[str, Any],
        input_sizes: Mapping[Any, int | None],
    ) -> list[Job]:
        """Choose the jobs to start now; the interface describes the arguments."""
        drain_on_term()
        capacity = {
            name: amount for name, amount in available_resources.items() if not isinstance(amount, str)
        }
        self._notice(set(selectable_jobs), frozenset(capacity), input_sizes)
        now = time.time()
        self._end_waits(now, input_sizes)
        closed = self._limit_scopes(capacity, now)
        selected = self._ready.take(capacity)
        self._known.difference_update(selected)
        for job in selected:
            if job in self._attempts:
                self._started[job] = self._attempts.pop(job)
        self._set_alarm(closed, now)
        return selected

    def _notice(self, offered: set[Job], names: frozenset[str], sizes: Mapping[Any, int | None]) -> None:
        """Take in which jobs ended, became ready, or are gone since the last round."""
        self._learn()
        if names != self._names:
            # Demands are counted in the resources there are.
            self._names = names
            self._forget(self._known)
        self._forget(self._known - offered)
        for job in offered - self._known:
            self._admit(job, sizes)
        self._known = offered

    def _forget(self, jobs: set[Job]) -> None:
        self._ready.remove(jobs)
        for job in jobs:
            self._waiting.pop(job, None)
            self._attempts.pop(job, None)
        self._known = self._known - jobs

    def _admit(self, job: Job, sizes: Mapping[Any, int | None]) -> None:
        """Put a job among the ready ones, or among those that wait."""
        targets = self._targets(job)
        if not targets:
            self._ready.add(job, self._kind(job, None, (), sizes))
            return
        outlook = self._outlook(job, targets)
        if outlook.stopped:
            # Its guard refuses it at once; as Snakemake's last attempt that refusal is final.
            job.attempt = job.restart_times + 1
        not_before = outlook.not_before
        if self._started.pop(job, None) == outlook.attempts and not outlook.stopped:
            # Sent back without an attempt: whatever stands in its way will not be gone at once.
            not_before = max(not_before, self._withholding.opens(time.time()))
        if not_before > time.time():
            self._waiting[job] = not_before
            return
        self._attempts[job] = outlook.attempts
        self._scopes.update(outlook.scopes)
        self._ready.add(job, self._kind(job, job.name, outlook.scopes, sizes))

    def _outlook(self, job: Job, targets: list[str]) -> Outlook:
        scopes = [scope for member in _members(job) for scope in _declared_scopes(member)]
        if job.is_local or self.dag.workflow.local_exec:
            scopes.append(f"host:{os.uname().nodename}")
        try:
            return self._withholding.outlook(targets, scopes=scopes, retried=job.attempt > 1)
        except OSError as error:
            self.logger.warning(f"cannot read the attempts of {targets[0]}, so it is not withheld: {error}")
            return FREE

    def _end_waits(self, now: float, sizes: Mapping[Any, int | None]) -> None:
        over = [job for job, until in self._waiting.items() if until <= now]
        for job in over:
            del self._waiting[job]
            self._admit(job, sizes)

    def _limit_scopes(self, capacity: dict[str, Any], now: float) -> list[str]:
        """Count the scopes among the resources; returns those in which nothing may start."""
        if not self._scopes:
            return []
        allowed = self._withholding.allowances(self._scopes, now)
        for scope in self._scopes:
            capacity[BREAKER + scope] = allowed.get(scope, sys.maxsize)
        return [scope for scope, number in allowed.items() if not number]

    def _set_alarm(self, closed: list[str], now: float) -> None:
        """Be called again when the first wait is over: no job that ends needs to bring it about."""
        times = []
        if self._waiting:
            times.append(min(self._waiting.values()))
        if closed and len(self._ready):
            times.append(self._withholding.opens(now, closed))
        if times:
            self._alarm.set(min(times))

    def _learn(self) -> None:
        """Learn durations from the units that ended since the last round."""
        if self._run is None:
            return
        ended = [job for job in self._started if all(self.dag.finished(member) for member in _members(job))]
        changed = False
        for job in ended:
            del self._started[job]
            for target in self._targets(job):
                changed |= self._durations.learn(records.last(self._run.attempts(target)))
        if changed:
            self._ready.reorder()

    def _targets(self, job: Job) -> list[str]:
        """The units of the run that a job executes; none for any other job."""
        if self._run is None:
            return []
        firsts = (next(iter(member.output), None) for member in _members(job))
        targets = (self._run.target_of(str(first)) for first in firsts if first is not None)
        return [target for target in targets if target is not None]

    def _kind(
        self, job: Job, rule: str | None, scopes: Iterable[str], sizes: Mapping[Any, int | None]
    ) -> Kind:
        resources = job.scheduler_resources
        demand: Demand = tuple(
            (name, amount) for name in self._names if (amount := resources.get(name) or 0) > 0
        )
        files = [(file, sizes.get(file) or 0) for file in job.input]
        return Kind(
            priority=job.priority,
            temp_bytes=sum(size for file, size in files if size and file.is_flagged("temp")),
            rule=rule,
            input_bytes=sum(size for _, size in files),
            demand=demand + tuple((BREAKER + scope, 1) for scope in scopes),
        )


def _run_of(dag: Any) -> Run | None:
    """The run that this process controls: only the main process withholds, a job's own process runs it."""
    directory = os.environ.get("RIPRESA_RUN")
    workflow = getattr(dag, "workflow", None)
    return Run(directory) if directory and workflow is not None and workflow.is_main_process else None


def _declared_scopes(job: Job) -> Iterable[str]:
    """The breaker scopes that `ripresa.dsl.guard` was given, as far as the wildcards tell them."""
    call = (job.rule.shellcmd or "").partition("\n")[0]
    for kind, name in _SCOPE.findall(call):
        yield f"{kind}:{job.format_wildcards(name)}"


def _members(job: Job) -> Iterable[Job]:
    """The single jobs of a group, or the job itself."""
    members = getattr(job, "jobs", (job,))
    return members() if callable(members) else members
