"""What is sent to a host for one attempt: a command, the files it needs, and what to bring back."""

import hashlib
import os
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ripresa.journal.paths import Run


class Unshippable(ValueError):
    """A file that has no place on a host which shares no file system; the message is one line."""


class File(NamedTuple):
    """One input: where it belongs in the working directory, and what it is."""

    path: str
    sha256: str
    mode: int
    size: int


class Limits(NamedTuple):
    """When a host ends a command: after ``wall_s``, or ``stall_s`` of silence (None: never), all in s."""

    wall_s: float | None = None
    stall_s: float | None = None
    stall_source: str = "none"
    grace_s: float = 10.0
    """Between TERM and KILL."""
    beat_s: float = 5.0
    """Between two looks at it."""


class Work(NamedTuple):
    """What one attempt executes."""

    command: str
    inputs: list[str]
    """Files and directories that it needs: without one of them it is not sent."""
    mentioned: list[str]
    """Files that its command names, sent along where they lie in the working directory."""
    outputs: list[str]
    """What it makes, relative to the working directory."""
    logs: Sequence[str] = ()
    """What else it writes there, to be brought back even if it fails."""
    environment: Mapping[str, str] = {}
    limits: Limits = Limits()
    progress: str | None = None
    measure: bool = False


def key_of(target: str) -> str:
    """By what a unit is known on hosts."""
    return hashlib.sha256(os.fsencode(target)).hexdigest()[:24]


def name_of(run: Run) -> str:
    """The name of a run on hosts, which runs of other controllers do not have."""
    place = f"{socket.gethostname()}:{os.path.abspath(run.dir)}"
    return f"{run.run_id}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"


class Shipper:
    """Finds the files that work needs; what was read once is not read again while it is unchanged."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, ...], str]] = {}

    def files(self, work: Work) -> list[File]:
        """The files of ``work``, each once, directories taken apart.

        Raises Unshippable for an input outside the working directory, OSError for one that cannot be read.
        """
        found: dict[str, File] = {}
        for path in work.inputs:
            place = _place(path)
            if place is None:
                raise Unshippable(
                    f"input {path} lies outside the working directory, so a host that shares no file system "
                    f"has no place for it; link it into the workflow, or set ripresa_shared for the host"
                )
            self._add(found, place)
        for path in work.mentioned:
            place = _place(path)
            if place is not None and not os.path.isabs(path):
                self._add(found, place)
        return list(found.values())

    def _add(self, found: dict[str, File], place: str) -> None:
        for path in _walk(place):
            if path not in found:
                info = os.stat(path)
                found[path] = File(path, self._sha256(path, info), stat.S_IMODE(info.st_mode), info.st_size)

    def _sha256(self, path: str, info: os.stat_result) -> str:
        stamp = info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            with open(path, "rb") as file:
                known = self._known[path] = stamp, hashlib.file_digest(file, "sha256").hexdigest()
        return known[1]


def folders(paths: Iterable[str]) -> list[str]:
    """The directories that have to be there before these files can be written."""
    return sorted({folder for path in paths if (folder := os.path.dirname(path))})


def _place(path: str) -> str | None:
    """A path relative to the working directory; None if it lies outside."""
    place = os.path.relpath(path)
    return None if place == ".." or place.startswith("../") else place


def _walk(path: str) -> Iterable[str]:
    if not os.path.isdir(path):
        yield path
        return
    for directory, folders_, names in os.walk(path, followlinks=True):
        folders_.sort()
        for name in sorted(names):
            if name != ".snakemake_timestamp":
                yield os.path.join(directory, name)
