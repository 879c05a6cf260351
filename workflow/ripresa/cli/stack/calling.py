"""Calls Snakemake for a stack, while people watch, and finds out why it failed."""

import os
import shlex
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence

from ripresa.cli.answers import Refusal
from ripresa.cli.snakemake import error
from ripresa.journal import attempts, controller, records, state
from ripresa.journal.paths import Run
from ripresa.journal.text import printable

_KEPT = 400  # lines


def check(run: Run) -> None:
    """Refuse where Snakemake could not run: no Snakefile here, or the run is held by another controller."""
    if not os.path.isfile("Snakefile"):
        raise Refusal("there is no Snakefile here; call ripresa from the checkout", name="CHECKOUT_MISSING")
    holder = controller.holder(run) if os.path.isdir(run.dir) else None
    if holder is not None:
        who = f"process {printable(holder.get('pid', '?'))} on {printable(holder.get('host', '?'))}"
        raise Refusal(f"run '{run.run_id}' is on, in {who}; wait for it or stop it", 1, "RUN_HELD")


def words(configuration: Sequence[str], cores: int | None, *options: str) -> list[str]:
    """The words of a call of Snakemake."""
    limit = ["--cores", str(cores)] if cores else []
    return ["snakemake", "--rerun-incomplete", *options, *limit, *configuration]


def call(run: Run, command: list[str]) -> None:
    """Call Snakemake, all that it says going to stderr; refuses, with the reason, if it fails."""
    print(f"$ {shlex.join(command)}", file=sys.stderr, flush=True)
    code, said = _watched([sys.executable, "-m", *command])
    if code:
        raise Refusal(_reason(run, code, said), 1, "STACK_FAILED")


def _watched(command: list[str]) -> tuple[int, str]:
    """The exit code of a command, and its last lines unless they went to a terminal."""
    seen = sys.stderr.isatty()  # then it may draw there; nothing in between
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=2 if seen else subprocess.PIPE,
        stderr=None if seen else subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    before = signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
    said: deque[str] = deque(maxlen=_KEPT)
    try:
        while True:
            try:
                for line in child.stdout or ():
                    said.append(line)
                    print(line, end="", file=sys.stderr, flush=True)
                return child.wait(), "".join(said)
            except KeyboardInterrupt:
                continue  # the terminal has told Snakemake too, which ends in good order
    finally:
        signal.signal(signal.SIGTERM, before)


def _reason(run: Run, code: int, said: str) -> str:
    """Why a call failed: the first unit that did, else what Snakemake said."""
    session = _newest_session(run)
    for unit in state.states(run) if os.path.isdir(run.journal) else []:
        if unit.state in (state.FAILED, state.QUARANTINED):
            last = attempts.last(run, unit.target)
            if last.get("session") == session or unit.state == state.QUARANTINED:
                why = printable(last.get("evidence")) or "no reason was recorded"
                more = f"ripresa why {unit.target} --run {run.run_id} tells more"
                if unit.state == state.QUARANTINED:
                    more += f"; once it is corrected, ripresa release --all --run {run.run_id} and call again"
                return f"{unit.rule} failed: {why}; {more}"
    if code in (130, -signal.SIGINT):
        return "stopped on request; the same command goes on"
    return (
        f"snakemake failed: {error(said)}"
        if said
        else f"snakemake failed with exit code {code}, as said above"
    )


def _newest_session(run: Run) -> str | None:
    header = next(iter(records.iterate(run.units)), {})
    session = header.get("session")
    return session if isinstance(session, str) else None
