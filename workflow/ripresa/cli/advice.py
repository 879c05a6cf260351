"""What a person should do about a unit, if anything: one line."""

from collections.abc import Mapping
from typing import Any

from ripresa.cli.answers import lasted, local
from ripresa.journal import clock, state
from ripresa.journal.text import printable
from ripresa.recovery import words

AGAIN = "`snakemake --rerun-incomplete`"


def advise(
    unit: state.UnitState,
    record: Mapping[str, Any],
    controller: Mapping[str, Any] | None,
    now: float,
) -> str:
    """The line for a unit in its state, with its newest failed or published attempt, if any."""
    target = unit.target
    if unit.state == state.COMPLETED:
        return "nothing: it is done"
    if unit.state == state.RUNNING:
        return "nothing: an attempt of it is running"
    if unit.state == state.SKIPPED:
        return f"nothing, unless it should run here: {printable(unit.reason)}"
    if unit.state == state.STALE:
        return f"call {AGAIN}, which clears up after the attempt that was cut short and runs it again"
    if unit.state == state.QUARANTINED:
        return f"{words.remedy(record)}; then `ripresa release {target}` and {AGAIN}"
    if unit.state == state.FAILED:
        return f"{words.remedy(record)}; then {AGAIN}, which tries it again"
    if unit.waits_for and unit.waits_for["what"] == "blocked":
        first, *others = unit.waits_for["names"]
        return f"see `ripresa why {first}`, which blocks it{' (and others)' if others else ''}"
    when = "when its turn comes"
    if unit.state == state.WAITING:
        when = f"at {local(unit.not_before)}, in {lasted(clock.seconds(unit.not_before) - now)}"
    if controller is None:
        return f"call {AGAIN}, which starts it {when}"
    return f"nothing: the running controller starts it {when}"
