"""Phase 1: the transform from the reference's pixels to those of every frame of a chunk.

Each frame is compared with the reference alone, so the result does not depend on how frames are divided.
Pixels are read only of frames that their stars cannot place well.
"""

from typing import Any

import numpy as np

from ripresa.families.stacking import matching, startable, tables, transforms
from ripresa.families.stacking.matching import Match, Points
from ripresa.families.stacking.progress import report
from ripresa.families.stacking.reference import group
from ripresa.families.stacking.startable import FrameStars

POORLY_PLACED = 0.4  # px of uncertainty, from which on the images are compared too
CAPTURE = 3.0  # px, within which stars are looked for around the place that the correlation found
MATCHES_AFTER_CORRELATION = 6

Entry = dict[str, Any]


def register(stars: str, reference: str, masters: str | None, settings: dict[str, Any], output: str) -> None:
    """Register the frames of the table ``stars`` to the reference and write ``output`` (JSON).

    ``settings`` has registration (model, minimum_matches). Each frame gets {name, status ("registered" or
    "excluded"), method ("reference", "stars", "correlation" or null), reason, matches, residual_px (RMS
    distance of matched stars), uncertainty_px (of the transform, at its worst), model, to_frame (2x3,
    reference px to frame px)}. Raises Changed if a frame that has to be read again is no longer what it was.
    """
    chosen = tables.read_json(reference)
    registrar = Registrar(chosen, masters, stars, settings["registration"], reference)
    frames = sorted(startable.read(stars), key=lambda frame: frame.name)
    entries = []
    for number, frame in enumerate(frames):
        entries.append(registrar.register(frame))
        report(number + 1, len(frames))
    tables.write_json(output, {"frames": entries})


class Registrar:
    """Registers frames to one reference."""

    def __init__(
        self,
        reference: dict[str, Any],
        masters: str | None,
        table: str,
        settings: dict[str, Any],
        document: str | None = None,
    ) -> None:
        """``reference`` as `reference.choose` wrote it into the file ``document``; ``table`` holds the frames
        that will be registered."""
        self._reference = reference
        self._masters = masters
        self._table = table
        self._document = document
        self._minimum = int(settings["minimum_matches"])
        self._model = str(settings["model"])
        stars = {column: np.array(values, np.float64) for column, values in reference["stars"].items()}
        self._points = Points(stars["x"], stars["y"], matching.position_errors(stars["fwhm"], stars["snr"]))
        self._images: Any = None

    def register(self, frame: FrameStars) -> Entry:
        """The entry of one frame."""
        if not frame.ok:
            return _excluded(frame.name, str(frame.facts["reason"]))
        if group(frame.facts) != group(self._reference):
            ours, theirs = _described(frame.facts), _described(self._reference)
            return _excluded(frame.name, f"it is {ours}, the reference {theirs}")
        if frame.name == self._reference["name"]:
            entry = _entry(frame.name, "reference", transforms.identity(), "identity", 0.0)
            return entry | {"matches": len(self._points), "residual_px": 0.0}
        width, height = frame.facts["width"], frame.facts["height"]
        points = frame.points()
        by_stars = matching.match(self._points, points, width, height, self._minimum, self._model)
        if by_stars is not None and by_stars.uncertainty <= POORLY_PLACED:
            return _by_stars(frame.name, by_stars)
        by_image, why = self._correlate(frame, points)
        if by_image is not None and (by_stars is None or by_image["uncertainty_px"] < by_stars.uncertainty):
            return by_image
        if by_stars is not None:
            return _by_stars(frame.name, by_stars)
        if matching.is_mirrored(self._points, points, width, height, self._minimum):
            return _excluded(frame.name, "it is a mirror image of the reference")
        return _excluded(
            frame.name,
            f"no {self._minimum} of its {len(points)} stars agree with the reference's {len(self._points)}, "
            f"and {why}",
        )

    def _correlate(self, frame: FrameStars, points: Points) -> tuple[Entry | None, str]:
        """The entry by image correlation, refined by stars if they allow it; else why there is none."""
        found = self._comparison().locate(frame)
        if found is None:
            return None, "the images do not correlate"
        width, height = frame.facts["width"], frame.facts["height"]
        refined = matching.refine(
            self._points,
            points,
            found.to_frame,
            width,
            height,
            max(self._minimum, MATCHES_AFTER_CORRELATION),
            self._model,
            CAPTURE,
        )
        turned = abs(transforms.geometry(found.to_frame).rotation) % 180.0 > 1e-6
        model = "similarity" if turned else "shift"
        entry = _entry(frame.name, "correlation", found.to_frame, model, found.uncertainty)
        if refined is None or refined.chance > matching.CHANCE:
            return entry, ""
        if refined.uncertainty < found.uncertainty:
            entry = _by_stars(frame.name, refined) | {"method": "correlation"}
        else:
            entry |= _figures(self._points, points, found.to_frame, refined)
        return entry, ""

    def _comparison(self) -> "_Images":
        if self._images is None:
            self._images = _Images(self._reference, self._masters, self._table, self._document)
        return self._images


class _Images:
    """Reads frames and compares them with the reference; made when a frame first needs it, for what it
    imports."""

    def __init__(
        self, reference: dict[str, Any], masters: str | None, table: str, document: str | None
    ) -> None:
        from ripresa.families.stacking.calibration import Calibrator
        from ripresa.families.stacking.correlation import Correlator
        from ripresa.families.stacking.ready import load_frame

        self._table = table
        self._calibrator = Calibrator(masters)
        self._load = load_frame
        hot = np.array(reference["hot_index"], np.int64)
        image = load_frame(reference, self._calibrator, hot, document)
        sizes = reference["stars"]["fwhm"]
        fwhm = float(np.median(sizes)) if sizes else 4.0
        self._correlator = Correlator(image, reference["bayer"], fwhm)

    def locate(self, frame: FrameStars) -> Any:
        """The `correlation.Peak` of a frame, or None."""
        bad = startable.bad_pixels(self._table, frame.name)
        return self._correlator.locate(self._load(frame.facts, self._calibrator, bad, self._table))


def _figures(reference: Points, frame: Points, to_frame: transforms.Matrix, found: Match) -> Entry:
    """Number and RMS distance in px of matched stars under another transform than their own."""
    x, y = transforms.apply(to_frame, reference.x[found.reference], reference.y[found.reference])
    dx, dy = frame.x[found.frame] - x, frame.y[found.frame] - y
    return {"matches": found.matches, "residual_px": float(np.sqrt((dx * dx + dy * dy).mean()))}


def _described(facts: dict[str, Any]) -> str:
    return f"{facts['width']}x{facts['height']} px {facts['bayer'] or facts['kind']}"


def _entry(
    name: str, method: str | None, to_frame: transforms.Matrix, model: str, uncertainty: float
) -> Entry:
    return {
        "name": name,
        "status": "registered",
        "method": method,
        "reason": None,
        "matches": 0,
        "residual_px": None,
        "uncertainty_px": uncertainty,
        "model": model,
        "to_frame": to_frame.tolist(),
    }


def _by_stars(name: str, found: Match) -> Entry:
    entry = _entry(name, "stars", found.to_frame, found.model, found.uncertainty)
    return entry | {"matches": found.matches, "residual_px": found.residual}


def _excluded(name: str, reason: str) -> Entry:
    return {
        "name": name,
        "status": "excluded",
        "method": None,
        "reason": reason,
        "matches": 0,
        "residual_px": None,
        "uncertainty_px": None,
        "model": None,
        "to_frame": None,
    }
