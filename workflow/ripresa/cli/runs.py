"""Which run is meant, what is configured, and which unit a word names."""

from __future__ import annotations

import argparse
import os
from functools import cache
from typing import Any

from ripresa.cli.answers import Refusal
from ripresa.journal import state
from ripresa.journal.paths import Run
from ripresa.journal.text import printable

RUNS = "runs"
CONFIG = "config"


def chosen(arguments: argparse.Namespace) -> Run:
    """The run of ``--run``, else the configured one. Refuses if there is none, or no configuration."""
    return _started(named(arguments))


def started(run_id: str) -> Run:
    """The run of this name. Refuses if there is none."""
    return _started(Run(f"{RUNS}/{run_id}"))


def _started(run: Run) -> Run:
    if not os.path.isdir(run.dir):
        known = existing()
        others = f"; there is {', '.join(known[:5])}" if known else ""
        message = f"{run.dir} does not exist: run '{run.run_id}' has not started here{others}"
        raise Refusal(message, name="RUN_NOT_FOUND")
    return run


def named(arguments: argparse.Namespace) -> Run:
    """The run of ``--run``, else the configured one, whether or not it has started."""
    if arguments.run is None:
        return Run(f"{RUNS}/{configured()['run_id']}")
    return Run(f"{RUNS}/{arguments.run}")


def existing() -> list[str]:
    """The names of all runs here, the newest first."""
    try:
        found = [entry for entry in os.scandir(RUNS) if entry.is_dir()]
    except OSError:
        return []
    return [entry.name for entry in sorted(found, key=lambda entry: -entry.stat().st_mtime)]


@cache
def configured(run_id: str | None = None) -> dict[str, Any]:
    """The configuration here (for another ``run_id``, or of a run that has its own).

    Refuses with all that is wrong with it.
    """
    if not os.path.isdir(CONFIG):
        message = f"{CONFIG}/ does not exist here; call ripresa from the checkout, or name a run with --run"
        raise Refusal(message, name="CONFIG_MISSING")
    from ripresa.configuration import ConfigurationError, load
    from ripresa.configuration.reading import read

    own = own_configuration(run_id) if run_id else ""
    try:
        return load(CONFIG, read(own) if os.path.isfile(own) else {"run_id": run_id} if run_id else None)
    except ConfigurationError as error:
        raise Refusal(str(error), name="CONFIG_INVALID") from None


def own_configuration(run_id: str) -> str:
    """The configuration that a run has for itself, where a command made one: see `ripresa stack run`."""
    return f"{RUNS}/{run_id}/campaign.yaml"


def find(run: Run, word: str) -> list[str]:
    """The targets that a word names: one exactly, as a path, by its end, or several by a pattern.

    Refuses, with what comes close, if it names none.
    """
    units = state.targets(run)
    known = set(units)
    inside = run.target_of(word) if word else None
    exact = next((name for name in (word, inside) if name in known or _has_attempts(run, name)), None)
    if exact is not None:
        return [exact]
    end = f"/{word.lstrip('/')}"
    found = [target for target in units if target.endswith(end)]
    if not found and any(sign in word for sign in "*?["):
        from fnmatch import translate
        from re import compile

        matches = compile(translate(inside if inside and word.startswith(run.dir) else word)).match
        found = [target for target in units if matches(target) or matches(target.rpartition("/")[2])]
    if not found:
        raise Refusal(f"no unit of run '{run.run_id}' is called {printable(word)!r}{_similar(word, units)}")
    return found


def find_one(run: Run, word: str) -> str:
    """The target that a word names; refuses several."""
    found = find(run, word)
    if len(found) > 1:
        some = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise Refusal(f"{printable(word)!r} names {len(found)} units; say which: {some}")
    return found[0]


def _has_attempts(run: Run, name: str | None) -> bool:
    """Whether a unit that left the campaign has a history."""
    return bool(name) and ".." not in str(name).split("/") and os.path.isfile(run.attempts(str(name)))


def _similar(word: str, units: list[str]) -> str:
    part = [target for target in units if word in target] if word else []
    if not part:
        from difflib import get_close_matches

        part = get_close_matches(word, units[:2000], n=3, cutoff=0.5)
    return f"; did you mean {', '.join(part[:3])}?" if part else "; ripresa status --all lists all"
