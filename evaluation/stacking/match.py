"""Which stars of two images are the same: by triangles of bright stars, whatever turn, scale and mirroring.

Independent of the registration it judges.
"""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]

_BRIGHTEST = 40
_NEIGHBOURS = 6
_TRIANGLE_TOLERANCE = 0.01
_ROUGH_PX = 4.0
_LEAST_SHARE = 0.3
"""Of the bright stars; chance gives some, too."""


def apply(matrix: Floats, points: Floats) -> Floats:
    """Points [n, 2] mapped by a 2x3 matrix."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def inverse(matrix: Floats) -> Floats:
    """The 2x3 matrix that leads back."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def fit(source: Floats, target: Floats) -> Floats:
    """The affine 2x3 matrix that maps ``source`` [n, 2] to ``target`` best."""
    ones = np.column_stack([source, np.ones(len(source))])
    return np.asarray(np.linalg.lstsq(ones, target, rcond=None)[0].T)


def align(first: Floats, second: Floats, tolerance: float = 1.5) -> tuple[Floats, NDArray[np.int64]]:
    """The 2x3 matrix from ``first`` to ``second`` and the pairs [m, 2] of indices of the same stars.

    Both are positions [n, 2], the brightest first. Raises ValueError if they do not fit each other.
    """
    a, b = first[:_BRIGHTEST], second[:_BRIGHTEST]
    (shape_a, corner_a), (shape_b, corner_b) = _triangles(a), _triangles(b)
    tree, best, most = cKDTree(second), None, 0
    distances, nearest = cKDTree(shape_b).query(shape_a, k=min(5, len(shape_b)))
    order = np.argsort(distances[:, 0])
    for i in order[:2000]:
        for distance, k in zip(distances[i], nearest[i], strict=True):
            if distance > _TRIANGLE_TOLERANCE:
                break
            matrix = fit(a[corner_a[i]], b[corner_b[k]])
            scales = np.linalg.svd(matrix[:, :2], compute_uv=False)
            if scales[0] > 1.05 * scales[1]:
                continue
            found = int((tree.query(apply(matrix, a))[0] < _ROUGH_PX).sum())
            if found > most:
                best, most = matrix, found
        if most > 0.7 * min(len(a), len(b)):
            break
    if best is None or most < max(4, _LEAST_SHARE * min(len(a), len(b))):
        raise ValueError(f"only {most} of {len(a)} bright stars of one image are in the other")
    for limit in (_ROUGH_PX, tolerance, tolerance):
        distance, index = tree.query(apply(best, first))
        near = np.flatnonzero(distance < limit)
        best = fit(first[near], second[index[near]])
    distance, index = tree.query(apply(best, first))
    near = np.flatnonzero(distance < tolerance)
    # Of two that are near the same star, the nearer is it.
    near = near[np.argsort(distance[near], kind="stable")]
    near = np.sort(near[np.unique(index[near], return_index=True)[1]])
    return best, np.column_stack([near, index[near]])


def _triangles(points: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Triangles of neighbours: their shapes (two ratios of sides), and corners by their opposite sides."""
    count = min(_NEIGHBOURS, len(points))
    _, near = cKDTree(points).query(points, k=count)
    sets = {tuple(sorted(three)) for row in near for three in combinations(row.tolist(), 3)}
    corners = np.array(sorted(sets), np.int64)
    p = points[corners]
    sides = np.stack(
        [np.linalg.norm(p[:, (i + 1) % 3] - p[:, (i + 2) % 3], axis=1) for i in range(3)], axis=1
    )
    order = np.argsort(sides, axis=1)
    sides, corners = np.take_along_axis(sides, order, 1), np.take_along_axis(corners, order, 1)
    good = sides[:, 0] > 0.1 * sides[:, 2]
    shape = sides[:, :2] / sides[:, 2:]
    return shape[good], corners[good]
