"""What a dry run would run, written down for `ripresa plan`, which asks for it by an environment variable."""

import logging
import os

from snakemake.logging import get_event
from snakemake_interface_logger_plugins.common import LogEvent

from ripresa.journal import records


def note(record: logging.LogRecord) -> None:
    """Append the job of a record, if it is one, to the file that ``RIPRESA_PLAN`` names, if it does."""
    file = os.environ.get("RIPRESA_PLAN")
    if file and get_event(record) is LogEvent.JOB_INFO:
        told = vars(record)
        job = {
            "rule": told["rule_name"],
            "output": list(told.get("output") or []),
            "reason": told.get("reason"),
        }
        records.append(file, job, fsync=False)
