"""The night: where each frame points and what the air does to it. Every series is drawn from a generator of
its own, frame by frame, so the first frames of a longer night have the air of a shorter one."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking.simulation.settings import Conditions, Settings

Floats = NDArray[np.float64]

_START = datetime(2025, 1, 1, 20)
_DEAD_TIME_S = 5.0


@dataclass(frozen=True)
class Frame:
    """One light frame: its truth."""

    name: str
    index: int
    date_obs: str
    to_frame: list[list[float]]
    """2x3: (x, y) in the frame = M (x, y, 1) in the field."""
    flipped: bool
    fwhm_px: float
    """Of the Moffat profile, in the middle of the frame."""
    beta: float
    """Exponent of the Moffat profile."""
    tilt: tuple[float, float]
    """Relative growth of the FWHM towards the right and the lower edge."""
    curvature: float
    """Relative growth of the FWHM from the middle to the middle of an edge."""
    ellipticity: tuple[float, float]
    """(a-b)/(a+b) times cos and sin of twice the angle."""
    transparency: float
    sky: float
    """e/px in the middle of the frame, for green or the only colour."""
    gradient: tuple[float, float]
    """Relative rise of the sky to the right and downwards, as exponents."""
    glow: float
    """Relative sky brightness added towards the corners."""


def wandering(seed: int, what: int, frames: int, memory: float) -> Floats:
    """A series of standard deviation 1 whose neighbours are correlated by ``memory``."""
    steps = np.random.default_rng([seed, 3, what]).standard_normal(frames)
    series = steps.copy()
    for i in range(1, frames):
        series[i] = memory * series[i - 1] + np.sqrt(1 - memory**2) * steps[i]
    return series


def rare(seed: int, what: int, frames: int, share: float, low: float, high: float) -> Floats:
    """Factors: 1, but for a ``share`` of the frames between ``low`` and ``high``."""
    draws = np.random.default_rng([seed, 4, what]).uniform(0, 1, (frames, 2))
    return np.where(draws[:, 0] < share, low + (high - low) * draws[:, 1], 1.0)


def name_of(index: int) -> str:
    """The file name of a frame."""
    return f"light_{index + 1:04d}.fits"


def frames_of(settings: Settings, conditions: Conditions) -> list[Frame]:
    """All frames of a night."""
    n, seed = settings.frames, settings.seed
    series = iter(range(100))

    def wander(memory: float = 0.0) -> Floats:
        return wandering(seed, next(series), n, memory)

    time = np.linspace(-0.5, 0.5, n) if n > 1 else np.zeros(1)
    shift = conditions.dither_px * np.clip(np.stack([wander(0.7), wander(0.7)]), -3, 3)
    heading = 0.6
    shift += conditions.drift_px * time * np.array([[np.cos(heading)], [np.sin(heading)]])
    turn = np.deg2rad(conditions.rotation_deg * time + 0.05 * np.clip(wander(), -2, 2))
    deform = conditions.scale_scatter * np.clip(np.stack([wander(0.8) for _ in range(3)]), -2, 2)
    flip_from = n if conditions.flip_at is None else conditions.flip_at * n
    seeing = conditions.fwhm_px * np.exp(conditions.seeing_scatter * np.clip(wander(0.7), -2, 2))
    seeing *= rare(seed, 0, n, conditions.bad_frames, 1.3, 1.8)
    beta = np.clip(3.5 + 0.3 * wander(0.7), 2.8, 4.5)
    constant = np.random.default_rng([seed, 5]).normal(0, conditions.tilt, 2)
    tilt = np.clip(constant + 0.7 * conditions.tilt * np.stack([wander(), wander()], axis=1), -0.2, 0.2)
    curvature = conditions.curvature * np.clip(1 + 0.25 * wander(), 0, 2)
    ellipticity = conditions.elongation * np.clip(np.stack([wander(0.3), wander(0.3)], axis=1), -2.5, 2.5)
    clear = np.exp(conditions.transparency_scatter * (np.clip(wander(0.8), -2.5, 1) - 0.5))
    clear *= rare(seed, 1, n, conditions.clouds, 0.3, 0.6)
    sky = conditions.sky * np.exp(conditions.sky_scatter * np.clip(wander(0.9), -2.5, 2.5))
    gradient = conditions.gradient * np.clip(np.stack([wander(0.6), wander(0.6)], axis=1), -2.5, 2.5)
    glow = 0.4 * conditions.gradient * np.clip(wander(0.6), -2, 2)
    result = []
    for i in range(n):
        flipped = i >= flip_from
        moment = _START + timedelta(seconds=i * (conditions.exposure_s + _DEAD_TIME_S))
        result.append(
            Frame(
                name=name_of(i),
                index=i,
                date_obs=moment.isoformat(timespec="milliseconds"),
                to_frame=_pointing(settings, shift[:, i], turn[i] + np.pi * flipped, deform[:, i]).tolist(),
                flipped=flipped,
                fwhm_px=float(seeing[i]),
                beta=float(beta[i]),
                tilt=(float(tilt[i, 0]), float(tilt[i, 1])),
                curvature=float(curvature[i]),
                ellipticity=(float(ellipticity[i, 0]), float(ellipticity[i, 1])),
                transparency=float(clear[i]),
                sky=float(sky[i]),
                gradient=(float(gradient[i, 0]), float(gradient[i, 1])),
                glow=float(glow[i]),
            )
        )
    return result


def _pointing(settings: Settings, shift: Floats, turn: float, deform: Floats) -> Floats:
    """The 2x3 matrix from the field to a frame: deformed, turned and shifted about the centre."""
    cos, sin = np.cos(turn), np.sin(turn)
    scale, stretch, shear = deform
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.array(
        [[1 + scale + stretch, shear], [shear, 1 + scale - stretch]]
    )
    centre = np.array(settings.centre)
    return np.column_stack([linear, centre - linear @ centre + shift])
