"""The catalogue: every kind of fault, its truth, and the seeded plan of each of its units.

A kind says how its units fail and what ends that. The truth stays with the judge: the plan of a unit lies
outside of the run, and neither the guard nor the classifier ever sees it.
"""

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import NamedTuple

RECOVERABLE, PERMANENT, LASTING, HEALTHY = "recoverable", "permanent", "lasting", "healthy"
"""A fault that goes away or can be got round; one that stays until a person repairs its cause; the same, but
that nobody can tell from one that goes away; no fault at all."""

NUMBERS = 40
STALL_S = 8.0
"""The stall limit that the rules declare. It stands for two minutes: see `STALL_AT_SCALE_1_S`."""
STALL_AT_SCALE_1_S = 120.0
BASE_MEMORY_MB, MOST_MEMORY_MB = 64, 512
BASE_BATCH = 256

TEXTS = Path(__file__).parent / "texts"


class Rule(NamedTuple):
    """A rule of the campaign: its options of `ripresa.dsl.guard`, the resource that its units are given, and
    how many devices they share."""

    guard: dict[str, object]
    amount: str = ""
    devices: int = 0


RULES = {
    "work": Rule({"stall": STALL_S}),
    "counted": Rule({"stall": STALL_S, "progress": "counter:$RIPRESA_PROGRESS"}),
    "timed": Rule({"wall": 2.0}),
    "checked": Rule({"validate": "json:schema.json"}),
    "large": Rule({}, "mem_mb"),
    "training": Rule({}, "batch_size"),
    "archive": Rule({"scopes": {"service": "archive"}}),
    "dead": Rule({"scopes": {"service": "dead"}}),
    "leased": Rule({"stall": STALL_S}, devices=3),
    "device0": Rule({"scopes": {"gpu": "g0"}}),
    "device1": Rule({"scopes": {"gpu": "g1"}}),
}
"""Units of all kinds are mixed within their rules, as faults are in reality: no name tells the truth."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    ``fault`` is what the command does (see unit.sh), ``cure`` what ends it: ``starts`` (a second attempt is
    enough), ``time`` (an outage), ``amount`` and ``shrink`` (more memory, a smaller batch), ``repair`` (a
    person). ``texts`` are the files of failure texts, ``outside`` what an injector does to the running unit,
    ``shared`` the name of an outage that all units of the kind have in common. ``rule`` is the rule they
    belong to, beside units of other kinds; ``plain`` says whether the kind exists without Ripresa's guard and
    journal.
    """

    name: str
    truth: str
    number: int
    fault: str = "text"
    cure: str = "starts"
    texts: tuple[str, ...] = ()
    outside: str = ""
    shared: str = ""
    rule: str = "work"
    long_s: float = 30.0
    steps: int = 0
    plain: bool = True
    what: str = ""


class Unit(NamedTuple):
    """A unit and what only the judge knows of it: shell variables of its plan, and the text it fails with."""

    kind: Kind
    number: int
    """Among those of its kind."""
    place: int
    """Among those of its rule."""
    plan: dict[str, object]
    text: str | None

    @property
    def name(self) -> str:
        return f"{self.kind.rule}/{self.place}"

    @property
    def target(self) -> str:
        return f"{self.name}.json"

    @property
    def reference(self) -> bytes:
        """What the target must hold, worked out anew."""
        salt = int(str(self.plan["salt"]))
        numbers = [salt] + [i * i + salt for i in range(1, NUMBERS + 1)]
        text = f'{{"unit": "{self.name}", "numbers": [{", ".join(map(str, numbers))}], "complete": true}}'
        return (text + " " * int(str(self.plan["pad"])) + "\n").encode()


