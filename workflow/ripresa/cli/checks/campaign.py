"""The configuration, the profile and the run."""

import os
import time
from collections.abc import Iterator
from typing import Any

from ripresa.cli.answers import count, lasted, local
from ripresa.cli.checks import FAIL, OK, WARN, Check
from ripresa.journal import clock, controller, exclusions, leases, processes, records
from ripresa.journal.paths import Run
from ripresa.journal.text import printable
from ripresa.recovery import breaker

PROFILE = "profiles/default/config.yaml"
_CALL = "call `snakemake --rerun-incomplete`"


def profile() -> Iterator[Check]:
    """Look at the profile that every snakemake call in this checkout reads."""
    from ripresa.configuration import ConfigurationError
    from ripresa.configuration.reading import read

    try:
        options = read(PROFILE)
    except ConfigurationError as error:
        yield Check("profile", FAIL, str(error), f"restore it: git checkout {PROFILE}")
        return
    wrong = [f"{key} must be {wanted}: {why}" for key, wanted, why in _broken(options)]
    yield Check(
        "profile", FAIL if wrong else OK, "; ".join(wrong) or PROFILE, f"correct {PROFILE}" if wrong else ""
    )
    if os.environ.get("SNAKEMAKE_PROFILE"):
        named = printable(os.environ["SNAKEMAKE_PROFILE"])
        fix = "unset SNAKEMAKE_PROFILE, unless that is meant"
        yield Check("other profile", WARN, f"SNAKEMAKE_PROFILE adds the options of {named}", fix)


def _broken(options: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    loggers = options.get("logger")
    loggers = loggers if isinstance(loggers, list) else [loggers]
    retries = options.get("retries", 0)
    if options.get("scheduler") != "recovery":
        yield "scheduler", "recovery", "it withholds what has to wait"
    if "journal" not in loggers:
        yield "logger", "journal", "it writes the run's events"
    if options.get("nolock") is not True:
        yield "nolock", "true", "a lock left by a killed controller would need unlocking"
    if options.get("rerun-incomplete") is not True:
        yield "rerun-incomplete", "true", "a plain call has to go on after a crash"
    if options.get("keep-incomplete"):
        yield "keep-incomplete", "absent", "partial outputs would count as done"
    if not isinstance(retries, int) or retries < 20:
        yield "retries", "at least 20", "the policy of the run decides, and this must not come first"


def checks(run: Run) -> Iterator[Check]:
    """Look at who holds a run, what earlier controllers left, and what is stopped."""
    if not os.path.isdir(run.dir):
        yield Check("run", OK, f"{run.run_id} has not started")
        return
    now = time.time()
    holder = controller.holder(run)
    yield _controller(holder, now)
    yield from _leases(run, controlled=holder is not None)
    yield from _journal(run)
    for name, reason in exclusions.excluded(run).items():
        fix = f"reset or replace it, then `ripresa release --device {printable(name)}`"
        yield Check(f"device {printable(name)}", WARN, f"excluded: {printable(reason)}", fix)
    table = breaker.load(run)
    for scope in sorted(table):
        until = breaker.closed_until(table[scope], now)
        if until:
            found = f"open until {local(clock.iso(until))}: nothing starts there"
            yield Check(
                f"breaker {printable(scope)}",
                WARN,
                found,
                "ripresa status shows what failed there; it tries again by itself",
            )


def _controller(holder: dict[str, Any] | None, now: float) -> Check:
    if holder is None:
        return Check("controller", OK, "none")
    since = clock.seconds(holder.get("started"))
    found = f"process {printable(holder.get('pid', '?'))} on {printable(holder.get('host', '?'))}"
    return Check("controller", OK, f"{found}, for {lasted(now - since)}" if since else found)


def _leases(run: Run, *, controlled: bool) -> Iterator[Check]:
    stale, orphaned, alone = [], [], []
    try:
        names = sorted(name for name in os.listdir(run.leases) if name.endswith(".lock"))
    except OSError:
        names = []
    for name in names:
        path = f"{run.leases}/{name}"
        owner = leases.owner(path) or {}
        unit = str(owner.get("target") or name.removesuffix(".lock"))
        held = leases.held(path)
        if held is False:
            stale.append(unit)
        elif held and processes.alive(owner) is False:
            orphaned.append(unit)
        elif held and not controlled:
            alone.append(unit)
    if stale:
        yield Check(
            "stale leases", WARN, _some(stale, "was", "were") + " cut short", f"{_CALL}, which clears up"
        )
    if orphaned:
        found = f"the command of {_some(orphaned, '', '').strip()} runs on without its guard"
        yield Check("orphaned commands", WARN, found, f"{_CALL}, which ends it before anything else")
    if alone:
        yield Check(
            "without controller", WARN, _some(alone, "runs", "run") + " on", f"{_CALL}, which adopts that"
        )
    if not (stale or orphaned or alone):
        yield Check("leases", OK, f"{count(len(names), 'unit')} running" if names else "none left over")


def _some(units: list[str], singular: str, plural: str) -> str:
    if len(units) == 1:
        return f"{printable(units[0])} {singular}"
    return f"{len(units)} units, as {printable(units[0])}, {plural}"


def _journal(run: Run) -> Iterator[Check]:
    damaged = [
        path
        for path in (run.recovery, run.breakers)
        if os.path.exists(path) and not isinstance(records.read_json(path), dict)
    ]
    if os.path.isfile(run.units):
        with open(run.units, "rb") as file:
            damaged += [run.units] if any(records.parse(line) is None for line in file) else []
    elif os.path.exists(run.units):
        damaged.append(run.units)
    if damaged:
        fix = f"{_CALL}: it writes them anew; until then defaults hold"
        yield Check("journal", WARN, f"cannot be read in full: {', '.join(damaged)}", fix)
    else:
        yield Check("journal", OK, "readable")
