"""`ripresa watch`: follows a run without being its controller. Any number may; none changes anything."""

import argparse
import sys
import time
from collections.abc import Iterable
from typing import Any

from ripresa.cli import runs
from ripresa.cli.answers import STYLES, Answer, Table, count, lasted
from ripresa.cli.waits import waiting
from ripresa.cli.watched import Watched
from ripresa.journal import clock, state
from ripresa.journal.text import printable

PAUSE_S = 1.0
"""Least time between two looks; a run that takes long to look at is looked at less often."""

SHARE = 4.0
"""So many times as long as a look took it waits until the next."""

# What somebody wants to see first.
_ORDER = (
    state.RUNNING,
    state.QUARANTINED,
    state.FAILED,
    state.STALE,
    state.WAITING,
    state.PENDING,
    state.COMPLETED,
    state.SKIPPED,
)
_HEADING = ("STATE", "TARGET", "NODE", "ELAPSED", "PROGRESS", "ABOUT")
_WITH_LOG = (state.RUNNING, state.QUARANTINED, state.FAILED)


def answer(arguments: argparse.Namespace) -> Answer:
    """Exit code 1 if the run ended without being complete, else 0, also for Ctrl-C."""
    watched = Watched(runs.chosen(arguments))
    watched.look()
    if arguments.json or arguments.once:
        document = watched.document() if arguments.json else None
        return Answer(document, lambda: _picture(watched), _code(watched))
    try:
        (_draw if sys.stdout.isatty() else _tell)(watched)
    except KeyboardInterrupt:
        return Answer(None, tuple)
    return Answer(None, lambda: [_end(watched)], _code(watched))


def _code(watched: Watched) -> int:
    return 1 if watched.over and not watched.complete else 0


def _draw(watched: Watched) -> None:
    """Keep a picture on the terminal until the run is over."""
    from rich.live import Live

    with Live(auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(_canvas(watched, live.console.size.height), refresh=True)
            if watched.over:
                return
            _pause_and_look(watched)


def _tell(watched: Watched) -> None:
    """Write a line for every change until the run is over."""
    print(_head(watched), flush=True)
    known = {one.target: one.state for one in watched.units}
    for one in watched.units:
        if one.state == state.RUNNING:
            _say(watched, one)
    while not watched.over:
        _pause_and_look(watched)
        for one in watched.units:
            if known.get(one.target, state.PENDING) != one.state:
                _say(watched, one)
            known[one.target] = one.state
        sys.stdout.flush()


def _pause_and_look(watched: Watched) -> None:
    took = time.time() - watched.now
    time.sleep(max(PAUSE_S, SHARE * took))
    watched.look()


def _say(watched: Watched, one: state.UnitState) -> None:
    row = _row(watched, watched.unit(one))
    print(time.strftime("%H:%M:%S"), "  ".join(printable(cell) for cell in row if cell))


def _end(watched: Watched) -> str:
    if watched.complete:
        return f"run {watched.run.run_id} is complete: {count(len(watched.units), 'unit')}"
    told = ", ".join(f"{number:,} {name}" for name, number in watched.counts.items())
    return f"run {watched.run.run_id} ended ({watched.state}), incomplete: {told}; ripresa status says why"


def _head(watched: Watched) -> str:
    told = ", ".join(f"{number:,} {name}" for name, number in watched.counts.items())
    holder = watched.controller
    who = "no controller"
    if holder:
        who = (
            f"controller: process {printable(holder.get('pid', '?'))} on {printable(holder.get('host', '?'))}"
        )
        if since := clock.seconds(holder.get("started")):
            who += f" for {lasted(watched.now - since)}"
    return f"run {watched.run.run_id}: {watched.state}, {who}; {told or 'no units yet'}"


def _picture(watched: Watched) -> Iterable[str | Table]:
    """Every unit, once."""
    yield _head(watched)
    if watched.units:
        yield ""
        units = [watched.unit(one) for one in _sorted(watched.units)]
        yield Table(_HEADING, [_row(watched, unit) for unit in units])
        for unit in units:
            if unit["tail"]:
                yield ""
                yield f"{printable(unit['log'])}:"
                yield from (f"  | {line}" for line in unit["tail"])
    if watched.over:
        yield ""
        yield _end(watched)


def _canvas(watched: Watched, height: int) -> Any:
    """As much as the terminal has room for, with the last line of each log that matters."""
    from rich.console import Group
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=None, pad_edge=False, header_style="bold", expand=True)
    for name in _HEADING:
        wide = name in ("TARGET", "ABOUT")
        grid.add_column(name, no_wrap=True, overflow="ellipsis", ratio=2 if wide else None)
    room, shown = height - 4, 0
    ordered = _sorted(watched.units)
    for one in _fitting(ordered, room):
        unit = watched.unit(one)
        row = _row(watched, unit)
        grid.add_row(Text(row[0], style=STYLES.get(row[0], "")), *map(Text, row[1:]))
        if unit["tail"] and one.state in _WITH_LOG:
            grid.add_row("", Text(f"  | {unit['tail'][-1]}", style="dim"))
        shown += 1
    hidden = len(ordered) - shown
    last = f"... and {hidden:,} more; ripresa watch --once lists all" if hidden else ""
    return Group(
        Text(_head(watched), style="bold", no_wrap=True, overflow="ellipsis"), Text(""), grid, Text(last)
    )


def _fitting(ordered: list[state.UnitState], room: int) -> list[state.UnitState]:
    """The units that there are lines for; no state takes more than half of what is left, but for the last."""
    found: list[state.UnitState] = []
    for name in _ORDER:
        mine = [one for one in ordered if one.state == name]
        lines = 2 if name in _WITH_LOG else 1
        others = len(ordered) - len(found) - len(mine)
        share = room if not others else max(room // 2, room - others)
        taken = mine[: max(0, share // lines)]
        found += taken
        room -= lines * len(taken)
    return found


def _sorted(units: list[state.UnitState]) -> list[state.UnitState]:
    return sorted(units, key=lambda one: _ORDER.index(one.state))


def _row(watched: Watched, unit: dict[str, Any]) -> tuple[str, ...]:
    elapsed, far = unit["elapsed_s"], unit["progress"]
    progress = ""
    if far:
        progress = str(far["value"]) if far["total"] is None else f"{far['value']}/{far['total']}"
    return (
        unit["state"],
        unit["target"],
        printable(unit["host"]),
        "" if elapsed is None else lasted(elapsed),
        printable(progress),
        _about(watched, unit),
    )


def _about(watched: Watched, unit: dict[str, Any]) -> str:
    """What a unit waits for, or why it failed; where SLURM has its job, which and in what state."""
    found = state.UnitState(**{name: unit[name] for name in state.UnitState._fields})
    job, parts = unit["job"], []
    if unit["device"] and unit["state"] == state.RUNNING:
        parts.append(f"on {unit['device']}")
    if job and job["job"] and unit["state"] == state.RUNNING:
        parts.append(f"job {job['job']}")
    else:
        if job and job["job"] and unit["state"] in (state.PENDING, state.WAITING, state.STALE):
            reason = f" ({job['reason']})" if job["reason"] else ""
            parts.append(f"job {job['job']} {job['state']}{reason}")
        parts.append(waiting(found, watched.now))
    if unit["failure_class"]:
        parts.append(unit["failure_class"])
    parts.append(unit["reason"] or "")
    return printable(": ".join(part for part in parts if part))
