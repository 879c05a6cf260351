"""Turns: take in what is offered, adopt or place it, tell Snakemake what became of it.

All decisions are made by the one thread that Snakemake starts for watching; the links to the hosts only tell
it when something happened there.
"""

import logging
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from ripresa.hosts.fleet import Fleet, Room, impossible
from ripresa.hosts.link import Link, Notify
from ripresa.hosts.parcel import Parcel
from ripresa.hosts.transport import PatternError, Transport
from ripresa.journal.paths import Run
from ripresa.recovery.dispatch import HELD, PUBLISHED, Sent
from snakemake_executor_plugin_ansible.followers import Followers
from snakemake_executor_plugin_ansible.jobs import Offer, offer
from snakemake_executor_plugin_ansible.peer import Peer, work_here, work_there
from snakemake_executor_plugin_ansible.reach import Reach, at_once

_BEAT_S = 5.0
_LATER_S = 10.0
"""How long anything is put off while the journal cannot be written."""
_HELD_S = 1.0
_ENDING = 32
"""Other halves of units that are ended at a time."""
_CANCEL_S = 10.0
"""How long cancelled units may take beyond their grace."""


class Snakemake(Protocol):
    """Who is told what becomes of the jobs."""

    def report_job_submission(self, job_info: SubmittedJobInfo) -> None:
        """It runs from now on."""

    def report_job_success(self, job_info: SubmittedJobInfo) -> None:
        """Its outputs are there."""

    def report_job_error(self, job_info: SubmittedJobInfo, msg: str | None = None) -> None:
        """It failed."""


