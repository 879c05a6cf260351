"""sbatch."""

import getopt
import os
import signal
import sys
import time
from typing import Any

from fake_slurm.formats import expand, minutes, moment, tasks
from fake_slurm.store import Job, Stop, Store

FAILED = "sbatch: error: Batch job submission failed: "

# Long options with the letter that stands for each. Those with "=" take a value.
OPTIONS = {
    "account=": "A", "acctg-freq=": "", "array=": "a", "batch=": "", "bb=": "", "begin=": "b", "chdir=": "D",
    "cluster-constraint=": "", "clusters=": "M", "comment=": "", "constraint=": "C", "container=": "",
    "contiguous": "", "core-spec=": "S", "cores-per-socket=": "", "cpu-freq=": "", "cpus-per-gpu=": "",
    "cpus-per-task=": "c", "deadline=": "", "delay-boot=": "", "dependency=": "d", "distribution=": "m",
    "error=": "e", "exclude=": "x", "exclusive": "", "export=": "", "export-file=": "", "get-user-env": "",
    "gid=": "", "gpu-bind=": "", "gpu-freq=": "", "gpus=": "G", "gpus-per-node=": "", "gpus-per-socket=": "",
    "gpus-per-task=": "", "gres=": "", "gres-flags=": "", "hint=": "", "hold": "H", "ignore-pbs": "",
    "input=": "i", "job-name=": "J", "kill-on-invalid-dep=": "", "licenses=": "L", "mail-type=": "",
    "mail-user=": "", "mcs-label=": "", "mem=": "", "mem-bind=": "", "mem-per-cpu=": "", "mem-per-gpu=": "",
    "mincpus=": "", "network=": "", "nice=": "", "no-kill": "k", "no-requeue": "", "nodefile=": "F",
    "nodelist=": "w", "nodes=": "N", "ntasks=": "n", "ntasks-per-core=": "", "ntasks-per-gpu=": "",
    "ntasks-per-node=": "", "ntasks-per-socket=": "", "open-mode=": "", "output=": "o", "overcommit": "O",
    "oversubscribe": "s", "parsable": "", "partition=": "p", "power=": "", "prefer=": "", "priority=": "",
    "profile=": "", "propagate": "", "qos=": "q", "quiet": "Q", "reboot": "", "requeue": "",
    "reservation=": "", "signal=": "", "sockets-per-node=": "", "spread-job": "", "switches=": "",
    "test-only": "", "thread-spec=": "", "threads-per-core=": "", "time=": "t", "time-min=": "", "tmp=": "",
    "tres-per-task=": "", "uid=": "", "use-min-nodes": "", "verbose": "v", "wait": "W",
    "wait-all-nodes=": "", "wckey=": "", "wrap=": "",
}  # fmt: skip


def sbatch(store: Store, arguments: list[str]) -> str:
    """Queue the jobs of one call and have them started."""
    options, script, rest = request(arguments)
    settings = store.settings
    numbers, throttle = tasks(options["array"]) if "array" in options else ([None], 0)
    check(store, options, settings, numbers)
    name = options.get(
        "job-name", os.path.basename(rest[0]) if rest else "wrap" if "wrap" in options else "sbatch"
    )
    with store.lock():
        waiting = len(os.listdir(store.path("active")))
        if settings["max_submit"] is not None and waiting + len(numbers) > settings["max_submit"]:
            raise Stop(
                f"sbatch: error: AssocMaxSubmitJobLimit\n{FAILED}Job violates accounting/QOS policy "
                "(job submit limit, user's size and/or time limits)"
            )
        first = store.numbers(1)[0]
        path = store.path("scripts", str(first))
        with open(path, "w", encoding="utf-8") as file:
            file.write(script)
        os.chmod(path, 0o700)
        environment = f"scripts/{first}.json"
        store.write(environment, exported(options.get("export", "ALL")))
        array = "array" in options
        folder = os.path.join(os.getcwd(), options.get("chdir", ""))
        common: Job = {
            "id": first, "array": first if array else None, "tasks": len(numbers), "throttle": throttle,
            "name": name, "comment": options.get("comment"), "uid": os.getuid(),
            "account": options.get("account", "project"), "qos": options.get("qos", "normal"),
            "partition": options.get("partition", next(iter(settings["partitions"]))), "script": path,
            "arguments": rest[1:], "environment": environment, "options": options,
            "chdir": os.path.normpath(folder), "submitted_from": os.getcwd(),
            "output": options.get("output", "slurm-%A_%a.out" if array else "slurm-%j.out"),
            "error": options.get("error"), "append": options.get("open-mode") == "append",
            "cpus": int(options.get("cpus-per-task", 1)) * int(options.get("ntasks", 1)),
            "nodelist": options.get("nodelist"), "exclude": options.get("exclude"),
            "dependency": options.get("dependency"), "requeue": "no-requeue" not in options,
            "limit": minutes(options["time"]) if "time" in options else None,
            "warning": warning(options.get("signal")), "held": "JobHeldUser" if "hold" in options else None,
            "begin": moment(options["begin"], settings["minute"]) if "begin" in options else None,
            "state": "PENDING", "detail": "", "reason": "None", "node": "", "submit": time.time(),
            "start": None, "end": None, "exit": [0, 0], "steps": [], "restarts": 0, "pid": None,
            "ending": None, "history": [], "stuck": False, "hidden": [],
        }  # fmt: skip
        fate = store.fate(name)
        for index, task in enumerate(numbers):
            stuck = bool(fate.get("reason") or fate.get("state"))
            store.save({**common, "task": task, "key": f"{first:07}.{index:05}", "stuck": stuck, **fate})
    store.wake()
    return f"{first}\n" if "parsable" in options else f"Submitted batch job {first}\n"


