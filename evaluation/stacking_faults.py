"""Faults in a stack: kill -9 during every phase, every kind of file damaged between phases, a full disk.

    python evaluation/stacking_faults.py [--frames 40] [--mode full] [--every N] [--seed 1]

After each, plain calls of `snakemake` go on, and everything in stacking/outputs must come out as in an
undisturbed stack, byte for byte. A damaged file costs one call more: the first one that reads it names it,
removes it and fails. Damage is done loudly (the file gets a new modification time, as by a careless program)
and quietly (it keeps the old one, as by a failing disk); the lights themselves are damaged too, and put back.
Exits 1 if a result differs.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from stacking.workspace import PHASES, Workspace

from ripresa.families.stacking.simulation import simulate

QUICK = {"time_scale": 0.001}
KINDS = {
    "scan/*.json": "SCAN_INPUT",
    "scan/*.npz": "SCAN_INPUT",
    "reference/*.json": "REGISTRATION",
    "registration/*.json": "REGISTRATION",
    "registered/*.fits": "CHANNEL_SPLIT",
    "registered/*.npz": "CHANNEL_SPLIT",
    "normalization.npz": "NORMALIZATION",
    "global_metrics.npz": "GLOBAL_METRICS",
    "tile_grid.json": "TILE_GRID",
    "local_metrics.npz": "LOCAL_METRICS",
    "reconstruction/*.npz": "TILE_RECONSTRUCTION",
    "clusters.json": "STATE_CLUSTERING",
    "synthetic/*.npy": "SYNTHETIC_FRAMES",
}
"""The files between phases, with the phase after which they are damaged."""

Case = Callable[[], str | None]
"""Does something to a stack and goes on; gives back what is wrong with the result, if anything."""


@dataclass
class Bench:
    """A stack that was not disturbed, kept as it was after each phase, and a place to disturb copies."""

    directory: Path
    settings: dict[str, Any]
    rng: random.Random
    expected: dict[str, bytes] = field(default_factory=dict)
    bytes: int = 0

    def prepare(self) -> float:
        """Stack in one call; returns the seconds it took."""
        calm = Workspace(self.directory / "calm", self.settings, **QUICK)
        seconds = calm.finish()
        self.expected = calm.results()
        self.bytes = sum(path.stat().st_size for path in calm.run.rglob("*") if path.is_file())
        return seconds

    def at(self, phase: str | None) -> Workspace:
        """The stack as it was after a phase (None: before everything), always in the same place."""
        place = self.directory / "space"
        shutil.rmtree(place, ignore_errors=True)
        if phase is None:
            return Workspace(place, self.settings, **QUICK)
        kept = self.directory / "after"
        if not (kept / phase).exists():
            names = list(PHASES)[: list(PHASES).index(phase)]
            space = self.at(next((name for name in reversed(names) if (kept / name).exists()), None))
            space.finish("--until", phase)
            shutil.copytree(place, kept / phase, symlinks=True)
            return space
        shutil.copytree(kept / phase, place, symlinks=True)
        return Workspace(place, self.settings, **QUICK)

    def resumed(self, space: Workspace, calls: int = 1) -> str | None:
        """Go on with at most so many plain calls; None if the results are as expected."""
        for _ in range(calls):
            code, said = space.call()
            if not code:
                return self.compared(space)
        return f"snakemake failed: {said[-1500:]}"

    def compared(self, space: Workspace) -> str | None:
        results = space.results()
        if set(results) != set(self.expected):
            return f"there are {sorted(results)} instead of {sorted(self.expected)}"
        differ = [name for name in self.expected if results[name] != self.expected[name]]
        return f"{', '.join(differ)} differ" if differ else None

    # --- cases

    def chunks(self) -> str | None:
        space = Workspace(self.directory / "chunks", self.settings, **QUICK)
        space.finish("--set-scatter", "stacking=5", "--cores", "1")
        return self.compared(space)

    def killed(self, phase: str, *, alone: bool) -> str | None:
        """Kill the controller, or all processes, while a unit of a phase runs."""
        names = list(PHASES)
        before = names.index(phase)
        space = self.at(names[before - 1] if before else None)
        events = space.run / "logs" / "run_events.jsonl"
        old = events.stat().st_size if events.exists() else 0
        process = space.start()
        while not any(
            event["type"] == "unit_start" and event["rule"] == phase for event in new_events(events, old)
        ):
            if process.poll() is not None:
                return f"it never started: {process.communicate()[0][-1500:]}"
            time.sleep(0.005)
        time.sleep(self.rng.uniform(0, 0.5))
        controller = psutil.Process(process.pid)
        victims = [controller] if alone else [controller, *controller.children(recursive=True)]
        for victim in victims:
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                continue  # it was done
        process.communicate()
        return self.resumed(space)

    def damaged(self, kind: str, *, quietly: bool) -> str | None:
        """Change some bytes of a file between two phases."""
        space = self.at(KINDS[kind])
        victim = self.rng.choice(sorted(space.stacking.glob(kind)))
        flip(victim, self.rng, quietly=quietly)
        return self.resumed(space, calls=2)

    def light(self, lights: Path, *, how: str) -> str | None:
        """Damage a light between two phases: it must be named. Then put it back."""
        space = self.at("REGISTRATION")
        victim = sorted(lights.glob("*.fits"))[3]
        whole, about = victim.read_bytes(), victim.stat()
        if how == "cut short":
            victim.write_bytes(whole[: len(whole) // 2])
        else:
            flip(victim, self.rng, quietly=True)
        code, said = space.call()
        table = space.stacking / "outputs" / "frames.csv"
        named = victim.name in said or (not code and how == "cut short" and victim.name in excluded(table))
        victim.write_bytes(whole)
        if how != "cut short":
            os.utime(victim, ns=(about.st_atime_ns, about.st_mtime_ns))
        problem = self.resumed(space) if named else f"{victim.name} was not named (exit code {code})"
        os.utime(victim, ns=(about.st_atime_ns, about.st_mtime_ns))
        return problem

    def full_disk(self) -> str | None:
        """Stack on a disk that is too small, then on the same disk made larger."""
        place = self.directory / "small"
        place.mkdir()
        small = ["mount", "-t", "tmpfs", "-o", f"size={self.bytes // 2}", "tmpfs", str(place)]
        if subprocess.run(small, capture_output=True, check=False).returncode:
            return "not shown: no file system can be mounted here"
        try:
            space = Workspace(place / "space", self.settings, **QUICK)
            code, said = space.call()
            if code == 0:
                return "the disk was not full"
            if "no space" not in said.lower():
                return f"the cause was not said: {said[-800:]}"
            subprocess.run(["mount", "-o", f"remount,size={self.bytes * 4}", str(place)], check=True)
            return self.resumed(space)
        finally:
            subprocess.run(["umount", "-l", str(place)], check=False)

    def cases(self, lights: Path) -> Iterator[tuple[str, Case]]:
        """All that is done, with what it is."""
        for number, phase in enumerate(PHASES):
            alone = number % 2 == 0
            who = "the controller" if alone else "all processes"
            yield f"kill -9 of {who} during {phase}", lambda p=phase, a=alone: self.killed(p, alone=a)
        for kind, phase in KINDS.items():
            for quietly in (True, False):
                how = "quietly" if quietly else "loudly"
                yield (
                    f"{kind} {how} damaged after {phase}",
                    lambda k=kind, q=quietly: self.damaged(k, quietly=q),
                )
        for how in ("cut short", "quietly damaged"):
            yield f"a light {how} after REGISTRATION", lambda h=how: self.light(lights, how=h)
        yield "five chunks on one core", self.chunks
        yield "disk full", self.full_disk


def new_events(path: Path, old: int) -> Iterator[dict[str, Any]]:
    """The complete events behind the first ``old`` bytes."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(old)
        for line in file.read().split(b"\n")[:-1]:
            yield json.loads(line)


