"""The connection to one host: what is to start there, what runs there, and what came of it.

Calls wait for the host, so threads make them: up to four start work, one follows what runs. A call that
starts work waits a moment for its end, so that a short unit costs one call; what takes longer is followed by
one call for all, which the host answers when one of them ends. No answer says nothing about what runs there:
while a host cannot be reached nothing is concluded of what it may have begun, until it counts as lost.
"""

import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from ripresa.hosts import parcel as answers
from ripresa.hosts.client import Answer, Client, Refused
from ripresa.hosts.harvest import NotNow, Spoilt, harvest
from ripresa.hosts.parcel import CHANGED, Parcel, Task
from ripresa.hosts.standing import Down, Standing
from ripresa.hosts.transport import Unreachable
from ripresa.hosts.work import File, Shipper, Unshippable
from ripresa.journal import clock
from ripresa.recovery.dispatch import PUBLISHED

_LANES = 4
_BATCH = 8
_MOMENT_S = 0.5
"""How long a call that starts work waits for its end."""
_WATCH_S = 20.0
"""How long the call that follows waits for an end."""
_FORGET_S = 0.2
"""How long what is to be forgotten waits for a call that goes there anyway."""
_AGAIN_S, _AGAIN_MOST_S = 1.0, 30.0
_RINGS, _RING_S = 20, 0.05
_SPARE_S = 60.0
"""How much longer than its limits a command may be there at most."""
_CLOSE_S = 10.0
"""How long the end waits for calls that are under way."""
_LOCAL_S = 10.0
"""How long results wait while they cannot be written here."""


class Notify(NamedTuple):
    """Whom a link tells what; called from its threads."""

    settled: Callable[[Parcel, str], None]
    """A parcel, and the outcome of its attempt."""
    changed: Callable[[], None]
    """The host became known, or was lost or found."""
    say: Callable[[str], None]


