"""`guard`: an ordinary shell command becomes a guarded one."""

import hashlib
import re
import shlex
from typing import Any

from ripresa.dsl import run

_OUTPUT = re.compile(r"\{output(\.\w+|\[\d+\])?(?::q)?\}")
_END = "END_OF_COMMAND"
_CALL = 'exec "$RIPRESA_PYTHON" -IS "$RIPRESA_GUARD"'
# Of several words. (Other text must stay as it is: where it changes, Snakemake runs complete units again.)
_QUOTED = {"cost": ":q"}
_PROGRESS = ("file", "counter", "log")


def guard(
    command: str,
    *,
    validate: str | dict[str | int, str] | None = None,
    wall: float | None = None,
    stall: float | None = None,
    grace: float | None = None,
    beat: float | None = None,
    progress: str | None = None,
    scopes: dict[str, str] | None = None,
    resources: tuple[str, ...] = (),
) -> str:
    """The shell text of a rule whose command runs under the guard.

    In ``command``, ``{output}``, ``{output.NAME}`` and ``{output[N]}`` stand for the staged outputs;
    everything else is Snakemake's. The text holds nothing of this machine and no limits, so that
    neither makes Snakemake run a unit again.

    - ``validate``: a validator (see `ripresa.recovery.validators`) of the first output, or a mapping of
      output names or positions to validators.
    - ``wall``, ``stall``, ``grace``, ``beat``: limits in s: in total, without progress (0: none),
      between TERM and KILL, and between two looks at the command.
    - ``progress``: ``file:PATH``, ``counter:PATH`` or ``log:REGEX``; without it output, CPU time, input,
      output and ``$RIPRESA_PROGRESS`` count, which no livelock lacks.
    - ``scopes``: breaker scopes of the unit by kind, e.g. ``{"workload": "{wildcards.workload}"}``.
    - ``resources``: names of Snakemake resources to record; ``runtime`` (min) also limits the wall clock.
      The guard puts them where the command says ``{resources.NAME}``: another amount is no other command.

    Raises ValueError for an option that no guard would understand.
    """
    if progress is not None and progress.partition(":")[0] not in _PROGRESS:
        raise ValueError(f"guard: progress {progress!r} is not one of file:PATH, counter:PATH, log:REGEX")
    if progress is not None and progress.startswith("log:"):
        re.compile(progress.removeprefix("log:"))
    if _END in command:
        raise ValueError(f"guard: the command contains {_END}, which ends it; name it differently")
    wanted = {str(key): value for key, value in validate.items()} if isinstance(validate, dict) else validate
    given = {
        "validate": wanted,
        "wall": wall,
        "stall": stall,
        "grace": grace,
        "beat": beat,
        "progress": progress,
    }
    names = {name[1:] for name in _OUTPUT.findall(command) if name.startswith(".")}
    if isinstance(wanted, dict):
        names |= {name for name in wanted if not name.isdigit()}
    digest = _register(command, {name: value for name, value in given.items() if value is not None})
    words = [_CALL, "{rule}", digest, "--log={log:q}"]
    words += [f"--scope {kind}={name}" for kind, name in sorted((scopes or {}).items())]
    words += ["--resource threads={threads}"]
    words += [f"--resource {name}={{resources.{name}{_QUOTED.get(name, '')}}}" for name in resources]
    words += [f"--name {name}={{output.{name}:q}}" for name in sorted(names)]
    words += ["-- {output:q}", f"<<'{_END}'"]
    text = _OUTPUT.sub(lambda found: f"__RIPRESA_OUTPUT{found.group(1) or ''}__", command)
    for name in resources:
        text = re.sub(rf"(?<!{{){{resources\.{name}(?::q)?}}", f"__RIPRESA_RESOURCE.{name}__", text)
    return f"{' '.join(words)}\n{{input:q}}\n{text.strip()}\n{_END}\n"


def call_of(shell: str) -> tuple[list[str], str] | None:
    """Arguments and standard input of the guard that a formatted shell text calls; None if it calls none."""
    head, _, rest = shell.partition(f" <<'{_END}'\n")
    if not head.startswith(_CALL) or not rest.endswith(f"\n{_END}\n"):
        return None
    return shlex.split(head.removeprefix(_CALL)), rest.removesuffix(f"{_END}\n")


def _register(command: str, options: dict[str, Any]) -> str:
    """Keep the options where the guard finds them, under a name that they themselves do not change."""
    guards = run.current().guards
    digest = hashlib.sha256(command.encode()).hexdigest()[:12]
    while digest in guards and guards[digest] != options:
        digest = hashlib.sha256(digest.encode()).hexdigest()[:12]
    guards[digest] = options
    return digest
