"""How the server makes one model of those of the clients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

_COLUMNS = 1 << 16


def fedavg(models: NDArray[np.float32], samples: Sequence[int]) -> Vector:
    """The mean of the clients' weights (clients, parameters), weighted by samples (McMahan et al. 2017)."""
    weights = np.asarray(samples, np.float64) / sum(samples)
    return weights.astype(np.float32) @ models


def median(models: NDArray[np.float32], samples: Sequence[int]) -> Vector:
    """The coordinate-wise median of the clients' weights (Yin et al. 2018); samples do not count."""
    result = np.empty(models.shape[1], np.float32)
    for start in range(0, len(result), _COLUMNS):  # so that the copy that is sorted stays small
        np.median(models[:, start : start + _COLUMNS], axis=0, out=result[start : start + _COLUMNS])
    return result


AGGREGATORS = {"fedavg": fedavg, "median": median}
