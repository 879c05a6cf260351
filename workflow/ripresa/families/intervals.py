"""How sure a mean is."""

from __future__ import annotations

import math
from collections.abc import Sequence

CONFIDENCE = 0.95


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the mean (Student's t); nan for fewer than two values."""
    import numpy as np
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return math.nan, math.nan
    half = stdtrit(n - 1, (1 + CONFIDENCE) / 2) * np.std(values, ddof=1) / math.sqrt(n)
    return float(np.mean(values) - half), float(np.mean(values) + half)