def request(arguments: list[str]) -> tuple[dict[str, str], str, list[str]]:
    """Options, text of the script, and its name with its arguments. The command line wins over the script."""
    options, rest = parse(arguments)
    if "wrap" in options:
        return options, f"#!/bin/sh\n# This script was created by sbatch --wrap.\n\n{options['wrap']}\n", []
    if rest:
        try:
            with open(rest[0], encoding="utf-8") as file:
                script = file.read()
        except OSError:
            raise Stop(f"sbatch: error: Unable to open file {rest[0]}") from None
    else:
        script = sys.stdin.read()
    if not script:
        raise Stop("sbatch: error: Batch script is empty!")
    if not script.startswith("#!"):
        raise Stop(
            "sbatch: error: This does not look like a batch script.  The first\n"
            "sbatch: error: line must start with #! followed by the path to an interpreter.\n"
            "sbatch: error: For instance: #!/bin/sh"
        )
    words: list[str] = []
    for line in script.splitlines():
        if line.startswith("#SBATCH"):
            import shlex

            words += shlex.split(line.removeprefix("#SBATCH"), comments=True)
        elif line.strip() and not line.startswith("#"):
            break
    return {**parse(words)[0], **options}, script, rest


def parse(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    letters = "".join(
        letter + (":" if name.endswith("=") else "") for name, letter in OPTIONS.items() if letter
    )
    # Values that may be left out are taken by "=" only, which getopt does not know.
    optional = {"exclusive", "get-user-env", "propagate", "requeue", "no-kill"}
    plain = [
        word.partition("=")[0] if word.partition("=")[0].removeprefix("--") in optional else word
        for word in arguments
    ]
    try:
        found, rest = getopt.getopt(plain, letters, list(OPTIONS))
    except getopt.GetoptError as error:
        message = f"sbatch: unrecognized option '--{error.opt}'"
        if "argument" in error.msg:
            message = f"sbatch: option '--{error.opt}' requires an argument"
        raise Stop(f'{message}\nTry "sbatch --help" for more information', 255) from None
    long = {letter: name.rstrip("=") for name, letter in OPTIONS.items() if letter}
    return {name[2:] if name.startswith("--") else long[name[1:]]: value for name, value in found}, rest


def check(store: Store, options: dict[str, str], settings: dict[str, Any], numbers: list[Any]) -> None:
    """Refuse what SLURM would refuse at once."""
    for partition in options.get("partition", "").split(","):
        if partition and partition not in settings["partitions"]:
            said = f"sbatch: error: invalid partition specified: {partition}\n"
            raise Stop(f"{said}{FAILED}Invalid partition name specified")
    if numbers[0] is not None and max(numbers) >= settings["max_array"]:
        raise Stop(f"{FAILED}Invalid job array specification")
    unknown = {*expand(options.get("nodelist")), *expand(options.get("exclude"))} - set(settings["nodes"])
    if unknown:
        raise Stop(f"{FAILED}Invalid node name specified")
    if int(options.get("cpus-per-task", 1)) > settings["cpus"] or not set(settings["nodes"]) - set(
        expand(options.get("exclude"))
    ):
        raise Stop(f"{FAILED}Requested node configuration is not available")
    for name, read in (("time", minutes), ("cpus-per-task", int), ("ntasks", int), ("signal", warning)):
        try:
            read(options.get(name, "1"))
        except (ValueError, KeyError):
            raise Stop(f"sbatch: error: Invalid --{name} specification", 255) from None


def warning(text: str | None) -> tuple[int, int, bool] | None:
    """Signal, s ahead of the limit, and whether only the batch shell gets it, of "B:USR1@60"."""
    if text is None:
        return None
    batch, _, rest = text.rpartition(":")
    name, _, ahead = rest.partition("@")
    number = int(name) if name.isdigit() else int(signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"])
    return number, int(ahead or 60), "B" in batch


def exported(export: str) -> dict[str, str]:
    """The environment that goes along: ALL, NONE, and names with or without values."""
    own = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "FAKE_SLURM_"))
    }
    words = export.split(",")
    found: dict[str, str] = (
        dict(own)
        if "ALL" in words
        else {name: own[name] for name in ("HOME", "PATH", "SHELL", "USER") if name in own}
    )
    for word in words:
        name, given, value = word.partition("=")
        if given:
            found[name] = value
        elif name in own:
            found[name] = own[name]
    return found
