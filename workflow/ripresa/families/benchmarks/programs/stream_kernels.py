"""The STREAM kernels, compiled by numba and cached on disk, so only a first run pays the compiler."""

from __future__ import annotations

from numba import njit, prange
from numpy.typing import NDArray

_compiled = njit(parallel=True, nogil=True, cache=True)


@_compiled
def fill(a: NDArray, value: float) -> None:
    """a = value."""
    for i in prange(a.size):
        a[i] = value


@_compiled
def copy(c: NDArray, a: NDArray) -> None:
    """c = a: 16 bytes an element."""
    for i in prange(a.size):
        c[i] = a[i]


@_compiled
def scale(b: NDArray, c: NDArray, s: float) -> None:
    """b = s c: 16 bytes an element."""
    for i in prange(c.size):
        b[i] = s * c[i]


@_compiled
def add(c: NDArray, a: NDArray, b: NDArray) -> None:
    """c = a + b: 24 bytes an element."""
    for i in prange(a.size):
        c[i] = a[i] + b[i]


@_compiled
def triad(a: NDArray, b: NDArray, c: NDArray, s: float) -> None:
    """a = b + s c: 24 bytes an element."""
    for i in prange(b.size):
        a[i] = b[i] + s * c[i]


@_compiled
def mean_error(a: NDArray, expected: float) -> float:
    """Mean absolute deviation of the elements from their expected value."""
    total = 0.0
    for i in prange(a.size):
        total += abs(a[i] - expected)
    return total / a.size
