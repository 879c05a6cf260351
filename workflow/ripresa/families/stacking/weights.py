"""The weight of a frame in a tile, from what was measured there."""

from __future__ import annotations

import numpy as np

from ripresa.families.stacking.robust import Floats, clip_score, median

# A frame weighs at most this many times the median frame of the tile, and no less than this part of it. What
# is honest lies well inside (half the noise and two thirds of the size give 9); beyond, something is wrong.
HEAVIEST = 20.0
LIGHTEST = 1e-3


def physical(noise: Floats, r50: Floats, exponent: float) -> Floats:
    """1 / (noise^2 r50^p), bounded: weights [F, C, ty, tx] for noise of that shape and r50 [F, ty, tx].

    With noise of frames brought to one flux scale, p = 0 gives the least noise of the background, p = 2 the
    best signal-to-noise ratio of point sources (their noise grows with the radius they are spread over), and
    more is sharper still. In units of the median weight of each channel, so they are around 1.
    """
    log = -2 * np.log(noise) - exponent * np.log(r50)[:, None]
    log -= median(log.reshape(*log.shape[:2], -1).swapaxes(0, 1).reshape(log.shape[1], -1))[:, None, None]
    center = median(log, axis=0)
    return np.exp(np.clip(log, center + np.log(LIGHTEST), center + np.log(HEAVIEST)))


def quality(global_quality: Floats, local_quality: Floats, channels: int) -> Floats:
    """G L = exp(Q_global) exp(Q_local) [F, C, ty, tx] for qualities [F] and [F, ty, tx], the same for all
    channels; each is clipped to +-3 before the exponential, so weights are between e^-6 and e^6."""
    weight = np.exp(clip_score(global_quality))[:, None, None] * np.exp(clip_score(local_quality))
    return np.repeat(weight[:, None], channels, axis=1)


def uniform(shape: tuple[int, ...]) -> Floats:
    """1 for every frame: the plain mean."""
    return np.ones(shape)
