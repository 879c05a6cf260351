"""When the last unit ends, if durations are not as predicted."""

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ripresa.placement.durations import Durations
from ripresa.placement.scenarios import Sort, Spread, scenarios
from ripresa.placement.wishes import WHOLE

_DRAWS, _UNITS = 100, 40_000
"""So many scenarios there are, fewer with many units."""


class Way(NamedTuple):
    """How a unit can run."""

    sort: Sort
    devices: tuple[str, ...] = ()
    """Those that are large enough."""
    number: int = 0
    """So many of them."""
    share: int = WHOLE
    """Percent of each."""


class Turn(NamedTuple):
    """A unit whose turn comes."""

    target: str
    cores: int
    needs: frozenset[str]
    """Targets of others that come before it."""
    ways: tuple[Way, ...]


def ends(turns: Sequence[Turn], devices: Sequence[str], cores: int, durations: Durations) -> Iterator[float]:
    """When the last of some units ends, in s from now, in some scenarios.

    Units start in the order given, each where it should end first. What of that is to be expected in a
    scenario the scheduler learns from the first units of it; so it counts as known.
    """
    chance = random.Random(0)
    sorts = Counter(way.sort for turn in turns for way in turn.ways)
    draws = max(30, min(_DRAWS, _UNITS // len(turns)))
    part = math.gcd(WHOLE, *(way.share for turn in turns for way in turn.ways))
    for spreads in scenarios(durations, sorts, draws, chance):
        lanes = {name: [0.0] * (WHOLE // part) for name in devices}
        yield _last(turns, lanes, part, [0.0] * cores, spreads, chance)


def _last(
    turns: Sequence[Turn],
    lanes: Mapping[str, list[float]],
    part: int,
    cores: list[float],
    spreads: Mapping[Sort, Spread],
    chance: random.Random,
) -> float:
    """When the last unit ends; ``lanes`` say when the parts of each device are free, soonest first, as
    ``cores`` do."""
    found: dict[str, float] = {}
    expected = {sort: spread.mean for sort, spread in spreads.items()}
    for turn in turns:
        ready = max(cores[turn.cores - 1], *(found.get(need, 0.0) for need in turn.needs), 0.0)
        options = []
        for way in turn.ways:
            width = way.share // part
            free = sorted((lanes[name][width - 1], name) for name in way.devices)[: way.number]
            begin = max(ready, free[-1][0]) if free else ready
            options.append((begin + expected[way.sort], begin, way, free))
        _, begin, way, free = min(options, key=lambda option: option[0])
        end = found[turn.target] = begin + spreads[way.sort].seconds(chance)
        _occupy(cores, turn.cores, end)
        for _, name in free:
            _occupy(lanes[name], way.share // part, end)
    return max(found.values())


def _occupy(lanes: list[float], number: int, end: float) -> None:
    lanes[:number] = [end] * number
    lanes.sort()