KINDS = [
    # Network and services: outages that end after some time
    Kind("refused", RECOVERABLE, 22, cure="time", texts=("refused",), what="connection refused"),
    Kind("reset", RECOVERABLE, 22, cure="time", texts=("reset",), what="connection reset"),
    Kind("timed_out", RECOVERABLE, 22, cure="time", texts=("timed_out",), what="connection timed out"),
    Kind("names", RECOVERABLE, 14, cure="time", texts=("names",), what="name resolution fails"),
    Kind("unavailable", RECOVERABLE, 26, cure="time", texts=("unavailable",),
         what="service unavailable (503)"),
    Kind("limited", RECOVERABLE, 18, cure="time", texts=("limited",),
         what="too many requests (429, Retry-After)"),
    Kind("communication", RECOVERABLE, 22, cure="time", texts=("communication",),
         what="collective communication fails (NCCL, gloo, MPI)"),
    Kind("file_system", RECOVERABLE, 18, cure="time", texts=("file_system",), what="file system hiccup"),
    Kind("shared", RECOVERABLE, 16, texts=("shared",), what="something shared is busy, or no word at all"),
    Kind("archive", RECOVERABLE, 14, cure="time", texts=("refused", "unavailable"), shared="archive",
         rule="archive", what="host of a service is unreachable, comes back"),
    Kind("device", RECOVERABLE, 12, cure="time", texts=("device",), shared="device",
         rule="device1", what="failure on one device only"),
    Kind("node", RECOVERABLE, 18, texts=("node",), what="node lost or job preempted (texts)"),
    # Processes
    Kind("kill_command", RECOVERABLE, 24, fault="outside", outside="kill_command",
         what="SIGKILL of the command"),
    Kind("kill_guard", RECOVERABLE, 24, fault="outside", outside="kill_guard", plain=False,
         what="SIGKILL of the guard"),
    Kind("kill_holder", RECOVERABLE, 18, fault="outside", outside="kill_holder", rule="leased", plain=False,
         what="GPU lease holder killed, others wait for the device"),
    Kind("hang", RECOVERABLE, 26, fault="hang", what="hang, no sign of life"),
    Kind("stopped", RECOVERABLE, 20, fault="outside", outside="stop",
         what="stopped (SIGSTOP)"),
    Kind("livelock", RECOVERABLE, 18, fault="livelock", rule="counted",
         what="chatty livelock, declared counter stands still"),
    Kind("segments", RECOVERABLE, 12, fault="segments", steps=12, rule="timed",
         what="time limit, resumed from its checkpoint"),
    # Memory
    Kind("memory", RECOVERABLE, 30, fault="memory", cure="amount", rule="large",
         what="out of memory under a real limit (ulimit -v)"),
    Kind("batch", RECOVERABLE, 28, cure="shrink", texts=("batch",), rule="training",
         what="simulated CUDA out of memory, cured by a smaller batch"),
    # Outputs
    Kind("truncated", RECOVERABLE, 16, fault="truncated", what="exit 0, output truncated"),
    Kind("empty", RECOVERABLE, 16, fault="empty", what="exit 0, output empty"),
    Kind("missing", RECOVERABLE, 14, fault="missing", what="exit 0, output missing"),
    Kind("foreign", RECOVERABLE, 14, fault="foreign", what="exit 0, output is an error page"),
    Kind("partial", RECOVERABLE, 10, fault="partial", rule="checked",
         what="exit 0, output valid but not complete"),
    # Files of the journal and the clock: injected while the unit waits for its retry
    *(
        Kind(name, RECOVERABLE, number, texts=("timed_out",), outside=name, plain=False, what=what)
        for name, number, what in (
            ("torn_attempts", 12, "torn attempt record"),
            ("torn_events", 6, "torn event file"),
            ("torn_breakers", 6, "torn breaker file"),
            ("clock_ahead", 10, "record written by a clock a day ahead"),
            ("clock_behind", 10, "record written by a clock a day behind"),
        )
    ),
    Kind("torn_lease", RECOVERABLE, 12, fault="outside", outside="torn_lease", long_s=8.0, plain=False,
         what="torn lease, and its guard killed"),
    # What stays broken until a person repairs it
    Kind("dead", LASTING, 8, cure="repair", texts=("refused",), rule="dead",
         what="host of a service stays dead"),
    *(
        Kind(name, PERMANENT, number, cure="repair", texts=(name,), what=what)
        for name, number, what in (
            ("configuration", 34, "permanent: configuration"),
            ("environment", 34, "permanent: environment"),
            ("permission", 30, "permanent: permission"),
            ("code", 36, "permanent: code"),
            ("worded", 28, "permanent: a bug whose text says timeout"),
            ("numerical", 34, "permanent: numerical"),
            ("data", 34, "permanent: data"),
        )
    ),
    # Controls: must be left alone
    Kind("plain", HEALTHY, 300, fault="none", cure="none", what="healthy, rule work"),
    *(
        Kind(f"plain_{rule}", HEALTHY, number, fault="none", cure="none", rule=rule,
             what=f"healthy, rule {rule}")
        for rule, number in (
            ("large", 12), ("training", 12), ("checked", 8), ("timed", 8), ("archive", 6), ("counted", 20),
            ("leased", 12),
        )
    ),
    Kind("slow", HEALTHY, 36, fault="slow", cure="none", steps=20, rule="counted",
         what="slow but progressing, longer than the limit"),
    Kind("silent", HEALTHY, 30, fault="silent", cure="none", long_s=4.0,
         what="silent but healthy, below the limit"),
    Kind("computing", HEALTHY, 16, fault="computing", cure="none", steps=30,
         what="silent but computing, longer than the limit"),
    Kind("warned", HEALTHY, 36, fault="warned", cure="none", texts=("warned",), what="alarming log, exit 0"),
    Kind("device_other", HEALTHY, 12, fault="none", cure="none", rule="device0",
         what="the same workload on the other device"),
]  # fmt: skip
"""Kinds of the mixed campaign. ``number`` is how many units the long form has."""

STEADY = Kind("steady", RECOVERABLE, 0, fault="none", cure="none", what="")
"""Units of the campaigns whose controller or disk fails; what strikes them decides as what they count."""


