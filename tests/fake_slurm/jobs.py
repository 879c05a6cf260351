"""What commands and the daemon do with one job."""

import os
import pwd
import signal
import time
from contextlib import suppress
from typing import Any

from fake_slurm.store import Job, Store

NO_OUTPUT = 53  # exit signal of a job whose log could not be opened
_SURELY = 5
"""So often in a row a process that has no variables is seen without."""


def identity(job: Job) -> str:
    """The id as squeue and sacct write it: 12, or 12_3 for a task."""
    return str(job["id"]) if job["array"] is None else f"{job['array']}_{job['task']}"


def processes(store: Store, job: Job) -> list[int]:
    """The processes of a job's present instance, in whatever sessions they are: as a cgroup would have it."""
    mark = f"FAKE_SLURM_INSTANCE={job['key']}.{job['restarts']}".encode()
    folder = f"FAKE_SLURM={store.folder}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                variables = variables_of(f"/proc/{name}")
            except OSError:
                continue
            if mark in variables and folder in variables:
                found.append(int(name))
    return found


def variables_of(process: str) -> list[bytes]:
    """The variables of a process, by its folder in /proc. OSError if it is gone, or is none of programs."""
    empty = 0
    # While a process becomes another program it has none for a moment: these addresses are 0, then equal.
    while empty < _SURELY:
        with open(f"{process}/environ", "rb") as file:
            if found := file.read():
                return found.split(b"\0")
        os.readlink(f"{process}/exe")
        with open(f"{process}/stat", "rb") as file:
            begin, end = file.read().rpartition(b")")[2].split()[47:49]
        empty = empty + 1 if begin == end and int(end) else 0
        time.sleep(0.001)
    return []


def kill(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def annihilate(store: Store, job: Job) -> None:
    """KILL to all processes of a job, and to those that were just being born."""
    quiet = 0
    while quiet < 2:
        found = processes(store, job)
        kill(found, signal.SIGSTOP)  # nobody sees another one die
        kill(found, signal.SIGKILL)
        quiet = 0 if found else quiet + 1
        time.sleep(0.005)


def bring_to_an_end(store: Store, job: Job, ending: dict[str, Any]) -> None:
    """TERM to all processes of a job that runs; once they are gone it becomes what `ending` says."""
    store.save({**job, "ending": {**ending, "time": time.time()}, "end": time.time()})
    found = processes(store, job)
    kill(found, signal.SIGCONT)
    kill(found, signal.SIGTERM)


def requeue(store: Store, job: Job, held: str | None = None, state: str = "PENDING") -> None:
    """The next instance under the same id; the last one stays in the accounting."""
    last = {name: job[name] for name in ("node", "submit", "start")}
    steps = [["batch", "CANCELLED", 0, 15]]
    past = {
        **last,
        "state": "REQUEUED",
        "detail": "",
        "reason": "None",
        "exit": [0, 0],
        "end": time.time(),
        "steps": steps,
    }
    begin = time.time() + store.settings["requeue_wait"]
    job.update(
        state=state,
        reason=held or "BeginTime",
        held=held,
        begin=begin,
        node="",
        start=None,
        end=None,
        pid=None,
    )
    job.update(
        restarts=job["restarts"] + 1, history=[*job["history"], past], ending=None, steps=[], exit=[0, 0]
    )
    store.save(job)


def log_path(job: Job, pattern: str) -> str:
    """Where a job's output goes: the pattern with its marks filled in, from the job's folder."""
    array = job["id"] if job["array"] is None else job["array"]
    marks = {
        "%": "%",
        "j": job["id"],
        "A": array,
        "a": job["task"] if job["task"] is not None else 4294967294,
    }
    marks.update(x=job["name"], N=job["node"], u=pwd.getpwuid(job["uid"]).pw_name, J=identity(job), n=0, t=0)
    text, rest = "", pattern
    while rest:
        plain, mark, rest = rest.partition("%")
        text += plain
        if mark and rest:
            text += str(marks.get(rest[0], f"%{rest[0]}"))
            rest = rest[1:]
    return os.path.join(job["chdir"], text)
