"""What SLURM tells: squeue, sacct, sinfo and scontrol show."""

import getopt
import os
import pwd
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from fake_slurm.formats import compact, expand, length, moment, stamp
from fake_slurm.jobs import NO_OUTPUT, identity, log_path
from fake_slurm.store import ENDED, Job, Stop, Store

CODES = {
    "BOOT_FAIL": "BF", "CANCELLED": "CA", "COMPLETED": "CD", "COMPLETING": "CG", "CONFIGURING": "CF",
    "DEADLINE": "DL", "FAILED": "F", "NODE_FAIL": "NF", "OUT_OF_MEMORY": "OOM", "PENDING": "PD",
    "PREEMPTED": "PR", "REQUEUED": "RQ", "REQUEUE_FED": "RF", "REQUEUE_HOLD": "RH", "RESIZING": "RS",
    "RESV_DEL_HOLD": "RD", "REVOKED": "RV", "RUNNING": "R", "SIGNALING": "SI", "SPECIAL_EXIT": "SE",
    "STAGE_OUT": "SO", "STOPPED": "ST", "SUSPENDED": "S", "TIMEOUT": "TO",
}  # fmt: skip
STATES = {code: state for state, code in CODES.items()}


def states(text: str) -> set[str]:
    """States of a list of names and codes."""
    if text.lower() == "all":
        return set(CODES)
    found = {STATES.get(word, word) for word in text.upper().split(",")}
    if unknown := found - set(CODES):
        raise Stop(f"squeue: error: Invalid job state specified: {min(unknown)}")
    return found


def user(job: Job) -> str:
    try:
        return pwd.getpwuid(job["uid"]).pw_name
    except KeyError:
        return str(job["uid"])


def shown(job: Job) -> str:
    """A job that is being ended is COMPLETING to squeue."""
    return "COMPLETING" if job["ending"] else job["state"]


def _elapsed(job: Job) -> float:
    return 0 if job["start"] is None else (job["end"] or time.time()) - job["start"]


def _reason_or_nodes(job: Job) -> str:
    if job["state"] in ("PENDING", "SPECIAL_EXIT", "REQUEUE_HOLD") or job["state"] in ENDED - {
        "COMPLETED",
        "CANCELLED",
    }:
        return f"({job['reason']})"
    return job["node"]


def _limit(job: Job) -> str:
    return "UNLIMITED" if job["limit"] is None else length(job["limit"] * 60)


def _end(job: Job) -> str:
    if job["end"] is not None:
        return stamp(job["end"], "N/A")
    if job["start"] is None and not job["begin"]:
        return "N/A"
    if job["start"] is None or job["limit"] is None:
        return "NONE"
    return stamp(job["start"] + job["limit"] * 60, "N/A")


