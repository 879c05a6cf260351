"""The streams of random numbers of an experiment.

Each purpose has a stream of its own, named by the seed and by where it is used, so that nothing has to be
remembered between two rounds, and so that experiments of one seed share weights, clients and batches whatever
else differs between them.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers are for. The numbers are part of what an experiment is."""

    WEIGHTS = 0
    PROPORTIONS = 1
    SPLIT = 2
    POISONED_CLIENTS = 3
    POISONED_LABELS = 4
    BATCHES = 5


def stream(seed: int, purpose: Purpose, *where: int) -> np.random.Generator:
    """The random numbers for a purpose, at a place (a client, a round) that whole numbers name."""
    return np.random.default_rng([seed, purpose, *where])
