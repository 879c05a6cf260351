"""Faults of hosts, connections and controllers, made to happen under a campaign, and judged.

Three hosts of its own, four workloads, repetitions of half a second. Each fault strikes a fresh campaign
while its units run; where it ends the call, the same call is made again. Judged is what happened, not what is
said of it: targets byte for byte, executions by the log that each of them writes on its host (started again
only if the fault killed it, never two at a time), the attempt records, exit codes, the time a call takes,
what is left on the hosts and here, and that no password is in any file.
"""

import argparse
import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import place
from campaign import RUN, WORKLOADS, Campaign, matrix, wait
from judge import Expected, Row, judge, left
from place import Hosts

NETWORK, NODE, DISK = ("network", "retry"), ("node", "retry"), ("disk", "retry")
GIVEN_UP = ("node", "quarantine")
CANCELLED = ("cancelled", "refused")
IDLE_S = 3.0
"""No fault of another host leaves a host without work for longer."""


class Fault(NamedTuple):
    """What is done to a campaign, from its first call to the end of its last; yields what is wrong."""

    name: str
    act: Callable[[Campaign], Iterator[str]]
    expected: Expected = Expected()
    short: bool = False
    any_host: bool = False
    become: bool = False
    repetitions: int | None = None
    """Other than for the rest."""
    asked: Mapping[str, Any] = MappingProxyType({})


def begin(c: Campaign, *hosts: str) -> None:
    """Call, and wait until units run on all hosts, or on these."""
    c.call()
    wait("units on all hosts", lambda: c.running() >= set(hosts or c.hosts.names))
    c.leaked |= set(c.leaks())


def problem(condition: object, text: str) -> Iterator[str]:
    """The text, unless the condition holds."""
    if not condition:
        yield text


def calm(c: Campaign) -> Iterator[str]:
    """No fault at all."""
    begin(c)
    c.end()
    yield from ()


# -- controllers


def killed(times: int, *, everything: bool = False) -> Callable[[Campaign], Iterator[str]]:
    def act(c: Campaign) -> Iterator[str]:
        for _ in range(times):
            begin(c)
            c.kill(everything=everything)
        c()
        yield from ()

    return act


def interrupted(number: signal.Signals) -> Callable[[Campaign], Iterator[str]]:
    def act(c: Campaign) -> Iterator[str]:
        begin(c)
        c.signal(number)
        c.end()
        yield from (f"after {number.name}: {what}" for what in left(c))
        c()

    return act


def relay_killed(words: str) -> Callable[[Campaign], Iterator[str]]:
    def act(c: Campaign) -> Iterator[str]:
        begin(c)
        for pid in (found := c.processes(words)):
            with contextlib.suppress(ProcessLookupError):
                subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)
        c.end()
        yield from problem(found, f"there was no {words} to kill")

    return act


def full_here(c: Campaign) -> Iterator[str]:
    begin(c)
    fill = c.directory / "runs" / "fill"
    with contextlib.suppress(OSError), fill.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    time.sleep(5)
    fill.unlink()
    c.end()
    yield from ()


def torn(c: Campaign) -> Iterator[str]:
    begin(c)
    c.kill()
    leases = [path for path in (c.directory / RUN).rglob("*.lock") if b'"remote"' in path.read_bytes()]
    for path in leases:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    c()
    yield from problem(leases, "no lease named a host")


def changed(c: Campaign) -> Iterator[str]:
    begin(c)
    c.kill()
    before = c.hosts.witnessed()
    c.ask(version=2, seconds=0.5)
    c()
    after = c.hosts.witnessed()
    # A call that was under way may have begun another unit with the old command.
    more = [target for target, several in after.items() if len(several) != len(before.get(target, [])) + 1]
    yield from problem(len(more) <= 3, f"not executed once again: {more}")
    yield from problem(
        any(not one.whole for several in after.values() for one in several), "the old command was not ended"
    )


def forced(c: Campaign) -> Iterator[str]:
    c()
    c("--forcerun", "repetition")
    counts = {len(several) for several in c.hosts.witnessed().values()}
    yield from problem(counts == {2}, f"executions of a unit: {sorted(counts)}, not 2")


