"""What is true about simulated frames: kept beside them as JSON, to judge what was made of them."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking.simulation import field as fields
from ripresa.families.stacking.simulation import night, optics
from ripresa.families.stacking.simulation.field import Field
from ripresa.families.stacking.simulation.night import Frame
from ripresa.families.stacking.simulation.settings import Conditions, Settings

Image = NDArray[np.float32]
Floats = NDArray[np.float64]

FILE = "truth.json"
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Truth:
    """The field, and every frame's pointing, seeing, transparency and sky."""

    settings: Settings
    conditions: Conditions
    frames: list[Frame]
    field: Field

    @classmethod
    def of(cls, settings: Settings, conditions: Conditions) -> "Truth":
        """The truth of a seed, before any frame is made."""
        return cls(
            settings, conditions, night.frames_of(settings, conditions), fields.make(settings, conditions)
        )

    @classmethod
    def load(cls, path: str | Path) -> "Truth":
        """What `save` wrote."""
        read = json.loads(Path(path).read_text())
        frames = [_frame(one) for one in read["frames"]]
        sky = Field(**{key: np.array(value) for key, value in read["field"].items()})
        sky = replace(sky, nebulae=sky.nebulae.reshape(-1, 5 + len(sky.sky_colour)))
        sky = replace(sky, flux=sky.flux.reshape(-1, len(sky.sky_colour)))
        return cls(Settings(**read["settings"]), Conditions(**read["conditions"]), frames, sky)

    def save(self, path: str | Path) -> None:
        """Write a JSON document: settings, conditions, field (stars, nebulae) and frames."""
        document: dict[str, Any] = {
            "settings": asdict(self.settings),
            "conditions": asdict(self.conditions),
            "field": {key: value.tolist() for key, value in asdict(self.field).items()},
            "frames": [asdict(frame) for frame in self.frames],
        }
        Path(path).write_text(json.dumps(document, indent=1) + "\n")

    def frame(self, name: str) -> Frame:
        """The frame with a file name, whatever directory stands before it. Raises KeyError."""
        for frame in self.frames:
            if frame.name == Path(name).name:
                return frame
        raise KeyError(name)

    def transform(self, reference: str, name: str) -> Floats:
        """The 2x3 matrix M with (x, y) in the frame = M (x, y, 1) in the reference."""
        return optics.compose(self.frame(name).to_frame, optics.inverse(self.frame(reference).to_frame))

    def positions(self, name: str) -> tuple[Floats, Floats]:
        """Where all stars of the field are in a frame, px; some are beside it."""
        return optics.apply(self.frame(name).to_frame, self.field.x, self.field.y)

    def flux(self, name: str) -> Floats:
        """The electrons that each star gives in a frame, [n, C]."""
        return self.field.flux * self.frame(name).transparency

    def coverage(self, reference: str, names: list[str] | None = None) -> NDArray[np.int32]:
        """How many of the frames reach each pixel of the reference, [H, W]."""
        y, x = np.mgrid[: self.settings.height, : self.settings.width].astype(float)
        count = np.zeros(x.shape, np.int32)
        for name in names or [frame.name for frame in self.frames]:
            fx, fy = optics.apply(self.transform(reference, name), x, y)
            within_x = np.minimum(fx, self.settings.width - 1 - fx)
            within_y = np.minimum(fy, self.settings.height - 1 - fy)
            count += np.minimum(within_x, within_y) > -_ROUNDING
        return count

    def light(
        self, name: str, *, stars: bool = True, smooth: bool = True, fwhm_px: float | None = None
    ) -> Image:
        """The noiseless light of a frame in e/px, [C, H, W], every colour on every pixel, without bias,
        camera defects, trails and cosmic rays: ``smooth`` is sky and nebulae. ``fwhm_px`` replaces the
        seeing in the middle."""
        frame = self.frame(name)
        if fwhm_px is not None:
            frame = replace(frame, fwhm_px=fwhm_px)
        return np.stack(
            [
                optics.draw(
                    self.settings,
                    self.conditions,
                    self.field,
                    frame,
                    np.full((2, 2), channel, np.int64),
                    stars=stars,
                    smooth=smooth,
                )
                for channel in range(len(self.settings.channels))
            ]
        )


def _frame(read: dict[str, Any]) -> Frame:
    pairs = {key: tuple(read[key]) for key in ("tilt", "ellipticity", "gradient")}
    return Frame(**read | pairs)
