"""What a dry run would run, written down for `ripresa plan`, which asks for it by an environment variable."""

import logging
import os
from collections import Counter
from typing import Any

from snakemake.logging import get_event
from snakemake_interface_logger_plugins.common import LogEvent

from ripresa.dsl import run
from ripresa.journal import records


def note(record: logging.LogRecord) -> None:
    """Append the job of a record, if it is one, to the file that ``RIPRESA_PLAN`` names, if it does.

    Before all jobs come the parts of the campaign, if it has any.
    """
    file = os.environ.get("RIPRESA_PLAN")
    if not file:
        return
    event = get_event(record)
    if event is LogEvent.WORKFLOW_STARTED and (parts := _parts()):
        records.append(file, {"parts": parts}, fsync=False)
    if event is LogEvent.JOB_INFO:
        told = vars(record)
        output = list(told.get("output") or [])
        job = {
            "rule": told["rule_name"],
            "input": list(told.get("input") or []),
            "output": output,
            "reason": told.get("reason"),
            "threads": told.get("threads"),
            "resources": dict((told.get("resources") or {}).items()),
            "parameters": _parameters(output),
            "shell": told.get("shellcmd"),
        }
        records.append(file, job, fsync=False)


def _parameters(output: list[str]) -> dict[str, Any] | None:
    """The parameter set of the unit with these outputs; None for a job that is no unit."""
    campaign = _campaign()
    target = campaign.run.target_of(output[0]) if campaign and output else None
    found = (units.at(target) for units in campaign.units) if campaign and target else ()
    return next((dict(parameters) for parameters in found if parameters is not None), None)


def _parts() -> list[dict[str, Any]]:
    """Of every part of the campaign how many units it has, how many of them other parts have too, and how
    many are done; last the same of all together."""
    campaign = _campaign()
    if campaign is None or not campaign.parts:
        return []
    parts = {**campaign.parts, "": [path for paths in campaign.parts.values() for path in paths]}
    owners = Counter(parts[""])
    there = {path for path in owners if os.path.lexists(path)}
    return [
        {
            "part": name or None,
            "units": len(paths := dict.fromkeys(files)),
            "shared": sum(owners[path] > 1 for path in paths),
            "done": sum(path in there for path in paths),
        }
        for name, files in parts.items()
    ]


def _campaign() -> run.Campaign | None:
    try:
        return run.current()
    except RuntimeError:
        return None  # somebody else's Snakefile
