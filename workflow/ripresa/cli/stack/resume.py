"""`ripresa stack resume --from-phase N|NAME`: computes a phase and all later ones again."""

import argparse
import shlex
import time

from ripresa.cli.answers import Answer, Refusal
from ripresa.cli.snakemake import configuration
from ripresa.cli.stack import calling, chosen, number, results
from ripresa.families.stacking.phases import PHASES
from ripresa.journal import records
from ripresa.journal.paths import Run


def answer(arguments: argparse.Namespace) -> Answer:
    """Exit code 1 if it fails; the document is that of `stack run` and the command."""
    began = time.monotonic()
    phase = number(arguments.from_phase)
    run = chosen(arguments)
    calling.check(run)
    _check_earlier(run, phase)
    command = calling.words(
        configuration(run.run_id), arguments.cores, *arguments.snakemake, "--forcerun", PHASES[phase]
    )
    calling.call(run, command)
    document = {
        "run_id": run.run_id,
        "from_phase": phase,
        "command": shlex.join(command),
        **results.document(run, time.monotonic() - began),
    }
    return Answer(document, lambda: results.text(run, document))


def _check_earlier(run: Run, phase: int) -> None:
    """Refuse to resume from a phase that the run never came to: what it needs is not there."""
    started = {
        event.get("phase") for event in records.iterate(run.events) if event.get("type") == "phase_start"
    }
    reached = max((one for one in started if isinstance(one, int)), default=None)
    if reached is not None and phase > reached + 1:
        message = (
            f"run '{run.run_id}' came to phase {reached} {PHASES[reached]} only; resume from that one or an "
            f"earlier one"
        )
        raise Refusal(message, 1, "PHASE_NOT_REACHED")
