"""One attempt on its way to a host: what is sent, and what the host's answers about it mean."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ripresa.hosts.work import File, Work, folders, key_of
from ripresa.recovery.dispatch import Sent

Result = Mapping[str, Any]

FOLLOW, AGAIN, SEND_FILES, STOP_OTHER = "follow", "again", "send files", "stop other"
FAILED, GONE = "failed", "gone"
"""What the answer to a start asks for: see `Parcel.understand`."""

CHANGED = "preempted", "its command has changed since it was sent"
"""How an attempt fails that is not wanted any more."""


class Task(Protocol):
    """What a host executes for a controller that keeps the books: a `ripresa.recovery.dispatch.Dispatch`."""

    target: str
    digest: str

    def log(self, number: int) -> str:
        """The file for what the command of an attempt prints."""

    def progress(self, sent: Sent, fields: Mapping[str, Any]) -> None:
        """Take notice of how far it is."""

    def conclude(self, sent: Sent, result: Result, outputs: str | None, most: Mapping[str, float]) -> str:
        """Take what came back; the outcome, `PUBLISHED` if all is well."""

    def lose(self, sent: Sent, failure_class: str, evidence: str, *, give_up: str | None = None) -> str:
        """Nothing came back, and why; the outcome."""


class Parcel:
    """An attempt and what it executes. ``adopted``: an earlier controller sent it, so it may run there
    already.
    """

    def __init__(self, task: Task, sent: Sent, work: Work, session: str, *, adopted: bool = False) -> None:
        self.task = task
        self.sent = sent
        self.work = work
        self.session = session
        self.key = key_of(task.target)
        self.in_doubt = adopted
        """Whether the host may have begun with it without having said so."""
        self.unwanted = adopted and sent.digest != task.digest
        """The campaign asks for another command by now: what runs is to end, not to begin."""
        self.progress: Mapping[str, Any] = {}
        self.settled = False
        """Whether its outcome is told."""

    def order(self, files: Sequence[File], directory: str | None) -> dict[str, Any]:
        """The operation that starts it; ``directory`` is the working directory on a shared file system."""
        work = self.work
        staged = directory is None
        return {
            "op": "start",
            "key": self.key,
            "token": self.sent.token,
            "target": self.task.target,
            "attempt": self.sent.attempt,
            "session": self.session,
            "digest": self.task.digest,
            "command": work.command,
            "environment": {**work.environment, **({} if staged else {"RIPRESA_PYTHON": sys.executable})},
            "directory": directory,
            "inputs": [{"path": f.path, "sha256": f.sha256, "mode": f.mode} for f in files],
            "folders": folders([*work.outputs, *work.logs]) if staged else [],
            "outputs": list(work.outputs) if staged else [],
            "logs": list(work.logs) if staged else [],
            "limits": work.limits._asdict(),
            "progress": work.progress,
            "measure": work.measure,
        }

    def named(self, op: str, **more: Any) -> dict[str, Any]:
        """An operation on it."""
        return {"op": op, "key": self.key, "token": self.sent.token, **more}

    def understand(self, result: Result) -> str:
        """What is to be done after the host's answer to a start, or, of what is unwanted, to a cancellation.

        `FOLLOW` it; ask `AGAIN` once what is in its place there is forgotten; `SEND_FILES` that are missing;
        `STOP_OTHER`, a live attempt of another command, first; it has `FAILED`; what is unwanted is `GONE`.
        """
        state = result.get("state")
        if self.unwanted and state is not None:
            return GONE if state == "unknown" else FOLLOW
        if state == "missing":
            return SEND_FILES
        if state not in ("started", "held", "ended"):
            return FAILED
        there = result.get("token", self.sent.token)
        if there == self.sent.token:
            return FOLLOW
        if state == "ended":
            return AGAIN
        if result.get("digest") != self.task.digest:
            return STOP_OTHER
        # A live attempt of the same command, of which the journal here knows nothing (it was lost).
        self.sent = self.sent._replace(token=str(there))
        return FOLLOW
