"""Faults in a stack: kill -9 during every phase, files damaged between phases, a full disk.

After each, the same plain call goes on, and everything in stacking/outputs must come out as in an undisturbed
stack, byte for byte.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stacking.workspace import PHASES, Workspace

from ripresa.families.stacking.simulation import simulate

QUICK = {"time_scale": 0.001}


def kill_during(space: Workspace, phase: str, rng: random.Random) -> str:
    """Kill the controller, every second time with its whole session, while a unit of a phase runs."""
    process = space.start()
    began = f'"rule": "{phase}"'
    events = space.run / "logs" / "run_events.jsonl"
    alone = rng.random() < 0.5
    while process.poll() is None:
        lines = events.read_text(errors="replace").splitlines() if events.exists() else []
        if any('"unit_start"' in line and began in line.replace('":"', '": "') for line in lines):
            break
        time.sleep(0.005)
    else:
        raise SystemExit(f"{phase} never started:\n{process.communicate()[0][-3000:]}")
    time.sleep(rng.uniform(0, 0.3))
    if alone:
        process.kill()
    else:
        subprocess.run(["pkill", "-KILL", "-s", str(os.getsid(process.pid))], check=False)
        process.kill()
    process.wait()
    return "the controller" if alone else "the controller and its children"


def resumed(space: Workspace, expected: dict[str, bytes], calls: int = 1) -> str | None:
    """Go on with at most so many plain calls; None if the results are as expected."""
    said = ""
    for _ in range(calls):
        code, said = space.call()
        if not code:
            break
    else:
        return f"snakemake failed: {said[-1500:]}"
    results = space.results()
    if set(results) != set(expected):
        return f"there are {sorted(results)} instead of {sorted(expected)}"
    differ = [name for name in expected if results[name] != expected[name]]
    return f"{', '.join(differ)} differ" if differ else None


def flip(path: Path, rng: random.Random, *, quietly: bool) -> None:
    """Change a few bytes in the second half of a file; quietly: its modification time stays."""
    before = path.stat()
    with path.open("r+b") as file:
        for _ in range(16):
            file.seek(
                rng.randrange(
                    before.st_size // 2, before.st_size - 2880 if before.st_size > 9000 else before.st_size
                )
            )
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 0x55]))
    if quietly:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def damage(space: Workspace, phase: str, rng: random.Random) -> str:
    """Run up to a phase, then damage one of its files."""
    space.finish("--until", phase)
    path = rng.choice(space.files(phase))
    flip(path, rng, quietly=rng.random() < 0.5)
    return str(path.relative_to(space.stacking))


def raw_frame(space: Workspace, lights: Path, expected: dict[str, bytes]) -> str | None:
    """A light that is cut short between two phases is named; when it is back, the result is as before."""
    space.finish("--until", "REGISTRATION")
    victim = sorted(lights.glob("*.fits"))[3]
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    code, said = space.call()
    victim.write_bytes(whole)
    if victim.name not in said and not any(
        victim.name in path.read_text(errors="replace") for path in (space.stacking / "outputs").glob("*.csv")
    ):
        return f"{victim.name} was not named (exit code {code})"
    return resumed(space, expected)


def full_disk(
    directory: Path, make: Callable[[Path], Workspace], expected: dict[str, bytes], need: int
) -> str | None:
    """Stack on a disk that is too small, then on the same disk made larger."""
    directory.mkdir()
    small = ["mount", "-t", "tmpfs", "-o", f"size={need // 2}", "tmpfs", str(directory)]
    if subprocess.run(small, capture_output=True, check=False).returncode:
        return "not shown: no file system can be mounted here"
    try:
        space = make(directory / "space")
        code, said = space.call()
        if code == 0:
            return "the disk was not full"
        if "No space left" not in said:
            return f"the cause was not said: {said[-800:]}"
        subprocess.run(["mount", "-o", f"remount,size={need * 4}", str(directory)], check=True)
        return resumed(space, expected)
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--width", type=int, default=900)
    parser.add_argument("--height", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--full-from", type=int, default=2, help="2: full mode; more than --frames: reduced mode"
    )
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    wrong = []

    def verdict(what: str, problem: str | None) -> None:
        print(f"  {what}: {problem or 'same bytes'}", flush=True)
        if problem:
            wrong.append(f"{what}: {problem}")

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        lights = directory / "lights"
        size = {"width": arguments.width, "height": arguments.height}
        simulate({"frames": arguments.frames, **size, "seed": 1, "stars": None, "bayer": None}, str(lights))
        settings = {"lights": str(lights), "mode": {"allow_few": True, "full_from": arguments.full_from}}

        def make(path: Path) -> Workspace:
            return Workspace(path, settings, **QUICK)

        calm = make(directory / "calm")
        seconds = calm.finish()
        expected = calm.results()
        need = sum(path.stat().st_size for path in calm.run.rglob("*") if path.is_file())
        print(f"undisturbed: {arguments.frames} frames in {seconds:.1f} s, {len(expected)} results")
        other = make(directory / "other")
        other.finish("--set-scatter", "stacking=5", "--cores", "1")
        verdict("five chunks on one core", None if other.results() == expected else "differ")
        for phase in PHASES:
            space = make(directory / "killed")
            who = kill_during(space, phase, rng)
            verdict(f"kill -9 of {who} during {phase}", resumed(space, expected))
            shutil.rmtree(space.directory)
        for phase in list(PHASES)[:-1]:
            space = make(directory / "damaged")
            path = damage(space, phase, rng)
            verdict(f"{path} damaged after {phase}", resumed(space, expected, calls=2))
            shutil.rmtree(space.directory)
        verdict("a light cut short after REGISTRATION", raw_frame(make(directory / "raw"), lights, expected))
        verdict("disk full", full_disk(directory / "small", make, expected, need))
    print("verdict:", f"missed ({len(wrong)})" if wrong else "met")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
