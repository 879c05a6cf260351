"""Compiled loops over the pixels of stars: peaks, windowed moments, apertures. See detection.py for their
use."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking.kernels import kernel

Image = NDArray[np.float32]
Vector = NDArray[np.float64]

FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))

# Why a candidate is no star that others should be measured by.
STAR, NO_LIGHT, NOT_COMPACT, SATURATED, SINGLE_PIXEL, FAINT = range(6)

# Columns of `shapes`.
X, Y, FWHM, ELONGATION, THETA, PEAK, SNR, CXX, CXY, CYY, FLAG = range(11)

_RING = 192  # pixels that are enough for the median of an annulus
_SKY_PIXELS = 512  # the same for photometry
_STEPS_PER_PX = 4  # of a curve of growth
_WINDOW = 3.0  # radius of the Gaussian window, sigma
_FAINTEST = 4.0  # signal-to-noise ratio


@kernel
def halve(image: Image, out: Image) -> None:
    """Mean of 2x2 pixels: image [2h, 2w] to out [h, w]."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            upper = image[2 * i, 2 * j] + image[2 * i, 2 * j + 1]
            lower = image[2 * i + 1, 2 * j] + image[2 * i + 1, 2 * j + 1]
            out[i, j] = np.float32(0.25) * (upper + lower)


@kernel
def peaks(plane: Image, coarse: Image, step: int, noise: Any, threshold: float, out: Vector) -> int:
    """Local maxima of the plane above its sky, smoothed with (1 4 6 4 1)/16: rows (x, y, height in sigma).

    ``coarse`` is the sky at every ``step``-th pixel. Gives their number; if there are more than rows in
    ``out``, the higher ones.
    """
    height, width = plane.shape
    rows = np.zeros((5, width), np.float32)  # the last five, smoothed along x
    smooth = np.zeros((3, width), np.float32)
    line = np.zeros(width, np.float32)
    above = np.zeros(coarse.shape[1], np.float32)
    a, b, c = np.float32(1 / 16), np.float32(4 / 16), np.float32(6 / 16)
    # The squared weights of one axis sum to 70/256: so much of the plane's noise is left in the smoothed
    # image.
    limit = np.float32(threshold * 70.0 / 256.0) * noise
    unit = 256.0 / 70.0 / noise
    n = 0
    for y in range(height):
        _less_sky(plane[y], coarse, y, step, above, line)
        row = rows[y % 5]
        for x in range(2, width - 2):
            row[x] = a * (line[x - 2] + line[x + 2]) + b * (line[x - 1] + line[x + 1]) + c * line[x]
        if y < 4:
            continue
        s = smooth[(y - 2) % 3]
        r0, r1, r2, r3 = rows[(y - 4) % 5], rows[(y - 3) % 5], rows[(y - 2) % 5], rows[(y - 1) % 5]
        for x in range(2, width - 2):
            s[x] = a * (r0[x] + row[x]) + b * (r1[x] + r3[x]) + c * r2[x]
        if y < 6:
            continue
        up, mid = smooth[(y - 4) % 3], smooth[(y - 3) % 3]
        for x in range(3, width - 3):
            v = mid[x]
            # Of equal neighbours exactly one is the peak.
            if (
                v > limit
                and v >= mid[x - 1]
                and v > mid[x + 1]
                and v >= max(up[x - 1], up[x], up[x + 1])
                and v > max(s[x - 1], s[x], s[x + 1])
            ):
                if n == len(out):
                    n, limit = _higher_half(out, unit, limit)
                out[n, 0], out[n, 1], out[n, 2] = x, y - 3, v * unit
                n += 1
    return n


