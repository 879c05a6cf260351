"""Daemons: started on a machine, known by their pid file, and ended or frozen in every way a test needs."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from machines.machine import Machine


class Daemon:
    """One daemon on one machine, which writes its process id to ``pid_file``."""

    def __init__(
        self,
        machine: Machine,
        command: Sequence[str],
        pid_file: Path,
        *,
        log: Path,
        ready: Callable[[], bool],
        environment: dict[str, str] | None = None,
    ) -> None:
        self.machine = machine
        self.pid_file = pid_file
        self.log = log
        self._command = command
        self._ready = ready
        self._environment = environment

    @property
    def pid(self) -> int | None:
        """Its process id while it lives; never that of another process that has taken the number."""
        try:
            pid = int(self.pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if self.machine.runs(pid) else None

    def start(self, wait: float = 30) -> None:
        """Start it unless it lives, thaw it if it is frozen, and wait so many seconds until it answers."""
        if self.pid is None:
            self.pid_file.unlink(missing_ok=True)
            self.machine.start(*self._command, environment=self._environment, log=self.log)
        else:
            self.thaw()
        if wait:
            self.wait(wait)

    def wait(self, seconds: float = 30) -> None:
        """Wait until it answers. Raises RuntimeError, with the end of its log, if it does not."""
        end = time.monotonic() + seconds
        while self.pid is None or not self._ready():
            if time.monotonic() > end:
                said = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else "no log"
                raise RuntimeError(f"{self._command[0]} on {self.machine.name} does not answer:\n{said}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it in order, as a service manager does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once with SIGKILL."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it with SIGSTOP: connections are still accepted by the kernel, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        self.thaw()
        end = time.monotonic() + 20
        while self.pid is not None:
            if time.monotonic() > end:
                self._signal(signal.SIGKILL)
            time.sleep(0.02)
