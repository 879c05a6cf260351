"""Where the files of a run live (contract C3)."""

from __future__ import annotations

import os

_MAX_NAME = 200  # bytes


def quote(target: str) -> str:
    """Name a target as one path component: ``%`` and ``/`` are percent-encoded.

    Names too long for a file system end in a checksum of the whole instead.
    """
    name = target.replace("%", "%25").replace("/", "%2F")
    data = os.fsencode(name)
    if len(data) <= _MAX_NAME:
        return name
    import hashlib

    digest = hashlib.sha256(os.fsencode(target)).hexdigest()[:16]
    return data[: _MAX_NAME - 17].decode("utf-8", "ignore") + "~" + digest


class Run:
    """The paths of one run directory ``runs/<run_id>``; nothing is created here."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.dir = os.fspath(directory).rstrip("/") or "/"
        self.run_id = os.path.basename(os.path.abspath(self.dir))
        self.journal = self.dir + "/journal"
        self.config = self.dir + "/config.yaml"
        self.events = self.dir + "/logs/run_events.jsonl"
        self.leases = self.journal + "/leases"
        self.breakers = self.journal + "/breakers.json"
        self.devices = self.journal + "/devices.jsonl"
        self.units = self.journal + "/units.jsonl"
        self.recovery = self.journal + "/recovery.json"
        self.controller = self.journal + "/controller.lock"
        self.phases = self.journal + "/phases.json"
        self.notified = self.journal + "/notified.jsonl"
        self.escalated = self.journal + "/escalated.json"
        self.learnt = self.journal + "/learnt.jsonl"
        self.device_settings = self.journal + "/device_settings.json"
        self.slurm = self.journal + "/slurm"
        self.plan = self.dir + "/plan.json"

    def guard(self, digest: str) -> str:
        """The options of a guarded command, where it has any."""
        return f"{self.journal}/guards/{digest}.json"

    def silences(self, rule: str, digest: str) -> str:
        """How long attempts of a rule with this command were silent."""
        return f"{self.journal}/silences/{quote(rule)}.{digest}"

    def target_of(self, path: str | os.PathLike[str]) -> str | None:
        """The target a file of the run is known by, or None for a file outside the run."""
        relative = os.path.relpath(path, self.dir)
        return None if relative == ".." or relative.startswith("../") else relative

    def path(self, target: str) -> str:
        """The published file of a target."""
        return f"{self.dir}/{target}"

    def attempts(self, target: str) -> str:
        """The attempt records of a target."""
        return f"{self.journal}/attempts/{target}.jsonl"

    def log(self, target: str, attempt: int) -> str:
        """What the command of one attempt printed."""
        return f"{self.journal}/logs/{target}.a{attempt}.log"

    def lease(self, target: str) -> str:
        """The lock that a live attempt of a target holds."""
        return f"{self.leases}/{quote(target)}.lock"

    def staged(self, target: str, attempt: int) -> str:
        """The directory in which one attempt writes its outputs before they are published."""
        return f"{self.journal}/staged/{target}.a{attempt}"

    def progress(self, target: str, attempt: int) -> str:
        """The file in which the command of an attempt says how far it is (``$RIPRESA_PROGRESS``)."""
        return self.staged(target, attempt) + "/.progress"
