"""Stars of one frame: where they are, how bright, how large.

Peaks of a lightly smoothed image become candidates; each is measured with a Gaussian window of the frame's
own PSF size (positions to near the photon limit; second moments freed of the window, hence FWHM and
elongation) and by apertures that scale with the PSF, so that their losses cancel between frames of differing
seeing.
"""

import math
from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray

from ripresa.families.stacking import star_kernels
from ripresa.families.stacking.star_kernels import (
    CXX,
    CXY,
    CYY,
    ELONGATION,
    FLAG,
    FWHM,
    FWHM_PER_SIGMA,
    PEAK,
    SATURATED,
    SNR,
    STAR,
    THETA,
    X,
    Y,
)

Image = NDArray[np.float32]
Vector = NDArray[np.float64]

LIMIT = 300  # stars kept; more would not better a transform, and triangles of more cost time
THRESHOLD = 4.0  # of a peak, in sigma of the smoothed background
BRIGHT = 120  # peaks that the size of the PSF is found from
FEW_UNSATURATED = 12  # with fewer than this, saturated stars are better than none
TYPICAL_HALF_MAXIMUM = 0.92  # see _half_maximum
TYPICAL_R50 = 0.6  # half-light radius over FWHM
FEW = 40  # with fewer stars than this, larger smoothing is tried as well
PROFILE_PIXELS = 1200  # of a star, at most
APERTURE = 2.25  # radius of the photometric aperture, FWHM
SKY = (3.0, 4.5)  # radii of the annulus whose median is a star's local sky, FWHM
# A superpixel averages 2x2 pixels, which widens the PSF by a variance of (4 - 1) / 12 px^2 on each axis.
SUPERPIXEL_VARIANCE = 0.25


@dataclass(frozen=True)
class Stars:
    """Detected stars, brightest first, in full-resolution pixels (centres at integers, 0-based).

    ``flux`` [n, C] and ``peak`` [n] are above the local sky, in units of the image. ``snr`` is that of an
    optimal (PSF-weighted) flux against the background noise. ``fwhm`` and ``r50`` (half-light radius) are in
    px, ``elongation`` is a/b >= 1, ``theta`` the direction of the major axis in radians from +x towards +y.
    ``background`` and ``noise`` hold one value per channel: level and standard deviation of the frame's sky.
    """

    x: Vector
    y: Vector
    flux: Vector
    snr: Vector
    fwhm: Vector
    r50: Vector
    elongation: Vector
    theta: Vector
    peak: Vector
    background: list[float]
    noise: list[float]

    def __len__(self) -> int:
        return len(self.x)

    @property
    def median_fwhm(self) -> float:
        """Median FWHM in px; NaN without stars."""
        return float(np.median(self.fwhm)) if len(self) else math.nan

    @property
    def median_eccentricity(self) -> float:
        """Median of sqrt(1 - (b/a)^2); NaN without stars."""
        return float(np.median(np.sqrt(1.0 - self.elongation**-2.0))) if len(self) else math.nan


def colour_map(bayer: str | None, channels: int) -> NDArray[np.int64]:
    """Which channel the pixel (y % 2, x % 2) of a mosaic belongs to: int64 [2, 2]; all -1 if it is no
    mosaic."""
    if bayer is None or channels != 1:
        return np.full((2, 2), -1, np.int64)
    return np.array(["RGB".index(c) for c in bayer], np.int64).reshape(2, 2)


def luminance(image: Image, bayer: str | None) -> Image:
    """The plane stars are looked for on: float32 [H, W], or [H // 2, W // 2] of 2x2 superpixels for a mosaic.

    ``image`` is float32 [C, H, W]. Superpixel (i, j) has its centre at (2 j + 0.5, 2 i + 0.5) of the mosaic.
    """
    if bayer is not None and image.shape[0] == 1:
        height, width = image.shape[1] // 2 * 2, image.shape[2] // 2 * 2
        return halved(image[0, :height, :width])
    if image.shape[0] == 1:
        return np.ascontiguousarray(image[0], np.float32)
    return np.ascontiguousarray(image.mean(axis=0, dtype=np.float32), np.float32)