def plan(rng: random.Random, kind: Kind, number: int, time_scale: float) -> Unit:
    """The plan of one unit, as the seed has it."""
    variables: dict[str, object] = {
        "fault": kind.fault,
        "cure": kind.cure,
        "starts": 1,
        "code": 1,
        "work": round(rng.uniform(0.05, 0.4), 2),
        "salt": rng.randrange(10**6),
        "pad": 0,
        "span": 0,
        "outage": kind.shared,
        "long": kind.long_s,
        "steps": kind.steps,
        "need": 0,
        "tool": "true",
    }
    text = None
    span_min = outage_min(rng)
    if kind.texts:
        after = rng.randrange(20, 240)
        variables["code"], text = _text(rng, kind, number, after)
        if kind.name == "limited":
            # The service knows when it will have time again.
            span_min = after / 60 * rng.uniform(0.5, 0.95)
    if kind.shared:
        span_min = 4.5
    variables["span"] = round(span_min * 60e6 * time_scale)
    if kind.fault == "memory":
        need = rng.randrange(BASE_MEMORY_MB + 8, MOST_MEMORY_MB // 2 + 64)
        variables["need"] = need
        variables["tool"] = rng.choice(_TOOLS).replace("NEED", str(need))
    elif kind.cure == "shrink":
        variables["need"] = rng.randrange(BASE_BATCH // 8 + 1, BASE_BATCH - 1)
    return Unit(kind, number, number, variables, text)


_TOOLS = (
    "dd if=/dev/zero of=/dev/null bs=NEEDM count=1 status=none",
    "python3 -Sc 'bytearray(NEED << 20)'",
    "head -c NEEDM /dev/zero | tail | wc -c",
)


def outage_min(rng: random.Random) -> float:
    """How long an outage lasts, in min at scale 1: 85 % end within 4.5, 11 % within 18, 4 % within 55."""
    draw = rng.random()
    low, high = (0.2, 4.5) if draw < 0.85 else (4.5, 18.0) if draw < 0.96 else (18.0, 55.0)
    return rng.uniform(low, high)


def _text(rng: random.Random, kind: Kind, number: int, after: int) -> tuple[int, str]:
    """One of the texts of a kind with names filled in, below what a tool usually says before; its exit code.

    Unit after unit takes the next text, so that all of them are used alike.
    """
    texts = [entry for name in kind.texts for entry in entries(name)]
    code, text = texts[number % len(texts)]
    names = {
        "host": f"{rng.choice(('data', 'mirror', 'archive', 'node17', 'store'))}.example.org",
        "ip": f"10.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}",
        "port": str(rng.choice((8080, 8443, 9000, 5671, 27017))),
        "n": str(rng.randrange(1000, 99999)),
        "node": f"n{rng.randrange(1, 400):03}",
        "path": f"/data/{rng.choice(('survey', 'imaging', 'genomes'))}/{rng.randrange(2020, 2027)}",
        "after": str(after),
    }
    filled = Template(text).safe_substitute(names)
    if not filled.strip():
        return code, ""
    chatter = rng.sample(_CHATTER, rng.randrange(0, 4))
    return code, "".join(line + "\n" for line in chatter) + filled


_CHATTER = [
    "INFO reading 128 inputs",
    "[1/4] preparing the workspace",
    "using 8 threads",
    "progress: 40 %",
    "WARNING: deprecated option 'mode', use 'profile'",
    "cache miss, computing anew",
    "2026-01-09 05:29:58,120 DEBUG opened the index (3.2 MB)",
    "loaded settings in 0.02 s",
]


def entries(name: str) -> list[tuple[int, str]]:
    """The texts of a file with their exit codes: each begins with a line ``== CODE``."""
    found: list[tuple[int, str]] = []
    for line in (TEXTS / f"{name}.txt").read_text().splitlines(keepends=True):
        if line.startswith("== "):
            found.append((int(line[3:]), ""))
        else:
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def units(seed: int, time_scale: float, share: float = 1.0, *, only_plain: bool = False) -> list[Unit]:
    """The units of the mixed campaign: ``share`` of the numbers above, at least two of each kind.

    A unit's plan depends on the seed, its kind and its number alone, so smaller campaigns have the same ones.
    Within each rule the kinds are shuffled.
    """
    made = [
        plan(random.Random(f"{seed} {kind.name} {number}"), kind, number, time_scale)
        for kind in KINDS
        if kind.plain or not only_plain
        for number in range(max(2, round(kind.number * share)))
    ]
    random.Random(seed).shuffle(made)
    places = Counter[str]()
    placed = []
    for unit in made:
        placed.append(unit._replace(place=places[unit.kind.rule]))
        places[unit.kind.rule] += 1
    return placed


def steady(seed: int, number: int, time_scale: float, *, work_s: float, pad: int = 0) -> list[Unit]:
    """Units of the other campaigns, each a few seconds of work."""
    made = []
    for n in range(number):
        rng = random.Random(f"{seed} steady {n}")
        unit = plan(rng, STEADY, n, time_scale)
        unit.plan.update(work=round(work_s * rng.uniform(0.7, 1.3), 2), pad=pad)
        made.append(unit)
    return made
