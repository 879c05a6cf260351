"""A picture for people: stretched as astronomers' viewers stretch, and upright."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking.robust import MAD_TO_SIGMA

LONGEST = 2000
"""Longest side of the picture, px."""
SHADOWS = -2.8
"""Where black is: so many sigma from the median."""
TARGET = 0.25
"""Where the median is, on a scale from black (0) to white (1)."""
_SAMPLE = 500_000


def midtones(values: NDArray[np.float32], balance: float) -> NDArray[np.float32]:
    """The midtones transfer function: 0 -> 0, ``balance`` -> 1/2, 1 -> 1, in between a rational curve."""
    x = values
    return np.asarray((balance - 1) * x / ((2 * balance - 1) * x - balance), np.float32)


def stretch(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """8-bit values of an image [C, y, x]. The sky is made grey, then all channels are stretched alike, so
    that the colours of stars stay.

    Black is 2.8 sigma (from the median absolute deviation) below the median, the background becomes a quarter
    of white, the brightest pixel is white: the automatic stretch of PixInsight's STF and of Siril.
    """
    step = max(1, int(np.sqrt(image[0].size / _SAMPLE)))
    sample = image[:, ::step, ::step].reshape(len(image), -1)
    sample = sample[:, np.isfinite(sample).all(axis=0)]
    if not sample.size:
        return np.zeros(image.shape, np.uint8)
    sky = np.median(sample, axis=1)[:, None, None]
    sigma = float(MAD_TO_SIGMA * np.median(np.abs(sample - sky[:, 0]), axis=1).mean())
    above = image - sky.astype(np.float32)
    black, white = SHADOWS * sigma, float(np.nanmax(above))
    if not white > black:
        return np.full(image.shape, round(255 * TARGET), np.uint8)
    scaled = (above - np.float32(black)) * np.float32(1 / (white - black))
    np.nan_to_num(scaled, copy=False, nan=0.0)
    np.clip(scaled, 0, 1, out=scaled)
    background = np.float32(-black / (white - black))
    # The balance that puts the background at TARGET is the transfer function of the background itself.
    balance = float(midtones(np.array([background], np.float32), TARGET)[0]) if background > 0 else 0.5
    return np.asarray(midtones(scaled, min(max(balance, 1e-6), 1 - 1e-6)) * 255 + 0.5).astype(np.uint8)


def reduced(image: NDArray[np.float32], longest: int = LONGEST) -> NDArray[np.float32]:
    """The mean of blocks of pixels, as large as it takes for no side to be longer than ``longest``."""
    channels, height, width = image.shape
    block = -(-max(height, width) // longest)
    if block == 1:
        return image
    rows, columns = max(height // block, 1), max(width // block, 1)
    cut = image[:, : rows * block, : columns * block]
    high, wide = cut.shape[1] // rows, cut.shape[2] // columns
    return np.asarray(cut.reshape(channels, rows, high, columns, wide).mean(axis=(2, 4), dtype=np.float32))


def write(path: str, image: NDArray[np.float32], *, top_down: bool = False) -> None:
    """Write a PNG of an image [C, y, x], C = 1 or 3. The first row is at the bottom, as FITS has it, unless
    the camera wrote it from the top (``ROWORDER``)."""
    from PIL import Image

    pixels: NDArray[Any] = stretch(reduced(image))
    if not top_down:
        pixels = pixels[:, ::-1]
    picture = Image.fromarray(
        np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    )
    with open(path, "wb") as file:
        picture.save(file, format="PNG", compress_level=1)