# What each field of squeue shows, by its letter and by its name.
FIELDS: dict[str, tuple[str, Callable[[Job], Any]]] = {
    "a": ("account", lambda job: job["account"]),
    "A": ("jobid", lambda job: job["id"]),
    "B": ("batchhost", lambda job: job["node"] or "n/a"),
    "C": ("numcpus", lambda job: job["cpus"]),
    "D": ("numnodes", lambda job: 1),
    "e": ("endtime", _end),
    "E": ("dependency", lambda job: job["dependency"] or "(null)"),
    "f": ("feature", lambda job: job["options"].get("constraint", "(null)")),
    "F": ("arrayjobid", lambda job: job["id"] if job["array"] is None else job["array"]),
    "i": ("jobarrayid", identity),
    "j": ("name", lambda job: job["name"]),
    "k": ("comment", lambda job: job["comment"] or "(null)"),
    "K": ("arraytaskid", lambda job: "N/A" if job["array"] is None else job["task"]),
    "l": ("timelimit", _limit),
    "L": (
        "timeleft",
        lambda job: "UNLIMITED" if job["limit"] is None else length(job["limit"] * 60 - _elapsed(job)),
    ),
    "M": ("timeused", lambda job: length(_elapsed(job))),
    "n": ("reqnodes", lambda job: job["nodelist"] or ""),
    "N": ("nodelist", lambda job: job["node"]),
    "o": ("command", lambda job: "(null)" if "wrap" in job["options"] else job["script"]),
    "P": ("partition", lambda job: job["partition"]),
    "q": ("qos", lambda job: job["qos"]),
    "r": ("reason", lambda job: job["reason"]),
    "R": ("reasonlist", _reason_or_nodes),
    "S": ("starttime", lambda job: stamp(job["start"], stamp(job["begin"], "N/A"))),
    "t": ("statecompact", lambda job: CODES[shown(job)]),
    "T": ("state", shown),
    "u": ("username", user),
    "U": ("userid", lambda job: job["uid"]),
    "V": ("submittime", lambda job: stamp(job["submit"], "N/A")),
    "x": ("excnodes", lambda job: job["exclude"] or ""),
    "Z": ("workdir", lambda job: job["chdir"]),
}
NAMED = dict(FIELDS.values()) | {
    "exit_code": lambda job: 4021 if job["exit"][1] == NO_OUTPUT else job["exit"][0] * 256 + job["exit"][1],
    "restartcnt": lambda job: job["restarts"],
    "stdout": lambda job: log_path(job, job["output"]),
    "stderr": lambda job: log_path(job, job["error"] or job["output"]),
}
HEADERS = {
    "i": "JOBID",
    "j": "NAME",
    "T": "STATE",
    "t": "ST",
    "r": "REASON",
    "R": "NODELIST(REASON)",
    "u": "USER",
}
HEADERS |= {"P": "PARTITION", "M": "TIME", "D": "NODES", "N": "NODELIST", "k": "COMMENT", "A": "JOBID"}


class Field(NamedTuple):
    """One field of a line, or the text between two if there is nothing to show."""

    name: str
    show: Callable[[Job], Any] | None = None
    width: int = 0
    right: bool = False
    suffix: str = ""


def squeue(store: Store, arguments: list[str]) -> str:
    """Jobs that have not ended, and those that ended lately if their states are asked for."""
    names = [
        "noheader",
        "array",
        "me",
        "user=",
        "format=",
        "Format=",
        "jobs=",
        "name=",
        "states=",
        "partition=",
    ]
    names += ["account=", "sort=", "local", "all", "noconvert", "clusters="]
    try:
        found, _ = getopt.gnu_getopt(arguments, "hru:o:O:j:n:t:p:A:S:aM:", names)
    except getopt.GetoptError as error:
        raise Stop(
            f"squeue: unrecognized option '--{error.opt}'\nTry \"squeue --help\" for more information"
        ) from None
    letters = {
        "noheader": "h",
        "array": "r",
        "user": "u",
        "format": "o",
        "Format": "O",
        "jobs": "j",
        "name": "n",
    }
    letters |= {"states": "t", "partition": "p"}
    options = {letters.get(name.lstrip("-"), name.lstrip("-")): value for name, value in found}
    jobs = [job for job in _listed(store, options) if "squeue" not in job["hidden"]]
    if "r" not in options:
        jobs = _together(jobs)
    usual = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
    fields = list(_long_fields(options["O"]) if "O" in options else _fields(options.get("o", usual)))
    lines = [] if "h" in options else [_line(fields, lambda name, _: HEADERS.get(name, name.upper()))]
    for job in jobs:
        lines.append(_line(fields, partial(_value, job)))
    return "".join(f"{line}\n" for line in lines)


def _value(job: Job, name: str, show: Callable[[Job], Any]) -> str:
    return str(job.get("instead", {}).get(name) or show(job))


def _line(fields: list[Field], value: Callable[[str, Callable[[Job], Any]], str]) -> str:
    return "".join(
        field.name
        if field.show is None
        else _cut(value(field.name, field.show), field.width, field.right) + field.suffix
        for field in fields
    )


