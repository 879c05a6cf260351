"""What a unit is doing, derived from its lease and its files, and never stored.

Whoever looks also clears up: what a killed supervisor left running is ended, and an attempt that nobody can
conclude any more gets the result `interrupted`. All that changes a unit is done under its lease.
"""

from __future__ import annotations

import os
import time

from ripresa.hosts.agent import result as results
from ripresa.hosts.agent.units import IDENTITY, Unit
from ripresa.journal import leases, processes
from ripresa.recovery.orphans import end_orphans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RUNNING, ENDED, UNKNOWN = "running", "ended", "unknown"
_PATIENCE_S = 10.0
"""For this long a lease may be held by somebody whom it does not name: one who looks, or starts just now."""
_MOMENT_S = 0.005
_KILLED = "the supervisor of this attempt was killed; what it left running was ended"
_REBOOTED = "the host was restarted while this attempt ran"
_TORN = "what this attempt told at its end was lost in a crash of the host"


class Sight:
    """What a unit is doing: ``state`` is ``running``, ``ended`` or ``unknown``.

    ``identity`` are the fields that name its attempt, and ``owner`` what its lease says of who runs it;
    ``result`` is there if it has ended.
    """

    def __init__(self, state: str, named: dict[str, Any], result: dict[str, Any] | None = None) -> None:
        self.state = state
        self.identity = {name: named.get(name) for name in IDENTITY}
        self.owner = named if state == RUNNING else {}
        self.result = result or {}

    @property
    def token(self) -> str | None:
        """The name of the attempt that is there; None if there is none."""
        return self.identity["token"]


def look(unit: Unit) -> Sight:
    """What a unit is doing now."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        named, ended = unit.named(), unit.ended()
        if ended and (not named or named["token"] == ended["token"]):
            return Sight(ENDED, ended, ended)
        held = leases.held(unit.lease)
        if held is None and not os.path.lexists(unit.folder):
            return Sight(UNKNOWN, {})
        owner = leases.owner(unit.lease) or {}
        if held and owner and processes.alive(owner) is not False:
            return Sight(RUNNING, owner)
        if held and owner:
            end_orphans(owner)
        elif not held:
            lease = leases.acquire(unit.run, unit.key)
            if lease is not None:
                try:
                    return settle(unit, lease)
                finally:
                    lease.release()
        if time.monotonic() > end:
            # What the kernel blocks cannot be ended, and still runs.
            return Sight(RUNNING, owner or named)
        time.sleep(_MOMENT_S)


def settle(unit: Unit, lease: leases.Lease) -> Sight:
    """What a unit whose lease this process has taken came to."""
    previous = lease.previous or {}
    end_orphans(previous)
    named, ended = unit.named(), unit.ended()
    if ended and (not named or named["token"] == ended["token"]):
        return Sight(ENDED, ended, ended)
    identity = previous if isinstance(previous.get("token"), str) else named
    torn = os.path.lexists(unit.result)
    rebooted = (identity.get("host"), identity.get("boot_id")) != (os.uname().nodename, processes.boot_id())
    ran = "lifeline" in previous or torn or os.path.lexists(unit.status)
    if not identity or not (ran or rebooted):
        # Whoever was to start it was killed before anything of it ran.
        return Sight(UNKNOWN, {})
    evidence = _TORN if torn else _REBOOTED if rebooted else _KILLED
    result = results.interrupted(unit, identity, evidence)
    _conclude(unit, result)
    return Sight(ENDED, result, result)


def _conclude(unit: Unit, result: dict[str, Any]) -> None:
    try:
        unit.conclude(result)
    except OSError:
        return  # who looks next comes to the same end
