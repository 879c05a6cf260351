"""Calling SLURM's commands, none of which is waited for without end."""

import os
import subprocess
from collections.abc import Mapping, Sequence

from ripresa.slurm import reasons

TIMEOUT_S = 60.0


class Unanswered(Exception):
    """SLURM gave no answer: a daemon is down, slow, or starting. Nothing is known."""


class Refused(Exception):
    """SLURM answered, and will not do it.

    ``failure_class`` says why; None if the same may be asked for again later (a limit on how many jobs there
    may be).
    """

    def __init__(self, text: str, failure_class: str | None) -> None:
        super().__init__(text)
        self.failure_class = failure_class


def environment() -> dict[str, str]:
    """The environment for SLURM's commands: of a job around this process, if any, they see nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    kept.update({name: os.environ[name] for name in ("SLURM_CONF", "SLURM_CLUSTERS") if name in os.environ})
    return {**kept, "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}


def ask(command: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> str:
    """What a query prints. Raises `Unanswered` whenever it failed: that is never the same as no jobs."""
    done = _run(command, environment(), timeout_s, ())
    if done.returncode:
        raise Unanswered(_said(command, done.stderr))
    return done.stdout


def submit(
    command: Sequence[str],
    script: str,
    *,
    exported: Mapping[str, str],
    kept_open: Sequence[int] = (),
    timeout_s: float = 2 * TIMEOUT_S,
) -> str:
    """What sbatch prints for a script on its standard input.

    ``exported`` is the environment of the job, ``kept_open`` are file descriptors that sbatch inherits.
    Raises `Refused`, or `Unanswered`, after which the job may exist all the same.
    """
    done = _run(command, exported, timeout_s, kept_open, script)
    if done.returncode:
        said = _said(command, done.stderr)
        kind, failure_class = reasons.refusal(done.stderr)
        if kind == "outage":
            raise Unanswered(said)
        raise Refused(said, failure_class if kind == "refused" else None)
    return done.stdout.strip()


def _run(
    command: Sequence[str],
    environment: Mapping[str, str],
    timeout_s: float,
    kept_open: Sequence[int],
    text: str | None = None,
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=dict(environment),
            timeout=timeout_s,
            pass_fds=kept_open,
            # Ctrl-C is for the campaign, which decides itself what becomes of its jobs.
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise Unanswered(f"{command[0]}: no answer within {timeout_s:.0f} s") from None
    except OSError as error:
        raise Unanswered(f"{command[0]}: {error.strerror}; is SLURM installed here?") from None


def _said(command: Sequence[str], text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
    return said if said.startswith(command[0]) else f"{command[0]}: {said}"
