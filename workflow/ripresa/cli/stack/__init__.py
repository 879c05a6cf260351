"""`ripresa stack`: light frames in, a stacked image and the evidence for it out."""

import argparse
import os

from ripresa.cli import runs
from ripresa.cli.answers import Refusal
from ripresa.families.stacking import phases
from ripresa.journal.paths import Run
from ripresa.journal.text import printable


def chosen(arguments: argparse.Namespace) -> Run:
    """The run of ``--run``; else the configured one if it has begun to stack, else the newest that has."""
    if arguments.run is not None:
        run = runs.chosen(arguments)
        if not stacks(run):
            raise Refusal(
                f"run '{run.run_id}' stacks nothing; ripresa runs lists all runs", name="RUN_NOT_FOUND"
            )
        return run
    candidates = [Run(f"{runs.RUNS}/{name}") for name in [*_configured(), *runs.existing()]]
    found = next((run for run in candidates if stacks(run)), None)
    if found is None:
        raise Refusal("no run here stacks anything; ripresa stack run DIR starts one", name="RUN_NOT_FOUND")
    return found


def stacks(run: Run) -> bool:
    """Whether a run has begun to stack."""
    return os.path.isdir(directory(run))


def directory(run: Run) -> str:
    """Where the files of a stack are."""
    return f"{run.dir}/stacking"


def number(phase: str) -> int:
    """The number of a phase given by number or name."""
    try:
        return phases.number(phase)
    except ValueError as error:
        raise Refusal(printable(error), name="PHASE_INVALID") from None


def _configured() -> list[str]:
    try:
        config = runs.configured()
    except Refusal:
        return []
    return [config["run_id"]] if "stacking" in config["families"] else []
