"""The weight of a frame in a tile, from what was measured there.

**The sharpest stack at a given signal-to-noise ratio.** Stars of a weighted mean of frames have the peak H =
sum w h / sum w, in units of their light, where h = 1 / r50^2 is the peak of a frame's stars, and the mean has
the variance V = sum w^2 noise^2 / (sum w)^2. To minimise V at a given H is the choice of a portfolio
(Markowitz 1952, J. Finance 7, 77): by Lagrange's multipliers w = (h - m) / noise^2, and nothing where that is
negative (Karush-Kuhn-Tucker). In units of <h>, the mean of h weighted by 1 / noise^2,

    w = max(h / <h> - mu, 0) / noise^2.

mu -> -infinity is the least noise, mu = 0 the best signal-to-noise ratio of point sources in apertures as
wide as they are, sqrt(H / V), and the greater mu, the sharper and noisier the stack. No weights give smaller
stars at the same noise; those by a power of r50 do not reach it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking.robust import Floats, clip_score, median

Mask = NDArray[np.bool_]

# A frame weighs at most this many times the median frame of the tile, and no less than this part of it. What
# is honest lies well inside (half the noise and two thirds of the size give 9); beyond, something is wrong.
HEAVIEST = 20.0
LIGHTEST = 1e-3
# What `sharpest` may cost, in parts of the plain mean's signal-to-noise ratio of point sources: this much is
# kept (2 % are 4 % of the exposure time, which nobody sees),
KEPT_SNR = 0.98
# or this much where stars would otherwise be wider than this part of those in the plain mean: where frames
# differ more in noise than in seeing, keeping all would leave no gain in sharpness worth the name.
LEAST_SNR = 0.95
WORTHWHILE_WIDTH = 0.95
# Never more per cent for each per cent of width: between equal frames only errors of r50 promise sharpness.
PRICE = 5.0
# The steps in which mu is tried, and the last of them: beyond, errors of r50 decide.
STEPS = np.arange(81) / 100
# The least of max(h / <h> - mu, 0), as part of 1 - mu: no frame is selected away.
REMAINDER = 0.01


class Sharpness(NamedTuple):
    """A value of mu, and what it is expected to do: width and signal-to-noise ratio of point sources over
    those in the plain mean (of the median tile)."""

    mu: float
    width: float
    snr: float

    @property
    def worth(self) -> float:
        """What more sharpness must raise."""
        return self.snr * self.width**-PRICE


def sharpest(noise: Floats, r50: Floats, covered: Mask) -> Sharpness:
    """The value of mu, for noise [F, C, ty, tx], r50 and whether a frame has pixels there [F, ty, tx].

    Each step of mu makes the stack sharper and noisier. So it goes on to the last step whose snr is at least
    KEPT_SNR, and further as long as width is above WORTHWHILE_WIDTH and snr at least LEAST_SNR. Of the steps
    up to there it is the one with the greatest snr / width^PRICE: mu = 0 for frames that are all equally
    sharp.
    """
    precision = _precision(noise).mean(axis=1)
    # Tiles with one frame have no choice.
    known = covered.sum(axis=0) > 1
    if not known.any():
        return Sharpness(0.0, 1.0, 1.0)
    precision, height, covered = precision[:, known], _height(r50)[:, known], covered[:, known]
    plain = _merit(covered.astype(np.float64), precision, height)
    best = last = Sharpness(0.0, np.inf, 0.0)
    for mu in STEPS.tolist():
        merit = _merit(precision * _excess(height, precision, mu) * covered, precision, height)
        width, snr = (float(np.median(one / of)) for one, of in zip(merit, plain, strict=True))
        least = LEAST_SNR if last.width > WORTHWHILE_WIDTH else KEPT_SNR
        if mu > 0 and snr < least:
            break
        last = Sharpness(mu, width, snr)
        if mu == 0 or last.worth > best.worth * (1 + 1e-9):
            best = last
    return best


def sharpened(noise: Floats, r50: Floats, mu: float) -> Floats:
    """max(h / <h> - mu, 0) / noise^2 for noise [F, C, ty, tx] and r50 [F, ty, tx]; see the module's text. The
    first factor is the same for all channels, hence the shape of stars too, and never quite zero. In units of
    the mean weight of each channel."""
    precision = _precision(noise)
    weight = precision * _excess(_height(r50), precision.mean(axis=1), mu)[:, None]
    return weight / weight.mean(axis=(0, 2, 3), keepdims=True)


def _precision(noise: Floats) -> Floats:
    """1 / noise^2, bounded, in units of the median of each channel."""
    log = -2 * np.log(noise)
    log -= _middle(log)
    return np.exp(_bounded(log))


def _height(r50: Floats) -> Floats:
    """1 / r50^2, bounded, in units of the median."""
    log = -2 * np.log(r50)
    return np.exp(_bounded(log - np.median(log)))


def _excess(height: Floats, precision: Floats, mu: float) -> Floats:
    """max(h / <h> - mu, 0), all but."""
    mean = np.sum(precision * height, axis=0) / np.sum(precision, axis=0)
    return np.maximum(height / mean - mu, REMAINDER * (1 - mu))


def _merit(weight: Floats, precision: Floats, height: Floats) -> tuple[Floats, Floats]:
    """Width and signal-to-noise ratio of point sources, in any unit, of means weighted along the first
    axis."""
    total = np.sum(weight, axis=0)
    peak = np.sum(weight * height, axis=0) / total
    variance = np.sum(weight**2 / precision, axis=0) / total**2
    return np.asarray(peak**-0.5), np.asarray(np.sqrt(peak / variance))


def _middle(log: Floats) -> Floats:
    """The median of each channel, of logarithms [F, C, ty, tx], to be subtracted from them."""
    return median(log.reshape(*log.shape[:2], -1).swapaxes(0, 1).reshape(log.shape[1], -1))[:, None, None]


def _bounded(log: Floats) -> Floats:
    center = median(log, axis=0)
    return np.clip(log, center + np.log(LIGHTEST), center + np.log(HEAVIEST))


def physical(noise: Floats, r50: Floats, exponent: float) -> Floats:
    """1 / (noise^2 r50^p), bounded: weights [F, C, ty, tx] for noise of that shape and r50 [F, ty, tx].

    With noise of frames brought to one flux scale, p = 0 gives the least noise of the background, p = 2 the
    best signal-to-noise ratio of point sources (their noise grows with the radius they are spread over), and
    more is sharper still. In units of the median weight of each channel, so they are around 1.
    """
    log = -2 * np.log(noise) - exponent * np.log(r50)[:, None]
    log -= _middle(log)
    return np.exp(_bounded(log))


def quality(global_quality: Floats, local_quality: Floats, channels: int) -> Floats:
    """G L = exp(Q_global) exp(Q_local) [F, C, ty, tx] for qualities [F] and [F, ty, tx], the same for all
    channels; each is clipped to +-3 before the exponential, so weights are between e^-6 and e^6."""
    weight = np.exp(clip_score(global_quality))[:, None, None] * np.exp(clip_score(local_quality))
    return np.repeat(weight[:, None], channels, axis=1)


def uniform(shape: tuple[int, ...]) -> Floats:
    """1 for every frame: the plain mean."""
    return np.ones(shape)
