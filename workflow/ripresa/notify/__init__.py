"""Tells people elsewhere what they want to know of a run: its end, quarantines, breakers that open.

A process of its own follows the events of the run, whoever writes them, so that nothing here can slow the
controller or fail the run. What was sent is noted in the journal after it was sent; so an event is sent once,
over all controllers, and twice only if the process is killed in between. Both have the same ``id``.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from ripresa.journal import events, processes, records
from ripresa.journal.paths import Run


def start(run: Run, wanted: Mapping[str, Any] | None) -> None:
    """Start to send what is ``wanted``: the section ``notify`` of the configuration, or None for nothing.

    Events from now on count, and those that an earlier controller could not send any more. Raises nothing: a
    run does without notifications, and says so in its events.
    """
    channels = {name: wanted[name] for name in ("command", "webhook") if wanted and wanted.get(name)}
    try:
        if not wanted or not channels:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(run.notified)  # what happens while nobody wants to know is not told later
            return
        if not os.path.exists(run.notified):
            records.append(run.notified, {"offset": _size(run.events)})
        told = {"run": os.path.abspath(run.dir), "controller": processes.me(), "events": wanted["events"]}
        # An address may hold a secret: it goes neither through a command line nor to a disk.
        child = subprocess.Popen(
            [sys.executable, "-m", "ripresa.notify"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert child.stdin is not None
        with child.stdin:
            child.stdin.write(records.encode({**told, **channels}))
    except OSError as error:
        events.emit(run, "notification_failed", problem=f"cannot start to notify: {error}")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