# -- connections


def cut(c: Campaign) -> Iterator[str]:
    begin(c)
    for host in c.hosts.names * 2:
        c.hosts.cut(host)
        time.sleep(0.7)
    c.end()
    yield from ()


def black_hole(c: Campaign) -> Iterator[str]:
    begin(c)
    c.hosts.black_hole("h1")
    time.sleep(30)
    c.hosts.heal("h1")
    c.end()
    yield from ()


def unreachable(c: Campaign) -> Iterator[str]:
    begin(c)
    c.hosts.sshd_down("h1")
    time.sleep(10)
    c.hosts.sshd_up("h1")
    c.end()
    yield from undisturbed(c)


def unreachable_at_first(c: Campaign) -> Iterator[str]:
    c.hosts.sshd_down("h1")
    begin(c, "h2", "h3")
    time.sleep(10)
    c.hosts.sshd_up("h1")
    c.end()
    yield from undisturbed(c)
    kinds = ("breaker_opened", "breaker_half_open", "breaker_closed")
    told = {kind: {event["scope"] for event in c.events(kind)} for kind in kinds}
    yield from problem(all("host:h1" in scopes for scopes in told.values()), f"breakers {told}")
    # That of a workload on this host only may come first, never one that concerns other hosts.
    others = [scope for scopes in told.values() for scope in scopes if not scope.startswith("host:h1")]
    yield from problem(not others, f"breakers of {others}")


def undisturbed(c: Campaign) -> Iterator[str]:
    """Whether hosts but h1 were never without work for long before they had done all."""
    for host in ("h2", "h3"):
        there = sorted(
            (one.began, one.ended)
            for several in c.hosts.witnessed().values()
            for one in several
            if one.host == host
        )
        gaps = [later[0] - earlier[1] for earlier, later in pairwise(there)]
        yield from problem(max(gaps) < IDLE_S, f"{host} idle for {max(gaps):.1f} s")


def key(fault: str, end: str) -> Callable[[Campaign], Iterator[str]]:
    """Something that only a person can put right; then the units are released."""

    def act(c: Campaign) -> Iterator[str]:
        begin(c)
        getattr(c.hosts, fault)("h1")
        c.hosts.cut("h1")
        c.end()
        yield from told(c, "h1", "")
        getattr(c.hosts, end)("h1")
        yield from healed(c, "h1")

    return act


# -- hosts


def told(c: Campaign, host: str, words: str) -> Iterator[str]:
    """Whether it is said what is wrong with a host, and what to do."""
    ended = [unit for unit in c.units if not c.output(unit).exists()]
    if not ended:
        yield f"no unit of {host} was struck"
        return
    why = c.ripresa("why", ended[0].target)
    if not (host in why and words in why and "release" in why):
        yield f"ripresa why: {why!r}"


def healed(c: Campaign, host: str) -> Iterator[str]:
    """Release what is in quarantine, and call again."""
    c.ripresa("release", *(unit.target for unit in c.units if not c.output(unit).exists()))
    c()
    yield from ()


def dead(c: Campaign) -> Iterator[str]:
    begin(c)
    c.hosts.power_off("h1")
    c.end()
    yield from told(c, "h1", "has not answered since")
    c.hosts.power_on("h1")
    yield from healed(c, "h1")


def dead_for_any(c: Campaign) -> Iterator[str]:
    begin(c)
    c.hosts.power_off("h1")
    c.end()
    lost = [unit for unit in c.units if not c.output(unit).exists()]
    yield from problem(len(lost) <= 2, f"{len(lost)} units did not come elsewhere")
    c.hosts.power_on("h1")
    yield from healed(c, "h1")


def spread(c: Campaign) -> Iterator[str]:
    c()
    where = {one.host for several in c.hosts.witnessed().values() for one in several}
    yield from problem(where == set(c.hosts.names), f"units ran on {sorted(where)} only")


