"""What the earlier phases found out about every frame, put together from their tables."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import tables
from ripresa.families.stacking.robust import median

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sources:
    """Paths of the tables that a stack was made by; without ``clusters`` before STATE_CLUSTERING."""

    reference: str
    normalization: str
    global_metrics: str
    tile_grid: str
    local_metrics: str
    clusters: str | None = None
    _: KW_ONLY
    stars: Sequence[str]
    registrations: Sequence[str]
    reconstructions: Sequence[str]


@dataclass(frozen=True)
class Frame:
    """One input frame. What is not known is None; background and noise are those of the raw frame (ADU)."""

    name: str
    status: str
    """``stacked``, or ``excluded`` with the reason"""
    reason: str | None = None
    method: str | None = None
    model: str | None = None
    matches: int | None = None
    residual_px: float | None = None
    to_frame: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    fwhm_px: float | None = None
    eccentricity: float | None = None
    n_stars: int | None = None
    background: float | None = None
    noise: float | None = None
    transparency: float | None = None
    scale: tuple[float, ...] | None = None
    """factor by which the frame was multiplied, for each channel"""
    quality: float | None = None
    weight_share: float | None = None
    """share in the sum of weights, of all frames 1"""
    footprint: float | None = None
    """share of the output grid that the frame covers"""
    rejected_fraction: float | None = None
    cluster: int | None = None
    date_obs: str | None = None
    exposure_s: float | None = None
    cards: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Evidence:
    """All frames (sorted by name), and what the checks need of the tables; F stacked frames, C channels."""

    frames: list[Frame]
    channels: list[str]
    reference: dict[str, Any]
    mode: str
    """``reduced`` or ``full``, empty before STATE_CLUSTERING"""
    clusters: int
    grid: dict[str, Any]
    share: Floats
    """[F, C] share of each frame in the sum of weights"""
    expected_noise: Floats
    """[C, ty, tx] noise that the weighted mean of the frames has where they are independent"""
    sharpness: dict[str, float] | None
    """mu of the weights, width and snr that are expected of it over the plain mean; None where it is not
    chosen"""
    known_stars: Floats
    """[n, 3] x, y and median FWHM over the frames, px, of the stars that most frames have in common"""

    @property
    def stacked(self) -> list[Frame]:
        return [frame for frame in self.frames if frame.status == "stacked"]

    @property
    def excluded(self) -> list[Frame]:
        return [frame for frame in self.frames if frame.status != "stacked"]


def collect(sources: Sources) -> Evidence:
    """Read the tables. Raises Damaged if one of them is not what its phase wrote."""
    reference = tables.read_json(sources.reference)
    unknown: dict[str, Any] = {"mode": "", "k": 0, "labels": {}}
    clusters = tables.read_json(sources.clusters) if sources.clusters else unknown
    scanned = {
        frame["name"]: frame
        for path in sources.stars
        for frame in tables.load(path, "star_frame")[0]["frames"]
    }
    registered = {
        frame["name"]: frame for path in sources.registrations for frame in tables.read_json(path)["frames"]
    }
    about, normal = tables.load(
        sources.normalization, "scale", "transparency", "star_x", "star_y", "star_fwhm"
    )
    names = [frame["name"] for frame in about["frames"]]
    _, metrics = tables.load(sources.global_metrics, "quality")
    weighed, local = tables.load(sources.local_metrics, "weights", "noise")
    weight, rejected = _reconstructed(sources.reconstructions)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = weight / weight.sum(axis=0)
    row = {name: number for number, name in enumerate(names)}
    pixels = reference["width"] * reference["height"]
    frames = []
    for name in sorted(scanned):
        scan, found = scanned[name], registered.get(name, {})
        n = row.get(name)
        matrix = found.get("to_frame")
        facts: dict[str, Any] = {
            "reason": found.get("reason") or scan.get("reason"),
            "method": found.get("method"),
            "model": found.get("model"),
            "matches": found.get("matches"),
            "residual_px": _number(found.get("residual_px")),
            "to_frame": tuple(tuple(map(float, line)) for line in matrix) if matrix else None,
            "fwhm_px": _number(scan.get("fwhm_px")),
            "eccentricity": _number(scan.get("eccentricity")),
            "n_stars": scan.get("n_stars"),
            "background": _number(scan.get("background")),
            "noise": _number(scan.get("noise")),
            "date_obs": scan.get("date_obs"),
            "exposure_s": _number(scan.get("exposure_s")),
            "cards": tuple(scan.get("cards") or ()),
        }
        if n is not None:
            covered = _footprint(facts["to_frame"], reference, scan)
            facts.update(
                reason=None,
                transparency=_number(normal["transparency"][n]),
                scale=tuple(map(float, np.atleast_1d(normal["scale"][n]))),
                quality=_number(metrics["quality"][n]),
                weight_share=_number(share[n].mean()),
                footprint=covered,
                rejected_fraction=_number(rejected[n].mean() / (covered * pixels)) if covered else None,
                cluster=clusters["labels"].get(name),
            )
        frames.append(Frame(name, "excluded" if n is None else "stacked", **facts))
    return Evidence(
        frames=frames,
        channels=list(reference["channels"]),
        reference=reference,
        mode=clusters["mode"],
        clusters=clusters["k"],
        grid=tables.read_json(sources.tile_grid),
        share=share,
        expected_noise=_expected_noise(local["weights"], local["noise"]),
        sharpness=weighed.get("sharpness"),
        known_stars=_known_stars(normal),
    )


def _expected_noise(weights: NDArray[Any], noise: NDArray[Any]) -> Floats:
    """Noise of a weighted mean of independent values: sqrt(sum w^2 s^2) / sum w. Both [F, C, ty, tx]."""
    known = np.isfinite(weights) & np.isfinite(noise)
    w = np.where(known, weights, 0).astype(np.float64)
    variance = (w**2 * np.where(known, noise, 0).astype(np.float64) ** 2).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt(variance) / w.sum(axis=0))


def _known_stars(normal: tables.Arrays) -> Floats:
    fwhm = normal["star_fwhm"].astype(np.float64)
    common = np.isfinite(fwhm).mean(axis=0) > 0.5 if len(fwhm) else np.zeros(0, bool)
    stars = np.column_stack([normal["star_x"], normal["star_y"], median(fwhm, axis=0)])
    return np.asarray(stars[common], np.float64)


def _reconstructed(paths: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum of weights and number of rejected pixels of each frame and channel, over all bands."""
    parts = [tables.load(path, "frame_weight", "reject_counts")[1] for path in paths]
    weight = np.stack([part["frame_weight"] for part in parts]).astype(np.float64)
    rejected = np.stack([part["reject_counts"] for part in parts]).astype(np.float64)
    return weight.sum(axis=0), rejected.sum(axis=0)


def _footprint(matrix: Any, reference: dict[str, Any], scan: dict[str, Any], step: int = 64) -> float | None:
    """Share of the output grid that lies on a frame, counted at ``step`` x ``step`` points of it."""
    if matrix is None:
        return None
    width, height = reference["width"], reference["height"]
    at = (np.arange(step) + 0.5) / step
    x, y = np.meshgrid(at * width - 0.5, at * height - 0.5)
    (xx, xy, x0), (yx, yy, y0) = matrix
    u, v = xx * x + xy * y + x0, yx * x + yy * y + y0
    wide, high = scan.get("width") or width, scan.get("height") or height
    inside = (u >= -0.5) & (u <= wide - 0.5) & (v >= -0.5) & (v <= high - 0.5)
    return float(inside.mean())


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
