"""Device leases: processes of two controllers contend for devices, and are killed with -9 at random.

    python evaluation/device_leases.py [--cycles 10000] [--processes 8] [--devices 4] [--seed 1]

Half of the processes belong to each controller. In a cycle a process takes the lease of a device at random
(of two at once in every tenth cycle), of half of it or of all, as the guard does it, in a process of its own,
and executes a command as the guard does it. In six of ten cycles all ends as it should. In the others the
holder is killed and its command a moment later, or both at once, or the command alone, or the holder at any
moment, be it before it has the lease. What was refused is no cycle.

The judge shares nothing with Ripresa: there are two files for each device, of which a command locks one if it
has half of it, and else both, without waiting. If it does not get them, more than the whole was given away:
of two halves that are there rightfully each finds a file, for a third one can only come once one of them has
ended, whose file is free by then. After the last kill of a cycle the time is taken until the device is not
held for this cycle any more. While the command of a killed holder lives, its device must be held. In the end
nothing may be held or open, and there must be one lock for each device and no other file.

Exits 1 if more than a device was held, if one was lost under a living command, or not free within 1 s, or if
anything is left.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from chaos.judge import quantile
from stacking.verdict import Verdict

from ripresa.journal import devices, processes
from ripresa.recovery import execution
from ripresa.recovery.progress import Progress
from ripresa.recovery.stall import Stall

LIMIT_S = 1.0
PATIENCE_S = 10.0
LONGEST_S = 0.012
"""Commands last up to this long."""

LOWEST = 3
"""The command's own locks get the lowest numbers of open files, which the kernel closes first when it ends:
the judge never keeps a lock for longer than the lease lasts."""

WAYS = ("in order",) * 6 + ("holder, then command", "both at once", "command", "holder at any moment")


class Cycle(NamedTuple):
    """One lease: how it ended, the seconds until the device was free after the last kill (-1: none), and
    whether it was lost under a living command, and the percent of the device."""

    way: str
    free_s: float
    lost: bool
    share: int


class Slot:
    """One of the contending processes."""

    def __init__(self, judge: Path, names: list[str], rng: random.Random) -> None:
        self.judge, self.names, self.rng = judge, names, rng
        self.refused = 0
        self.early = 0
        """Holders that were killed before they had a lease."""

    def cycles(self, number: int) -> list[Cycle]:
        done: list[Cycle] = []
        while len(done) < number:
            wanted = self.rng.sample(self.names, 2 if self.rng.random() < 0.1 else 1)
            share = self.rng.choice((50, 100))
            cycle = self._cycle(wanted, share, self.rng.choice(WAYS))
            if cycle is None:
                time.sleep(self.rng.uniform(0, 0.004))
            else:
                done.append(cycle)
        return done

    def _cycle(self, wanted: list[str], share: int, way: str) -> Cycle | None:
        reading, writing = os.pipe()
        lasts = self.rng.uniform(0, LONGEST_S) + (
            60 if way not in ("in order", "holder at any moment") else 0
        )
        holder = os.fork()
        if holder == 0:
            try:
                hold(",".join(f"{name}@{share}" for name in wanted), self.judge, lasts, writing)
            finally:
                os._exit(1)
        os.close(writing)
        killed = 0.0
        if way == "holder at any moment":
            time.sleep(self.rng.uniform(0, 0.01))
            os.kill(holder, signal.SIGKILL)
            killed = time.monotonic()
        said = os.read(reading, 100).decode()
        os.close(reading)
        if said in ("", "refused"):
            os.waitpid(holder, 0)
            self.refused += said == "refused"
            self.early += said == ""
            if killed:
                self._free(wanted, holder, killed)
            return None
        lost, command = False, int(said)
        if way not in ("in order", "holder at any moment"):
            lost, killed = self._kill(way, wanted, holder, command)
        os.waitpid(holder, 0)
        return Cycle(way, self._free(wanted, holder, killed) if killed else -1.0, lost, share)

    def _kill(self, way: str, wanted: list[str], holder: int, command: int) -> tuple[bool, float]:
        """Kill a holder, its command or both; whether a device was lost, and when the last kill was."""
        time.sleep(self.rng.uniform(0, LONGEST_S))
        lost = False
        if way != "command":
            os.kill(holder, signal.SIGKILL)
        if way == "holder, then command":
            time.sleep(self.rng.uniform(0, LONGEST_S))
            lost = not all(_holds(holder, name) for name in wanted)
        os.killpg(command, signal.SIGKILL)
        return lost, time.monotonic()

    def _free(self, wanted: list[str], holder: int, since: float) -> float:
        """The time until no device has this holder any more, in s."""
        while any(_holds(holder, name) for name in wanted):
            if time.monotonic() > since + PATIENCE_S:
                break
            time.sleep(0.001)
        return time.monotonic() - since


def _holds(holder: int, name: str) -> bool:
    return any(owner.get("pid") == holder for owner in devices.holders(name))


def hold(wanted: str, judge: Path, lasts: float, told: int) -> None:
    """What the guard does of it all: take the devices, execute a command that inherits them, let go."""
    execution.listen()
    taken = devices.take(wanted)
    if taken is None:
        os.write(told, b"refused")
        os._exit(0)
    for lease in taken:
        lease.sign({"run_id": "evaluation", "target": wanted})
    lifeline = processes.Lifeline()
    log = str(judge / "log")
    job = execution.Execution(
        command(wanted, judge, lasts), log, dict(os.environ), [one.fd for one in taken], lifeline
    )
    os.write(told, str(job.pid).encode())
    progress = Progress(None, log, str(judge / "progress"), 5.0)
    stall = Stall(None, "declared")
    job.watch(beat=lambda: None, beat_s=5.0, wall_s=None, stall=stall, grace_s=1.0, progress=progress)
    devices.release(taken)
    os._exit(0)


def command(wanted: str, judge: Path, lasts: float) -> str:
    """Bash that locks what is the judge's of each device, and waits without starting anything."""
    locks, number = "", LOWEST
    for name, share in devices.wanted(wanted).items():
        tries = [
            f"exec {number + one}> {judge}/{name}.{half}; flock -n {number + one}"
            for half, one in ((0, 0), (1, int(share > 50)))
        ]
        both = f"{tries[0]} && {{ {tries[1]}; }}" if share > 50 else f"{tries[0]} || {{ {tries[1]}; }}"
        locks += f"{{ {both}; }} || echo {name} >> {judge}/overlaps; "
        number += 1 + int(share > 50)
    return f"{locks} read -rt {lasts:.4f} <> {judge}/never || true"


