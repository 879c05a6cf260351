"""The unit that a guard was asked to execute, read from its command line and standard input."""

from __future__ import annotations

import os
import sys

from ripresa.journal import leases, processes, publish, records
from ripresa.journal.paths import Run
from ripresa.recovery import stall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GRACE_S = 10.0


class Unit:
    """What the guard was asked to do.

    ``names`` are output names (``output.NAME``) and their positions, ``inputs`` the input files as one
    shell-quoted line, ``command`` the shell text with a placeholder where an output is meant, ``log``
    the rule's own ``log:`` file (empty without one), which shows the newest attempt, ``guard`` the digest
    under which the options of the command are kept.
    """

    def __init__(
        self,
        run: Run,
        target: str,
        rule: str,
        outputs: list[str],
        *,
        guard: str,
        names: dict[str, int],
        inputs: str,
        command: str,
        scopes: list[str],
        resources: dict[str, str],
        log: str,
        options: dict[str, Any],
    ) -> None:
        self.run = run
        self.target = target
        self.rule = rule
        self.outputs = outputs
        self.names = names
        self.inputs = inputs
        self.command = command
        self.scopes = scopes
        self.resources = resources
        self.log = log
        self.options = options
        self.stall = _stall(options, run.silences(rule, guard), target)
        self.session = os.environ.get("RIPRESA_SESSION", "none")
        self.digest = publish.sha256(command.encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def python(self) -> str:
        """The interpreter of the campaign."""
        return os.environ.get("RIPRESA_PYTHON") or sys.executable

    @property
    def beat_s(self) -> float:
        """The time between two looks at the command; a short stall limit needs frequent ones."""
        often = float(self.options.get("beat", leases.HEARTBEAT_S))
        least = self.stall.least_s
        return min(often, least / 4) if least else often

    @property
    def wall_s(self) -> float | None:
        """The wall-clock limit: what the rule declares, else Snakemake's ``runtime`` (min)."""
        if self.options.get("wall"):
            return float(self.options["wall"])
        runtime = self.resources.get("runtime", "")
        return 60.0 * float(runtime) if runtime.replace(".", "", 1).isdigit() else None

    @property
    def grace_s(self) -> float:
        """The time between TERM and KILL."""
        declared = self.options.get("grace")
        return float(os.environ.get("RIPRESA_GRACE_S", GRACE_S) if declared is None else declared)

    def say(self, message: str) -> None:
        """Tell a person something about this unit, in one line."""
        say(f"{self.target}: {message}")


def say(message: str) -> None:
    """Print one line on standard error."""
    print(f"ripresa: {message}", file=sys.stderr, flush=True)


def parse(arguments: list[str], text: str) -> Unit:
    """Read ``RULE DIGEST [OPTION...] -- OUTPUT...`` and, from ``text``, the inputs and the command.

    Raises ValueError for a call that `ripresa.dsl.guard` would not make.
    """
    options: dict[str, list[str]] = {"--scope": [], "--resource": [], "--name": []}
    words = iter(arguments)
    plain: list[str] = []
    log = ""
    for word in words:
        if word.startswith("--log="):
            log = word.removeprefix("--log=")
        elif word == "--":
            plain += words
        elif word in options:
            options[word].append(next(words, ""))
        else:
            plain.append(word)
    if len(plain) < 3:
        raise ValueError(
            "usage: guard RULE DIGEST [--scope KIND=NAME] [--name NAME=PATH] OUTPUT... < COMMAND"
        )
    rule, digest, *outputs = plain
    directory = os.environ.get("RIPRESA_RUN")
    if not directory:
        raise ValueError("RIPRESA_RUN is not set; start units through snakemake, which names the run")
    run = Run(directory)
    target = run.target_of(outputs[0])
    if target is None:
        raise ValueError(f"output {outputs[0]} of rule {rule} lies outside the run {run.dir}; put it inside")
    inputs, _, command = text.partition("\n")
    names = dict(item.split("=", 1) for item in options["--name"])
    resources = dict(item.split("=", 1) for item in options["--resource"])
    return Unit(
        run,
        target,
        rule,
        outputs,
        guard=digest,
        names={name: outputs.index(path) for name, path in names.items() if path in outputs},
        inputs=inputs,
        command=command.rstrip("\n"),
        scopes=[f"host:{processes.node()}"]
        + [f"{kind}:{name}" for kind, _, name in (s.partition("=") for s in options["--scope"])]
        + _gpus(resources.get("gpu_device")),
        resources=resources,
        log=log,
        options=_options(run, rule, digest),
    )


def _gpus(named: str | None) -> list[str]:
    """The scopes of the GPUs that a unit has."""
    if not named:
        return []
    from ripresa.journal import devices

    return [f"gpu:{name}" for name in devices.named(named) if not devices.is_slot(name)]


def _stall(options: dict[str, Any], history: str, target: str) -> stall.Stall:
    """The stall limit: the rule's own (0: none), or the configured one, or one that is learnt."""
    declared = options.get("stall")
    if declared is not None:
        return stall.Stall(float(declared) or None, "declared")
    most_s = float(os.environ.get("RIPRESA_STALL_S", stall.DEFAULT_S))
    learn = os.environ.get("RIPRESA_LEARN", "").split()
    if len(learn) != 3:
        return stall.Stall(most_s, "configured")
    attempts, factor, floor_s = learn
    taught = stall.History(
        history, target, attempts=int(attempts), factor=float(factor), floor_s=float(floor_s)
    )
    return stall.Stall(most_s, "default", taught)


def _options(run: Run, rule: str, digest: str) -> dict[str, Any]:
    """The options that the rule file gave to `guard`. Without them a wrong output could be published."""
    path = run.guard(digest)
    try:
        options = records.read_json(path)
    except OSError as error:
        raise ValueError(f"cannot read the options of rule {rule}: {error}") from None
    if options == {} or (isinstance(options, dict) and _usable(options)):
        return options
    state = "damaged" if os.path.lexists(path) else "missing"
    raise ValueError(
        f"the options of rule {rule} in {path} are {state}; call snakemake again to restore them"
    )


def _usable(options: dict[str, Any]) -> bool:
    import re

    validate, progress = options.get("validate", ""), options.get("progress", "")
    numbers = [options.get(name, 0) for name in ("wall", "stall", "grace", "beat")]
    try:
        re.compile(progress.partition(":")[2])
    except (AttributeError, re.error):
        return False
    texts = list(validate.values()) if isinstance(validate, dict) else [validate]
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(number, int | float) and number >= 0 for number in numbers
    )
