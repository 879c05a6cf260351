"""Which masters a light gets, and their application.

A dark holds the bias of its camera, so a light gets a dark or, where none fits, the bias. Darks are never
scaled: what a sensor adds does not grow evenly with time.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import StackingError, tables
from ripresa.families.stacking.frames import Facts, Image

Indices = NDArray[np.int64]

_SAME_GAIN = 0.01
_DARKEST = 0.01  # of a flat of median 1
_FULL_SCALE = {1: 255.0, 2: 65535.0}  # of integer frames, by bytes per pixel


class Mismatch(StackingError):
    """A frame that the masters do not fit."""


def fits(a: dict[str, Any], b: dict[str, Any], about: dict[str, Any]) -> bool:
    """Whether a dark fits a frame (or another dark), by the tolerances in ``about``.

    Temperature and gain count only where both say them; unknown exposures fit each other only.
    """
    if a["exposure_s"] is None or b["exposure_s"] is None:
        return a["exposure_s"] == b["exposure_s"]
    longer = max(a["exposure_s"], b["exposure_s"])
    higher = max(abs(a["gain"] or 0), abs(b["gain"] or 0))
    return (
        _near(a["exposure_s"], b["exposure_s"], about["exposure_tolerance"] * longer)
        and _near(a["gain"], b["gain"], _SAME_GAIN * higher)
        and _near(a["temperature_c"], b["temperature_c"], about["temperature_tolerance_c"])
    )


def _near(a: float | None, b: float | None, apart: float) -> bool:
    return a is None or b is None or abs(a - b) <= apart + 1e-9


def best_dark(darks: list[dict[str, Any]], facts: Facts, about: dict[str, Any]) -> int | None:
    """The number of the dark nearest in exposure, then in temperature, of those that fit a frame, if any."""
    if facts["exposure_s"] is None:
        return None
    fitting = []
    for number, dark in enumerate(darks):
        if fits(dark, facts, about):
            apart = abs(dark["exposure_s"] - facts["exposure_s"])
            known = dark["temperature_c"] is not None and facts["temperature_c"] is not None
            warmer = abs(dark["temperature_c"] - facts["temperature_c"]) if known else math.inf
            fitting.append((apart, warmer, number))
    return min(fitting)[2] if fitting else None


def subtracted(facts: Facts, about: dict[str, Any]) -> list[str]:
    """Names of the arrays that are subtracted from a frame: a dark, a bias, both (if the dark has none),
    nothing.
    """
    number = best_dark(about["darks"], facts, about)
    names = [] if number is None else [f"dark_{number}"]
    if about["bias"] and (number is None or about["darks"][number]["bias_subtracted"]):
        names.append("bias")
    return names


def pedestal(
    names: list[str], facts: Facts, about: dict[str, Any], array: Callable[[str], Any]
) -> Image | None:
    """The sum of the arrays `subtracted` names, in the unit of a frame; None if there are none.

    Programs that write values from 0 to 1 mean the full scale of integer frames by 1.
    """
    dtype = np.dtype(facts["pixels"]["dtype"])
    full = _FULL_SCALE.get(dtype.itemsize, 1.0) if dtype.kind in "iu" else 1.0
    total: Image | None = None
    for name in names:
        master = about["bias"] if name == "bias" else about["darks"][int(name.removeprefix("dark_"))]
        image = array(name) * np.float32(full if master["unit_range"] else 1.0)
        total = image if total is None else total + image
    return total


def size_in_words(shape: Sequence[int]) -> str:
    """ "650x500", or "650x500x3", of a shape [C, H, W]."""
    return f"{shape[2]}x{shape[1]}" + (f"x{shape[0]}" if shape[0] > 1 else "")


class Calibrator:
    """Applies the masters of a table to lights; keeps one dark and the flat in memory."""

    def __init__(self, masters: str | None) -> None:
        self._path = masters
        self._about: dict[str, Any] = tables.load(masters, "about")[0] if masters else {}
        self._kept: dict[str, tuple[Any, Any]] = {}

    def apply(self, image: Image, facts: Facts) -> Image:
        """Subtract dark or bias from a light, float32 [C, H, W], and divide it by the flat; in place.

        Gives ``image`` back. Raises Mismatch if the masters have another size.
        """
        if not self._path:
            return image
        mine = [self._about["planes"], self._about["height"], self._about["width"]]
        if mine != facts["pixels"]["shape"]:
            sizes = [size_in_words(shape) for shape in (facts["pixels"]["shape"], mine)]
            raise Mismatch(f"its size is {sizes[0]}, that of the calibration masters is {sizes[1]}")
        names = subtracted(facts, self._about)
        dark = self._keep(
            "dark",
            (names, facts["pixels"]["dtype"]),
            lambda: pedestal(names, facts, self._about, self._array),
        )
        if dark is not None:
            image -= dark
        if self._about["flat"]:
            image *= self._keep("flat", facts["bayer"], lambda: self._inverse_flat(facts["bayer"]))
        return image

    def described(self, facts: Facts) -> dict[str, Any] | None:
        """What is done to a light: {dark, bias, flat, warning}, for the manifest; None without masters."""
        if not self._path:
            return None
        names = subtracted(facts, self._about)
        number = best_dark(self._about["darks"], facts, self._about)
        warning = None
        if self._about["darks"] and number is None:
            instead = "the bias is subtracted" if names else "nothing is subtracted"
            warning = f"no dark fits {_conditions_in_words(facts)}; {instead}"
        return {
            "dark": None if number is None else _conditions_in_words(self._about["darks"][number]),
            "bias": "bias" in names,
            "flat": self._about["flat"] is not None,
            "warning": warning,
        }

    def bad_indices(self, facts: Facts) -> Indices:
        """Flat indices, ascending, of the bad pixels that the masters show for a light."""
        if not self._path:
            return np.empty(0, np.int64)
        number = best_dark(self._about["darks"], facts, self._about)
        names = [] if number is None else [f"hot_{number}"]
        names += ["dead"] if self._about["flat"] else []
        parts = [np.empty(0, np.int64)]
        found: Indices = self._keep(
            "bad", names, lambda: np.unique(np.concatenate(parts + [self._array(name) for name in names]))
        )
        return found

    def _keep(self, what: str, key: Any, make: Callable[[], Any]) -> Any:
        """What was made for the last light, if it does for this one."""
        if what not in self._kept or self._kept[what][0] != key:
            self._kept.pop(what, None)  # before the next one is made, for the sake of memory
            self._kept[what] = (key, make())
        return self._kept[what][1]

    def _array(self, name: str) -> NDArray[Any]:
        assert self._path
        return tables.load(self._path, name)[1][name]

    def _inverse_flat(self, bayer: str | None) -> Image:
        """What lights are multiplied by. Each colour has a flat of median 1, so that the colours of lights
        stay.
        """
        flat = self._array("flat")
        if bayer:
            for colour in "RGB":
                cells = [divmod(k, 2) for k in range(4) if bayer[k] == colour]
                median = np.nanmedian(np.concatenate([flat[0, i::2, j::2].ravel() for i, j in cells]))
                for i, j in cells:
                    flat[0, i::2, j::2] /= median
        else:
            flat /= np.nanmedian(flat, axis=(1, 2), keepdims=True)
        # What is darker is dead, and replaced later.
        return np.divide(1, flat, out=np.ones_like(flat), where=flat > _DARKEST)


def _conditions_in_words(about: dict[str, Any]) -> str:
    exposure, temperature = about["exposure_s"], about["temperature_c"]
    words = ["unknown exposure" if exposure is None else f"{exposure:g} s"]
    if temperature is not None:
        words.append(f"{temperature:g} C")
    if about.get("gain") is not None:
        words.append(f"gain {about['gain']:g}")
    return ", ".join(words)