def excluded(table: Path) -> str:
    """The lines of the table of frames that tell of frames left out."""
    return "".join(line for line in table.read_text().splitlines() if ",excluded," in line)


def flip(path: Path, rng: random.Random, *, quietly: bool) -> None:
    """Change a few bytes of a file, but not in the padding at its end; quietly: with its old time."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    end = len(content) - 2880 if len(content) > 9000 else len(content)
    for at in rng.sample(range(end // 4, end), 16):
        content[at] ^= 0x55
    path.write_bytes(content)
    if quietly:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--width", type=int, default=900)
    parser.add_argument("--height", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", choices=["full", "reduced"], help="default: both")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th case")
    parser.add_argument("--only", default="", metavar="WORDS", help="only cases whose name has these words")
    arguments = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        lights = Path(name) / "lights"
        size = {"width": arguments.width, "height": arguments.height}
        simulate({"frames": arguments.frames, **size, "seed": 1, "stars": None, "bayer": None}, str(lights))
        for mode in [arguments.mode] if arguments.mode else ["full", "reduced"]:
            full_from = 2 if mode == "full" else arguments.frames + 1
            settings = {
                "lights": str(lights),
                "mode": {"allow_few": True, "full_from": full_from},
                "chunks": 2,
            }
            rng = random.Random(arguments.seed)
            bench = Bench(Path(name) / mode, settings, rng)
            seconds = bench.prepare()
            print(f"{mode} mode, undisturbed: {arguments.frames} frames in {seconds:.1f} s", flush=True)
            for number, (what, case) in enumerate(bench.cases(lights)):
                if number % arguments.every == 0 and arguments.only in what:
                    problem = case()
                    print(f"  {what}: {problem or 'same bytes'}", flush=True)
                    wrong += problem is not None
            shutil.rmtree(bench.directory)
    print("verdict:", f"missed ({wrong})" if wrong else "met")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
