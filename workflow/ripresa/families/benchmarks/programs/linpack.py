"""LINPACK: solve a dense system A x = b by LU with partial pivoting (LAPACK dgesv), as HPL does.

Operations are counted as 2/3 n^3 + 2 n^2, and the solution is accepted by HPL's scaled residual
||A x - b|| / (eps (||A|| ||x|| + ||b||) n) < 16 in the infinity norm
(A. Petitet et al., "HPL - A Portable Implementation of the High-Performance Linpack Benchmark").
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from ripresa.families.benchmarks.hardware import available_memory_bytes, usable_cpus
from ripresa.families.benchmarks.measurement import BenchmarkError
from ripresa.families.benchmarks.programs.figures import Figures, tell

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESIDUAL_LIMIT = 16.0
EPSILON = 2.0**-53  # HPL's eps: the relative rounding error, half of numpy's
SEED = 20


def operations(order: int) -> float:
    """Floating point operations that LINPACK counts for a system of this order."""
    return 2 / 3 * order**3 + 2 * order**2


def scaled_residual(a: NDArray, x: NDArray, b: NDArray) -> float:
    """HPL's scaled residual of a solution (dimensionless, of order 0.01 for a sound one)."""
    import numpy as np

    def norm(array: NDArray) -> float:
        return float(np.linalg.norm(array, np.inf))

    return norm(a @ x - b) / (EPSILON * (norm(a) * norm(x) + norm(b)) * len(b))


def _system(a: NDArray) -> NDArray:
    """Fill A in place and return b: uniform in [-0.5, 0.5), always the same for an order."""
    import numpy as np

    random = np.random.default_rng(SEED)
    random.random(out=a.T)  # `a` is in column order for LAPACK; its transpose is what numpy can fill
    a -= 0.5
    return random.random(len(a)) - 0.5


def run(order: int, solves: int) -> Figures:
    """Solve `solves` times: best and mean rate in GFLOP/s. Needs one n x n matrix in memory."""
    import numpy as np
    from scipy.linalg.lapack import dgesv

    needed = 8 * order**2 * 1.1
    if needed > available_memory_bytes():
        raise BenchmarkError(
            f"order {order} needs {needed / 1e9:.1f} GB of memory, "
            f"{available_memory_bytes() / 1e9:.1f} GB are available: lower its order"
        )
    a = np.empty((order, order), order="F")
    dgesv(np.eye(64), np.ones(64))  # starts the threads of the BLAS outside the clock
    seconds, residuals = [], []
    for _ in range(solves):
        b = _system(a)
        started = time.perf_counter()
        _, _, x, info = dgesv(a, b, overwrite_a=True)
        seconds.append(time.perf_counter() - started)
        # dgesv left its factors in A; like HPL, make the system anew instead of keeping a second copy.
        b = _system(a)
        residuals.append(scaled_residual(a, x, b) if info == 0 else np.inf)
    residual = max(residuals)
    if not residual < RESIDUAL_LIMIT:
        raise BenchmarkError(
            f"scaled residual {residual:.3g} is not below {RESIDUAL_LIMIT:g}: numerical error, "
            "the arithmetic of this machine or of its BLAS is wrong"
        )
    count = operations(order)
    return Figures(
        {
            "best": count / min(seconds) / 1e9,  # GFLOP/s
            "mean": count * len(seconds) / sum(seconds) / 1e9,
        },
        {"order": order, "solves": len(seconds), "threads": usable_cpus(), "scaled_residual": residual},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--order", type=int, required=True, help="order n of the system; it takes 8 n^2 bytes"
    )
    parser.add_argument("--solves", type=int, required=True, help="how often it is solved")
    tell(run, parser)


if __name__ == "__main__":
    main()