class Watch:
    """The jobs of one call of snakemake on the hosts of an inventory."""

    def __init__(self, inventory: str | None, snakemake: Snakemake, logger: logging.Logger) -> None:
        directory = os.environ.get("RIPRESA_RUN")
        self._run = Run(os.path.relpath(directory)) if directory else None
        self._session = os.environ.get("RIPRESA_SESSION", "none")
        self._snakemake = snakemake
        self._logger = logger
        # What another thread still writes there at the end goes with the machine's temporary files.
        self._directory = tempfile.TemporaryDirectory(prefix="ripresa-", ignore_cleanup_errors=True)
        """For what Ansible writes."""
        transport = Transport([inventory] if inventory else [], self._directory.name, logger.warning)
        self._bell = threading.Event()
        notify = Notify(self._settle, self._bell.set, logger.warning)
        self._reach = Reach(transport, self._run, notify, logger)
        self._fleet = Fleet()
        self._followers = Followers()
        self._dag: Any = None
        self._lock = threading.Lock()
        self._offered: list[Offer] = []
        self._queued: list[Offer] = []
        self._running: dict[str, Offer] = {}
        self._settled: SimpleQueue[tuple[Parcel, str]] = SimpleQueue()
        self._threads = ThreadPoolExecutor(_ENDING, thread_name_prefix="ends")
        self._beaten = time.monotonic()
        self._paused_until = 0.0
        self._cancelled = False
        self._draining = False

    def take(self, jobs: Sequence[Any], workflow: Any, in_snakemake: Callable[[Any], str]) -> None:
        """Take jobs in, from any thread."""
        offers = [offer(job, workflow, in_snakemake) for job in jobs]
        with self._lock:
            self._dag = workflow.dag
            self._offered += offers
        self._bell.set()

    def wait(self, seconds: float) -> None:
        """Sleep until something happens, or that long."""
        self._bell.wait(seconds)
        self._bell.clear()

    def wake(self) -> None:
        """End a `wait`."""
        self._bell.set()

    def turn(self) -> None:
        """Do what there is to do now."""
        self._hear()
        with self._lock:
            self._followers.offered([one.job for one in self._offered])
            self._queued += self._offered
            self._offered = []
        now = time.monotonic()
        if now < self._paused_until:
            return
        try:
            if now - self._beaten > _BEAT_S:
                self._beaten = now
                for one in [*self._running.values(), *self._queued]:
                    one.task.beat()
            self._place()
        except OSError as error:
            # A full disk, most likely. What cannot be written down must not be done; what runs goes on.
            self._logger.warning(f"cannot send anything: {error}; trying again in {_LATER_S:.0f} s")
            self._paused_until = now + _LATER_S

    def drain(self) -> None:
        """Begin with nothing more: what waits for a host is given back, as Snakemake waits for what runs.

        May be called by a signal handler.
        """
        self._draining = True  # no more, as signal handlers must not take the lock of the bell

    def cancel(self) -> None:
        """End what this call runs, and wait until it has ended."""
        self._cancelled = True
        running = [*self._running.values()]

        def end_all(link: Link) -> None:
            link.cancel([one.task for one in running if one.host == link.name])

        at_once(end_all, [*self._reach.links.values()])
        end = time.monotonic() + _CANCEL_S + float(os.environ.get("RIPRESA_GRACE_S", "10"))
        while self._running and time.monotonic() < end:
            self.wait(0.2)
            self._hear()

    def close(self) -> None:
        """Let go of all units, remove what is left on the hosts, end the connections."""
        self._cancelled = True
        self._threads.shutdown(wait=True)
        for one in [*self._running.values()]:
            one.task.leave()
        # Not where units were left running on purpose.
        self._reach.clean({host for one in self._running.values() for host in (one.host, one.peer_host)})
        self._reach.close()
        self._directory.cleanup()

    def _hear(self) -> None:
        """Tell Snakemake what became of the units that settled."""
        while True:
            try:
                parcel, outcome = self._settled.get_nowait()
            except Empty:
                return
            one = self._running.pop(parcel.task.target, None)
            if one is not None:
                self._finish(one, outcome)
            elif isinstance(parcel.task, Peer):
                self._fleet.remove_anywhere(parcel.task.target)

    def _finish(self, one: Offer, outcome: str) -> None:
        if one.host is not None:
            self._fleet.remove(one.host, one.target)
            if one.peer is not None and one.peer_host is not None:
                self._threads.submit(self._reach.link(one.peer_host).cancel, [one.peer])
        one.task.release()
        info = one.info or SubmittedJobInfo(one.job)
        if outcome == PUBLISHED:
            if one.host is not None:
                self._followers.expect(one.host, one.job, self._dag)
            self._snakemake.report_job_success(info)
            return
        last = one.task.outcome()
        known = f"{last.get('failure_class')}: {last.get('evidence')}" if last.get("attempt") else None
        text = known or last.get("evidence") or outcome
        self._snakemake.report_job_error(info, msg=f"{one.target}: {text}. ")

    def _place(self) -> None:
        self._fleet.new_round()
        self._reach.note_lost()
        self._reach.roster.prepare(
            name for one in self._queued for name in (one.pattern, one.peer_host) if name
        )
        # Whoever became ready later may be the more urgent; else in the order in which Snakemake chose.
        self._queued.sort(key=lambda one: -one.job.priority)
        # What earlier controllers sent has its place on a host before anything else goes there.
        self._for_each(self._look_at)
        self._for_each(self._try)

    def _for_each(self, do: Callable[[Offer], bool]) -> None:
        """Do it to each unit that waits; those that it does not bring on their way go on waiting."""
        queued, self._queued = self._queued, []
        for number, one in enumerate(queued):
            if self._cancelled:
                self._queued += queued[number:]
                return
            try:
                waits = one.not_before > time.monotonic() and not self._draining
                if waits or not do(one):
                    self._queued.append(one)
            except OSError:
                self._queued += queued[number:]
                raise

    def _look_at(self, one: Offer) -> bool:
        """Take up what is known of a unit; False if it is to be executed, or looked at again."""
        if one.looked_at:
            return False
        settled = self._take(one)
        if settled is not None:
            return settled
        # Held only while it runs: what waits for a host is not being executed.
        one.task.release()
        one.looked_at = True
        return False

    def _try(self, one: Offer) -> bool:
        """Bring one unit on its way, or to its end; False if it has to wait."""
        if self._draining:
            self._send_back(one, "the run is to end")
            return True
        wait_s = one.task.wait_s()
        if wait_s > 0:
            one.not_before = time.monotonic() + wait_s
            return False
        try:
            rooms = self._reach.rooms(one.pattern, one.needs, one.job.name)
            there = self._room_of_peer(one)
        except ValueError as error:
            return self._reject(one, str(error))
        if rooms is None or there is None:
            return False
        held_back = False

        def is_let_through(name: str) -> bool:
            nonlocal held_back
            if self._followers.come_first(name, one.job.priority):
                return False
            for peer, room in there.items():
                if name == peer or not self._fleet.has_room(peer, room, one.needs):
                    self._fleet.reserve(name, peer)
                    return False
            through = one.task.is_let_through(name)
            held_back |= not through
            return through

        host = self._fleet.choose(rooms, one.needs, is_let_through)
        if host is None:
            if why := impossible(rooms, one.needs) or impossible(there, one.needs):
                return self._reject(one, why)
            # The recovery scheduler waits for breakers, and holds nothing meanwhile.
            if held_back and os.environ.get("RIPRESA_SCHEDULER") == "recovery":
                self._send_back(one, "a breaker is open")
                return True
            return False
        settled = self._take(one)
        if settled is not None:
            return settled
        try:
            sent = one.task.begin(host, uuid.uuid4().hex)
        except OSError:
            one.task.release()
            raise
        self._send(one, sent)
        return True

    def _send_back(self, one: Offer, why: str) -> None:
        """Have Snakemake's scheduler offer a unit again: no attempt was made."""
        self._snakemake.report_job_error(SubmittedJobInfo(one.job), msg=f"{one.target}: not yet, {why}. ")

    def _take(self, one: Offer) -> bool | None:
        """Take the lease of a unit; None if it has it now and is to be sent to a host.

        Else whether it is on its way or at its end: it may be published or given up, or an earlier controller
        has sent it to a host.
        """
        standing = one.task.take()
        if standing is None:
            return None
        if isinstance(standing, Sent):
            return self._adopt(one, standing)
        if standing == HELD:
            one.not_before = time.monotonic() + _HELD_S
            return False
        self._finish(one, standing)
        return True

    def _adopt(self, one: Offer, sent: Sent) -> bool:
        try:
            self._reach.link(sent.host)
            self._meet_peer(one)
        except PatternError as error:
            gone = f"an attempt of it was sent to host {sent.host}: {error}"
            try:
                outcome = one.task.lose(sent, "node", gone, give_up=gone)
            except OSError:
                one.task.leave()
                raise
            self._finish(one, outcome)
            return True
        except OSError:
            one.task.leave()
            raise
        self._logger.info(f"{one.target}: going on with its attempt on host {sent.host}")
        self._send(one, sent, adopted=True)
        return True

    def _meet_peer(self, one: Offer) -> None:
        """Have the link to the other host of a unit, which goes on without one that is not there any more."""
        try:
            if one.peer_host is not None:
                self._reach.link(one.peer_host)
        except PatternError:
            one.peer = one.peer_host = None

    def _send(self, one: Offer, sent: Sent, *, adopted: bool = False) -> None:
        link, work = self._reach.link(sent.host), one.make(sent)
        if one.peer is not None and one.peer_host is not None:
            peer = self._reach.link(one.peer_host)
            self._fleet.put(peer.name, one.peer.target, one.needs)
            peer.start(Parcel(one.peer, sent, work_there(work), self._session, adopted=adopted))
            work = work_here(work, peer.host.address)
        self._follow(one, sent.host)
        link.start(Parcel(one.task, sent, work, self._session, adopted=adopted))
        if self._cancelled:
            link.cancel([one.task])  # who cancels may not have seen it among those that run

    def _follow(self, one: Offer, host: str) -> None:
        """From now on Snakemake takes the job for running."""
        one.host = host
        self._fleet.put(host, one.target, one.needs)
        self._running[one.target] = one
        one.info = SubmittedJobInfo(one.job, external_jobid=host)
        self._snakemake.report_job_submission(one.info)

    def _reject(self, one: Offer, text: str) -> bool:
        """The inventory has no host for a unit; False if it has to wait even for that."""
        settled = self._take(one)
        if settled is not None:
            return settled
        try:
            outcome = one.task.lose(one.task.begin("none", uuid.uuid4().hex), "configuration", text)
        except OSError:
            one.task.release()
            raise
        self._finish(one, outcome)
        return True

    def _room_of_peer(self, one: Offer) -> dict[str, Room] | None:
        """As `Reach.rooms`, of the other host of a unit that runs on two."""
        if one.peer is None or one.peer_host is None:
            return {}
        peer = self._reach.roster.host(one.peer_host).name
        if {*self._reach.roster.hosts(one.pattern)} == {peer}:
            raise ValueError(f"the other host of a unit on {peer} cannot be {peer} itself")
        if one.peer.target in self._fleet.used(peer):
            return None  # that of an earlier attempt has not ended yet
        return self._reach.rooms(peer, one.needs, one.job.name)

    def _settle(self, parcel: Parcel, outcome: str) -> None:
        self._settled.put((parcel, outcome))
        self._bell.set()
