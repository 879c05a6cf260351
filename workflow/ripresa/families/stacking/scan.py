"""Phase 0: every frame of a chunk is looked at once; what later phases need of it goes into two files."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import StackingError, cosmetic, detection, tables
from ripresa.families.stacking.calibration import Calibrator, Mismatch
from ripresa.families.stacking.frames import Facts, Image, examine
from ripresa.families.stacking.progress import report

_MEASURED = ("n_stars", "fwhm_px", "eccentricity", "background", "noise", "peak")
_TABLE_ONLY = ("pixels", "cards", "channel_noise", "channel_background", "channel_peak")
_COLUMNS = ("x", "y", "snr", "fwhm", "r50", "elongation", "theta", "peak")


def scan(
    paths: list[tuple[str, str]], masters: str | None, settings: dict[str, Any], manifest: str, stars: str
) -> None:
    """Look at the frames ``paths`` (name, path) and write ``manifest`` (JSON) and the table ``stars``.

    ``settings`` has bayer and on_bad_frame. The manifest lists every frame with its facts and what was
    measured; the table adds where the pixels are, header cards, levels per channel, and the arrays
    star_frame (int32: index into about.frames), x, y, flux [n, C], snr, fwhm, r50, elongation, theta, peak
    (see `detection.Stars`), hot_frame (int32) and hot_index (int64: flat index into [C, H, W]) of the bad
    pixels that the masters do not know.

    Raises StackingError if the header of a frame contradicts the configuration or, with on_bad_frame: fail,
    if any frame cannot be used.
    """
    calibrator = Calibrator(masters)
    frames: list[Facts] = []
    found: list[tuple[int, detection.Stars]] = []
    hot: list[tuple[int, NDArray[np.int64]]] = []
    for number, (name, path) in enumerate(sorted(paths)):
        facts, image = examine(path, name, settings["bayer"])
        if image is not None:
            try:
                calibrator.apply(image, facts)
            except Mismatch as error:
                facts |= {"status": "bad", "reason": str(error)}
            else:
                bad, detected = _measure(image, facts, calibrator)
                found.append((number, detected))
                hot.append((number, bad))
        frames.append(facts)
        report(number + 1, len(paths))
    bad_ones = [frame for frame in frames if frame["status"] == "bad"]
    if bad_ones and settings["on_bad_frame"] == "fail":
        named = "; ".join(f"{frame['name']}: {frame['reason']}" for frame in bad_ones)
        raise StackingError(f"{len(bad_ones)} of {len(frames)} frames cannot be used ({named})")
    tables.save(stars, {"frames": [_entry(frame, table=True) for frame in frames]}, **_arrays(found, hot))
    tables.write_json(manifest, {"frames": [_entry(frame, table=False) for frame in frames]})


def _measure(image: Image, facts: Facts, calibrator: Calibrator) -> tuple[NDArray[np.int64], detection.Stars]:
    """Bad pixels and stars of a calibrated frame; the rest of what is measured goes into ``facts``."""
    cfa = facts["kind"] == "cfa"
    known = calibrator.bad_indices(facts)
    cosmetic.repair(image, known, cfa)
    bad = np.setdiff1d(cosmetic.find(image, cfa), known, assume_unique=True)
    # Both together, as every later phase does: then none stands in for another.
    cosmetic.repair(image, np.union1d(bad, known) if len(known) else bad, cfa)
    if np.isnan(image.max()):  # stars are looked for as if there were sky
        image[np.isnan(image)] = np.nanmedian(image)
    stars = detection.detect(image, facts["bayer"])
    peaks = _peaks(image, facts["bayer"])
    facts |= {
        "n_stars": len(stars),
        "fwhm_px": _rounded(stars.median_fwhm),
        "eccentricity": _rounded(stars.median_eccentricity),
        "background": _rounded(math.fsum(stars.background) / len(stars.background)),
        "noise": _rounded(math.fsum(stars.noise) / len(stars.noise)),
        "peak": _rounded(max(peaks)),
        "bad_pixels": len(bad),
        "calibration": calibrator.described(facts),
        "channel_background": [float(value) for value in stars.background],
        "channel_noise": [float(value) for value in stars.noise],
        "channel_peak": peaks,
    }
    return bad, stars


def _peaks(image: Image, bayer: str | None) -> list[float]:
    """The highest value of each channel."""
    if bayer is None:
        return [float(plane.max()) for plane in image]
    cells = {divmod(k, 2): colour for k, colour in enumerate(bayer)}
    highest = {cell: float(image[0, cell[0] :: 2, cell[1] :: 2].max()) for cell in cells}
    return [max(highest[cell] for cell in cells if cells[cell] == colour) for colour in "RGB"]


def _rounded(value: float) -> float | None:
    """Five digits are what a reader of the manifest needs; JSON has no NaN."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _entry(facts: Facts, table: bool) -> Facts:
    entry = {**dict.fromkeys(_MEASURED), **facts}
    order = [name for name in facts if name in entry] + [name for name in _MEASURED if name not in facts]
    return {name: entry[name] for name in order if name != "imagetyp" and (table or name not in _TABLE_ONLY)}


def _arrays(
    found: list[tuple[int, detection.Stars]], hot: list[tuple[int, NDArray[np.int64]]]
) -> dict[str, NDArray[Any]]:
    channels = max((len(stars.background) for _, stars in found), default=1)
    # Frames of another kind than the others are left out later; their flux is padded here to keep one shape.
    flux = [np.pad(stars.flux, ((0, 0), (0, channels - stars.flux.shape[1]))) for _, stars in found]
    arrays: dict[str, NDArray[Any]] = {
        "star_frame": _numbers([(number, len(stars)) for number, stars in found]),
        "flux": np.concatenate(flux) if flux else np.empty((0, channels)),
        "hot_frame": _numbers([(number, len(indices)) for number, indices in hot]),
        "hot_index": np.concatenate([np.empty(0, np.int64), *(indices for _, indices in hot)]),
    }
    for name in _COLUMNS:
        arrays[name] = np.concatenate([np.empty(0), *(getattr(stars, name) for _, stars in found)])
    return arrays


def _numbers(counts: list[tuple[int, int]]) -> NDArray[np.int32]:
    return np.repeat(
        np.array([number for number, _ in counts], np.int32),
        np.array([count for _, count in counts], np.int64),
    )