def sky(plane: Image) -> tuple[Image, float, float, int]:
    """Smooth sky of a plane: (coarse map float32 [h, w], its global level, noise sigma, step in px of the
    map).

    The map holds the sky at every ``step``-th pixel; a quarter or sixteenth of the pixels is enough for it.
    """
    smallest = min(plane.shape)
    step = 4 if smallest >= 768 else 2 if smallest >= 128 else 1
    sample = np.ascontiguousarray(plane[::step, ::step], np.float32)
    finite = np.isfinite(sample)
    if not finite.all():
        sample[~finite] = np.median(sample[finite]) if finite.any() else 0.0
    mesh = min(32, *sample.shape)
    if sample.min() == sample.max():  # sep would say a noise of one
        return np.full(sample.shape, sample[0, 0], np.float32), float(sample[0, 0]), 0.0, step
    background = sep.Background(sample, bw=mesh, bh=mesh)
    level, noise = float(background.globalback), float(background.globalrms)
    return background.back(dtype=np.float32), level, noise, step


def detect(
    image: Image, bayer: str | None = None, saturation: float | None = None, limit: int = LIMIT
) -> Stars:
    """Find and measure the stars of one frame.

    ``image`` is float32 [C, H, W] (calibrated, known hot pixels repaired), a mosaic [1, H, W] if ``bayer``
    names its pattern; ``saturation`` is the value at which pixels are full (None: found from flat tops). At
    most ``limit`` stars are given. Saturated stars, single hot pixels and trails are left out. Few stars, or
    none, are no error.
    """
    image = np.ascontiguousarray(image, np.float32)
    colours = colour_map(bayer, len(image))
    plane = luminance(image, bayer)
    coarse, level, noise, step = sky(plane)
    backgrounds, noises = _channel_levels(image, colours, level, noise)
    candidates = _candidates(plane, coarse, noise, step, limit)
    rows = _measured(plane, candidates, noise, saturation, limit)
    x, y, fwhm = rows[:, X], rows[:, Y], rows[:, FWHM]
    covariance = rows[:, [CXX, CXY, CYY]]
    if colours[0, 0] >= 0:
        x, y = 2.0 * x + 0.5, 2.0 * y + 0.5
        covariance = 4.0 * covariance - np.array([SUPERPIXEL_VARIANCE, 0.0, SUPERPIXEL_VARIANCE])
        narrower = 1.0 - SUPERPIXEL_VARIANCE * (FWHM_PER_SIGMA / np.maximum(2.0 * fwhm, 0.1)) ** 2
        fwhm = 2.0 * fwhm * np.sqrt(np.maximum(narrower, 0.25))
    size = float(np.median(fwhm)) if len(x) else 1.0
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    flux, around = (np.empty((len(x), 3 if colours[0, 0] >= 0 else len(image))) for _ in range(2))
    inner, outer = SKY[0] * size + 1.0, SKY[1] * size + 2.0
    star_kernels.fluxes(image, colours, x, y, APERTURE * size, inner, outer, flux, around)
    total = flux.sum(axis=1)
    order = np.lexsort((x, y, -total))
    order = order[total[order] > 0][:limit]  # without NaN
    x, y, flux, around, fwhm = x[order], y[order], flux[order], around[order], fwhm[order]
    r50 = np.empty(len(x))
    star_kernels.half_light_radii(image, colours, x, y, flux, around, max(APERTURE * size, 3.0), r50)
    rows = rows[order]
    factor = _half_maximum(image, colours, x, y, covariance[order], flux, around, rows[:, SNR])
    fwhm = fwhm * factor
    return Stars(
        x=x,
        y=y,
        flux=flux,
        snr=rows[:, SNR],
        fwhm=fwhm,
        r50=np.where(np.isfinite(r50), r50, TYPICAL_R50 * fwhm),
        elongation=rows[:, ELONGATION],
        theta=rows[:, THETA],
        peak=rows[:, PEAK],
        background=backgrounds,
        noise=noises,
    )


