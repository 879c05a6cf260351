"""The table of frames, once for programs that read FITS and once for everything else."""

import csv
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ripresa.families.stacking import fits
from ripresa.families.stacking.outputs.evidence import Frame


class _Field(NamedTuple):
    name: str
    form: str
    unit: str
    value: Callable[[Frame], Any]


def _text(name: str) -> _Field:
    return _Field(name, "A", "", lambda frame: getattr(frame, name) or "")


def _count(name: str) -> _Field:
    return _Field(name, "J", "", lambda frame: getattr(frame, name))


def _real(name: str, unit: str = "") -> _Field:
    return _Field(name, "D", unit, lambda frame: getattr(frame, name))


_LEADING = (
    _text("name"),
    _text("status"),
    _text("reason"),
    _text("method"),
    _text("model"),
    _count("matches"),
    _real("residual_px", "pix"),
)
_TRAILING = (
    _real("fwhm_px", "pix"),
    _real("eccentricity"),
    _count("n_stars"),
    _real("background", "adu"),
    _real("noise", "adu"),
    _real("transparency"),
    _real("quality"),
    _real("weight_share"),
    _real("footprint"),
    _real("rejected_fraction"),
    _count("cluster"),
    _text("date_obs"),
    _real("exposure_s", "s"),
)
_MATRIX = ("to_frame_xx", "to_frame_xy", "to_frame_x0", "to_frame_yx", "to_frame_yy", "to_frame_y0")


def write_csv(path: str, frames: Sequence[Frame], channels: Sequence[str]) -> None:
    """One row for each input frame; what is not known is empty."""
    matrix = [_Field(name, "D", "", partial(_coefficient, n)) for n, name in enumerate(_MATRIX)]
    scale = [_Field(f"scale_{name}", "D", "", partial(_scale, n)) for n, name in enumerate(channels)]
    columns = [*_LEADING, *matrix, *scale, *_TRAILING]
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([column.name for column in columns])
        for frame in frames:
            rows.writerow([_short(column.value(frame)) for column in columns])


def fits_columns(frames: Sequence[Frame], channels: Sequence[str]) -> list[fits.Column]:
    """The same table as columns of a FITS table, the transform and the scales as one column each."""
    nothing = (float("nan"),) * 3
    matrix = np.array(
        [[*first, *second] for first, second in (f.to_frame or (nothing, nothing) for f in frames)]
    )
    scale = np.array([frame.scale or (float("nan"),) * len(channels) for frame in frames])
    return [
        *(_column(field, frames) for field in _LEADING),
        ("to_frame", "6D", "", matrix.reshape(len(frames), 6)),
        ("scale", f"{len(channels)}D", "", scale if len(channels) > 1 else scale.reshape(-1)),
        *(_column(field, frames) for field in _TRAILING),
    ]


def _coefficient(number: int, frame: Frame) -> float | None:
    return frame.to_frame[number // 3][number % 3] if frame.to_frame else None


def _scale(channel: int, frame: Frame) -> float | None:
    return frame.scale[channel] if frame.scale else None


def _column(field: _Field, frames: Sequence[Frame]) -> fits.Column:
    values = [field.value(frame) for frame in frames]
    if field.form == "A":
        texts = np.array([text.encode("ascii", "replace") for text in values] or [b""])[: len(frames)]
        return field.name, f"{max(texts.dtype.itemsize, 1)}A", field.unit, texts
    if field.form == "J":
        return field.name, "J", field.unit, np.array([-1 if n is None else n for n in values], np.int32)
    return field.name, "D", field.unit, np.array([np.nan if n is None else n for n in values], np.float64)


def _short(value: Any) -> Any:
    """Six significant digits of a measurement, but positions and transforms as they are, to 1e-9."""
    if value is None:
        return ""
    return f"{value:.9g}" if isinstance(value, float) else value
