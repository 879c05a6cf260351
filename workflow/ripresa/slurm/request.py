"""What a unit asks of SLURM: its Snakemake resources as options of sbatch.

The names are those of Snakemake's own SLURM executor, so that rules need no second set of resources.
"""

import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping

_NAME = re.compile(r"[\w.+@=-]+")
_WORD = re.compile(r"[\w.+@=&|\[\](){}*:,!?<>/%-]+")
_GRES = re.compile(
    r"([A-Za-z_][\w.-]*)(?::([A-Za-z_][\w.-]*|\d+\w*[A-Za-z_][\w.-]*))??(?::(\d+[KMGTPkmgtp]?))?"
)
_SIGNAL = re.compile(r"(?:B:)?(?:SIG)?(USR[12])@(\d{1,5})")
_MAX_WARNING = 65_535  # what SLURM can keep

_OWN = {
    "partition": ("p", "slurm_partition"),
    "account": ("A", "slurm_account"),
    "qos": ("q", "qos"),
    "clusters": ("M", "clusters"),
    "constraint": ("C", "constraint"),
    "nodes": ("N", "nodes"),
    "ntasks": ("n", "tasks"),
    "cpus-per-task": ("c", "cpus_per_task"),
    "mem": ("", "mem_mb"),
    "mem-per-cpu": ("", "mem_mb_per_cpu"),
    "gpus": ("G", "gpu"),
    "gres": ("", "gres"),
    "time": ("t", "runtime"),
    "exclusive": ("", "exclusive"),
    "signal": ("", "slurm_signal"),
    "exclude": ("x", "slurm_extra"),
    "nodelist": ("w", "slurm_extra"),
}
"""Options in the order in which they are given, with their short name and the resource that says them."""

RESOURCES = {resource for _, resource in _OWN.values()} | {"gpus", "gpu_model"}
"""The resources that become options."""

_RESERVED = {
    "array": "a",
    "chdir": "D",
    "comment": "",
    "error": "e",
    "export": "",
    "export-file": "",
    "help": "h",
    "job-name": "J",
    "no-requeue": "",
    "open-mode": "",
    "output": "o",
    "parsable": "",
    "quiet": "Q",
    "requeue": "",
    "test-only": "",
    "usage": "",
    "verbose": "v",
    "version": "V",
    "wait": "W",
    "wrap": "",
}
"""Options by which a job is found again, or that change what sbatch prints or when it returns."""

_FLAGS = {"contiguous", "exclusive", "hold", "no-kill", "overcommit", "oversubscribe", "reboot", "spread-job"}
_FLAGS |= {"use-min-nodes", "nice", "propagate", "get-user-env", "ignore-pbs"}
_SHORT_FLAGS = {"H", "k", "O", "s"}
"""Options whose value, if any, stands behind a `=` only."""

_EXCLUDING = (("mem", "mem-per-cpu", "mem-per-gpu"), ("gpus", "gpus-per-node", "gpus-per-task"))
_LONG = {short: name for name, (short, _) in _OWN.items() if short}
_LONG |= {short: name for name, short in _RESERVED.items() if short}


def options(resources: Mapping[str, object], *, threads: int) -> list[str]:
    """The options of sbatch that ask for these Snakemake resources, e.g. ``["--mem=4000", "--time=60"]``.

    Each has the form ``--name=value`` or ``--name``, in an order of its own, so that equal requests give
    equal lists; what stands in ``slurm_extra`` and is none of these comes last, as it is. None and empty
    text are as good as absent; unknown resources are nothing to SLURM.

    - ``slurm_partition``, ``clusters``: a name, or several with commas; ``slurm_account``, ``qos``: a name;
      ``constraint``: an expression of features.
    - ``mem_mb`` or ``mem_mb_per_cpu`` in MB (0: as if absent); ``runtime`` in min (SLURM counts whole ones:
      rounded up); ``nodes``, ``tasks``, ``cpus_per_task`` (default ``threads``): whole numbers.
    - ``gpu`` or ``gpus``: how many in all, with ``gpu_model`` of which type; or ``gres``: per node,
      ``name[:type][:count]``, or several with commas.
    - ``exclusive``: true, ``user`` or ``mcs``; ``slurm_signal``: ``USR1@SECONDS`` before the end;
      ``slurm_extra``: further options.

    Raises ValueError with the resource, its value and what is allowed.
    """
    given = {name: value for name, value in resources.items() if value is not None and value != ""}
    for name in ("mem_mb", "mem_mb_per_cpu"):
        # To Snakemake's own executor 0 is none, which takes back a default. To sbatch it were all there is.
        if given.get(name) == 0 and given[name] is not False:
            del given[name]
    own: dict[str, str | None] = {}
    for option, resource, read in _READERS:
        if resource in given:
            own[option] = read(resource, given[resource])
    own.setdefault("cpus-per-task", _number("threads", threads))
    own |= _devices(given)
    if given.get("exclusive", False) is not False and given["exclusive"] != 0:
        own["exclusive"] = _exclusive("exclusive", given["exclusive"])
    if "mem" in own and "mem-per-cpu" in own:
        raise _wrong(
            "mem_mb_per_cpu", given["mem_mb_per_cpu"], "either this or mem_mb, not both (mem_mb = 0 is none)"
        )
    extra = _extra(given["slurm_extra"], own) if "slurm_extra" in given else []
    if "gpus" in own and own.keys().isdisjoint(("nodes", "ntasks")):
        # One process: devices that SLURM gathered from several nodes would be out of its reach.
        own["nodes"] = "1"
    return [_written(name, own[name]) for name in _OWN if name in own] + extra


