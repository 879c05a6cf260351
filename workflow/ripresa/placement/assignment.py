"""Assignment: which ready units start now, and on which of the devices of this machine.

The aim is that the campaign ends early. With all that remains in view, work is allotted to classes of devices
(`makespan`). Within a class come first the units that may take long compared with what remains, the longest
of them first, since a long unit that starts late decides the end; then those that gain most from being there,
so that what could as well run elsewhere is decided last, when durations are known better (as in HeteroPrio;
Agullo et al., Euro-Par 2015).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from ripresa.placement.cost import WIDEST
from ripresa.placement.lanes import Lanes
from ripresa.placement.makespan import allot
from ripresa.placement.pool import Pool
from ripresa.placement.program import Solver
from ripresa.placement.ratios import Class, Work
from ripresa.placement.wishes import WHOLE, Option, Slot, Start, Wish

UNKNOWN_S = 1.0
"""The duration of units where nothing is known about any: they all count the same."""

RISK = 3.0
"""What a unit may take lies this many standard deviations of the logarithm above its median."""

LONG = 0.2
"""A unit that may take this part of the time that remains is one of the long ones."""


class _Entry(NamedTuple):
    """Units of a wish that were allotted to a class."""

    wish: int
    option: Option
    place: Class
    units: int
    seconds: float
    longest: float
    """What a unit may take here, in s."""
    gain: float
    """How many times as long a unit takes elsewhere; infinite if it can run nowhere else."""


class _Waiting(NamedTuple):
    """Units that do not start where they belong now."""

    entry: _Entry
    units: int
    end: float
    """When the last of them would end there."""


def assign(
    wishes: Sequence[Wish],
    slots: Sequence[Slot],
    capacity: Mapping[str, float],
    solver: Solver | None = None,
) -> list[Start]:
    """The units to start now.

    ``capacity`` is what is free of the resources in the demands; every one of them must be in it. The program
    of the allotment is given to ``solver``, in the round that it has begun; see `makespan.allot`.
    """
    work = _Assignment(wishes, slots, capacity, solver or Solver())
    order = sorted(range(len(wishes)), key=lambda index: -wishes[index].priority)
    return [
        start
        for _, tier in groupby(order, lambda index: wishes[index].priority)
        for start in work.fill(list(tier))
    ]


class _Assignment:
    def __init__(
        self,
        wishes: Sequence[Wish],
        slots: Sequence[Slot],
        capacity: Mapping[str, float],
        solver: Solver,
    ) -> None:
        self._wishes = wishes
        self._solver = solver
        self._pool = Pool(slots, capacity)
        self._lanes = Lanes(slots, [option for wish in self._wishes for option in wish.options])
        self._typical = UNKNOWN_S

    def fill(self, tier: Sequence[int]) -> Iterator[Start]:
        """Start units of one priority; the next call comes to what is left."""
        known = [o.seconds for index in tier for o in self._wishes[index].options if o.seconds > 0]
        self._typical = sum(known) / len(known) if known else UNKNOWN_S
        places = {index: self._places(self._wishes[index]) for index in tier}
        entries = self._allotted({index: found for index, found in places.items() if found})
        waiting: list[_Waiting] = []
        for entry in entries:
            left = entry.units
            for names in self._started(entry.wish, entry.option, entry.place, entry.units):
                left -= 1
                yield Start(entry.wish, entry.place[0], names, self._why(entry))
            if left:
                end = self._lanes.book(entry.place, entry.option, entry.seconds, left)
                # Lanes know parts of a device as parts of its time.
                waiting.append(_Waiting(entry, left, max(end, entry.seconds)))
        yield from self._helped(waiting, places)
        if self._pool.released:
            yield from self._helped(waiting, places)

    def _places(self, wish: Wish) -> dict[Class, Option]:
        """How a unit can run, by class."""
        return {
            place: option
            for option in wish.options
            for place in self._lanes.places(option)
            if not wish.avoid or len(self._lanes.names(place) - wish.avoid) >= option.devices
        }

    def _allotted(self, places: Mapping[int, Mapping[Class, Option]]) -> list[_Entry]:
        """The units by class, in the order in which to consider them."""
        works = [
            Work(
                self._wishes[index].units,
                {place: self._seconds(o) * o.devices * o.share / WHOLE for place, o in found.items()},
                {place: self._seconds(o) * _risk(o) for place, o in found.items()},
            )
            for index, found in places.items()
        ]
        allotment = allot(works, self._lanes.lines(), self._solver)
        entries = []
        for (index, found), work, shares in zip(places.items(), works, allotment.shares, strict=True):
            for place, units in _rounded(shares, work.units):
                seconds = self._seconds(found[place])
                others = [self._seconds(option) for option in found.values() if option.kind != place[0]]
                gain = min(others, default=math.inf) / seconds
                entries.append(_Entry(index, found[place], place, units, seconds, work.longest[place], gain))

        def order(entry: _Entry) -> tuple[bool, float, float]:
            long = entry.longest >= LONG * allotment.end
            return not long, 0.0 if long else -entry.gain, -entry.longest

        return sorted(entries, key=order)

    def _started(self, index: int, option: Option, place: Class, units: int) -> Iterator[tuple[str, ...]]:
        """Start as many units as there is room for on a class; the devices of each."""
        wish, names, seconds = self._wishes[index], self._lanes.names(place), self._seconds(option)
        for _ in range(units):
            room = self._pool.room(wish, option, names, seconds)
            if room is None:
                self._pool.hold(wish, option, names)
                return
            self._pool.take(wish, option, room)
            self._lanes.book(place, option, seconds, 1)
            yield room

    def _helped(
        self, waiting: list[_Waiting], places: Mapping[int, Mapping[Class, Option]]
    ) -> Iterator[Start]:
        """Let devices with nothing of their own to do take units that would end later where they belong.

        Those come first for which it makes the least difference. Where nothing is known of durations a
        device tries the shortest.
        """
        for place in self._lanes.classes:
            if not self._pool.is_open(self._lanes.names(place)):
                continue
            helped = []
            for position, one in enumerate(waiting):
                option = places[one.entry.wish].get(place)
                if option is None:
                    continue
                seconds = self._seconds(option)
                if place[0] == one.entry.place[0] or seconds * _risk(option) <= one.end:
                    helped.append((0, seconds / one.entry.seconds, position))
                elif option.spread > WIDEST and seconds < one.end:
                    helped.append((1, seconds, position))
            for *_, position in sorted(helped):
                one = waiting[position]
                index, option = one.entry.wish, places[one.entry.wish][place]
                for names in self._started(index, option, place, one.units):
                    one = one._replace(units=one.units - 1)
                    here, there = _told(self._seconds(option)), _told(one.end)
                    why = f"ends in {here}, and in {there} on {one.entry.place[0]}"
                    yield Start(index, place[0], names, why)
                waiting[position] = one

    def _seconds(self, option: Option) -> float:
        return option.seconds or self._typical

    def _why(self, entry: _Entry) -> str:
        if entry.gain == math.inf:
            why = f"runs on {entry.place[0]} only"
        elif entry.gain >= 1:
            why = f"{entry.gain:.1f} times as long elsewhere"
        else:
            why = f"{1 / entry.gain:.1f} times as long as elsewhere, where others gain more"
        return f"{why}; {_told(entry.seconds)}" if entry.option.seconds else why


def _risk(option: Option) -> float:
    """What a unit may take, by its expected duration."""
    return math.exp(RISK * option.spread - min(option.spread, WIDEST) ** 2 / 2)


def _rounded(shares: Mapping[Class, float], units: int) -> Iterator[tuple[Class, int]]:
    """Whole units by class, the rounding left to the largest share."""
    for number, place in enumerate(sorted(shares, key=lambda place: shares[place]), 1):
        whole = units if number == len(shares) else min(units, round(shares[place]))
        units -= whole
        if whole:
            yield place, whole


def _told(seconds: float) -> str:
    for limit, unit, name in (120.0, 1.0, "s"), (7200.0, 60.0, "min"):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 3600:.1f} h"
