"""Stacking real frames: four sets from real telescopes, which lie outside the project.

    python evaluation/stacking_real.py [--data DIR] [--keep DIR]

All frames of hatp32 (large drift, elongated stars), m94_osc (one-shot colour, few stars) and m13 (very faint)
must be registered; Siril's count is printed beside. decam (aligned, differing seeing) must become sharper
than the plain mean of its frames by at least 5 %, at no less than 0.97 of its SNR. Exits 1 if a limit is
missed, or if the frames are not there.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from stacking import judge, ours, siril
from stacking.verdict import Verdict, workplace
from stacking_quality import luminance, say

DATA = Path(__file__).parents[2] / "shared" / "data" / "frames"
SETS = ("hatp32", "m94_osc", "m13")
FWHM, SNR = 0.95, 0.97


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--keep", metavar="DIR", help="where to work, and leave everything")
    arguments = parser.parse_args()
    verdict = Verdict()
    with workplace(arguments.keep) as place:
        for name in (*SETS, "decam"):
            frames = sorted(path for path in (arguments.data / name).glob("*") if path.is_file())
            if not frames:
                verdict.absent(name, f"no frames in {arguments.data / name}")
                continue
            print(f"{name}: {len(frames)} frames", flush=True)
            run = ours.stack(
                place / name, {"lights": str(arguments.data / name), "mode": {"allow_few": True}}
            )
            table(run)
            verdict.least(f"{name}, frames registered", len(run.registered), len(frames), "d")
            if siril.available():
                theirs = siril.stack(frames, colour=name == "m94_osc")
                print(f"  Siril registers {theirs.registered} of {len(frames)}")
                compare(f"{name}, Siril", run, theirs)
            else:
                print(f"  {siril.MISSING}")
            if name == "decam":
                against_mean(run, frames, verdict)
    return verdict.end()


def table(run: ours.Run) -> None:
    """Print how each frame was registered."""
    for row in run.frames:
        print(
            f"    {row['name']:32} {row['status']:10} {row['method'] or row['reason']:12} "
            f"{row['matches']:>4} matches, residual {float(row['residual_px'] or 'nan'):.3f} px"
        )
    residuals = [float(row["residual_px"]) for row in run.frames if row["residual_px"]]
    print(f"  residuals: median {np.median(residuals):.3f} px, largest {max(residuals):.3f} px")


def compare(what: str, run: ours.Run, theirs: siril.Run) -> None:
    """Print how our stack compares with Siril's, as far as both can be judged."""
    if theirs.image is None:
        print("  Siril made no stack")
        return
    try:
        both = judge.compare(judge.prepare(luminance(run.image)), judge.prepare(luminance(theirs.image)))
    except ValueError as error:
        print(f"  {what}: cannot be compared: {error}")
        return
    say("ours", both.first)
    say("Siril", both.second)
    print(f"  over Siril's: FWHM {both.fwhm:.3f}, half-light radius {both.r50:.3f}, {snr(both)}")


def snr(both: judge.Comparison) -> str:
    """Both ways to compare signal-to-noise ratios."""
    return f"SNR {both.snr:.3f}, in apertures of one size {both.snr_same:.3f}"


def against_mean(run: ours.Run, frames: list[Path], verdict: Verdict) -> None:
    """Compare with the plain mean of frames that are aligned as they are."""
    from astropy.io import fits

    mean = np.mean([np.asarray(fits.getdata(frame), float) for frame in frames], axis=0)
    both = judge.compare(judge.prepare(run.image[0]), judge.prepare(mean))
    say("ours", both.first)
    say("plain mean", both.second)
    print(f"  over the plain mean: half-light radius {both.r50:.3f}, {snr(both)}")
    verdict.most("decam, FWHM over that of the plain mean", both.fwhm, FWHM, ".3f")
    verdict.least("decam, SNR over that of the plain mean", both.snr, SNR, ".3f")


if __name__ == "__main__":
    sys.exit(main())
