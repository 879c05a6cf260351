"""Stars of one frame: where they are, how bright, how large.

Peaks of a lightly smoothed image become candidates; each is measured with a Gaussian window of the frame's own
PSF size (positions to near the photon limit; second moments freed of the window, hence FWHM and elongation) and
by apertures that scale with the PSF, so that their losses cancel between frames of differing seeing.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import sep
from numba import njit
from numpy.typing import NDArray

Image = NDArray[np.float32]
Vector = NDArray[np.float64]

LIMIT = 400  # stars kept; more would not better a transform, and triangles of more cost time
THRESHOLD = 4.0  # of a peak, in sigma of the smoothed background
FEW = 40  # with fewer stars than this, larger smoothing is tried as well
FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
APERTURE = 2.25  # radius of the photometric aperture, FWHM
SKY = (3.0, 4.5)  # radii of the annulus whose median is a star's local sky, FWHM
# A superpixel averages 2x2 pixels, which widens the PSF by a variance of (4 - 1) / 12 px^2 on each axis.
SUPERPIXEL_VARIANCE = 0.25


@dataclass(frozen=True)
class Stars:
    """Detected stars, brightest first, in full-resolution pixels (centres at integers, 0-based).

    ``flux`` [n, C] and ``peak`` [n] are above the local sky, in units of the image. ``snr`` is that of an optimal
    (PSF-weighted) flux against the background noise. ``fwhm`` and ``r50`` (half-light radius) are in px,
    ``elongation`` is a/b >= 1, ``theta`` the direction of the major axis in radians from +x towards +y.
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
    """Which channel the pixel (y % 2, x % 2) of a mosaic belongs to: int64 [2, 2]; all -1 if it is no mosaic."""
    if bayer is None or channels != 1:
        return np.full((2, 2), -1, np.int64)
    return np.array(["RGB".index(c) for c in bayer], np.int64).reshape(2, 2)


def luminance(image: Image, bayer: str | None) -> Image:
    """The plane stars are looked for on: float32 [H, W], or [H // 2, W // 2] of 2x2 superpixels for a mosaic.

    ``image`` is float32 [C, H, W]. Superpixel (i, j) has its centre at (2 j + 0.5, 2 i + 0.5) of the mosaic.
    """
    if bayer is not None and image.shape[0] == 1:
        height, width = image.shape[1] // 2 * 2, image.shape[2] // 2 * 2
        return _halved(image[0, :height, :width])
    if image.shape[0] == 1:
        return np.ascontiguousarray(image[0], np.float32)
    return np.ascontiguousarray(image.mean(axis=0, dtype=np.float32), np.float32)


def sky(plane: Image) -> tuple[Image, float, float, int]:
    """Smooth sky of a plane: (coarse map float32 [h, w], its global level, noise sigma, step in px of the map).

    The map holds the sky at every ``step``-th pixel; a quarter or sixteenth of the pixels is enough for it.
    """
    smallest = min(plane.shape)
    step = 4 if smallest >= 768 else 2 if smallest >= 128 else 1
    sample = np.ascontiguousarray(plane[::step, ::step], np.float32)
    finite = np.isfinite(sample)
    if not finite.all():
        sample[~finite] = np.median(sample[finite]) if finite.any() else 0.0
    mesh = min(32, *sample.shape)
    background = sep.Background(sample, bw=mesh, bh=mesh)
    # The scatter within cells, not sep's own figure: that one is zero where a cell's values are all equal.
    level, noise = float(background.globalback), float(background.globalrms)
    return background.back(dtype=np.float32), level, noise, step


