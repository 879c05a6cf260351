"""What a dry run would run, written down for `ripresa plan`, which asks for it by an environment variable."""

import logging
import os
from typing import Any

from snakemake.logging import get_event
from snakemake_interface_logger_plugins.common import LogEvent

from ripresa.dsl import run
from ripresa.journal import records


def note(record: logging.LogRecord) -> None:
    """Append the job of a record, if it is one, to the file that ``RIPRESA_PLAN`` names, if it does."""
    file = os.environ.get("RIPRESA_PLAN")
    if file and get_event(record) is LogEvent.JOB_INFO:
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
    try:
        campaign = run.current()
    except RuntimeError:
        return None  # somebody else's Snakefile
    target = campaign.run.target_of(output[0]) if output else None
    found = (units.at(target) for units in campaign.units) if target else ()
    return next((dict(parameters) for parameters in found if parameters is not None), None)
