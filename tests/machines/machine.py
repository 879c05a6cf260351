"""Machines: each is a host name of its own with all the processes that run under it.

A machine is a set of kernel namespaces (host name, mounts, and whatever else it is given) kept open by a
process that sleeps. Its processes see their own host name and their own mounts, as on any real machine;
nothing of that is visible outside. And since children cannot leave, the namespace says exactly what runs on a
machine, so that its power can be cut.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

# The daemons get nothing of the caller's environment, and no signal that it happens to ignore.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C",
}
CLEAN = ("env", "--default-signal")
# The first process of a namespace inherits orphans; the kernel buries them if it ignores their end.
SLEEP = "exec env --ignore-signal=CHLD sleep infinity"


class Machine:
    """One machine, whose process id and start time are kept in ``file``.

    ``steps`` are lines of sh that furnish it, run in its namespaces when its power is switched on. With a
    ``pid`` namespace its processes have numbers of their own, from 1 on, and end with the process that keeps
    it. A machine ``within`` another begins with the mounts of that one, and ends with it if that one has a
    ``pid`` namespace.
    """

    def __init__(
        self,
        name: str,
        file: Path,
        steps: Sequence[str] = (),
        *,
        namespaces: Sequence[str] = ("mount", "uts"),
        within: "Machine | None" = None,
        sleep: str = SLEEP,
    ) -> None:
        self.name = name
        self.steps = steps
        self._file = file
        self._kinds = [f"--{kind}" for kind in namespaces]
        # What tells its processes from all others.
        self._kind = "pid" if "pid" in namespaces else "uts"
        self._within = within
        self._sleep = sleep

    def power_on(self, stdin: int | IO[bytes] = subprocess.DEVNULL) -> None:
        """Make the machine unless it is there; ``stdin`` is for the process that keeps it."""
        if self.up():
            return
        steps = [
            # The numbers outside, since what it sees under /proc is still the caller's.
            "read -r stat </proc/self/stat",
            "set -- $stat",
            f'echo "$1 ${{22}}" >{shlex.quote(str(self._file))}',
            f"hostname {self.name}",
            *self.steps,
            "echo ready",
            "exec >/dev/null 2>&1",
            self._sleep,
        ]
        fork = ["--fork"] if self._kind == "pid" else []
        making = ["unshare", *self._kinds, *fork, "--propagation", "private"]
        entering = self._within.entering() if self._within else []
        with subprocess.Popen(
            [*entering, "setsid", "--fork", *CLEAN, *making, "sh", "-ec", "\n".join(steps)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT,
        ) as shell:
            assert shell.stdout
            said = shell.stdout.readline().strip()
        if said != "ready":
            raise RuntimeError(f"no namespaces for the machine {self.name}: {said or 'it ended at once'}")

    def up(self) -> bool:
        """Whether the machine is there."""
        return self.holder is not None

    @property
    def holder(self) -> int | None:
        """The process that keeps the machine, by its number outside; None if the machine is off."""
        try:
            pid, started = self._file.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if _started(int(pid)) == started and self._space(int(pid)) else None

    def entering(self) -> list[str]:
        """What to put in front of a command so that it runs there.

        Raises RuntimeError if the machine is off.
        """
        holder = self.holder
        if holder is None:
            raise RuntimeError(f"the machine {self.name} is off")
        return [*CLEAN, "nsenter", f"--target={holder}", *self._kinds, "--wd=/"]

    def start(
        self, *command: str, environment: Mapping[str, str] | None = None, log: Path | None = None
    ) -> None:
        """Run a command there that returns at once because it puts itself into the background.

        Raises RuntimeError, with what the command said, if it fails.
        """
        entering = self.entering()
        with open(log or os.devnull, "ab") as output:
            done = subprocess.run(
                [*entering, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=ENVIRONMENT | dict(environment or {}),
                start_new_session=True,
                check=False,
                timeout=60,
            )
        if done.returncode != 0:
            said = log.read_text(errors="replace")[-2000:] if log else ""
            raise RuntimeError(f"{' '.join(command)} on {self.name}: exit code {done.returncode}\n{said}")

    def runs(self, pid: int) -> bool:
        """Whether this process lives on this machine; one that has closed all its files no longer does."""
        holder = self.holder
        return holder is not None and self._space(pid) == self._space(holder)

    def processes(self) -> list[int]:
        """The processes of the machine, whoever started them."""
        holder = self.holder
        if holder is None:
            return []
        space = self._space(holder)
        return [pid for pid in _all() if pid != holder and self._space(pid) == space]

    def cut(self) -> None:
        """End every process on the machine at once, as a power failure does; the machine itself stays."""
        end = time.monotonic() + 30
        while processes := self.processes():
            for pid in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name}: processes {processes} cannot be killed")
            time.sleep(0.01)

    def remove(self) -> None:
        """End everything on the machine, and the machine."""
        holder = self.holder
        if holder is not None:
            if self._kind != "pid":
                self.cut()
            # While it is open its number is not given to the namespace of another machine.
            with open(f"/proc/{holder}/ns/{self._kind}", "rb"):
                space = self._space(holder)
                os.kill(holder, signal.SIGKILL)
                end = time.monotonic() + 30
                while any(self._space(pid) == space for pid in _all()):
                    if time.monotonic() > end:
                        raise RuntimeError(f"{self.name}: its processes cannot be killed")
                    time.sleep(0.005)
        self._file.unlink(missing_ok=True)

    def _space(self, pid: int) -> str | None:
        return _namespace(pid, self._kind)


def _all() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _namespace(pid: int, kind: str) -> str | None:
    """The namespace of a kind that a process is in; None if all its threads have come to their end.

    The first thread of one that was killed may be a zombie while others still hold its ports.
    """
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        pass
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                return os.readlink(f"/proc/{pid}/task/{thread}/ns/{kind}")
    return None


def _started(pid: int) -> str:
    """When a process started, in the kernel's own ticks; "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