def parsed(request: Iterable[str]) -> dict[str, str]:
    """The options of such a list by name, flags with the value ""; those in short form are left out."""
    pairs = (word[2:].partition("=") for word in request if word.startswith("--"))
    return {name: value for name, _, value in pairs}


def amounts(resources: Mapping[str, object], *, threads: int) -> tuple[int, int]:
    """How many CPUs and GPUs are asked for in all; ``threads`` and none where SLURM would refuse that."""
    try:
        asked = parsed(options(resources, threads=threads))
        cpus = int(asked["cpus-per-task"]) * int(asked.get("ntasks", 1))
        if "gpus" in asked:
            return cpus, int(asked["gpus"].rpartition(":")[2])
        each = [part.split(":") for part in asked.get("gres", "").split(",")]
        on_one = sum(int(words[-1]) for words in each if words[0] == "gpu")
        return cpus, on_one * int(asked.get("nodes", 1))
    except ValueError:
        return threads, 0


def minutes(text: str) -> float:
    """A time limit as SLURM writes it, in min: ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M``, ``D-H:M:S``.

    ``UNLIMITED``, ``INFINITE`` and (as `sbatch` has it) 0 are infinite. Raises ValueError for anything else.
    """
    if text.upper() in {"UNLIMITED", "INFINITE", "-1"}:
        return math.inf
    days, dash, clock = text.rpartition("-")
    words = clock.split(":")
    if len(words) > 3 or not all(word.isdecimal() for word in (*words, *([days] if dash else []))):
        raise ValueError(f"{text!r} is no time limit; write minutes, H:M:S or D-H:M:S")
    parts = [int(word) for word in words]
    if dash:
        hours, mins, seconds = (*parts, 0, 0)[:3]
        found = int(days) * 1440 + hours * 60 + mins + seconds / 60
    elif len(parts) == 3:
        found = parts[0] * 60 + parts[1] + parts[2] / 60
    else:
        found = parts[0] + (parts[1] / 60 if len(parts) == 2 else 0)
    return found or math.inf


def _wrong(resource: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"resource {resource} = {value!r} cannot be asked of SLURM; allowed: {allowed}")


def _written(name: str, value: str | None) -> str:
    return f"--{name}" if value is None else f"--{name}={value}"


