"""The end of an attempt on a host: written down as soon as that is possible here, then told."""

import time
from collections.abc import Callable

from ripresa.hosts.contact import Contact
from ripresa.hosts.parcel import Parcel
from ripresa.hosts.standing import Down
from ripresa.journal import clock

LOCAL_S = 10.0
"""How long what came of an attempt waits while it cannot be written here."""
_SPARE_S = 60.0
"""How much longer than its limits a command may be there at most."""


class Settling:
    """Settles parcels; ``settled`` is told of each, with the outcome of its attempt."""

    def __init__(self, contact: Contact, settled: Callable[[Parcel, str], None]) -> None:
        self._contact = contact
        self._settled = settled

    def settle(self, parcel: Parcel, outcome: str) -> None:
        """An attempt whose outcome is written down is over."""
        parcel.settled = True
        self._settled(parcel, outcome)

    def lose(
        self,
        parcel: Parcel,
        failure_class: str,
        evidence: str,
        *,
        give_up: str | None = None,
        patient: bool = True,
    ) -> None:
        """Settle an attempt of which nothing comes back."""
        outcome = self.lost(parcel, failure_class, evidence, give_up=give_up, patient=patient)
        if outcome is not None:
            self.settle(parcel, outcome)

    def lost(
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
                self._contact.say(f"{parcel.task.target}: cannot write down how it failed: {error}")
                if not patient or self._contact.wait(LOCAL_S):
                    return None

    def give_back(self, parcel: Parcel, gone: Down) -> None:
        """Settle what a lost host was to have: it is not to be tried again."""
        self._judge(parcel, gone, begun=parcel.in_doubt, final=True)

    def give_up(self, parcel: Parcel, gone: Down) -> None:
        """Settle what a lost host had: it is to be tried again only if it must have ended there by now."""
        over = _is_over(parcel)
        self._judge(parcel, gone, begun=not over, final=not over)

    def _judge(self, parcel: Parcel, gone: Down, *, begun: bool, final: bool) -> None:
        failure_class, why = self._contact.standing.judge(gone, begun=begun)
        self.lose(parcel, failure_class, why, give_up=why if final else None)


def _is_over(parcel: Parcel) -> bool:
    """Whether a command must have ended by now because its host enforces a limit."""
    limits = parcel.work.limits
    if limits.wall_s is None:
        return False
    since = clock.seconds(parcel.sent.started)
    return time.time() - since > limits.wall_s + limits.grace_s + _SPARE_S
