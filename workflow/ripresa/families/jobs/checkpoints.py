"""Which checkpoint a job goes on from: the newest valid one.

A checkpoint is a file, or a directory, in the job's checkpoint directory whose name matches a pattern. It
counts if it is not empty and, where one is declared, a validator accepts it. Commands write under another
name first and rename what is complete: names that begin with a dot or end in `.tmp`, `.part` or `~` never
count.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from ripresa.families.jobs.errors import JobError

UNFINISHED = (".tmp", ".part", "~")
_CANNOT_RUN = (126, 127)


class Checkpoint(NamedTuple):
    """One checkpoint, with what tells it from another of the same name; ``size`` in bytes."""

    path: str
    mtime_ns: int
    size: int
    inode: int

    @property
    def name(self) -> str:
        """Its name within the checkpoint directory."""
        return os.path.basename(self.path)

    def document(self) -> dict[str, Any]:
        """What results say of it."""
        return {"name": self.name, "size": self.size, "mtime_ns": self.mtime_ns}


def candidates(directory: str, pattern: str) -> list[Checkpoint]:
    """What may be a checkpoint, the newest first; of the same time the one with the higher number."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    found = []
    for name in names:
        if name.startswith(".") or name.endswith(UNFINISHED) or not fnmatchcase(name, pattern):
            continue
        path = f"{directory}/{name}"
        try:
            info = os.stat(path)
            found.append(Checkpoint(path, info.st_mtime_ns, _size(path), info.st_ino))
        except OSError:
            continue  # pruned by the command meanwhile
    return sorted(found, key=lambda one: (one.mtime_ns, _numbers(one.name)), reverse=True)


def newest_valid(
    directory: str, pattern: str, validator: str | None, say: Callable[[str], None] = print
) -> Checkpoint | None:
    """The newest checkpoint that is valid; None if there is none. Those passed over are told by ``say``.

    ``validator`` is a shell command that exits with 0 for a valid checkpoint, `{}` standing for its path.
    Raises JobError if it cannot run at all, since then it says nothing about any checkpoint.
    """
    for one in candidates(directory, pattern):
        problem = _problem(one, validator)
        if problem is None:
            return one
        say(f"checkpoint {one.name} {problem}; taking the one before")
    return None


def _problem(one: Checkpoint, validator: str | None) -> str | None:
    if one.size == 0:
        return "is empty"
    if not validator:
        return None
    command = validator.replace("{}", shlex.quote(one.path))
    code = subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, check=False).returncode
    if code in _CANNOT_RUN:
        raise JobError(f"checkpoints.validate: command not found or not executable: {command}")
    return f"is not valid (exit code {code} of its validator)" if code else None


def _size(path: str) -> int:
    """Bytes of a file, or of all files below a directory."""
    if not os.path.isdir(path):
        return os.stat(path).st_size
    return sum(
        os.stat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names
    )


def _numbers(name: str) -> list[tuple[int, str]]:
    """A key that puts step10 after step9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