def halved(image: Image) -> Image:
    """Mean of 2x2 pixels; an odd last row or column is left out."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    out = np.empty((height, width), np.float32)
    star_kernels.halve(np.ascontiguousarray(image, np.float32), out)
    return out


def _channel_levels(
    image: Image, colours: NDArray[np.int64], level: float, noise: float
) -> tuple[list[float], list[float]]:
    """Background level and noise per channel."""
    if colours[0, 0] >= 0:
        # Of the two green planes one is enough for a level.
        where = {int(colours[i, j]): (i, j) for i in (0, 1) for j in (0, 1)}
        planes = [image[0, i::2, j::2] for _, (i, j) in sorted(where.items())]
    elif len(image) > 1:
        planes = list(image)
    else:
        return [level], [noise]
    figures = [sky(plane) for plane in planes]
    return [figure[1] for figure in figures], [figure[2] for figure in figures]


def _candidates(plane: Image, coarse: Image, noise: float, step: int, limit: int) -> Vector:
    """Peaks [n, 3] (x, y, height in sigma), highest first; on binned images too if there are few."""
    parts = [_peaks(plane, coarse, noise, step, limit)]
    scale = 1
    while len(parts[-1]) < FEW and scale < 4 and min(plane.shape) >= 64:  # a wide PSF, or very faint stars
        plane = halved(plane)
        scale *= 2
        coarse, _, noise, step = sky(plane)
        wide = _peaks(plane, coarse, noise, step, limit)
        wide[:, :2] = wide[:, :2] * scale + (scale - 1) / 2.0
        parts.append(wide)
    return _by_height(np.concatenate(parts))


def _peaks(plane: Image, coarse: Image, noise: float, step: int, limit: int) -> Vector:
    if not noise > 0 or min(plane.shape) < 16:
        return np.empty((0, 3))
    found = np.empty((32 * limit, 3))
    found = found[: star_kernels.peaks(plane, coarse, step, np.float32(noise), THRESHOLD, found)]
    ridge = np.empty(len(found), np.bool_)
    star_kernels.on_ridge(plane, found, ridge)
    return found[~ridge]


def _by_height(peaks: Vector) -> Vector:
    return peaks[np.lexsort((peaks[:, 0], peaks[:, 1], -peaks[:, 2]))]


def _measured(plane: Image, peaks: Vector, noise: float, saturation: float | None, limit: int) -> Vector:
    """Rows of `star_kernels.shapes` of those candidates that are stars."""
    full = float(_full_level(plane, peaks) if saturation is None else saturation)
    # The size of the PSF first, from the brightest; then everything with a window of that size.
    sigma = 1.3
    for _ in range(3):
        rows = _shapes(plane, peaks[:BRIGHT], sigma, noise, full)
        rows = rows[(rows[:, FLAG] == STAR) & (rows[:, ELONGATION] < 2.2)]
        if not len(rows):
            break
        strong = rows[rows[:, SNR] >= np.median(rows[:, SNR])]
        sigma = float(np.clip(np.median(strong[:, FWHM]) / FWHM_PER_SIGMA, 0.7, 12.0))
    rows = _shapes(plane, peaks[: 2 * limit], sigma, noise, full)
    if np.count_nonzero(rows[:, FLAG] == STAR) < FEW_UNSATURATED:
        rows[rows[:, FLAG] == SATURATED, FLAG] = STAR
    rows = _plausible(rows[rows[:, FLAG] == STAR])
    order = np.lexsort((rows[:, X], rows[:, Y], -rows[:, SNR]))
    rows = rows[order]
    apart = np.empty(len(rows), np.bool_)
    star_kernels.apart(np.ascontiguousarray(rows[:, :2]), 0.7 * FWHM_PER_SIGMA * sigma, apart)
    return rows[apart]


def _shapes(plane: Image, peaks: Vector, sigma: float, noise: float, full: float) -> Vector:
    rows = np.empty((len(peaks), 11))
    star_kernels.shapes(plane, peaks, sigma, noise, full, rows)
    return rows


def _full_level(plane: Image, peaks: Vector) -> float:
    """The value at which pixels are full: near the largest value if that is a flat top, else infinity."""
    best, where = -np.inf, (0, 0)
    for x, y, _ in peaks[:50]:
        i, j = int(y), int(x)
        value = float(plane[max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3].max())
        if value > best:
            best, where = value, (i, j)
    i, j = where
    box = plane[max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3]
    height = best - float(np.median(plane[::16, ::16]))
    return best - 0.05 * height if np.count_nonzero(box >= best - 0.01 * height) >= 4 else math.inf


def _plausible(rows: Vector) -> Vector:
    """Without what is too sharp, too large or too long beside the bulk of the frame's stars."""
    if not len(rows):
        return rows
    strong = rows[rows[:, SNR] >= np.median(rows[:, SNR])]
    fwhm, elongation = np.median(strong[:, FWHM]), np.median(strong[:, ELONGATION])
    spread = 1.4826 * np.median(np.abs(strong[:, FWHM] - fwhm))
    keep = (rows[:, FWHM] > min(0.6 * fwhm, fwhm - 4.0 * spread)) | (rows[:, SNR] < 8.0)
    keep &= rows[:, FWHM] < max(2.5 * fwhm, fwhm + 6.0 * spread)
    keep &= rows[:, ELONGATION] < max(2.0, 1.8 * elongation)
    return rows[keep]


