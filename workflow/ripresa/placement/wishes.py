"""The words of the placement: units that want a device, devices as they are now, and what starts where.

A unit may be able to run on several kinds of device (a large one sooner on a GPU, a small one as well on a
CPU slot); what it needs there and how long it is expected to take differ by kind. Equal units form a *wish*.
"""

from typing import NamedTuple

from ripresa.placement.packing import Demand

GPU, CPU = "gpu", "cpu"
WHOLE = 100
"""Shares of a device are whole percents."""


class Option(NamedTuple):
    """How a unit can run on one kind of device."""

    kind: str
    """`GPU` or `CPU`."""
    devices: int = 1
    """How many of them it takes."""
    share: int = WHOLE
    """How much of each, in percent; below `WHOLE` only where it takes one."""
    memory_mb: int = 0
    """Device memory that has to be free on each; 0 if that does not matter."""
    seconds: float = 0.0
    """Expected duration; 0.0 if nothing is known."""
    spread: float = 0.0
    """Standard deviation of the logarithm of the duration: 0.0 for a sure prediction."""


class Wish(NamedTuple):
    """A number of ready units that are equal to the placement."""

    units: int
    options: tuple[Option, ...]
    priority: float = 0
    demand: Demand = ()
    """What one of them takes beside devices (cores, memory, breakers), on whatever it runs."""
    avoid: frozenset[str] = frozenset()
    """Devices that these units must not get: they failed there."""


class Slot(NamedTuple):
    """A device as the placement sees it now."""

    name: str
    kind: str
    free: int = WHOLE
    """Percent of it that is not in use; 0 while it is busy, excluded or in an open breaker."""
    memory_mb: int = 0
    """Its free memory, less what units that run there were promised; 0 if unknown, which fits all."""
    free_in: float = 0.0
    """Seconds until it is expected to be free for a whole unit; 0.0 if it is, infinite if nobody knows."""
    starts: int = 1 << 30
    """Units that may start on it now: a half-open breaker lets few through."""
    total_mb: int = 0
    """Its free memory once no unit runs there; 0 if unknown, which fits all."""


class Start(NamedTuple):
    """A unit of a wish that starts now."""

    wish: int
    """Its position among the wishes."""
    kind: str
    devices: tuple[str, ...]
    why: str = ""
    """One clause for people: why here and now."""


def occupied(slot: Slot, option: Option) -> Slot:
    """A device once a unit more runs there."""
    return slot._replace(
        free=slot.free - option.share,
        # Nothing left is not the same as nothing known.
        memory_mb=slot.memory_mb and (slot.memory_mb - option.memory_mb or -1),
        free_in=max(slot.free_in, option.seconds),
        starts=slot.starts - 1,
    )
