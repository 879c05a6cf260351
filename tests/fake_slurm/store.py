"""The folder of the fake: jobs, settings and faults as files, one lock around all changes."""

import fcntl
import fnmatch
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Job = dict[str, Any]

ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
}  # fmt: skip

DEFAULTS: dict[str, Any] = {
    "cpus": 8,  # of each node
    "nodes": ["n1", "n2", "n3", "n4"],
    "down": [],  # nodes of these
    # what `scontrol show partition` says of it where it is not the usual; the first one is the default
    "partitions": {"cpu": {}},
    "accounting": True,
    "remembers": 300,  # s for which squeue lists a job that has ended
    "max_array": 1001,
    "max_submit": None,  # jobs in the queue, each task counting
    "minute": 60.0,  # s that a minute of --time and of --begin=now+N has
    "kill_wait": 1.0,  # s between TERM and KILL
    "requeue_wait": 0.0,  # s until a requeued job may start
}


class Stop(Exception):
    """A command of SLURM's says no."""

    def __init__(self, message: str, code: int = 1, output: str = "") -> None:
        super().__init__(message)
        self.message, self.code, self.output = message, code, output


class Store:
    """One cluster. Changes are made inside `with store.lock():`."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(folder)
        self._read: dict[str, tuple[tuple[int, ...], Job]] = {}
        for name in ("jobs", "active", "faults", "scripts"):
            os.makedirs(self.path(name), exist_ok=True)

    def path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    @contextmanager
    def lock(self) -> Iterator[None]:
        with open(self.path("lock"), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read(self, name: str, default: Any) -> Any:
        try:
            with open(self.path(name), encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            return default

    def write(self, name: str, value: Any) -> None:
        path = self.path(name)
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump(value, file)
        os.replace(f"{path}.new", path)

    def append(self, name: str, line: str) -> None:
        with open(self.path(name), "a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    @property
    def settings(self) -> dict[str, Any]:
        return {**DEFAULTS, **self.read("settings.json", {})}

    def fault(self, command: str) -> dict[str, Any] | None:
        """What is to go wrong with this call, if anything."""
        name = f"faults/{command}.json"
        if not os.path.exists(self.path(name)):
            return None
        with self.lock():
            fault = self.read(name, None)
            if fault and "calls" in fault:
                fault["calls"] -= 1
                if fault["calls"] <= 0:
                    os.unlink(self.path(name))
                else:
                    self.write(name, fault)
        return fault

    # --- jobs ---

    def numbers(self, count: int) -> list[int]:
        """Take the next so many job ids."""
        first = self.read("last_id.json", 0) + 1
        self.write("last_id.json", first + count - 1)
        return list(range(first, first + count))

    def save(self, job: Job) -> None:
        self.write(f"jobs/{job['key']}.json", job)
        mark = self.path("active", job["key"])
        if job["state"] in ENDED:
            if os.path.exists(mark):
                os.unlink(mark)
        else:
            open(mark, "w").close()
        self.saved(job)

    def saved(self, job: Job) -> None:
        """Leave a mark for the daemon, one byte for each change."""
        with open(self.path("changes"), "a") as file:
            file.write(".")

    def load(self, key: str) -> Job:
        """A copy of a job; its file is read again only if it was written."""
        found = os.stat(self.path("jobs", f"{key}.json"))
        written = found.st_mtime_ns, found.st_ino, found.st_size
        if key not in self._read or self._read[key][0] != written:
            self._read[key] = (written, self.read(f"jobs/{key}.json", None))
        return dict(self._read[key][1])

    def jobs(self, active: bool = False) -> list[Job]:
        """All jobs in the order of their submission, or those that have not ended."""
        names = os.listdir(self.path("active" if active else "jobs"))
        return [
            self.load(key)
            for key in sorted(name.removesuffix(".json") for name in names if ".new" not in name)
        ]

    def fate(self, name: str) -> dict[str, Any]:
        """What settings a test holds ready for a job of this name."""
        found: dict[str, Any] = {}
        for pattern, changes in self.read("fates.json", []):
            if fnmatch.fnmatchcase(name, pattern):
                found.update(changes)
        return found

    # --- the process that starts them ---

    def wake(self) -> None:
        """Have the daemon look at the jobs, and start it if it is not there."""
        with self.lock():  # it ends under the lock too, so that none is missed
            pid = self.read("daemon.json", 0)
            try:
                if pid:
                    os.kill(pid, signal.SIGUSR1)
                    return
            except ProcessLookupError:
                pass
            import subprocess  # seldom needed, and every command would wait for it

            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # or the next call might kill it
            with open(self.path("daemon.log"), "a") as log:
                daemon = subprocess.Popen(
                    [
                        sys.executable,
                        "-IS",
                        os.path.join(os.path.dirname(__file__), "daemon.py"),
                        self.folder,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,
                )
            self.write("daemon.json", daemon.pid)
