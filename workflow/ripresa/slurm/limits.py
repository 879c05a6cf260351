"""What a cluster allows, and which requests it will never start: asked before anything is submitted.

sbatch accepts much that then waits for ever (a time limit beyond the partition's), and refuses the rest in
words that name no cause. Five commands tell all there is to know; each may fail, and what it would have told
is then not checked, which `Limits.unchecked` says.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ripresa.slurm import commands
from ripresa.slurm.commands import Unanswered
from ripresa.slurm.request import minutes, parsed

ANSWER_S = 10.0
"""How long one command may take: a controller that is down lets clients wait for longer."""

_FIELD = re.compile(r"(?:^|\s)([A-Z]\w*)=")
_FEATURE = re.compile(r"[A-Za-z_][\w.+-]*")
_SUFFIX = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_ENFORCING = {"associations", "limits", "qos", "safe", "all"}
_CLOSED = {"INACTIVE": "accepts no jobs", "DRAIN": "accepts no new jobs"}

Fields = Mapping[str, str]


class Node(NamedTuple):
    """What one node has: CPUs, memory in MB, features, and how many of ``name`` and ``name:type``."""

    name: str
    partitions: frozenset[str]
    cpus: int
    mem_mb: int
    features: frozenset[str]
    gres: Mapping[str, int]


class Bound(NamedTuple):
    """The most that one job may have: time in min, and of ``cpu``, ``gres/gpu``, ``mem`` (MB), ``node``."""

    wall_min: float
    most: Mapping[str, float]


class Association(NamedTuple):
    """What accounting lets this user do: an account, in a partition ("" for all), with which QOS."""

    account: str
    partition: str
    qos: frozenset[str]
    default_qos: str
    bound: Bound


class Quality(NamedTuple):
    """A QOS."""

    flags: frozenset[str]
    bound: Bound


class Limits(NamedTuple):
    """What is known of what a cluster allows; None or empty where it is not."""

    name: str = ""
    partitions: Mapping[str, Fields] | None = None
    """By name what `scontrol show partition` says."""
    nodes: tuple[Node, ...] | None = None
    associations: tuple[Association, ...] | None = None
    qualities: Mapping[str, Quality] = {}
    enforced: frozenset[str] = frozenset()
    """What accounting enforces: associations, limits, qos, ..."""
    user: str = ""
    unchecked: tuple[str, ...] = ()
    """What could not be asked, and why: one line each."""


def ask(answer: Callable[[Sequence[str]], str] | None = None) -> Limits:
    """Ask the cluster here what it allows, by one call of each command.

    ``answer`` runs a command and returns what it printed, or raises `Unanswered`.
    """
    say = answer or (lambda command: commands.ask(command, timeout_s=ANSWER_S))
    unchecked = []
    try:
        partitions = {fields["PartitionName"]: fields for fields in _lines(say(_scontrol("partition")))}
        nodes = tuple(_node(fields) for fields in _lines(say(_scontrol("node"))))
        settings = _settings(say(["scontrol", "show", "config"]))
    except (Unanswered, KeyError, ValueError) as error:
        return Limits(unchecked=(f"partitions, nodes and accounts: {_reason(error)}",))
    name, user = settings.get("ClusterName", ""), _user()
    enforced = frozenset(re.findall(r"\w+", settings.get("AccountingStorageEnforce", "").lower()))
    associations, qualities = None, {}
    if not settings.get("AccountingStorageType", "none").endswith("none") and enforced & _ENFORCING:
        mine, each = f"user={user}", "maxwall,maxtresperjob"
        try:
            text = say(
                _sacctmgr("assoc", mine, f"cluster={name}", f"account,partition,qos,defaultqos,{each}")
            )
            associations = tuple(_association(*line.split("|")) for line in text.splitlines() if line)
            text = say(_sacctmgr("qos", f"name,flags,{each}"))
            qualities = dict(_quality(*line.split("|")) for line in text.splitlines() if line)
        except (Unanswered, ValueError, TypeError) as error:
            unchecked.append(f"accounts and QOS: {_reason(error)}")
            associations = None
    return Limits(name, partitions, nodes, associations, qualities, enforced, user, tuple(unchecked))


def check(request: Iterable[str], cluster: Limits) -> list[str]:
    """Why a cluster would refuse or never start what these options of sbatch ask for, one line a problem.

    ``request`` is a list of `request.options`. Empty if nothing is wrong, or nothing is known.
    """
    asked = parsed(request)
    if cluster.partitions is None or asked.get("clusters", cluster.name) != cluster.name:
        return []
    there = ", ".join(sorted(cluster.partitions))
    wanted = asked["partition"].split(",") if "partition" in asked else _default(cluster.partitions)
    problems = [
        f"partition {name} does not exist; there are {there}"
        for name in wanted
        if name not in cluster.partitions
    ]
    if not wanted:
        problems.append(f"no partition is asked for, and the cluster has no default; there are {there}")
    problems += _accounting(asked, cluster)
    problems += _features(asked, cluster)
    if problems:
        return problems
    found = {name: _in_partition(asked, name, cluster) for name in wanted}
    if not all(found.values()):
        return []  # one of them will do
    return [f"partition {name}: {problem}" for name in wanted for problem in found[name]]


def most(request: Iterable[str], cluster: Limits) -> dict[str, float]:
    """The most that a unit with this request may ask for in its partitions: ``mem_mb``, ``runtime`` (min).

    What has no limit, or none that is known, is left out.
    """
    asked = parsed(request)
    if cluster.partitions is None or asked.get("clusters", cluster.name) != cluster.name:
        return {}
    wanted = asked["partition"].split(",") if "partition" in asked else _default(cluster.partitions)
    there = {name: cluster.partitions[name] for name in wanted if name in cluster.partitions}
    memory = [
        min(node.mem_mb, _number(partition.get("MaxMemPerNode")))
        for name, partition in there.items()
        for node in cluster.nodes or ()
        if name in node.partitions
    ]
    times = [_limit(partition.get("MaxTime")) for partition in there.values()]
    found = {"mem_mb": max(memory, default=math.inf), "runtime": max(times, default=math.inf)}
    return {name: amount for name, amount in found.items() if amount < math.inf}


def _in_partition(asked: Fields, name: str, cluster: Limits) -> list[str]:
    """What keeps a request from ever starting in one partition."""
    assert cluster.partitions is not None
    partition = cluster.partitions[name]
    problems = [f"it {why}" for state, why in _CLOSED.items() if partition.get("State", "").upper() == state]
    for option, what, key in (("account", "account", "Accounts"), ("qos", "QOS", "Qos")):
        allowed, denied = _list(partition.get(f"Allow{key}")), _list(partition.get(f"Deny{key}"))
        mine = asked.get(option, "").lower()
        if mine and (mine in denied or (allowed and mine not in allowed)):
            only = f"; it takes {', '.join(sorted(allowed))}" if allowed else ""
            problems.append(f"{what} {asked[option]} is not allowed{only}")
    longest = _limit(partition.get("MaxTime"))
    if any("PartitionTimeLimit" in quality.flags for _, quality in _qualities(asked, cluster)):
        longest = math.inf  # this QOS is there to go beyond it
    if "time" in asked and (time := minutes(asked["time"])) > longest:
        problems.append(f"{_time(time)} (--time) is more than its limit of {_time(longest)}")
    nodes = _span(asked)[0]
    if nodes > _number(partition.get("MaxNodes")):
        problems.append(f"{nodes} nodes are more than its limit of {partition['MaxNodes']} a job")
    return problems + _capacity(asked, name, partition, cluster)


def _capacity(asked: Fields, name: str, partition: Fields, cluster: Limits) -> list[str]:
    """What no node of a partition has, or too few of them."""
    nodes = [node for node in cluster.nodes or () if name in node.partitions]
    if not nodes:
        return [] if cluster.nodes is None else ["it has no nodes"]
    least, tasks, cpus = _span(asked)
    need = math.ceil(tasks / least) * cpus if "nodes" in asked else cpus
    memory = _memory(asked, need)
    most_cpus, most_mem = _number(partition.get("MaxCPUsPerNode")), _number(partition.get("MaxMemPerNode"))
    has_cpus = {node.name: min(node.cpus, most_cpus) for node in nodes}
    has_memory = {node.name: min(node.mem_mb, most_mem) for node in nodes}
    problems = []
    if need > (most := max(has_cpus.values())):
        problems.append(f"no node has {need:,} CPUs; {most:,.0f} at most")
    elif tasks > (places := sum(has // cpus for has in has_cpus.values())):
        problems.append(f"{tasks:,} tasks of {cpus} CPUs do not fit; {places:,.0f} do")
    if memory > (most := max(has_memory.values())):
        problems.append(f"no node has {memory:,} MB of memory; {most:,.0f} MB at most")
    devices = _devices(asked, least)
    for kind, number in devices.items():
        if number > (most := max(node.gres.get(kind, 0) for node in nodes)):
            problems.append(f"no node has {number} x {kind}; {f'{most} at most' if most else 'none has any'}")
    fits = [
        node
        for node in nodes
        if has_cpus[node.name] >= need
        and has_memory[node.name] >= memory
        and all(node.gres.get(kind, 0) >= number for kind, number in devices.items())
        and _has_features(asked.get("constraint", ""), node.features)
    ]
    if not problems and len(fits) < least:
        few = f"only {len(fits)} of {least} nodes have" if fits else "no node has"
        problems.append(f"{few} all of {_described(asked)}")
    return problems


def _accounting(asked: Fields, cluster: Limits) -> list[str]:
    """What this user may not do, where that is enforced."""
    mine = cluster.associations
    if mine is None:
        return []
    accounts = sorted({one.account for one in mine})
    if not mine:
        return [f"user {cluster.user} has no account on this cluster"]
    account = asked.get("account", "").lower()
    if account and account not in accounts:
        return [f"user {cluster.user} has no account {asked['account']}; there is {', '.join(accounts)}"]
    those = [one for one in mine if account in ("", one.account)]
    qos = asked.get("qos", "").lower()
    allowed = sorted({name for one in those for name in one.qos})
    if qos and cluster.enforced & {"qos", "all"} and qos not in allowed:
        return [
            f"QOS {asked['qos']} is not open to user {cluster.user}; there is {', '.join(allowed) or 'none'}"
        ]
    if not cluster.enforced & {"limits", "safe", "all"}:
        return []
    bounds = [(f"QOS {name}", quality.bound) for name, quality in _qualities(asked, cluster)]
    if len({one.bound.wall_min for one in those}) == len({str(one.bound.most) for one in those}) == 1:
        bounds.append(("accounting", those[0].bound))
    return [problem for name, bound in bounds for problem in _beyond(asked, name, bound)]


def _qualities(asked: Fields, cluster: Limits) -> list[tuple[str, Quality]]:
    """The QOS that a job would have, where that is known."""
    mine = [
        one for one in cluster.associations or () if asked.get("account", "").lower() in ("", one.account)
    ]
    names = {asked["qos"].lower()} if "qos" in asked else {one.default_qos for one in mine}
    return [
        (name, cluster.qualities[name]) for name in names if len(names) == 1 and name in cluster.qualities
    ]


def _beyond(asked: Fields, name: str, bound: Bound) -> list[str]:
    """What is more than one job may have."""
    problems = []
    if "time" in asked and (time := minutes(asked["time"])) > bound.wall_min:
        problems.append(f"{_time(time)} (--time) is more than {name} allows: {_time(bound.wall_min)}")
    nodes, tasks, cpus = _span(asked)
    tasks = max(nodes, tasks)
    gpus = [number for kind, number in _devices(asked, 1).items() if kind.partition(":")[0] == "gpu"]
    wanted = {
        "cpu": tasks * cpus,
        "node": nodes,
        "mem": _memory(asked, math.ceil(tasks / nodes) * cpus) * nodes,
        "gres/gpu": sum(gpus) * (1 if "gpus" in asked else nodes),
    }
    for what, most in bound.most.items():
        if wanted.get(what, 0) > most:
            problems.append(f"{what} = {wanted[what]:,} is more than {name} allows: {most:,.0f}")
    return problems


def _features(asked: Fields, cluster: Limits) -> list[str]:
    """Features that no node has: sbatch refuses them, also where others would do."""
    if cluster.nodes is None:
        return []
    known = {feature for node in cluster.nodes for feature in node.features}
    unknown = [name for name in _named_features(asked.get("constraint", "")) if name not in known]
    some = f"there are {', '.join(sorted(known))}" if known else "there are none"
    return [f"no node has the feature {name} (--constraint); {some}" for name in dict.fromkeys(unknown)]


def _named_features(constraint: str) -> list[str]:
    return _FEATURE.findall(re.sub(r"\*\d+", "", constraint))


def _has_features(constraint: str, features: frozenset[str]) -> bool:
    """Whether a node answers to a plain constraint; one with brackets may be met by several together."""
    names = _named_features(constraint)
    if not names or re.search(r"[\[\](){}!]", constraint) or ("&" in constraint and "|" in constraint):
        return True
    return any(name in features for name in names) if "|" in constraint else features.issuperset(names)


def _span(asked: Fields) -> tuple[int, int, int]:
    """The least number of nodes, of tasks in all, and of CPUs for each of these."""
    nodes = re.match(r"\d+", asked.get("nodes", "1"))
    return (
        int(nodes[0]) if nodes else 1,
        _whole(asked.get("ntasks", "1")),
        _whole(asked.get("cpus-per-task", "1")),
    )


def _memory(asked: Fields, cpus: int) -> int:
    """The memory needed on one node, in MB."""
    if "mem-per-cpu" in asked:
        return _megabytes(asked["mem-per-cpu"]) * cpus
    return _megabytes(asked.get("mem", "0"))


def _devices(asked: Fields, nodes: int) -> dict[str, int]:
    """By ``name`` or ``name:type`` how many one node has to have."""
    found = dict(_gres(asked.get("gres", "")))
    if "gpus" in asked:
        model, _, number = asked["gpus"].rpartition(":")
        found[f"gpu:{model}" if model else "gpu"] = math.ceil(_whole(number) / nodes)
    return found


def _described(asked: Fields) -> str:
    names = ("nodes", "ntasks", "cpus-per-task", "mem", "mem-per-cpu", "gpus", "gres", "constraint")
    return " ".join(f"--{name}={asked[name]}" for name in names if name in asked)


def _scontrol(what: str) -> list[str]:
    return ["scontrol", "--oneliner", "show", what]


def _sacctmgr(what: str, *words: str) -> list[str]:
    """The last word is the columns."""
    *where, columns = words
    return ["sacctmgr", "--noheader", "--parsable2", "show", what, *where, f"format={columns}"]


def _lines(text: str) -> list[dict[str, str]]:
    """The ``Key=value`` pairs of every line; values may have blanks in them."""
    found = []
    for line in text.splitlines():
        starts = list(_FIELD.finditer(line))
        ends = [match.start() for match in starts[1:]] + [len(line)]
        if starts:
            found.append({m[1]: line[m.end() : end].strip() for m, end in zip(starts, ends, strict=True)})
    return found


def _settings(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _node(fields: Fields) -> Node:
    """A node as it was configured, whatever its state: it may be back by the time that the job starts."""
    everything: dict[str, int] = {}
    for kind, number in _gres(fields.get("Gres", "")):
        name = kind.partition(":")[0]
        for key in {kind, name}:
            everything[key] = everything.get(key, 0) + number
    reserved = _number(fields.get("MemSpecLimit"))
    return Node(
        name=fields["NodeName"],
        partitions=frozenset(_split(fields.get("Partitions"))),
        cpus=_whole(fields.get("CPUEfctv") or fields.get("CPUTot") or "0"),
        mem_mb=_whole(fields.get("RealMemory", "0")) - (0 if math.isinf(reserved) else int(reserved)),
        features=frozenset(_split(fields.get("AvailableFeatures"))),
        gres=everything,
    )


def _gres(text: str) -> list[tuple[str, int]]:
    """How many of each ``name`` or ``name:type``, of ``gpu:a100:4(S:0-1),shard:8``."""
    found = []
    for part in _split(re.sub(r"\([^)]*\)", "", text)):
        words = [word for word in part.split(":") if word != "no_consume"]
        number = _counted(words[-1]) if len(words) > 1 else None
        kind = words[:-1] if number is not None else words
        found.append((":".join(kind[:2]), 1 if number is None else number))
    return found


def _counted(text: str) -> int | None:
    match = re.fullmatch(r"(\d+)([KMGTP]?)", text.upper())
    return int(match[1]) * _SUFFIX.get(match[2], 1) if match else None


def _megabytes(text: str) -> int:
    """An amount of memory as sbatch takes it; MB without a unit."""
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", text.upper())
    if match is None:
        return 0
    return math.ceil(int(match[1]) * _SUFFIX.get(match[2] or "M", 1) / _SUFFIX["M"])


def _association(account: str, partition: str, qos: str, default: str, wall: str, most: str) -> Association:
    return Association(account.lower(), partition, _list(qos), default.lower(), _bound(wall, most))


def _quality(name: str, flags: str, wall: str, most: str) -> tuple[str, Quality]:
    return name.lower(), Quality(frozenset(_split(flags)), _bound(wall, most))


def _bound(wall: str, most: str) -> Bound:
    pairs = (part.partition("=") for part in _split(most))
    return Bound(_limit(wall), {name: float(_megabytes(value)) for name, _, value in pairs})


def _default(partitions: Mapping[str, Fields]) -> list[str]:
    return [name for name, fields in partitions.items() if fields.get("Default") == "YES"]


def _split(text: str | None) -> list[str]:
    return [part for part in (text or "").split(",") if part and part not in ("(null)", "N/A")]


def _list(text: str | None) -> frozenset[str]:
    """The members of a list, in small letters as accounting has them; empty if it is open to all."""
    return frozenset(part.lower() for part in _split(text) if part.upper() != "ALL")


def _number(text: str | None) -> float:
    """A limit; infinite if there is none."""
    return float(text) if text and text.isdigit() else math.inf


def _limit(text: str | None) -> float:
    """A time limit in min; infinite if there is none, or none that can be read."""
    try:
        return minutes(text or "UNLIMITED")
    except ValueError:
        return math.inf


def _whole(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 1


def _time(length_min: float) -> str:
    if math.isinf(length_min):
        return "no limit at all"
    days, rest = divmod(round(length_min), 1440)
    clock = f"{rest // 60}:{rest % 60:02} h"
    return f"{days} d {clock}" if days else f"{length_min:g} min" if length_min < 60 else clock


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, Unanswered) else "the answer cannot be read"
