"""From the field to the light that falls onto the sensor in one frame, without any noise."""

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking.simulation.field import Field, nebula_light
from ripresa.families.stacking.simulation.kernels import STEP, add_smooth, add_stars
from ripresa.families.stacking.simulation.night import Frame
from ripresa.families.stacking.simulation.settings import Conditions, Settings

Image = NDArray[np.float32]
Floats = NDArray[np.float64]

_LARGEST_ELLIPTICITY = 0.3


def apply(matrix: list[list[float]] | Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The coordinates that a 2x3 matrix maps (x, y) to."""
    (a, b, c), (d, e, f) = np.asarray(matrix)
    return a * x + b * y + c, d * x + e * y + f


def inverse(matrix: list[list[float]] | Floats) -> Floats:
    """The 2x3 matrix of the opposite way."""
    matrix = np.asarray(matrix, float)
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def compose(second: list[list[float]] | Floats, first: list[list[float]] | Floats) -> Floats:
    """The 2x3 matrix of ``first``, then ``second``."""
    second, first = np.asarray(second, float), np.asarray(first, float)
    return np.column_stack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]])


def relative(settings: Settings, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Pixel coordinates as shares of the half width and the half height from the middle."""
    x_middle, y_middle = settings.centre
    return (x - x_middle) / (settings.width / 2), (y - y_middle) / (settings.height / 2)


def widths(settings: Settings, frame: Frame, x: Floats, y: Floats) -> Floats:
    """The FWHM, px, of stars at these places in a frame."""
    u, v = relative(settings, x, y)
    factor = 1 + frame.tilt[0] * u + frame.tilt[1] * v + frame.curvature * (u * u + v * v)
    return frame.fwhm_px * np.maximum(factor, 0.5)


def shapes(settings: Settings, conditions: Conditions, frame: Frame, x: Floats, y: Floats) -> Floats:
    """The quadratic form of the Moffat profile, [n, 3], at places in a frame (see `kernels.add_stars`)."""
    u, v = relative(settings, x, y)
    fwhm = widths(settings, frame, x, y)
    # Coma along the radius: r^2 (cos 2 phi, sin 2 phi) = (u^2 - v^2, 2 u v).
    e1 = frame.ellipticity[0] + conditions.coma * (u * u - v * v)
    e2 = frame.ellipticity[1] + conditions.coma * 2 * u * v
    e = np.minimum(np.hypot(e1, e2), _LARGEST_ELLIPTICITY)
    turn = 0.5 * np.arctan2(e2, e1)
    scale = fwhm / (2 * np.sqrt(2 ** (1 / frame.beta) - 1))
    along, across = scale * np.sqrt((1 + e) / (1 - e)), scale * np.sqrt((1 - e) / (1 + e))
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack(
        [
            (cos / along) ** 2 + (sin / across) ** 2,
            2 * cos * sin * (1 / along**2 - 1 / across**2),
            (sin / along) ** 2 + (cos / across) ** 2,
        ],
        axis=1,
    )


def smooth_light(settings: Settings, field: Field, frame: Frame) -> Image:
    """Sky and nebulae in e/px, [C, rows, columns], at every `STEP` px of a frame."""
    rows = np.arange(settings.height // STEP + 2) * float(STEP)
    columns = np.arange(settings.width // STEP + 2) * float(STEP)
    x, y = np.meshgrid(columns, rows)
    u, v = relative(settings, x, y)
    sky = frame.sky * (
        np.exp(frame.gradient[0] * u + frame.gradient[1] * v) + frame.glow * (u * u + v * v) / 2
    )
    nebulae = nebula_light(field, *apply(inverse(frame.to_frame), x, y))
    return (field.sky_colour[:, None, None] * sky + frame.transparency * nebulae).astype(np.float32)


def draw(
    settings: Settings,
    conditions: Conditions,
    field: Field,
    frame: Frame,
    colour_of: NDArray[np.int64],
    *,
    stars: bool = True,
    smooth: bool = True,
) -> Image:
    """The light of a frame in e/px, [H, W]; ``colour_of`` [2, 2] is the colour by parity of row, column."""
    image = np.zeros((settings.height, settings.width), np.float32)
    if smooth:
        add_smooth(image, colour_of, smooth_light(settings, field, frame))
    if stars:
        x, y = apply(frame.to_frame, field.x, field.y)
        form = shapes(settings, conditions, frame, x, y)
        add_stars(image, colour_of, x, y, field.flux * frame.transparency, form, frame.beta)
    return image


def mosaic(settings: Settings) -> NDArray[np.int64]:
    """The colour (0 red, 1 green, 2 blue; 0 if there is only one) by parity of row and column, [2, 2]."""
    letters = settings.bayer or "LLLL"
    order = {"L": 0, "R": 0, "G": 1, "B": 2}
    return np.array([order[letter] for letter in letters], np.int64).reshape(2, 2)
