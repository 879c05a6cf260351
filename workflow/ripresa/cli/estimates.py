"""How many hours of hosts, cores and GPUs units would take, and whether that is within the budget."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ripresa.cli.answers import count
from ripresa.dsl.guarding import call_of
from ripresa.journal.paths import Run
from ripresa.journal.text import printable
from ripresa.placement import asking
from ripresa.placement.experience import Experience, experience
from ripresa.placement.scenarios import LEVEL, Sort, interval, scenarios
from ripresa.placement.wishes import CPU, GPU, WHOLE
from ripresa.slurm import request

KINDS = ("host_hours", "core_hours", "gpu_hours")

JOURNAL, OTHERS, BOUND, GUESS, UNKNOWN = "journal", "other_runs", "runtime", "guess", "unknown"

_DRAWS, _SORTS = 100, 20_000
"""So many scenarios there are for the intervals, fewer if units are of many sorts."""


class _Alike(NamedTuple):
    """Units that take as long and occupy as much, as far as one can tell."""

    sort: Sort
    basis: str
    bound: float
    """In s, where it is the basis."""
    amounts: tuple[float, float, float]
    """Hosts, cores and GPUs, as in `KINDS`."""


def estimate(
    run: Run, units: Iterable[Mapping[str, Any]], places: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What one attempt of each of these units takes, in hours, with intervals of probability ``level``.

    A unit is a mapping with ``target``, ``rule``, ``threads``, ``resources`` and ``shell``. Its duration is
    what its rule took in this run, by the cost that it declares; where nothing was published yet, what it
    took in another run beside it (``from``); else the resource ``runtime`` (min) is the upper bound; else it
    is a guess. A job without a guard never tells how long it took, and counts nothing. ``basis`` says of how
    many units which was used. A part of a GPU counts as a part. ``places`` has the kind of device, ``gpu`` or
    ``cpu``, by target, for units that can do with either; without it they count as on a GPU.
    """
    units = list(units)
    known = experience(run, {unit["rule"] for unit in units})
    groups = Counter(_alike(known, unit, (places or {}).get(unit["target"])) for unit in units)
    groups = Counter(dict(sorted(groups.items())))  # in whatever order they come, chance plays the same
    sorts: Counter[Sort] = Counter()
    hours = dict.fromkeys(KINDS, 0.0)
    basis = dict.fromkeys((JOURNAL, OTHERS, BOUND, GUESS, UNKNOWN), 0)
    for alike, number in groups.items():
        basis[alike.basis] += number
        if alike.basis != UNKNOWN:
            sorts[alike.sort] += number
            _add(hours, alike, number * _seconds(known, alike))
    chance = random.Random(0)
    drawn: list[dict[str, float]] = []
    for spreads in scenarios(
        known.durations, sorts, max(30, min(_DRAWS, _SORTS // (len(sorts) or 1))), chance
    ):
        drawn.append(dict.fromkeys(KINDS, 0.0))
        for alike, number in groups.items():
            if alike.basis == UNKNOWN:
                continue
            seconds = spreads[alike.sort].total(number, chance)
            _add(drawn[-1], alike, min(seconds, number * alike.bound) if alike.bound else seconds)
    between = {kind: interval([one[kind] for one in drawn], hours[kind]) for kind in KINDS}
    return {
        **{kind: round(value, 3) for kind, value in hours.items()},
        "interval": {
            "level": LEVEL,
            **{kind: [round(end, 3) for end in ends] for kind, ends in between.items()},
        },
        "basis": basis,
        "from": [
            {"rule": rule, "run_id": run_id, "units": number}
            for rule, (run_id, number) in known.others.items()
        ],
    }


def beyond(found: Mapping[str, Any], budget: Mapping[str, float]) -> list[str]:
    """What is more than the budget, one line each."""
    basis = found["basis"]
    guess = (
        ", a guess," if basis[GUESS] == sum(basis.values()) else ", in part a guess," if basis[GUESS] else ""
    )
    return [
        f"{found[kind]:,.4g} {_named(kind)}{guess} are beyond the budget of {limit:,.4g} (budget.{kind})"
        for kind, limit in budget.items()
        if found[kind] > limit
    ]


def lines(found: Mapping[str, Any]) -> Iterable[str]:
    """An estimate for people."""
    yield f"estimate: {', '.join(f'{found[kind]:,.4g} {_named(kind)}' for kind in KINDS)}"
    between = [
        f"{low:,.3g} and {high:,.3g} {_named(kind)}"
        for kind in KINDS
        for low, high in [found["interval"][kind]]
        if high
    ]
    if between:
        yield f"  in {found['interval']['level']:.0%} of cases between {', '.join(between)}"
    basis = found["basis"]
    sources: dict[str, int] = {}
    for one in found["from"]:
        sources[one["run_id"]] = sources.get(one["run_id"], 0) + one["units"]
    others = " and ".join(
        f"{count(number, 'unit')} of run {printable(name)}" for name, number in sources.items()
    )
    told = {
        JOURNAL: "by what their rules took",
        OTHERS: f"by what {others} took, as this run has published none of their rule",
        BOUND: "by their time limit, an upper bound",
        GUESS: "by a guess: nothing was measured yet",
        UNKNOWN: "without a guard, so of unknown duration, not counted",
    }
    yield from (f"  {count(basis[kind], 'unit')} {words}" for kind, words in told.items() if basis[kind])


def _alike(known: Experience, unit: Mapping[str, Any], place: str | None) -> _Alike:
    resources, rule = unit["resources"], unit["rule"]
    cpus, number = request.amounts(resources, threads=unit["threads"])
    asked = asking.asked(resources, rule)
    kind = place or (asked.kinds[0] if asked else GPU if number else CPU)
    gpus = 0.0 if kind == CPU else number * (asked.share / WHOLE if asked else 1)
    bound = resources.get("runtime")
    limited = isinstance(bound, int | float) and bound > 0
    if known.durations.number(rule):
        basis = OTHERS if rule in known.others else JOURNAL
    elif limited:
        basis = BOUND
    else:
        basis = GUESS if call_of(unit.get("shell") or "") else UNKNOWN
    sort = Sort(rule, str(resources.get("cost") or ""), kind)
    return _Alike(sort, basis, 60.0 * bound if basis == BOUND else 0.0, (1.0, cpus, gpus))


def _seconds(known: Experience, alike: _Alike) -> float:
    """The expected duration of one unit."""
    if alike.bound:
        return alike.bound
    average = known.durations.expected(alike.sort.rule)
    if average is not None and not alike.sort.cost:
        return average
    return known.durations.predict(*alike.sort).seconds


def _add(hours: dict[str, float], alike: _Alike, seconds: float) -> None:
    for kind, amount in zip(KINDS, alike.amounts, strict=True):
        hours[kind] += amount * seconds / 3600


def _named(kind: str) -> str:
    return kind.replace("_", "-")
