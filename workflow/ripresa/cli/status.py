"""`ripresa status`: counts and units by state."""

import argparse
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from ripresa.cli import runs
from ripresa.cli.answers import Answer, Refusal, Table, count, cut, lasted, local
from ripresa.cli.waits import waiting
from ripresa.journal import clock, controller, exclusions, leases, records, state
from ripresa.journal.paths import Run
from ripresa.journal.text import printable
from ripresa.recovery import breaker, policy

SHOWN = 40
"""Units listed without --all."""

# What needs a person first.
_ORDER = (
    state.QUARANTINED,
    state.FAILED,
    state.STALE,
    state.WAITING,
    state.RUNNING,
    state.PENDING,
    state.SKIPPED,
    state.COMPLETED,
)


def answer(arguments: argparse.Namespace) -> Answer:
    """Exit code 1 if units are given up or in quarantine."""
    run = runs.chosen(arguments)
    now = time.time()
    units = state.states(run, now)
    counts = state.counts(units)
    scopes = _held_back(run, now)
    document = {
        "run_id": run.run_id,
        "config": _config(run, arguments.run),
        "counts": counts,
        "units": [unit._asdict() for unit in units],
        "controller": controller.holder(run),
        "breakers": {scope["scope"]: scope["until"] for scope in scopes if scope["until"]},
        "probing": {scope["scope"]: scope["probing"] for scope in scopes if not scope["until"]},
        "scopes": scopes,
        "excluded_devices": exclusions.excluded(run),
        "next_event": _next_event(units, scopes, now),
    }
    stopped = counts.get(state.FAILED, 0) + counts.get(state.QUARANTINED, 0)
    return Answer(document, lambda: _text(run, document, units, now, arguments.all), 1 if stopped else 0)


def _config(run: Run, run_id: str | None) -> dict[str, Any]:
    """The digest of what the run last started with, and whether a call now would change that.

    ``changed`` is None where it cannot be told, and then ``problem`` says why.
    """
    header = next(iter(records.iterate(run.units)), {})
    recorded = header.get("config_sha256") or None
    told: dict[str, Any] = {"sha256": recorded, "changed": None, "difference": []}
    if recorded is None:
        return {**told, "problem": "the run has not noted its configuration"}
    try:
        config = runs.configured(run_id)
    except Refusal as error:
        first, *others = str(error).splitlines()
        return {**told, "problem": f"{first} (and {len(others)} more)" if others else first}
    from ripresa.configuration import difference, load_snapshot, sha256

    told["changed"] = sha256(config) != recorded
    if told["changed"]:
        before = load_snapshot(run.dir)
        told["difference"] = [] if before is None else difference(before, config)
    return told


def _held_back(run: Run, now: float) -> list[dict[str, Any]]:
    """The scopes whose breaker is not closed: until when it is open, then how many probes may start now."""
    table = breaker.load(run)
    tripped = sorted(table)
    settings = policy.breaker_settings(policy.load(run)) if tripped else {}
    found = []
    lives = breaker.alive(run)
    for scope in tripped:
        until = breaker.closed_until(table[scope], now)
        found.append(
            {
                "scope": scope,
                "state": breaker.OPEN if until else breaker.HALF_OPEN,
                "until": clock.iso(until) if until else None,
                "failures": table[scope].get("failures"),
                "probes_left": breaker.allowance(table, scope, now, settings, lives),
                "probes": settings["probes"],
                "probing": breaker.probing(table[scope], lives),
            }
        )
    return found


def _next_event(
    units: list[state.UnitState], scopes: list[dict[str, Any]], now: float
) -> dict[str, Any] | None:
    """What happens next by the clock: a retry, or a breaker lets probes through. None if nothing does."""
    times = [(unit.not_before, "retry", unit.target) for unit in units if unit.not_before]
    times += [(scope["until"], "breaker", scope["scope"]) for scope in scopes if scope["until"]]
    if not times:
        return None
    at, what, name = min(times)
    return {"at": at, "in_s": round(max(0.0, clock.seconds(at) - now), 1), "what": what, "name": name}


def _text(
    run: Run, document: dict[str, Any], units: list[state.UnitState], now: float, everything: bool
) -> Iterable[str | Table]:
    counts = document["counts"]
    described = ", ".join(f"{number:,} {name}" for name, number in counts.items())
    yield (
        f"run {run.run_id}: {described} of {count(len(units), 'unit')}"
        if units
        else (f"run {run.run_id}: no units yet; `snakemake --rerun-incomplete` starts it")
    )
    unfinished = len(units) > counts.get(state.COMPLETED, 0) + counts.get(state.SKIPPED, 0)
    yield f"controller: {_controller(document['controller'], now, unfinished)}"
    config = document["config"]
    if config["changed"] is None:
        yield f"configuration: not compared: {printable(config['problem'])}"
    else:
        yield f"configuration: {'changed since the run started' if config['changed'] else 'unchanged'}"
    changes, hidden = cut(config["difference"], 10)
    yield from (f"  {printable(change)}" for change in changes)
    if hidden:
        yield f"  ... and {hidden} more; ripresa plan shows what they change"
    yield from map(partial(_breaker, now), document["scopes"])
    for name, reason in document["excluded_devices"].items():
        yield f"device excluded: {printable(name)}: {printable(reason)}"
    if coming := document["next_event"]:
        what = "retry of" if coming["what"] == "retry" else "probes of"
        wait = lasted(clock.seconds(coming["at"]) - now)
        yield f"next: {what} {printable(coming['name'])} in {wait}, at {local(coming['at'])}"
    wanted = [unit for unit in units if everything or unit.state != state.COMPLETED]
    wanted.sort(key=lambda unit: _ORDER.index(unit.state))
    listed, hidden = (wanted, 0) if everything else cut(wanted, SHOWN)
    if listed:
        yield ""
        yield Table(("STATE", "TARGET", "ATTEMPTS", "CLASS", "REASON"), [_row(run, u, now) for u in listed])
    if hidden:
        yield f"... and {hidden:,} more not completed; --all lists every unit"


def _row(run: Run, unit: state.UnitState, now: float) -> tuple[str, ...]:
    reason = printable(unit.reason)
    if unit.state == state.RUNNING:
        owner = leases.owner(run.lease(unit.target)) or {}
        since = clock.seconds(owner.get("started"))
        device = f"on {printable(unit.device)}" if unit.device else ""
        reason = "; ".join(filter(None, [f"for {lasted(now - since)}" if since else "", device, reason]))
    reason = ": ".join(part for part in (waiting(unit, now), reason) if part)
    return unit.state, unit.target, str(unit.attempts), unit.failure_class or "", reason


def _breaker(now: float, scope: dict[str, Any]) -> str:
    name, until = printable(scope["scope"]), scope["until"]
    if until:
        wait = lasted(clock.seconds(until) - now)
        return f"breaker open: {name} for {wait}, until {local(until)}; then up to {scope['probes']} probes"
    running, left = count(scope["probing"], "probe"), scope["probes_left"]
    return f"breaker half-open: {name}, {running} running; {left} more may start, and a success closes it"


def _controller(holder: dict[str, Any] | None, now: float, unfinished: bool) -> str:
    if holder is None:
        return f"none{'; `snakemake --rerun-incomplete` goes on' if unfinished else ''}"
    since = clock.seconds(holder.get("started"))
    for_long = f" for {lasted(now - since)}, since {local(holder.get('started'))}" if since else ""
    who = f"process {printable(holder.get('pid', '?'))} on {printable(holder.get('host', '?'))}"
    return f"{who}{for_long}"