def _listed(store: Store, options: dict[str, str]) -> list[Job]:
    wanted = states(options["t"]) if "t" in options else None
    recent = time.time() - store.settings["remembers"]
    jobs = store.jobs(active=wanted is None or not wanted & ENDED)
    jobs = [job for job in jobs if job["state"] not in ENDED or (job["end"] or 0) > recent]
    if "j" in options:
        ids = options["j"].split(",")
        for one in ids:
            if not one.replace("_", "").isdigit():
                raise Stop(f"squeue: error: Invalid job id: {one}")
        known = [job for job in store.jobs() if {identity(job), str(job["id"]), str(job["array"])} & set(ids)]
        if len(ids) == 1 and not [job for job in known if job["state"] not in ENDED or job["end"] > recent]:
            raise Stop("slurm_load_jobs error: Invalid job id specified")
        keys = {job["key"] for job in known}
        jobs = [job for job in jobs if job["key"] in keys]
    if wanted is not None:
        jobs = [job for job in jobs if shown(job) in wanted]
    if "n" in options:
        jobs = [job for job in jobs if job["name"] in options["n"].split(",")]
    if "p" in options:
        jobs = [job for job in jobs if job["partition"] in options["p"].split(",")]
    users = (
        {str(os.getuid())} if "me" in options else set(options["u"].split(",")) if "u" in options else None
    )
    if users is not None:
        for name in users:
            if not name.isdigit() and name not in {entry.pw_name for entry in pwd.getpwall()}:
                raise Stop(f"squeue: error: Invalid user: {name}")
        jobs = [job for job in jobs if users & {str(job["uid"]), user(job)}]
    return jobs


def _together(jobs: list[Job]) -> list[Job]:
    """Pending tasks of an array that wait for the same thing as one line: 93_[2-5%2]."""
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        pending = job["array"] is not None and job["state"] == "PENDING" and not job["restarts"]
        groups.setdefault((job["array"], job["reason"]) if pending else (job["key"],), []).append(job)
    lines = []
    for group in groups.values():
        job = group[0]
        if job["array"] is not None and job["state"] == "PENDING" and not job["restarts"]:
            spec = compact([one["task"] for one in group]) + (
                f"%{job['throttle']}" if job["throttle"] else ""
            )
            job = {**job, "instead": {"i": f"{job['array']}_[{spec}]", "K": spec}}
            job["instead"]["jobarrayid"], job["instead"]["arraytaskid"] = job["instead"]["i"], spec
        lines.append(job)
    return lines


def _fields(form: str) -> Iterable[Field]:
    """The fields of `-o`: "%.18i|%j" and the text between."""
    text, rest = "", form
    while rest:
        plain, mark, rest = rest.partition("%")
        text += plain
        if not mark:
            break
        right = rest.startswith(".")
        rest = rest.removeprefix(".")
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        letter, rest = rest[len(digits) : len(digits) + 1], rest[len(digits) + 1 :]
        if letter not in FIELDS:
            raise Stop(f"squeue: this fake does not know %{letter}", 2)
        yield Field(text)
        text = ""
        yield Field(letter, FIELDS[letter][1], int(digits or 0), right)
    yield Field(text)


def _long_fields(form: str) -> Iterable[Field]:
    """The fields of `-O`: "JobID:.20|,Name:40,State"."""
    for part in form.split(","):
        name, colon, size = part.partition(":")
        if name.lower() not in NAMED:
            raise Stop(f"squeue: this fake does not know {name}", 2)
        right = size.startswith(".")
        size = size.removeprefix(".")
        digits = size[: len(size) - len(size.lstrip("0123456789"))]
        width = int(digits) if digits else 0 if colon else 20
        yield Field(name.lower(), NAMED[name.lower()], width, right, size[len(digits) :])


def _cut(text: str, width: int, right: bool) -> str:
    if not width:
        return text
    return text[:width].rjust(width) if right else text[:width].ljust(width)


# --- accounting ---

