"""A job's command as a process: started, warned ahead of the end of its segment, and ended there.

A warning is SIGUSR1, from the batch system or, where there is none, from here. It asks the command to write a
checkpoint and end. One that goes on nevertheless gets TERM, then KILL, before the segment's time is over.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
STOPS = (signal.SIGTERM, signal.SIGINT)
_WATCHED = {signal.SIGCHLD, *WARNINGS, *STOPS}
_SHORTEST_TICK_S = 0.25
LONGEST_TICK_S = 5.0


class Limit(NamedTuple):
    """The end of a segment, in s from its start: when to warn the command, ask it to end, and kill it."""

    warn_s: float
    term_s: float
    kill_s: float

    @classmethod
    def of(cls, runtime_s: float, warning_s: float) -> Limit:
        """For a segment of this length, warned so long before its end.

        The last sixth of the warning is left for what follows the command.
        """
        return cls(runtime_s - warning_s, runtime_s - warning_s / 3, runtime_s - warning_s / 6)


class Ended(NamedTuple):
    """How a command ended: its exit code as a shell has it, and what it was told before."""

    code: int
    warned: bool
    """It was told that its time is nearly over."""
    timed_out: bool
    """It went on after that until it was ended."""
    stopped: bool
    """It was told to stop by somebody else."""

    @property
    def by(self) -> str:
        """What ended it: `time`, a `warning`, or `itself`."""
        return "time" if self.timed_out else "warning" if self.warned else "itself"


def run(
    script: str,
    environment: dict[str, str],
    *,
    began: float,
    limit: Limit | None,
    tell: Callable[[int, int], None],
    tick: Callable[[], bool] | None,
    tick_s: float = LONGEST_TICK_S,
    inherited: Sequence[int] = (),
) -> Ended:
    """Run a Bash script to its end. Its output goes where that of this process goes.

    ``limit`` counts from ``began`` (`time.monotonic`). ``tell`` sends a signal to a process and to its
    descendants; a warning only to what catches it. ``tick`` is called now and then, more often while it
    returns True, and at least every ``tick_s``. ``inherited`` are open files that the command shares.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Who sends a warning sees only from a handler that it is welcome.
    for number in WARNINGS:
        signal.signal(number, lambda *_: None)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        child = _start(script, environment, inherited)
        return _watch(child, began, limit, tell, tick, tick_s)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(script: str, environment: dict[str, str], inherited: Sequence[int]) -> int:
    for fd in inherited:
        os.set_inheritable(fd, True)
    child = os.posix_spawn(
        "/bin/bash",
        ["bash", "-c", script],
        environment,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGHUP, *WARNINGS, *STOPS],
    )
    for fd in inherited:
        os.set_inheritable(fd, False)
    return child


def _watch(
    child: int,
    began: float,
    limit: Limit | None,
    tell: Callable[[int, int], None],
    tick: Callable[[], bool] | None,
    tick_s: float,
) -> Ended:
    ahead = list(zip(limit or (), (signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL), strict=False))
    warned = timed_out = stopped = False
    pause, next_tick = _SHORTEST_TICK_S, time.monotonic() + _SHORTEST_TICK_S
    while True:
        due = min([began + after for after, _ in ahead[:1]] + ([next_tick] if tick else []), default=None)
        left = None if due is None else max(0.0, due - time.monotonic())
        info = signal.sigwaitinfo(_WATCHED) if left is None else signal.sigtimedwait(_WATCHED, left)
        if info is not None and info.si_signo == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return Ended(_code(status), warned, timed_out, stopped)
        elif info is not None and info.si_signo in WARNINGS:
            warned = True  # who sent it has told the command, too
        elif info is not None:
            stopped = True
        now = time.monotonic()
        while ahead and now >= began + ahead[0][0]:
            _, number = ahead.pop(0)
            if number != signal.SIGUSR1 or not warned:
                tell(child, number)
            warned, timed_out = True, number != signal.SIGUSR1
        if tick and now >= next_tick:
            pause = _SHORTEST_TICK_S if tick() else min(1.5 * pause, tick_s)
            next_tick = now + pause


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
