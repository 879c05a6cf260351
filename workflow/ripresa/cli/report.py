"""`ripresa report`: Snakemake's HTML report of a run."""

import argparse
import os
from collections.abc import Iterable
from typing import Any

from ripresa.cli import runs
from ripresa.cli.answers import Answer, Refusal
from ripresa.cli.snakemake import call, error


def answer(arguments: argparse.Namespace) -> Answer:
    """Exit code 1 if Snakemake cannot report, for instance because results are missing."""
    run = runs.chosen(arguments)
    path = f"{run.dir}/report.html"
    done = call(arguments, "--report", path)
    if done.returncode:
        raise Refusal(f"no report: {error(done.stdout)}", 1)
    document = {"run_id": run.run_id, "report": os.path.abspath(path)}
    return Answer(document, lambda: _text(document))


def _text(document: dict[str, Any]) -> Iterable[str]:
    yield document["report"]
