"""Machines of a cluster: each is a host name of its own with all the processes that run under it.

A machine is a pair of kernel namespaces (host name, mounts) kept open by a process that sleeps. Its processes
see their own host name, an `/etc/hosts` that resolves it to loopback, and the cluster's configuration as
`/etc/slurm`, as on any real node; nothing of that is visible outside. And since children cannot leave, the
namespace says exactly what runs on a machine, so that its power can be cut.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

SLURM = Path("/etc/slurm")
# The daemons get nothing of the caller's environment, and no signal that it happens to ignore.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C",
}
CLEAN = ("env", "--default-signal")


class Machine:
    """One host of the cluster, whose process id and start time are kept under ``run``."""

    def __init__(self, name: str, run: Path, configuration: Path) -> None:
        self.name = name
        self.configuration = configuration
        self._file = run / f"{name}.machine"

    def power_on(self) -> None:
        """Make the machine unless it is there."""
        if self.up():
            return
        binds = [(self.configuration / "hosts", "/etc/hosts")]
        if SLURM.is_dir():
            binds.append((self.configuration, str(SLURM)))
        steps = [f"mount --bind {shlex.quote(str(source))} {target}" for source, target in binds]
        steps += [f"hostname {self.name}", "echo $$", "exec sleep infinity >/dev/null 2>&1"]
        command = ["setsid", "--fork", *CLEAN, "unshare", "--mount", "--uts", "--propagation", "private"]
        with subprocess.Popen(
            [*command, "sh", "-ec", "\n".join(steps)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        ) as shell:
            assert shell.stdout
            pid = shell.stdout.readline().strip()
        if not pid:
            raise RuntimeError(f"no namespaces for the machine {self.name}")
        self._file.write_text(f"{pid} {_started(int(pid))}")

    def up(self) -> bool:
        """Whether the machine is there."""
        return self._holder() is not None

    def start(
        self, *command: str, environment: Mapping[str, str] | None = None, log: Path | None = None
    ) -> None:
        """Run a command there that returns at once because it puts itself into the background.

        Raises RuntimeError, with what the command said, if it fails.
        """
        holder = self._holder()
        if holder is None:
            raise RuntimeError(f"the machine {self.name} is off")
        entering = [*CLEAN, "nsenter", f"--target={holder}", "--mount", "--uts", "--wd=/"]
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
        holder = self._holder()
        return holder is not None and _namespace(pid) == _namespace(holder)

    def processes(self) -> list[int]:
        """The processes of the machine, whoever started them."""
        holder = self._holder()
        if holder is None:
            return []
        namespace = _namespace(holder)
        return [pid for pid in _all() if pid != holder and _namespace(pid) == namespace]

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
        self.cut()
        if (holder := self._holder()) is not None:
            os.kill(holder, signal.SIGKILL)
            while self._holder() is not None:
                time.sleep(0.01)
        self._file.unlink(missing_ok=True)

    def _holder(self) -> int | None:
        try:
            pid, started = self._file.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if _started(int(pid)) == started and _namespace(int(pid)) else None


def _all() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _namespace(pid: int) -> str | None:
    """What tells hosts apart; None for a process of which every thread has come to its end.

    The first thread of one that was killed may be a zombie while others still hold its ports.
    """
    try:
        return os.readlink(f"/proc/{pid}/ns/uts")
    except OSError:
        pass
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                return os.readlink(f"/proc/{pid}/task/{thread}/ns/uts")
    return None


def _started(pid: int) -> str:
    """When a process started, in the kernel's own ticks; "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
