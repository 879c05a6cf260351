"""Restart from a phase: after a stack in full mode, `snakemake --forcerun PHASE` for each of the eleven.

Checked by the clock, by the modification times of every file, and by the access times of the raw and the
registered frames: a phase and the later ones are written anew, nothing before is, and STACKING reads no
frame. Then the same in reduced mode.
"""

import argparse
import os
import resource
import sys
import tempfile
from pathlib import Path

from stacking.workspace import PHASES, Workspace

from ripresa.families.stacking.simulation import simulate

LIMIT_S = 3.0
REGISTERED = PHASES["CHANNEL_SPLIT"][0]


def forget(paths: list[Path]) -> None:
    """Set access times back, so that any reading shows (also where they are kept only roughly)."""
    for path in paths:
        os.utime(path, ns=(0, path.stat().st_mtime_ns))


def was_read(paths: list[Path]) -> list[str]:
    return [path.name for path in paths if path.stat().st_atime_ns != 0]


def restarts(space: Workspace, lights: Path, every: int, limit_s: float) -> list[str]:
    """Restart from every phase, or each ``every``-th one before the last; returns what was wrong."""
    wrong = []
    frames = [*sorted(lights.glob("*.fits")), *(space.stacking / REGISTERED).glob("*.fits")]
    frames[0].open("rb").read(1)
    for number, phase in enumerate(PHASES):
        if (len(PHASES) - 1 - number) % every:
            continue
        before = space.written()
        forget(frames)
        cpu = cpu_seconds()
        seconds = space.finish("--forcerun", phase)
        cpu = cpu_seconds() - cpu
        read, after = was_read(frames), space.written()
        anew = [name for name in PHASES if after[name] != before[name]]
        partly = [
            name for name in anew if any(after[name][file] == time for file, time in before[name].items())
        ]
        print(f"  {number:2} {phase:20} {seconds:6.2f} s, of CPU {cpu:5.2f} s; ", end="")
        print(f"wrote {', '.join(anew) or 'nothing'}", flush=True)
        if anew != list(PHASES)[number:] or partly:
            wrong.append(f"{phase}: wrote {anew}, of {partly} only a part")
        if phase == "STACKING" and read:
            wrong.append(f"STACKING read {len(read)} frames: {read[:3]}")
        if phase == "STACKING":
            again = min(seconds, *(space.finish("--forcerun", phase) for _ in range(2)))
            print(f"     best of three {again:.2f} s (limit {limit_s} s); frames read: {len(read)}")
            if again > limit_s:
                wrong.append(f"STACKING took {again:.2f} s")
    return wrong


def cpu_seconds() -> float:
    """Used by all calls so far; other than the clock, it hardly depends on what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def access_times_work(directory: Path) -> bool:
    probe = directory / "probe"
    probe.write_text("x")
    forget([probe])
    probe.read_text()
    return bool(was_read([probe]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=422)
    parser.add_argument("--reduced-frames", type=int, default=60)
    parser.add_argument("--width", type=int, default=1500)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="only the last phase and each N-th one before"
    )
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds that STACKING may take")
    arguments = parser.parse_args()
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if not access_times_work(directory):
            wrong.append("this file system keeps no access times: that no frame is read was not shown")
        for mode, count in (("full", arguments.frames), ("reduced", arguments.reduced_frames)):
            lights = directory / f"lights-{mode}"
            size = {"width": arguments.width, "height": arguments.height}
            simulate({"frames": count, **size, "seed": 1, "stars": None, "bayer": None}, str(lights))
            limits = {"allow_few": True, "full_from": 2 if mode == "full" else count + 1}
            space = Workspace(directory / mode, {"lights": str(lights), "mode": limits})
            seconds = space.finish()
            what = f"{count} frames of {arguments.width}x{arguments.height}"
            print(f"{mode} mode, {what}: {seconds:.1f} s from scratch", flush=True)
            results = space.results()
            wrong += [
                f"{mode} mode: {line}" for line in restarts(space, lights, arguments.every, arguments.limit)
            ]
            if space.results() != results:
                wrong.append(f"{mode} mode: the results differ after the restarts")
    for line in wrong:
        print(f"WRONG: {line}")
    print("verdict:", "missed" if wrong else "met")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
