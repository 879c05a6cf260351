"""Experiments killed with -9 at random: their table must not differ, and next to nothing be computed twice.

The same sweep on digits runs twice: undisturbed, and with kill -9 of the controller, of its process group, of
a guard, of the processes of an experiment, or of all of that at once, until it is complete. Every resume is
the same plain call. A witness that shares nothing with checkpoints notes by itself when a process begins a
round of training, when a client has trained and when the round is computed: a `sitecustomize.py` wraps the
functions that do so.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from workspace import RUN, Workspace, section

from ripresa.families.experiments.plan import phases
from ripresa.families.experiments.table import load
from ripresa.journal import leases, records
from ripresa.journal.paths import Run

WITNESS = """
import os, sys
if any(word.endswith("experiment_run.py") for word in sys.orig_argv):
    from ripresa.families.experiments.federated import Federation
    train, merge, begun = Federation.train, Federation.merge, 0
    def note(what, number, client="-"):
        target, group = os.environ["RIPRESA_TARGET"], os.getpgrp()
        fd = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{what} {target} {number} {client} {group}\\n".encode())
        os.close(fd)
    def trained(self, number, client, weights):
        global begun
        if begun != number:
            note("begun", number)
            begun = number
        sent = train(self, number, client, weights)
        note("trained", number, client)
        return sent
    def merged(self, number, *clients):
        computed = merge(self, number, *clients)
        note("computed", number)
        return computed
    Federation.train, Federation.merge = trained, merged
