"""The reference: the frame whose pixel grid the stack has, and whose stars all others are matched to.

Chosen by quality and by its place in the drift, so that neither the order of the frames nor their names
matter.
"""

import math
from collections import Counter
from typing import Any

import numpy as np

from ripresa.families.stacking import StackingError, matching, startable, tables, transforms
from ripresa.families.stacking.plan import check_number
from ripresa.families.stacking.startable import FrameStars

BRIGHT = 30  # stars whose signal-to-noise ratio is that of the frame
CANDIDATES = 8  # the best frames, of which the one most central in the drift is taken
SAMPLE = 12  # frames, evenly over the night, that tell the drift
OVERLAP_POWER = 1.5  # of the overlap beside the quality
STARS = 400


def choose(star_tables: list[str], settings: dict[str, Any], output: str) -> None:
    """Choose the reference among the frames of some tables of the scan and write it to ``output`` (JSON).

    ``settings`` has reference (a frame's name or the last part of it, or None) and may have mode. The
    document holds the facts of the frame, channels, stars {x, y, flux, snr, fwhm, r50} (brightest first),
    hot_index (its pixels to repair), fwhm_px (median over all frames), frames (how many of its size and kind
    are usable) and mode ("full", "reduced", or None without that setting).

    Raises StackingError if the wanted frame is not there or cannot be used, or if there are too few frames.
    """
    found = [(frame, path) for path in star_tables for frame in startable.read(path)]
    frames = sorted((frame for frame, _ in found), key=lambda frame: frame.name)
    table = {frame.name: path for frame, path in found}
    usable = [frame for frame in frames if frame.ok]
    if not usable:
        reasons = Counter(str(frame.facts["reason"]) for frame in frames)
        why = f"; most often: {reasons.most_common(1)[0][0]}" if reasons else ""
        raise StackingError(f"none of {len(frames)} frames can be used{why}")
    wanted = settings.get("reference")
    named = _named(frames, wanted) if wanted else None
    alike = _largest_group(usable, named)
    mode = settings.get("mode")
    if mode:
        check_number(len(alike), mode, f"usable frames of {_described(alike[0])} were found")
    chosen = named or _best(alike)
    document = {
        **chosen.facts,
        "channels": ["L"] if chosen.facts["kind"] == "mono" else ["R", "G", "B"],
        "stars": {
            column: getattr(chosen, column)[:STARS].tolist()
            for column in ("x", "y", "flux", "snr", "fwhm", "r50")
        },
        "hot_index": startable.bad_pixels(table[chosen.name], chosen.name).tolist(),
        "fwhm_px": _median_fwhm(alike),
        "frames": len(alike),
        "mode": ("full" if len(alike) >= mode["full_from"] else "reduced") if mode else None,
    }
    tables.write_json(output, document)


def group(facts: dict[str, Any]) -> tuple[Any, ...]:
    """What frames must share to be stacked together: kind, Bayer pattern, width, height."""
    return facts["kind"], facts["bayer"], facts["width"], facts["height"]


def _described(frame: FrameStars) -> str:
    facts = frame.facts
    return f"{facts['width']}x{facts['height']} px {facts['bayer'] or facts['kind']}"


def _named(frames: list[FrameStars], wanted: str) -> FrameStars:
    found = [frame for frame in frames if frame.name == wanted or frame.name.rpartition("/")[2] == wanted]
    if len(found) != 1:
        raise StackingError(
            f"stacking.reference: {wanted!r} names {len(found)} of {len(frames)} frames; "
            "give the name of one as the manifest of the frames has it"
        )
    if not found[0].ok:
        raise StackingError(
            f"stacking.reference: {wanted!r} cannot be used: {found[0].facts['reason']}; name another frame"
        )
    return found[0]


def _largest_group(frames: list[FrameStars], named: FrameStars | None) -> list[FrameStars]:
    """The frames that can be stacked together: with the named one, else the most, else those first by
    name."""
    if named is not None:
        return [frame for frame in frames if group(frame.facts) == group(named.facts)]
    counts = Counter(group(frame.facts) for frame in frames)
    most = max(counts.values())
    first = next(frame for frame in frames if counts[group(frame.facts)] == most)
    return [frame for frame in frames if group(frame.facts) == group(first.facts)]


def _median_fwhm(frames: list[FrameStars]) -> float | None:
    sizes = [float(np.median(frame.fwhm)) for frame in frames if len(frame)]
    return float(np.median(sizes)) if sizes else None


def _quality(frame: FrameStars) -> float:
    """ln of a figure of merit: signal-to-noise ratio of the bright stars (which holds transparency, noise and
    seeing), once more the seeing, roundness, and the root of the number of stars."""
    if len(frame) < 3:
        return -math.inf if not len(frame) else -100.0
    depth = float(np.median(frame.snr[:BRIGHT]))
    size = float(np.median(frame.fwhm))
    shape = float(np.median(frame.elongation))
    return math.log(depth) - math.log(size) - math.log(shape) + 0.5 * math.log(len(frame))


def _best(frames: list[FrameStars]) -> FrameStars:
    """The best frame; among good ones that with the largest overlap with the others."""
    quality = {frame.name: _quality(frame) for frame in frames}
    ranked = sorted(frames, key=lambda frame: (-quality[frame.name], frame.name))
    first = ranked[0]
    candidates = ranked[:CANDIDATES]
    points = first.points()
    width, height = first.facts["width"], first.facts["height"]

    def placed(frame: FrameStars) -> transforms.Matrix | None:
        if frame is first:
            return transforms.identity()
        found = matching.match(points, frame.points(), width, height)
        return found.to_frame if found else None

    in_time = sorted(frames, key=lambda frame: (frame.facts.get("date_obs") or "", frame.name))
    sample = [in_time[i] for i in np.unique(np.linspace(0, len(in_time) - 1, SAMPLE).round().astype(int))]
    drift = [matrix for frame in sample if (matrix := placed(frame)) is not None]

    def merit(frame: FrameStars) -> float:
        matrix = placed(frame)
        if matrix is None or not drift:
            return -math.inf if frame is not first else quality[frame.name]
        back = transforms.invert(matrix)
        shared = [transforms.overlap(transforms.compose(other, back), width, height) for other in drift]
        return quality[frame.name] + OVERLAP_POWER * math.log(max(float(np.mean(shared)), 0.01))

    return min(candidates, key=lambda frame: (-merit(frame), frame.name))