@kernel
def _less_sky(pixels: Image, coarse: Image, y: int, step: int, above: Image, out: Image) -> None:
    """One row less its sky, interpolated linearly in the coarse map."""
    h, w = coarse.shape
    t = min(y / step, h - 1.0)
    i0 = min(int(t), max(h - 2, 0))
    i1 = min(i0 + 1, h - 1)
    f = np.float32(t - i0)
    for k in range(w):
        above[k] = coarse[i0, k] + f * (coarse[i1, k] - coarse[i0, k])
    for k in range(w):
        value = above[k]
        slope = (above[min(k + 1, w - 1)] - value) / np.float32(step)
        last = len(out) if k == w - 1 else min((k + 1) * step, len(out))
        for x in range(k * step, last):
            out[x] = pixels[x] - (value + slope * np.float32(x - k * step))


@kernel
def _higher_half(found: Vector, unit: float, limit: Any) -> tuple[int, Any]:
    """Keep the higher half of the rows; gives their number and the new limit."""
    middle = np.median(found[:, 2])
    n = 0
    for k in range(len(found)):
        if found[k, 2] > middle:
            found[n] = found[k]
            n += 1
    return n, max(limit, np.float32(middle / unit))


@kernel
def on_ridge(plane: Image, candidates: Vector, out: NDArray[np.bool_]) -> None:
    """Which candidates lie on a line (a satellite's trail, a diffraction spike, a bad column) and not on a
    blob.

    A line is as bright 4 px away along it as in the candidate itself, and dark across.
    """
    height, width = plane.shape
    for k in range(len(candidates)):
        out[k] = False
        x, y = int(candidates[k, 0]), int(candidates[k, 1])
        if x < 5 or y < 5 or x >= width - 5 or y >= height - 5 or candidates[k, 2] < 6.0:
            continue
        top, low = -np.inf, np.inf
        for dx, dy in ((4, 0), (4, 2), (3, 3), (2, 4), (0, 4), (-2, 4), (-3, 3), (-4, 2)):
            both = _box(plane, x + dx, y + dy) + _box(plane, x - dx, y - dy)
            top, low = max(top, 0.5 * both), min(low, 0.5 * both)
        centre = _box(plane, x, y)
        out[k] = centre - top < 0.35 * (centre - low)


@kernel
def _box(plane: Image, x: int, y: int) -> float:
    total = 0.0
    for i in range(y - 1, y + 2):
        for j in range(x - 1, x + 2):
            total += plane[i, j]
    return total / 9.0


