"""Calibration masters, built of raw frames or taken as they are, in one table."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import StackingError, tables
from ripresa.families.stacking.calibration import Indices, fits, pedestal, size_in_words, subtracted
from ripresa.families.stacking.discovery import frames_in
from ripresa.families.stacking.frames import Facts, Image, examine, read_rows
from ripresa.families.stacking.kernels import kernel

_BUFFER_BYTES = 48 << 20  # of raw frames that are combined at once
_CLIP_SIGMA = 3.0
_HOT_SIGMA = 8.0  # above the median of a dark
_DEAD_SHARE = 0.5  # of the light that its neighbours in the flat have
_ROWS = 64  # looked at together for dead pixels

# Changes rows of a raw frame before it is combined: its number, the rows [C, rows, W], the first row.
Prepare = Callable[[int, Image, int], None]


@dataclass
class _Raw:
    """The usable frames of one kind, and whether each is a master already."""

    kind: str
    place: str
    frames: list[Facts] = field(default_factory=list)
    masters: list[bool] = field(default_factory=list)


def build_masters(settings: dict[str, Any], output: str) -> None:
    """Write the table of masters for the configuration section ``calibration``.

    About: `width`, `height`, `planes`, the two tolerances, and `bias`, `darks` (a list) and `flat`:
    {source, frames, exposure_s, temperature_c, gain, ...}, or null. Arrays, float32 [C, H, W]: `bias`,
    `dark_0` ..., `flat` (of median 1, to divide by); int64 flat indices of bad pixels: `hot_0` ..., `dead`.
    A file counts as a master, raw frames in a directory are combined.

    Raises StackingError if something is missing, is no FITS image, or differs in size.
    """
    found = {
        kind: _collect(kind, place) for kind in ("bias", "dark", "flat") if (place := settings.get(kind))
    }
    everything = [frame for raw in found.values() for frame in raw.frames]
    _check_sizes(everything)
    planes, height, width = everything[0]["pixels"]["shape"]
    about: dict[str, Any] = {
        "width": width,
        "height": height,
        "planes": planes,
        "exposure_tolerance": settings["exposure_tolerance"],
        "temperature_tolerance_c": settings["temperature_tolerance_c"],
        "bias": None,
        "darks": [],
        "flat": None,
    }
    arrays: dict[str, NDArray[Any]] = {}
    if raw := found.get("bias"):
        arrays["bias"], about["bias"] = _master(raw.place, raw.frames)
    if raw := found.get("dark"):
        for number, group in enumerate(_grouped(raw, about)):
            image, said = _master(raw.place, group)
            said["bias_subtracted"] = _is_bias_subtracted(image, arrays.get("bias"))
            arrays[f"dark_{number}"], arrays[f"hot_{number}"] = image, _hot(image)
            about["darks"].append(said)
    if raw := found.get("flat"):
        arrays["flat"], about["flat"] = _flat(raw, about, arrays)
        arrays["dead"] = _dead(arrays["flat"], about["flat"]["bayer"])
    tables.save(output, about, **arrays)


def _collect(kind: str, place: str) -> _Raw:
    """The frames of one kind in a file or directory; what says it is of another kind is left out."""
    files = frames_in(place)
    raw = _Raw(kind, place)
    others = set()
    for path in files:
        facts, _ = examine(path, light=False)
        if facts["status"] == "bad":
            raise StackingError(f"{kind} frame {path} cannot be used: {facts['reason']}")
        said = (facts["imagetyp"] or "").split()
        if len(files) > 1 and said and said[-1] not in {kind, "master"}:
            others.add(said[-1])
            continue
        raw.frames.append(facts)
        raw.masters.append(path == place or "master" in said)
    if not raw.frames:
        raise StackingError(f"{place} has no {kind} frame, only {', '.join(sorted(others))} frames")
    return raw


def _check_sizes(frames: list[Facts]) -> None:
    first = frames[0]
    for frame in frames:
        if frame["pixels"]["shape"] != first["pixels"]["shape"]:
            sizes = [size_in_words(one["pixels"]["shape"]) for one in (first, frame)]
            raise StackingError(
                f"calibration frames differ in size: {first['path']} is {sizes[0]}, {frame['path']} is "
                f"{sizes[1]}; use frames of one camera mode"
            )


def _master(place: str, frames: list[Facts]) -> tuple[Image, dict[str, Any]]:
    """One master of bias or dark frames, with what is known of it."""
    image = combine(frames)
    known = {
        name: _mean([frame[name] for frame in frames]) for name in ("exposure_s", "temperature_c", "gain")
    }
    is_float = np.dtype(frames[0]["pixels"]["dtype"]).kind == "f"
    unit_range = is_float and bool(image.min() >= 0 and 0 < image.max() <= 1)
    return image, {"source": place, "frames": len(frames), "unit_range": unit_range, **known}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(math.fsum(known) / len(known), 6) if known else None


def _grouped(raw: _Raw, about: dict[str, Any]) -> list[list[Facts]]:
    """Darks that belong together: of one exposure, temperature and gain. Masters stay alone."""
    pairs = list(zip(raw.frames, raw.masters, strict=True))
    groups: list[list[Facts]] = []
    for frame in sorted((frame for frame, is_master in pairs if not is_master), key=_conditions):
        for group in groups:
            if fits(frame, group[0], about):
                group.append(frame)
                break
        else:
            groups.append([frame])
    return [[frame] for frame, is_master in pairs if is_master] + groups


def _conditions(frame: Facts) -> tuple[float, ...]:
    return tuple(
        -math.inf if (value := frame[name]) is None else value
        for name in ("exposure_s", "gain", "temperature_c")
    )


def _is_bias_subtracted(dark: Image, bias: Image | None) -> bool:
    """A dark far below the bias had the bias subtracted by whoever made it."""
    return bias is not None and bool(np.median(dark) < 0.5 * np.median(bias))


def _flat(raw: _Raw, about: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> tuple[Image, dict[str, Any]]:
    """The master flat: raw ones less dark or bias and brought to one level, combined; of median 1."""
    first = raw.frames[0]
    used: list[str] = []
    if any(raw.masters):
        image = combine(raw.frames)
    else:
        used = subtracted(first, about)
        image = combine(raw.frames, _equaliser(raw.frames, pedestal(used, first, about, arrays.__getitem__)))
    median = float(np.nanmedian(image))
    if not median > 0:
        raise StackingError(f"the flat of {raw.place} is no brighter than its bias or dark: is it a flat?")
    said = {"source": raw.place, "frames": len(raw.frames), "bayer": first["bayer"], "subtracted": used}
    return image / np.float32(median), said


def _equaliser(frames: list[Facts], dark: Image | None) -> Prepare:
    """Subtracts ``dark`` and brings each frame to the mean level of all.

    The four pixels of a 2x2 cell have levels of their own: the light of flats varies in colour too.
    """
    cells = [(i, j) for i in (0, 1) for j in (0, 1)]
    planes, height, _ = frames[0]["pixels"]["shape"]
    levels = np.ones((len(frames), planes, 2, 2))
    for number, frame in enumerate(frames):
        image = read_rows(frame, 0, height)
        if dark is not None:
            image -= dark
        for i, j in cells:
            levels[number, :, i, j] = np.nanmedian(image[:, i::2, j::2], axis=(1, 2))
        if not (levels[number] > 0).all():
            raise StackingError(f"flat frame {frame['path']} is no brighter than its bias or dark: remove it")
    factors = (levels.mean(axis=0) / levels).astype(np.float32)

    def prepare(number: int, band: Image, y0: int) -> None:
        if dark is not None:
            band -= dark[:, y0 : y0 + band.shape[1]]
        for i, j in cells:
            band[:, i::2, j::2] *= factors[number, :, (y0 + i) % 2, j][:, None, None]

    return prepare


def combine(frames: list[Facts], prepare: Prepare | None = None) -> Image:
    """The sigma-clipped mean of frames of one size: float32 [C, H, W], in bands of bounded memory."""
    planes, height, width = frames[0]["pixels"]["shape"]
    rows = min(height, max(1, _BUFFER_BYTES // (len(frames) * planes * width * 4)))
    out = np.empty((planes, height, width), np.float32)
    values = np.empty((planes, len(frames), rows, width), np.float32)
    for y0 in range(0, height, rows):
        y1 = min(y0 + rows, height)
        for number, frame in enumerate(frames):
            band = read_rows(frame, y0, y1)
            if prepare:
                prepare(number, band, y0)
            values[:, number, : y1 - y0] = band
        for plane in range(planes):
            _clipped_means(values[plane], y1 - y0, _CLIP_SIGMA, out[plane, y0:y1])
    return out


@kernel
def _clipped_means(values: NDArray[np.float32], rows: int, limit: float, out: Image) -> None:
    """Per pixel the clipped mean of what is not NaN in values [n, at least ``rows``, width]."""
    count, _, width = values.shape
    some = np.empty(count, np.float64)
    deviations = np.empty(count, np.float64)
    for y in range(rows):
        for x in range(width):
            n = 0
            for k in range(count):
                if not math.isnan(values[k, y, x]):
                    some[n] = values[k, y, x]
                    n += 1
            out[y, x] = _clipped_mean(some[:n], limit, deviations[:n])


@kernel
def _clipped_mean(values: NDArray[np.float64], limit: float, deviations: NDArray[np.float64]) -> float:
    """The mean of what lies within ``limit`` sigma of the median; ``deviations`` is room for as many.

    Sigma is the deviation of the values drawn in to 1.5 sigma of the median, repeated from their median
    deviation on, so that neither a few outliers nor few frames spoil it. For normal values drawing in takes a
    factor of 1.134 away.
    """
    n = len(values)
    if n == 0:
        return math.nan
    middle = float(np.median(values))
    if n <= 2:
        return middle
    for k in range(n):
        deviations[k] = abs(values[k] - middle)
    sigma = 1.4826 * float(np.median(deviations))
    if sigma == 0.0:  # more than half are equal
        sigma = 1.2533 * float(np.mean(deviations))
    for _ in range(10):
        total = squares = 0.0
        for k in range(n):
            d = min(max(values[k] - middle, -1.5 * sigma), 1.5 * sigma)
            total += d
            squares += d * d
        before = sigma
        sigma = 1.134 * math.sqrt(max(squares / n - (total / n) ** 2, 0.0))
        if abs(sigma - before) <= 5e-4 * before:
            break
    total, kept = 0.0, 0
    for k in range(n):
        if deviations[k] <= limit * sigma:
            total += values[k]
            kept += 1
    return total / kept if kept else middle


def _hot(dark: Image) -> Indices:
    """Flat indices of the pixels far above the median of a dark, and of those without a value."""
    sample = dark.reshape(-1)[:: max(1, dark.size // 500_000)]
    sample = sample[np.isfinite(sample)]
    median = np.median(sample)
    deviations = np.abs(sample - median)
    sigma = 1.4826 * np.median(deviations) or 1.2533 * np.mean(deviations)
    limit = float(median + _HOT_SIGMA * sigma) if sigma > 0 else math.inf
    return np.flatnonzero(~(dark <= np.float32(limit)))


def _dead(flat: Image, bayer: str | None) -> Indices:
    """Flat indices of the pixels that differ from their neighbours in the row by a factor of two."""
    step = 2 if bayer else 1
    planes, height, width = flat.shape
    good = np.empty(flat.shape, np.bool_)
    for plane in range(planes):
        for y in range(0, height, _ROWS):
            rows = flat[plane, y : y + _ROWS]
            wide = np.pad(rows, ((0, 0), (2 * step, 2 * step)), mode="reflect")
            local = np.median([wide[:, k * step : k * step + width] for k in range(5)], axis=0)
            with np.errstate(invalid="ignore"):
                alike = (rows > _DEAD_SHARE * local) & (rows * _DEAD_SHARE < local)
            good[plane, y : y + _ROWS] = alike & (rows > 0)
    return np.flatnonzero(~good)
