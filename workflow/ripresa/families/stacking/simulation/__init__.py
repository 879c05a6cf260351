"""Simulated nights: raw frames as a telescope gives them, and the truth about them.

    truth = simulate({"frames": 60, "width": 1500, "height": 1000, "seed": 1}, "lights")

Every frame has random numbers of its own, so it has the same bytes whichever frames are made beside it.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ripresa.families.stacking import StackingError
from ripresa.families.stacking.progress import report
from ripresa.families.stacking.simulation import camera as cameras
from ripresa.families.stacking.simulation import files, night, optics
from ripresa.families.stacking.simulation.settings import EASY, RAW, Conditions, Settings
from ripresa.families.stacking.simulation.truth import FILE as TRUTH
from ripresa.families.stacking.simulation.truth import Truth

__all__ = ["EASY", "RAW", "TRUTH", "Conditions", "Settings", "Truth", "calibrate", "frame_names", "simulate"]

CALIBRATION = ("bias", "dark", "flat")
_FLAT_EXPOSURE_S = 2.0


def frame_names(settings: Mapping[str, Any] | Settings) -> list[str]:
    """The names of the frames that settings ask for."""
    settings = Settings.of(settings)
    return [night.name_of(index) for index in range(settings.frames)]


def simulate(
    settings: Mapping[str, Any] | Settings,
    directory: str | Path,
    *,
    only: Collection[str] | None = None,
    conditions: Conditions | None = None,
) -> Truth:
    """Write light frames into a directory, and the truth into its `truth.json`.

    ``settings`` are those of the configuration's section `simulate`; ``conditions`` describe the night and
    the camera, a hard one if not given. With ``only``, just the frames of these names are written, without
    the truth. Raises StackingError for settings or names that make no sense.
    """
    settings, conditions = Settings.of(settings), conditions or Conditions()
    truth = Truth.of(settings, conditions)
    names = [frame.name for frame in truth.frames]
    unknown = sorted(set(only or ()) - set(names))
    if unknown:
        raise StackingError(f"no frame {unknown[0]} among {names[0]} to {names[-1]}; ask for one of these")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    camera, pattern = cameras.make(settings, conditions), optics.mosaic(settings)
    wanted = [frame for frame in truth.frames if only is None or frame.name in only]
    for number, frame in enumerate(wanted):
        light = optics.draw(settings, conditions, truth.field, frame, pattern)
        counts, _ = cameras.light_frame(camera, light, frame.index, frame.fwhm_px)
        files.write(directory / frame.name, counts, files.light_cards(settings, conditions, frame))
        report(number + 1, len(wanted))
    if only is None:
        truth.save(directory / TRUTH)
    return truth


def calibrate(
    settings: Mapping[str, Any] | Settings,
    directory: str | Path,
    *,
    count: int = 10,
    conditions: Conditions = RAW,
) -> dict[str, Path]:
    """Write ``count`` raw bias, dark and flat frames of the camera of `simulate` into subdirectories.

    Returns the subdirectories by kind. Darks have the exposure and the temperature of the lights.
    """
    settings = Settings.of(settings)
    camera = cameras.make(settings, conditions)
    exposures = {"bias": 0.0, "dark": conditions.exposure_s, "flat": _FLAT_EXPOSURE_S}
    folders = {kind: Path(directory) / kind for kind in CALIBRATION}
    for kind, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        header = files.cards(settings, conditions, kind.capitalize(), exposures[kind])
        for index in range(count):
            counts = cameras.calibration_frame(camera, kind, index)
            files.write(folder / f"{kind}_{index + 1:04d}.fits", counts, header)
    return folders