def detect(
    image: Image, bayer: str | None = None, saturation: float | None = None, limit: int = LIMIT
) -> Stars:
    """Find and measure the stars of one frame.

    ``image`` is float32 [C, H, W] (calibrated, hot pixels repaired as far as they are known), a mosaic [1, H, W] if
    ``bayer`` names its pattern; ``saturation`` the value at which pixels are full (None: found from flat tops).
    At most ``limit`` stars are given. Saturated stars, hot pixels and trails are left out. Few stars, or none, are
    no error.
    """
    colours = colour_map(bayer, image.shape[0])
    mosaic = colours[0, 0] >= 0
    plane = luminance(image, bayer)
    coarse, level, noise, step = sky(plane)
    backgrounds, noises = _channel_levels(image, colours, level, noise)
    found = _candidates(plane, coarse, noise, step, limit)
    stars = _measured(plane, found, noise, level, saturation, limit)
    x, y, shape = stars["x"], stars["y"], stars
    fwhm, r50 = shape["fwhm"], shape["r50"]
    if mosaic:
        x, y = 2.0 * x + 0.5, 2.0 * y + 0.5
        narrower = np.sqrt(
            np.maximum(1.0 - SUPERPIXEL_VARIANCE * (FWHM_PER_SIGMA / np.maximum(2.0 * fwhm, 0.1)) ** 2, 0.25)
        )
        fwhm, r50 = 2.0 * fwhm * narrower, 2.0 * r50 * narrower
    size = float(np.median(fwhm)) if len(x) else 1.0
    full = np.ascontiguousarray(image, np.float32)
    flux = _fluxes(full, colours, x, y, APERTURE * size, SKY[0] * size + 1.0, SKY[1] * size + 2.0)
    good = np.isfinite(flux).all(axis=1) & (flux.sum(axis=1) > 0)
    columns = {
        "x": x, "y": y, "snr": shape["snr"], "fwhm": fwhm, "r50": r50,
        "elongation": shape["elongation"], "theta": shape["theta"], "peak": shape["peak"],
    }  # fmt: skip
    order = np.lexsort((x, y, -flux.sum(axis=1)))
    order = order[good[order]][:limit]
    return Stars(
        flux=flux[order],
        background=backgrounds,
        noise=noises,
        **{name: column[order] for name, column in columns.items()},
    )


def _channel_levels(
    image: Image, colours: NDArray[np.int64], level: float, noise: float
) -> tuple[list[float], list[float]]:
    """Background level and noise per channel."""
    if colours[0, 0] < 0:
        if image.shape[0] == 1:
            return [level], [noise]
        figures = [sky(np.ascontiguousarray(plane))[1:3] for plane in image]
    else:
        # Of the two green planes one is enough for a level.
        where = {int(colours[i, j]): (i, j) for i in (0, 1) for j in (0, 1)}
        figures = [
            sky(np.ascontiguousarray(image[0, i::2, j::2]))[1:3] for _, (i, j) in sorted(where.items())
        ]
    return [figure[0] for figure in figures], [figure[1] for figure in figures]


