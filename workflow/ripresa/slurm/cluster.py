"""The jobs of one run: what is submitted, found again, followed and cancelled, each unit at most once."""

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from ripresa.journal import records
from ripresa.journal.paths import Run
from ripresa.slurm import batch as batches
from ripresa.slurm import commands, limits, queries, reasons, states
from ripresa.slurm.batch import Batch, Task
from ripresa.slurm.ledger import REFUSED, Ledger
from ripresa.slurm.sighting import Sighting

_VANISHED_S = 5.0
_LOST_S = 10.0
_LOST_LOOKS = 3
_UNTOLD_S = 5.0
"""How long accounting may take to have an instance that slurmctld has put back into the queue."""
_OUTAGE_S = 600.0
_VAGUE = ("CANCELLED", "FAILED")
"""States that squeue shows without saying who or what ended the job."""
_DISABLED = "accounting storage is disabled"

Key = tuple[str, int]
"""A batch by its identity, and an index within it."""


class Job:
    """One submission of a unit that has not ended yet, as far as is known."""

    def __init__(self, batch: Batch, index: int, job_id: str | None) -> None:
        self.batch = batch
        self.index = index
        self.job_id = job_id
        """None while nobody knows whether it was submitted."""
        self.seen: Sighting | None = None
        self.waits: reasons.Prospect | None = None
        """What it waits for in the queue, once that is no ordinary wait."""
        self.restarts = 0
        """How often SLURM had started it again when somebody last asked why."""
        self._since = 0.0
        self._missing: list[float] = []
        self._untold: float | None = None

    @property
    def key(self) -> Key:
        """Its identity, whatever id SLURM gives it."""
        return self.batch.directory.rpartition("/")[2], self.index

    @property
    def task(self) -> Task:
        """What it runs."""
        return self.batch.tasks[self.index]

    @property
    def target(self) -> str:
        """The unit."""
        return self.task.target

    def changed(self, seen: Sighting) -> bool:
        """Take in what SLURM says now; True if that is news."""
        before, self.seen, self.job_id = self.seen, seen, seen.job_id
        self._missing.clear()
        return before is None or _facts(before) != _facts(seen)

    def hopeless(self, now: float) -> "reasons.Prospect | None":
        """Why it will never start, once it waits for that long enough."""
        assert self.seen is not None
        if states.judge(self.seen).phase != "waiting":
            self.waits = None
            return None
        prospect = reasons.pending(self.seen.reason)
        if self.waits is None or prospect.text != self.waits.text:
            self._since = now
        self.waits = prospect
        return prospect if prospect.kind == "never" and now - self._since >= prospect.patience else None

    def untold(self, now: float) -> bool:
        """Whether nobody could say for long enough why SLURM starts it again."""
        if self._untold is None:
            self._untold = now
        return now - self._untold >= _UNTOLD_S

    def asked_why(self) -> None:
        """Its last restart is explained, as far as it can be."""
        assert self.seen is not None
        self.restarts, self._untold = self.seen.restarts, None

    def vanished(self, now: float) -> bool:
        """Whether it is a task of an array that never started, and that SLURM has not known for a while."""
        waited = self.seen is None or states.judge(self.seen).phase == "waiting"
        return len(self.batch.tasks) > 1 and waited and self.lost(now, outage=False, after_s=_VANISHED_S)

    def lost(self, now: float, *, outage: bool, after_s: float | None = None) -> bool:
        """Whether SLURM has not known it for long enough to believe that."""
        if not self._missing or self._missing[-1] != now:
            self._missing.append(now)
        gone = now - self._missing[0]
        return len(self._missing) >= _LOST_LOOKS and gone >= (_OUTAGE_S if outage else after_s or _LOST_S)


class Ended(NamedTuple):
    """A job is over, or only an instance of it. ``verdict`` is None for one that was never submitted."""

    job: Job
    verdict: states.Verdict | None
    seen: Sighting | None = None
    """How it ended, as far as SLURM tells."""
    requeued: bool = False
    """SLURM starts the job again, or has done so."""