ACCOUNTED: dict[str, Callable[[Job], Any]] = {
    "account": lambda job: job["account"],
    "alloccpus": lambda job: job["cpus"] if job["start"] else 0,
    "cluster": lambda job: "fake",
    "comment": lambda job: job["comment"] or "",
    "derivedexitcode": lambda job: "0:0",
    "elapsed": lambda job: length(_elapsed(job), padded=True),
    "elapsedraw": lambda job: int(_elapsed(job)),
    "end": lambda job: stamp(job["end"], "Unknown"),
    "exitcode": lambda job: (
        f"{job['exit'][0] - 128 if job['exit'][0] > 128 else job['exit'][0]}:{job['exit'][1]}"
    ),
    "jobid": lambda job: job.get("listed", identity(job)),
    "jobidraw": lambda job: job["id"],
    "jobname": lambda job: job["name"],
    "ncpus": lambda job: job["cpus"],
    "nodelist": lambda job: job["node"] or "None assigned",
    "partition": lambda job: job["partition"],
    "qos": lambda job: job["qos"],
    # Why it once waited, if it did; never why it ended.
    "reason": lambda job: job["reason"] if job["state"] == "PENDING" else "None",
    "start": lambda job: stamp(job["start"], "Unknown" if job["end"] is None else "None"),
    "state": lambda job: f"{job['state']} {job['detail']}".strip(),
    "submit": lambda job: stamp(job["submit"], "Unknown"),
    "timelimit": lambda job: "UNLIMITED" if job["limit"] is None else length(job["limit"] * 60, padded=True),
    "user": user,
    "workdir": lambda job: job["chdir"],
}
_TITLES = """Account AllocCPUS Cluster Comment DerivedExitCode Elapsed ElapsedRaw End ExitCode JobID
JobIDRaw JobName NCPUS NodeList Partition QOS Reason Start State Submit Timelimit User WorkDir"""
TITLES = {title.lower(): title for title in _TITLES.split()}
OF_STEPS = {
    "state",
    "exitcode",
    "jobid",
    "jobidraw",
    "jobname",
    "nodelist",
    "submit",
    "start",
    "end",
    "account",
    "ncpus",
}
OF_STEPS |= {"alloccpus", "elapsed", "elapsedraw", "cluster"}


def sacct(store: Store, arguments: list[str]) -> str:
    """What the database knows: all jobs ever, and with -D the earlier instances of requeued ones."""
    if not store.settings["accounting"]:
        raise Stop("Slurm accounting storage is disabled")
    names = [
        "allocations",
        "noheader",
        "parsable",
        "parsable2",
        "format=",
        "duplicates",
        "starttime=",
        "endtime=",
        "user=",
    ]
    names += [
        "uid=",
        "name=",
        "jobs=",
        "allusers",
        "state=",
        "delimiter=",
        "noconvert",
        "truncate",
        "allclusters",
    ]
    try:
        found, _ = getopt.gnu_getopt(arguments, "XnpPo:DS:E:u:j:as:TL", names)
    except getopt.GetoptError as error:
        raise Stop(f"sacct: unrecognized option '--{error.opt}'") from None
    letters = {
        "allocations": "X",
        "noheader": "n",
        "parsable": "p",
        "parsable2": "P",
        "format": "o",
        "duplicates": "D",
    }
    letters |= {
        "starttime": "S",
        "endtime": "E",
        "user": "u",
        "uid": "u",
        "jobs": "j",
        "allusers": "a",
        "state": "s",
    }
    options = {letters.get(name.lstrip("-"), name.lstrip("-")): value for name, value in found}
    form = options.get("o", "jobid,jobname,partition,account,alloccpus,state,exitcode")
    fields = [(name.lower(), width) for name, _, width in (field.partition("%") for field in form.split(","))]
    for name, _ in fields:
        if name not in ACCOUNTED:
            raise Stop(f'sacct: error: Invalid field requested: "{name}"')
    lines = [] if "n" in options else [[TITLES[name] for name, _ in fields]]
    for job in _accounted(store, options):
        lines.append([str(ACCOUNTED[name](job)) for name, _ in fields])
        for number, step in enumerate([] if "X" in options else _steps(job)):
            lines.append([str(_of_step(job, step, name, number)) for name, _ in fields])
    if "P" in options or "p" in options:
        mark = options.get("delimiter", "|")
        return "".join(mark.join(line) + (mark if "p" in options else "") + "\n" for line in lines)
    if "n" not in options:
        lines.insert(1, ["-" * len(_column("", *field)) for field in fields])
    rows = ([_column(text, *field) for text, field in zip(line, fields, strict=True)] for line in lines)
    return "".join(" ".join(row) + " \n" for row in rows)


