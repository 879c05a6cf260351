"""Transforms of the plane as 2x3 float64 matrices: (x', y') = M @ (x, y, 1)."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


class Geometry(NamedTuple):
    """What a matrix does: scale (square root of the area's), rotation in degrees (-180..180], the shear (0
    for a similarity: half the difference of the singular values over their mean) and whether it mirrors."""

    scale: float
    rotation: float
    shear: float
    mirrored: bool


def identity() -> Matrix:
    return np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def similarity(
    scale: float, degrees: float, centre: tuple[float, float], shift: tuple[float, float]
) -> Matrix:
    """Scale and rotate about ``centre``, then shift. Positive angles turn +x towards +y."""
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    x, y = centre
    return np.array([[c, -s, x - c * x + s * y + shift[0]], [s, c, y - s * x - c * y + shift[1]]])


def apply(matrix: Matrix, x: Vector, y: Vector) -> tuple[Vector, Vector]:
    """The images of points."""
    return (
        matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2],
        matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2],
    )


def invert(matrix: Matrix) -> Matrix:
    """The transform back."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.hstack([linear, -linear @ matrix[:, 2:]])


def compose(second: Matrix, first: Matrix) -> Matrix:
    """The transform that does ``first``, then ``second``."""
    return np.hstack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2:] + second[:, 2:]])


def geometry(matrix: Matrix) -> Geometry:
    """Scale, rotation, shear and parity of a matrix."""
    (a, b), (c, d) = matrix[:, :2]
    largest, smallest = np.linalg.svd(matrix[:, :2], compute_uv=False)
    determinant = float(a * d - b * c)
    return Geometry(
        float(np.sqrt(abs(determinant))),
        float(np.degrees(np.arctan2(c - b, a + d))),
        float((largest - smallest) / (largest + smallest)),
        determinant < 0,
    )


def largest_difference(one: Matrix, other: Matrix, width: int, height: int) -> float:
    """By how many px two transforms differ at most over a frame (it is largest at a corner)."""
    x = np.array([0.0, width - 1.0, 0.0, width - 1.0])
    y = np.array([0.0, 0.0, height - 1.0, height - 1.0])
    x1, y1 = apply(one, x, y)
    x2, y2 = apply(other, x, y)
    return float(np.hypot(x1 - x2, y1 - y2).max())


def overlap(to_frame: Matrix, width: int, height: int) -> float:
    """The share of the reference grid that falls on a frame of the same size (to about 1 %)."""
    x, y = np.meshgrid(np.linspace(0, width - 1, 24), np.linspace(0, height - 1, 24))
    x, y = apply(to_frame, x, y)
    return float(((x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)).mean())


def fit_similarity(x: Vector, y: Vector, u: Vector, v: Vector, weight: Vector) -> Matrix:
    """The similarity (no mirroring) that takes (x, y) to (u, v) with the least weighted sum of squares.

    With z = x + iy it is z' = a z + b, a linear problem with the solution a = <conj(z) z'> / <|z|^2> about
    the weighted means. Raises ZeroDivisionError where all points are one.
    """
    total = weight.sum()
    mx, my, mu, mv = (float((weight * q).sum() / total) for q in (x, y, u, v))
    x, y, u, v = x - mx, y - my, u - mu, v - mv
    size = float((weight * (x * x + y * y)).sum())
    if not size > 0:
        raise ZeroDivisionError("all points are one")
    c = float((weight * (x * u + y * v)).sum()) / size
    s = float((weight * (x * v - y * u)).sum()) / size
    return np.array([[c, -s, mu - c * mx + s * my], [s, c, mv - s * mx - c * my]])


def fit_affine(x: Vector, y: Vector, u: Vector, v: Vector, weight: Vector, shear: float = math.inf) -> Matrix:
    """The affine transform that takes (x, y) to (u, v) with the least weighted sum of squares.

    ``weight`` is one over the variance of a coordinate. ``shear`` is the standard deviation that the two
    parameters beyond a similarity are expected to have: data that say little about them leave them near zero
    (ridge regression, Hoerl & Kennard 1970). Raises LinAlgError where the points are on one line.
    """
    total = weight.sum()
    mx, my = float((weight * x).sum() / total), float((weight * y).sum() / total)
    x, y = x - mx, y - my
    one, zero = np.ones_like(x), np.zeros_like(x)
    # Cosine and sine of the similarity, stretch along the axes and along the diagonals, shift.
    basis = np.concatenate([[x, -y, x, y, one, zero], [y, x, -y, x, zero, one]], axis=1)
    weighted = basis * np.concatenate([weight, weight])
    normal = weighted @ basis.T
    normal[[2, 3], [2, 3]] += shear**-2.0
    c, s, p, q, du, dv = (float(k) for k in np.linalg.solve(normal, weighted @ np.concatenate([u, v])))
    matrix = np.array([[c + p, q - s, du], [q + s, c - p, dv]])
    matrix[:, 2] -= matrix[:, 0] * mx + matrix[:, 1] * my
    return matrix


def fit_shift(x: Vector, y: Vector, u: Vector, v: Vector, weight: Vector) -> tuple[float, float]:
    """The weighted mean shift from (x, y) to (u, v)."""
    total = weight.sum()
    return float((weight * (u - x)).sum() / total), float((weight * (v - y)).sum() / total)
