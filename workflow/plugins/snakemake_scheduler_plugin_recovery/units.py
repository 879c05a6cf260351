"""The guarded units among Snakemake's jobs: what the journal says about them."""

import functools
import logging
import os
import re
import sys
import time
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from typing import Any

from ripresa.dsl.guarding import call_of
from ripresa.journal import clock, devices, records
from ripresa.journal.paths import Run
from ripresa.placement.asking import Asked
from ripresa.placement.durations import Durations
from ripresa.placement.occupancy import LOOK_S
from ripresa.placement.wishes import Start
from ripresa.placement.withholding import FREE, Outlook, Withholding
from ripresa.recovery import admission
from ripresa.recovery.escalation import Learnt
from ripresa.recovery.unit import parse
from snakemake_scheduler_plugin_recovery.control import running
from snakemake_scheduler_plugin_recovery.places import Places

Job = Any
"""A single or a group job; Snakemake's own classes offer more than their scheduler interface."""

BREAKER = "breaker "
"""A scope is a resource: half-open it has as much as its breaker lets through, open it has none."""

DEVICE = "device "
"""A device that a rule names is a resource, too: of its percents there are those that nobody holds."""

RETURNS = 4
"""After so many starts without an attempt the next one is the last."""

_HOST = os.uname().nodename
_WILDCARD = re.compile(r"\{wildcards\.(\w+)\}")
_SCOPE = re.compile(r"--scope (\w+)=((?:[^\s{}]|\{wildcards\.\w+\})+)(?=\s)")


class Units:
    """The units of the run that this process controls. A job is one unit, or a group of them."""

    def __init__(self, dag: Any, run: Run, session: str | None, logger: logging.Logger) -> None:
        self._dag = dag
        self._run = run
        self._prefix = os.path.relpath(run.dir) + "/"
        self._logger = logger
        self._withholding = Withholding(run, session)
        self._attempts: dict[Job, int] = {}
        self._started: dict[Job, float] = {}
        """The units that run, and when they were started, in seconds since the epoch."""
        self._returns: dict[Job, int] = {}
        self._scopes: set[str] = set()
        self._meetings: frozenset[str] = frozenset()
        self._learnt = Learnt(run)
        self._learnt.refresh()
        self._renewing = False
        self._told = ""
        """What was said last of the devices that others have."""
        self.durations = Durations.of(run)
        self.places = Places(run, self._withholding, self.durations)

    def targets(self, job: Job) -> list[str]:
        """The targets that a job makes; none for a job that is no unit of the run."""
        firsts = [str(next(iter(member.output))) for member in _members(job) if member.output]
        targets = [
            # Nearly all paths start as that of the run does; finding out in general takes 50 us.
            path.removeprefix(self._prefix) if path.startswith(self._prefix) else self._run.target_of(path)
            for path in firsts
        ]
        return [target for target in targets if target is not None]

    def outlook(self, job: Job, targets: list[str]) -> Outlook:
        """When a job of these targets may start, and which scopes limit it.

        A unit that the policy stopped starts as Snakemake's last attempt, so that its guard's refusal,
        a matter of milliseconds, is final.
        """
        scopes = [scope for member in _members(job) for scope in _declared_scopes(member)]
        asked: Asked | None = None
        named: dict[str, int] = {}
        left: list[str] = []
        if job.is_local or self._dag.workflow.local_exec:
            scopes.append(f"host:{_HOST}")
            asked = None if job.is_group() else self.places.asked(job, targets[0])
            named = {} if asked else _devices(job)
            scopes += [f"gpu:{name}" for name in named if not devices.is_slot(name)]
            left = [name for name in named if self.places.has(name, targets)]
        try:
            outlook = self._withholding.outlook(targets, scopes=scopes, retried=job.attempt > 1)
        except OSError as error:
            self._logger.warning(f"cannot read the attempts of {targets[0]}, so it does not wait: {error}")
            return FREE
        if asked and not outlook.stopped and self._refused(job, asked):
            outlook = Outlook(stopped=True, attempts=outlook.attempts + 1)
        if outlook.stopped:
            job.attempt = job.restart_times + 1
            self._started.pop(job, None)
            self._attempts.pop(job, None)
            self.places.left(job)
            return outlook
        if asked:
            outlook = self.places.elsewhere(asked, targets[0], outlook)
        elif named:
            # What a killed guard left there is ended by the next one, which must therefore be started.
            named = {n: share for n, share in named.items() if n not in left or not devices.held([n])}
            self.places.name(named)
            outlook = outlook._replace(devices=tuple(named.items()))
        if outlook.attempts != self._attempts.get(job):
            self._returns.pop(job, None)
        elif job in self._started:
            outlook = self._sent_back(job, outlook, begun=bool(left))
        self._started.pop(job, None)
        self.places.left(job)
        self._attempts[job] = outlook.attempts
        self._scopes.update(outlook.scopes)
        return outlook

    def _refused(self, job: Job, asked: Asked) -> bool:
        """Whether a unit is given up because nothing here can ever do for it; that is then on record."""
        reason = self.places.impossible(asked)
        call = call_of(job.shellcmd or "") if reason else None
        if reason is None or call is None:
            return False
        return admission.refuse(parse(*call), reason)

    def _sent_back(self, job: Job, outlook: Outlook, *, begun: bool) -> Outlook:
        """The outlook of a unit that was started and came back without an attempt.

        Its guard met an open breaker or a device in use, or could not work at all (no journal to write, no
        interpreter): that is not tried without end. With ``begun`` it had its device, and was killed.
        """
        now = time.time()
        if not begun and self.places.was_sent_back(job, self._started[job]):
            # Somebody else was there first: that is no attempt for Snakemake, either.
            job.attempt = max(1, job.attempt - 1)
            return outlook
        until = self._withholding.opens(now)
        if until is None:
            returns = self._returns[job] = self._returns.get(job, 0) + 1
            if returns == RETURNS:
                job.attempt = job.restart_times + 1
                return outlook
            until = now + self._withholding.pause * 2**returns
        return outlook._replace(not_before=max(outlook.not_before, clock.steady() + until - now))

    def need_more(self, names: Container[str]) -> bool:
        """Whether units have learnt since the last call what others need of these resources."""
        known = len(self._learnt.notes)
        if not self._learnt.refresh():
            return False
        self._renewing = True
        return any(resource in names for resource, _, _ in self._learnt.notes[known:])

    def renew(self, job: Job) -> None:
        """Let Snakemake work out anew what a job takes, once units have learnt something in this call.

        It does so for every attempt, and setting the number of the attempt is how it is told.
        """
        if self._renewing:
            job.attempt = job.attempt

    def started(self, taken: Mapping[Job, Start | None]) -> None:
        """Remember which units start now, and on which devices."""
        for job, start in taken.items():
            if job in self._attempts:
                self._started[job] = time.time()
                if self.places.start(job, self.targets(job)[0], start):
                    job.attempt = job.attempt
            self.renew(job)

    def learn(self) -> bool:
        """Learn durations from the units that ended since the last call; whether a rank changed."""
        ended = [job for job in self._started if all(map(self._dag.finished, _members(job)))]
        changed = False
        for job in ended:
            del self._started[job]
            self._attempts.pop(job, None)
            for target in self.targets(job):
                changed |= self.durations.learn(records.last(self._run.attempts(target)))
        return changed

    def regrouped(self) -> bool:
        """Whether jobs are in other breakers than at their `outlook`, or can have other devices."""
        before, self._meetings = self._meetings, self._withholding.meetings
        return self.places.moved() or self._meetings != before

    def limit(self, capacity: dict[str, Any], now: float) -> list[str]:
        """Count the scopes and devices among the resources; returns those of which nothing may start."""
        free = self.places.free(running(self._dag))
        capacity.update((DEVICE + name, percent) for name, percent in free.items())
        closed = [DEVICE + name for name in self.places.busy]
        allowed = self._withholding.allowances(self._scopes, now)
        for scope in self._scopes:
            capacity[BREAKER + scope] = allowed.get(scope, sys.maxsize)
        allowed |= self.places.allowances(now)
        return closed + [BREAKER + scope for scope, number in allowed.items() if not number]

    def opens(self, closed: Iterable[str], now: float) -> float:
        """When to ask again for what nothing may start of, in seconds since the epoch.

        Nobody knows when a device will be free that others hold.
        """
        scopes = [name.removeprefix(BREAKER) for name in closed if name.startswith(BREAKER)]
        times = [self._withholding.opens(now, scopes) or now] if scopes else []
        if any(name.startswith(DEVICE) for name in closed):
            times.append(now + LOOK_S)
        return min(times, default=now)

    def starving(self, asking: int) -> bool:
        """Whether units that ask for devices get none although no other unit has any; says once why."""
        if not asking or not self.places.idle:
            self._told = ""
            return False
        why = "; ".join(f"{name}: {reason}" for name, reason in sorted(self.places.lacking.items()))
        if why and why != self._told:
            self._logger.warning(f"{asking} units wait for a device: {why}")
        self._told = why
        return True


