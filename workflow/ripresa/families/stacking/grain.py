"""Noise that neighbouring pixels share, as in frames that were resampled before they came here.

Interpolation makes neighbours alike: their differences shrink, by up to a factor of two and differently from
frame to frame, while the noise of a star's light, which is that of the sum of many pixels, stays as it was.
Weights by the differences alone would prefer what was blurred most.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import cells

Image = NDArray[np.float32]

# Of the cells: those with little but sky, whose pixels and whose sums are compared.
_QUIET = 0.25
# What independent pixels may show by chance, or by faint stars.
_CHANCE = 1.05


def coarseness(image: Image, noise: Image) -> float:
    """The noise of sums of 2 x 2 pixels in units of what independent pixels would give: 1, or more if
    neighbours share theirs.

    ``image`` [h, w] is raw, ``noise`` [ny, nx] that of its single pixels (`cells.raw_noise`).
    """
    height, width = (side // 2 * 2 for side in image.shape)
    if min(height, width) < 4 * cells.CELL:
        return 1.0
    rows = image[0:height:2] + image[1:height:2]
    halves = np.float32(0.5) * (rows[:, 0:width:2] + rows[:, 1:width:2])
    single, sums = _quiet(noise), _quiet(cells.raw_noise(halves))
    if not single > 0 or not sums > _CHANCE * single:
        return 1.0
    return sums / single


def _quiet(noise: Image) -> float:
    """The noise of quiet cells; 0 if none is known."""
    known = noise[np.isfinite(noise)]
    return float(np.quantile(known, _QUIET)) if len(known) else 0.0
