"""Whether a host can be used: since when not and why, and from when on nothing waits for it any more."""

import time
from typing import NamedTuple

from ripresa.hosts.client import Refused
from ripresa.hosts.transport import Unreachable
from ripresa.journal import clock


class Down(NamedTuple):
    """Why a host cannot be used."""

    failure_class: str
    evidence: str
    since: float
    """By `time.monotonic`."""
    at: str


class Standing:
    """What the calls to a host say of it; if it has not answered for ``lost_s`` seconds it counts as lost."""

    def __init__(self, host: str, lost_s: float) -> None:
        self.host = host
        self.lost_s = lost_s
        self.down: Down | None = None
        self._tried = 0.0

    def lost(self) -> Down | None:
        """Since when the host has been unusable, if it counts as lost."""
        down = self.down
        return down if down is not None and time.monotonic() - down.since > self.lost_s else None

    def since_tried_s(self) -> float:
        """Seconds since a call failed."""
        return time.monotonic() - self._tried

    def until_lost_s(self) -> float | None:
        """Seconds until the host counts as lost; None if it can be used, or is lost already."""
        down = self.down
        left = self.lost_s - (time.monotonic() - down.since) if down else 0.0
        return left if left > 0 else None

    def reached(self) -> bool:
        """A call was answered; whether it was the first one since the host was down."""
        down, self.down = self.down, None
        return down is not None

    def fell(self, error: Unreachable | Refused) -> Down | None:
        """A call failed; why the host was down before, if it was."""
        self._tried = time.monotonic()
        known = self.down
        if known is None:
            self.down = Down(error.failure_class, error.evidence, self._tried, clock.iso())
        else:
            # The first word is mostly of a connection that ended, and only the next one says why.
            self.down = known._replace(failure_class=error.failure_class, evidence=error.evidence)
        return known

    def judge(self, down: Down, *, begun: bool) -> tuple[str, str]:
        """The failure class of an attempt that a lost host had, or was to have, and why in one line."""
        network = down.failure_class == "network"
        what = "has not answered" if network else "could not be used"
        more = "; whether the command still runs there is not known" if begun else ""
        why = f"host {self.host} {what} since {down.at} ({down.evidence}){more}"
        return "node" if network else down.failure_class, why
