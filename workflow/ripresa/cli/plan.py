"""`ripresa plan`: what the next call of snakemake would run, why, at what cost, and how it is submitted."""

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from typing import Any

from ripresa.cli import estimates, manifest, placement, runs, submission
from ripresa.cli.answers import Answer, Refusal, Table, count, cut, local
from ripresa.cli.snakemake import call, error
from ripresa.journal import records, state
from ripresa.journal.paths import Run
from ripresa.journal.text import printable

SHOWN = 20

# How Snakemake's reasons begin, and what they are called here.
_CORES = 1_000_000  # more than any node has
_REASONS = {
    "Missing output files": "not made yet",
    "Incomplete output files": "cut short",
    "Updated input files": "input changed",
    "Input files updated by another job": "input is made anew",
    "Set of input files has changed": "other inputs",
    "Code has changed": "command changed",
    "Params have changed": "parameters changed",
    "Software environment definition": "software changed",
    "Forced execution": "forced",
}


def answer(arguments: argparse.Namespace) -> Answer:
    """Asks Snakemake itself, in a dry run; exit code 2 for a configuration it refuses, 1 for rules, for what
    is beyond the budget, and for requests that the cluster would refuse.

    With ``--profile`` an accepted plan is written to the run, as its manifest.
    """
    slurm = arguments.profile is not None and submission.is_slurm(arguments.profile)
    if arguments.placement and slurm:
        raise Refusal("SLURM places what its profile runs; --placement is about the devices of this machine")
    run = runs.named(arguments)
    changes = _changes(run, arguments.run)
    planned = _dry_run(arguments, elsewhere=slurm)
    parts: list[dict[str, Any]] = next((told["parts"] for told in planned if "parts" in told), [])
    jobs = [job for job in planned if job.get("output")]
    known = {unit.target: unit for unit in state.states(run)}
    units = [_unit(run, job, known) for job in jobs]
    held = [u for u in units if u["state"] in (state.WAITING, state.QUARANTINED, state.RUNNING)]
    new = [
        {**job, "target": unit["target"]}
        for job, unit in zip(jobs, units, strict=True)
        if unit["state"] not in (state.QUARANTINED, state.RUNNING)
    ]
    config = _config(arguments.run)
    devices = config.get("devices")
    placed = placement.placement(run, new, devices, arguments.snakemake) if arguments.placement else None
    places = {} if slurm else placement.kinds(placed) if placed else placement.beside_gpus(run, new, devices)
    estimate = estimates.estimate(run, new, places)
    submitted = submission.submission(new) if slurm else None
    document: dict[str, Any] = {
        "run_id": run.run_id,
        "changes": changes,
        "parts": parts,
        "rules": _by_rule(units),
        "units": units,
        "held": [unit["target"] for unit in held],
        "estimate": estimate,
        "submission": submitted,
        "placement": placed,
        "manifest": None,
    }
    errors = submitted["problems"] if submitted else []
    excess = estimates.beyond(estimate, config.get("budget") or {})
    if excess and not arguments.yes:
        errors = [*errors, *(f"{line}; `ripresa plan --yes` confirms it" for line in excess)]
    if arguments.profile and not errors:
        manifest.write(run, _manifest(arguments, config, document, new, excess))
        document["manifest"] = run.plan
    return Answer(document, lambda: _text(document, held), 1 if errors else 0, tuple(errors))


def _config(run_id: str | None) -> dict[str, Any]:
    """The configuration of the run; empty for one that has none here."""
    return runs.configured(run_id) if os.path.isdir(runs.CONFIG) else {}


def _manifest(
    arguments: argparse.Namespace,
    config: dict[str, Any],
    document: dict[str, Any],
    jobs: list[dict[str, Any]],
    excess: list[str],
) -> dict[str, Any]:
    """What was planned: each unit with its rule, parameters and resources, and what alike ones ask for."""
    from ripresa.configuration import sha256

    found = document["submission"] or {"groups": [], "unchecked": []}
    groups = [
        {"rule": g["rule"], "units": len(g["targets"]), "options": g["options"]} for g in found["groups"]
    ]
    place = {target: n for n, group in enumerate(found["groups"]) for target in group["targets"]}
    return {
        "config_sha256": sha256(config) if config else None,
        "profile": arguments.profile,
        "arguments": arguments.snakemake,
        "estimate": document["estimate"],
        "confirmed": excess,
        "unchecked": found["unchecked"],
        "groups": groups,
        "units": [
            {
                "target": job["target"],
                "rule": job["rule"],
                "parameters": job["parameters"],
                "threads": job["threads"],
                "resources": {k: v for k, v in job["resources"].items() if not k.startswith("_")},
                "group": place.get(job["target"]),
            }
            for job in jobs
        ],
    }


