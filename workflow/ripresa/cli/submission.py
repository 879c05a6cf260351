"""What would be submitted to SLURM: alike units together, with the options of sbatch and the script."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from ripresa.cli.answers import Refusal, count, cut
from ripresa.configuration.problems import ConfigurationError
from ripresa.configuration.reading import read
from ripresa.dsl.guarding import call_of
from ripresa.journal.text import printable
from ripresa.slurm import limits, request

EXECUTORS = ("slurm-resume", "slurm")
SHOWN, LINES = 10, 12

_UNKNOWN = "<TBD>"
"""What Snakemake says of a resource that depends on files which do not exist yet."""


def is_slurm(profile: str) -> bool:
    """Whether a profile sends jobs to SLURM. Refuses one that is not there, or cannot be read."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    for folder in (profile, f"{home}/snakemake/{profile}", f"/etc/xdg/snakemake/{profile}"):
        try:
            files = sorted(name for name in os.listdir(folder) if name.startswith("config."))
        except OSError:
            continue
        try:
            options = [read(f"{folder}/{name}") for name in files if name.endswith((".yaml", ".yml"))]
        except ConfigurationError as error:
            raise Refusal(str(error)) from None
        return any(found.get("executor") in EXECUTORS for found in options)
    there = (
        f"; `make setup` links {profile} to profiles/{profile}"
        if os.path.isdir(f"profiles/{profile}")
        else ""
    )
    raise Refusal(f"there is no profile {printable(profile)} here{there}")


def submission(units: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Group units that ask for the same, and check what they ask for.

    A unit has ``target``, ``rule``, ``threads``, ``resources`` and ``shell``. Returns ``groups``
    (``rule``, ``targets``, ``options`` of sbatch, ``script`` of the first unit), ``problems`` that keep units
    from ever running, and ``unchecked``: what could not be checked, and why.
    """
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    problems: Counter[str] = Counter()
    unchecked: dict[str, None] = {}
    for unit in units:
        rule, resources = unit["rule"], unit["resources"]
        later = sorted(name for name in request.RESOURCES if resources.get(name) == _UNKNOWN)
        if later:
            unchecked[f"{', '.join(later)} of {rule}: not known before its input is there"] = None
        try:
            options = request.options(
                {name: value for name, value in resources.items() if name not in later},
                threads=unit["threads"],
            )
        except ValueError as error:
            problems[f"{rule}: {error}"] += 1
            continue
        group = {"rule": rule, "targets": [], "options": options, "script": script(unit)}
        groups.setdefault((rule, *options), group)["targets"].append(unit["target"])
    cluster = limits.ask() if groups else limits.Limits()
    for group in groups.values():
        for problem in limits.check(group["options"], cluster):
            problems[f"{group['rule']}: {problem}"] += len(group["targets"])
        if request.parsed(group["options"]).get("clusters", cluster.name) != cluster.name:
            unchecked[f"{group['rule']}: what other clusters allow"] = None
    return {
        "groups": list(groups.values()),
        "problems": [f"{problem} ({count(number, 'unit')})" for problem, number in problems.items()],
        "unchecked": [*unchecked, *cluster.unchecked],
    }


def script(unit: Mapping[str, Any]) -> str | None:
    """What the job of a unit runs: the guard itself; None where it is Snakemake."""
    shell = unit.get("shell")
    return shell if shell and call_of(shell) else None


def lines(found: Mapping[str, Any]) -> Iterable[str]:
    """A submission as text for people."""
    groups = found["groups"]
    number = sum(len(group["targets"]) for group in groups)
    yield f"to SLURM: {count(number, 'job')} in {count(len(groups), 'group')} of alike ones"
    listed, hidden = cut(groups, SHOWN)
    for group in listed:
        several = ", as an array" if len(group["targets"]) > 1 else ""
        yield f"  {count(len(group['targets']), 'unit')} of {group['rule']}{several}:"
        yield f"    sbatch {' '.join(map(printable, group['options']))}"
        if group["script"] is None:
            yield "    | (Snakemake runs the rule in the job)"
            continue
        text = [line for line in group["script"].splitlines() if line]
        yield from (f"    | {printable(line)[:160]}" for line in islice(text, LINES))
        if len(text) > LINES:
            yield "    | ..."
    if hidden:
        yield f"  ... and {count(hidden, 'more group')}; --json lists all"
    yield from (f"not checked: {printable(reason)}" for reason in found["unchecked"])
