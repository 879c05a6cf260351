"""What is simulated: the frames asked for, and the night and the camera they come from."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ripresa.families.stacking import StackingError

STARS_PER_MEGAPIXEL = 270
PATTERNS = ("RGGB", "BGGR", "GBRG", "GRBG")


@dataclass(frozen=True)
class Settings:
    """The section `simulate` of the configuration."""

    frames: int = 60
    width: int = 600
    height: int = 400
    seed: int = 1
    stars: int | None = None
    """In a field of the size of a frame; None: `STARS_PER_MEGAPIXEL`."""
    bayer: str | None = None

    def __post_init__(self) -> None:
        if self.frames < 1 or min(self.width, self.height) < 16:
            raise StackingError(
                f"cannot simulate {self.frames} frames of {self.width}x{self.height} px; "
                "ask for at least one of at least 16x16"
            )
        if self.bayer not in (None, *PATTERNS):
            raise StackingError(
                f"cannot simulate the Bayer pattern {self.bayer!r}; use one of {', '.join(PATTERNS)}"
            )

    @classmethod
    def of(cls, given: "Mapping[str, Any] | Settings") -> "Settings":
        """The settings of a mapping; keys that are no settings are refused."""
        if isinstance(given, Settings):
            return given
        unknown = set(given) - {field.name for field in fields(cls)}
        if unknown:
            raise StackingError(f"unknown in simulate: {', '.join(sorted(unknown))}; take it out")
        return cls(**given)

    @property
    def star_count(self) -> int:
        """Stars in a field of the size of a frame."""
        if self.stars is not None:
            return self.stars
        return round(STARS_PER_MEGAPIXEL * self.width * self.height / 1e6)

    @property
    def channels(self) -> list[str]:
        """The colours of the camera."""
        return ["R", "G", "B"] if self.bayer else ["L"]

    @property
    def centre(self) -> tuple[float, float]:
        """The centre (x, y) of a frame, and of the field, px."""
        return (self.width - 1) / 2, (self.height - 1) / 2


@dataclass(frozen=True)
class Conditions:
    """The night and the camera; the defaults are a hard night. Fluxes are in electrons, 1 ADU each."""

    fwhm_px: float = 3.0
    """Median seeing in the middle of the frame."""
    seeing_scatter: float = 0.18
    """Of the logarithm of the seeing; it wanders rather than jumps."""
    bad_frames: float = 0.08
    """Share of frames with 1.3 to 1.8 times the seeing."""
    curvature: float = 0.12
    """Relative growth of the seeing from the middle to the middle of an edge."""
    tilt: float = 0.06
    """Typical relative growth of the seeing towards one edge; each frame has its own."""
    elongation: float = 0.05
    """Typical ellipticity (a-b)/(a+b) from guiding; each frame has its own."""
    coma: float = 0.04
    """Ellipticity along the radius at the middle of an edge."""
    transparency_scatter: float = 0.10
    clouds: float = 0.04
    """Share of frames behind cloud that lets 30 to 60 % through."""
    sky: float = 800.0
    """Median sky background, e/px."""
    sky_scatter: float = 0.12
    gradient: float = 0.08
    """Typical relative rise of the sky from the middle to an edge; each frame has its own."""
    nebula: float = 80.0
    """Peak of the brightest nebula, e/px; 0: none."""
    faintest: float = 1000.0
    """Flux of the faintest star, e."""
    brightest: float = 1.5e6
    slope: float = 0.9
    """Stars brighter than F are as many as F^-slope."""
    dither_px: float = 12.0
    """Typical pointing error, px, at most three times as much."""
    drift_px: float = 25.0
    """Drift over the whole night, px."""
    rotation_deg: float = 3.0
    """Field rotation over the whole night."""
    scale_scatter: float = 1e-4
    """Of the scale and of each shear term."""
    flip_at: float | None = 0.8
    """When, as a share of the night, the mount goes over the meridian and turns the camera; None: never."""
    hot_pixels: int = 300
    """At most one in 500 pixels."""
    cold_pixels: int = 30
    """At most one in 5000 pixels."""
    cosmic_rays: float = 10.0
    """Hits a megapixel and frame."""
    trails: float = 0.15
    """Satellites a frame."""
    read_noise: float = 8.0
    """e."""
    bias: float = 300.0
    """ADU."""
    bias_pattern: float = 0.0
    """Scatter of the bias between columns, ADU."""
    dark_current: float = 0.0
    """e/px in one exposure, on every pixel."""
    vignetting: float = 0.0
    """Loss of light in the corners; with it come dust and a few per cent between pixels."""
    exposure_s: float = 60.0
    temperature_c: float = -10.0


RAW = Conditions(bias_pattern=3.0, dark_current=40.0, vignetting=0.3)
"""A hard night whose frames need calibration."""

EASY = Conditions(
    seeing_scatter=0.05,
    bad_frames=0,
    tilt=0.01,
    elongation=0.01,
    coma=0.01,
    transparency_scatter=0.02,
    clouds=0,
    gradient=0.01,
    nebula=0,
    dither_px=5,
    drift_px=0,
    rotation_deg=0,
    flip_at=None,
    hot_pixels=0,
    cold_pixels=0,
    cosmic_rays=0,
    trails=0,
)
"""A night with nothing but stars."""
