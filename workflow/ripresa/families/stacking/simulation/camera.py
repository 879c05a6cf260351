"""The camera: its defects, which stay, and what hits it in one frame; from light to counts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking.simulation.kernels import add_trail, expose
from ripresa.families.stacking.simulation.settings import Conditions, Settings

Image = NDArray[np.float32]
Counts = NDArray[np.uint16]

_DUST = 6


@dataclass(frozen=True)
class Camera:
    """What is the same in all frames of a night. Indices are flat, into [H, W]."""

    settings: Settings
    conditions: Conditions
    hot: NDArray[np.int64]
    hot_light: Image
    """What a hot pixel adds in one exposure, e."""
    cold: NDArray[np.int64]
    columns: Image
    """Bias of each column over the mean, ADU."""
    dark: Image | None
    """Dark current in one exposure, e, [H, W]."""
    flat: Image | None
    """Relative sensitivity, [H, W]."""


def make(settings: Settings, conditions: Conditions) -> Camera:
    """The camera of a seed."""
    random = np.random.default_rng([settings.seed, 6])
    pixels = settings.width * settings.height
    hot_count, cold_count = (
        min(conditions.hot_pixels, pixels // 500),
        min(conditions.cold_pixels, pixels // 5000),
    )
    defects = random.choice(pixels, hot_count + cold_count, replace=False)
    hot_light = np.exp(random.uniform(np.log(400), np.log(60000), hot_count)).astype(np.float32)
    columns = (conditions.bias_pattern * random.standard_normal(settings.width)).astype(np.float32)
    dark = flat = None
    shape = settings.height, settings.width
    if conditions.dark_current:
        dark = (conditions.dark_current * (1 + 0.2 * np.abs(random.standard_normal(shape)))).astype(
            np.float32
        )
    if conditions.vignetting:
        flat = _flat(settings, conditions, random)
    return Camera(
        settings, conditions, defects[:hot_count], hot_light, defects[hot_count:], columns, dark, flat
    )


def _flat(settings: Settings, conditions: Conditions, random: np.random.Generator) -> Image:
    """Vignetting, the shadows of dust, and 1 % between pixels."""
    y, x = np.mgrid[: settings.height, : settings.width].astype(np.float32)
    x_middle, y_middle = settings.centre
    radius2 = ((x - x_middle) ** 2 + (y - y_middle) ** 2) / (x_middle**2 + y_middle**2)
    flat = 1 - conditions.vignetting * radius2
    for _ in range(_DUST):
        dust = np.hypot(x - random.uniform(0, settings.width), y - random.uniform(0, settings.height))
        outer = random.uniform(8, 20)
        flat *= 1 - 0.08 * np.exp(-(((dust - 0.7 * outer) / (0.3 * outer)) ** 2))
    flat *= 1 + 0.01 * random.standard_normal(flat.shape, np.float32)
    return np.asarray(flat, np.float32)


def generator(settings: Settings, kind: int, index: int) -> np.random.Generator:
    """The random numbers of one frame: they do not depend on which frames are made, or in which order."""
    return np.random.default_rng([settings.seed, 7, kind, index])


def light_frame(camera: Camera, light: Image, index: int, fwhm_px: float) -> tuple[Counts, int]:
    """Expose frame ``index`` to ``light`` [H, W] in e/px, which is changed; counts, and how many trails."""
    random = generator(camera.settings, 0, index)
    noise = random.standard_normal(light.shape, np.float32)
    trails = _satellites(light, camera.conditions, random, fwhm_px)
    if camera.flat is not None:
        light *= camera.flat
    _cosmic_rays(light, camera.conditions, random)
    return _counts(camera, light, noise, exposed=True), trails


def calibration_frame(camera: Camera, kind: str, index: int) -> Counts:
    """A ``bias``, ``dark`` or ``flat`` frame; a flat is a short exposure to half the range."""
    random = generator(camera.settings, {"bias": 1, "dark": 2, "flat": 3}[kind], index)
    shape = camera.settings.height, camera.settings.width
    noise = random.standard_normal(shape, np.float32)
    light = np.full(shape, 30000 * random.uniform(0.95, 1.05) if kind == "flat" else 0, np.float32)
    if kind == "flat" and camera.flat is not None:
        light *= camera.flat
    return _counts(camera, light, noise, exposed=kind == "dark")


def _counts(camera: Camera, light: Image, noise: Image, *, exposed: bool) -> Counts:
    """Counts of light in e/px, which is changed. Only a frame that is ``exposed`` collects dark current."""
    counts = np.empty(light.shape, np.uint16)
    light.reshape(-1)[camera.cold] = 0
    if exposed:
        if camera.dark is not None:
            light += camera.dark
        light.reshape(-1)[camera.hot] += camera.hot_light
    expose(light, noise, camera.conditions.read_noise, camera.conditions.bias, counts)
    if camera.conditions.bias_pattern:
        shifted = counts + np.round(camera.columns)
        counts = np.clip(shifted, 0, 65535).astype(np.uint16)
    return counts


def _satellites(light: Image, conditions: Conditions, random: np.random.Generator, fwhm_px: float) -> int:
    """Cross the frame with the trails of some satellites; returns how many."""
    count = int(random.poisson(conditions.trails))
    for _ in range(count):
        x, y = random.uniform(0.1, 0.9, 2) * light.shape[::-1]
        angle, peak = random.uniform(0, np.pi), np.exp(random.uniform(np.log(150), np.log(4000)))
        add_trail(light, float(x), float(y), float(angle), fwhm_px / 2.355, float(peak))
    return count


def _cosmic_rays(light: Image, conditions: Conditions, random: np.random.Generator) -> None:
    """Hits of one pixel, and tracks of some."""
    for _ in range(int(random.poisson(conditions.cosmic_rays * light.size / 1e6))):
        x, y = random.uniform(0, 1, 2) * light.shape[::-1]
        angle, energy = random.uniform(0, 2 * np.pi), np.exp(random.uniform(np.log(300), np.log(20000)))
        for step in range(1 + int(random.exponential(1.5))):
            column, row = int(x + step * np.cos(angle)), int(y + step * np.sin(angle))
            if 0 <= row < light.shape[0] and 0 <= column < light.shape[1]:
                light[row, column] += energy
