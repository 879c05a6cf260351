"""The quality of stacking: ours against Siril's winsorized stack, our own without weights, and the truth.

    python evaluation/stacking_quality.py [--frames 60] [--seed 1] [--bayer RGGB] [--keep DIR]

Simulated frames of 1500x1000, the hard kind. The same lonely, unsaturated stars are judged in both stacks:
FWHM by Moffat profiles, SNR in apertures of one size against the scatter of empty apertures. Limits: SNR at
least 0.98 times Siril's, FWHM at most 0.90 times Siril's and 0.95 times that of our stack without weights;
transforms right within 0.05 px (median) and 0.2 px (largest); light of bright stars within 1 % RMS; no pixel
outside stars off by more than 8 sigma. Exits 1 if a limit is missed, or if Siril is not there.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from stacking import judge, ours, siril, truth
from stacking.verdict import Verdict, workplace

from ripresa.families.stacking.simulation import Truth, simulate

SNR, FWHM, FWHM_UNWEIGHTED = 0.98, 0.90, 0.95
TRANSFORM_MEDIAN_PX, TRANSFORM_MAX_PX = 0.05, 0.2
FLUX_RMS = 0.01


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--width", type=int, default=1500)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stars", type=int)
    parser.add_argument("--bayer", choices=["RGGB", "BGGR", "GBRG", "GRBG"])
    parser.add_argument("--keep", metavar="DIR", help="where to work, and leave everything")
    arguments = parser.parse_args()
    verdict = Verdict()
    with workplace(arguments.keep) as place:
        lights = place / "lights"
        keys = ("frames", "width", "height", "seed", "stars", "bayer")
        known = simulate({key: getattr(arguments, key) for key in keys}, lights)
        settings = {"lights": str(lights), "mode": {"allow_few": True}}
        weighted = ours.stack(place / "weighted", settings)
        plain = ours.stack(place / "unweighted", settings | {"weighting": "none"})
        print(f"{arguments.frames} frames, {len(weighted.registered)} registered, {weighted.seconds:.1f} s")
        mine = judge.prepare(luminance(weighted.image))
        against_plain = judge.compare(mine, judge.prepare(luminance(plain.image)))
        say("ours", against_plain.first)
        say("ours without weights", against_plain.second)
        verdict.most("FWHM over that without weights", against_plain.fwhm, FWHM_UNWEIGHTED, ".3f")
        print(f"            SNR over that without weights: {against_plain.snr:.3f}")
        if siril.available():
            against_siril(mine, lights, known, verdict)
        else:
            verdict.absent("quality against Siril", siril.MISSING)
        against_truth(weighted, known, against_plain.first.fwhm_px, verdict)
    return verdict.end()


def luminance(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the colours [C, H, W], each in units of its noise, so that no scale of a colour matters."""
    if len(image) == 1:
        return image[0]
    noise = [np.nanmedian(np.abs(np.diff(one, axis=1))) for one in image]
    return np.asarray(sum(one / scale for one, scale in zip(image, noise, strict=True)))


def say(what: str, figures: judge.Figures) -> None:
    """Print the figures of one stack."""
    print(
        f"  {what}: FWHM {figures.fwhm_px:.3f} px (Gaussian {figures.gaussian_fwhm_px:.3f}), half the light "
        f"in {figures.r50_px:.3f} px, ellipticity {figures.ellipticity:.3f}, "
        f"median SNR {np.median(figures.snr):.1f}; {len(figures.snr)} stars",
        flush=True,
    )


def against_siril(mine: judge.Stack, lights: Path, known: Truth, verdict: Verdict) -> None:
    """Compare with Siril's stack of the same frames, and that with the truth as well."""
    run = siril.stack(sorted(lights.glob("*.fits")), colour=bool(known.settings.bayer))
    if run.image is None:
        verdict.absent("quality against Siril", f"Siril made no stack: {run.said[-300:]}")
        return
    theirs = judge.prepare(luminance(run.image))
    both = judge.compare(mine, theirs)
    say("Siril", both.second)
    print(
        f"  {run.registered} frames registered by Siril; Gaussian FWHM over Siril's "
        f"{both.gaussian_fwhm:.3f}, half-light radius {both.r50:.3f}"
    )
    verdict.least("star SNR over Siril's", both.snr, SNR, ".3f")
    verdict.most("FWHM over Siril's", both.fwhm, FWHM, ".3f")
    try:
        # Siril's reference is its first frame.
        first = known.frames[0].name
        image = truth.upright(run.image[0], known, first)
        light = truth.photometry(image, known, first, both.second.fwhm_px)
        off = truth.pixels(image, known, first, [frame.name for frame in known.frames], light.factor)
        print(
            f"  Siril against the truth: light {light.rms:.2%} RMS; "
            f"{off.off} pixels off, by up to {off.largest:.0f} sigma"
        )
    except ValueError as error:
        print(f"  Siril against the truth: {error}")


def against_truth(run: ours.Run, known: Truth, fwhm_px: float, verdict: Verdict) -> None:
    """Compare with what is true about the frames, colour by colour."""
    errors = truth.transforms(known, run.reference, run.transforms())
    print(f"  transforms of {errors.frames} frames, the worst of {errors.worst}")
    verdict.most("error of positions, px, median", errors.median_px, TRANSFORM_MEDIAN_PX, ".4f")
    verdict.most("error of positions, px, largest", errors.max_px, TRANSFORM_MAX_PX, ".3f")
    for channel, colour in enumerate(known.settings.channels):
        light = truth.photometry(run.image[channel], known, run.reference, fwhm_px, channel)
        print(f"  {colour}: {light.stars} stars measured, whose noise alone is {light.noise:.2%}")
        verdict.most(f"{colour}, light of stars, RMS", light.rms, FLUX_RMS, ".2%")
        off = truth.pixels(run.image[channel], known, run.reference, run.registered, light.factor, channel)
        print(
            f"  {colour}: {off.judged:.1%} of the pixels judged; largest deviation {off.largest:.1f} sigma "
            f"at {off.where}, smoothed {off.smooth:.2f}; {off.off_where_few} are off where few frames reach"
        )
        verdict.most(f"{colour}, pixels off by more than 8 sigma", off.off, 0, "d")
        verdict.most(f"{colour}, pixels without a value though frames reach them", off.empty, 0, "d")


if __name__ == "__main__":
    sys.exit(main())
