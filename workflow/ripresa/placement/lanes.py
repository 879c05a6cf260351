"""When devices will be free, as far as units were placed in thought."""

import heapq
import math
from collections.abc import Sequence

from ripresa.placement.pool import memory_mb
from ripresa.placement.ratios import Class, Line
from ripresa.placement.wishes import WHOLE, Option, Slot


class Lanes:
    """The devices by class: those of one kind that have memory for the same units.

    Devices of which nobody knows when they will be free are left out.
    """

    def __init__(self, slots: Sequence[Slot], options: Sequence[Option]) -> None:
        self._levels: dict[str, list[int]] = {}
        for kind, needed in sorted({(option.kind, option.memory_mb) for option in options}):
            self._levels.setdefault(kind, []).extend([needed] if needed else [])
        self._names: dict[Class, frozenset[str]] = {}
        self._free: dict[Class, list[float]] = {}
        self._places: dict[tuple[str, int, int], list[Class]] = {}
        for slot in slots:
            if slot.free > 0 or 0 < slot.free_in < math.inf:
                place = slot.kind, self._level(slot.kind, memory_mb(slot))
                self._names[place] = self._names.get(place, frozenset()) | {slot.name}
                self._free.setdefault(place, []).append(slot.free_in if slot.free_in < math.inf else 0.0)
        for free in self._free.values():
            heapq.heapify(free)

    @property
    def classes(self) -> list[Class]:
        """All classes of which there is a device."""
        return list(self._free)

    def names(self, place: Class) -> frozenset[str]:
        """The devices of a class."""
        return self._names[place]

    def places(self, option: Option) -> list[Class]:
        """The classes on which units can run so, those with little memory first."""
        key = option.kind, option.memory_mb, option.devices
        if key not in self._places:
            level = self._level(option.kind, option.memory_mb)
            self._places[key] = [
                place
                for place, free in sorted(self._free.items())
                if place[0] == option.kind and place[1] >= level and len(free) >= option.devices
            ]
        return self._places[key]

    def lines(self) -> dict[Class, Line]:
        """The classes as `makespan.allot` takes them."""
        return {place: Line(len(free), sum(free)) for place, free in self._free.items()}

    def book(self, place: Class, option: Option, seconds: float, units: int) -> float:
        """Place units that take ``seconds`` each where they start first; when the last of them ends, in s."""
        free = self._free[place]
        seconds *= option.share / WHOLE
        if units > 4 * len(free):
            each = units * seconds * option.devices / len(free)
            free[:] = [time + each for time in free]
            return max(free)
        end = 0.0
        for _ in range(units):
            end = [heapq.heappop(free) for _ in range(option.devices)][-1] + seconds
            for _ in range(option.devices):
                heapq.heappush(free, end)
        return end

    def _level(self, kind: str, memory: float) -> int:
        return sum(needed <= memory for needed in self._levels.get(kind, []))
