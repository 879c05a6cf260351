"""A test's hold on the fake: make one, tell it what to do, ask it what it did."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from fake_slurm.control import cancel
from fake_slurm.jobs import annihilate, identity, kill, requeue
from fake_slurm.store import Job, Store

BIN = Path(__file__).parent / "bin"

CONTROLLER = "Unable to contact slurm controller (connect failure)"
DATABASE = (
    "slurm_persist_conn_open_without_init: failed to open persistent connection to host:127.0.0.1:6819: "
)
OUTAGES = {
    "sbatch": (1, f"sbatch: error: Batch job submission failed: {CONTROLLER}"),
    "squeue": (1, f"slurm_load_jobs error: {CONTROLLER}"),
    "scancel": (8, f"scancel: error: Kill job error on job id 1: {CONTROLLER}"),
    "scontrol": (1, f"slurm_load_jobs error: {CONTROLLER}"),
    "sinfo": (1, f"slurm_load_partitions: {CONTROLLER}"),
    "sacct": (
        1,
        f"sacct: error: {DATABASE}Connection refused\n"
        "sacct: error: Sending PersistInit msg: Connection refused\n"
        "sacct: error: Problem talking to the database: Connection refused",
    ),
}
TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"


class FakeSlurm:
    """One fake cluster in a folder. `environment` is what commands need to talk to it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.store = Store(str(folder))
        self.settings(**settings)
        # This Python, as another one may be a slow wrapper of some sort.
        path = os.pathsep.join(
            (str(BIN), os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath))
        )
        self.environment = {**os.environ, "PATH": path, "FAKE_SLURM": self.store.folder}

    def settings(self, **changes: Any) -> None:
        """Change settings, see store.DEFAULTS."""
        with self.store.lock():
            self.store.write("settings.json", {**self.store.read("settings.json", {}), **changes})

    # --- misbehaviour ---

    def down(
        self, *commands: str, calls: int | None = None, stderr: str | None = None, code: int | None = None
    ) -> None:
        """Have commands fail as in an outage, or with another text, for some calls or until `up`."""
        for command in commands or OUTAGES:
            usual = OUTAGES[command]
            self._fault(command, calls, exit=code or usual[0], stderr=stderr or usual[1])

    def slow(self, command: str, seconds: float, calls: int | None = None) -> None:
        """Have a command take longer."""
        self._fault(command, calls, seconds=seconds)

    def submits_and_times_out(self, calls: int | None = 1, seconds: float = 0.0) -> None:
        """Have sbatch queue the job and then say that nobody answered."""
        self._fault("sbatch", calls, seconds=seconds, after=True, exit=1, stderr=TIMED_OUT)

    def up(self, *commands: str) -> None:
        """End the misbehaviour of commands, or of all."""
        with self.store.lock():
            for command in commands or OUTAGES:
                Path(self.store.path("faults", f"{command}.json")).unlink(missing_ok=True)

    def _fault(self, command: str, calls: int | None, **fault: Any) -> None:
        with self.store.lock():
            self.store.write(f"faults/{command}.json", fault if calls is None else {**fault, "calls": calls})

    # --- jobs ---

    def fate(self, name: str, **changes: Any) -> None:
        """Change jobs to come whose name fits a pattern. With a state or a reason they are not started."""
        with self.store.lock():
            self.store.write("fates.json", [*self.store.read("fates.json", []), [name, changes]])

    def job(self, job_id: str | int) -> Job:
        """The record of a job by its id (12 or "12_3")."""
        return next(job for job in self.jobs() if identity(job) == str(job_id))

    def jobs(self) -> list[Job]:
        """The records of all jobs."""
        with self.store.lock():
            return self.store.jobs()

    def change(self, job_id: str | int, *, leave: bool = False, **changes: Any) -> None:
        """Give a job any state, reason, steps, ... If that ends it, its processes die unless left."""
        with self.store.lock():
            job = self._of(job_id)
            if "state" in changes and changes["state"] not in ("PENDING", "RUNNING", "SUSPENDED"):
                changes = {"end": time.time(), **changes}
                if job["pid"] and not leave:
                    annihilate(self.store, job)
                job["pid"] = None
            self.store.save({**job, "stuck": True, **changes})
        self.store.wake()

    def cancel(self, job_id: str | int, uid: int = 0) -> None:
        """What scancel does in the hands of somebody else."""
        with self.store.lock():
            cancel(self.store, [self._of(job_id)], uid)
        self.store.wake()

    def requeue(self, job_id: str | int, *, leave: bool = False, number: int | None = None) -> None:
        """Requeue a job as after the loss of its node: its processes die, or are left there unseen.

        `number` is another id that it gets, or another one of its array.
        """
        with self.store.lock():
            job = self._of(job_id)
            if job["pid"] and not leave:
                annihilate(self.store, job)
            if number is not None:
                job.update(_numbered(job, number))
            requeue(self.store, job)
        self.store.wake()

    def renumber(self, job_id: str | int, number: int) -> None:
        """Give a job, or its array, another id while it goes on."""
        with self.store.lock():
            job = self._of(job_id)
            self.store.save({**job, **_numbered(job, number)})

    def duplicate(self, job_id: str | int) -> int:
        """Queue a job once more under another id, with the same name and comment. Returns the id."""
        with self.store.lock():
            number = self.store.numbers(1)[0]
            job = self._of(job_id)
            fresh: Job = {
                "state": "PENDING",
                "reason": "None",
                "node": "",
                "start": None,
                "end": None,
                "pid": None,
            }
            fresh |= {"steps": [], "ending": None, "exit": [0, 0], "stuck": False, **_numbered(job, number)}
            self.store.save({**job, **fresh, "key": f"{number:07}.00000", "submit": time.time()})
        self.store.wake()
        return number

    def vanish(self, job_id: str | int, *commands: str) -> None:
        """Have a job listed no more by squeue and sacct, or one of them. Its processes live on."""
        with self.store.lock():
            self.store.save({**self._of(job_id), "hidden": list(commands or ("squeue", "sacct"))})

    def _of(self, job_id: str | int) -> Job:
        return next(job for job in self.store.jobs() if identity(job) == str(job_id))

    # --- looking ---

    def calls(self, command: str | None = None) -> list[list[str]]:
        """The arguments of every call so far, or of those of one command."""
        try:
            text = Path(self.store.path("calls.jsonl")).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        lines = text[: text.rfind("\n") + 1].splitlines()  # the last one may not be whole yet
        return [call["arguments"] for call in map(json.loads, lines) if command in (None, call["command"])]

    def stop(self) -> None:
        """Kill all jobs and the daemon."""
        # While others hold the lock the daemon does nothing, nor will it ever start a job again.
        with self.store.lock():
            daemon = self.store.read("daemon.json", 0)
            if daemon:
                kill([daemon], signal.SIGKILL)
            for job in self.store.jobs():
                if job["start"] is not None or job["restarts"]:
                    for restarts in range(job["restarts"] + 1):
                        annihilate(self.store, {**job, "restarts": restarts})


def _numbered(job: Job, number: int) -> Job:
    return {"id": number, "array": None if job["array"] is None else number}
