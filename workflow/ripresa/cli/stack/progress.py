"""How far the phases of a stack are, from the events and units of the run."""

from collections import Counter
from typing import Any

from ripresa.families.stacking.phases import PHASES
from ripresa.journal import clock, controller, records, state
from ripresa.journal.paths import Run

PENDING, RUNNING, DONE, SKIPPED, FAILED = "pending", "running", "done", "skipped", "failed"
INTERRUPTED = "interrupted"
_ENDS = {"ok": DONE, "skipped": SKIPPED, "error": FAILED}


def phases(run: Run) -> list[dict[str, Any]]:
    """Every phase: its state, progress, times and units.

    Skipped is a phase whose results the last session took over. Where the events say nothing (they were lost,
    or another logger was in use), the units do.
    """
    table = [_empty(number) for number in range(len(PHASES))]
    sessions: list[Any] = [None] * len(table)
    for event in records.iterate(run.events):
        number = event.get("phase")
        if isinstance(number, int) and 0 <= number < len(table):
            _apply(table[number], event)
            sessions[number] = event.get("session")
    _outdate(table, sessions, records.read_json(run.phases))
    alive = controller.holder(run) is not None
    units = _units(run)
    for phase in table:
        counts = phase["units"] = units.get(phase["phase_name"], {})
        if phase["state"] == RUNNING and not alive:
            phase["state"] = INTERRUPTED
        elif phase["state"] == PENDING and phase["started"] is None and set(counts) == {state.COMPLETED}:
            phase["state"] = DONE
    return table


def _empty(number: int) -> dict[str, Any]:
    phase: dict[str, Any] = {"phase": number, "phase_name": PHASES[number], "state": PENDING}
    return phase | dict.fromkeys(("current", "total", "started", "ended", "seconds", "reason", "resume_from"))


def _apply(phase: dict[str, Any], event: dict[str, Any]) -> None:
    moment = event.get("ts")
    match event.get("type"):
        case "phase_start":
            before = dict(phase)
            phase.update(_empty(phase["phase"]), state=RUNNING, started=moment)
            phase["before"] = before  # in case it is skipped: then what it did before is what counts
        case "phase_progress":
            phase.update(current=event.get("current"), total=event.get("total"))
        case "phase_end":
            before = phase.pop("before", {})
            if event.get("status") == "skipped":
                phase.update(
                    {key: before.get(key) for key in ("current", "total", "started", "ended", "seconds")}
                )
            else:
                phase.update(ended=moment, seconds=event.get("seconds"))
                phase.update(current=event.get("current"), total=event.get("total"))
            phase["state"] = _ENDS.get(str(event.get("status")), FAILED)
            phase.update(reason=event.get("reason"), resume_from=event.get("resume_from"))


def _outdate(table: list[dict[str, Any]], sessions: list[Any], plan: Any) -> None:
    """What the last session is to compute again, and has not begun, is pending."""
    for phase in table:
        phase.pop("before", None)
    if not isinstance(plan, dict):
        return
    to_run = {one.get("name") for one in plan.get("phases", []) if one.get("to_run")}
    for number, phase in enumerate(table):
        if phase["phase_name"] in to_run and sessions[number] not in (None, plan.get("session")):
            table[number] = _empty(number)


def _units(run: Run) -> dict[str, dict[str, int]]:
    """By phase, how many units are in each state."""
    counted: dict[str, Counter[str]] = {}
    for unit in state.states(run):
        if unit.rule in PHASES:
            counted.setdefault(str(unit.rule), Counter())[unit.state] += 1
    return {name: dict(counts) for name, counts in counted.items()}


def seconds_since(moment: str | None, now: float) -> float | None:
    """How long ago a time of the journal is."""
    since = clock.seconds(moment)
    return max(0.0, now - since) if since else None
