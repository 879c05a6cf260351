"""One host: a machine with processes of its own, of which one is an sshd that listens."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from hosts import furnishing
from hosts.configuration import ADDRESSES, Layout
from machines import Machine, ports
from machines.machine import ENVIRONMENT


class Host(Machine):
    """A host of a set of hosts, whose disk the ``keeper`` has."""

    def __init__(self, layout: Layout, name: str, keeper: Machine) -> None:
        super().__init__(
            name,
            layout.run / f"{name}.machine",
            furnishing.host(layout, name),
            namespaces=("mount", "uts", "ipc", "pid"),
            within=keeper,
        )
        self._port = layout.sshd_port
        self._log = layout.run / f"{name}.sshd.log"

    def execute(self, command: str, seconds: float) -> str:
        """Standard output of lines of sh. Raises CalledProcessError, with all that it said as a note."""
        done = subprocess.run(
            [*self.entering(), "sh", "-c", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            check=False,
            timeout=seconds,
        )
        if done.returncode != 0:
            error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
            error.add_note(f"{done.stdout}{done.stderr}".strip())
            raise error
        return done.stdout

    def command_lines(self) -> list[str]:
        """Those of all processes but the first one and the sshd that listens, sorted; none of zombies."""
        listener = self._listener()
        lines = (_line(pid) for pid in self.processes() if pid != listener)
        return sorted(line for line in lines if line)

    def start_sshd(self) -> None:
        """Start the sshd that listens unless it runs, and wait until it does."""
        if self._listener() is None:
            self.start("/usr/sbin/sshd", log=self._log)
            _until(lambda: ports.listening(self._port, ADDRESSES[self.name]), f"sshd of {self.name} is deaf")

    def restart_sshd(self) -> None:
        """Have it read its configuration and keys again; its sessions go on."""
        listener = self._listener()
        self._kill(lambda pid: pid == listener)
        self.start_sshd()

    def kill_sshd(self) -> None:
        """End the sshd that listens and every session, but not what runs in the sessions."""
        self._kill(lambda pid: _program(pid).startswith("sshd"))

    def _listener(self) -> int | None:
        for pid in self.processes():
            # Its children have the same title for a moment.
            if _program(pid) == "sshd" and "[listener]" in _line(pid) and _parent(pid) == self.holder:
                return pid
        return None

    def _kill(self, which: Callable[[int], bool]) -> None:
        """End processes at once, and wait until they are gone."""
        pids: set[int] = set()

        def gone() -> bool:
            found = [pid for pid in self.processes() if which(pid)]  # the last may have begun another
            pids.update(found)
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not found and not any(map(self.runs, pids))

        _until(gone, f"processes of {self.name} cannot be killed")


def _line(pid: int) -> str:
    """The command line of a process; "" if it is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""


def _parent(pid: int) -> int | None:
    """The process id of the parent of a process; None if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _program(pid: int) -> str:
    """The name of the file that a process executes; "" if it is gone or a zombie."""
    try:
        return Path(os.readlink(f"/proc/{pid}/exe")).name
    except OSError:
        return ""


def _until(condition: Callable[[], bool], otherwise: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(otherwise)
        time.sleep(0.005)
