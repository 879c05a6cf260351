"""What is free of devices and of other resources while units are being placed."""

import math
from collections.abc import Mapping, Sequence

from ripresa.placement.packing import fits, subtract
from ripresa.placement.wishes import WHOLE, Option, Slot, Wish, occupied


class Pool:
    """Says what can start, and keeps account of what does."""

    def __init__(self, slots: Sequence[Slot], capacity: Mapping[str, float]) -> None:
        self._all = {slot.name: slot for slot in slots}
        self._open = {slot.name: slot for slot in slots if slot.free > 0 and slot.starts > 0}
        self._parted = {slot.name for slot in slots if 0 < slot.free < WHOLE}
        self._left = dict(capacity)
        self._held: dict[str, float] = {}
        """Devices that a unit waits for, with the seconds until it can have them."""
        self._holder: Wish | None = None
        self.released = False
        """Whether devices were held for a unit that then started elsewhere."""

    def is_open(self, names: frozenset[str]) -> bool:
        """Whether something is free of any of these devices."""
        return not names.isdisjoint(self._open)

    def affords(self, wish: Wish) -> bool:
        """Whether there is what one unit takes beside devices."""
        return fits(wish.demand, self._left, 1) == 1

    def room(
        self, wish: Wish, option: Option, names: frozenset[str], seconds: float
    ) -> tuple[str, ...] | None:
        """Devices among these on which a unit can run now for ``seconds``; None if there are too few.

        Those come first that are in use by others already, then those with little memory.
        """
        if not (self.is_open(names) and self.affords(wish)):
            return None
        fitting = [
            slot
            for name, slot in self._open.items()
            if name in names
            and slot.free >= option.share
            and (not (slot.memory_mb and option.memory_mb) or slot.memory_mb >= option.memory_mb)
            and name not in wish.avoid
            and seconds <= self._held.get(name, math.inf)
        ]
        if len(fitting) < option.devices:
            return None
        fitting.sort(key=lambda slot: (slot.free, slot.memory_mb))
        return tuple(slot.name for slot in fitting[: option.devices])

    def take(self, wish: Wish, option: Option, names: Sequence[str]) -> None:
        """Start a unit on devices that `room` gave for it."""
        subtract(self._left, wish.demand, 1)
        if wish is self._holder:
            self._held, self._holder, self.released = {}, None, True
        for name in names:
            left = occupied(self._open.pop(name), option)
            self._all[name] = left
            if left.free:
                self._parted.add(name)
            if left.free > 0 and left.starts > 0:
                self._open[name] = left

    def hold(self, wish: Wish, option: Option, names: frozenset[str]) -> None:
        """Hold the devices that a unit can have first, if it waits for several or for the whole of one that
        is used in parts: else it waits for as long as others find a place. Until then they take units that
        end before (backfilling as in EASY; Lifka, JSSPP 1995). One unit at a time is waited for.
        """
        waits = option.devices > 1 or (option.share == WHOLE and not names.isdisjoint(self._parted))
        if not waits or self._held or not self.affords(wish):
            return
        usable = [self._all[name] for name in names - wish.avoid]
        fitting = [
            slot
            for slot in usable
            if slot.free_in < math.inf
            and slot.starts > 0
            and (slot.free == WHOLE or slot.free_in > 0)
            and (not option.memory_mb or memory_mb(slot) >= option.memory_mb)
        ]
        if len(fitting) >= option.devices:
            fitting.sort(key=lambda slot: slot.free_in)
            first = fitting[: option.devices]
            self._held = dict.fromkeys((slot.name for slot in first), first[-1].free_in)
            self._holder = wish


def memory_mb(slot: Slot) -> float:
    """The memory that is free once no unit runs there; infinite if unknown."""
    return (slot.memory_mb if slot.free == WHOLE else slot.total_mb) or math.inf
