"""What is known of one computation over all its segments and attempts, beside its checkpoints.

A computation is told by its identity: command, parameters and environment. Each has a checkpoint directory of
its own, so that nothing goes on from what another command wrote, and one that is asked for again finds what
it had.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

from ripresa.families.jobs.checkpoints import Checkpoint, candidates


class Book:
    """The segments that a computation has completed, in ``<directory>.json``."""

    def __init__(self, directory: str, pattern: str) -> None:
        self.directory = directory
        self.pattern = pattern
        self._path = f"{directory}.json"
        self._segments = self._read()

    def hold(self, say: Callable[[str], None]) -> int:
        """Wait until nobody else works with the checkpoints; returns the open file that keeps it so.

        What inherits that file keeps it so, too.
        """
        os.makedirs(self.directory, exist_ok=True)
        fd = os.open(f"{self.directory}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        told = False
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    say("another process still uses the checkpoints; waiting for its end")
                    told = True
                time.sleep(0.2)
            except OSError as error:
                say(f"no locks on this file system ({error.strerror}): nothing else may use the checkpoints")
                break
        self._segments = self._read()
        return fd

    def done(self, segment: int) -> Mapping[str, Any] | None:
        """The result of a segment that was completed, if it was."""
        note = self._segments.get(str(segment))
        return note["result"] if note else None

    def completed_in(self, segment: int) -> str | None:
        """The session in which a segment was completed."""
        note = self._segments.get(str(segment))
        return note["session"] if note else None

    def note(self, segment: int, result: Mapping[str, Any], session: str) -> None:
        """Write down that a segment is complete, and that later ones are not."""
        self._forget(segment)
        self._segments[str(segment)] = {"session": session, "result": dict(result)}
        self._write()

    def back_to(self, segment: int, say: Callable[[str], None]) -> None:
        """Forget this segment and later ones, and remove the checkpoints that came of them.

        Where the one that the segment began with is gone, all go: it is computed from the beginning then.
        """
        self._forget(segment)
        self._write()
        began = ((self.done(segment - 1) or {}).get("checkpoint") or {}) if segment > 1 else {}
        there = candidates(self.directory, self.pattern)
        kept = [one for one in there if one.name == began.get("name") and _same(one, began)]
        if segment > 1 and not kept:
            say(f"the checkpoint of segment {segment - 1} is gone; computing from the beginning")
        for one in there:
            if not kept or one.mtime_ns > kept[0].mtime_ns:
                _remove(one.path)

    def _forget(self, segment: int) -> None:
        self._segments = {key: note for key, note in self._segments.items() if int(key) < segment}

    def _read(self) -> dict[str, Any]:
        try:
            with open(self._path, encoding="utf-8") as file:
                segments = json.load(file)["segments"]
            return {key: note for key, note in segments.items() if key.isdigit() and "result" in note}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # it spares work; without it, the checkpoints themselves tell how far it is

    def _write(self) -> None:
        temporary = f"{self._path}.{os.getpid()}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"segments": self._segments}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)


def _same(one: Checkpoint, known: Mapping[str, Any]) -> bool:
    return (one.mtime_ns, one.size) == (known.get("mtime_ns"), known.get("size"))


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
