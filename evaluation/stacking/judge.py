"""Figures of a stacked image that do not depend on its scale, offset, mirroring or reference frame.

Seeing is judged by Moffat profiles fitted to unsaturated, lonely stars, noise by the scatter of the light in
empty apertures as large as those of the stars: interpolation correlates neighbouring pixels, so the noise of
single pixels would flatter whoever blurs.
"""

from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from scipy.optimize import least_squares
from scipy.spatial import cKDTree

from stacking import match

Image = NDArray[np.float64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_IDENTITY = np.eye(2, 3)
_MARGIN = 0.08
_MESH = 64
_MOST_FITTED = 150
_LEAST_SNR = 40.0
_ENOUGH = 20
"""Stars; where fewer are bright and far below the highest pixel, others are taken as well."""
_APERTURE = 0.7
"""Radius over FWHM, where the ratio of a faint star's light to the noise is greatest (Howell 1989)."""
_HOT = 0.6
"""What has a larger share of its light in one pixel is no star."""
_SATURATED = 0.5
"""Stars whose peak is higher than this share of the highest pixel are left out."""


@dataclass(frozen=True)
class Stack:
    """A stacked image without its background, and the stars found in it, the brightest first."""

    image: Image
    stars: Floats
    """Positions x, y, [n, 2], px."""
    flux: Floats
    peak: Floats
    sources: Mask
    """Pixels of anything that stands out."""


def prepare(image: NDArray[np.floating]) -> Stack:
    """Subtract the background and find the stars. NaN, if any, is beside the image."""
    data = np.ascontiguousarray(image, np.float64)
    beside = ~np.isfinite(data)
    data = np.where(beside, np.nanmedian(data), data)
    background = sep.Background(data, mask=beside, bw=_MESH, bh=_MESH)
    data = data - background.back()
    noise = np.maximum(background.rms(), 1e-12 * max(1.0, float(np.abs(data).max())))
    found, segments = sep.extract(
        data / noise, 4.0, mask=beside, minarea=5, segmentation_map=True, deblend_cont=0.002
    )
    found = found[found["peak"] < _HOT * found["flux"]]
    found = found[np.argsort(-found["flux"])]
    x, y, _ = sep.winpos(data, found["x"], found["y"], np.full(len(found), 1.5))
    row, column = (
        np.clip(np.round(y).astype(int), 0, data.shape[0] - 1),
        np.clip(np.round(x).astype(int), 0, data.shape[1] - 1),
    )
    flux = found["flux"] * noise[row, column]
    peak = found["peak"] * noise[row, column]
    sources = maximum_filter(segments > 0, size=5) | beside
    return Stack(data, np.column_stack([x, y]), flux, peak, sources)


@dataclass(frozen=True)
class Figures:
    """What one stack comes to, over the stars it has in common with another."""

    fwhm: Floats
    """Of each fitted star, px; NaN where no profile fits."""
    gaussian: Floats
    """FWHM of Gaussians fitted to their cores."""
    r50: Floats
    """Radii of half the light within three times the FWHM."""
    ellipticity: float
    snr: Floats
    """Of each common star, in an aperture that goes with the FWHM of the stack."""
    snr_same: Floats
    """In an aperture of the same size in both stacks, which goes with the blurrier one."""

    @property
    def stars(self) -> int:
        """How many were fitted."""
        return int(np.isfinite(self.fwhm).sum())

    @property
    def fwhm_px(self) -> float:
        """The median star's."""
        return float(np.nanmedian(self.fwhm))

    @property
    def gaussian_fwhm_px(self) -> float:
        """The median star's."""
        return float(np.nanmedian(self.gaussian))

    @property
    def r50_px(self) -> float:
        """The median star's."""
        return float(np.nanmedian(self.r50))


@dataclass(frozen=True)
class Comparison:
    """Two stacks of the same frames."""

    first: Figures
    second: Figures
    scale: float
    """Pixels of the second a pixel of the first."""

    @property
    def fwhm(self) -> float:
        """FWHM in the first over that in the second, on the sky; the median star's."""
        return self._ratio(self.first.fwhm, self.second.fwhm)

    @property
    def gaussian_fwhm(self) -> float:
        """The same by the fits of Gaussians."""
        return self._ratio(self.first.gaussian, self.second.gaussian)

    @property
    def r50(self) -> float:
        """The same of the radii of half the light."""
        return self._ratio(self.first.r50, self.second.r50)

    @property
    def snr(self) -> float:
        """Median over the common stars of SNR in the first over SNR in the second."""
        return float(np.median(self.first.snr / self.second.snr))

    @property
    def snr_same(self) -> float:
        """The same in apertures of one size, which give the sharper stack more noise than it needs."""
        return float(np.median(self.first.snr_same / self.second.snr_same))

    def _ratio(self, first: Floats, second: Floats) -> float:
        return float(np.nanmedian(first * self.scale / second))


def compare(first: Stack, second: Stack, *, margin: float = _MARGIN) -> Comparison:
    """Judge both stacks by the same stars, found by their own constellations.

    Stars and empty apertures nearer to an edge than ``margin`` times the side are left out: there fewer
    frames reach. Raises ValueError if the images do not fit each other or share too few stars.
    """
    matrix, pairs = match.align(first.stars, second.stars)
    scale = _scale(matrix)
    inner = _inside(first, margin)[pairs[:, 0]] & _inside(second, margin)[pairs[:, 1]]
    rough = _rough_fwhm(first), _rough_fwhm(second)
    lonely = _lonely(first, 4 * rough[0])[pairs[:, 0]] & _lonely(second, 4 * rough[1])[pairs[:, 1]]
    pairs = pairs[inner & lonely]
    pairs = pairs[_points(first, pairs[:, 0], rough[0]) & _points(second, pairs[:, 1], rough[1])]
    # Each in the aperture that suits it, and both in that of the blurrier one, on the sky.
    widest = max(rough[0], rough[1] / scale)
    snr, same = (
        (
            _snr(first, pairs[:, 0], radii[0], (second, matrix), margin),
            _snr(second, pairs[:, 1], radii[1], (first, match.inverse(matrix)), margin),
        )
        for radii in (
            (_APERTURE * rough[0], _APERTURE * rough[1]),
            (_APERTURE * widest, _APERTURE * widest * scale),
        )
    )
    least = np.minimum(*snr)
    bright = least > _LEAST_SNR
    if bright.sum() < _ENOUGH:
        bright = least > _LEAST_SNR / 4
    if bright.sum() < 3:
        raise ValueError(f"only {int(bright.sum())} lonely, unsaturated, bright stars are in both images")
    fitted = pairs[bright][:_MOST_FITTED]
    return Comparison(
        _figures(first, fitted[:, 0], rough[0], snr[0][bright], same[0][bright]),
        _figures(second, fitted[:, 1], rough[1], snr[1][bright], same[1][bright]),
        scale,
    )


def _snr(
    stack: Stack, index: NDArray[np.int64], radius: float, other: tuple[Stack, Floats], margin: float
) -> Floats:
    """Of stars in apertures of a radius, px, against empty ones that are empty in the ``other`` stack too, to
    whose pixels its matrix leads."""
    apertures = Apertures(stack, radius, margin)
    apertures.keep_empty(*other)
    return _flux(stack, index, radius) / apertures.noise(stack, _IDENTITY)


class Apertures:
    """Apertures over an image, in four interleaved grids, as far as they are empty in it (and in another).

    The noise is the root mean square of the differences between neighbours, clipped at 3 sigma, over the root
    of two: what is left of nebulae and gradients after the subtraction of the background is no noise.
    """

    def __init__(self, stack: Stack, radius: float, margin: float = _MARGIN) -> None:
        height, width = stack.image.shape
        step = 2 * radius + 1
        self._radius = radius
        self._grids = [
            np.stack(
                np.meshgrid(
                    np.arange(margin * width + radius + right, (1 - margin) * width - radius, step),
                    np.arange(margin * height + radius + up, (1 - margin) * height - radius, step),
                ),
                axis=-1,
            )
            for right in (0, step / 2)
            for up in (0, step / 2)
        ]
        self._empty = [np.ones(grid.shape[:2], bool) for grid in self._grids]
        self.keep_empty(stack, _IDENTITY)

    def keep_empty(self, stack: Stack, matrix: Floats) -> None:
        """Forget apertures that are not empty, or not whole, in a stack whose pixels ``matrix`` leads to."""
        radius = self._radius * _scale(matrix)
        height, width = stack.image.shape
        for grid, empty in zip(self._grids, self._empty, strict=True):
            x, y = match.apply(matrix, grid.reshape(-1, 2)).T
            used, _, _ = sep.sum_circle(stack.sources.astype(np.float64), x, y, radius)
            inside = (np.minimum(x, y) > radius) & (x < width - 1 - radius) & (y < height - 1 - radius)
            np.logical_and(empty, ((used == 0) & inside).reshape(empty.shape), out=empty)

    def noise(self, stack: Stack, matrix: Floats) -> float:
        """Scatter of the light in the apertures of a stack. Raises ValueError if they are too few."""
        radius = self._radius * _scale(matrix)
        differences = []
        for grid, empty in zip(self._grids, self._empty, strict=True):
            x, y = match.apply(matrix, grid.reshape(-1, 2)).T
            total, _, _ = sep.sum_circle(stack.image, x, y, radius, subpix=0)
            total = np.where(empty, total.reshape(empty.shape), np.nan)
            differences += [np.diff(total, axis=axis).ravel() for axis in (0, 1)]
        known = np.concatenate(differences)
        known = known[np.isfinite(known)]
        if len(known) < 30:
            raise ValueError(f"too few apertures of {radius:.1f} px are empty")
        sigma = 1.4826 * float(np.median(np.abs(known)))
        for _ in range(20):
            # The rms of what is left of normal values by clipping at 3 sigma is 0.9866 sigma.
            sigma = float(np.sqrt(np.mean(known[np.abs(known) <= 3 * sigma] ** 2))) / 0.9866
        return sigma / np.sqrt(2)


def noise_of_apertures(stack: Stack, radius: float, margin: float = _MARGIN) -> float:
    """Scatter of the sums over empty apertures of a radius, px."""
    return Apertures(stack, radius, margin).noise(stack, _IDENTITY)


@dataclass(frozen=True)
class Profile:
    """A fitted Moffat profile."""

    x: float
    y: float
    fwhm_px: float
    """Geometric mean of both axes."""
    ellipticity: float
    beta: float


def moffat(image: Image, x: float, y: float, fwhm: float) -> Profile | None:
    """Fit an elliptic Moffat profile and a constant to a star; None where none fits."""
    cut = _cut(image, x, y, round(2.5 * fwhm + 2))
    if cut is None:
        return None
    stamp, xs, ys = cut
    peak = float(stamp.max())
    scale = 2 * np.sqrt(2 ** (1 / 3.0) - 1) / fwhm

    def model(p: Floats) -> Floats:
        dx, dy = xs - p[2], ys - p[3]
        # The form is a Cholesky product, so it is never negative.
        u, v = p[4] * dx + p[5] * dy, p[6] * dy
        return p[0] + p[1] * (1 + u * u + v * v) ** -p[7]

    start = np.array([0.0, peak, x, y, scale, 0.0, scale, 3.0])
    low = [-peak, 0, x - fwhm, y - fwhm, scale / 5, -5 * scale, scale / 5, 1.2]
    high = [peak, 5 * peak, x + fwhm, y + fwhm, scale * 5, 5 * scale, scale * 5, 20]
    done = least_squares(
        lambda p: (model(p) - stamp) / peak, start, bounds=(low, high), x_scale="jac", max_nfev=60
    )
    a, b, c, beta = done.x[4:]
    unit = 2 * np.sqrt(2 ** (1 / beta) - 1)
    axes = unit / np.linalg.svd(np.array([[a, b], [0, c]]), compute_uv=False)
    if not done.success and done.status != 0:
        return None
    return Profile(
        float(done.x[2]),
        float(done.x[3]),
        float(np.sqrt(axes[0] * axes[1])),
        float(abs(axes[0] - axes[1]) / (axes[0] + axes[1])),
        float(beta),
    )


def gaussian_fwhm(image: Image, x: float, y: float, fwhm: float) -> float:
    """FWHM of a round Gaussian fitted to the core of a star; NaN where none fits."""
    cut = _cut(image, x, y, round(1.2 * fwhm + 1))
    if cut is None:
        return float("nan")
    stamp, xs, ys = cut
    peak = float(stamp.max())

    def residual(p: Floats) -> Floats:
        return (p[0] + p[1] * np.exp(-0.5 * ((xs - p[2]) ** 2 + (ys - p[3]) ** 2) / p[4] ** 2) - stamp) / peak

    done = least_squares(residual, [0.0, peak, x, y, fwhm / 2.355], max_nfev=60)
    return float(abs(done.x[4]) * 2.3548) or float("nan")


def _cut(image: Image, x: float, y: float, half: int) -> tuple[Floats, Floats, Floats] | None:
    """Pixels around a star within a circle, with their coordinates; None at the edge of the image."""
    column, row = round(x), round(y)
    if not (half <= column < image.shape[1] - half and half <= row < image.shape[0] - half):
        return None
    ys, xs = np.mgrid[row - half : row + half + 1, column - half : column + half + 1].astype(float)
    inside = (xs - x) ** 2 + (ys - y) ** 2 <= half * half
    return (
        image[row - half : row + half + 1, column - half : column + half + 1][inside],
        xs[inside],
        ys[inside],
    )


def _rough_fwhm(stack: Stack) -> float:
    """The median FWHM by the radii of half the light of bright stars."""
    good = np.flatnonzero(_unsaturated(stack) & _inside(stack, _MARGIN))[:60]
    if not len(good):
        raise ValueError("no unsaturated star")
    x, y = stack.stars[good].T
    r50, _ = sep.flux_radius(stack.image, x, y, np.full(len(good), 12.0), 0.5, subpix=5)
    fits = [moffat(stack.image, px, py, 2 * float(np.nanmedian(r50))) for px, py in zip(x, y, strict=True)]
    return float(np.median([one.fwhm_px for one in fits if one]))


def _inside(stack: Stack, margin: float) -> Mask:
    height, width = stack.image.shape
    x, y = stack.stars.T
    return np.asarray(
        (x > margin * width)
        & (x < (1 - margin) * width)
        & (y > margin * height)
        & (y < (1 - margin) * height)
    )


def _unsaturated(stack: Stack) -> Mask:
    return np.asarray(stack.peak < _SATURATED * stack.image.max())


def _lonely(stack: Stack, distance: float) -> Mask:
    """Stars without a neighbour of more than 2 % of their light nearer than ``distance``."""
    lonely = np.ones(len(stack.stars), bool)
    for i, j in cKDTree(stack.stars).query_pairs(distance):
        lonely[i] &= stack.flux[j] < 0.02 * stack.flux[i]
        lonely[j] &= stack.flux[i] < 0.02 * stack.flux[j]
    return lonely


def _flux(stack: Stack, index: NDArray[np.int64], radius: float) -> Floats:
    x, y = stack.stars[index].T
    return np.asarray(sep.sum_circle(stack.image, x, y, radius, subpix=0)[0])


def _scale(matrix: Floats) -> float:
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def _figures(stack: Stack, index: NDArray[np.int64], rough: float, snr: Floats, same: Floats) -> Figures:
    stars = stack.stars[index]
    profiles = [moffat(stack.image, x, y, rough) for x, y in stars]
    r50, _ = sep.flux_radius(
        stack.image, stars[:, 0].copy(), stars[:, 1].copy(), np.full(len(stars), 3 * rough), 0.5, subpix=5
    )
    return Figures(
        fwhm=np.array([one.fwhm_px if one else np.nan for one in profiles]),
        gaussian=np.array([gaussian_fwhm(stack.image, x, y, rough) for x, y in stars]),
        r50=r50,
        ellipticity=float(np.median([one.ellipticity for one in profiles if one])),
        snr=snr,
        snr_same=same,
    )


def _points(stack: Stack, index: NDArray[np.int64], fwhm: float) -> Mask:
    """Which of some stars are points and not saturated: neither galaxies nor peaks that were cut off.

    The highest pixel over the light in an aperture is the same for all stars, but for their places on the
    pixels. Where few stars are far below the highest pixel, others are trusted if they are as sharp.
    """
    if not len(index):
        return np.zeros(0, bool)
    flux = _flux(stack, index, 1.5 * fwhm)
    sharpness = stack.peak[index] / np.where(flux > 0, flux, np.inf)
    low = stack.peak[index] < _SATURATED * stack.image.max()
    typical = np.median(sharpness[low][:_ENOUGH]) if low.any() else np.median(sharpness)
    fine = low & (sharpness > 0.6 * typical) & (sharpness < 2 * typical)
    if fine.sum() < _ENOUGH:
        fine |= (sharpness > 0.85 * typical) & ~low
    return np.asarray(fine)
