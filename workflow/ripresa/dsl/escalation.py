"""Escalation: what a unit's failures taught about the resources it takes, as a Snakemake resource."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ripresa.dsl import run
from ripresa.journal import attempts
from ripresa.recovery import policy

if TYPE_CHECKING:
    from ripresa.dsl.units import Units


def escalated(
    units: "Units", resource: str, amount: float, *, limit: float = math.inf
) -> Callable[[Any], int]:
    """A resource that grows (or a parameter that shrinks) with the failures that call for it.

        resources: mem_mb=escalated(units, "mem_mb", 4000, limit=64000)

    The first attempt gets ``amount``; each failure whose policy has ``changes: {mem_mb: 2.0}`` multiplies
    it, at most up to ``limit``. Counted from the journal, so it outlives the controller. Results are
    whole numbers, at least 1.
    """
    journal = run.current().run

    def value(wildcards: Any) -> int:
        target = units.pattern.format(**dict(wildcards.items()))
        factor = policy.escalation(attempts.read(journal, target), resource)
        return max(1, int(min(amount * factor, limit)))

    return value
