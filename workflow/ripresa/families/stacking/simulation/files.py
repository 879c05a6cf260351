"""Simulated frames as FITS files."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking.simulation.night import Frame
from ripresa.families.stacking.simulation.optics import inverse
from ripresa.families.stacking.simulation.settings import Conditions, Settings

_PIXEL_DEG = 1.2 / 3600
_RA_DEG, _DEC_DEG = 202.5, 47.2


def cards(settings: Settings, conditions: Conditions, kind: str, exposure_s: float) -> dict[str, Any]:
    """The header of any frame; ``kind`` is Light, Bias, Dark or Flat."""
    header: dict[str, Any] = {
        "IMAGETYP": f"{kind} Frame",
        "EXPTIME": exposure_s,
        "CCD-TEMP": conditions.temperature_c,
        "GAIN": 1.0,
        "EGAIN": 1.0,
        "INSTRUME": "Simulated camera",
    }
    if settings.bayer:
        header |= {"BAYERPAT": settings.bayer, "XBAYROFF": 0, "YBAYROFF": 0}
    return header


def light_cards(settings: Settings, conditions: Conditions, frame: Frame) -> dict[str, Any]:
    """The header of a light frame: when, what, and where on the sky (gnomonic projection)."""
    start = datetime.fromisoformat(frame.date_obs)
    end = start + timedelta(seconds=conditions.exposure_s)
    # Field to sky first: x towards decreasing right ascension, the centre of the field at the given place.
    to_sky = _PIXEL_DEG * np.diag([-1.0, 1.0]) @ inverse(frame.to_frame)[:, :2]
    centre = np.array(frame.to_frame) @ (*settings.centre, 1.0) + 1
    return cards(settings, conditions, "Light", conditions.exposure_s) | {
        "OBJECT": "Simulated field",
        "FILTER": "RGB" if settings.bayer else "L",
        "DATE-OBS": frame.date_obs,
        "DATE-END": end.isoformat(timespec="milliseconds"),
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "CRVAL1": _RA_DEG,
        "CRVAL2": _DEC_DEG,
        "CRPIX1": float(centre[0]),
        "CRPIX2": float(centre[1]),
        "CD1_1": float(to_sky[0, 0]),
        "CD1_2": float(to_sky[0, 1]),
        "CD2_1": float(to_sky[1, 0]),
        "CD2_2": float(to_sky[1, 1]),
        "RADESYS": "ICRS",
    }


def write(path: Path, counts: NDArray[np.uint16], header: dict[str, Any]) -> None:
    """Write an image [H, W] as unsigned 16-bit FITS (BZERO 32768), complete or not at all."""
    from astropy.io import fits

    staged = path.with_name(f".{path.name}.part")
    fits.PrimaryHDU(counts, fits.Header(header.items())).writeto(staged, overwrite=True)
    staged.replace(path)
