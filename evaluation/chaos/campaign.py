"""Campaigns of units that fail, laid out in a directory of their own and run by the real snakemake."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chaos.catalogue import BASE_BATCH, BASE_MEMORY_MB, MOST_MEMORY_MB, RULES, Unit
from ripresa.journal.paths import Run
from ripresa.recovery import policy

GRACE_S = 1.0
SCRIPT = Path(__file__).with_name("unit.sh")
SCHEMA = {"type": "object", "required": ["unit", "numbers"], "properties": {"complete": {"const": True}}}

OURS_HEAD = """
import json
from ripresa.dsl import Units, escalated, guard, open_run
from ripresa.journal.controller import RunIsHeld
from snakemake.exceptions import WorkflowError

campaign = open_run("chaos", main=workflow.is_main_process)
points = json.load(open("units.json"))
of = {
    name: Units(name + "/{n}.json", parameters=[{"n": n} for n in range(number)])
    for name, number in points.items()
}

rule all:
    input: [target for units in of.values() for target in units.targets()]

def complete():
    dag = workflow.dag
    return (job.output[0] for job in dag.jobs if job.output and (dag.finished(job) or not dag.needrun(job)))

onstart:
    jobs = ((job.output[0], job.rule.name) for job in workflow.dag.jobs if job.output)
    try:
        campaign.start(jobs, config_sha256="", policy=json.load(open("policy.json")))
    except RunIsHeld as error:
        raise WorkflowError(str(error))

onsuccess:
    campaign.end(complete())

onerror:
    campaign.end(complete())
"""
OURS_RULE = """
rule {name}:
    output: of["{name}"].target
    log: of["{name}"].log
{resources}    shell: guard({command!r}, **{options!r})
"""
OURS_RESOURCE = {
    "mem_mb": '    resources: mem_mb=escalated(of["{name}"], "mem_mb", {base}, limit={most})\n',
    "batch_size": '    resources: batch_size=escalated(of["{name}"], "batch_size", {base})\n',
    "": "",
}
OURS_DEVICE = '    resources: gpu_device=lambda wildcards: f"gpu{{int(wildcards.n) % {devices}}}"\n'
PLAIN_HEAD = """
import json

points = json.load(open("units.json"))
given = json.load(open("given.json"))

rule all:
    input: [f"runs/chaos/{name}/{n}.json" for name, number in points.items() for n in range(number)]
"""
PLAIN_RULE = """
rule {name}:
    output: "runs/chaos/{name}/{{n}}.json"
    resources: amount=lambda wildcards: given.get("{name}/" + wildcards.n, {base})
    shell: {command!r}
