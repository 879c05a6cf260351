"""Assignment: which ready units start now, and on which of the devices of this machine.

A unit may be able to run on several kinds of device (a large one sooner on a GPU, a small one as well on a
CPU slot); what it needs there and how long it is expected to take differ by kind. Equal units form a *wish*.
"""

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from ripresa.placement.packing import Demand, fits, subtract

GPU, CPU = "gpu", "cpu"
WHOLE = 100
"""Shares of a device are whole percents."""

STEPS = 64
"""Of many equal units that have to wait, this part is queued at once."""


class Option(NamedTuple):
    """How a unit can run on one kind of device."""

    kind: str
    """`GPU` or `CPU`."""
    devices: int = 1
    """How many of them it takes; 0 if it needs none and runs beside whatever runs there."""
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


class Start(NamedTuple):
    """A unit of a wish that starts now."""

    wish: int
    """Its position among the wishes."""
    kind: str
    devices: tuple[str, ...]
    why: str = ""
    """One clause for people: why here and now."""


def assign(wishes: Sequence[Wish], slots: Sequence[Slot], capacity: Mapping[str, float]) -> list[Start]:
    """The units to start now.

    ``capacity`` is what is free of the resources in the demands; every one of them must be in it.
    """
    pool = Pool(slots, capacity)
    order = sorted(range(len(wishes)), key=lambda index: wishes[index].priority, reverse=True)
    queues = Queues(slots)
    starts: list[Start] = []
    for _, tier in groupby(order, lambda index: wishes[index].priority):
        starts += greedy(wishes, list(tier), pool, queues)
    return starts


class Pool:
    """What is still free of the devices and of the other resources while starts are being chosen."""

    def __init__(self, slots: Sequence[Slot], capacity: Mapping[str, float]) -> None:
        self._slots = {slot.name: slot for slot in slots if slot.free > 0 and slot.starts > 0}
        self._left = dict(capacity)

    def is_open(self, kinds: frozenset[str]) -> bool:
        """Whether there is any device of these kinds of which something is free."""
        return any(slot.kind in kinds for slot in self._slots.values())

    def affords(self, wish: Wish) -> bool:
        """Whether there is what one unit takes beside devices."""
        return fits(wish.demand, self._left, 1) == 1

    def room(self, wish: Wish, option: Option) -> tuple[str, ...] | None:
        """Devices on which a unit can run now, small ones and those in use first; None if too few."""
        if not self.affords(wish):
            return None
        fitting = [
            slot
            for slot in self._slots.values()
            if slot.kind == option.kind
            and slot.free >= option.share
            and (not (slot.memory_mb and option.memory_mb) or slot.memory_mb >= option.memory_mb)
            and slot.name not in wish.avoid
        ]
        if len(fitting) < option.devices:
            return None
        fitting.sort(key=lambda slot: (slot.free, slot.memory_mb))
        return tuple(slot.name for slot in fitting[: option.devices])

    def take(self, wish: Wish, option: Option, names: Sequence[str]) -> None:
        """Start a unit on devices that `room` gave for it."""
        subtract(self._left, wish.demand, 1)
        for name in names:
            slot = self._slots.pop(name)
            memory_mb = slot.memory_mb - option.memory_mb
            # Nothing left is not the same as nothing known.
            left = slot._replace(
                free=slot.free - option.share,
                starts=slot.starts - 1,
                memory_mb=memory_mb if memory_mb or not slot.memory_mb else -1,
            )
            if left.free > 0 and left.starts > 0:
                self._slots[name] = left


class Queues:
    """When devices will be free, as far as units were placed in thought."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._free: dict[str, list[float]] = {}
        for slot in slots:
            if slot.free > 0 or 0 < slot.free_in < math.inf:
                heapq.heappush(self._free.setdefault(slot.kind, []), slot.free_in)

    def wait(self, option: Option) -> float:
        """Seconds until a unit could start; infinite if it never could."""
        queue = self._free.get(option.kind, [])
        if len(queue) < option.devices:
            return math.inf
        return heapq.nsmallest(option.devices, queue)[-1] if option.devices else 0.0

    def book(self, option: Option, seconds: float, units: int = 1) -> None:
        """Place units that take ``seconds`` each where they can start first."""
        queue = self._free.get(option.kind, [])
        if units > len(queue) > 0:
            share = units * seconds * option.devices * option.share / WHOLE / len(queue)
            queue[:] = [free + share for free in queue]
        elif option.devices and len(queue) >= option.devices:
            start = [heapq.heappop(queue) for _ in range(option.devices)][-1]
            for _ in range(option.devices):
                heapq.heappush(queue, start + units * seconds * option.share / WHOLE)


def greedy(wishes: Sequence[Wish], tier: Sequence[int], pool: Pool, queues: Queues) -> Iterator[Start]:
    """Place the longest units first, each where it ends first: at once, or where it would have to wait."""
    for index in sorted(tier, key=lambda index: _longest_first(wishes[index])):
        wish = wishes[index]
        seconds = _seconds(wish)
        kinds = frozenset(option.kind for option in wish.options)
        left = wish.units
        while left:
            if not (pool.is_open(kinds) and pool.affords(wish)):
                queues.book(min(zip(seconds, wish.options, strict=True))[1], min(seconds), left)
                break
            rooms = [pool.room(wish, option) for option in wish.options]
            ends = [
                length + (queues.wait(option) if room is None else 0.0)
                for option, length, room in zip(wish.options, seconds, rooms, strict=True)
            ]
            best = ends.index(min(ends))
            option, room = wish.options[best], rooms[best]
            units = max(1, left // STEPS) if room is None else 1
            queues.book(option, seconds[best], units)
            left -= units
            if room is not None:
                pool.take(wish, option, room)
                yield Start(index, option.kind, room, _why(wish, option))


def _longest_first(wish: Wish) -> float:
    lengths = [option.seconds for option in wish.options]
    return -min(lengths) if all(lengths) else -math.inf


def _seconds(wish: Wish) -> list[float]:
    """The durations by option; of what nothing is known, what is known of the others."""
    known = [option.seconds for option in wish.options if option.seconds > 0]
    return [option.seconds or max(known, default=1.0) for option in wish.options]


def _why(wish: Wish, option: Option) -> str:
    if len(wish.options) == 1:
        return f"runs on {option.kind} only"
    return f"ends first on {option.kind}"
