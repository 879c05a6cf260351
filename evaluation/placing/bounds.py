"""What no placement can beat."""

from collections.abc import Sequence
from typing import NamedTuple

import pulp

from placing.simulation import Device
from placing.trace import Unit
from ripresa.placement.wishes import GPU


class Bounds(NamedTuple):
    """Lower bounds of the makespan, in s."""

    relaxed: float
    """If units could be cut: the linear relaxation of R||Cmax."""
    longest: float
    """The longest unit, where it is shortest."""

    @property
    def best(self) -> float:
        return max(self)


def bounds(units: Sequence[Unit], devices: Sequence[Device]) -> Bounds:
    """The bounds of a campaign; raises RuntimeError where CBC fails."""
    classes = sorted({(device.kind, device.memory_mb) for device in devices})
    end = pulp.LpVariable("end", lowBound=0)
    program = pulp.LpProblem("bound", pulp.LpMinimize)
    program += end
    loads: dict[tuple[str, int], list[tuple[pulp.LpVariable, float]]] = {place: [] for place in classes}
    for number, unit in enumerate(units):
        parts = []
        for kind, memory_mb in classes:
            if kind in unit.seconds and (not memory_mb or unit.memory_mb <= memory_mb):
                part = pulp.LpVariable(f"x{number}_{kind}_{memory_mb}", lowBound=0)
                parts.append(part)
                share = unit.share / 100 if kind == GPU else 1.0
                loads[kind, memory_mb].append((part, unit.seconds[kind] * share))
        program += pulp.lpSum(parts) == 1
    for place, terms in loads.items():
        number = sum((device.kind, device.memory_mb) == place for device in devices)
        program += pulp.LpAffineExpression(terms) <= number * end
    program.solve(pulp.PULP_CBC_CMD(msg=False))
    if program.sol_status != pulp.LpSolutionOptimal:
        raise RuntimeError("CBC does not solve the relaxation")
    return Bounds(float(end.varValue or 0.0), max(unit.shortest for unit in units))
