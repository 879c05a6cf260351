"""The judge of a campaign on hosts: goes by targets, witnesses, records, and what is left."""

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from campaign import EXCLUSIVE, Campaign, Unit
from place import Hosts, overlaps

LEFT_S = 5.0
"""What ends by itself, as sessions of sshd do, has so long to do it."""


class Expected(NamedTuple):
    """What may become of a campaign."""

    codes: tuple[int, ...] = (0,)
    """Exit codes of the calls that came to an end."""
    failures: Collection[tuple[str, str]] = ()
    """Classes and decisions of the failed attempts, all that may be."""
    required: Collection[tuple[str, str]] = ()
    """Those of them that must be there."""
    killed: int = 0
    """How many executions the fault may have killed, each of which may be followed by another one."""
    repeated: int = 0
    """How many executions that came to their end may be followed by another one: none but those whose end
    nobody could learn before they were given up."""
    open_ended: Collection[str] = ()
    """Hosts whose units need not have come to the right end."""
    bound_s: float = 60.0
    """The longest that a call may take."""


class Row(NamedTuple):
    """What became of a campaign under a fault."""

    fault: str
    units: int
    right: int
    executions: int
    killed: int
    failures: Counter[tuple[str, str]]
    codes: list[int | None]
    seconds: float
    problems: list[str]


def judge(fault: str, c: Campaign, expected: Expected, problems: list[str]) -> Row:
    """Hold a campaign against what is expected of it; ``problems`` are known already."""
    problems = [*problems, *_calls(c, expected), *_executions(c, expected)]
    right = [unit for unit in c.units if c.is_right(unit)]
    wrong = [unit for unit in c.units if unit not in right]
    if bad := [unit for unit in wrong if unit.host not in expected.open_ended]:
        problems.append(f"{_some(bad)} not right")
    if bad := [unit for unit in wrong if c.output(unit).exists()]:
        problems.append(f"{_some(bad)} published with wrong bytes")
    failures = Counter(
        (str(record["failure_class"]), str(record["decision"]))
        for unit in c.units
        for record in c.records(unit)
        if record["outcome"] not in ("published", "adopted")
    )
    if strange := failures.keys() - set(expected.failures) - set(expected.required):
        problems.append(f"failures {sorted(strange)}")
    if missing := set(expected.required) - failures.keys():
        problems.append(f"no failure {sorted(missing)}")
    problems += left(c)
    witnessed = [one for several in c.hosts.witnessed().values() for one in several]
    killed = sum(not one.whole for one in witnessed)
    seconds = max(c.took, default=0.0)
    return Row(fault, len(c.units), len(right), len(witnessed), killed, failures, c.codes, seconds, problems)


def _calls(c: Campaign, expected: Expected) -> Iterator[str]:
    if None in c.codes:
        yield "a call hangs"
    elif tuple(c.codes) != expected.codes:
        yield f"exit codes {c.codes}, not {list(expected.codes)}"
    if c.took and max(c.took) > expected.bound_s:
        yield f"a call took {max(c.took):.0f} s"
    for words in ("Traceback", "internal error"):
        if words in c.log():
            yield f"{words} in the log"


def _executions(c: Campaign, expected: Expected) -> Iterator[str]:
    witnessed = c.hosts.witnessed()
    if two := overlaps(witnessed):
        yield f"{len(two)} times two executions at a time, e.g. {two[0]}"
    executions = [one for several in witnessed.values() for one in several]
    beside = [
        (one, other)
        for one in executions
        for other in executions
        if one.target.split("/")[1] in EXCLUSIVE and one.host == other.host and one.target != other.target
        if one.began < other.ended and other.began < one.ended
    ]
    if beside:
        yield f"{len(beside)} times another unit beside an exclusive one, e.g. {beside[0]}"
    followed = [one for several in witnessed.values() for one in several[:-1]]
    killed = [one for one in followed if not one.whole]
    repeated = [one for one in followed if one.whole]
    if len(killed) > expected.killed:
        yield f"{len(killed)} executions killed and repeated, e.g. {killed[0].target}"
    if len(repeated) > expected.repeated:
        yield f"{len(repeated)} whole executions repeated, e.g. {repeated[0].target}"


def left(c: Campaign) -> Iterator[str]:
    """What is left after a call that cleans up behind itself."""
    end = time.monotonic() + LEFT_S
    while found := [*_left_on_hosts(c.hosts), *_left_here(c)]:
        if time.monotonic() > end:
            yield from found
            break
        time.sleep(0.1)
    if leaks := c.leaked | set(c.leaks()):
        yield f"secrets in {sorted(leaks)[:3]}"


def _left_on_hosts(hosts: Hosts) -> Iterator[str]:
    for host in hosts.names:
        if not hosts.machines[host].up():
            continue
        if files := hosts.files(host):
            yield f"{len(files)} files left on {host}, e.g. {files[-1]}"
        if running := hosts.processes(host):
            yield f"left on {host}: {running[0]}"


def _left_here(c: Campaign) -> Iterator[str]:
    if processes := c.processes():
        yield f"left here: {next(iter(processes.values()))[:100]}"
    with contextlib.suppress(FileNotFoundError):
        if sockets := [path for path in c.hosts.control_sockets(c.temporary) if _answers(path)]:
            yield f"{len(sockets)} control sockets left here"


def _answers(path: Path) -> bool:
    """Whether somebody listens at a socket; the name alone is all that a killed process leaves."""
    with socket.socket(socket.AF_UNIX) as other:
        try:
            other.connect(str(path))
        except OSError:
            return False
    return True


def _some(units: list[Unit]) -> str:
    return f"{len(units)} units (e.g. {units[0].name})"
