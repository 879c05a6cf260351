"""The surroundings of a job's command: modules, a virtual environment, variables, a container."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

STRICT = "set -euo pipefail"

_MODULE_COMMAND = """\
if ! type module >/dev/null 2>&1; then
    for init in "${LMOD_PKG:-/usr/share/lmod/lmod}/init/bash" /etc/profile.d/lmod.sh \\
        "${MODULESHOME:-/usr/share/modules}/init/bash" /etc/profile.d/modules.sh; do
        if [ -r "$init" ]; then . "$init"; break; fi
    done
fi
if ! type module >/dev/null 2>&1; then
    echo "ripresa: module: command not found on $(uname -n), but environment.modules asks for it" >&2
    exit 127
fi"""


def script(command: str, environment: Mapping[str, Any], directories: list[str]) -> str:
    """The Bash script that runs a command in its surroundings.

    Modules come first, then the virtual environment; in a container the command finds the given
    ``directories`` under their own names and starts in the same working directory.
    """
    lines = []
    # What modules and environments bring is not written for strict shells.
    if modules := environment.get("modules"):
        lines += [_MODULE_COMMAND, *(f"module load {shlex.quote(name)} || exit 127" for name in modules)]
    if venv := environment.get("venv"):
        activate = shlex.quote(f"{venv}/bin/activate")
        missing = shlex.quote(f"ripresa: environment.venv: {venv}/bin/activate: No such file or directory")
        lines += [f"[ -r {activate} ] || {{ echo {missing} >&2; exit 127; }}", f". {activate}"]
    lines.append(STRICT)
    if container := environment.get("container"):
        binds = [word for directory in directories for word in ("--bind", directory)]
        words = [container["program"], "exec", *binds, *container["options"], container["image"]]
        inside = shlex.join([*words, "bash", "-c", STRICT + "\n" + command])
        return "\n".join([*lines, f"exec {inside}"])
    return "\n".join([*lines, command])