def _half_maximum(
    image: Image,
    colours: NDArray[np.int64],
    x: Vector,
    y: Vector,
    covariance: Vector,
    flux: Vector,
    sky: Vector,
    snr: Vector,
) -> float:
    """The frame's true FWHM relative to that of Gaussians with the windowed moments of its stars.

    Wings widen the moments: by 10 % for a Moffat profile with beta = 3.5. The profile has one shape on all of
    a frame, so the bright stars tell it: ln of their common profile is fitted by a quadratic in s (squared
    distance over variance), whose drop by ln 2 is where half of the height is.
    """
    clear = (flux > 0).all(axis=1) & (covariance[:, 0] * covariance[:, 2] > covariance[:, 1] ** 2)
    bright = np.flatnonzero((snr > 60.0) & clear)[:60]
    if len(bright) < 3:
        return TYPICAL_HALF_MAXIMUM
    x, y, covariance, flux, sky = x[bright], y[bright], covariance[bright], flux[bright], sky[bright]
    s, value = (np.empty(PROFILE_PIXELS * len(bright)) for _ in range(2))
    found = star_kernels.profile(image, colours, x, y, covariance, flux, sky, 2.6, s, value)
    s, value = s[:found], value[:found]
    good = value > 0.05
    s, log = s[good], np.log(value[good])
    weight = value[good] ** 2  # of ln(value) with noise independent of the value
    if len(s) < 12:
        return TYPICAL_HALF_MAXIMUM
    basis = np.stack([np.ones_like(s), s, s * s])
    for _ in range(3):
        # Sums, not products of matrices: those of the library depend on its number of threads in their last
        # bits.
        normal = np.array([[(one * other * weight).sum() for other in basis] for one in basis])
        top, slope, curve = np.linalg.solve(normal, (basis * weight * log).sum(axis=1))
        off = np.abs(log - (top + slope * s + curve * s * s))
        weight = value[good] ** 2 / (1.0 + (off / (2.0 * np.median(off) + 1e-6)) ** 2)
    # slope * s + curve * s^2 = -ln 2, the root that is near -ln 2 / slope
    inside = slope * slope - 4.0 * curve * math.log(2.0)
    if not (slope < 0 and inside > 0):
        return TYPICAL_HALF_MAXIMUM
    half = 2.0 * math.log(2.0) / (-slope + math.sqrt(inside))
    return float(np.clip(math.sqrt(half / (2.0 * math.log(2.0))), 0.75, 1.1))
