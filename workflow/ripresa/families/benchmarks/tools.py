"""Running the benchmark programs of others."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from ripresa.families.benchmarks.measurement import BenchmarkError


def missing(program: str) -> str | None:
    """Why `program` cannot be used here, None if it is on PATH."""
    if shutil.which(program):
        return None
    return f"{program} is not installed (not on PATH): install the package {program}"


def output_of(command: Sequence[str]) -> str:
    """Standard output and error of a program that ended well; BenchmarkError with its last line if not."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise BenchmarkError(f"{command[0]}: cannot be started: {error.strerror}") from error
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()] or ["no output"]
        raise BenchmarkError(f"{command[0]}: exit code {done.returncode}: {lines[-1].strip()}")
    return done.stdout


def version_of(program: str) -> str:
    """First line of `program --version`."""
    return output_of([program, "--version"]).splitlines()[0].strip()