class Cluster:
    """SLURM for one run.

    ``tell`` gets one line for a person when SLURM stops answering, and when it answers again.
    """

    def __init__(self, run: Run, tell: Callable[[str], None]) -> None:
        self._run = run
        self._tell = tell
        self._ledger = Ledger(run)
        self._batches: dict[str, Batch | None] = {}
        self._open: dict[Key, Job] = {}
        self._of_unit: dict[str, dict[Key, Job]] = {}
        """The same by unit."""
        self._submissions: dict[str, int] = {}
        self._done: set[Key] = set()
        self._prefix: str | None = None
        self._accounting = True
        self._unaccounted = False
        self._silent = False
        self._doubtful = False
        self._array_limit: int | None = None
        self._limits: limits.Limits | None = None

    def recover(self) -> None:
        """Take over what earlier controllers submitted. Wait for a submission that still is under way."""
        with self._submitting():
            pass
        entries = self._ledger.entries()
        self._done = {key for key, entry in entries.items() if entry.ended}
        for identity in batches.all_of(self._run):
            batch = self._batch(identity)
            for index in range(len(batch.tasks) if batch else 0):
                key = identity, index
                if batch:
                    self._count(batch.tasks[index].target)
                if batch and key not in self._done:
                    known = entries.get(key)
                    self._add(Job(batch, index, known.job_id if known else None))

    def jobs(self, target: str | None = None) -> list[Job]:
        """The jobs that have not ended, of one unit or of all."""
        # Lists of a whole dictionary at once, since another thread may ask.
        return list((self._open if target is None else self._of_unit.get(target, {})).values())

    def token(self, target: str) -> str:
        """What tells the next submission of a unit from all before it."""
        return str(self._submissions.get(target, 0) + 1)

    def submit(self, options: Sequence[str], tasks: Sequence[Task], workdir: str) -> list[Job]:
        """Submit tasks with the same request as one batch.

        A task whose submission nobody answered for is returned as well: `look` finds out whether it is there.
        Raises `commands.Refused`, after which nothing was submitted.
        """
        session = os.environ.get("RIPRESA_SESSION", "none")
        batch = batches.plan(self._run, options, tasks, session, self._most(options))
        batches.write(self._run, batch)
        self._batches[batch.directory.rpartition("/")[2]] = batch
        jobs = [Job(batch, index, None) for index in range(len(tasks))]
        for task in tasks:
            self._count(task.target)
        script = batches.script(batch, workdir, batches.carried())
        environment = {
            k: v for k, v in commands.environment().items() if k not in ("LC_ALL", "SLURM_TIME_FORMAT")
        }
        if "LC_ALL" in os.environ:
            environment["LC_ALL"] = os.environ["LC_ALL"]
        try:
            with self._submitting() as lock:
                said = commands.submit(batch.command(), script, exported=environment, kept_open=[lock])
                number = said.splitlines()[-1].partition(";")[0]
                ids = [number] if len(tasks) == 1 else [f"{number}_{index}" for index in range(len(tasks))]
                self._ledger.submitted(batch, ids)
        except commands.Unanswered as error:
            self._hear(str(error))
        except commands.Refused as error:
            for index in range(len(tasks)):
                self._ledger.never(batch, index, REFUSED, str(error))
                self._done.add(jobs[index].key)
            raise
        else:
            for job, job_id in zip(jobs, ids, strict=True):
                job.job_id = job_id
            self._hear(None)
        for job in jobs:
            self._add(job)
        return jobs

    def _most(self, options: Sequence[str]) -> dict[str, float]:
        """The most that these units could ask for; not asked for where nothing grows with failures."""
        if records.is_void(self._run.escalated):
            return {}
        if self._limits is None:
            self._limits = limits.ask()
        return limits.most(options, self._limits)

    def array_limit(self) -> int:
        """How many tasks an array may have here."""
        if self._array_limit is None:
            words = commands.ask(["scontrol", "show", "config"]).split()
            found = dict(zip(words, words[2:], strict=False)).get("MaxArraySize", "")
            # It is the first index that is too large.
            self._array_limit = max(1, int(found)) if found.isdigit() else 1
        return self._array_limit

    @contextmanager
    def _submitting(self) -> Iterator[int]:
        """Hold what sbatch holds too, so that one that outlives its controller is waited for."""
        os.makedirs(self._run.slurm, exist_ok=True)
        fd = os.open(f"{self._run.slurm}/submitting.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # Where the file system has no locks the queue, which is asked after a time-out, has to do.
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    def look(self) -> list[Ended]:
        """Ask SLURM once for all jobs; returns those that ended. Nothing follows from no answer."""
        now = time.monotonic()
        try:
            sightings = queries.queue()
        except commands.Unanswered as error:
            self._hear(str(error))
            return []
        self._hear(None)
        self._doubtful = False
        live, over = self._sort(sightings)
        self._keep_one_each(live)
        ended = [*self._follow(live, now), *self._restarted(now), *self._conclude(self._detailed(over, now))]
        missing = [job for key, job in self._open.items() if key not in live and key not in over]
        return [*ended, *self._search(missing, now)]

    def settled(self, job: Job, state: str) -> None:
        """The journal has the outcome of a job, so what SLURM says of it does not matter any more."""
        self._close(job)
        self._ledger.settled(job.batch, job.index, job.job_id, state)

    def cancel(self, jobs: Iterable[Job]) -> None:
        """End jobs of this run, and nothing else."""
        ids = sorted({job.job_id for job in jobs if job.job_id})
        for start in range(0, len(ids), 500):
            try:
                commands.ask(["scancel", "--quiet", *ids[start : start + 500]])
            except commands.Unanswered as error:
                self._hear(str(error))

    def _sort(self, sightings: Iterable[Sighting]) -> tuple[dict[Key, list[Sighting]], dict[Key, Sighting]]:
        """The jobs of this run: those that may still run, and how the others ended."""
        live: dict[Key, list[Sighting]] = {}
        over: dict[Key, Sighting] = {}
        for seen in sightings:
            key = self._key(seen)
            if key is None or key in self._done:
                continue
            if states.judge(seen).phase != "ended":
                live.setdefault(key, []).append(seen)
            elif key not in over or (seen.submitted or 0) >= (over[key].submitted or 0):
                over[key] = seen
        return live, {key: seen for key, seen in over.items() if key not in live and key in self._open}

    def _keep_one_each(self, live: dict[Key, list[Sighting]]) -> None:
        """Of several jobs of one unit the one that came furthest is kept and the others are cancelled."""
        units: dict[str, list[tuple[Key, Sighting]]] = {}
        for key, found in live.items():
            batch = self._batch(key[0])
            assert batch is not None
            units.setdefault(batch.tasks[key[1]].target, []).extend((key, seen) for seen in found)
        for target, found_of in units.items():
            if len(found_of) == 1:
                continue
            kept, *others = sorted(found_of, key=_precedence)
            self._tell(
                f"{target} is in the queue as jobs {kept[1].job_id} and "
                f"{', '.join(seen.job_id for _, seen in others)}; keeping {kept[1].job_id}"
            )
            try:
                commands.ask(["scancel", "--quiet", *(seen.job_id for _, seen in others)])
            except commands.Unanswered as error:
                self._hear(str(error))
                continue
            for key, seen in others:
                live[key].remove(seen)
                if not live[key]:
                    del live[key]
                    if key in self._open:
                        self.settled(self._open[key], "CANCELLED as a duplicate")
                    self._done.add(key)

    def _follow(self, live: dict[Key, list[Sighting]], now: float) -> Iterator[Ended]:
        for key, found in live.items():
            job = self._open.get(key)
            if job is None:
                batch = self._batch(key[0])
                assert batch is not None
                job = self._add(Job(batch, key[1], None))
            if job.changed(found[0]):
                self._ledger.seen(job.batch, job.index, found[0])
            never = job.hopeless(now)
            if never is not None:
                self.cancel([job])
                self._close(job)
                self._ledger.seen(job.batch, job.index, found[0], ended=True)
                text = f"SLURM will never start job {job.job_id}: {never.text}"
                verdict = states.Verdict("ended", never.failure_class or "configuration", text)
                yield Ended(job, verdict, job.seen)

    def _restarted(self, now: float) -> Iterator[Ended]:
        """The instances of jobs that SLURM took back, with what only accounting knows: why."""
        again = [job for job in self._open.values() if job.seen and job.seen.restarts > job.restarts]
        told = self._instances(again) if again else {}
        for job in again:
            assert job.seen is not None
            number = job.seen.restarts - 1
            over = [seen for seen in told.get(job.seen.job_id, ()) if seen.ended or _is_end(seen)]
            instance = next((seen for seen in over if seen.restarts == number), None)
            if instance is None and self._accounting and not job.untold(now):
                self._doubtful = True
                continue
            job.asked_why()
            seen = instance or job.seen._replace(restarts=number, nodes="", exit_code=None, signal=None)
            yield Ended(job, states.interrupted(instance), seen, requeued=True)

    def _conclude(self, over: dict[Key, Sighting]) -> Iterator[Ended]:
        for key, seen in over.items():
            job = self._open[key]
            job.changed(seen)
            self._close(job)
            self._ledger.seen(job.batch, job.index, seen, ended=True)
            yield Ended(job, states.judge(seen), seen)

    def _search(self, missing: list[Job], now: float) -> Iterator[Ended]:
        """Jobs that slurmctld does not know (any more): accounting may."""
        if not missing:
            return
        over, outage = self._accounted(missing)
        self._doubtful = self._doubtful or not outage
        found = {key: seen for seen in over if (key := self._key(seen)) is not None}
        for job in missing:
            seen = found.get(job.key)
            if seen is not None and states.judge(seen).phase == "ended":
                yield from self._conclude({job.key: seen})
            elif job.job_id is None and seen is None:
                # slurmctld may still have the call before it that sbatch gave up waiting for.
                if outage or not job.lost(now, outage=False):
                    continue
                self._close(job)
                self._ledger.never(job.batch, job.index, "NEVER SUBMITTED", "")
                yield Ended(job, None)
            elif seen is None and self._accounting and not outage and job.vanished(now):
                # Nothing else leaves no trace: tasks are jobs of their own only once they start.
                yield self._give_up(job, "CANCELLED", "cancelled", "it was cancelled before it started")
            elif job.lost(now, outage=outage):
                yield self._give_up(job, "LOST", "unknown", "nothing says how it ended")

    def _detailed(self, over: dict[Key, Sighting], now: float) -> dict[Key, Sighting]:
        """The same ends with what only accounting knows: who cancelled, and how the steps ended.

        Without those of which it knows nothing yet, for a while.
        """
        jobs = [self._open[key] for key, seen in over.items() if seen.state in _VAGUE]
        told, outage = self._accounted(jobs) if jobs else ([], False)
        known = {key: seen for seen in told if (key := self._key(seen)) is not None}
        better = {
            key: seen._replace(restarts=over[key].restarts)
            for key, seen in known.items()
            if key in over and _is_end(seen)
        }
        late = set()
        if self._accounting and not outage:
            late = {job.key for job in jobs if job.key not in better and not job.untold(now)}
            self._doubtful = self._doubtful or bool(late)
        return {key: better.get(key, seen) for key, seen in over.items() if key not in late}

    def _give_up(self, job: Job, state: str, failure_class: str, text: str) -> Ended:
        self._close(job)
        self._ledger.settled(job.batch, job.index, job.job_id, state)
        text = f"SLURM does not know job {job.job_id} any more; {text}"
        return Ended(job, states.Verdict("ended", failure_class, text), job.seen)

    def _instances(self, jobs: list[Job]) -> dict[str, list[Sighting]]:
        try:
            return queries.instances([job.job_id for job in jobs if job.job_id]) if self._accounting else {}
        except commands.Unanswered as error:
            self._accounting = _DISABLED not in str(error)
            return {}

    def _accounted(self, missing: list[Job]) -> tuple[list[Sighting], bool]:
        """What accounting says of jobs, and whether it did not answer although there is one."""
        if not self._accounting:
            return [], False
        ids = [job.job_id for job in missing if job.job_id]
        names = {job.batch.name for job in missing}
        since = min(os.stat(job.batch.directory).st_mtime for job in missing) - 60
        try:
            told = queries.accounts(ids) if len(ids) == len(missing) else queries.accounts([], names, since)
            self._unaccounted = False
            return told, False
        except commands.Unanswered as error:
            if _DISABLED in str(error):
                self._accounting = False
                return [], False
            if not self._unaccounted:
                self._tell(
                    f"accounting does not answer ({error}); jobs that slurmctld has forgotten wait for it"
                )
            self._unaccounted = True
            return [], True

    def _count(self, target: str) -> None:
        self._submissions[target] = self._submissions.get(target, 0) + 1

    def _add(self, job: Job) -> Job:
        self._open[job.key] = job
        self._of_unit.setdefault(job.target, {})[job.key] = job
        return job

    def _close(self, job: Job) -> None:
        self._open.pop(job.key, None)
        self._of_unit.get(job.target, {}).pop(job.key, None)
        self._done.add(job.key)

    def _key(self, seen: Sighting) -> Key | None:
        """Which submission of this run a job is, by its name and index; None for a job of somebody else."""
        if self._prefix is None:
            self._prefix = batches.prefix(self._run)
        if not seen.name.startswith(self._prefix):
            return None
        identity = seen.name.removeprefix(self._prefix)
        batch = self._batch(identity)
        index = seen.job_id.partition("_")[2] or "0"
        if batch is None or not index.isdigit() or int(index) >= len(batch.tasks):
            return None
        return identity, int(index)

    def _batch(self, identity: str) -> Batch | None:
        if identity not in self._batches:
            self._batches[identity] = batches.load(self._run, identity)
        return self._batches[identity]

    def _hear(self, trouble: str | None) -> None:
        """Say once that SLURM does not answer, and once that it does again."""
        if trouble is not None and not self._silent:
            self._tell(
                f"SLURM does not answer ({trouble}); its jobs go on, and nothing is submitted until it does"
            )
        elif trouble is None and self._silent:
            self._tell("SLURM answers again")
        self._silent = trouble is not None

    @property
    def doubtful(self) -> bool:
        """Whether the last look left something open that the next one may tell."""
        return self._doubtful

    @property
    def silent(self) -> bool:
        """Whether SLURM did not answer when asked last."""
        return self._silent


def _facts(seen: Sighting) -> tuple[object, ...]:
    return seen.job_id, seen.state, seen.reason, seen.nodes, seen.restarts


def _is_end(seen: Sighting) -> bool:
    return states.judge(seen).phase == "ended"


def _precedence(found: tuple[Key, Sighting]) -> tuple[bool, float, float, str]:
    seen = found[1]
    running = states.judge(seen).phase == "running"
    return not running, seen.started or float("inf"), seen.submitted or float("inf"), seen.job_id
