"""Bias, dark and flat: masters built of raw frames or taken as they are, and their application to lights.

All masters are in one table. A dark holds the bias of its camera, so a light gets a dark or, where none
matches, the bias. Darks are never scaled: what a sensor adds does not grow evenly with time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ripresa.families.stacking import StackingError, tables
from ripresa.families.stacking.discovery import frames_in
from ripresa.families.stacking.frames import Facts, Image, examine, read_rows

Indices = NDArray[np.int64]

_BUFFER_BYTES = 48 << 20  # of raw frames that are combined at once
_CLIP_SIGMA = 3.0
_HOT_SIGMA = 8.0  # above the median of a dark
_DEAD_SHARE = 0.5  # of the light its neighbours in the flat have
_SAME_GAIN = 0.01
_FULL_SCALE = {1: 255.0, 2: 65535.0}  # of integer frames, by bytes per pixel


class Mismatch(StackingError):
    """A frame that the masters do not fit."""


# --- building


@dataclass
class _Raw:
    """The usable frames of one kind, and whether each is a master already."""

    kind: str
    place: str
    frames: list[Facts]
    masters: list[bool] = field(default_factory=list)


def build_masters(settings: dict[str, Any], output: str) -> None:
    """Write the table of masters for the configuration section ``calibration``.

    About: `width`, `height`, `planes`, the two tolerances, and `bias`, `darks` (a list), `flat`: {source,
    frames, exposure_s, temperature_c, gain, ...}, or null. Arrays, float32 [C, H, W]: `bias`, `dark_0` ...,
    `flat` (of median 1; divide by it); `hot_0` ..., `dead`: int64 flat indices of bad pixels. A file is
    taken as a master; of several raw frames in a directory the sigma-clipped mean is.

    Raises StackingError if something is missing, is no FITS image, or differs in size.
    """
    found = {
        kind: _collect(kind, place) for kind in ("bias", "dark", "flat") if (place := settings.get(kind))
    }
    _check_sizes([frame for raw in found.values() for frame in raw.frames])
    first = next(iter(found.values())).frames[0]
    planes, height, width = first["pixels"]["shape"]
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
        arrays["bias"], about["bias"] = _master(raw.place, raw.frames, any(raw.masters))
    if raw := found.get("dark"):
        for number, group in enumerate(_grouped(raw, about)):
            image, said = _master(raw.place, *group)
            said["bias_subtracted"] = _is_bias_subtracted(image, arrays.get("bias"))
            arrays[f"dark_{number}"], arrays[f"hot_{number}"] = image, _hot(image)
            about["darks"].append(said)
    if raw := found.get("flat"):
        arrays["flat"], about["flat"] = _flat(raw, about, arrays)
        arrays["dead"] = _dead(arrays["flat"], about["flat"]["bayer"])
    tables.save(output, about, **arrays)


def _collect(kind: str, place: str) -> _Raw:
    """The frames of one kind in a file or directory. A directory may hold other kinds too, which are left
    out.
    """
    files = frames_in(place)
    raw = _Raw(kind, place, [])
    others: list[str] = []
    for path in files:
        facts, _ = examine(path, light=False)
        if facts["status"] == "bad":
            raise StackingError(f"{kind} frame {path} cannot be used: {facts['reason']}")
        said = (facts["imagetyp"] or "").split()
        alone = len(files) == 1
        if not alone and said and said[-1] not in {kind, "master"}:
            others.append(said[-1])
            continue
        raw.frames.append(facts)
        raw.masters.append(path == place or "master" in said)
    if not raw.frames:
        raise StackingError(
            f"{place} has no {kind} frame, only frames of type {', '.join(sorted(set(others)))}"
        )
    return raw


def _check_sizes(frames: list[Facts]) -> None:
    first = frames[0]
    for frame in frames:
        if frame["pixels"]["shape"] != first["pixels"]["shape"]:
            raise StackingError(
                f"calibration frames differ in size: {first['path']} is {_size(first['pixels']['shape'])}, "
                f"{frame['path']} is {_size(frame['pixels']['shape'])}; use frames of one camera mode"
            )


def _size(shape: Sequence[int]) -> str:
    return f"{shape[2]}x{shape[1]}" + (f"x{shape[0]}" if shape[0] > 1 else "")


def _master(place: str, frames: list[Facts], is_master: bool) -> tuple[Image, dict[str, Any]]:
    """One master of frames of the same kind, with what is known of it."""
    image = combine(frames)
    known = {
        name: _mean([frame[name] for frame in frames]) for name in ("exposure_s", "temperature_c", "gain")
    }
    unit = bool(
        frames[0]["pixels"]["dtype"][1] == "f" and image.min() >= 0 and image.max() <= 1 and image.max() > 0
    )
    return image, {"source": place, "frames": len(frames), "master": is_master, "unit_range": unit, **known}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(math.fsum(known) / len(known), 6) if known else None


def _grouped(raw: _Raw, about: dict[str, Any]) -> list[tuple[list[Facts], bool]]:
    """Darks that belong together: of one exposure, temperature and gain. Masters stay alone."""
    ready = [([frame], True) for frame, master in zip(raw.frames, raw.masters, strict=True) if master]
    rest = [frame for frame, master in zip(raw.frames, raw.masters, strict=True) if not master]
    groups: list[list[Facts]] = []
    for frame in sorted(rest, key=_conditions):
        for group in groups:
            if _alike(frame, group[0], about):
                group.append(frame)
                break
        else:
            groups.append([frame])
    return ready + [(group, False) for group in groups]


def _conditions(frame: Facts) -> tuple[float, ...]:
    return tuple(
        -1e9 if (v := frame[name]) is None else v for name in ("exposure_s", "gain", "temperature_c")
    )


def _alike(a: dict[str, Any], b: dict[str, Any], about: dict[str, Any]) -> bool:
    """Whether a dark fits a frame. What one of the two does not say is no reason against it, but for the
    exposure.
    """
    if a["exposure_s"] is None or b["exposure_s"] is None:
        return a["exposure_s"] == b["exposure_s"]
    longest = max(a["exposure_s"], b["exposure_s"])
    if abs(a["exposure_s"] - b["exposure_s"]) > about["exposure_tolerance"] * longest + 1e-9:
        return False
    if a["gain"] is not None and b["gain"] is not None:
        if abs(a["gain"] - b["gain"]) > _SAME_GAIN * max(abs(a["gain"]), abs(b["gain"])):
            return False
    if a["temperature_c"] is None or b["temperature_c"] is None:
        return True
    return abs(a["temperature_c"] - b["temperature_c"]) <= about["temperature_tolerance_c"] + 1e-9


def _is_bias_subtracted(dark: Image, bias: Image | None) -> bool:
    """A dark far below the bias had it subtracted by whoever made it."""
    return bias is not None and bool(np.median(dark) < 0.5 * np.median(bias))


def _best_dark(darks: list[dict[str, Any]], facts: dict[str, Any], about: dict[str, Any]) -> int | None:
    """The number of the dark nearest in exposure, then in temperature, of those that fit a frame."""
    if facts["exposure_s"] is None:
        return None
    fitting = []
    for number, dark in enumerate(darks):
        if _alike(dark, facts, about):
            apart = abs(dark["exposure_s"] - facts["exposure_s"])
            known = dark["temperature_c"] is not None and facts["temperature_c"] is not None
            warmer = abs(dark["temperature_c"] - facts["temperature_c"]) if known else math.inf
            fitting.append((apart, warmer, number))
    return min(fitting)[2] if fitting else None


def _flat(raw: _Raw, about: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> tuple[Image, dict[str, Any]]:
    """The master flat: raw ones less dark or bias, brought to one level, combined, divided by their median."""
    first = raw.frames[0]
    pattern = first["bayer"]
    if any(raw.masters):
        image, said = _master(raw.place, raw.frames, True)
        used = None
    else:
        number = _best_dark(about["darks"], first, about)
        used = f"dark_{number}" if number is not None else "bias" if "bias" in arrays else None
        pedestal = None
        if used:
            source = about["bias"] if used == "bias" else about["darks"][number]
            pedestal = arrays[used] * np.float32(_unit(source, first))
            if number is not None and source["bias_subtracted"]:
                pedestal += arrays["bias"] * np.float32(_unit(about["bias"], first))
        image = combine(raw.frames, pedestal, equalise=True)
        said = {
            "source": raw.place,
            "frames": len(raw.frames),
            "master": False,
            "exposure_s": first["exposure_s"],
        }
    median = float(np.median(image))
    if not median > 0:
        raise StackingError(f"the flat of {raw.place} is no brighter than its bias or dark: is it a flat?")
    return image / np.float32(median), {**said, "bayer": pattern, "subtracted": used}


def combine(frames: list[Facts], pedestal: Image | None = None, equalise: bool = False) -> Image:
    """The sigma-clipped mean of frames of one size: float32 [C, H, W], in bands of bounded memory.

    ``pedestal`` is subtracted from each; ``equalise`` brings each frame, and each of the four pixels of a
    mosaic's cell, to the mean level over the frames first, as flats need, whose light varies in strength
    and colour.
    """
    planes, height, width = frames[0]["pixels"]["shape"]
    levels = np.ones((len(frames), planes, 2, 2))
    if equalise:
        for number, frame in enumerate(frames):
            image = read_rows(frame, 0, height)
            if pedestal is not None:
                image -= pedestal
            for i in (0, 1):
                for j in (0, 1):
                    levels[number, :, i, j] = np.median(image[:, i::2, j::2], axis=(1, 2))
            if not (levels[number] > 0).all():
                raise StackingError(
                    f"flat frame {frame['path']} is no brighter than its bias or dark: remove it"
                )
    factors = levels.mean(axis=0) / levels
    rows = max(2, _BUFFER_BYTES // (len(frames) * planes * width * 4))
    out = np.empty((planes, height, width), np.float32)
    values = np.empty((len(frames), planes, min(rows, height), width), np.float32)
    for y0 in range(0, height, rows):
        y1 = min(y0 + rows, height)
        for number, frame in enumerate(frames):
            band = read_rows(frame, y0, y1)
            if pedestal is not None:
                band -= pedestal[:, y0:y1]
            if equalise:
                for i in (0, 1):
                    for j in (0, 1):
                        factor = factors[number, :, (y0 + i) % 2, j].astype(np.float32)
                        band[:, i::2, j::2] *= factor[:, None, None]
            values[number, :, : y1 - y0] = band
        for plane in range(planes):
            _clipped_mean(values[:, plane, : y1 - y0], _CLIP_SIGMA, out[plane, y0:y1])
    return out


@njit(cache=True, nogil=True)
def _clipped_mean(values: NDArray[np.float32], limit: float, out: Image) -> None:
    """Per pixel the mean of values [n, rows, width] without those beyond ``limit`` sigma of the median.

    Sigma is that of the values drawn in to 1.5 sigma (Huber 1981), begun with the median deviation, so that
    neither a few outliers nor few frames spoil it; 1.134 undoes the drawing in for normal values.
    """
    count, rows, width = values.shape
    v = np.empty(count, np.float32)
    deviations = np.empty(count, np.float32)
    for y in range(rows):
        for x in range(width):
            n = 0
            for k in range(count):
                w = values[k, y, x]
                if w == w:
                    v[n] = w
                    n += 1
            if n == 0:
                out[y, x] = np.nan
                continue
            some = v[:n]
            middle = np.float64(np.median(some)) if n > 2 else 0.0
            sigma = np.inf
            if n > 2:
                total = 0.0
                for k in range(n):
                    deviations[k] = abs(some[k] - middle)
                    total += deviations[k]
                sigma = 1.4826 * np.median(deviations[:n])
                if sigma == 0.0:
                    sigma = 1.2533 * total / n
                for _ in range(10):
                    reach = 1.5 * sigma
                    s = s2 = 0.0
                    for k in range(n):
                        d = min(max(some[k] - middle, -reach), reach)
                        s += d
                        s2 += d * d
                    new = 1.134 * math.sqrt(max(s2 / n - (s / n) ** 2, 0.0))
                    done = abs(new - sigma) <= 5e-4 * sigma
                    sigma = new
                    if done:
                        break
            s = 0.0
            kept = 0
            for k in range(n):
                if abs(some[k] - middle) <= limit * sigma:
                    s += some[k]
                    kept += 1
            out[y, x] = s / kept if kept else middle


def _hot(dark: Image) -> Indices:
    """Flat indices of the pixels far above the median of a dark."""
    sample = dark.reshape(-1)[:: max(1, dark.size // 500_000)]
    sample = sample[np.isfinite(sample)]
    median = np.median(sample)
    sigma = 1.4826 * np.median(np.abs(sample - median))
    if not sigma > 0:
        sigma = 1.2533 * np.mean(np.abs(sample - median))
    if not sigma > 0:
        return np.empty(0, np.int64)
    return np.flatnonzero(~(dark <= median + np.float32(_HOT_SIGMA * sigma)))


def _dead(flat: Image, bayer: str | None) -> Indices:
    """Flat indices of the pixels that get far less (or more) light than the median of their row's
    neighbours.
    """
    step = 2 if bayer else 1
    width = flat.shape[2]
    padded = np.pad(flat, ((0, 0), (0, 0), (2 * step, 2 * step)), mode="reflect")
    around = [padded[:, :, k * step : k * step + width] for k in range(5)]
    local = np.median(np.stack(around), axis=0)
    with np.errstate(invalid="ignore"):
        good = (flat > _DEAD_SHARE * local) & (flat * _DEAD_SHARE < local) & (flat > 0)
    return np.flatnonzero(~good)


# --- applying


def _unit(master: dict[str, Any], facts: Facts) -> float:
    """By what to multiply a master: programs that write values from 0 to 1 mean full scale by 1."""
    dtype = np.dtype(facts["pixels"]["dtype"])
    return _FULL_SCALE.get(dtype.itemsize, 1.0) if master["unit_range"] and dtype.kind in "iu" else 1.0


class Calibrator:
    """Applies the masters of a table to lights; keeps those in use in memory (one dark at a time)."""

    def __init__(self, masters: str | None) -> None:
        self._path = masters
        self._about: dict[str, Any] = tables.load(masters, "about")[0] if masters else {}
        self._dark: tuple[Any, Image | None] = (None, None)
        self._flat: tuple[Any, Image | None] = (None, None)
        self._bad: dict[int | None, Indices] = {}

    def apply(self, image: Image, facts: Facts) -> Image:
        """Subtract the matching dark (or the bias) from a light, float32 [C, H, W], and divide it by the
        flat.

        In place; gives ``image`` back. Raises Mismatch if the masters have another size.
        """
        if not self._path:
            return image
        self._check_size(facts)
        dark = self._pedestal(facts)
        if dark is not None:
            image -= dark
        gain = self._inverse_flat(facts)
        if gain is not None:
            image *= gain
        return image

    def described(self, facts: Facts) -> dict[str, Any] | None:
        """What is done to a light: {dark, bias, flat, warning}, for the manifest; None without masters."""
        if not self._path:
            return None
        number = self._number(facts)
        dark = None if number is None else self._about["darks"][number]
        bias = self._about["bias"] is not None and (dark is None or dark["bias_subtracted"])
        warning = None
        if self._about["darks"] and dark is None:
            warning = f"no dark fits {_conditions_in_words(facts)}; " + (
                "the bias is subtracted" if bias else "nothing is subtracted"
            )
        return {
            "dark": None if dark is None else _conditions_in_words(dark),
            "bias": bias,
            "flat": self._about["flat"] is not None,
            "warning": warning,
        }

    def bad_indices(self, facts: Facts) -> Indices:
        """Flat indices, ascending, of the bad pixels that the masters show for a light."""
        if not self._path:
            return np.empty(0, np.int64)
        number = self._number(facts)
        if number not in self._bad:
            parts = [self._array(f"hot_{number}")] if number is not None else []
            if self._about["flat"]:
                parts.append(self._array("dead"))
            self._bad[number] = np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)
        return self._bad[number]

    def _check_size(self, facts: Facts) -> None:
        mine = [self._about["planes"], self._about["height"], self._about["width"]]
        if mine != facts["pixels"]["shape"]:
            raise Mismatch(
                f"its size {_size(facts['pixels']['shape'])} is not that of the calibration masters, {_size(mine)}"
            )

    def _number(self, facts: Facts) -> int | None:
        return _best_dark(self._about["darks"], facts, self._about)

    def _array(self, name: str) -> NDArray[Any]:
        assert self._path
        return tables.load(self._path, name)[1][name]

    def _pedestal(self, facts: Facts) -> Image | None:
        number = self._number(facts)
        key = (number, facts["pixels"]["dtype"])
        if self._dark[0] != key:
            total: Image | None = None
            if number is not None:
                dark = self._about["darks"][number]
                total = self._array(f"dark_{number}") * np.float32(_unit(dark, facts))
            if self._about["bias"] and (number is None or self._about["darks"][number]["bias_subtracted"]):
                bias = self._array("bias") * np.float32(_unit(self._about["bias"], facts))
                total = bias if total is None else total + bias
            self._dark = (key, total)
        return self._dark[1]

    def _inverse_flat(self, facts: Facts) -> Image | None:
        if not self._about["flat"]:
            return None
        bayer = facts["bayer"]
        if self._flat[0] != (bayer,):
            flat = self._array("flat")
            if bayer:
                for colour in "RGB":
                    places = [divmod(k, 2) for k in range(4) if bayer[k] == colour]
                    values = np.concatenate([flat[0, i::2, j::2].ravel() for i, j in places])
                    median = np.median(values)
                    for i, j in places:
                        flat[0, i::2, j::2] /= median
            else:
                flat /= np.median(flat, axis=(1, 2), keepdims=True)
            with np.errstate(divide="ignore", invalid="ignore"):
                inverse = np.where(flat > 0.01, 1 / flat, np.float32(1))  # below, dead, and replaced later
            self._flat = ((bayer,), inverse.astype(np.float32, copy=False))
        return self._flat[1]


def _conditions_in_words(about: dict[str, Any]) -> str:
    exposure, temperature = about["exposure_s"], about["temperature_c"]
    words = ["unknown exposure" if exposure is None else f"{exposure:g} s"]
    if temperature is not None:
        words.append(f"{temperature:g} C")
    if about.get("gain") is not None:
        words.append(f"gain {about['gain']:g}")
    return ", ".join(words)
