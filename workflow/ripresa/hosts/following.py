"""What runs on one host: one thread follows it, until each attempt has ended and its results are here.

It makes one call for all, which the host answers when one of them ends. No answer says nothing about what
runs there: while a host cannot be reached nothing is concluded of what it may have begun, until it counts as
lost.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ripresa.hosts.client import Answer, Refused
from ripresa.hosts.contact import AGAIN_MOST_S, AGAIN_S, Contact
from ripresa.hosts.harvest import NotNow, Spoilt, harvest
from ripresa.hosts.parcel import Parcel
from ripresa.hosts.settling import LOCAL_S, Settling
from ripresa.hosts.standing import Down
from ripresa.hosts.transport import Unreachable
from ripresa.recovery.dispatch import PUBLISHED

_WATCH_S = 20.0
"""How long the call that follows waits for an end."""
_FORGET_S = 0.2
"""How long what is to be forgotten waits for a call that goes there anyway."""
_RINGS, _RING_S = 20, 0.05


class Following:
    """The attempts that run on one host, and those of which that is in doubt.

    ``again`` takes what was in doubt when the host answers again: it is asked for like what is to start.
    """

    def __init__(self, contact: Contact, settling: Settling, again: Callable[[Parcel], None]) -> None:
        self.running: dict[str, Parcel] = {}
        """By their keys."""
        self.doubtful: list[Parcel] = []
        self._contact = contact
        self._state = contact.state
        self._settling = settling
        self._again = again
        self._door: str | None = None
        """That of the call that follows, while there is one; it knows of these units."""
        self._known: frozenset[str] = frozenset()

    def add(self, parcels: Iterable[Parcel]) -> None:
        """These run there; the call that follows is to hear of them by `ring`."""
        with self._state:
            self.running |= {parcel.key: parcel for parcel in parcels}

    def doubt(self, parcel: Parcel) -> None:
        """This may have begun there."""
        with self._state:
            self.doubtful.append(parcel)
            self._state.notify_all()

    def ring(self) -> None:
        """Have the call that follows come back, if it does not know of all that there is to follow."""
        with self._state:
            self._state.notify_all()
        for _ in range(_RINGS):
            with self._state:
                door, known = self._door, self._known
                if door is None or self.running.keys() <= known:
                    return
            try:
                _, results = self._contact.call([{"op": "ring", "door": door}])
            except (Unreachable, Refused):
                return  # the call that follows has found out, too
            if results[0].get("rung"):
                return
            time.sleep(_RING_S)  # it is on its way there

    def take(self, answer: Answer, asked: Mapping[str, str]) -> None:
        """Take what the host says of what runs there; ``asked``: of which attempts, key -> token."""
        for key, state in answer["units"].items():
            parcel = self.running.get(key)
            if parcel is None or parcel.sent.token != asked.get(key):
                continue  # another attempt of it is followed by now
            if state["state"] == "running":
                told = state.get("progress") or {}
                if told and told != parcel.progress:
                    parcel.progress = told
                    parcel.task.progress(parcel.sent, told)
            elif state["state"] == "ended":
                self._harvest(parcel, state)
            elif self._remove(parcel):
                evidence = f"host {self._contact.name} has no trace of the attempt any more"
                self._settling.lose(parcel, "node", evidence)

    def watch(self) -> None:
        """Follow until the link is closed; for a thread of its own."""
        pause = AGAIN_S
        while self._has_to_call():
            try:
                if self._follow():
                    pause = AGAIN_S
                    continue
            except Exception as error:  # a mistake of ours must be seen; what runs there goes on
                self._contact.say(self._contact.mistake(error))
            if gone := self._contact.standing.lost():
                self._give_up(gone)
            until_lost_s = self._contact.standing.until_lost_s()
            with self._state:
                if not self._contact.closed:
                    # That the host counts as lost is to be told without delay.
                    self._state.wait(pause if until_lost_s is None else min(pause, until_lost_s + AGAIN_S))
            pause = min(2 * pause, AGAIN_MOST_S)

    def _has_to_call(self) -> bool:
        """Wait until there is something to follow, to ask for or to forget; False if the link is closed."""
        contact = self._contact
        with self._state:
            while not (contact.closed or self.running or self.doubtful or contact.forgets):
                self._state.wait()
            if not (contact.closed or self.running or self.doubtful or contact.standing.down):
                self._state.wait(_FORGET_S)
            return not contact.closed

    def _follow(self) -> bool:
        """One call that waits for an end of what runs there; False if the host could not be used."""
        with self._state:
            follow = {key: parcel.sent.token for key, parcel in self.running.items()}
            self._door, self._known = uuid.uuid4().hex[:24], frozenset(follow)
        try:
            answer, _ = self._contact.call([], follow, wait_s=_WATCH_S, door=self._door)
        except (Unreachable, Refused):
            return False
        finally:
            with self._state:
                self._door = None
        with self._state:
            doubtful, self.doubtful = self.doubtful, []
        for parcel in doubtful:
            self._again(parcel)
        self.take(answer, follow)
        return True

    def _give_up(self, lost: Down) -> None:
        with self._state:
            gone = [*self.running.values(), *self.doubtful]
            self.running.clear()
            self.doubtful.clear()
            self._contact.forgets.clear()
        for parcel in gone:
            self._settling.give_up(parcel, lost)
        self._contact.changed()

    def _harvest(self, parcel: Parcel, state: Mapping[str, Any]) -> None:
        """Bring back what an ended attempt made and printed, and settle it."""
        if not self._remove(parcel):
            return  # the other kind of call has it
        outcome = None
        try:
            outcome = harvest(self._contact.client, parcel, state, self._most())
        except (Unreachable, Refused) as error:
            self._contact.fell(error)
            self._put_back(parcel, AGAIN_S)
        except NotNow as error:
            self._contact.say(f"{parcel.task.target}: cannot take in its results: {error}; trying again")
            self._put_back(parcel, LOCAL_S)
        except Spoilt as error:
            outcome = self._settling.lost(parcel, error.failure_class, error.evidence)
        if outcome is None:
            return
        with self._state:
            self._contact.forgets.append(parcel.named("forget", keep=outcome != PUBLISHED))
            self._state.notify_all()
        self._settling.settle(parcel, outcome)

    def _put_back(self, parcel: Parcel, after_s: float) -> None:
        with self._state:
            self.running[parcel.key] = parcel
            self._state.notify_all()
        self._contact.wait(after_s)

    def _remove(self, parcel: Parcel) -> bool:
        with self._state:
            if self.running.get(parcel.key) is not parcel:
                return False
            del self.running[parcel.key]
            return True

    def _most(self) -> dict[str, float]:
        facts = self._contact.facts or {}
        return {"mem_mb": float(facts["mem_mb"])} if facts.get("mem_mb") else {}
