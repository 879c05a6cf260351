"""Which work belongs on which kind of device, without a solver: that which gains most goes there.

With two kinds of device whose units may be cut this is the best there is: along the ratio of its durations,
work goes to the one kind up to where both end at the same time, and from there on to the other.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

Class = tuple[str, int]
"""A kind of device, and how much memory it has (a level)."""


class Work(NamedTuple):
    """Units that are equal, with what one of them takes by class: seconds times devices."""

    units: int
    loads: Mapping[Class, float]
    longest: Mapping[Class, float]
    """What one of them may take by class, in s."""


class Line(NamedTuple):
    """The devices of a class: for how many there are, and the seconds until all of them together are free."""

    devices: int
    busy: float


class Allotment(NamedTuple):
    """The units of each work by class, and the seconds in which all of it could be done."""

    shares: list[dict[Class, float]]
    end: float


def allot(works: Sequence[Work], lines: Mapping[Class, Line]) -> Allotment:
    """Units by class, so that all classes end at about the same time."""
    shares: list[dict[Class, float]] = [{} for _ in works]
    ends = {place: line.busy / line.devices for place, line in lines.items()}
    for kind, parts in _by_kind(works, lines).items():
        # What fits few devices is placed before what fits all.
        for index, part in sorted(parts.items(), key=lambda item: len(works[item[0]].loads)):
            loads = {place: load for place, load in works[index].loads.items() if place[0] == kind}
            amount = works[index].units * part * min(loads.values())
            for place, taken in _poured(
                amount, {place: lines[place].devices for place in loads}, ends
            ).items():
                ends[place] += taken / lines[place].devices
                shares[index][place] = shares[index].get(place, 0.0) + taken / loads[place]
    return Allotment(shares, max(ends.values(), default=0.0))


def _by_kind(works: Sequence[Work], lines: Mapping[Class, Line]) -> dict[str, dict[int, float]]:
    """The part of each work by kind."""
    busy: dict[str, float] = {}
    devices: dict[str, int] = {}
    for (kind, _), line in lines.items():
        busy[kind] = busy.get(kind, 0.0) + line.busy
        devices[kind] = devices.get(kind, 0) + line.devices
    parts: dict[str, dict[int, float]] = {kind: {} for kind in busy}
    choices: list[tuple[float, int, dict[str, float]]] = []
    first, last = min(busy, default=""), max(busy, default="")
    for index, work in enumerate(works):
        loads: dict[str, float] = {}
        for (kind, _), load in work.loads.items():
            loads[kind] = work.units * load
        if len(loads) == 1:
            [kind] = loads
            busy[kind] += loads[kind]
            parts[kind][index] = 1.0
        else:
            busy[last] += loads[last]
            choices.append((loads[first] / loads[last], index, loads))
    for _, index, loads in sorted(choices, key=lambda choice: choice[:2]):
        # All is on the last kind in the beginning; move what loses least until both end together.
        ahead = busy[last] / devices[last] - busy[first] / devices[first]
        part = ahead / (loads[first] / devices[first] + loads[last] / devices[last])
        part = max(0.0, min(1.0, part))
        busy[first] += part * loads[first]
        busy[last] -= part * loads[last]
        for kind, much in (first, part), (last, 1.0 - part):
            if much > 0:
                parts[kind][index] = much
    return parts


def _poured(amount: float, devices: Mapping[Class, int], ends: Mapping[Class, float]) -> dict[Class, float]:
    """Divide an amount of work over classes so that those that end first are filled up to one level."""
    order = sorted(devices, key=lambda place: ends[place])
    wide, level = 0, 0.0
    for number, place in enumerate(order, 1):
        wide += devices[place]
        filled = sum(devices[other] * ends[other] for other in order[:number])
        level = (amount + filled) / wide
        if number == len(order) or level <= ends[order[number]]:
            order = order[:number]
            break
    return {place: devices[place] * (level - ends[place]) for place in order if level > ends[place]}
