"""scancel, and what scontrol changes."""

import getopt
import os
import pwd
import signal
import time

from fake_slurm import show
from fake_slurm.formats import tasks
from fake_slurm.jobs import bring_to_an_end, identity, kill, processes, requeue
from fake_slurm.store import ENDED, Job, Stop, Store


def scancel(store: Store, arguments: list[str]) -> str:
    """End jobs, or send them a signal. Like the real one it says nothing of ids that nobody has."""
    letters = "bfn:u:s:t:p:A:Qvi"
    names = [
        "batch",
        "full",
        "name=",
        "jobname=",
        "user=",
        "me",
        "signal=",
        "state=",
        "partition=",
        "account=",
        "quiet",
    ]
    try:
        found, ids = getopt.gnu_getopt(arguments, letters, names)
    except getopt.GetoptError as error:
        raise Stop(f"scancel: unrecognized option '--{error.opt}'") from None
    options = {name.lstrip("-"): value for name, value in found}
    name = options.get("n", options.get("name", options.get("jobname")))
    user = options.get("u", options.get("user"))
    state = options.get("t", options.get("state"))
    number = options.get("s", options.get("signal"))
    if not ids and not options.keys() & {
        "n",
        "name",
        "jobname",
        "u",
        "user",
        "me",
        "t",
        "state",
        "p",
        "partition",
    }:
        raise Stop("scancel: error: No job identification provided")
    for text in ids:
        if (
            not text.replace("_", "")
            .replace("[", "")
            .replace("]", "")
            .replace("-", "")
            .replace(",", "")
            .isdigit()
        ):
            raise Stop(f"scancel: error: Invalid job id {text}")
    wanted = {one for text in ids for one in _expand(text)}
    with store.lock():
        chosen = []
        for job in store.jobs(active=True):
            if ids and not wanted & {identity(job), str(job["id"]), str(job["array"])}:
                continue
            if name is not None and job["name"] != name:
                continue
            if user is not None and user not in (str(job["uid"]), pwd.getpwuid(job["uid"]).pw_name):
                continue
            if state is not None and job["state"] not in show.states(state):
                continue
            chosen.append(job)
        if number is None:
            cancel(store, chosen, os.getuid())
        else:
            code = (
                int(number)
                if number.isdigit()
                else signal.Signals[f"SIG{number.upper().removeprefix('SIG')}"]
            )
            for job in (job for job in chosen if job["pid"]):
                batch = options.keys() & {"b", "batch"}
                kill([job["pid"]] if batch else processes(store, job), code)
    store.wake()
    return ""


def cancel(store: Store, jobs: list[Job], uid: int) -> None:
    """End jobs. Of a task that waits nothing is kept if others of its array go on waiting."""
    keys = {job["key"] for job in jobs}
    waiting = {
        job["array"] for job in store.jobs(active=True) if job["start"] is None and job["key"] not in keys
    }
    for job in jobs:
        if job["pid"]:
            bring_to_an_end(store, job, {"state": "CANCELLED", "detail": f"by {uid}"})
            continue
        hidden = ["squeue", "sacct"] if job["array"] is not None and job["array"] in waiting else []
        ended = {
            "state": "CANCELLED",
            "detail": f"by {uid}",
            "end": time.time(),
            "hidden": [*job["hidden"], *hidden],
        }
        store.save({**job, **ended})


def _expand(text: str) -> list[str]:
    """The ids in 12, 12_3 or 12_[1-3]."""
    stem, bracket, inside = text.partition("[")
    return [f"{stem}{number}" for number in tasks(inside.rstrip("]"))[0]] if bracket else [text]


def scontrol(store: Store, arguments: list[str]) -> str:
    """ping, show, requeue, requeuehold, hold and release."""
    words = [
        word for word in arguments if word not in ("-o", "--oneliner", "-d", "--details", "-Q", "--quiet")
    ]
    oneline = bool({"-o", "--oneliner"} & set(arguments))
    command, rest = (words or [""])[0].lower(), words[1:]
    if command == "ping":
        return f"Slurmctld(primary) at {os.uname().nodename} is UP\n"
    if command == "show" and rest:
        return show.scontrol_show(store, rest[0].lower().rstrip("s"), rest[1:], oneline)
    if command in ("requeue", "requeuehold", "hold", "release", "uhold"):
        return _change(store, command, [word for word in rest if not word.lower().startswith("state=")], rest)
    raise Stop(f"invalid keyword: {' '.join(words)}")


def _change(store: Store, command: str, ids: list[str], words: list[str]) -> str:
    with store.lock():
        for one in ",".join(ids).split(","):
            jobs = [job for job in store.jobs() if one in (identity(job), str(job["id"]), str(job["array"]))]
            if not jobs:
                raise Stop(f"Invalid job id specified for job {one}")
            for job in jobs:
                if command in ("hold", "uhold"):
                    store.save({**job, "held": "JobHeldUser", "reason": "JobHeldUser"})
                elif command == "release":
                    store.save({**job, "held": None, "stuck": False, "state": "PENDING", "reason": "None"})
                else:
                    _requeue(
                        store, job, command == "requeuehold", any("special" in word.lower() for word in words)
                    )
    store.wake()
    return ""


def _requeue(store: Store, job: Job, held: bool, special: bool) -> None:
    if job["state"] == "PENDING":
        raise Stop(f"Job is pending execution for job {identity(job)}")
    if not job["requeue"]:
        raise Stop(f"Requested operation is presently disabled for job {identity(job)}")
    why = "job requeued in held state" if held else None
    ending = {"state": "REQUEUED", "held": why, "shown": "SPECIAL_EXIT" if special else "PENDING"}
    if job["pid"] and job["state"] not in ENDED:
        bring_to_an_end(store, job, ending)
    else:
        requeue(store, job, why, "SPECIAL_EXIT" if special else "PENDING")