def units_of(dag: Any, logger: logging.Logger) -> Units | None:
    """The units of the run that this process controls; None where it controls none.

    The processes that Snakemake starts for single jobs control nothing: their job is to run now.
    """
    directory = os.environ.get("RIPRESA_RUN")
    workflow = getattr(dag, "workflow", None)
    if not directory or workflow is None or not workflow.is_main_process:
        return None
    # Tells the guards that a unit may be sent back here instead of waiting in its slot.
    os.environ["RIPRESA_SCHEDULER"] = "recovery"
    return Units(dag, Run(directory), os.environ.get("RIPRESA_SESSION"), logger)


def _declared_scopes(job: Job) -> Iterable[str]:
    """The breaker scopes that `ripresa.dsl.guard` was given, as far as wildcards tell them."""
    for kind, name in _scope_patterns(job.rule.shellcmd or ""):
        # Not by job.format_wildcards: that expands the params too, 0.2 ms a job.
        yield f"{kind}:{_WILDCARD.sub(lambda found: str(job.wildcards_dict[found.group(1)]), name)}"


def _devices(job: Job) -> dict[str, int]:
    """The devices that the rule of a job names, and how many percent of each."""
    found: dict[str, int] = {}
    for member in _members(job):
        with suppress(devices.DeviceError):  # its guard says it
            found |= devices.wanted(str(member.resources.get(devices.RESOURCE) or ""))
    return found


@functools.cache
def _scope_patterns(shellcmd: str) -> list[tuple[str, str]]:
    return _SCOPE.findall(shellcmd.partition("\n")[0])


def _members(job: Job) -> Iterable[Job]:
    """The single jobs of a group, or the job itself."""
    members = getattr(job, "jobs", (job,))
    return members() if callable(members) else members
