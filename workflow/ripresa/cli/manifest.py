"""The manifest of a plan, `plan.json` in the folder of its run, and the state of the checkout."""

import hashlib
import os
import subprocess
from typing import Any

from ripresa.journal import clock, records
from ripresa.journal.paths import Run

SCHEMA = 1


def write(run: Run, document: dict[str, Any]) -> None:
    """Keep what was planned, with when and from which code. Readers see the old or the new one, whole."""
    header = {"schema": SCHEMA, "run_id": run.run_id, "created": clock.iso(), "git": checkout()}
    records.write_json(run.plan, {**header, **document})


def read(run: Run) -> dict[str, Any]:
    """The manifest of a run; empty if there is none that can be read."""
    found = records.read_json(run.plan)
    return found if isinstance(found, dict) and found.get("schema") == SCHEMA else {}


def checkout() -> dict[str, Any] | None:
    """The commit checked out here, whether anything differs from it, and a digest of that; None without git.

    The digest is of the difference and of all files that git neither knows nor ignores.
    """
    commit = _git("rev-parse", "HEAD")
    difference, listed = _git("diff", "HEAD", "--binary"), _git("ls-files", "-z", "-o", "--exclude-standard")
    if commit is None or difference is None or listed is None:
        return None
    others = [name for name in listed.split(b"\0") if name]
    whole = hashlib.sha256(difference)
    for name in others:
        whole.update(b"\0" + name + b"\0" + _content(name))
    dirty = bool(difference or others)
    return {
        "commit": commit.decode().strip(),
        "dirty": dirty,
        "diff_sha256": whole.hexdigest() if dirty else None,
    }


def _content(path: bytes) -> bytes:
    """The digest of a file, or where a link leads; nothing for what is neither, or cannot be read."""
    try:
        if os.path.islink(path):
            return os.readlink(path)
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""


def _git(*words: str) -> bytes | None:
    """What git says here; None if it cannot. It must not refresh its index beside what people do."""
    try:
        command = ["git", "--no-optional-locks", *words]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError:
        return None
    return None if done.returncode else done.stdout
