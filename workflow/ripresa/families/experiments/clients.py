"""How samples are divided over the clients.

Each class is divided in proportions drawn from a Dirichlet distribution of concentration ``alpha`` (Hsu et
al. 2019); without one, every client has a random sample of all, as large as those of the others. Validation
and test images are divided in the same proportions: a client is judged on the mixture of classes that it has.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ripresa.families.experiments import ExperimentError
from ripresa.families.experiments.architecture import CLASSES
from ripresa.families.experiments.randomness import Purpose, stream

Indices = NDArray[np.intp]


def proportions(alpha: float | None, clients: int, seed: int) -> NDArray[np.float64] | None:
    """The share of each client in each class (classes, clients); None for iid."""
    if alpha is None:
        return None
    return stream(seed, Purpose.PROPORTIONS).dirichlet(np.full(clients, float(alpha)), CLASSES)


def divide(
    labels: NDArray[np.intp],
    shares: NDArray[np.float64] | None,
    clients: int,
    rng: np.random.Generator,
    least: int,
) -> list[Indices]:
    """The samples of each client, every sample at one client, at least ``least`` at each.

    Where the proportions leave a client with fewer, it gets samples of the client that has most.
    ExperimentError if there are more clients than samples.
    """
    if len(labels) < clients:
        raise ExperimentError(f"clients: {clients} are more than there are samples to divide ({len(labels)})")
    order = rng.permutation(len(labels))
    if shares is None:
        return np.array_split(order, clients)
    parts: list[list[Indices]] = [[] for _ in range(clients)]
    for label in range(CLASSES):
        members = order[labels[order] == label]
        ends = np.rint(np.cumsum(shares[label])[:-1] * len(members)).astype(np.intp)
        for client, part in enumerate(np.split(members, ends)):
            parts[client].append(part)
    divided = [np.concatenate(part) for part in parts]
    least = min(least, len(labels) // clients)
    while len(poorest := min(divided, key=len)) < least:
        to = next(n for n, part in enumerate(divided) if part is poorest)
        of = max(range(clients), key=lambda n: len(divided[n]))
        given = rng.permutation(divided[of])
        count = min(least - len(poorest), len(given) - least)
        divided[to], divided[of] = np.concatenate([poorest, given[:count]]), given[count:]
    return divided
