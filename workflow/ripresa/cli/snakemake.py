"""Calls Snakemake for a command, as a process of its own."""

import argparse
import os
import re
import subprocess
import sys
from itertools import takewhile

from ripresa.cli import runs
from ripresa.journal.text import printable

_STACK = ("Traceback ", "During handling of ", "The above exception ", 'File "')
_PLACE = re.compile(r"config/\w+\.yaml: ")
_ERROR = re.compile(r"^\w*(Error|Exception)\b|: error: ")


def call(
    arguments: argparse.Namespace, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Call Snakemake here, for the run that the arguments name; all it says is kept as its stdout."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--nocolor", *options, *configuration(arguments.run)],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def configuration(run_id: str | None) -> list[str]:
    """The options that make Snakemake use the configuration of a run, None: the configured one."""
    if run_id is None:
        return []
    if os.path.isfile(own := runs.own_configuration(run_id)):
        return ["--configfile", own]
    return ["--config", f"run_id={run_id}"] if os.path.isdir(runs.CONFIG) else []


def error(text: str) -> str:
    """The first error in what Snakemake printed, as one line without any stack."""
    lines = [printable(line).strip() for line in text.splitlines() if line.strip()]
    first = next((n for n, line in enumerate(lines) if _ERROR.search(line)), max(len(lines) - 1, 0))
    told = list(takewhile(lambda line: not line.startswith(_STACK), lines[first:]))
    if len(told) > 1 and told[0].startswith("WorkflowError") and _PLACE.match(told[1]):
        del told[0]  # It names the rule file, which is not what has to change.
    return " ".join(told)[:500] or "it said nothing; call snakemake --dry-run"
