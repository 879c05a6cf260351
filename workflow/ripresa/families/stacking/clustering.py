"""STATE_CLUSTERING: which frames were taken in the same state of sky and instrument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import StackingError, tables
from ripresa.families.stacking.robust import Floats, zscore

FRAMES_PER_CLUSTER = 10
SEED = 20250101
RESTARTS = 8
# A frame further out than this, in sigma, is far out: its distance shall not decide where all clusters are.
FAR = 5.0


def cluster(global_metrics: str, local_metrics: str, settings: Mapping[str, Any], output: str) -> None:
    """Write ``output`` as JSON: ``mode``, ``k``, ``labels`` {frame name: cluster from 0}, and ``quality``
    [k], the mean weight of each cluster's frames, best first. In reduced mode k is 0.

    Clusters of the state (G, mean Q, var Q, B, sigma) are common to all channels.
    ``settings``: ``clusters`` with the ``minimum`` and ``maximum`` number of clusters, ``mode`` with
    ``full_from``, the number of registered frames from which on the mode is ``full`` and not ``reduced``.
    """
    about, whole = tables.load(global_metrics, "weight", "background", "noise")
    mode = "full" if len(about["frames"]) >= settings["mode"]["full_from"] else "reduced"
    labels: dict[str, int] = {}
    quality: list[float] = []
    if mode == "full":
        _, local = tables.load(local_metrics, "mean_quality", "var_quality", "weights")
        names = [frame["name"] for frame in about["frames"]]
        state = np.column_stack(
            [
                whole["weight"],
                local["mean_quality"],
                local["var_quality"],
                whole["background"],
                whole["noise"],
            ]
        )
        worth = local["weights"].mean(axis=(1, 2, 3), dtype=np.float64)
        number, quality = group(state, worth, names, clusters(len(names), settings["clusters"]))
        labels = dict(zip(names, number, strict=True))
    tables.write_json(output, {"mode": mode, "k": len(quality), "labels": labels, "quality": quality})


def clusters(frames: int, limits: Mapping[str, int]) -> int:
    """K = clip(N/10, minimum, maximum), and no more than there are frames."""
    if limits["minimum"] > limits["maximum"]:
        raise StackingError(
            f"stacking.clusters: minimum {limits['minimum']} is above maximum {limits['maximum']}: "
            "lower the one or raise the other"
        )
    return min(frames, max(limits["minimum"], min(limits["maximum"], frames // FRAMES_PER_CLUSTER)))


def group(state: Floats, worth: Floats, names: list[str], k: int) -> tuple[list[int], list[float]]:
    """The cluster of every frame and the mean worth of each cluster, numbered from the worthiest.

    ``state`` [N, D]. Frames in any order give the same clusters: they are sorted by state first. There are
    fewer than ``k`` if fewer states are distinct.
    """
    point = np.clip(zscore(state), -FAR, FAR)
    order = sorted(range(len(names)), key=lambda i: (*point[i], names[i]))
    label = np.empty(len(names), np.intp)
    label[order] = kmeans(point[order], k)
    mean = [float(np.mean(worth[label == j])) for j in range(label.max() + 1)]
    first = [min(name for name, own in zip(names, label, strict=True) if own == j) for j in range(len(mean))]
    ranking = sorted(range(len(mean)), key=lambda j: (-mean[j], first[j]))
    number = {j: rank for rank, j in enumerate(ranking)}
    return [number[int(j)] for j in label], [mean[j] for j in ranking]


def kmeans(point: Floats, k: int) -> NDArray[np.intp]:
    """Labels [N] from 0 of points [N, D] in at most k clusters, none of them empty: the best of some runs of
    Lloyd's algorithm, each started by k-means++ (Arthur and Vassilvitskii 2007) with a fixed seed."""
    k = min(k, len(np.unique(point, axis=0)))
    random = np.random.default_rng(SEED)
    best, least = np.zeros(len(point), np.intp), np.inf
    for _ in range(RESTARTS):
        label, inertia = _lloyd(point, _spread_out(point, k, random))
        if inertia < least * (1 - 1e-9):
            best, least = label, inertia
    return best


def _distances(point: Floats, center: Floats) -> Floats:
    """Squared distances [N, k]; by differences, since those of equal points are exactly zero."""
    return np.sum((point[:, None] - center[None]) ** 2, axis=-1)


def _spread_out(point: Floats, k: int, random: np.random.Generator) -> Floats:
    """k distinct points, each drawn with a probability that grows as its squared distance from the others."""
    chosen = [int(random.random() * len(point))]
    nearest = _distances(point, point[chosen])[:, 0]
    while len(chosen) < k:
        total = np.cumsum(nearest)
        chosen.append(int(np.searchsorted(total, random.random() * total[-1], side="right")))
        nearest = np.minimum(nearest, _distances(point, point[chosen[-1:]])[:, 0])
    return point[chosen]


def _lloyd(point: Floats, center: Floats) -> tuple[NDArray[np.intp], float]:
    """Labels and the sum of squared distances; a cluster left empty takes the point worst served."""
    k = len(center)
    label = np.full(len(point), -1, np.intp)
    for _ in range(100):
        distance = _distances(point, center)
        new = np.argmin(distance, axis=1)
        served = distance[np.arange(len(point)), new]
        for empty in np.flatnonzero(np.bincount(new, minlength=k) == 0):
            shared = np.bincount(new, minlength=k)[new] > 1
            worst = int(np.argmax(np.where(shared, served, -1)))
            new[worst], served[worst] = empty, 0
        if np.array_equal(new, label):
            break
        label = new
        member = (label == np.arange(k)[:, None]).astype(np.float64)
        center = np.einsum("jn,nd->jd", member, point) / member.sum(axis=1, keepdims=True)
    return label, float(np.sum(served))
