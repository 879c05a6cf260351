"""What is left of an attempt whose guard is gone: found by what its lease says, and ended."""

from __future__ import annotations

import os
import time

from ripresa.journal import processes
from ripresa.recovery import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KILLED_S = 5.0


def end_orphans(holder: dict[str, Any]) -> None:
    """Kill what is left of an attempt whose guard is gone, if this is the boot it ran in."""
    if holder.get("host") != os.uname().nodename or holder.get("boot_id") != processes.boot_id():
        return
    end = time.monotonic() + _KILLED_S
    while (left := _orphans(holder)) and time.monotonic() < end:
        # Stopped first: a shell that sees its child die goes on, if only for a moment.
        for number in (signals.SIGSTOP, signals.SIGKILL):
            for pid in left:
                processes.kill(pid, number)
        time.sleep(0.01)


def _orphans(holder: dict[str, Any]) -> set[int]:
    """The living processes of an attempt: its group, and what left that but still has the lifeline."""
    found: set[int] = set()
    group, lifeline = holder.get("group"), holder.get("lifeline")
    if isinstance(group, int) and group > 1 and _is_group_of(group, holder):
        found.update(processes.group(group))
    if isinstance(lifeline, list) and len(lifeline) == 2:
        found.update(processes.having_open(*lifeline))
    return found


def _is_group_of(group: int, holder: dict[str, Any]) -> bool:
    """Whether the process group still is the one recorded: its leader was not replaced by a new process."""
    started = processes.started(group)
    return started is None or started == holder.get("group_started")