class Link:
    """One host as the controller sees it; if it has not answered for ``lost_s`` it counts as lost."""

    def __init__(self, client: Client, shipper: Shipper, notify: Notify, *, lost_s: float) -> None:
        self.host = client.host
        self.name = client.host.name
        self.shared = _is_true(client.host.variables.get("ripresa_shared"))
        self.facts: Mapping[str, Any] | None = None
        """What the host says of itself; None before it was reached."""
        self._standing = Standing(self.name, lost_s)
        self._client = client
        self._shipper = shipper
        self._notify = notify
        self._lanes = ThreadPoolExecutor(_LANES, thread_name_prefix=f"to {self.name}")
        self._busy = 0
        self._state = threading.Condition()
        self._queue: list[Parcel] = []
        self._followed: dict[str, Parcel] = {}
        self._doubtful: list[Parcel] = []
        """What may have begun, to be asked for when the host answers again."""
        self._forgets: list[dict[str, Any]] = []
        self._door: str | None = None
        """That of the call that follows, while there is one; it knows of these units."""
        self._known: frozenset[str] = frozenset()
        self._unwanted: weakref.WeakSet[Task] = weakref.WeakSet()
        self._closed = False
        threading.Thread(target=self._watch, name=f"on {self.name}", daemon=True).start()

    @property
    def down(self) -> Down | None:
        """Why the host cannot be used."""
        return self._standing.down

    @property
    def lost(self) -> bool:
        """Whether the host has been unreachable for so long that nothing waits for it any more."""
        return self._standing.lost() is not None

    def open(self) -> None:
        """Ask the host what it is, in the background."""
        self._employ(self._ask)

    def start(self, parcel: Parcel) -> None:
        """Have an attempt executed, or followed if it runs there already."""
        with self._state:
            self._queue.append(parcel)
        self._employ()

    def cancel(self, tasks: Iterable[Task]) -> None:
        """Have attempts ended: they settle as cancelled."""
        wanted = set(tasks)
        with self._state:
            self._unwanted.update(wanted)  # also those that a call is starting right now
            # What may run there already has to be found there before it can be ended.
            waiting = {one for one in self._queue if one.task in wanted and not one.in_doubt}
            self._queue = [one for one in self._queue if one not in waiting]
            running = [one for one in self._followed.values() if one.task in wanted]
        for parcel in waiting:
            self._lose(parcel, "cancelled", "told to end before it began", patient=False)
        if running:
            try:
                self._call([one.named("cancel") for one in running])
            except (Unreachable, Refused) as error:
                self._notify.say(f"host {self.name}: not cancelled there: {error.evidence}")

    def close(self) -> None:
        """Stop; what runs on the host goes on."""
        with self._state:
            self._closed = True
            self._queue.clear()
            self._state.notify_all()
        self._client.close()
        self._lanes.shutdown(wait=False, cancel_futures=True)

    def clean(self) -> str | None:
        """Stop, and remove all of this run from the host with what may still run there; why not, if not."""
        self.close()
        return self._client.clean(_CLOSE_S)

    # All below runs in the threads.

    def _employ(self, work: Callable[[], None] | None = None) -> None:
        with self._state:
            if self._closed or self._busy >= _LANES:
                return  # a busy lane looks at the queue before it ends
            self._busy += 1
            self._lanes.submit(self._lane, work)

    def _lane(self, work: Callable[[], None] | None) -> None:
        try:
            if work is not None:
                work()
            self._launch_all()
        except Exception as error:  # a mistake of ours must be seen, and must not stop the other lanes
            self._notify.say(_mistake(self.name, error))
            with self._state:
                self._busy -= 1
            raise

    def _ask(self) -> None:
        try:
            self._call([])
        except (Unreachable, Refused):
            return  # `down` says so

    def _launch_all(self) -> None:
        while True:
            with self._state:
                batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
                if not batch or self._closed:
                    self._busy -= 1
                    return
            try:
                self._launch(batch)
            except Exception as error:
                why = _mistake(self.name, error)
                with self._state:
                    kept = {*self._queue, *self._followed.values(), *self._doubtful}
                for parcel in batch:
                    if not parcel.settled and parcel not in kept:
                        # It may run there, so it must not be begun elsewhere.
                        self._lose(parcel, "unknown", why, give_up=why)
                raise

    def _launch(self, batch: list[Parcel]) -> None:
        gone = self._standing.lost()
        if gone and self._standing.since_tried_s() < _AGAIN_MOST_S:
            # Each would wait for the host as long as a connection takes to fail.
            for parcel in batch:
                self._give_back(parcel, gone, begun=parcel.in_doubt, final=True)
            return
        ready: list[tuple[Parcel, list[File]]] = []
        for parcel in batch:
            try:
                ready.append((parcel, [] if self.shared else self._shipper.files(parcel.work)))
            except Unshippable as error:
                self._lose(parcel, "configuration", str(error))
            except OSError as error:
                self._lose(parcel, "data", f"cannot read an input: {error}")
        parcels = [parcel for parcel, _ in ready]
        if not parcels:
            return
        try:
            # What may be there already is asked for first, and needs no files then.
            self._client.put(file for parcel, files in ready if not parcel.in_doubt for file in files)
            self._start(ready)
        except (Unreachable, Refused) as error:
            if isinstance(error, Unreachable) or error.whole:
                self._fell(error)
            self._failed(parcels, error)
        except OSError as error:
            for parcel in parcels:
                self._lose(parcel, "data", f"cannot read an input: {error}")

    def _start(self, ready: Sequence[tuple[Parcel, list[File]]]) -> None:
        directory = os.getcwd() if self.shared else None
        orders = [
            parcel.named("cancel") if parcel.unwanted else parcel.order(files, directory)
            for parcel, files in ready
        ]
        follow = {parcel.key: parcel.sent.token for parcel, _ in ready}
        try:
            answer, results = self._call(orders, follow, wait_s=_MOMENT_S)
        except (Unreachable, Refused) as error:
            for parcel, _ in ready:
                parcel.in_doubt |= error.sent
            raise
        steps = [
            (parcel, parcel.understand(result)) for (parcel, _), result in zip(ready, results, strict=True)
        ]
        with self._state:
            for parcel, step in steps:
                parcel.in_doubt = False
                if step == answers.FOLLOW:
                    self._followed[parcel.key] = parcel
        self._take(answer, follow)
        for (parcel, step), result in zip(steps, results, strict=True):
            if step == answers.FAILED:
                self._lose(parcel, result["error"], f"host {self.name}: {result['evidence']}")
            elif step == answers.GONE:
                self._lose(parcel, *CHANGED)
            elif step != answers.FOLLOW:
                self._start_again(parcel, step, result)
            elif parcel.task in self._unwanted:
                self.cancel([parcel.task])
        self._ring()

    def _start_again(self, parcel: Parcel, step: str, result: Mapping[str, Any]) -> None:
        """What is in the way of an attempt there goes first."""
        if step == answers.SEND_FILES:
            self._client.forgot(result["files"])
        else:
            op = "forget" if step == answers.AGAIN else "cancel"
            try:
                self._call([{"op": op, "key": parcel.key, "token": result["token"], "keep": False}])
            except (Unreachable, Refused) as error:
                # It must not go elsewhere while another attempt of it may run here.
                parcel.in_doubt = True
                self._failed([parcel], error)
                return
            if step == answers.STOP_OTHER:
                time.sleep(_AGAIN_S)
        with self._state:
            self._queue.append(parcel)

    def _failed(self, parcels: Iterable[Parcel], error: Unreachable | Refused) -> None:
        for parcel in parcels:
            if parcel.in_doubt:
                with self._state:
                    self._doubtful.append(parcel)
                    self._state.notify_all()
            elif gone := self._standing.lost():
                self._give_back(parcel, gone, begun=False, final=True)
            else:
                self._lose(parcel, error.failure_class, error.evidence)

    def _ring(self) -> None:
        """Have the call that follows come back, if it does not know of all that there is to follow."""
        with self._state:
            self._state.notify_all()
        for _ in range(_RINGS):
            with self._state:
                door, known = self._door, self._known
                if door is None or self._followed.keys() <= known:
                    return
            try:
                _, results = self._call([{"op": "ring", "door": door}])
            except (Unreachable, Refused):
                return  # the call that follows has found out, too
            if results[0].get("rung"):
                return
            time.sleep(_RING_S)  # it is on its way there

    def _watch(self) -> None:
        pause = _AGAIN_S
        while self._has_to_call():
            try:
                if self._follow():
                    pause = _AGAIN_S
                    continue
            except Exception as error:  # a mistake of ours must be seen; what runs there goes on
                self._notify.say(_mistake(self.name, error))
            if gone := self._standing.lost():
                self._give_up(gone)
            until_lost_s = self._standing.until_lost_s()
            with self._state:
                if not self._closed:
                    # That the host counts as lost is to be told without delay.
                    self._state.wait(pause if until_lost_s is None else min(pause, until_lost_s + _AGAIN_S))
            pause = min(2 * pause, _AGAIN_MOST_S)

    def _has_to_call(self) -> bool:
        """Wait until there is something to follow, to ask for or to forget; False if the link is closed."""
        with self._state:
            while not (self._closed or self._followed or self._doubtful or self._forgets):
                self._state.wait()
            if not self._closed and not self._followed and not self._doubtful and self.down is None:
                self._state.wait(_FORGET_S)
            return not self._closed

    def _follow(self) -> bool:
        """One call that waits for an end of what runs there; False if the host could not be used."""
        with self._state:
            follow = {key: parcel.sent.token for key, parcel in self._followed.items()}
            self._door, self._known = uuid.uuid4().hex[:24], frozenset(follow)
        try:
            answer, _ = self._call([], follow, wait_s=_WATCH_S, door=self._door)
        except (Unreachable, Refused):
            return False
        finally:
            with self._state:
                self._door = None
        self._resend()
        self._take(answer, follow)
        return True

    def _resend(self) -> None:
        with self._state:
            doubtful, self._doubtful = self._doubtful, []
        for parcel in doubtful:
            self.start(parcel)

    def _give_up(self, lost: Down) -> None:
        with self._state:
            gone = [*self._followed.values(), *self._doubtful]
            self._followed.clear()
            self._doubtful.clear()
            self._forgets.clear()
        for parcel in gone:
            over = _is_over(parcel)
            self._give_back(parcel, lost, begun=not over, final=not over)
        self._notify.changed()

    def _give_back(self, parcel: Parcel, lost: Down, *, begun: bool, final: bool) -> None:
        """Settle what a lost host had or was to have; ``final``: it is not to be tried again."""
        failure_class, why = self._standing.judge(lost, begun=begun)
        self._lose(parcel, failure_class, why, give_up=why if final else None)

    def _take(self, answer: Answer, asked: Mapping[str, str]) -> None:
        """Take what the host says of what runs there; ``asked``: of which attempts, key -> token."""
        for key, state in answer["units"].items():
            parcel = self._followed.get(key)
            if parcel is None or parcel.sent.token != asked.get(key):
                continue  # another attempt of it is followed by now
            if state["state"] == "running":
                told = state.get("progress") or {}
                if told and told != parcel.progress:
                    parcel.progress = told
                    parcel.task.progress(parcel.sent, told)
            elif state["state"] == "ended":
                self._harvest(parcel, state)
            elif self._unfollow(parcel):
                self._lose(parcel, "node", f"host {self.name} has no trace of the attempt any more")

    def _harvest(self, parcel: Parcel, state: Mapping[str, Any]) -> None:
        """Bring back what an ended attempt made and printed, and settle it."""
        if not self._unfollow(parcel):
            return  # the other kind of call has it
        outcome = None
        try:
            outcome = harvest(self._client, parcel, state, self._most())
        except (Unreachable, Refused) as error:
            self._fell(error)
            self._refollow(parcel, _AGAIN_S)
        except NotNow as error:
            self._notify.say(f"{parcel.task.target}: cannot take in its results: {error}; trying again")
            self._refollow(parcel, _LOCAL_S)
        except Spoilt as error:
            outcome = self._lost(parcel, error.failure_class, error.evidence)
        if outcome is None:
            return
        with self._state:
            self._forgets.append(parcel.named("forget", keep=outcome != PUBLISHED))
            self._state.notify_all()
        self._settle(parcel, outcome)

    def _refollow(self, parcel: Parcel, after_s: float) -> None:
        with self._state:
            self._followed[parcel.key] = parcel
            self._state.notify_all()
        self._wait(after_s)

    def _unfollow(self, parcel: Parcel) -> bool:
        with self._state:
            if self._followed.get(parcel.key) is not parcel:
                return False
            del self._followed[parcel.key]
            return True

    def _lose(
        self,
        parcel: Parcel,
        failure_class: str,
        evidence: str,
        *,
        give_up: str | None = None,
        patient: bool = True,
    ) -> None:
        """Settle an attempt of which nothing comes back."""
        outcome = self._lost(parcel, failure_class, evidence, give_up=give_up, patient=patient)
        if outcome is not None:
            self._settle(parcel, outcome)

    def _settle(self, parcel: Parcel, outcome: str) -> None:
        parcel.settled = True
        self._notify.settled(parcel, outcome)

    def _lost(
        self,
        parcel: Parcel,
        failure_class: str,
        evidence: str,
        *,
        give_up: str | None = None,
        patient: bool = True,
    ) -> str | None:
        """Record that nothing comes back, ``patient``: as soon as that can be written down; the outcome."""
        while True:
            try:
                return parcel.task.lose(parcel.sent, failure_class, evidence, give_up=give_up)
            except OSError as error:
                self._notify.say(f"{parcel.task.target}: cannot write down how it failed: {error}")
                if not patient or self._wait(_LOCAL_S):
                    return None

    def _wait(self, seconds: float) -> bool:
        """Wait so long; True if the link is closed meanwhile."""
        with self._state:
            return self._state.wait_for(lambda: self._closed, seconds)

    def _call(
        self,
        do: Sequence[Mapping[str, Any]],
        follow: Mapping[str, str] | None = None,
        *,
        wait_s: float = 0.0,
        door: str | None = None,
    ) -> tuple[Answer, list[dict[str, Any]]]:
        """One call, which also carries what is pending; returns its answer, and the results of ``do``."""
        with self._state:
            first = [*self._forgets]
            self._forgets = []
        if self.facts is None:
            first.append({"op": "hello"})
        try:
            answer = self._client.exchange([*first, *do], follow, wait_s=wait_s, door=door)
        except (Unreachable, Refused) as error:
            with self._state:
                self._forgets[:0] = [op for op in first if op["op"] == "forget"]
            self._fell(error)
            raise
        results = answer["done"]
        facts = results[len(first) - 1] if self.facts is None else {}
        if "error" in facts:
            refused = Refused(facts["error"], f"host {self.name}: {facts['evidence']}", sent=True, whole=True)
            self._fell(refused)
            raise refused
        self._reached(facts)
        return answer, results[len(first) :]

    def _reached(self, facts: Mapping[str, Any]) -> None:
        back = self._standing.reached()
        if back:
            self._notify.say(f"host {self.name} answers again")
        if facts:
            self.facts = facts
        if back or facts:
            with self._state:
                self._state.notify_all()
            self._notify.changed()

    def _fell(self, error: Unreachable | Refused) -> None:
        if self._closed:
            return
        known = self._standing.fell(error)
        if known is None:
            self._notify.changed()
        if known is None or known.failure_class != error.failure_class:
            self._notify.say(f"host {self.name} cannot be used: {error.evidence}")

    def _most(self) -> dict[str, float]:
        facts = self.facts or {}
        return {"mem_mb": float(facts["mem_mb"])} if facts.get("mem_mb") else {}


def _is_true(value: Any) -> bool:
    """What Ansible takes for true; inventories in the INI format have strings."""
    return str(value).strip().lower() in ("true", "yes", "on", "y", "t", "1", "1.0")


def _mistake(host: str, error: Exception) -> str:
    return f"host {host}: internal error: {type(error).__name__}: {error}"


def _is_over(parcel: Parcel) -> bool:
    """Whether a command must have ended by now because its host enforces a limit."""
    limits = parcel.work.limits
    if limits.wall_s is None:
        return False
    since = clock.seconds(parcel.sent.started)
    return time.time() - since > limits.wall_s + limits.grace_s + _SPARE_S
