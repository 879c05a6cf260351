"""Turns: take in what is offered, adopt or submit it, read the journal, ask SLURM now and then.

All of it is done by the one thread that Snakemake starts for watching.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from ripresa.journal import attempts
from ripresa.journal.paths import Run
from ripresa.recovery import policy
from ripresa.recovery.remote import AGAIN, FAILED, HELD, PUBLISHED, End
from ripresa.slurm import commands, states
from ripresa.slurm.cluster import Cluster, Ended, Job
from ripresa.slurm.nodes import BLAMED, BadNodes
from ripresa.slurm.pace import Pace
from snakemake_executor_plugin_slurm_resume.offers import Offer, offer

_SUBMISSIONS = 5
"""Calls of sbatch a turn, that is at most some 15 a second."""
_LATER_S = 10.0
"""How long a submission is put off that was refused for now, and anything while the disk is full."""


class Snakemake(Protocol):
    """Who is told what becomes of the jobs."""

    def report_job_submission(self, job_info: SubmittedJobInfo) -> None:
        """It runs from now on."""

    def report_job_success(self, job_info: SubmittedJobInfo) -> None:
        """Its outputs are there."""

    def report_job_error(self, job_info: SubmittedJobInfo, msg: str | None = None) -> None:
        """It failed."""


class Watch:
    """The jobs of one call of snakemake. ``most_s`` is the longest time between two looks at the queue."""

    def __init__(
        self, directory: str, snakemake: Snakemake, logger: logging.Logger, *, most_s: float
    ) -> None:
        self._run = Run(directory)
        self._snakemake = snakemake
        self._logger = logger
        self._cluster = Cluster(self._run, logger.warning)
        self._recovered = False
        self._pace = Pace(most_s)
        self._lock = threading.Lock()
        self._offered: list[Offer] = []
        self._queued: list[Offer] = []
        self._followed: dict[str, Offer] = {}
        self._ended: dict[str, Ended] = {}
        """Jobs that ended before Snakemake offered their units."""
        self._held: dict[str, Ended] = {}
        """Jobs that are over for SLURM while a live process still holds their units."""
        self._restarted: dict[str, Ended] = {}
        """Likewise jobs that SLURM has put back into the queue."""
        self._most = math.inf
        """How many units SLURM takes in one go, as it turned out."""
        self._paused_until = 0.0

    def take(self, jobs: Sequence[Any], workflow: Any, in_snakemake: Callable[[Any], str]) -> None:
        """Take jobs in, from any thread."""
        offers = [offer(job, workflow, in_snakemake) for job in jobs]
        with self._lock:
            self._offered += offers

    def cancel(self) -> None:
        """End the jobs that this call submitted or adopted."""
        mine = {*self._followed, *(one.target for one in self._queued)}
        self._cluster.cancel(job for job in self._cluster.jobs() if job.target in mine)

    def turn(self) -> None:
        """Do what there is to do now."""
        with self._lock:
            self._queued += self._offered
            self._offered = []
        if time.monotonic() < self._paused_until:
            return
        try:
            self._work()
        except OSError as error:
            self._pause(error)

    def _pause(self, error: OSError) -> None:
        """A full disk, most likely. What cannot be written down must not be done; the jobs go on."""
        self._logger.warning(f"cannot use the journal: {error}; trying again in {_LATER_S:.0f} s")
        self._paused_until = time.monotonic() + _LATER_S

    def _work(self) -> None:
        self._read_journal()
        if (self._queued or self._followed) and self._pace.due():
            self._ask()
        if self._queued and self._recovered and not self._cluster.silent:
            self._submit()

    def _read_journal(self) -> None:
        """Guards write how their units ended, and that is known before SLURM knows it."""
        for one in list(self._followed.values()):
            outcome = one.remote.outcome() if one.remote else None
            if outcome is not None:
                for job in self._cluster.jobs(one.target):
                    self._cluster.settled(job, outcome.upper())
                self._finish(one, outcome)

    def _ask(self) -> None:
        if not self._recovered:
            self._cluster.recover()
        began = time.monotonic()
        ended = self._cluster.look()
        self._pace.asked(
            changed=bool(ended) or self._cluster.doubtful,
            answered=not self._cluster.silent,
            took_s=time.monotonic() - began,
        )
        self._recovered = self._recovered or not self._cluster.silent
        for one in ended:
            target = one.job.target
            if one.requeued:
                self._restarted[target] = one
            elif target in self._followed:
                self._held[target] = one
            else:
                self._ended[target] = one
        for one in [*self._restarted.values()]:
            self._restart(one)
        for one in [*self._held.values()]:
            self._end(self._followed[one.job.target], one)

    def _restart(self, ended: Ended) -> None:
        """SLURM starts a unit again by itself: write down why, if its guard could not."""
        target = ended.job.target
        one = self._followed.get(target)
        if one is None:
            return  # not offered yet
        outcome = one.remote.restarted(_end_of(ended)) if one.remote else AGAIN
        if outcome == HELD:
            return
        del self._restarted[target]
        self._blame(target)
        if outcome == FAILED:
            self._cluster.cancel([ended.job])
            self._cluster.settled(ended.job, "CANCELLED")
            self._finish(one, FAILED)

    def _end(self, one: Offer, ended: Ended) -> None:
        if ended.verdict is None or self._lacks_nodes(one, ended):
            del self._followed[one.target], self._held[one.target]
            self._queued.append(one)
        elif one.remote is None:
            self._finish(one, (ended.verdict.failure_class and ended.verdict.evidence) or PUBLISHED)
        elif (outcome := one.remote.conclude(_end_of(ended))) != HELD:
            self._finish(one, outcome)

    def _lacks_nodes(self, one: Offer, ended: Ended) -> bool:
        """Whether a job will never start, perhaps only because nodes that failed were left out."""
        refused = ended.verdict is not None and ended.verdict.failure_class == "configuration"
        waited = ended.seen is not None and states.judge(ended.seen).phase == states.WAITING
        if one.anywhere or not (refused and waited):
            return False
        one.anywhere = list(ended.job.batch.options) != one.request()
        return one.anywhere

    def _submit(self) -> None:
        now = time.monotonic()
        waiting: list[Offer] = []
        wrong: list[tuple[Offer, str]] = []
        alike: dict[tuple[str, ...], list[Offer]] = {}
        bad_nodes = self._bad_nodes()
        for one in self._queued:
            if one.not_before > now or not self._is_free(one):
                waiting.append(one)
            elif one.target not in self._followed and self._is_needed(one):
                try:
                    request = one.request()
                    if not one.anywhere:
                        request = bad_nodes.left_out(request, self._excluded(one))
                except ValueError as error:
                    wrong.append((one, str(error)))
                    continue
                alike.setdefault(tuple(request), []).append(one)
        self._queued = waiting
        for one, text in wrong:
            self._reject(one, "configuration", text)
        for number, (wanted, offers) in enumerate(alike.items()):
            if number < _SUBMISSIONS and not self._cluster.silent and now > self._paused_until:
                self._submit_batch(list(wanted), offers)
            else:
                self._queued += offers

    def _submit_batch(self, request: list[str], offers: list[Offer]) -> None:
        """Submit as many as an array may have; the others wait for the next turn."""
        try:
            most = self._cluster.array_limit() if len(offers) > 1 else 1
            most = int(min(most, self._most))
            these = offers[:most]
            tasks = [one.task(self._cluster.token(one.target)) for one in these]
            jobs = self._cluster.submit(request, tasks, os.getcwd())
        except commands.Unanswered:
            self._queued += offers
            return
        except OSError as error:
            self._queued += offers
            self._pause(error)
            return
        except commands.Refused as error:
            self._refused(error, request, offers, these)
            return
        self._most *= 2
        self._queued += offers[most:]
        for one, job in zip(these, jobs, strict=True):
            if job.job_id is None:
                self._queued.append(one)  # the next look tells whether it is there
            else:
                self._follow(one, job)
        self._pace.soon()

    def _refused(
        self, error: commands.Refused, request: list[str], offers: list[Offer], these: list[Offer]
    ) -> None:
        """Nothing of ``these`` was submitted, the first of all ``offers`` that ask for the same."""
        if error.failure_class is None:
            if len(these) > 1:
                # There may be room for some: limits count the tasks of an array.
                self._most = len(these) // 2
                self._queued += offers
            else:
                self._put_off(offers, str(error))
            return
        self._queued += offers[len(these) :]
        if request != these[0].request():
            # Nodes were left out that it cannot do without, perhaps; one that failed is better than none.
            for one in these:
                one.anywhere = True
            self._queued += these
            return
        for one in these:
            self._reject(one, error.failure_class, str(error))

    def _is_free(self, one: Offer) -> bool:
        """Adopt the job that the unit has already; False while that is not settled."""
        jobs = self._cluster.jobs(one.target)
        if not jobs:
            return True
        if len(jobs) > 1 or jobs[0].job_id is None:
            return False
        digest = jobs[0].task.digest
        if one.digest and digest and one.digest != digest:
            self._logger.info(f"{one.target}: job {jobs[0].job_id} runs another command; cancelling it")
            self._cluster.cancel(jobs)
            self._pace.soon()
            one.not_before = time.monotonic() + 2.0
            return False
        self._logger.info(f"{one.target}: going on with job {jobs[0].job_id} of SLURM")
        self._follow(one, jobs[0])
        return True

    def _is_needed(self, one: Offer) -> bool:
        """Whether a unit without a job is to be submitted: it may be finished, or stopped by the policy."""
        ended = self._ended.get(one.target)
        if one.remote is None:
            self._ended.pop(one.target, None)
            if ended and ended.verdict and one.is_made_since(ended.job.batch):
                self._follow(one, ended.job)
                self._finish(one, (ended.verdict.failure_class and ended.verdict.evidence) or PUBLISHED)
                return False
            return True
        if ended and ended.verdict and one.remote.conclude(_end_of(ended)) == HELD:
            del self._ended[one.target]
            self._follow(one, ended.job)
            self._held[one.target] = ended
            return False
        self._ended.pop(one.target, None)
        refusal = one.remote.refusal()
        if refusal is None:
            return True
        self._follow(one, ended.job if ended else None)
        self._finish(one, refusal)
        return False

    def _follow(self, one: Offer, job: Job | None) -> None:
        """From now on Snakemake takes the job for running."""
        self._followed[one.target] = one
        one.info = SubmittedJobInfo(one.job, external_jobid=job.job_id if job else None)
        self._snakemake.report_job_submission(one.info)

    def _finish(self, one: Offer, outcome: str) -> None:
        """Tell Snakemake that a job is over; any other outcome than `PUBLISHED` is a failure."""
        for known in (self._followed, self._held, self._restarted):
            known.pop(one.target, None)  # type: ignore[attr-defined]
        info = one.info or SubmittedJobInfo(one.job)
        if outcome == PUBLISHED:
            self._snakemake.report_job_success(info)
            return
        if outcome == FAILED:
            last = self._blame(one.target)
            outcome = f"{last.get('failure_class')}: {last.get('evidence')}"
        self._snakemake.report_job_error(info, msg=f"{one.target}: {outcome}. ")

    def _blame(self, target: str) -> dict[str, Any]:
        """Keep others away from the node that the newest failure of a unit blames; that record."""
        last = attempts.last(self._run, target)
        if last.get("failure_class") in BLAMED and last.get("host"):
            self._bad_nodes().add(str(last["host"]), str(last.get("evidence")))
        return last

    def _reject(self, one: Offer, failure_class: str, text: str) -> None:
        """SLURM will not take a unit."""
        if one.remote is not None:
            session = os.environ.get("RIPRESA_SESSION", "none")
            try:
                one.remote.conclude(
                    End(failure_class, text, external_jobid=None, session=session, log=os.devnull)
                )
            except OSError as error:
                self._queued.append(one)
                self._pause(error)
                return
        self._finish(one, text)

    def _put_off(self, offers: list[Offer], text: str) -> None:
        self._logger.info(f"{text}; trying again in {_LATER_S:.0f} s")
        for one in offers:
            one.not_before = time.monotonic() + _LATER_S
        self._queued += offers

    def _excluded(self, one: Offer) -> set[str]:
        """The node that the last attempt of a unit blames."""
        last = attempts.last(self._run, one.target) if one.remote else {}
        node = (last.get("excluded") or {}).get("node")
        return {str(node)} if node else set()

    def _bad_nodes(self) -> BadNodes:
        return BadNodes(self._run, policy.breaker_settings(policy.load(self._run))["open_s"])


def _end_of(ended: Ended) -> End:
    job, verdict, seen = ended.job, ended.verdict, ended.seen
    assert verdict is not None
    # A script that ended by itself says why in its log.
    known = None if verdict.failure_class == "unknown" else verdict.failure_class
    completed = verdict.failure_class is None and not ended.requeued
    return End(
        "unknown" if completed else known,
        f"{verdict.evidence}, but nothing was published" if completed else verdict.evidence,
        completed=completed,
        external_jobid=job.job_id,
        requeues=seen.restarts if seen else 0,
        session=job.batch.session,
        log=job.batch.log(job.index),
        host=seen.nodes if seen and seen.nodes else None,
        exit_code=seen.exit_code if seen else None,
        signal=seen.signal if seen else None,
        most=job.batch.most,
    )