@kernel
def shapes(plane: Image, candidates: Vector, sigma: float, noise: float, full: float, out: Vector) -> None:
    """Position and shape of each candidate in a circular Gaussian window of ``sigma`` px: [n, 11], see the
    names above.

    With a Gaussian star of covariance C the windowed second moments are M = (1/C + 1/sigma^2)^-1, which is
    solved for C. The centroid step is twice the windowed offset ("windowed" positions of SExtractor, Bertin &
    Arnouts). Pixels of ``full`` and more are saturated. The FWHM is that of a Gaussian of the same C.
    """
    fwhm = FWHM_PER_SIGMA * sigma
    reach = math.ceil(max(_WINDOW * sigma, 2.5)) + 1
    inner, outer = max(3.0 * fwhm, 5.0) + 1.0, max(4.5 * fwhm, 8.0) + 2.0
    where = _annulus(inner, outer)
    ring = np.empty(len(where), np.float64)
    wx, wy = np.empty(2 * reach + 1), np.empty(2 * reach + 1)
    inverse = 1.0 / (sigma * sigma)
    out[:] = 0.0
    for k in range(len(candidates)):
        row = out[k]
        row[FLAG] = NO_LIGHT
        n = _around(plane, candidates[k, 0], candidates[k, 1], where, ring)
        if n < 12:
            continue
        some = np.partition(ring[:n], n // 2)
        base, quarter = some[n // 2], np.partition(some[: n // 2], n // 4)[n // 4]
        # From the lower half only: neighbours are bright, never dark.
        local = max(1.4826 * (base - quarter), 0.5 * noise)
        ok, x, y, total, mxx, mxy, myy = _windowed(
            plane, candidates[k, 0], candidates[k, 1], sigma, base, reach, wx, wy
        )
        far = (x - candidates[k, 0]) ** 2 + (y - candidates[k, 1]) ** 2
        determinant = mxx * myy - mxy * mxy
        if not ok or far > max(fwhm * fwhm, 9.0) or not determinant > 0:
            continue
        ixx, iyy, ixy = myy / determinant - inverse, mxx / determinant - inverse, -mxy / determinant
        determinant = ixx * iyy - ixy * ixy
        if not (determinant > 0 and ixx > 0):  # as large as the window or larger
            row[FLAG] = NOT_COMPACT
            continue
        cxx, cyy, cxy = iyy / determinant, ixx / determinant, -ixy / determinant
        mean, half = 0.5 * (cxx + cyy), math.sqrt((0.5 * (cxx - cyy)) ** 2 + cxy * cxy)
        major, minor = math.sqrt(mean + half), math.sqrt(max(mean - half, 1e-4))
        size = math.sqrt(major * minor)
        top, around = _top(plane, x, y, base)
        # The windowed sum of a Gaussian star is its flux times sigma^2 / (sigma^2 + size^2); the noise of its
        # optimally weighted flux is that of 4 pi size^2 pixels.
        flux = total * (1.0 + size * size * inverse)
        row[X], row[Y], row[FWHM], row[ELONGATION] = x, y, FWHM_PER_SIGMA * size, major / minor
        row[THETA] = 0.5 * math.atan2(2.0 * cxy, cxx - cyy)
        row[PEAK], row[SNR] = top - base, flux / (local * math.sqrt(4.0 * math.pi) * size)
        row[CXX], row[CXY], row[CYY] = cxx, cxy, cyy
        if top >= full:
            row[FLAG] = SATURATED
        elif top - base > 5.0 * local and around < 0.6 * (top - base):
            row[FLAG] = SINGLE_PIXEL  # a PSF of FWHM 1.2 px still gives its neighbours 0.66
        elif row[SNR] < _FAINTEST:
            row[FLAG] = FAINT
        else:
            row[FLAG] = STAR


@kernel
def _annulus(inner: float, outer: float) -> NDArray[np.int64]:
    """Pixels [n, 2] (dy, dx) between two radii about a pixel, thinned evenly to at most `_RING`."""
    reach = math.ceil(outer)
    found = np.empty(((2 * reach + 1) ** 2, 2), np.int64)
    n = 0
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if inner * inner <= dx * dx + dy * dy <= outer * outer:
                found[n, 0], found[n, 1] = dy, dx
                n += 1
    thin = max(1, math.ceil(n / _RING))
    return found[:n:thin].copy()


@kernel
def _around(plane: Image, x: float, y: float, where: NDArray[np.int64], values: Vector) -> int:
    """Pixels ``where`` about a point that are in the frame and have a value; gives their number."""
    height, width = plane.shape
    cy, cx = round(y), round(x)
    n = 0
    for k in range(len(where)):
        i, j = cy + where[k, 0], cx + where[k, 1]
        if 0 <= i < height and 0 <= j < width and not math.isnan(plane[i, j]):
            values[n] = plane[i, j]
            n += 1
    return n


@kernel
def _windowed(
    plane: Image, x: float, y: float, sigma: float, base: float, reach: int, wx: Vector, wy: Vector
) -> tuple[bool, float, float, float, float, float, float]:
    """(found, x, y, sum, Mxx, Mxy, Myy): the point where the windowed centroid is the window's own middle."""
    height, width = plane.shape
    total = mxx = mxy = myy = 0.0
    for _ in range(12):
        x0, y0 = round(x) - reach, round(y) - reach
        # A window over the frame's edge would draw the star inwards.
        if x0 < 0 or y0 < 0 or x0 + 2 * reach >= width or y0 + 2 * reach >= height:
            return False, x, y, total, mxx, mxy, myy
        for j in range(len(wx)):
            wx[j] = math.exp(-0.5 * ((x0 + j - x) / sigma) ** 2)
            wy[j] = math.exp(-0.5 * ((y0 + j - y) / sigma) ** 2)
        total = mx = my = mxx = mxy = myy = 0.0
        for i in range(len(wy)):
            dy = y0 + i - y
            t0 = t1 = t2 = 0.0
            for j in range(len(wx)):
                dx = x0 + j - x
                v = wx[j] * (plane[y0 + i, x0 + j] - base)
                t0 += v
                t1 += v * dx
                t2 += v * dx * dx
            total += t0 * wy[i]
            mx += t1 * wy[i]
            my += t0 * wy[i] * dy
            mxx += t2 * wy[i]
            mxy += t1 * wy[i] * dy
            myy += t0 * wy[i] * dy * dy
        if not total > 0:
            return False, x, y, total, mxx, mxy, myy
        mx, my = mx / total, my / total
        mxx, mxy, myy = mxx / total - mx * mx, mxy / total - mx * my, myy / total - my * my
        x, y = x + 2.0 * mx, y + 2.0 * my
        if mx * mx + my * my < 1e-7:
            break
    return True, x, y, total, mxx, mxy, myy


@kernel
def _top(plane: Image, x: float, y: float, base: float) -> tuple[float, float]:
    """The brightest pixel at a star, and what its eight neighbours have above the sky together."""
    height, width = plane.shape
    cx, cy = round(x), round(y)
    top = -np.inf
    ti, tj = cy, cx
    for i in range(max(cy - 1, 1), min(cy + 2, height - 1)):
        for j in range(max(cx - 1, 1), min(cx + 2, width - 1)):
            if plane[i, j] > top:
                top, ti, tj = np.float64(plane[i, j]), i, j
    return top, 9.0 * (_box(plane, tj, ti) - base) - (top - base)


@kernel
def half_light_radii(
    image: Image,
    colours: NDArray[np.int64],
    x: Vector,
    y: Vector,
    flux: Vector,
    sky: Vector,
    aperture: float,
    out: Vector,
) -> None:
    """Radius of each star that holds half of its light within ``aperture``; a pixel counts by how much of it
    lies inside.

    Every pixel is taken relative to the star's flux in its colour, so a mosaic is as finely sampled as its
    pixels are. NaN where no radius does.
    """
    planes, height, width = image.shape
    mosaic = colours[0, 0] >= 0
    last = math.ceil(aperture * _STEPS_PER_PX) + 1
    growth = np.empty(last + 1)
    reach = math.ceil(aperture) + 1
    out[:] = np.nan
    for k in range(len(x)):
        growth[:] = 0.0
        cx, cy = round(x[k]), round(y[k])
        for i in range(max(cy - reach, 0), min(cy + reach + 1, height)):
            for j in range(max(cx - reach, 0), min(cx + reach + 1, width)):
                d = math.sqrt((j - x[k]) ** 2 + (i - y[k]) ** 2)
                v = 0.0
                for plane in range(planes):
                    c = colours[i & 1, j & 1] if mosaic else plane
                    v += (image[plane, i, j] - sky[k, c]) / flux[k, c]
                # growth[m] is the light within m / _STEPS_PER_PX; here its increments, summed up below.
                before = 0.0
                for m in range(max(int((d - 0.5) * _STEPS_PER_PX), 0), last + 1):
                    inside = min(max(m / _STEPS_PER_PX - d + 0.5, 0.0), 1.0)
                    growth[m] += v * (inside - before)
                    before = inside
                    if inside == 1.0:
                        break
        for m in range(1, last + 1):
            growth[m] += growth[m - 1]
        half = 0.5 * growth[last]
        for m in range(1, last + 1):
            if growth[m] >= half > growth[m - 1]:
                out[k] = (m - 1 + (half - growth[m - 1]) / (growth[m] - growth[m - 1])) / _STEPS_PER_PX
                break


@kernel
def profile(
    image: Image,
    colours: NDArray[np.int64],
    x: Vector,
    y: Vector,
    covariance: Vector,
    flux: Vector,
    sky: Vector,
    reach: float,
    s: Vector,
    value: Vector,
) -> int:
    """Radial profile of some stars together: s and value of each pixel with s < ``reach``; gives their
    number.

    s is the squared elliptical distance from the centre in units of the star's ``covariance`` (rows xx, xy,
    yy), values are in units of the height of a Gaussian with the same covariance and the star's flux in the
    pixel's colour.
    """
    planes, height, width = image.shape
    mosaic = colours[0, 0] >= 0
    n = 0
    for k in range(len(x)):
        xx, xy, yy = covariance[k, 0], covariance[k, 1], covariance[k, 2]
        determinant = xx * yy - xy * xy
        unit = 2.0 * math.pi * math.sqrt(determinant)
        r = math.ceil(math.sqrt(reach * max(xx, yy)))
        cx, cy = round(x[k]), round(y[k])
        for i in range(max(cy - r, 0), min(cy + r + 1, height)):
            for j in range(max(cx - r, 0), min(cx + r + 1, width)):
                dx, dy = j - x[k], i - y[k]
                d = (yy * dx * dx - 2.0 * xy * dx * dy + xx * dy * dy) / determinant
                for plane in range(planes):
                    if d < reach and n < len(s):
                        c = colours[i & 1, j & 1] if mosaic else plane
                        s[n], value[n] = d, unit * (image[plane, i, j] - sky[k, c]) / flux[k, c]
                        n += 1
    return n


@kernel
def fluxes(
    image: Image,
    colours: NDArray[np.int64],
    x: Vector,
    y: Vector,
    radius: float,
    inner: float,
    outer: float,
    out: Vector,
    sky: Vector,
) -> None:
    """Light within ``radius`` above the median of an annulus: [n, C]; of a mosaic as if each colour filled
    it.

    ``colours`` [2, 2] says which channel a pixel of a mosaic is, -1 where each plane is a channel. Pixels
    partly inside count in proportion. NaN where the annulus has too few pixels.
    """
    planes, height, width = image.shape
    mosaic = colours[0, 0] >= 0
    channels = out.shape[1]
    out[:], sky[:] = np.nan, np.nan
    ring = np.empty((channels, _SKY_PIXELS), np.float64)
    n = np.zeros(channels, np.int64)
    total, area = np.zeros(channels), np.zeros(channels)
    reach = math.ceil(outer)
    # In a mosaic an odd stride, which meets all colours.
    thin = max(1, math.ceil(math.pi * (outer * outer - inner * inner) / _SKY_PIXELS)) | 1
    for k in range(len(x)):
        n[:], total[:], area[:] = 0, 0.0, 0.0
        cx, cy = round(x[k]), round(y[k])
        count = 0
        for i in range(max(cy - reach, 0), min(cy + reach + 1, height)):
            dy = (i - y[k]) ** 2
            for j in range(max(cx - reach, 0), min(cx + reach + 1, width)):
                d = dy + (j - x[k]) ** 2
                share = 0.0
                if d <= (radius + 0.5) ** 2:
                    share = min(radius - math.sqrt(d) + 0.5, 1.0)
                elif inner * inner <= d <= outer * outer:
                    count += 1
                    if not mosaic and count % thin:
                        continue
                else:
                    continue
                for plane in range(planes):
                    c = colours[i & 1, j & 1] if mosaic else plane
                    if share > 0.0:
                        total[c] += share * image[plane, i, j]
                        area[c] += share
                    elif n[c] < _SKY_PIXELS:
                        ring[c, n[c]] = image[plane, i, j]
                        n[c] += 1
        for c in range(channels):
            if n[c] >= 8 and area[c] > 0:
                sky[k, c] = np.median(ring[c, : n[c]])
                filled = math.pi * radius * radius / area[c] if mosaic else 1.0
                out[k, c] = (total[c] - sky[k, c] * area[c]) * filled


@kernel
def apart(points: Vector, distance: float, keep: NDArray[np.bool_]) -> None:
    """Which points [n, 2] are farther than ``distance`` from every kept point before them."""
    keep[:] = True
    for i in range(len(points)):
        for j in range(i):
            dx, dy = points[i, 0] - points[j, 0], points[i, 1] - points[j, 1]
            if keep[j] and dx * dx + dy * dy < distance * distance:
                keep[i] = False
                break