def _candidates(plane: Image, coarse: Image, noise: float, step: int, limit: int) -> Vector:
    """Peaks [n, 3] (x, y, height in sigma), highest first; on binned images too if there are few."""
    if not noise > 0:
        return np.empty((0, 3))
    most = 4 * limit
    peaks = _sorted_peaks(_peaks(plane, coarse, step, np.float32(noise), THRESHOLD, most * 4), most)
    if len(peaks) >= FEW or min(plane.shape) < 64:
        return peaks
    parts, binned, scale = [peaks], plane, 1
    for _ in range(2):  # a PSF much wider than the smoothing, or very faint stars
        binned = _halved(binned[: binned.shape[0] // 2 * 2, : binned.shape[1] // 2 * 2])
        scale *= 2
        coarse, _, noise, step = sky(binned)
        if not noise > 0:
            break
        wide = _sorted_peaks(_peaks(binned, coarse, step, np.float32(noise), THRESHOLD, most * 4), most)
        wide[:, :2] = wide[:, :2] * scale + (scale - 1) / 2.0
        parts.append(wide)
    return _sorted_peaks(np.concatenate(parts), most)


def _sorted_peaks(peaks: Vector, most: int) -> Vector:
    order = np.lexsort((peaks[:, 0], peaks[:, 1], -peaks[:, 2]))
    return peaks[order[:most]]


def _measured(
    plane: Image, peaks: Vector, noise: float, level: float, saturation: float | None, limit: int
) -> dict[str, Any]:
    """Positions and shapes on the plane of those candidates that are stars."""
    names = ("x", "y", "fwhm", "r50", "elongation", "theta", "peak", "snr")
    empty = {name: np.empty(0) for name in names}
    if not len(peaks):
        return empty
    full = np.float64(_full_level(plane, peaks) if saturation is None else saturation)
    # The PSF size first, from the brightest; then everything with a window of that size.
    sigma = 1.3
    for _ in range(3):
        rows = _shapes(plane, peaks[:200], sigma, noise, full)
        good = rows[:, 8] == 0
        if not good.any():
            break
        strong = good & (rows[:, 7] >= np.percentile(rows[good, 7], 50))
        sizes = rows[strong, 2] / FWHM_PER_SIGMA
        sigma = float(np.clip(np.median(sizes), 0.7, 12.0))
    rows = _shapes(plane, peaks[: 2 * limit], sigma, noise, full)
    rows = rows[rows[:, 8] == 0]
    if not len(rows):
        return empty
    rows = _plausible(rows)
    rows = rows[_distinct(rows, 0.7 * FWHM_PER_SIGMA * sigma)]
    return {name: rows[:, i] for i, name in enumerate(names)}


def _full_level(plane: Image, peaks: Vector) -> float:
    """The value at which pixels are full: near the largest value if that is a flat top, else infinity."""
    height, width = plane.shape
    best, where = -np.inf, (0, 0)
    for x, y, _ in peaks[:50]:
        i, j = int(y), int(x)
        value = float(plane[max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3].max())
        if value > best:
            best, where = value, (i, j)
    i, j = where
    box = plane[max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3]
    flat = np.count_nonzero(box >= best - 0.01 * abs(best - float(np.median(plane[::16, ::16]))))
    return 0.95 * best if flat >= 4 else math.inf


def _plausible(rows: Vector) -> Vector:
    """Without what is too sharp, too large or too long beside the bulk of the frame's detections."""
    strong = rows[rows[:, 7] >= np.median(rows[:, 7])]
    fwhm, elongation = np.median(strong[:, 2]), np.median(strong[:, 4])
    spread = 1.4826 * np.median(np.abs(strong[:, 2] - fwhm))
    keep = (rows[:, 2] > min(0.6 * fwhm, fwhm - 4 * spread)) | (rows[:, 7] < 8)
    keep &= rows[:, 2] < max(2.5 * fwhm, fwhm + 6 * spread)
    keep &= rows[:, 4] < max(2.0, 1.8 * elongation)
    return rows[keep]


def _distinct(rows: Vector, distance: float) -> NDArray[np.intp]:
    """Indices of rows, dropping those nearer than ``distance`` to one of higher SNR."""
    order = np.lexsort((rows[:, 0], rows[:, 1], -rows[:, 7]))
    return order[_apart(np.ascontiguousarray(rows[order, :2]), distance)]


@njit(cache=True, nogil=True)
def _apart(points: Vector, distance: float) -> NDArray[np.bool_]:
    n = len(points)
    keep = np.ones(n, np.bool_)
    for i in range(n):
        for j in range(i):
            if keep[j]:
                dx, dy = points[i, 0] - points[j, 0], points[i, 1] - points[j, 1]
                if dx * dx + dy * dy < distance * distance:
                    keep[i] = False
                    break
    return keep


@njit(cache=True, nogil=True)
def _halve(image: Image, out: Image) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            upper = image[2 * i, 2 * j] + image[2 * i, 2 * j + 1]
            lower = image[2 * i + 1, 2 * j] + image[2 * i + 1, 2 * j + 1]
            out[i, j] = np.float32(0.25) * (upper + lower)


def _halved(image: Image) -> Image:
    out = np.empty((image.shape[0] // 2, image.shape[1] // 2), np.float32)
    _halve(np.ascontiguousarray(image, np.float32), out)
    return out


@njit(cache=True, nogil=True)
def _peaks(plane: Image, coarse: Image, step: int, noise: np.float32, threshold: float, most: int) -> Vector:
    """Local maxima [n, 3] (x, y, height in sigma) of the plane above its sky, smoothed with (1 4 6 4 1)/16."""
    height, width = plane.shape
    h, w = coarse.shape
    rows = np.zeros((5, width), np.float32)  # horizontally smoothed rows
    smooth = np.zeros((3, width), np.float32)
    line = np.zeros(width, np.float32)
    above = np.zeros(w, np.float32)
    a, b, c = np.float32(1 / 16), np.float32(4 / 16), np.float32(6 / 16)
    # Sum of the squared weights of one axis is 70 / 256: the noise of the smoothed image is 70 / 256 of the plane's.
    limit = np.float32(threshold * 70.0 / 256.0) * noise
    unit = 256.0 / 70.0 / noise
    out = np.empty((most, 3), np.float64)
    n = 0
    for y in range(height):
        t = min(y / step, h - 1.0)
        i0 = min(int(t), max(h - 2, 0))
        i1 = min(i0 + 1, h - 1)
        f = np.float32(t - i0)
        for k in range(w):
            above[k] = coarse[i0, k] + f * (coarse[i1, k] - coarse[i0, k])
        for k in range(w):
            value = above[k]
            slope = ((above[k + 1] if k + 1 < w else value) - value) / np.float32(step)
            last = width if k == w - 1 else min((k + 1) * step, width)
            for x in range(k * step, last):
                line[x] = plane[y, x] - (value + slope * np.float32(x - k * step))
        row = rows[y % 5]
        for x in range(2, width - 2):
            row[x] = a * (line[x - 2] + line[x + 2]) + b * (line[x - 1] + line[x + 1]) + c * line[x]
        if y < 4:
            continue
        s = smooth[(y - 2) % 3]
        r0, r1, r2, r3, r4 = rows[(y - 4) % 5], rows[(y - 3) % 5], rows[(y - 2) % 5], rows[(y - 1) % 5], row
        for x in range(2, width - 2):
            s[x] = a * (r0[x] + r4[x]) + b * (r1[x] + r3[x]) + c * r2[x]
        if y < 6:
            continue
        up, mid, low = smooth[(y - 4) % 3], smooth[(y - 3) % 3], s
        for x in range(3, width - 3):
            v = mid[x]
            if v > limit and v >= mid[x - 1] and v > mid[x + 1] and v >= up[x] and v > low[x]:  # noqa: SIM102
                if v >= up[x - 1] and v >= up[x + 1] and v > low[x - 1] and v > low[x + 1]:
                    if n == most:
                        # Full: raise the limit to the median height and keep the higher half.
                        middle = np.median(out[:n, 2])
                        m = 0
                        for k in range(n):
                            if out[k, 2] > middle:
                                out[m] = out[k]
                                m += 1
                        n = m
                        limit = max(limit, np.float32(middle / unit))
                    out[n, 0], out[n, 1], out[n, 2] = x, y - 3, v * unit
                    n += 1
    return out[:n]


@njit(cache=True, nogil=True)
def _ring(plane: Image, x: float, y: float, inner: float, outer: float, values: Vector) -> int:
    """Values of the pixels between two radii about a point, thinned to what fits; gives their number."""
    height, width = plane.shape
    r = int(math.ceil(outer))
    area = math.pi * (outer * outer - inner * inner)
    thin = max(1, int(math.ceil(area * 1.2 / len(values))))
    n = count = 0
    cy, cx = int(round(y)), int(round(x))
    for i in range(max(cy - r, 0), min(cy + r + 1, height)):
        for j in range(max(cx - r, 0), min(cx + r + 1, width)):
            d = (j - x) ** 2 + (i - y) ** 2
            if inner * inner <= d <= outer * outer and not math.isnan(plane[i, j]):
                count += 1
                if count % thin == 0 and n < len(values):
                    values[n] = plane[i, j]
                    n += 1
    return n


@njit(cache=True, nogil=True)
def _shapes(plane: Image, peaks: Vector, sigma: float, noise: float, full: float) -> Vector:
    """Rows [n, 9] for each peak: x, y, fwhm, r50, elongation, theta, peak, snr, flag (0: a good star).

    Window: a circular Gaussian of ``sigma``. With a Gaussian star of covariance C the windowed second moments are
    M = (1/C + 1/sigma^2)^-1, which is solved for C. The centroid step is 2 times the windowed offset (Bertin 2009,
    "windowed" positions of SExtractor).
    """
    height, width = plane.shape
    fwhm = 2.3548200450309493 * sigma
    radius = max(3.0 * sigma, 2.5)
    reach = int(math.ceil(radius)) + 1
    aperture = max(2.25 * fwhm, 3.0)
    inner, outer = max(3.0 * fwhm, 5.0) + 1.0, max(4.5 * fwhm, 8.0) + 2.0
    values = np.empty(192, np.float64)
    wx, wy = np.empty(2 * reach + 3), np.empty(2 * reach + 3)
    steps = int(math.ceil(aperture * 4.0)) + 1
    growth = np.empty(steps + 1)
    out = np.zeros((len(peaks), 9), np.float64)
    for k in range(len(peaks)):
        row = out[k]
        row[8] = 1
        x, y = peaks[k, 0], peaks[k, 1]
        n = _ring(plane, x, y, inner, outer, values)
        if n < 12:
            continue
        some = np.sort(values[:n])
        base = some[n // 2]
        # The lower half only: neighbours are bright, never dark.
        local = max(1.4826 * (base - some[n // 4]), 0.5 * noise)
        ok = False
        sxx = syy = sxy = total = 0.0
        for turn in range(12):
            cx, cy = int(round(x)), int(round(y))
            x0, x1, y0, y1 = cx - reach, cx + reach, cy - reach, cy + reach
            # A window over the frame's edge would draw the star inwards.
            if x0 < 0 or y0 < 0 or x1 >= width or y1 >= height:
                ok = False
                break
            for j in range(x0, x1 + 1):
                wx[j - x0] = math.exp(-0.5 * ((j - x) / sigma) ** 2)
            for i in range(y0, y1 + 1):
                wy[i - y0] = math.exp(-0.5 * ((i - y) / sigma) ** 2)
            total = mx = my = sxx = syy = sxy = 0.0
            for i in range(y0, y1 + 1):
                dy = i - y
                t0 = t1 = t2 = 0.0
                for j in range(x0, x1 + 1):
                    dx = j - x
                    v = wx[j - x0] * (plane[i, j] - base)
                    t0 += v
                    t1 += v * dx
                    t2 += v * dx * dx
                t0, t1, t2 = t0 * wy[i - y0], t1 * wy[i - y0], t2 * wy[i - y0]
                total += t0
                mx += t1
                sxx += t2
                my += t0 * dy
                sxy += t1 * dy
                syy += t0 * dy * dy
            if not total > 0:
                ok = False
                break
            mx, my = mx / total, my / total
            sxx, syy, sxy = sxx / total - mx * mx, syy / total - my * my, sxy / total - mx * my
            x, y = x + 2.0 * mx, y + 2.0 * my
            ok = True
            if mx * mx + my * my < 1e-8:
                break
        far = (x - peaks[k, 0]) ** 2 + (y - peaks[k, 1]) ** 2
        if not ok or far > max(fwhm * fwhm, 9.0):
            continue
        # Free of the window: C = (M^-1 - 1/sigma^2)^-1.
        det = sxx * syy - sxy * sxy
        if not det > 0:
            continue
        q = 1.0 / (sigma * sigma)
        ixx, iyy, ixy = syy / det - q, sxx / det - q, -sxy / det
        det = ixx * iyy - ixy * ixy
        if not (det > 0 and ixx > 0):
            row[8] = 2  # as large as the window or larger: nothing compact
            continue
        cxx, cyy, cxy = iyy / det, ixx / det, -ixy / det
        mean, half = 0.5 * (cxx + cyy), math.sqrt((0.5 * (cxx - cyy)) ** 2 + cxy * cxy)
        major, minor = math.sqrt(mean + half), math.sqrt(max(mean - half, 1e-6))
        size = math.sqrt(major * minor)
        # Height above the sky of the brightest pixel, and how much of it its eight neighbours share.
        cx, cy = int(round(x)), int(round(y))
        top = -np.inf
        ti = tj = 0
        for i in range(max(cy - 1, 1), min(cy + 2, height - 1)):
            for j in range(max(cx - 1, 1), min(cx + 2, width - 1)):
                if plane[i, j] > top:
                    top, ti, tj = np.float64(plane[i, j]), i, j
        around = 0.0
        for i in range(ti - 1, ti + 2):
            for j in range(tj - 1, tj + 2):
                around += plane[i, j] - base
        peak = top - base
        around -= peak
        row[0], row[1], row[2], row[4] = x, y, 2.3548200450309493 * size, major / minor
        row[5] = 0.5 * math.atan2(2.0 * cxy, cxx - cyy)
        row[6] = peak
        # Optimal flux: window-weighted sum over the sum of squared weights (4 pi sigma^2 / 4 ...) of a star of this size.
        flux = total * (sigma * sigma + size * size) / (sigma * sigma)
        row[7] = flux / (local * math.sqrt(4.0 * math.pi) * size)
        if top >= full:
            row[8] = 3
            continue
        if peak > 5.0 * local and around < 0.6 * peak:
            row[8] = 4  # a single pixel: no PSF is that sharp
            continue
        if row[7] < 4.0:
            row[8] = 5
            continue
        # Half-light radius: light within r, a pixel counting by how much of it lies inside.
        for m in range(steps + 1):
            growth[m] = 0.0
        r = int(math.ceil(aperture)) + 1
        for i in range(max(cy - r, 0), min(cy + r + 1, height)):
            for j in range(max(cx - r, 0), min(cx + r + 1, width)):
                d = math.sqrt((j - x) ** 2 + (i - y) ** 2)
                v = plane[i, j] - base
                for m in range(max(int((d - 0.5) * 4.0), 0), steps + 1):
                    inside = 0.25 * m - d + 0.5
                    if inside >= 1.0:
                        growth[m] += v
                    elif inside > 0.0:
                        growth[m] += v * inside
        half_light = 0.5 * growth[steps]
        row[3] = 0.5 * row[2]
        for m in range(1, steps + 1):
            if growth[m] >= half_light > growth[m - 1]:
                row[3] = 0.25 * (m - 1 + (half_light - growth[m - 1]) / (growth[m] - growth[m - 1]))
                break
        row[8] = 0
    return out


@njit(cache=True, nogil=True)
def _fluxes(
    image: Image, colours: NDArray[np.int64], x: Vector, y: Vector, radius: float, inner: float, outer: float
) -> Vector:
    """Light within ``radius`` above the median of an annulus: [n, C]; of a mosaic as if each colour filled it.

    Partly covered pixels count in proportion. NaN where the annulus has too few pixels.
    """
    planes, height, width = image.shape
    mosaic = colours[0, 0] >= 0
    channels = 3 if mosaic else planes
    out = np.full((len(x), channels), np.nan, np.float64)
    ring = np.empty((channels, 512), np.float64)
    n = np.zeros(channels, np.int64)
    total, area = np.zeros(channels), np.zeros(channels)
    r = int(math.ceil(outer))
    thin = max(1, int(math.ceil(math.pi * (outer * outer - inner * inner) / 512.0)))
    for k in range(len(x)):
        n[:], total[:], area[:] = 0, 0.0, 0.0
        cx, cy = int(round(x[k])), int(round(y[k]))
        count = 0
        for i in range(max(cy - r, 0), min(cy + r + 1, height)):
            dy = (i - y[k]) ** 2
            for j in range(max(cx - r, 0), min(cx + r + 1, width)):
                d = dy + (j - x[k]) ** 2
                if d > outer * outer:
                    continue
                if d <= (radius + 0.5) ** 2:
                    share = min(radius - math.sqrt(d) + 0.5, 1.0)
                    if mosaic:
                        c = colours[i & 1, j & 1]
                        total[c] += share * image[0, i, j]
                        area[c] += share
                    else:
                        for c in range(planes):
                            total[c] += share * image[c, i, j]
                            area[c] += share
                elif d >= inner * inner:
                    count += 1
                    if mosaic:
                        c = colours[i & 1, j & 1]
                        if n[c] < 512:
                            ring[c, n[c]] = image[0, i, j]
                            n[c] += 1
                    elif count % thin == 0:
                        for c in range(planes):
                            if n[c] < 512:
                                ring[c, n[c]] = image[c, i, j]
                                n[c] += 1
        for c in range(channels):
            if n[c] < 8 or not area[c] > 0:
                continue
            base = np.median(ring[c, : n[c]])
            filled = math.pi * radius * radius / area[c] if mosaic else 1.0
            out[k, c] = (total[c] - base * area[c]) * filled
    return out
