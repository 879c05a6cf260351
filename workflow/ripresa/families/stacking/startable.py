"""The stars that the scan found, frame by frame."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import matching, tables

Facts = dict[str, Any]
Vector = NDArray[np.float64]

_COLUMNS = ("x", "y", "flux", "snr", "fwhm", "r50", "elongation")


@dataclass(frozen=True)
class FrameStars:
    """A frame's facts and its stars, brightest first (see `detection.Stars`); none if the frame is bad."""

    facts: Facts
    x: Vector
    y: Vector
    flux: Vector
    snr: Vector
    fwhm: Vector
    r50: Vector
    elongation: Vector

    def __len__(self) -> int:
        return len(self.x)

    @property
    def name(self) -> str:
        """The frame's name."""
        return str(self.facts["name"])

    @property
    def ok(self) -> bool:
        """Whether the scan found the frame usable."""
        return bool(self.facts["status"] == "ok")

    def points(self) -> matching.Points:
        """Its stars for matching."""
        return matching.Points(self.x, self.y, matching.position_errors(self.fwhm, self.snr))


def read(path: str) -> Iterator[FrameStars]:
    """All frames of a table of the scan, bad ones too (without stars), in the table's order."""
    about, arrays = tables.load(path, "star_frame", *_COLUMNS)
    number = arrays["star_frame"]
    bounds = np.searchsorted(number, np.arange(len(about["frames"]) + 1))
    for i, facts in enumerate(about["frames"]):
        part = slice(bounds[i], bounds[i + 1])
        yield FrameStars(facts, *(arrays[name][part].astype(np.float64) for name in _COLUMNS))


def bad_pixels(path: str, name: str) -> NDArray[np.int64]:
    """The flat indices of the pixels to repair on the frame ``name`` of a table."""
    about, arrays = tables.load(path, "hot_frame", "hot_index")
    names = [facts["name"] for facts in about["frames"]]
    return arrays["hot_index"][arrays["hot_frame"] == names.index(name)]
