"""The connection to one host: what is to start there is sent, and then followed until it has ended.

Calls wait for the host, so threads make them: up to four lanes start work, one thread follows what runs (see
`ripresa.hosts.following`). A call that starts work waits a moment for its end, so that a short unit costs one
call.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from ripresa.hosts import parcel as answers
from ripresa.hosts.client import Client, Refused
from ripresa.hosts.contact import AGAIN_MOST_S, AGAIN_S, Contact
from ripresa.hosts.following import Following
from ripresa.hosts.parcel import CHANGED, Parcel, Task
from ripresa.hosts.settling import Settling
from ripresa.hosts.standing import Down
from ripresa.hosts.transport import Unreachable
from ripresa.hosts.work import File, Shipper, Unshippable

_LANES = 4
_BATCH = 8
_MOMENT_S = 0.5
"""How long a call that starts work waits for its end."""
_CLOSE_S = 10.0
"""How long the end waits for calls that are under way."""


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
        self._client = client
        self._shipper = shipper
        self._contact = Contact(client, lost_s, notify.changed, notify.say)
        self._state = self._contact.state
        self._settling = Settling(self._contact, notify.settled)
        self._following = Following(self._contact, self._settling, self.start)
        self._lanes = ThreadPoolExecutor(_LANES, thread_name_prefix=f"to {self.name}")
        self._busy = 0
        self._queue: list[Parcel] = []
        self._unwanted: weakref.WeakSet[Task] = weakref.WeakSet()
        threading.Thread(target=self._following.watch, name=f"on {self.name}", daemon=True).start()

    @property
    def facts(self) -> Mapping[str, Any] | None:
        """What the host says of itself; None before it was reached."""
        return self._contact.facts

    @property
    def down(self) -> Down | None:
        """Why the host cannot be used."""
        return self._contact.standing.down

    @property
    def lost(self) -> bool:
        """Whether the host has been unreachable for so long that nothing waits for it any more."""
        return self._contact.standing.lost() is not None

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
            running = [one for one in self._following.running.values() if one.task in wanted]
        for parcel in waiting:
            self._settling.lose(parcel, "cancelled", "told to end before it began", patient=False)
        if running:
            try:
                self._contact.call([one.named("cancel") for one in running])
            except (Unreachable, Refused) as error:
                self._contact.say(f"host {self.name}: not cancelled there: {error.evidence}")

    def close(self) -> None:
        """Stop; what runs on the host goes on."""
        with self._state:
            self._queue.clear()
            self._contact.close()
        self._lanes.shutdown(wait=False, cancel_futures=True)

    def clean(self) -> str | None:
        """Stop, and remove all of this run from the host with what may still run there; why not, if not."""
        self.close()
        return self._client.clean(_CLOSE_S)

    # All below runs in the lanes.

    def _employ(self, work: Callable[[], None] | None = None) -> None:
        with self._state:
            if self._contact.closed or self._busy >= _LANES:
                return  # a busy lane looks at the queue before it ends
            self._busy += 1
            self._lanes.submit(self._lane, work)

    def _lane(self, work: Callable[[], None] | None) -> None:
        try:
            if work is not None:
                work()
            self._launch_all()
        except Exception as error:  # a mistake of ours must be seen, and must not stop the other lanes
            self._contact.say(self._contact.mistake(error))
            with self._state:
                self._busy -= 1
            raise

    def _ask(self) -> None:
        try:
            self._contact.call([])
        except (Unreachable, Refused):
            return  # `down` says so

    def _launch_all(self) -> None:
        while True:
            with self._state:
                batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
                if not batch or self._contact.closed:
                    self._busy -= 1
                    return
            try:
                self._launch(batch)
            except Exception as error:
                why = self._contact.mistake(error)
                with self._state:
                    kept = {*self._queue, *self._following.running.values(), *self._following.doubtful}
                for parcel in batch:
                    if not parcel.settled and parcel not in kept:
                        # It may run there, so it must not be begun elsewhere.
                        self._settling.lose(parcel, "unknown", why, give_up=why)
                raise

    def _launch(self, batch: list[Parcel]) -> None:
        standing = self._contact.standing
        gone = standing.lost()
        if gone and standing.since_tried_s() < AGAIN_MOST_S:
            # Each would wait for the host as long as a connection takes to fail.
            for parcel in batch:
                self._settling.give_back(parcel, gone)
            return
        ready: list[tuple[Parcel, list[File]]] = []
        for parcel in batch:
            try:
                ready.append((parcel, [] if self.shared else self._shipper.files(parcel.work)))
            except Unshippable as error:
                self._settling.lose(parcel, "configuration", str(error))
            except OSError as error:
                self._settling.lose(parcel, "data", f"cannot read an input: {error}")
        parcels = [parcel for parcel, _ in ready]
        if not parcels:
            return
        try:
            # What may be there already is asked for first, and needs no files then.
            self._client.put(file for parcel, files in ready if not parcel.in_doubt for file in files)
            self._start(ready)
        except (Unreachable, Refused) as error:
            if isinstance(error, Unreachable) or error.whole:
                self._contact.fell(error)
            self._failed(parcels, error)
        except OSError as error:
            for parcel in parcels:
                self._settling.lose(parcel, "data", f"cannot read an input: {error}")

    def _start(self, ready: Sequence[tuple[Parcel, list[File]]]) -> None:
        directory = os.getcwd() if self.shared else None
        orders = [
            parcel.named("cancel") if parcel.unwanted else parcel.order(files, directory)
            for parcel, files in ready
        ]
        follow = {parcel.key: parcel.sent.token for parcel, _ in ready}
        try:
            answer, results = self._contact.call(orders, follow, wait_s=_MOMENT_S)
        except (Unreachable, Refused) as error:
            for parcel, _ in ready:
                parcel.in_doubt |= error.sent
            raise
        steps = [
            (parcel, parcel.understand(result)) for (parcel, _), result in zip(ready, results, strict=True)
        ]
        with self._state:
            for parcel, _ in steps:
                parcel.in_doubt = False
            self._following.add(parcel for parcel, step in steps if step == answers.FOLLOW)
        self._following.take(answer, follow)
        for (parcel, step), result in zip(steps, results, strict=True):
            if step == answers.FAILED:
                self._settling.lose(parcel, result["error"], f"host {self.name}: {result['evidence']}")
            elif step == answers.GONE:
                self._settling.lose(parcel, *CHANGED)
            elif step != answers.FOLLOW:
                self._start_again(parcel, step, result)
            elif parcel.task in self._unwanted:
                self.cancel([parcel.task])
        self._following.ring()

    def _start_again(self, parcel: Parcel, step: str, result: Mapping[str, Any]) -> None:
        """What is in the way of an attempt there goes first."""
        if step == answers.SEND_FILES:
            self._client.forgot(result["files"])
        else:
            op = "forget" if step == answers.AGAIN else "cancel"
            try:
                self._contact.call([{"op": op, "key": parcel.key, "token": result["token"], "keep": False}])
            except (Unreachable, Refused) as error:
                # It must not go elsewhere while another attempt of it may run here.
                parcel.in_doubt = True
                self._failed([parcel], error)
                return
            if step == answers.STOP_OTHER:
                time.sleep(AGAIN_S)
        with self._state:
            self._queue.append(parcel)

    def _failed(self, parcels: Iterable[Parcel], error: Unreachable | Refused) -> None:
        for parcel in parcels:
            if parcel.in_doubt:
                self._following.doubt(parcel)
            elif gone := self._contact.standing.lost():
                self._settling.give_back(parcel, gone)
            else:
                self._settling.lose(parcel, error.failure_class, error.evidence)


def _is_true(value: Any) -> bool:
    """What Ansible takes for true; inventories in the INI format have strings."""
    return str(value).strip().lower() in ("true", "yes", "on", "y", "t", "1", "1.0")
