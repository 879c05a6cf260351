"""STREAM: sustained memory bandwidth of the four kernels copy, scale, add and triad.

After J. D. McCalpin, "Memory Bandwidth and Machine Balance in Current High Performance Computers"
(1995): arrays beyond the caches, the first iteration not counted, bandwidth from the bytes a kernel must
move (no write-allocate), best = from the fastest iteration, and the arrays checked at the end.
"""

from __future__ import annotations

import argparse
import math
import time

from ripresa.families.benchmarks.hardware import (
    ASSUMED_CACHE_BYTES,
    available_memory_bytes,
    last_level_cache_bytes,
    usable_cpus,
)
from ripresa.families.benchmarks.measurement import BenchmarkError
from ripresa.families.benchmarks.programs.figures import Figures, optional, tell

WORD = 8
CACHE_FACTOR = 4  # STREAM: each array at least four times the sum of the last-level caches
MEMORY_SHARE = 0.5  # of the available memory, for the three arrays together
MOVED_WORDS = {"triad": 3, "add": 3, "copy": 2, "scale": 2}  # triad first: it is the primary figure

# With (1 + s)^2 = 2 the arrays repeat after every iteration, so any number of them stays finite.
SCALAR = math.sqrt(2.0) - 1.0
START = (1.0, 2.0, 0.0)


def array_words(
    array_mb: int | None, cache_bytes: int | None = None, memory_bytes: int | None = None
) -> tuple[int, bool]:
    """Length of each array in 8-byte words, and whether STREAM's size rule is kept.

    `array_mb` (MiB) overrides the rule; the memory available caps both. Cache and memory are read from
    the machine unless given.
    """
    cache = (last_level_cache_bytes() or ASSUMED_CACHE_BYTES) if cache_bytes is None else cache_bytes
    memory = available_memory_bytes() if memory_bytes is None else memory_bytes
    rule = -(-CACHE_FACTOR * cache // WORD)
    wanted = rule if array_mb is None else (array_mb << 20) // WORD
    words = max(min(wanted, int(memory * MEMORY_SHARE) // (3 * WORD)), 1)
    return words, words >= rule


def expected_values(iterations: int) -> tuple[float, float, float]:
    """What every element of a, b, c must be after so many iterations."""
    a, b, c = START
    for _ in range(iterations):
        c = a
        b = SCALAR * c
        c = a + b
        a = b + SCALAR * c
    return a, b, c


def run(iterations: int, array_mb: int | None = None, threads: int | None = None) -> Figures:
    """Rates of the kernels, GB/s. Needs three arrays in memory. BenchmarkError if they come out wrong."""
    import numba
    import numpy as np

    from ripresa.families.benchmarks.programs import stream_kernels as kernels

    threads = threads or usable_cpus()
    try:
        numba.set_num_threads(threads)
    except ValueError as error:
        raise BenchmarkError(f"threads {threads}: {error}") from error
    words, rule_kept = array_words(array_mb)
    a, b, c = (np.empty(words) for _ in range(3))
    for array, value in zip((a, b, c), START):
        kernels.fill(array, value)  # in parallel: each page lands on the memory node of its thread

    seconds: dict[str, list[float]] = {name: [] for name in MOVED_WORDS}
    calls = (
        ("copy", lambda: kernels.copy(c, a)),
        ("scale", lambda: kernels.scale(b, c, SCALAR)),
        ("add", lambda: kernels.add(c, a, b)),
        ("triad", lambda: kernels.triad(a, b, c, SCALAR)),
    )
    for _ in range(iterations):
        for name, call in calls:
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)

    worst = max(
        kernels.mean_error(array, value) / abs(value)
        for array, value in zip((a, b, c), expected_values(iterations))
    )
    if not worst <= 1e-13:  # STREAM's tolerance; `not` so that nan fails too
        raise BenchmarkError(f"the arrays are wrong by {worst:.1e} (allowed 1e-13): numerical error")

    metrics = {}
    for kind, pick in (("best", min), ("average", lambda times: sum(times) / len(times))):
        for name, moved in MOVED_WORDS.items():
            rate = moved * WORD * words / pick(seconds[name][1:]) / 1e9
            metrics[f"{name}_{kind}"] = rate  # GB/s
    details = {
        "array_bytes": words * WORD,
        "array_rule_kept": rule_kept,
        "iterations": iterations,
        "threads": threads,
        "threading_layer": numba.threading_layer(),
        "relative_error": worst,
    }
    return Figures(metrics, details)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--iterations", type=int, required=True, help="how often each kernel runs; the first is not counted"
    )
    parser.add_argument("--array-mb", type=optional, help="size of each array, MiB, if not by STREAM's rule")
    parser.add_argument("--threads", type=optional, help="threads, if not all CPUs")
    tell(run, parser)


if __name__ == "__main__":
    main()
