"""The sky: stars and nebulae in field coordinates, which are the pixels of an ideal, undisturbed frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking.simulation.settings import Conditions, Settings

Floats = NDArray[np.float64]

_NEBULAE = 10
_SKY_COLOUR = (0.8, 1.0, 0.7)


@dataclass(frozen=True)
class Field:
    """What there is to see.

    Stars have positions ``x``, ``y`` [n] in px and a ``flux`` [n, C] in e on pixels of each colour. Nebulae
    are elliptic Gaussians: rows of x, y, three terms xx, xy, yy of the exponent's quadratic form in 1/px^2,
    then the peak in e/px in each of C colours.
    """

    x: Floats
    y: Floats
    flux: Floats
    nebulae: Floats
    sky_colour: Floats
    """The sky in each colour, green or the only one being 1."""


def margins(settings: Settings, conditions: Conditions) -> tuple[float, float]:
    """How far, px, the frames of a night reach beyond the field to the sides, and to top and bottom."""
    width, height = settings.width, settings.height
    shift = 3 * conditions.dither_px + conditions.drift_px / 2 + 10
    turn = np.deg2rad(np.linspace(0, min(abs(conditions.rotation_deg) / 2 + 0.1, 90), 30))
    across = (width * np.cos(turn) + height * np.sin(turn)).max() - width
    along = (height * np.cos(turn) + width * np.sin(turn)).max() - height
    return shift + across / 2, shift + along / 2


def make(settings: Settings, conditions: Conditions) -> Field:
    """The field of a seed, somewhat larger than a frame so that no pointing misses stars at its border."""
    x_margin, y_margin = margins(settings, conditions)
    box = settings.width + 2 * x_margin, settings.height + 2 * y_margin
    area = box[0] * box[1]
    count = round(settings.star_count * area / (settings.width * settings.height))
    random = np.random.default_rng([settings.seed, 1])
    x = random.uniform(0, box[0], count) - x_margin
    y = random.uniform(0, box[1], count) - y_margin
    # One star from each of `count` equal shares of the distribution: few stars are not all faint by chance.
    share = (random.permutation(count) + random.uniform(0, 1, count)) / max(count, 1)
    ends = np.array([conditions.brightest, conditions.faintest]) ** -conditions.slope
    flux = (ends[0] + share * (ends[1] - ends[0])) ** (-1 / conditions.slope)
    if not settings.bayer:
        colours = np.ones((count, 1))
        sky = np.ones(1)
    else:
        index = np.clip(random.normal(0.7, 0.4, count), -0.3, 2.0) - 0.7  # B-V against a star like the Sun
        colours = np.stack([0.9 * 10 ** (0.25 * index), np.ones(count), 0.8 * 10 ** (-0.4 * index)], axis=1)
        sky = np.array(_SKY_COLOUR)
    return Field(x, y, flux[:, None] * colours, _nebulae(settings, conditions, box), sky)


def _nebulae(settings: Settings, conditions: Conditions, box: tuple[float, float]) -> Floats:
    channels = len(settings.channels)
    if conditions.nebula <= 0:
        return np.zeros((0, 5 + channels))
    random = np.random.default_rng([settings.seed, 2])
    span = min(settings.width, settings.height)
    rows = []
    for number in range(_NEBULAE):
        minor = max(20.0, span * random.uniform(0.03, 0.12))
        major = minor * random.uniform(1, 4)
        turn = random.uniform(0, np.pi)
        where = random.uniform(0.1, 0.9, 2) * box - (np.array(box) - (settings.width, settings.height)) / 2
        cos, sin = np.cos(turn), np.sin(turn)
        form = (
            (cos / major) ** 2 + (sin / minor) ** 2,
            2 * cos * sin * (1 / major**2 - 1 / minor**2),
            (sin / major) ** 2 + (cos / minor) ** 2,
        )
        peak = conditions.nebula * (1.0 if number == 0 else random.uniform(0.1, 0.8))
        emission = random.uniform(0, 1)  # red hydrogen against blue reflection
        colour = [emission + 0.3, 0.5, 1.1 - emission] if settings.bayer else [1.0]
        rows.append([*where, *form, *(peak * part for part in colour)])
    return np.array(rows)


def nebula_light(field: Field, x: Floats, y: Floats) -> Floats:
    """The nebulae in e/px, [C, ...], at field coordinates of any shape."""
    light = np.zeros((field.flux.shape[1], *x.shape))
    for row in field.nebulae:
        dx, dy = x - row[0], y - row[1]
        one = np.exp(-0.5 * (row[2] * dx * dx + row[3] * dx * dy + row[4] * dy * dy))
        for channel, peak in enumerate(row[5:]):
            light[channel] += peak * one
    return light
