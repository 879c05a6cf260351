"""A batch: the units that one call of sbatch submits, written down before it is made.

Its name is its identity: a job is known by it and the index within the array, whatever id SLURM gives it.
"""

import hashlib
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ripresa.journal import clock, records
from ripresa.journal.paths import Run

_PREFIX = "ripresa"
_CARRIED = "RIPRESA_"


class Task(NamedTuple):
    """One unit of a batch, as an array knows it by its index."""

    target: str
    script: str
    """What the shell of the job runs."""
    digest: str | None
    """What tells it from another command for the same target; None if nothing does."""
    token: str
    """Which attempt of its unit this is."""


class Batch(NamedTuple):
    """Units with the same request, submitted together."""

    name: str
    directory: str
    options: tuple[str, ...]
    tasks: tuple[Task, ...]
    session: str
    """The controller that submits it."""
    most: Mapping[str, float] = {}
    """How much a unit could ask for there, by Snakemake resource."""

    def log(self, index: int) -> str:
        """Where SLURM writes what a job prints."""
        return f"{self.directory}/{index}.out"

    def command(self) -> list[str]:
        """The call of sbatch, whose standard input is `script`."""
        array = len(self.tasks) > 1
        return [
            "sbatch",
            "--parsable",
            f"--job-name={self.name}",
            f"--comment=ripresa {self.tasks[0].target}"
            + (f" and {len(self.tasks) - 1} more" if array else ""),
            f"--output={_literal(self.directory)}/{'%a' if array else '0'}.out",
            # What an instance that SLURM requeued said is worth as much as what the next one says.
            "--open-mode=append",
            *([f"--array=0-{len(self.tasks) - 1}"] if array else []),
            *self.options,
        ]


def run_key(run: Run) -> str:
    """What tells the jobs of this run from those of all others, also of one that lay in its place before."""
    path = f"{run.slurm}/run.json"
    document = records.read_json(path)
    if not isinstance(document, dict) or not isinstance(document.get("key"), str):
        records.write_json(path, {"key": os.urandom(4).hex()})
        return run_key(run)
    return str(document["key"])


def prefix(run: Run) -> str:
    """How the names of all jobs of a run begin."""
    return f"{_PREFIX}.{run_key(run)}."


def plan(
    run: Run,
    options: Sequence[str],
    tasks: Sequence[Task],
    session: str,
    most: Mapping[str, float] | None = None,
) -> Batch:
    """A batch of these tasks. The same units, attempts and commands make the same name."""
    identity = _digest(*(part for task in tasks for part in (task.target, task.token, task.digest or "")))[
        :12
    ]
    name = prefix(run) + identity
    directory = f"{os.path.abspath(run.slurm)}/batches/{identity}"
    return Batch(name, directory, tuple(options), tuple(tasks), session, most or {})


def write(run: Run, batch: Batch) -> None:
    """Write a batch down, durably, so that whoever comes after a crash knows what may have been submitted."""
    os.makedirs(batch.directory, exist_ok=True)
    for index, task in enumerate(batch.tasks):
        with open(f"{batch.directory}/{index}.sh", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(task.script)
    document = {
        "name": batch.name,
        "created": clock.iso(),
        "session": batch.session,
        "most": dict(batch.most),
        "options": list(batch.options),
        "tasks": [
            {"target": task.target, "digest": task.digest, "token": task.token} for task in batch.tasks
        ],
    }
    records.write_json(f"{batch.directory}/batch.json", document)


def load(run: Run, identity: str) -> Batch | None:
    """A batch as it was written down; None if that was not finished, and so it was never submitted."""
    directory = f"{os.path.abspath(run.slurm)}/batches/{identity}"
    document = records.read_json(f"{directory}/batch.json")
    try:
        tasks = [
            Task(one["target"], "", one.get("digest"), one.get("token") or "") for one in document["tasks"]
        ]
        options, most = tuple(document["options"]), dict(document.get("most") or {})
        return Batch(
            prefix(run) + identity, directory, options, tuple(tasks), str(document.get("session")), most
        )
    except (TypeError, KeyError):
        return None


def all_of(run: Run) -> list[str]:
    """The identities of all batches of a run, oldest first."""
    try:
        with os.scandir(f"{run.slurm}/batches") as found:
            entries = sorted((entry.stat().st_mtime, entry.name) for entry in found)
    except FileNotFoundError:
        return []
    return [name for _, name in entries]


def script(batch: Batch, workdir: str, exported: Mapping[str, str]) -> str:
    """The batch script: the environment of the run, then the script of the task.

    SLURM copies it when the job is submitted, so it is the same for all tasks and short.
    """
    carried = [f"export {name}={shlex.quote(value)}" for name, value in sorted(exported.items())]
    lines = [
        "#!/bin/bash",
        f"cd {shlex.quote(workdir)} || exit 1",
        *carried,
        f"export RIPRESA_BATCH={shlex.quote(batch.name)}",
        f"export RIPRESA_MOST={shlex.quote(' '.join(f'{n}={v:g}' for n, v in sorted(batch.most.items())))}",
        f'exec /bin/bash {shlex.quote(batch.directory)}/"${{SLURM_ARRAY_TASK_ID:-0}}".sh',
    ]
    return "\n".join(lines) + "\n"


def carried() -> dict[str, str]:
    """What guards read from their environment (`ripresa.dsl.run` sets it)."""
    return {name: value for name, value in os.environ.items() if name.startswith(_CARRIED)}


def digest(text: str) -> str:
    """What tells one command from another."""
    return _digest(text)[:16]


def _digest(*parts: Any) -> str:
    whole = hashlib.sha256()
    for part in parts:
        data = os.fsencode(part)
        whole.update(b"%d:" % len(data) + data)
    return whole.hexdigest()


def _literal(path: str) -> str:
    """A path as sbatch's patterns of file names mean it."""
    return path.replace("\\", "\\\\").replace("%", "%%")
