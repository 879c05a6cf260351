"""How many hours of hosts, cores and GPUs units would take, and whether that is within the budget."""

from collections.abc import Iterable, Mapping
from typing import Any

from ripresa.cli.answers import count
from ripresa.journal.paths import Run
from ripresa.placement import asking
from ripresa.placement.durations import Durations
from ripresa.placement.wishes import CPU, GPU, WHOLE
from ripresa.slurm import request

KINDS = ("host_hours", "core_hours", "gpu_hours")

JOURNAL, BOUND, UNKNOWN = "journal", "runtime", "unknown"


def estimate(
    run: Run, units: Iterable[Mapping[str, Any]], places: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What one attempt of each of these units takes, in hours.

    A unit is a mapping with ``target``, ``rule``, ``threads`` and ``resources``. Its duration is what its
    rule took in this run, by the cost that it declares; where nothing was published yet the resource
    ``runtime`` (min) is the upper bound; else it is unknown, and counts nothing. ``basis`` says of how many
    units which was used. A part of a GPU counts as a part. ``places`` has the kind of device, ``gpu`` or
    ``cpu``, by target, for units that can do with either; without it they count as on a GPU.
    """
    durations = Durations.of(run)
    hours = dict.fromkeys(KINDS, 0.0)
    basis = dict.fromkeys((JOURNAL, BOUND, UNKNOWN), 0)
    for unit in units:
        cpus, number = request.amounts(unit["resources"], threads=unit["threads"])
        asked = asking.asked(unit["resources"], unit["rule"])
        kind = (places or {}).get(unit["target"]) or (asked.kinds[0] if asked else GPU if number else CPU)
        gpus = 0.0 if kind == CPU else number * (asked.share / WHOLE if asked else 1)
        seconds, known = _duration(durations, unit, kind)
        basis[known] += 1
        for kind, amount in zip(KINDS, (1, cpus, gpus), strict=True):
            hours[kind] += amount * seconds / 3600
    return {**{kind: round(value, 3) for kind, value in hours.items()}, "basis": basis}


def beyond(found: Mapping[str, Any], budget: Mapping[str, float]) -> list[str]:
    """What is more than the budget, one line each."""
    return [
        f"{found[kind]:,.4g} {kind.replace('_', '-')} are beyond the budget of {limit:,.4g} (budget.{kind})"
        for kind, limit in budget.items()
        if found[kind] > limit
    ]


def described(found: Mapping[str, Any]) -> str:
    """An estimate in one line for people."""
    hours = ", ".join(f"{found[kind]:,.4g} {kind.replace('_', '-')}" for kind in KINDS)
    basis = found["basis"]
    told = {
        JOURNAL: "by what their rules took",
        BOUND: "by their time limit, an upper bound",
        UNKNOWN: "of unknown duration, not counted",
    }
    parts = [f"{count(basis[kind], 'unit')} {words}" for kind, words in told.items() if basis[kind]]
    return f"estimate: {hours} ({'; '.join(parts)})"


def _duration(durations: Durations, unit: Mapping[str, Any], kind: str) -> tuple[float, str]:
    expected = durations.expected(unit["rule"])
    if expected is not None:
        cost = unit["resources"].get("cost")
        return (durations.predict(unit["rule"], str(cost), kind).seconds if cost else expected), JOURNAL
    bound = unit["resources"].get("runtime")
    if isinstance(bound, int | float) and bound > 0:
        return 60.0 * bound, BOUND
    return 0.0, UNKNOWN