def _column(text: str, name: str, width: str) -> str:
    """Cut to its width, with a + where something is missing; -width is left-aligned."""
    size = (
        abs(int(width))
        if width
        else {"jobid": 12, "jobidraw": 12, "exitcode": 8, "elapsed": 10, "submit": 19}.get(name, 10)
    )
    text = text if len(text) <= size else f"{text[: size - 1]}+"
    return text.ljust(size) if name == "jobid" or width.startswith("-") else text.rjust(size)


def _accounted(store: Store, options: dict[str, str]) -> list[Job]:
    since = moment(options.get("S", "now-10weeks" if "j" in options else "today"))
    until = moment(options["E"]) if "E" in options else None
    listed: list[Job] = []
    waiting: dict[int, list[Job]] = {}
    for job in store.jobs():
        if "sacct" in job["hidden"] or not _chosen(job, options):
            continue
        past = [{**job, **instance, "ending": None} for instance in job["history"]]
        present = {**job, **_ahead(job)}
        # What may not start yet is no matter of accounting; of what did start once, only its id finds it.
        early = job["start"] is None and (job["held"] or (job["begin"] and job["begin"] > time.time()))
        instances = past if early and not (past and "j" in options and job["end"]) else [*past, present]
        for instance in instances if "D" in options else instances[-1:]:
            if (instance["end"] or time.time()) + 1 < since or (until and instance["submit"] > until):
                continue
            if instance["array"] is not None and instance["start"] is None and not instance["restarts"]:
                waiting.setdefault(instance["array"], []).append(instance)
            else:
                listed.append(instance)
    started = {job["array"] for job in listed}
    for array, group in waiting.items():
        if group[0]["state"] == "CANCELLED" and array in started:  # nothing is kept of them
            continue
        spec = compact([job["task"] for job in group]) + (
            f"%{group[0]['throttle']}" if group[0]["throttle"] else ""
        )
        listed.append({**group[0], "listed": f"{array}_[{spec}]"})
    if "s" in options:
        listed = [job for job in listed if job["state"] in states(options["s"])]
    return listed


def _ahead(job: Job) -> Job:
    """The database has the end of a job that is being ended already."""
    ending = job["ending"]
    if not ending or ending["state"] == "REQUEUED":
        return {}
    return {"state": ending["state"], "detail": ending.get("detail", "")}


def _chosen(job: Job, options: dict[str, str]) -> bool:
    if "j" in options and not {identity(job), str(job["id"]), str(job["array"])} & set(
        options["j"].split(",")
    ):
        return False
    if "name" in options and job["name"] not in options["name"].split(","):
        return False
    if "u" in options:
        return bool({str(job["uid"]), user(job)} & set(options["u"].split(",")))
    return "a" in options or "j" in options or job["uid"] == os.getuid()


def _steps(job: Job) -> list[list]:
    if job["start"] is None:
        return []
    if job["state"] in ENDED or job["steps"]:
        return (
            job["steps"]
            if any(step[0] == "batch" for step in job["steps"])
            else [["batch", "RUNNING", 0, 0], *job["steps"]]
        )
    return [["batch", "SUSPENDED" if job["state"] == "SUSPENDED" else "RUNNING", 0, 0]]


