"""Measures a workload by its definition, which travels with the unit: nothing is read from files here.

A definition has `needs` (see `needs`), `command`, a list of steps `{name, run}` (see `shell`), `metrics` and
`details` (see `extraction`); it may have a `version` command, and for a workload between two hosts a `peer`:
`{server, ready}`, the command that runs on the other host meanwhile, and a regular expression for the line by
which it says that it listens.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from ripresa import template
from ripresa.families.benchmarks import extraction
from ripresa.families.benchmarks.measurement import BenchmarkError, Measurement
from ripresa.families.benchmarks.needs import missing
from ripresa.families.benchmarks.shell import Output, Shell

_AGAIN_S = 0.2
_PATIENCE_S = 60.0
"""How long each step waits for the server of another host, which starts when this does, on a host that may be
slower, and may still be busy with what was before."""


def measure(unit: Mapping[str, Any], scratch: str) -> Measurement:
    """Run the steps of a unit in a folder within `scratch`, and read its figures from what they say.

    `unit` has `parameters`, `definition` and `peer`: the address of the other host, null if the server of the
    workload is to run here. BenchmarkError, one line, for what is missing, fails or ends without its figures.
    """
    definition = unit["definition"]
    if reason := missing(definition["needs"]):
        raise BenchmarkError(reason)
    steps = definition["command"]
    known: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ripresa-", dir=scratch) as folder:
        shell = Shell(unit["parameters"], folder, unit["peer"])
        if "version" in definition:
            known["version"] = _first_line(shell.run(definition["version"]))
        if any("threads" in template.fields(step["run"]) for step in steps):
            known["threads"] = shell.threads
        server = definition.get("peer") if unit["peer"] is None else None
        with shell.serving(**server) if server else nullcontext():
            patience_s = 0.0 if unit["peer"] is None else _PATIENCE_S
            outputs = {step["name"]: _said(shell, step, patience_s) for step in steps}
    metrics = extraction.metrics(definition["metrics"], outputs)
    return Measurement(metrics, {**known, **extraction.details(definition["details"], outputs)})


def serve(unit: Mapping[str, Any], scratch: str) -> None:
    """Run the server of a unit between two hosts until this process is ended.

    BenchmarkError, one line, for what is missing, or a server that does not listen or ends by itself.
    """
    definition = unit["definition"]
    if reason := missing(definition["needs"]):
        raise BenchmarkError(reason)
    folder = tempfile.TemporaryDirectory(prefix="ripresa-", dir=scratch)
    with folder, Shell(unit["parameters"], folder.name).serving(**definition["peer"]) as server:
        print("listening", flush=True)
        server.wait()
    raise BenchmarkError("its server has ended")


def _said(shell: Shell, step: Mapping[str, str], patience_s: float) -> Output:
    """What a step says. A failure within ``patience_s`` s is none: it is tried again."""
    until = time.monotonic() + patience_s
    while True:
        try:
            return shell.run(step["run"])
        except BenchmarkError as error:
            if time.monotonic() > until:
                raise BenchmarkError(f"{step['name']}: {error}") from error
            time.sleep(_AGAIN_S)


def _first_line(said: Output) -> str:
    return next((line.strip() for line in (said.stdout + said.stderr).splitlines() if line.strip()), "")
