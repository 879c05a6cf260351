"""A frame ready for everything that comes after: read, calibrated, its bad pixels replaced."""

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import Changed, cosmetic
from ripresa.families.stacking.calibration import Calibrator
from ripresa.families.stacking.frames import Facts, Image, read_pixels


def load_frame(
    facts: Facts, calibrator: Calibrator | None, hot_indices: NDArray[np.int64], table: str | None = None
) -> Image:
    """The frame that ``facts`` (of the scan) describe: float32 [C, H, W], a mosaic as [1, H, W].

    ``hot_indices`` are the flat indices into it that the scan found (array `hot_index` of its table). NaN
    where the file has no value and no neighbour can stand in. Raises Changed, with the file ``table`` that
    the facts come from, if the frame has changed since the scan, StackingError if it cannot be read.
    """
    try:
        image = read_pixels(facts)
    except Changed as error:
        raise Changed(error.what, table) from None
    bad = hot_indices
    if calibrator is not None:
        calibrator.apply(image, facts)
        bad = np.union1d(bad, calibrator.bad_indices(facts))
    return cosmetic.repair(image, bad, facts["kind"] == "cfa")