def _of_step(job: Job, step: list, field: str, number: int) -> Any:
    name, state, code, signal = step
    if field not in OF_STEPS:
        return ""
    if field in ("jobid", "jobidraw"):
        return f"{ACCOUNTED[field](job)}.{name}"
    own = {"jobname": name if name in ("batch", "extern") else "python3", "state": state}
    own |= {
        "exitcode": f"{code - 128 if code > 128 else code}:{signal}",
        "submit": stamp(job["start"], "Unknown"),
    }
    return own[field] if field in own else ACCOUNTED[field](job)


# --- scontrol show, sinfo ---

PARTITION = (
    "PartitionName={name} AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default={default} "
    "QoS=N/A DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO "
    "MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes={nodes} "
    "PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE "
    "PreemptMode=OFF State=UP TotalCPUs={cpus} TotalNodes={count} SelectTypeParameters=NONE "
    "JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED "
    "TRES=cpu={cpus},mem={memory}M,node={count},billing={cpus}"
)


def scontrol_show(store: Store, what: str, names: list[str], oneline: bool) -> str:
    """job, config, partition and node."""
    settings = store.settings
    if what == "job":
        return _show_jobs(store, names, oneline)
    if what == "config":
        kind = "slurmdbd" if settings["accounting"] else "none"
        values: dict[str, Any] = {
            "AccountingStorageType": f"accounting_storage/{kind}",
            "ClusterName": "fake",
            "EnforcePartLimits": "NO",
        }
        values |= {
            "MaxArraySize": settings["max_array"],
            "MaxJobCount": 10000,
            "MinJobAge": f"{settings['remembers']} sec",
        }
        values["SLURM_VERSION"] = "22.05.8"
        head = f"Configuration data as of {stamp(time.time(), '')}\n"
        tail = f"\nSlurmctld(primary) at {os.uname().nodename} is UP\n"
        return head + "".join(f"{name:<23} = {value}\n" for name, value in values.items()) + tail
    if what == "partition":
        if names and names[0] not in settings["partitions"]:
            raise Stop(f"Partition {names[0]} not found")
        return "".join(_partition(settings, name) for name in names or settings["partitions"])
    if what == "node":
        return "".join(
            f"NodeName={name} Arch=x86_64 CoresPerSocket={settings['cpus']} CPUTot={settings['cpus']} "
            f"RealMemory=4000 State={'DOWN' if name in settings['down'] else 'IDLE'} "
            f"Partitions={','.join(settings['partitions'])}\n"
            for name in names or settings["nodes"]
        )
    raise Stop(f"invalid entity:{what} for keyword:show")


def _partition(settings: dict[str, Any], name: str) -> str:
    own = settings["partitions"][name]
    nodes = expand(own.get("Nodes")) or settings["nodes"]
    cpus = settings["cpus"] * len(nodes)
    text = PARTITION.format(
        name=name,
        default="YES" if name == next(iter(settings["partitions"])) else "NO",
        nodes=own.get("Nodes", ",".join(nodes)),
        cpus=cpus,
        count=len(nodes),
        memory=4000 * len(nodes),
    )
    words = [word.partition("=") for word in text.split(" ")]
    return " ".join(f"{key}={own.get(key, value)}" for key, _, value in words) + "\n"