def power_cycled(*, wiped: bool) -> Callable[[Campaign], Iterator[str]]:
    def act(c: Campaign) -> Iterator[str]:
        begin(c)
        c.hosts.power_off("h1")
        time.sleep(3)
        c.hosts.power_on("h1", wiped=wiped)
        c.end()
        yield from ()

    return act


def full_there(c: Campaign) -> Iterator[str]:
    begin(c)
    c.hosts.fill_disk("h1")
    time.sleep(6)
    c.hosts.free_disk("h1")
    c.end()
    yield from ()


def without_python(c: Campaign) -> Iterator[str]:
    begin(c)
    c.hosts.no_python("h1")
    c.end()
    yield from told(c, "h1", "Python")
    c.hosts.python_back("h1")
    yield from healed(c, "h1")


def on_h1(line: str) -> Callable[[Campaign], Iterator[str]]:
    """A line of sh, when units run."""

    def act(c: Campaign) -> Iterator[str]:
        begin(c)
        c.hosts.execute("h1", line)
        c.end()
        yield from ()

    return act


def removed(c: Campaign) -> Iterator[str]:
    begin(c)
    c.kill()
    whole = c.inventory.path.read_text()
    c.inventory.path.write_text(whole.replace("    h1:", "    h9:").replace("h1: null", "h9: null"))
    c()
    yield from told(c, "h1", "inventory")
    c.inventory.path.write_text(whole)
    yield from healed(c, "h1")


FAULTS = [
    Fault("none", calm),
    Fault("controller killed", killed(1), short=True),
    Fault(
        "controller killed, long units",
        killed(1),
        repetitions=1,
        asked={"seconds": 6, "exclusive": WORKLOADS},
    ),
    Fault("controller and relay killed", killed(1, everything=True)),
    Fault("controller killed twice", killed(2)),
    Fault("both killed twice", killed(2, everything=True)),
    Fault(
        "Ctrl-C",
        interrupted(signal.SIGINT),
        Expected((1, 0), required=[CANCELLED], killed=12, repeated=2),
        short=True,
        asked={"seconds": 8},  # so that it comes before they end
    ),
    Fault("SIGTERM", interrupted(signal.SIGTERM), Expected((1, 0))),
    Fault("ansible-playbook killed", relay_killed("ansible-playbook"), Expected(failures=[NETWORK])),
    Fault("its keeper killed", relay_killed("transport.keeper"), Expected(failures=[NETWORK])),
    Fault("connections cut", cut, Expected(failures=[NETWORK]), short=True),
    Fault("black hole for 30 s", black_hole, Expected(failures=[NETWORK], bound_s=90), asked={"scale": 0.02}),
    Fault("sshd down for 10 s", unreachable, Expected(failures=[NETWORK])),
    Fault("sshd down for the first 10 s", unreachable_at_first, Expected(required=[NETWORK])),
    Fault(
        "host dead for good",
        dead,
        Expected((1, 0), [NETWORK], required=[GIVEN_UP], killed=2, bound_s=75),
        short=True,
    ),
    Fault("power-cycled", power_cycled(wiped=False), Expected(failures=[NETWORK, NODE], killed=2)),
    Fault("power-cycled, disk wiped", power_cycled(wiped=True), Expected(failures=[NETWORK, NODE], killed=2)),
    Fault("its disk full for 6 s", full_there, Expected(failures=[DISK], killed=2, repeated=2)),
    Fault(
        "Python gone",
        without_python,
        Expected((1, 0), required=[("environment", "quarantine")], repeated=2),
    ),
    Fault(
        "wrong host key",
        key("wrong_host_key", "right_host_key"),
        Expected((1, 0), required=[("permission", "quarantine")], repeated=2),
    ),
    Fault(
        "key revoked",
        key("revoke_key", "grant_key"),
        Expected((1, 0), required=[("permission", "quarantine")], repeated=2),
    ),
    Fault(
        "supervisors killed",
        on_h1("pkill -9 -P 1 -f agent/__main__"),
        Expected(required=[NODE], killed=2),
    ),
    Fault(
        "commands killed",
        on_h1("pkill -9 -f '^/usr/bin/python3 -IS /srv/witness'"),
        Expected(failures=[("memory", "retry")], killed=2),
    ),
    Fault("sudo with a vaulted password", calm, become=True, short=True),
    Fault("disk full here for 5 s", full_here, Expected(failures=[DISK])),
    Fault("leases torn", torn, Expected(repeated=12)),
    Fault("leases torn, any host", torn, Expected(repeated=12), any_host=True),
    Fault(
        "host left the inventory",
        removed,
        Expected((1, 0), required=[GIVEN_UP, ("configuration", "quarantine")], repeated=2),
    ),
    Fault(
        "command changed",
        changed,
        Expected(failures=[("preempted", "retry")], killed=12, repeated=1000),
        asked={"seconds": 8},
    ),
    Fault("forced", forced, Expected((0, 0), repeated=1000)),
    Fault("any host: spread", spread, any_host=True),
    Fault("any host: sshd down for 10 s", unreachable, Expected(failures=[NETWORK]), any_host=True),
    Fault(
        "any host: one dead for good",
        dead_for_any,
        Expected((1, 0), [NETWORK], required=[GIVEN_UP], killed=2),
        any_host=True,
    ),
]


