"""Phase 2: every registered frame of a chunk, calibrated, as channels on the pixel grid of the reference.

Each raw pixel is resampled once, and nothing else ever moves it. One frame is in memory at a time, and what
is made of it depends on nothing but itself, the masters and the transform.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import cells as cellular
from ripresa.families.stacking import grain, tables
from ripresa.families.stacking.calibration import Calibrator
from ripresa.families.stacking.frames import Facts, Image
from ripresa.families.stacking.progress import report
from ripresa.families.stacking.ready import load_frame
from ripresa.families.stacking.registered import Scale, Writer
from ripresa.families.stacking.resampling import Matrix, Resampler

# The noise that the steps of stored integers are compared with: that of the quietest tenth of the cells.
_QUIET = 0.1

_MAPS = ("background", "noise", "energy", "coverage")


def split(
    stars: str,
    registration: str,
    reference: str,
    masters: str | None,
    settings: dict[str, Any],
    registered: str,
    cells: str,
) -> None:
    """Write the registered frames (`registered.Writer`) and the table of their cells, sorted by name.

    ``stars`` and ``registration`` are the chunk's, ``settings`` has registration (interpolation). The table
    has about: cell (px), width, height, channels, bytes (of the file ``registered``), frames [{name,
    planes}]; and arrays [F, C, ny, nx] background, noise, energy, coverage (see `cells`), row_sum [F, C, H].

    Raises Changed if a frame is no longer what it was when it was scanned.
    """
    grid = tables.read_json(reference)
    width, height, channels = grid["width"], grid["height"], grid["channels"]
    placed = {
        entry["name"]: np.array(entry["to_frame"], np.float64)
        for entry in tables.read_json(registration)["frames"]
        if entry["status"] == "registered"
    }
    calibrator = Calibrator(masters)
    splitter = _Splitter(settings["registration"]["interpolation"], channels, width, height)
    shape = (len(placed), len(channels))
    maps = {name: np.empty((*shape, *cellular.shape(height, width)), np.float32) for name in _MAPS}
    row_sum = np.zeros((*shape, height), np.uint32)
    frames = []
    with Writer(registered, channels, width, height) as writer:
        for i, (facts, hot) in enumerate(_frames(stars, placed)):
            name, to_frame = facts["name"], placed[facts["name"]]
            image = load_frame(facts, calibrator, hot, stars)
            scales = splitter.split(image, facts, to_frame, {key: maps[key][i] for key in _MAPS})
            planes, row_sum[i] = writer.add(name, splitter.image, scales, to_frame)
            frames.append({"name": name, "planes": planes})
            report(i + 1, len(placed))
    about = {
        "cell": cellular.CELL,
        "width": width,
        "height": height,
        "channels": channels,
        "bytes": os.path.getsize(registered),
        "frames": frames,
    }
    tables.save(cells, about, **maps, row_sum=row_sum)


def _frames(stars: str, placed: dict[str, Matrix]) -> Iterator[tuple[Facts, NDArray[np.int64]]]:
    """Facts and bad pixels of the frames to resample, sorted by name."""
    about, arrays = tables.load(stars, "hot_frame", "hot_index")
    chosen = [(facts["name"], i) for i, facts in enumerate(about["frames"]) if facts["name"] in placed]
    for _, i in sorted(chosen):
        begin, end = np.searchsorted(arrays["hot_frame"], [i, i + 1])
        yield about["frames"][i], arrays["hot_index"][begin:end]


class _Splitter:
    """Resamples frames into the one ``image`` [C, H, W], and measures their cells."""

    def __init__(self, interpolation: str, channels: list[str], width: int, height: int) -> None:
        self._resampler = Resampler(interpolation, width, height)
        self.image = np.empty((len(channels), height, width), np.float32)

    def split(self, raw: Image, facts: Facts, to_frame: Matrix, maps: dict[str, Image]) -> list[Scale]:
        """Resample ``raw`` [1 or C, h, w]; fill ``maps`` [C, ny, nx]; how each channel is to be stored."""
        background = facts["channel_background"]
        noise = [_raw_noise(raw, facts, to_frame, c) for c in range(len(self.image))]
        typical = [_typical(levels) for levels in noise]
        if facts["kind"] == "cfa":
            self._resampler.mosaic(raw[0], facts["bayer"], to_frame, background, typical, self.image)
        else:
            for c, plane in enumerate(raw):
                self._resampler.plane(plane, to_frame, background[c], typical[c], self.image[c])
        scales = []
        for c, plane in enumerate(self.image):
            measured = cellular.measure(plane)
            maps["background"][c] = measured.background
            maps["energy"][c] = measured.energy
            maps["coverage"][c] = measured.coverage
            carried = [cellular.carry(one.level, one.to_plane, measured.coverage) ** 2 for one in noise[c]]
            maps["noise"][c] = np.sqrt(np.mean(carried, axis=0))
            known = maps["noise"][c][np.isfinite(maps["noise"][c])]
            quiet = float(np.quantile(known, _QUIET)) if len(known) else 0.0
            scales.append(Scale.choose(measured.low, measured.high, quiet))
            maps["noise"][c] *= np.float32(np.mean([one.coarseness for one in noise[c]]))
        return scales


class _Lattice(NamedTuple):
    """Noise of single pixels in the cells of a raw plane, the map to its pixels, and its coarseness."""

    level: Image
    to_plane: Matrix
    coarseness: float

    @classmethod
    def of(cls, plane: Image, to_plane: Matrix) -> _Lattice:
        level = cellular.raw_noise(plane)
        return cls(level, to_plane, grain.coarseness(plane, level))


def _raw_noise(raw: Image, facts: Facts, to_frame: Matrix, c: int) -> list[_Lattice]:
    """Noise of each raw lattice of channel ``c``: that of a single raw pixel also for green, of which there
    are two lattices."""
    if facts["kind"] != "cfa":
        return [_Lattice.of(raw[c], to_frame)]
    lattices = []
    for k, colour in enumerate(facts["bayer"]):
        if colour == "RGB"[c]:
            oy, ox = divmod(k, 2)
            plane = np.ascontiguousarray(raw[0, oy::2, ox::2])
            lattices.append(_Lattice.of(plane, (to_frame - [[0, 0, ox], [0, 0, oy]]) / 2))
    return lattices


def _typical(lattices: list[_Lattice]) -> float:
    """The median over all cells; 0 if no pixel is known."""
    values = np.concatenate([one.level.ravel() for one in lattices])
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else 0.0