def _show_jobs(store: Store, names: list[str], oneline: bool) -> str:
    recent = time.time() - store.settings["remembers"]
    jobs = [job for job in store.jobs() if job["state"] not in ENDED or job["end"] > recent]
    if names:
        jobs = [job for job in jobs if names[0] in (identity(job), str(job["id"]), str(job["array"]))]
        if not jobs:
            raise Stop("slurm_load_jobs error: Invalid job id specified")
    text = ""
    for job in _together(jobs):
        array = ""
        if job["array"] is not None:
            array = f"ArrayJobId={job['array']} ArrayTaskId={job.get('instead', {}).get('K', job['task'])} "
            array += f"ArrayTaskThrottle={job['throttle']} " if job["throttle"] else ""
        name = f"{user(job)}({job['uid']})"
        lines = [
            f"JobId={job['id']} {array}JobName={job['name']}",
            f"UserId={name} GroupId={name} MCS_label=N/A",
            f"Priority=4294901758 Nice=0 Account={job['account']} QOS={job['qos']}",
            f"JobState={shown(job)} Reason={job['reason'].replace(' ', '_')} "
            f"Dependency={job['dependency'] or '(null)'}",
            f"Requeue={int(job['requeue'])} Restarts={job['restarts']} BatchFlag=1 Reboot=0 "
            f"ExitCode={job['exit'][0]}:{job['exit'][1]}",
            f"RunTime={length(_elapsed(job), padded=True)} TimeLimit={_limit(job)} TimeMin=N/A",
            f"SubmitTime={stamp(job['submit'], '')} EligibleTime={stamp(job['begin'] or job['submit'], '')}",
            f"StartTime={stamp(job['start'], 'Unknown')} EndTime={stamp(job['end'], 'Unknown')} Deadline=N/A",
            f"Partition={job['partition']} AllocNode:Sid=localhost:1",
            f"ReqNodeList={job['nodelist'] or '(null)'} ExcNodeList={job['exclude'] or '(null)'}",
            f"NodeList={job['node']}" + (f"\n   BatchHost={job['node']}" if job["node"] else ""),
            f"NumNodes=1 NumCPUs={job['cpus']} NumTasks=1 CPUs/Task=1 ReqB:S:C:T=0:0:*:*",
            f"Command={'(null)' if 'wrap' in job['options'] else job['script']}",
            f"WorkDir={job['chdir']}",
            *([f"Comment={job['comment']} "] if job["comment"] else []),
            f"StdErr={log_path(job, job['error'] or job['output'])}",
            "StdIn=/dev/null",
            f"StdOut={log_path(job, job['output'])}",
        ]
        text += (" ".join(lines).replace("\n  ", "") + "\n") if oneline else ("\n   ".join(lines) + "\n\n")
    return text


def sinfo(store: Store, arguments: list[str]) -> str:
    """Partitions and their nodes, one line for each partition, or with -N for each node of it."""
    try:
        found, _ = getopt.gnu_getopt(arguments, "hNo:p:n:t:", ["noheader", "Node", "format=", "partition="])
    except getopt.GetoptError as error:
        raise Stop(f"sinfo: unrecognized option '--{error.opt}'") from None
    letters = {"noheader": "h", "Node": "N", "format": "o", "partition": "p"}
    options = {letters.get(name.lstrip("-"), name.lstrip("-")): value for name, value in found}
    form = options.get("o", "%P %a %l %D %t %N")
    settings = store.settings
    busy = {job["node"] for job in store.jobs(active=True) if job["pid"]}
    header = {
        "P": "PARTITION",
        "a": "AVAIL",
        "l": "TIMELIMIT",
        "D": "NODES",
        "t": "STATE",
        "T": "STATE",
        "N": "NODELIST",
    }
    rows = [] if "h" in options else [header]
    for index, (name, own) in enumerate(settings["partitions"].items()):
        if name not in options.get("p", name).split(","):
            continue
        groups: dict[str, list[str]] = {}
        for node in expand(own.get("Nodes")) or settings["nodes"]:
            state = "down" if node in settings["down"] else "mix" if node in busy else "idle"
            groups.setdefault(node if "N" in options else state, []).append(node)
        for nodes in groups.values():
            state = "down" if nodes[0] in settings["down"] else "mix" if nodes[0] in busy else "idle"
            limit = own.get("MaxTime", "infinite").lower()
            row = {"P": name + ("" if index else "*"), "a": own.get("State", "UP").lower(), "l": limit}
            rows.append({**row, "D": str(len(nodes)), "t": state, "T": state, "N": ",".join(nodes)})
    text = ""
    for row in rows:
        line = form
        for letter, value in row.items():
            line = line.replace(f"%{letter}", value)
        text += f"{line}\n"
    return text
