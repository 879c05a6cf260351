"""Label poisoning of the training samples. Validation and test labels stay clean.

The poison ratio is a share of the clients, because that is what robust aggregation can resist: ratio times
clients of them have all their labels poisoned, and where that is no whole number, one more client has that
fraction of its labels poisoned. So 10 clients at 0.8125 are 8 poisoned ones and one with an eighth of its
labels poisoned; of clients with equally many samples, that is the ratio of all samples, too. Which clients
come first depends on the seed alone: those poisoned at one ratio are so at every higher one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ripresa.families.experiments.architecture import CLASSES
from ripresa.families.experiments.randomness import Purpose, stream

Labels = NDArray[np.intp]


def shares(ratio: float, clients: int, seed: int) -> list[float]:
    """The share of poisoned labels of each client."""
    order = stream(seed, Purpose.POISONED_CLIENTS).permutation(clients)
    found = [0.0] * clients
    for place, client in enumerate(order):
        found[client] = min(max(ratio * clients - place, 0.0), 1.0)
    return found


def poisoned(labels: Labels, share: float, attack: str, seed: int, client: int) -> Labels:
    """The labels of a client, a share of them poisoned.

    `label_flip` makes class c to 9 - c; `random_noise` draws a class anew, uniformly from all ten.
    """
    rng = stream(seed, Purpose.POISONED_LABELS, client)
    chosen = rng.permutation(len(labels))[: round(share * len(labels))]
    changed = labels.copy()
    if attack == "label_flip":
        changed[chosen] = CLASSES - 1 - labels[chosen]
    else:
        changed[chosen] = rng.integers(CLASSES, size=len(labels))[chosen]
    return changed
