"""One execution of a unit's command: started in a process group of its own, watched, and ended whole."""

from __future__ import annotations

import os
import time

from ripresa.journal import processes
from ripresa.recovery import signals
from ripresa.recovery.progress import Activity, Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ripresa.recovery.stall import Stall

STOP_SIGNALS = {signals.SIGTERM, signals.SIGINT}
"""Signals that ask the guard to stop. A hang-up is ignored: a closed terminal stops no unit."""

WARNINGS = {signals.SIGUSR1, signals.SIGUSR2}
"""Signals that batch systems send ahead of a time limit. They are for the command."""

SHELL = "/bin/bash"
_WATCHED = STOP_SIGNALS | WARNINGS | {signals.SIGCHLD}
_LINGER_S = 1.0
_KILLED_S = 5.0
_TICK_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def listen() -> None:
    """Collect the signals that `Execution.watch` waits for instead of dying of them."""
    signals.pthread_sigmask(signals.SIG_BLOCK, _WATCHED)
    signals.signal(signals.SIGHUP, signals.SIG_IGN)
    # Whoever started the guard may have ignored it, and then no exit code would reach the guard.
    signals.signal(signals.SIGCHLD, signals.SIG_DFL)


def pause(seconds: float) -> bool:
    """Sleep; returns True when told to stop meanwhile."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        info = signals.sigtimedwait(STOP_SIGNALS, left)
        if info is not None:
            return True
    return False


class Execution:
    """A running command and, after `watch`, what came of it."""

    def __init__(
        self,
        command: str,
        log: str,
        environment: dict[str, str],
        held: list[int],
        lifeline: processes.Lifeline,
    ) -> None:
        """Start the command, which inherits the open files ``held`` and the lifeline."""
        self.lifeline = lifeline
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.stopped: str | None = None
        """Why the guard ended the command: ``cancelled``, ``time_limit``, ``hang``; None if it did not."""
        self.evidence: str | None = None
        self.cpu_s = 0.0
        self.rss_mb = 0.0
        """What the command's processes had in memory at the last look."""
        self.max_rss_mb = 0.0
        log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        for fd in (*held, lifeline.fd):
            os.set_inheritable(fd, True)
        try:
            self.pid = os.posix_spawn(
                SHELL,
                ["bash", "-c", "set -euo pipefail; " + command],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, log_fd, 1),
                    (os.POSIX_SPAWN_DUP2, log_fd, 2),
                ],
                setpgroup=0,
                setsigmask=[],
                setsigdef=[signals.SIGHUP, signals.SIGPIPE, *STOP_SIGNALS, *WARNINGS],
            )
        finally:
            os.close(log_fd)
            os.close(null)
            lifeline.let_go()
            for fd in held:
                os.set_inheritable(fd, False)
        self.started = time.monotonic()

    def watch(
        self,
        *,
        beat: Callable[[], None],
        beat_s: float,
        wall_s: float | None,
        stall: Stall,
        grace_s: float,
        progress: Progress,
    ) -> None:
        """Wait for the command, ending it at a limit or when told to stop; then end what it left behind."""
        end = self.started + wall_s if wall_s else None
        kill_at: float | None = None
        next_beat = self.started + beat_s
        while True:
            now = time.monotonic()
            deadline = min(
                x for x in (next_beat, end if kill_at is None else kill_at, kill_at) if x is not None
            )
            info = signals.sigtimedwait(_WATCHED, max(0.0, deadline - now))
            if info is not None and info.si_signo == signals.SIGCHLD and self._reap():
                break
            now = time.monotonic()
            if info is not None and info.si_signo in WARNINGS:
                self._warn(info.si_signo)
            if info is not None and info.si_signo in STOP_SIGNALS:
                # Asked twice means at once.
                kill_at = self._stop(
                    "cancelled", f"signal {info.si_signo} from outside", now, grace_s, kill_at
                )
            if kill_at is not None and now >= kill_at:
                self._signal(signals.SIGKILL)
                kill_at = now + 1.0
            if end is not None and now >= end and kill_at is None:
                kill_at = self._stop(
                    "time_limit", f"wall-clock limit of {wall_s:g} s reached", now, grace_s, None
                )
            if now >= next_beat:
                next_beat = now + beat_s
                beat()
                activity = self._sample(weak=not progress.kind)
                silence = progress.idle(activity)
                limit = stall.exceeded(silence, blocked=activity.blocked) if kill_at is None else None
                if limit is not None:
                    why = f"no progress for {round(silence, 1):g} s ({progress.what}); "
                    kill_at = self._stop("hang", why + limit + activity.remark, now, grace_s, None)
        self._clear(now + grace_s if kill_at is None else kill_at)

    def abandon(self) -> None:
        """End the command at once: what its guard cannot watch must not go on."""
        self._signal(signals.SIGKILL)
        if self.exit_code is None and self.signal is None:
            os.waitpid(self.pid, 0)
        self._gone_by(time.monotonic() + _KILLED_S)

    def _stop(self, why: str, evidence: str, now: float, grace_s: float, kill_at: float | None) -> float:
        if kill_at is not None:
            return now
        self.stopped, self.evidence = why, evidence
        self._signal(signals.SIGTERM)
        # A stopped (SIGSTOP) process takes the signal only once it goes on.
        self._signal(signals.SIGCONT)
        return now + grace_s

    def _signal_group(self, number: int) -> bool:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _signal(self, number: int) -> None:
        """Signal the group, and what left it but still has the lifeline."""
        self._signal_group(number)
        for pid in self.lifeline.holders():
            if processes.group_of(pid) != self.pid:
                processes.kill(pid, number)

    def _warn(self, number: int) -> None:
        """Pass a warning on to those of the command's processes that catch it; the others would die of it."""
        for pid in {*processes.group(self.pid), *self.lifeline.holders()}:
            if processes.catches(pid, number):
                processes.kill(pid, number)

    def _reap(self) -> bool:
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            return False
        if os.WIFSIGNALED(status):
            self.signal = os.WTERMSIG(status)
        else:
            self.exit_code = os.WEXITSTATUS(status)
        self.cpu_s = max(self.cpu_s, usage.ru_utime + usage.ru_stime)
        self.max_rss_mb = max(self.max_rss_mb, usage.ru_maxrss / 1024)
        return True

    def _clear(self, kill_at: float) -> None:
        """End what the command left behind, so that nothing writes after publishing."""
        if not self._left():
            return
        # What ends by itself in a moment (`command > >(gzip > file)`) loses nothing.
        if self.stopped is None:
            if self._gone_by(min(time.monotonic() + _LINGER_S, kill_at)):
                return
            self._signal(signals.SIGTERM)
            self._signal(signals.SIGCONT)
        if not self._gone_by(kill_at):
            self._signal(signals.SIGKILL)
            self._gone_by(time.monotonic() + _KILLED_S)

    def _gone_by(self, end: float) -> bool:
        """Wait until nothing is left of the command; False if something is by then, or a stop is asked."""
        while self._left():
            left = end - time.monotonic()
            if left <= 0 or signals.sigtimedwait(STOP_SIGNALS, min(0.02, left)) is not None:
                return False
        return True

    def _left(self) -> bool:
        """Whether anything that descends from the command still runs."""
        # What closes inherited files may still be in the group; asking for that first is cheap.
        return not self.lifeline.cut() or (self._signal_group(0) and bool(processes.group(self.pid)))

    def _family(self) -> list[tuple[int, list[bytes]]]:
        """The processes of the command, as `_sample` looks at them."""
        return processes.family_stats(self.pid)

    def _sample(self, *, weak: bool) -> Activity:
        """What the command's processes do now, from /proc; the peaks of memory and CPU time are kept."""
        ticks = pages = moved = 0
        states = set()
        for pid, fields in self._family():
            ticks += sum(map(int, fields[11:15]))
            pages += int(fields[21])
            states.add(fields[0])
            if weak:
                moved += processes.io_bytes(pid)
        self.rss_mb = pages * _PAGE / 2**20
        self.max_rss_mb = max(self.max_rss_mb, self.rss_mb)
        self.cpu_s = max(self.cpu_s, ticks / _TICK_PER_S)
        return Activity(ticks / _TICK_PER_S, moved, states)