"""
BASES = {"mem_mb": BASE_MEMORY_MB, "batch_size": BASE_BATCH, "": 0}
OURS, PLAIN, RETRIES = "ours", "plain", "retries"
CALLS = {
    OURS: ["--keep-going", "--nolock", "--retries", "100", "--scheduler", "recovery", "--logger", "journal"],
    PLAIN: ["--keep-going"],
    RETRIES: ["--keep-going", "--retries", "3"],
}
"""What a call of snakemake is given beside what all have; each also has ``--rerun-incomplete``."""


class Campaign:
    """One campaign: its directory, the judge's own one beside it, and the calls of snakemake on it.

    ``mode`` is ``ours`` (guarded units) or ``plain`` or ``retries`` (the same commands without a guard).
    ``rules`` changes the recovery policy; ``heartbeat`` False takes the stall limits out of the rules.
    """

    def __init__(
        self,
        directory: Path,
        units: Sequence[Unit],
        *,
        mode: str = OURS,
        time_scale: float,
        cores: int = 20,
        rules: Mapping[str, Any] | None = None,
        heartbeat: bool = True,
    ) -> None:
        self.directory, self.units, self.mode = directory / "campaign", list(units), mode
        self.judge = directory / "judge"
        self.time_scale = time_scale
        self.cores = cores
        self.heartbeat = heartbeat
        self.run = Run(self.directory / "runs" / "chaos")
        self.by_name = {unit.name: unit for unit in units}
        self.given: dict[str, int] = {}
        self.locks = directory / "locks"
        self.locks.mkdir()
        (self.judge / "units").mkdir(parents=True)
        (self.judge / "ledger").touch()
        self.directory.mkdir(exist_ok=True)
        for unit in units:
            self._plan(unit)
        self._write("units.json", Counter(unit.kind.rule for unit in units))
        self._write("schema.json", SCHEMA)
        self._write("given.json", {})
        rules = {**policy.default(), "rules": [], "time_scale": time_scale, **(rules or {})}
        self._write("policy.json", rules)
        snakefile = self._ours if mode == OURS else self._plain
        (self.directory / "Snakefile").write_text(snakefile({unit.kind.rule for unit in units}))

    def _write(self, name: str, document: Any) -> None:
        (self.directory / name).write_text(json.dumps(document))

    def own(self, unit: Unit, suffix: str) -> Path:
        """A file of the judge about a unit."""
        return self.judge / "units" / f"{unit.kind.rule}.{unit.place}.{suffix}"

    def _plan(self, unit: Unit) -> None:
        shared = unit.plan["outage"]
        outage = self.judge / f"outage.{shared}" if shared else self.own(unit, "outage")
        plan = {**unit.plan, "outage": outage}
        lines = (f"{name}={shlex.quote(str(value))}\n" for name, value in plan.items())
        self.own(unit, "plan").write_text("".join(lines))
        if unit.text is not None:
            self.own(unit, "text").write_text(unit.text)

    def _command(self, name: str, amount: str) -> str:
        words = ["bash", shlex.quote(str(SCRIPT)), shlex.quote(str(self.judge)), name]
        given = [f"{{resources.{amount}}}"] if amount else []
        return " ".join([*words, "{wildcards.n}", "{output}", *given])

    def _ours(self, names: set[str]) -> str:
        parts = [OURS_HEAD]
        for name in sorted(names):
            rule = RULES[name]
            options = {"validate": "json", "grace": GRACE_S, **rule.guard}
            if not self.heartbeat:
                options["stall"] = 0
            if rule.amount or rule.devices:
                options["resources"] = (rule.amount or "gpu_device",)
            resources = OURS_RESOURCE[rule.amount].format(
                name=name, base=BASES[rule.amount], most=MOST_MEMORY_MB
            )
            if rule.devices:
                resources = OURS_DEVICE.format(devices=rule.devices)
            command = self._command(name, rule.amount)
            parts.append(OURS_RULE.format(name=name, resources=resources, command=command, options=options))
        return "".join(parts)

    def _plain(self, names: set[str]) -> str:
        rules = (
            PLAIN_RULE.format(
                name=name,
                base=BASES[RULES[name].amount],
                command=self._command(name, RULES[name].amount and "amount"),
            )
            for name in sorted(names)
        )
        return PLAIN_HEAD + "".join(rules)

    def give(self, unit: Unit, amount: int) -> None:
        """Give a unit of a plain campaign another amount of memory or another batch from the next call on."""
        self.given[unit.name] = amount
        self._write("given.json", self.given)

    def path(self, unit: Unit) -> Path:
        """The target of a unit."""
        return Path(self.run.path(unit.target))

    def start(self) -> subprocess.Popen[bytes]:
        """Call snakemake, in a session of its own; what it prints is added to ``output.log``."""
        call = [
            *(sys.executable, "-m", "snakemake", "--rerun-incomplete", "--workflow-profile", "none"),
            *("--cores", str(self.cores), *CALLS[self.mode]),
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RIPRESA_")}
        # Devices are names here, and other campaigns on this machine have the same ones.
        environment["RIPRESA_DEVICES"] = str(self.locks)
        with open(self.directory / "output.log", "ab") as log:
            return subprocess.Popen(
                call, cwd=self.directory, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def unlock(self) -> None:
        """Remove the lock that a killed snakemake left."""
        call = [sys.executable, "-m", "snakemake", "--unlock", "--workflow-profile", "none", "--cores", "1"]
        subprocess.run(call, cwd=self.directory, capture_output=True, check=True)

    def kill(self, pid: int, number: int = signal.SIGKILL, *, whole: bool = False) -> None:
        """Send a signal to a command that may be gone already, or to its whole process group.

        A command without a guard has no group of its own.
        """
        with contextlib.suppress(ProcessLookupError):
            if whole and self.mode == OURS:
                os.killpg(os.getpgid(pid), number)
            else:
                os.kill(pid, number)

    def release(self, units: Sequence[Unit]) -> None:
        """`ripresa release`, once for all these units."""
        call = [str(Path(sys.executable).with_name("ripresa")), "release", "--run", "chaos"]
        subprocess.run(
            [*call, *(u.target for u in units)], cwd=self.directory, capture_output=True, check=False
        )
