"""What is told of an attempt that has ended."""

from __future__ import annotations

import os

from ripresa.journal import clock
from ripresa.recovery.progress import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ripresa.hosts.agent.units import Unit

_MOST_TEXT = 4000
_MOST_NAMED = 100


def new(identity: dict[str, Any], **known: Any) -> dict[str, Any]:
    """A result with all its fields: those of ``identity``, those that are known, null for the others.

    Texts are cut so that the result fits into the space reserved for it.
    """
    result: dict[str, Any] = {
        "token": identity.get("token"),
        "attempt": identity.get("attempt"),
        "target": identity.get("target"),
        "digest": identity.get("digest"),
        "session": identity.get("session"),
        "outcome": "ended",
        "exit_code": None,
        "signal": None,
        "stopped": None,
        "error": None,
        "evidence": None,
        "cpu_s": None,
        "max_rss_mb": None,
        "silence_s": None,
        "oom_killed": False,
        "disk_full": False,
        "started": None,
        "ended": clock.iso(),
        "seconds": None,
        "progress": {},
        "host": os.uname().nodename,
        "pid": None,
        "log_size": None,
        "outputs_size": None,
        "missing": [],
        **known,
    }
    if result["evidence"] is not None:
        result["evidence"] = str(result["evidence"])[:_MOST_TEXT]
    result["missing"] = [name[:300] for name in result["missing"][:_MOST_NAMED]]
    result["progress"] = {name: value[:300] for name, value in result["progress"].items()}
    return result


def progress_of(unit: Unit, source: str | None, directory: str, beat_s: float) -> Progress:
    """The progress of a unit; paths of its source are relative to where its command runs."""
    kind, _, path = (source or "").partition(":")
    if kind in ("file", "counter") and path not in ("", "$RIPRESA_PROGRESS"):
        source = f"{kind}:{os.path.join(directory, path)}"
    return Progress(source, unit.log, unit.progress, beat_s)


def size_of(path: str) -> int | None:
    """The size of a file in bytes; None if it is not there."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def interrupted(unit: Unit, identity: dict[str, Any], evidence: str) -> dict[str, Any]:
    """The result of an attempt that nobody watched to its end."""
    named = unit.named()
    source, directory = named.get("progress"), named.get("directory") or unit.work
    progress = progress_of(unit, source if isinstance(source, str) else None, str(directory), 1.0)
    progress.conclude()
    return new(
        identity,
        outcome="interrupted",
        evidence=evidence,
        started=identity.get("started") or named.get("accepted"),
        progress=progress.fields,
        pid=identity.get("pid"),
        log_size=size_of(unit.log),
    )
