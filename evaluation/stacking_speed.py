"""The speed of stacking: whole `snakemake` calls against Siril's registration and winsorized stack.

    python evaluation/stacking_speed.py [--frames 60,200,400] [--rounds 3] [--keep DIR]

Simulated mono frames of 1500x1000, the hard kind (300 hot pixels, trails, drift, rotation, a meridian flip).
Ours and Siril's runs alternate, after one of each that does not count; the median of each counts. Up to 100
frames may take 1.5 times Siril's time, 200 no longer than Siril. Also judged: the cost per frame must not
grow with their number, no process of ours may have more than 300 MB at 200 frames or more, and the run may
take 2.5 times the disk space of the frames. Siril is compared up to 200 frames. Exits 1 if a limit is missed,
or if Siril is not there.
"""

import argparse
import shutil
import statistics
import sys
from pathlib import Path

from stacking import ours, siril
from stacking.memory import size
from stacking.verdict import Verdict, workplace

from ripresa.families.stacking.simulation import simulate

FEW, RATIO_FEW, RATIO = 100, 1.5, 1.0
COMPARED = 200
MEMORY_MB, MEMORY_FROM = 300, 200
DISK = 2.5
FLAT = 1.10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", default="60,200,400", help="numbers of frames")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=1500)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cores", type=int, help="of ours; all if not given")
    parser.add_argument("--keep", metavar="DIR", help="where to work, and leave everything")
    arguments = parser.parse_args()
    verdict, costs = Verdict(), {}
    if not siril.available():
        verdict.absent("speed against Siril", siril.MISSING)
    with workplace(arguments.keep) as place:
        for count in sorted(map(int, arguments.frames.split(","))):
            costs[count] = measure(count, arguments, place, verdict)
    numbers = sorted(costs)
    print("cost per frame: " + ", ".join(f"{costs[n] * 1000:.0f} ms of {n}" for n in numbers))
    if len(numbers) > 1:
        least = min(costs[n] for n in numbers[:-1])
        verdict.most(
            f"cost of each of {numbers[-1]} frames over that of fewer", costs[numbers[-1]] / least, FLAT
        )
    return verdict.end()


def measure(count: int, arguments: argparse.Namespace, place: Path, verdict: Verdict) -> float:
    """All runs with so many frames; returns the seconds a frame."""
    lights = place / f"lights-{count}"
    shape = {"width": arguments.width, "height": arguments.height}
    simulate({"frames": count, **shape, "seed": arguments.seed}, lights)
    frames = sorted(lights.glob("*.fits"))
    print(f"{count} frames of {arguments.width}x{arguments.height}, {size(lights) / 1e6:.0f} MB", flush=True)
    compared = siril.available() and count <= COMPARED
    mine: list[ours.Run] = []
    theirs: list[siril.Run] = []
    for number in range(arguments.rounds + 1):
        directory = place / f"stack-{count}"
        shutil.rmtree(directory, ignore_errors=True)
        mine.append(
            ours.stack(directory, {"lights": str(lights), "mode": {"allow_few": True}}, arguments.cores)
        )
        line = f"  {'warm-up' if not number else f'round {number}'}: ours {mine[-1].seconds:.2f} s"
        line += f" ({mine[-1].cpu_s:.1f} s CPU)"
        if compared:
            theirs.append(one := siril.stack(frames))
            line += (
                f", Siril {one.seconds:.2f} s (register {one.register_s:.2f}, stack {one.stack_s:.2f}, "
                f"{one.cpu_s:.1f} s CPU, {one.failed} frames lost, {one.memory_mb:.0f} MB)"
            )
        print(line, flush=True)
    seconds = statistics.median(one.seconds for one in mine[1:])
    print(f"  ours: {seconds:.2f} s, {len(mine[-1].registered)} of {count} frames registered")
    if compared:
        reference = statistics.median(one.seconds for one in theirs[1:])
        limit = RATIO_FEW if count < FEW else RATIO
        verdict.most(f"{count} frames, seconds over Siril's {reference:.2f}", seconds / reference, limit)
    most = max(mine, key=lambda one: one.memory_mb)
    print(f"  most memory: {most.memory_mb:.0f} MB in {most.largest.strip()}")
    if count >= MEMORY_FROM:
        verdict.most(f"{count} frames, MB of the largest process", most.memory_mb, MEMORY_MB, ".0f")
    verdict.most(
        f"{count} frames, disk of the run over that of the frames", mine[-1].disk / size(lights), DISK
    )
    if not arguments.keep:
        shutil.rmtree(lights)
        shutil.rmtree(place / f"stack-{count}")
    return seconds / count


if __name__ == "__main__":
    sys.exit(main())
