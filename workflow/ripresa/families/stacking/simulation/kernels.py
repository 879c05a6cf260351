"""The loops over pixels, compiled by numba and cached on disk."""

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking.kernels import kernel

Image = NDArray[np.float32]
Floats = NDArray[np.float64]

LIGHT_LEFT_OUT = 0.05
"""Where a star gives less than this, in e/px, it is not drawn."""
STEP = 8
"""Smooth light is computed every so many px and interpolated."""


@kernel
def add_stars(
    image: Image, colour_of: NDArray[np.int64], x: Floats, y: Floats, flux: Floats, shape: Floats, beta: float
) -> None:
    """Draw Moffat profiles into an image [H, W].

    ``colour_of`` [2, 2] is the column of ``flux`` [n, C] for pixels by the parity of their row and column.
    ``shape`` [n, 3] holds the quadratic form xx, xy, yy of each profile (1 + form)^-beta, in 1/px^2.
    """
    height, width = image.shape
    for star in range(x.size):
        xx, xy, yy = shape[star, 0], shape[star, 1], shape[star, 2]
        determinant = xx * yy - 0.25 * xy * xy
        peak = (beta - 1.0) / np.pi * np.sqrt(determinant)
        brightest = 0.0
        for channel in range(flux.shape[1]):
            brightest = max(brightest, flux[star, channel])
        if peak * brightest <= LIGHT_LEFT_OUT:
            continue
        # How far out the profile still counts, along its longer axis.
        reach = (peak * brightest / LIGHT_LEFT_OUT) ** (1.0 / beta) - 1.0
        x_reach, y_reach = np.sqrt(reach * yy / determinant), np.sqrt(reach * xx / determinant)
        x0, x1 = max(int(np.ceil(x[star] - x_reach)), 0), min(int(x[star] + x_reach) + 1, width)
        y0, y1 = max(int(np.ceil(y[star] - y_reach)), 0), min(int(y[star] + y_reach) + 1, height)
        for row in range(y0, y1):
            dy = row - y[star]
            for column in range(x0, x1):
                dx = column - x[star]
                form = xx * dx * dx + xy * dx * dy + yy * dy * dy
                if form < reach:
                    light = peak * flux[star, colour_of[row & 1, column & 1]] * (1.0 + form) ** -beta
                    image[row, column] += np.float32(light)


@kernel
def add_smooth(image: Image, colour_of: NDArray[np.int64], grid: Image) -> None:
    """Add light known at every `STEP` px, [C, rows, columns], to an image [H, W]."""
    height, width = image.shape
    line = np.empty((grid.shape[0], grid.shape[2]), np.float32)
    for row in range(height):
        cell = row // STEP
        part = np.float32((row - cell * STEP) / STEP)
        for channel in range(grid.shape[0]):
            for k in range(grid.shape[2]):
                here = grid[channel, cell, k]
                line[channel, k] = here + part * (grid[channel, cell + 1, k] - here)
        for column in range(width):
            channel = colour_of[row & 1, column & 1]
            k = column // STEP
            along = np.float32(column - k * STEP) / np.float32(STEP)
            image[row, column] += line[channel, k] + along * (line[channel, k + 1] - line[channel, k])


@kernel
def add_trail(image: Image, x0: float, y0: float, angle: float, width: float, peak: float) -> None:
    """Add a straight line through (x0, y0) whose cross-section is a Gaussian of this sigma, px."""
    height, columns = image.shape
    cos, sin = np.cos(angle), np.sin(angle)
    steep = abs(sin) > abs(cos)
    reach = 5.0 * width / max(abs(sin), abs(cos))
    for i in range(height if steep else columns):
        middle = x0 + (i - y0) * cos / sin if steep else y0 + (i - x0) * sin / cos
        low = max(int(np.ceil(middle - reach)), 0)
        high = min(int(np.floor(middle + reach)) + 1, columns if steep else height)
        for k in range(low, high):
            distance = (k - middle) * (sin if steep else cos)
            light = np.float32(peak * np.exp(-0.5 * (distance / width) ** 2))
            if steep:
                image[i, k] += light
            else:
                image[k, i] += light


@kernel
def expose(light: Image, noise: Image, read_noise: float, bias: float, out: NDArray[np.uint16]) -> None:
    """Turn mean electrons into counts: Poisson and read noise, bias, saturation. All arrays are [H, W].

    ``noise`` is standard normal. The sum of both noises is drawn from it by the first terms of the
    Cornish-Fisher expansion (E. A. Cornish and R. A. Fisher, 1938): right in variance and skewness.
    """
    variance_of_reading = np.float32(read_noise * read_noise)
    skew = np.float32(1.0 / 6.0)
    one = np.float32(1.0)
    offset = np.float32(bias + 0.5)
    for row in range(light.shape[0]):
        for column in range(light.shape[1]):
            mean = max(light[row, column], np.float32(0.0))
            variance = mean + variance_of_reading + np.float32(1e-6)
            z = noise[row, column]
            value = mean + np.sqrt(variance) * z + skew * mean / variance * (z * z - one) + offset
            out[row, column] = np.uint16(min(max(value, np.float32(0.0)), np.float32(65535.0)))
