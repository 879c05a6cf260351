"""The scheduler: from the jobs that Snakemake offers to those that start."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from snakemake_interface_scheduler_plugins.base import SchedulerBase

from ripresa.journal import clock
from ripresa.placement.ilp import Cbc
from ripresa.placement.occupancy import LOOK_S
from ripresa.placement.packing import LOAD, Demand
from ripresa.placement.ready import Kind, Ready
from ripresa.placement.withholding import FREE, Outlook
from snakemake_scheduler_plugin_recovery.control import (
    Alarm,
    drain_on_term,
    no_collection,
    reevaluate,
    running,
)
from snakemake_scheduler_plugin_recovery.units import BREAKER, DEVICE, Job, units_of

Sizes = Mapping[Any, int | None]


class Scheduler(SchedulerBase):
    """Starts jobs by priority and expected duration, and leaves out units that are to wait.

    What there is to know of a job is worked out when it becomes ready (again) and not per round, for
    Snakemake asks with all ready jobs after every single one that ends.
    """

    def __post_init__(self) -> None:
        self._units = units_of(self.dag, self.logger)
        solver = Cbc(self.logger.warning)
        units = self._units
        self._ready: Ready[Job] = (
            Ready(solver, units.durations.rank, units.places.options) if units else Ready(solver)
        )
        self._waiting: dict[Job, float] = {}
        """Until when jobs wait, by `clock.steady`."""
        self._unbooked: dict[Job, dict[str, float]] = {}
        self._known: set[Job] = set()
        self._names: frozenset[str] = frozenset()
        self._alarm = Alarm(lambda: reevaluate(self.dag))

    def select_jobs(
        self,
        selectable_jobs: Iterable[Job],
        remaining_jobs: Sequence[Job],
        available_resources: Mapping[str, Any],
        input_sizes: Sizes,
    ) -> list[Job]:
        """Choose the jobs to start now; the interface describes the arguments."""
        drain_on_term()
        with no_collection():
            return self._select(set(selectable_jobs), dict(available_resources), input_sizes)

    def _select(self, offered: set[Job], resources: dict[str, Any], sizes: Sizes) -> list[Job]:
        now = time.time()
        capacity = {name: amount for name, amount in resources.items() if not isinstance(amount, str)}
        self._notice(offered, frozenset(capacity), sizes)
        self._end_waits(sizes)
        self._count_unbooked(capacity)
        closed = self._units.limit(capacity, now) if self._units else []
        slots = self._units.places.slots(capacity.get(LOAD, 1), now) if self._units else []
        selected = self._ready.take(capacity, slots)
        self._known.difference_update(selected)
        if self._units:
            self._units.started(selected)
            self._unbooked.update((job, more) for job in selected if (more := self._beyond_booked(job)))
        self._set_alarm(closed, now)
        return list(selected)

    def _notice(self, offered: set[Job], names: frozenset[str], sizes: Sizes) -> None:
        """Take in which jobs ended, became ready, or are gone since the last round."""
        if self._units and self._units.learn():
            self._ready.reorder()
        regrouped = bool(self._units and self._units.regrouped())
        learnt = bool(self._units and self._units.need_more(names))
        if names != self._names or regrouped or learnt:
            # Demands are counted in the resources and breakers there are.
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
        self._known = self._known - jobs

    def _admit(self, job: Job, sizes: Sizes) -> None:
        """Put a job among the ready ones, or among those that wait."""
        targets = self._units.targets(job) if self._units else []
        if not self._units or not targets:
            self._ready.add(job, self._kind(job, sizes))
            return
        self._units.renew(job)
        outlook = self._units.outlook(job, targets)
        if outlook.not_before > clock.steady():
            self._waiting[job] = outlook.not_before
        else:
            self._ready.add(job, self._kind(job, sizes, job.name, outlook))

    def _end_waits(self, sizes: Sizes) -> None:
        now = clock.steady()
        for job in [job for job, until in self._waiting.items() if until <= now]:
            del self._waiting[job]
            self._admit(job, sizes)

    def _set_alarm(self, closed: list[str], now: float) -> None:
        """Be asked again when the first wait is over: no job that ends needs to bring it about."""
        times = list(self._waiting.values())
        if self._units and closed and len(self._ready):
            times.append(clock.steady() + self._units.opens(closed, now) - now)
        if self._units and self._units.starving(self._ready.asking):
            # No unit that ends will bring about another look.
            times.append(clock.steady() + LOOK_S)
        if times:
            self._alarm.set(min(times))

    def _count_unbooked(self, capacity: dict[str, Any]) -> None:
        """Take away what running jobs have beyond what Snakemake counts for them."""
        if not self._unbooked:
            return
        there = running(self.dag)
        self._unbooked = {job: more for job, more in self._unbooked.items() if job in there}
        for more in self._unbooked.values():
            for name, amount in more.items():
                capacity[name] = max(0, capacity.get(name, 0) - amount)

    def _beyond_booked(self, job: Job) -> dict[str, float]:
        """What a job gets beyond what Snakemake books for it, for it books what the job wanted at first."""
        booked, gets = job.scheduler_resources, job.resources
        both = {name: (booked.get(name) or 0, gets.get(name)) for name in self._names if name in booked}
        return {
            name: amount - before
            for name, (before, amount) in both.items()
            if isinstance(amount, int | float) and amount > before
        }

    def _kind(self, job: Job, sizes: Sizes, rule: str | None = None, outlook: Outlook = FREE) -> Kind:
        wanted = job.scheduler_resources
        more = self._beyond_booked(job) if rule else {}
        demand: Demand = tuple(
            (name, amount + more.get(name, 0))
            for name in self._names
            if (amount := wanted.get(name) or 0) > 0
        )
        # Whoever asks for devices goes by its duration; so equal ones are equal whatever they read.
        files = [(file, sizes.get(file) or 0) for file in job.input if not outlook.asked]
        return Kind(
            priority=job.priority,
            temp_bytes=sum(size for file, size in files if size and file.is_flagged("temp")),
            rule=rule,
            input_bytes=sum(size for _, size in files),
            demand=demand
            + tuple((BREAKER + scope, 1) for scope in outlook.scopes)
            + tuple((DEVICE + name, share) for name, share in outlook.devices),
            escalated=outlook.escalated,
            # A killed guard has recorded no attempt.
            again=outlook.attempts > 0 or (rule is not None and job.attempt > 1),
            asked=outlook.asked,
        )