def _number(resource: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _wrong(resource, value, "a whole number from 1 on")
    return str(value)


def _amount(resource: str, value: object) -> str:
    """An amount that may come out of a calculation: rounded up. SLURM takes 0 for all there is."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise _wrong(
            resource, value, "a number above 0, in min" if resource == "runtime" else "a number of MB above 0"
        )
    return str(math.ceil(value))


def _name(resource: str, value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value.startswith("-"):
        raise _wrong(resource, value, "a name of letters, digits and . _ + @ = -")
    return value


def _names(resource: str, value: object) -> str:
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else []
    if not parts or not all(_NAME.fullmatch(part) and not part.startswith("-") for part in parts):
        raise _wrong(resource, value, "a name, or several with commas between")
    # SLURM takes the one that starts first, whatever their order.
    return ",".join(sorted(set(parts)))


def _expression(resource: str, value: object) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise _wrong(resource, value, "features joined by & or |, without blanks")
    return value


def _warning(resource: str, value: object) -> str:
    found = _SIGNAL.fullmatch(value) if isinstance(value, str) else None
    if found is None or not 1 <= int(found[2]) <= _MAX_WARNING:
        raise _wrong(resource, value, f"USR1@SECONDS or USR2@SECONDS, SECONDS from 1 to {_MAX_WARNING}")
    return f"B:{found[1]}@{int(found[2])}"


def _exclusive(resource: str, value: object) -> str | None:
    if value is True or value == 1:
        return None
    if value in ("user", "mcs"):
        return str(value)
    raise _wrong(resource, value, "true, false, 'user' or 'mcs'")


def _devices(given: Mapping[str, object]) -> dict[str, str]:
    """The GPUs, asked for in one way, and other generic resources."""
    asked = {name: _count(name, given[name]) for name in ("gpu", "gpus") if name in given}
    if len(set(asked.values())) > 1:
        raise _wrong("gpus", given["gpus"], f"the same as gpu = {given['gpu']!r}, or only one of the two")
    gpus = next(iter(asked.values()), 0)
    gres = _gres(given["gres"]) if "gres" in given else {}
    in_gres = any(name.partition(":")[0] == "gpu" for name in gres)
    if gpus and in_gres:
        raise _wrong(
            "gres", given["gres"], f"no gpu in it beside {next(iter(asked))} = {gpus}; say it in one place"
        )
    model = _model(given["gpu_model"]) if "gpu_model" in given else None
    if model and not asked:
        raise _wrong("gpu_model", model, "only with gpu, the number of GPUs")
    found = {}
    if gpus:
        found["gpus"] = f"{model}:{gpus}" if model else str(gpus)
    if gres:
        found["gres"] = ",".join(f"{name}:{number}" for name, number in sorted(gres.items()))
    return found


def _count(resource: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _wrong(resource, value, "a whole number; the type is said by gpu_model")
    return value


def _model(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise _wrong("gpu_model", value, "the type of a GPU, as in `scontrol show node`")
    return value


def _gres(value: object) -> dict[str, str]:
    """By ``name`` or ``name:type`` how many."""
    found: dict[str, str] = {}
    for part in value.split(",") if isinstance(value, str) else [""]:
        match = _GRES.fullmatch(part.strip())
        if match is None:
            raise _wrong("gres", value, "name:count or name:type:count, or several with commas between")
        name = f"{match[1]}:{match[2]}" if match[2] else match[1]
        if found.setdefault(name, match[3] or "1") != (match[3] or "1"):
            raise _wrong("gres", value, f"{name} only once")
    return found


def _extra(value: object, own: dict[str, str | None]) -> list[str]:
    """What is left of the further options once ``own`` has taken in those that it knows."""
    allowed = "further options of sbatch"
    try:
        words = shlex.split(value) if isinstance(value, str) else None
    except ValueError:
        words = None
    if words is None:
        raise _wrong("slurm_extra", value, f"{allowed}, quoted as for a shell")
    said = set(own)
    rest: list[str] = []
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        name, text = _option(word, value)
        takes = name not in _FLAGS and name not in _SHORT_FLAGS
        if takes and text is None and place < len(words) and not words[place].startswith("-"):
            text = words[place]
            place += 1
        _check_extra(name, value, said)
        if name in _OWN:
            if text is None and takes:
                raise _wrong("slurm_extra", value, f"a value for --{name}")
            own[name] = _timed(text, value) if name == "time" else text
        elif len(name) == 1:
            rest.append(f"-{name}{text or ''}")
        else:
            rest.append(_written(name, text))
    return rest


def _timed(text: str | None, value: object) -> str | None:
    try:
        minutes(text or "")
    except ValueError:
        raise _wrong("slurm_extra", value, "a --time in minutes, or as H:M:S or D-H:M:S") from None
    return text


def _option(word: str, value: object) -> tuple[str, str | None]:
    """The name of an option, long where there is one that we know, and the value in the same word."""
    if word.startswith("--"):
        name, equals, text = word[2:].partition("=")
        if len(name) < 2:
            raise _wrong("slurm_extra", value, f"options only, not {word!r}")
        return name, text if equals else None
    if len(word) < 2 or not word.startswith("-"):
        raise _wrong("slurm_extra", value, f"options only: {word!r} would be taken for the script")
    short, text = word[1], word[2:]
    if short in _SHORT_FLAGS and text:
        raise _wrong("slurm_extra", value, f"-{short} by itself, not as {word}")
    return _LONG.get(short, short), text or None


def _check_extra(name: str, value: object, said: set[str]) -> None:
    if name in _RESERVED:
        raise _wrong("slurm_extra", value, f"anything but --{name}, by which jobs are found again")
    if name in said:
        raise _wrong("slurm_extra", value, f"no --{name}, which the resource {_OWN[name][1]} says already")
    for group in _EXCLUDING:
        if name in group and (other := said.intersection(group)):
            raise _wrong("slurm_extra", value, f"no --{name} beside --{other.pop()}")
    if name in _OWN or len(name) == 1:
        return
    # sbatch completes names; one that is cut short could stand for any of ours.
    if whole := [known for known in (*_RESERVED, *_OWN) if known.startswith(name) and name not in _FLAGS]:
        raise _wrong("slurm_extra", value, f"names in full, such as --{whole[0]}")


_READERS: tuple[tuple[str, str, Callable[[str, object], str]], ...] = (
    ("partition", "slurm_partition", _names),
    ("account", "slurm_account", _name),
    ("qos", "qos", _name),
    ("clusters", "clusters", _names),
    ("constraint", "constraint", _expression),
    ("nodes", "nodes", _number),
    ("ntasks", "tasks", _number),
    ("cpus-per-task", "cpus_per_task", _number),
    ("mem", "mem_mb", _amount),
    ("mem-per-cpu", "mem_mb_per_cpu", _amount),
    ("time", "runtime", _amount),
    ("signal", "slurm_signal", _warning),
)