def _changes(run: Run, run_id: str | None) -> list[str]:
    """What is configured differently than when the run last started."""
    if run_id is not None and not os.path.isdir(runs.CONFIG):
        return []  # a campaign of its own making, without our configuration
    config = runs.configured(run_id)
    from ripresa.configuration import ConfigurationError, check_resume

    try:
        return check_resume(run.dir, config)
    except ConfigurationError as error:
        raise Refusal(str(error)) from None


def _dry_run(arguments: argparse.Namespace, *, elsewhere: bool) -> list[dict[str, Any]]:
    """The parts of the campaign and the jobs that Snakemake would run, as its logger plugin `journal` notes
    them.

    Those that run ``elsewhere`` have the threads that they ask for, not cut to the cores of this machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/jobs.jsonl"
        profile = ("--profile", arguments.profile) if arguments.profile else ()
        cores = ("--cores", str(_CORES)) if elsewhere else ()
        options = ("--logger", "journal", "--dry-run", *profile, *cores, *arguments.snakemake)
        done = call(arguments, *options, RIPRESA_PLAN=file)
        if done.returncode:
            raise Refusal(f"snakemake cannot plan: {error(done.stdout)}", 1)
        return records.read(file)


def _unit(run: Run, job: dict[str, Any], known: dict[str, state.UnitState]) -> dict[str, Any]:
    path = job["output"][0]
    target = run.target_of(path) or path
    unit = known.get(target)
    return {
        "target": target,
        "rule": job["rule"],
        "reason": printable(job.get("reason")),
        "reasons": _short(str(job.get("reason"))),
        "state": unit.state if unit else state.PENDING,
        "failure_class": unit.failure_class if unit else None,
        "not_before": unit.not_before if unit else None,
    }


def _short(reason: str) -> list[str]:
    parts = reason.split("; ")
    return [name for start, name in _REASONS.items() if any(p.startswith(start) for p in parts)] or ["always"]


def _by_rule(units: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rules: dict[str, Counter[str]] = {}
    for unit in units:
        rules.setdefault(unit["rule"], Counter()).update(unit["reasons"])
    numbers = Counter(unit["rule"] for unit in units)
    return [
        {"rule": rule, "units": numbers[rule], "reasons": dict(reasons.most_common())}
        for rule, reasons in rules.items()
    ]


def _text(document: dict[str, Any], held: list[dict[str, Any]]) -> Iterable[str | Table]:
    changes = document["changes"]
    if changes:
        yield f"configuration: {count(len(changes), 'value')} changed since the run started"
        listed, hidden = cut(changes, SHOWN)
        yield from (f"  {printable(change)}" for change in listed)
        if hidden:
            yield f"  ... and {hidden:,} more"
    number = len(document["units"])
    yield (
        f"run {document['run_id']}: {count(number, 'unit')} would run"
        if number
        else (f"run {document['run_id']}: nothing would run")
    )
    if document["parts"]:
        yield ""
        yield Table(
            ("PART", "UNITS", "SHARED", "DONE", "TO DO"), [_part_row(one) for one in document["parts"]]
        )
    if document["rules"]:
        yield ""
        yield Table(("RULE", "UNITS", "WHY"), [_rule_row(rule) for rule in document["rules"]])
        yield ""
        yield from estimates.lines(document["estimate"])
    if document["placement"]:
        yield ""
        yield from placement.lines(document["placement"])
    if held:
        listed, hidden = cut(held, SHOWN)
        yield ""
        yield Table(
            ("STATE", "TARGET", "WHAT HAPPENS"), [(u["state"], u["target"], _then(u)) for u in listed]
        )
        if hidden:
            yield f"... and {hidden:,} more; --json lists all"
    if document["submission"]:
        yield ""
        yield from submission.lines(document["submission"])
    if document["manifest"]:
        yield f"manifest: {document['manifest']}"


def _part_row(part: dict[str, Any]) -> tuple[str, ...]:
    numbers = (part["units"], part["shared"], part["done"], part["units"] - part["done"])
    return part["part"] or "all together", *(f"{number:,}" for number in numbers)


def _rule_row(rule: dict[str, Any]) -> tuple[str, ...]:
    reasons = rule["reasons"]
    if set(reasons.values()) == {rule["units"]}:
        return rule["rule"], f"{rule['units']:,}", ", ".join(reasons)
    return rule["rule"], f"{rule['units']:,}", ", ".join(f"{name} ({n:,})" for name, n in reasons.items())


def _then(unit: dict[str, Any]) -> str:
    if unit["state"] == state.WAITING:
        return f"not before {local(unit['not_before'])} ({unit['failure_class']})"
    if unit["state"] == state.RUNNING:
        return "is being executed: its result is adopted"
    return f"refused ({unit['failure_class']}), unless it changed; ripresa why says what to do"