def controller(number: int, judge: Path, names: list[str], shares: list[int], seed: int) -> None:
    """Fork the processes of one controller, and wait for them."""
    os.setsid()
    slots = []
    for place, share in enumerate(shares):
        pid = os.fork()
        if pid == 0:
            slot = Slot(judge, names, random.Random(f"{seed} {number} {place}"))
            cycles = slot.cycles(share)
            told = {"cycles": cycles, "refused": slot.refused, "early": slot.early}
            (judge / f"told.{number}.{place}").write_text(json.dumps(told))
            os._exit(0)
        slots.append(pid)
    for pid in slots:
        os.waitpid(pid, 0)
    os._exit(0)


def leaks(place: Path, names: list[str]) -> list[str]:
    """What is left that should not be."""
    end = time.monotonic() + LIMIT_S
    while devices.held(names) and time.monotonic() < end:
        time.sleep(0.01)
    found = [f"{name} is held" for name in devices.held(names)]
    taken = devices.take(",".join(names))
    if taken is None:
        found.append("the devices cannot be taken together")
    devices.release(taken or [])
    locks = {devices.path_of(name) for name in names}
    found += [f"{path} is left" for path in map(str, place.iterdir()) if path not in locks]
    return found + [f"process {pid} has {path} open" for path in locks for pid in processes.holders(path)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    # Numbers that the commands use, and nothing else may come to have.
    for number in range(LOWEST, LOWEST + 4):
        os.dup2(2, number, inheritable=False)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="devices-") as root:
        place, judge = Path(root, "locks"), Path(root, "judge")
        place.mkdir()
        judge.mkdir()
        os.mkfifo(judge / "never")
        os.environ["RIPRESA_DEVICES"] = str(place)
        names = [f"gpu{n}" for n in range(arguments.devices)]
        shares = [
            arguments.cycles // arguments.processes + (n < arguments.cycles % arguments.processes)
            for n in range(arguments.processes)
        ]
        children = []
        for number in range(2):
            pid = os.fork()
            if pid == 0:
                controller(number, judge, names, shares[number::2], arguments.seed)
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)
        told = [json.loads(path.read_text()) for path in judge.glob("told.*")]
        overlaps = judge / "overlaps"
        twice = len(overlaps.read_text().splitlines()) if overlaps.exists() else 0
        left = leaks(place, names)
        if len(told) < arguments.processes:
            left.append(f"{arguments.processes - len(told)} processes ended early")
    return report(told, twice, left, time.monotonic() - began)


def report(told: list[dict[str, object]], twice: int, left: list[str], seconds: float) -> int:
    """Print the figures; the exit code."""
    cycles = [Cycle(*cycle) for one in told for cycle in one["cycles"]]  # type: ignore[attr-defined]
    ways = Counter(cycle.way for cycle in cycles)
    free = [cycle.free_s for cycle in cycles if cycle.free_s >= 0]
    halves = sum(cycle.share < 100 for cycle in cycles)
    print(f"{len(cycles)} leases in {seconds:.0f} s, {halves} of them of halves")
    print("they ended: " + ", ".join(f"{n} {way}" for way, n in ways.items()))
    refused, early = (sum(int(str(one[key])) for one in told) for key in ("refused", "early"))
    print(f"refused because a device was held: {refused}; killed before they had a lease: {early}")
    spread = ", ".join(
        f"{name} {1000 * quantile(free, q):.1f}" for name, q in (("median", 0.5), ("p99", 0.99))
    )
    print(f"free after the last kill, ms: {spread}, max {1000 * max(free, default=0):.1f}")
    for line in left:
        print(f"left: {line}")
    verdict = Verdict()
    verdict.most("devices of which more than the whole was held", twice, 0, ".0f")
    verdict.most(
        "devices free while the command of a killed holder lived", sum(c.lost for c in cycles), 0, ".0f"
    )
    verdict.most("longest time until a device was free (s)", max(free, default=0.0), LIMIT_S, ".3f")
    verdict.most("leaks", len(left), 0, ".0f")
    return verdict.end()


if __name__ == "__main__":
    sys.exit(main())
