"""The stars of the reference found again in every frame: one catalogue of measurements, frame by star."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import tables
from ripresa.families.stacking.robust import Floats

MEASURED = ("snr", "fwhm", "r50", "elongation", "peak")


@dataclass(frozen=True)
class Catalogue:
    """What F frames measured of S stars; NaN where a frame has no such star.

    ``x`` and ``y`` [S] are pixels of the reference grid, ``flux`` is [F, S, C], the others are [F, S];
    ``detected`` [F] counts all stars found in a frame.
    """

    x: Floats
    y: Floats
    flux: Floats
    measured: dict[str, Floats]
    detected: NDArray[np.int64]


def invert(matrix: Floats) -> Floats:
    """The inverse of affine transforms [..., 2, 3]."""
    linear = np.linalg.inv(matrix[..., :2])
    return np.concatenate([linear, -linear @ matrix[..., 2:]], axis=-1)


def nearest(
    x: Floats,
    y: Floats,
    star_x: Floats,
    star_y: Floats,
    radius: float,
) -> tuple[NDArray[np.intp], Floats]:
    """For each position (x, y): the index of the nearest star within ``radius``, else -1; and its distance.

    Stars are sorted along x, so that only the few within ``radius`` in x are looked at.
    """
    order = np.argsort(star_x, kind="stable")
    sorted_x, sorted_y = star_x[order], star_y[order]
    first = np.searchsorted(sorted_x, x - radius)
    end = np.searchsorted(sorted_x, x + radius, side="right")
    best = np.full(len(x), -1, np.intp)
    distance = np.full(len(x), np.inf)
    todo = np.flatnonzero(first < end)
    place = first[todo]
    while len(todo):
        apart = np.hypot(x[todo] - sorted_x[place], y[todo] - sorted_y[place])
        nearer = (apart <= radius) & (apart < distance[todo])
        best[todo[nearer]] = order[place[nearer]]
        distance[todo[nearer]] = apart[nearer]
        place = place + 1
        more = place < end[todo]
        todo, place = todo[more], place[more]
    return best, distance


def match(
    star_tables: list[str],
    to_frame: dict[str, Floats],
    names: list[str],
    star_x: Floats,
    star_y: Floats,
    radius: float,
) -> Catalogue:
    """Find the stars (star_x, star_y) of the reference in the frames ``names`` with their transforms.

    A pair counts where each is the other's nearest, at most ``radius`` px of the reference grid apart.
    """
    index = {name: i for i, name in enumerate(names)}
    parts = [_load(path, index) for path in star_tables]
    stars = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    # Independent of how frames are divided into tables.
    order = np.argsort(stars["frame"], kind="stable")
    stars = {key: values[order] for key, values in stars.items()}
    frame = stars["frame"]
    inverse = invert(np.array([to_frame[name] for name in names]))
    x, y = (
        row[0] * stars["x"] + row[1] * stars["y"] + row[2] for row in inverse.transpose(1, 2, 0)[..., frame]
    )
    best, distance = nearest(x, y, star_x, star_y, radius)
    found = np.flatnonzero(best >= 0)
    place = frame[found] * len(star_x) + best[found]
    least = np.full(len(names) * len(star_x), np.inf)
    np.minimum.at(least, place, distance[found])
    nearest_of_all = distance[found] == least[place]
    pair = np.full((len(names), len(star_x)), -1, np.intp)
    pair.flat[place[nearest_of_all]] = found[nearest_of_all]
    return Catalogue(
        x=star_x,
        y=star_y,
        flux=_take(stars["flux"], pair),
        measured={key: _take(stars[key], pair) for key in MEASURED},
        detected=np.bincount(frame, minlength=len(names)),
    )


def _take(values: Floats, pair: NDArray[np.intp]) -> Floats:
    """The values of the paired stars, NaN where there is none."""
    padded = np.concatenate([values, np.full((1, *values.shape[1:]), np.nan)])
    return padded[pair]


def _load(path: str, index: dict[str, int]) -> dict[str, NDArray[Any]]:
    """The stars of one table that are on frames of ``index``; ``frame`` counts as there."""
    about, arrays = tables.load(path, "star_frame", "x", "y", "flux", *MEASURED)
    number = np.array([index.get(frame["name"], -1) for frame in about["frames"]] or [-1], np.intp)
    frame = number[arrays.pop("star_frame")]
    stars = {key: values[frame >= 0].astype(np.float64) for key, values in arrays.items()}
    return stars | {"frame": frame[frame >= 0]}