def run(hosts: Hosts, base: Path, fault: Fault, repetitions: int) -> Row:
    """One campaign, its fault, and what became of it."""
    repetitions = fault.repetitions or repetitions
    # As many units, whether each has its host or may go to any.
    units = matrix(3 * repetitions, ("any",)) if fault.any_host else matrix(repetitions)
    directory = base / str(FAULTS.index(fault))
    directory.mkdir()
    with small_disk(directory) if fault.act is full_here else contextlib.nullcontext():
        c = Campaign(hosts, directory, units, become=fault.become, **fault.asked)
        problems: list[str] = []
        try:
            for text in fault.act(c):
                problems.append(text)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            problems.append(str(error).splitlines()[0])
        finally:
            c.kill(everything=True)
        row = judge(fault.name, c, fault.expected, problems)
        if row.problems:
            shutil.copytree(directory / "runs", directory / "kept")
    hosts.restore()
    return row


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """A disk with little room for the run."""
    folder = directory / "runs"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The rows for people."""
    yield "| fault | units | right | executions | killed | failures | exit | longest call (s) | verdict |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        failures = ", ".join(f"{n} {c}: {d}" for (c, d), n in sorted(row.failures.items())) or "-"
        words = (
            row.fault, row.units, row.right, row.executions, row.killed, failures,
            ", ".join(map(str, row.codes)), f"{row.seconds:.0f}", "; ".join(row.problems) or "right",
        )  # fmt: skip
        yield f"| {' | '.join(map(str, words))} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the most telling faults, with fewer units")
    parser.add_argument("--only", metavar="NAME", action="append", help="faults whose name begins so")
    parser.add_argument(
        "--repetitions", type=int, metavar="N", help="of each workload (default: 5; short: 2)"
    )
    arguments = parser.parse_args()
    only = tuple(arguments.only or [""])
    wanted = [f for f in FAULTS if f.name.startswith(only) and (f.short or not arguments.short)]
    if not wanted:
        parser.error(f"no fault is called so; there are {', '.join(fault.name for fault in FAULTS)}")
    repetitions = arguments.repetitions or (2 if arguments.short else 5)
    base = Path(tempfile.mkdtemp(prefix="faults-", dir="/tmp"))  # sockets need short paths
    rows: list[Row] = []
    with place.hosts() as hosts:
        for fault in wanted:
            rows.append(run(hosts, base, fault, repetitions))
            word = "WRONG" if rows[-1].problems else "right"
            print(f"{word}: {fault.name}", *rows[-1].problems, sep="\n    ", file=sys.stderr, flush=True)
    print("\n".join(table(rows)))
    met = not any(row.problems for row in rows)
    print(f"verdict: {'met' if met else f'not met; see {base}'}")
    if met:
        shutil.rmtree(base)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
