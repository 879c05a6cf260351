"""The two questions to SLURM, each one call for all jobs: what is queued, and what became of the rest."""

import os
from collections.abc import Iterable

from ripresa.slurm.commands import ask
from ripresa.slurm.sighting import Sighting

_QUEUE = (
    "JobArrayID", "Name", "State", "Reason", "NodeList", "RestartCnt", "exit_code", "SubmitTime", "StartTime",
    "EndTime",
)  # fmt: skip
_ACCOUNTS = ("JobID", "JobName", "State", "ExitCode", "NodeList", "Reason", "Submit", "Start", "End")
_NOTHING = {"", "None", "N/A", "(null)", "Unknown", "None assigned", "NONE"}


def queue() -> list[Sighting]:
    """All jobs of this user that slurmctld knows, those that ended within its MinJobAge too.

    Raises `commands.Unanswered`.
    """
    fields = ",".join(f"{field}:|" for field in _QUEUE)
    words = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", f"--Format={fields}"]
    return [seen for line in ask(words).splitlines() if (seen := _queued(line)) is not None]


def accounts(job_ids: Iterable[str], names: Iterable[str] = (), since: float = 0.0) -> list[Sighting]:
    """What accounting has of these jobs, or of all with these names submitted since then (s since the epoch).

    A job that was requeued is seen as its last instance. Raises `commands.Unanswered`, also where there is no
    accounting.
    """
    return [found[-1] for found in _told(job_ids, names, since)]


def instances(job_ids: Iterable[str]) -> dict[str, list[Sighting]]:
    """By job what accounting has of all its instances, oldest first: of one that was requeued several.

    Raises `commands.Unanswered`, also where there is no accounting.
    """
    return {found[0].job_id: found for found in _told(job_ids)}


def _told(job_ids: Iterable[str], names: Iterable[str] = (), since: float = 0.0) -> list[list[Sighting]]:
    words = [
        "sacct",
        "--noheader",
        "--parsable2",
        "--duplicates",
        f"--format={','.join(_ACCOUNTS)}",
    ]
    ids = sorted({job_id.partition("_")[0] for job_id in job_ids})
    if ids:
        words += ["--jobs=" + ",".join(ids)]
    else:
        words += ["--name=" + ",".join(sorted(names)), f"--user={os.getuid()}", f"--starttime={_date(since)}"]
    return _accounted(ask(words).splitlines())


def _queued(line: str) -> Sighting | None:
    fields = line.split("|")
    if len(fields) <= len(_QUEUE):
        return None
    job_id, name, state, reason, nodes, restarts, status, *times = fields[: len(_QUEUE)]
    code = int(status) if status.isdigit() else 0  # as wait(2) gives it
    base, _, detail = state.partition(" ")
    submitted, started, ended = map(_seconds, times)
    return Sighting(
        job_id,
        name,
        base,
        detail,
        _text(reason),
        _text(nodes),
        int(restarts) if restarts.isdigit() else 0,
        code >> 8,
        code & 0x7F or None,
        submitted=submitted,
        started=started,
        ended=ended,
    )


def _accounted(lines: Iterable[str]) -> list[list[Sighting]]:
    """Of every job in sacct's lines its instances, oldest first. Their steps follow each of them."""
    found: dict[str, list[Sighting]] = {}
    for line in lines:
        fields = line.split("|")
        if len(fields) < len(_ACCOUNTS):
            continue
        whole, name, state, status, nodes, reason, *times = fields
        base, _, detail = state.partition(" ")
        base = base.rstrip("+")
        owner, _, step = whole.partition(".")
        if step:
            if owner in found:
                last = found[owner][-1]
                found[owner][-1] = last._replace(steps=(*last.steps, (step, base)))
            continue
        submitted, started, ended = map(_seconds, times[:3])
        for job_id in _tasks(whole):
            seen = Sighting(
                job_id,
                name,
                base,
                detail,
                _text(reason),
                _text(nodes),
                0,
                *_status(status),
                submitted=submitted,
                started=started,
                ended=ended,
            )
            found.setdefault(job_id, []).append(seen)
    ordered = [sorted(one, key=lambda seen: seen.submitted or 0) for one in found.values()]
    return [[seen._replace(restarts=number) for number, seen in enumerate(one)] for one in ordered]


def _tasks(job_id: str) -> list[str]:
    """The tasks that one id stands for while they are one record: ``12_[0-3,7%2]``."""
    array, _, inside = job_id.partition("_[")
    if not inside:
        return [job_id]
    tasks: list[str] = []
    for piece in inside.partition("]")[0].partition("%")[0].split(","):
        ends, _, step = piece.partition(":")
        first, _, last = ends.partition("-")
        if first.isdigit() and (last or first).isdigit():
            tasks += map(str, range(int(first), int(last or first) + 1, int(step) if step.isdigit() else 1))
    return [f"{array}_{task}" for task in tasks]


def _status(text: str) -> tuple[int | None, int | None]:
    """Exit code and signal."""
    code, _, number = text.partition(":")
    exit_code = int(code) if code.isdigit() else None
    return exit_code, int(number) if number.isdigit() and int(number) else None


def _seconds(text: str) -> float | None:
    return float(text) if text.isdigit() else None


def _text(text: str) -> str:
    return "" if text in _NOTHING else text


def _date(seconds: float) -> str:
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))
