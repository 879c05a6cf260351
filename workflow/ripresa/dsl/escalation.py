"""Escalation: what failures taught about the resources that units take, as a Snakemake resource."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ripresa.dsl import run
from ripresa.dsl.digests import canonical
from ripresa.dsl.sweeps import SweepError
from ripresa.journal import attempts
from ripresa.recovery import escalation

if TYPE_CHECKING:
    from ripresa.dsl.units import Units


def escalated(
    units: "Units",
    resource: str,
    amount: int | Callable[[dict[str, Any]], int],
    *,
    limit: float | None = None,
    like: tuple[str, ...] = (),
) -> Callable[[Any], int]:
    """A resource that grows, or a parameter that shrinks, with the failures that call for it.

        resources: mem_mb=escalated(units, "mem_mb", 4000, limit=64000, like=("size",))
        shell:     guard("...", resources=("mem_mb",))

    The first attempt gets ``amount``, a number or a function of the unit's parameters. Each failure whose
    policy has ``changes: {mem_mb: 2.0}`` multiplies what the attempt had, at most up to ``limit`` (``mem_mb``
    without one: what the machine has); a factor below 1 goes down to ``limit`` or 1, and always to a divisor
    of ``amount``. Where nothing is left to change, the unit goes into quarantine. What a unit was published
    with is where those units start that equal it in the parameters ``like`` (all units by default). It is
    read from the journal, so it outlives the controller. Results are whole numbers, at least 1.

    Raises SweepError for an amount or limit that is no positive number, and for parameters that units lack.
    """
    where = f"{units.pattern}: escalated {resource}"
    by_amount = _by_amount(units, amount)
    for name, numbers in (("amount", by_amount), ("limit", [] if limit is None else [limit])):
        for number in numbers:
            if not (isinstance(number, int | float) and number > 0):
                raise SweepError(where, f"{name} {number!r} is not a positive number")
    units.targets(**dict.fromkeys(like, ()))  # raises for what is no parameter
    campaign = run.current()
    journal = campaign.run
    campaign.escalated += [
        {"expression": expression, "resource": resource, "first": first, "limit": limit}
        for first, expression in by_amount.items()
    ]
    learnt = escalation.Learnt(journal)
    known: dict[tuple[str, ...], list[float]] = {}

    def shape(parameters: dict[str, Any]) -> tuple[str, ...]:
        return tuple(canonical(parameters.get(name)) for name in like)

    def value(wildcards: Any) -> int:
        target = units.pattern.format(**dict(wildcards.items()))
        if learnt.refresh():
            known.clear()
            for name, other, worked in learnt.notes:
                parameters = units.at(other) if name == resource else None
                if parameters is not None:
                    known.setdefault(shape(parameters), []).append(worked)
        unit = units.find(wildcards)
        first = amount(dict(unit)) if callable(amount) else amount
        own = escalation.asked(attempts.read(journal, target), resource, first)
        amounts = [own, *known.get(shape(unit), ())]
        # Failures change a resource in one direction only; the furthest is what is known to work.
        grown = max(amounts)
        wanted = grown if grown > first else min(amounts)
        return escalation.bounded(wanted, first, limit, shrinks=wanted < first)

    return value


def _by_amount(units: "Units", amount: int | Callable[[dict[str, Any]], int]) -> dict[int, str]:
    """By first amount the expression of the targets that start with it; the last one is of all targets, since
    the first that matches counts."""
    if not callable(amount):
        return {amount: units.expression}
    targets: dict[int, list[str]] = {}
    for target in units:
        targets.setdefault(amount(dict(units.at(target) or {})), []).append(target)
    rarest_first = sorted(targets, key=lambda first: len(targets[first]))
    rare = {first: "|".join(map(re.escape, targets[first])) for first in rarest_first[:-1]}
    return rare | dict.fromkeys(rarest_first[-1:], units.expression)