"""
TABLE = f"runs/{RUN}/experiments/storm/results.csv"
KINDS = ("controller", "controller and guards", "a guard", "an experiment", "everything")


def sweep(experiments: int, rounds: int) -> dict[str, Any]:
    """A phase of so many experiments of a second or so each."""
    settings = {"rounds": rounds, "patience": rounds, "width_factor": 32, "depth": 2, "local_epochs": 3}
    product = {"poison_ratio": [0, 0.5, 0.875], "aggregator": ["fedavg", "median"]}
    return section(
        defaults=settings,
        seeds=list(range(-(-experiments // 6))),
        phases={"storm": {"sweep": {"product": product}}},
    )


class Study:
    """A workspace whose experiments are witnessed."""

    def __init__(self, directory: Path, experiments: dict[str, Any]) -> None:
        self.workspace = Workspace(directory, experiments, time_scale=0.001)
        self.witness = directory / "rounds.log"
        (directory / "witness").mkdir()
        (directory / "witness" / "sitecustomize.py").write_text(WITNESS)
        path = os.pathsep.join(filter(None, [str(directory / "witness"), os.environ.get("PYTHONPATH")]))
        self.environment = {"PYTHONPATH": path, "WITNESS": str(self.witness)}
        self.run = Run(self.workspace.run)

    def start(self) -> "subprocess.Popen[str]":
        """Call snakemake."""
        return self.workspace.start(TABLE, **self.environment)

    def table(self) -> dict[str, bytes]:
        """The tables of the phase, byte for byte."""
        folder = self.workspace.run / "experiments" / "storm"
        return {name: (folder / name).read_bytes() for name in ("results.csv", "summary.csv")}

    def noted(self) -> list[list[str]]:
        """What the witness saw: begun, trained or computed, target, round, client, process group."""
        if not self.witness.exists():
            return []
        return [line.split() for line in self.witness.read_text().splitlines()]


def training(study: Study) -> list[dict[str, Any]]:
    """The owners of the leases of experiments that have begun a round."""
    try:
        names = os.listdir(study.run.leases)
    except FileNotFoundError:
        return []
    seen = {group for *_, group in study.noted()}
    owners = (leases.owner(f"{study.run.leases}/{name}") for name in names)
    return [owner for owner in owners if owner and str(owner.get("group")) in seen]


def strike(kind: str, controller: int, owners: list[dict[str, Any]], rng: random.Random) -> None:
    """Kill with -9; what is gone already needs no killing."""
    victims = owners if kind == "everything" else [rng.choice(owners)]
    with suppress(ProcessLookupError):
        if kind == "controller":
            os.kill(controller, signal.SIGKILL)
        elif kind in ("controller and guards", "everything"):
            os.killpg(controller, signal.SIGKILL)
    for owner in victims:
        with suppress(ProcessLookupError):
            if kind == "a guard":
                os.kill(owner["pid"], signal.SIGKILL)
            elif kind in ("an experiment", "everything"):
                os.killpg(owner["group"], signal.SIGKILL)


def storm(study: Study, most: int, longest_s: float, rng: random.Random) -> Counter[str]:
    """Run a study to its end, killing at random up to so many times; counts the kills."""
    done: Counter[str] = Counter()
    kinds: list[str] = []
    controller = study.start()
    while True:
        try:
            # Not before there is something to kill: the start of snakemake takes a second of its own.
            said = controller.communicate(
                timeout=rng.uniform(0.2, longest_s) if sum(done.values()) < most else 600
            )[0]
        except subprocess.TimeoutExpired:
            if owners := training(study):
                kinds = kinds or rng.sample(KINDS, len(KINDS))
                kind = kinds.pop()
                strike(kind, controller.pid, owners, rng)
                done[kind] += 1
            continue
        if controller.returncode == 0:
            return done
        if controller.returncode > 0 and not done:
            raise SystemExit(f"the study failed by itself:\n{said[-6000:]}")
        controller = study.start()


def verdict(calm: Study, stormy: Study, experiments: dict[str, Any]) -> bool:
    """Print what became of the stormy study; whether it is as good as the other one."""
    (phase,) = phases(experiments)
    same = calm.table() == stormy.table()
    seen: Counter[tuple[str, str, str, str]] = Counter()
    processes: dict[str, set[str]] = {}  # the process groups of each
    for what, target, number, client, group in stormy.noted():
        seen[what, target, number, client] += 1
        processes.setdefault(target, set()).add(group)
    rounds = {target: load(stormy.run.path(target))["rounds_run"] for target in processes}

    def repeated(what: str) -> dict[str, int]:
        """How often each experiment did it again."""
        return {
            target: sum(n - 1 for (*key, _, _), n in seen.items() if key == [what, target])
            for target in processes
        }

    begun, trained, computed = map(repeated, ("begun", "trained", "computed"))
    more = [target for target in processes if begun[target] > len(processes[target]) - 1]
    clients = next(iter(phase.experiments.values()))["clients"]
    complete = Counter(target for what, target, *_ in seen if what == "computed") == Counter(rounds)
    outcomes: Counter[str] = Counter()
    for target in rounds:
        outcomes.update(str(record["outcome"]) for record in records.read(stormy.run.attempts(target)))
    interruptions = sum(len(groups) - 1 for groups in processes.values())
    print(f"attempt records {dict(outcomes)}; processes of experiments that were killed: {interruptions}")
    print(f"rounds {sum(rounds.values())}, begun again after a kill: {sum(begun.values())}")
    print(
        f"of one experiment at most {max(begun.values())} rounds were begun again, and clients trained twice "
        f"for {max(trained.values()) / clients:.1f} rounds at most"
    )
    checks = {
        "tables equal to the undisturbed ones, byte for byte": same,
        f"all {len(phase.experiments)} experiments witnessed, every round of each computed": len(rounds)
        == len(phase.experiments)
        and complete,
        "no experiment began more than one round again for each time it was killed": not more,
        "no experiment had computed more than one round to its end twice": max(computed.values()) <= 1,
        "experiments were killed in the middle of their training": interruptions > 0,
    }
    for what, met in checks.items():
        print(f"  {'met   ' if met else 'MISSED'} {what}")
    return all(checks.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--longest", type=float, default=1.5, help="seconds between two kills at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="6 experiments, 6 kills")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.experiments, arguments.kills, arguments.longest = 6, 6, 0.8
    experiments = sweep(arguments.experiments, arguments.rounds)
    with tempfile.TemporaryDirectory() as root:
        calm, stormy = (Study(Path(root) / name, experiments) for name in ("calm", "stormy"))
        began = time.perf_counter()
        calm.workspace.finish(TABLE, **calm.environment)
        undisturbed, began = time.perf_counter() - began, time.perf_counter()
        kills = storm(stormy, arguments.kills, arguments.longest, random.Random(arguments.seed))
        took = time.perf_counter() - began
        print(
            f"undisturbed {undisturbed:.1f} s; with {sum(kills.values())} kills {took:.1f} s: {dict(kills)}"
        )
        good = verdict(calm, stormy, experiments)
    print("verdict:", "met" if good else "missed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
