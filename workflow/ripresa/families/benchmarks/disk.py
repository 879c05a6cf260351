"""Disk: sequential and random reads and writes of one file, one request at a time.

A write counts when it is durable: the sequential write ends with fsync inside the clock, each random
write includes its fdatasync. Direct I/O passes the page cache by; where the file system refuses it the
cache is emptied of the file before reads, and the result says so (`direct`).
"""

from __future__ import annotations

import mmap
import os
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from ripresa.families.benchmarks.measurement import BenchmarkError, Measurement, Metric, latency_metrics
from ripresa.families.benchmarks.scratch import ScratchFile, scratch_file

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "low": {"file_mb": 256, "block_kb": 1024, "random_block_kb": 4, "random_seconds": 0.5, "direct": True},
    "medium": {"file_mb": 4096, "block_kb": 1024, "random_block_kb": 4, "random_seconds": 10, "direct": True},
    "high": {"file_mb": 32768, "block_kb": 1024, "random_block_kb": 4, "random_seconds": 60, "direct": True},
}

SEED = 20


def _forget_cached(file: ScratchFile) -> None:
    """Drop the file from the page cache; without direct I/O reads would measure memory otherwise."""
    if not file.direct:
        os.fsync(file.fd)
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _whole(done: int, wanted: int) -> None:
    if done != wanted:
        raise BenchmarkError(f"disk: a request of {wanted} bytes moved only {done}")


def _sequential(request: Callable[[int], int], blocks: int, block: int, finish: Callable[[], None]) -> float:
    """Seconds for requests at all block offsets in order, with what makes them durable."""
    started = time.perf_counter()
    for offset in range(0, blocks * block, block):
        _whole(request(offset), block)
    finish()
    return time.perf_counter() - started


def _random(request: Callable[[int], int], blocks: int, block: int, seconds: float) -> list[float]:
    """Latencies (microseconds) of requests at random block offsets for a while, at least one."""
    choose = random.Random(SEED)
    latencies = []
    deadline = time.perf_counter() + seconds
    while True:
        offset = choose.randrange(blocks) * block
        started = time.perf_counter()
        _whole(request(offset), block)
        ended = time.perf_counter()
        latencies.append((ended - started) * 1e6)
        if ended >= deadline:
            return latencies


def _random_metrics(name: str, latencies: list[float]) -> list[Metric]:
    iops = len(latencies) / (sum(latencies) / 1e6)
    return [Metric(name, iops, "IOPS", "higher"), *latency_metrics(name, latencies)]


def run(parameters: Mapping[str, Any], scratch: str) -> Measurement:
    """Measure the disk that holds the folder `scratch`. BenchmarkError without enough space."""
    block, small = parameters["block_kb"] << 10, parameters["random_block_kb"] << 10
    blocks = (parameters["file_mb"] << 20) // block
    size = blocks * block
    if blocks < 1 or small > size:
        raise BenchmarkError(f"disk: file_mb {parameters['file_mb']} is smaller than one block: raise it")
    with (
        scratch_file(scratch, size, parameters["direct"]) as file,
        mmap.mmap(-1, max(block, small)) as memory,  # page-aligned, as direct I/O asks
        memoryview(memory) as whole,
        whole[:block] as large_buffer,
        whole[:small] as small_buffer,
    ):
        memory.write(os.urandom(len(memory)))  # nothing that a file system could compress away

        def write(offset: int) -> int:
            return os.pwrite(file.fd, large_buffer, offset)

        def read(offset: int) -> int:
            return os.preadv(file.fd, [large_buffer], offset)

        def write_through(offset: int) -> int:
            done = os.pwrite(file.fd, small_buffer, offset)
            os.fdatasync(file.fd)
            return done

        def read_small(offset: int) -> int:
            return os.preadv(file.fd, [small_buffer], offset)

        try:
            write_s = _sequential(write, blocks, block, lambda: os.fsync(file.fd))
            _forget_cached(file)
            read_s = _sequential(read, blocks, block, lambda: None)
            _forget_cached(file)
            seconds = parameters["random_seconds"]
            reads = _random(read_small, size // small, small, seconds)
            writes = _random(write_through, size // small, small, seconds)
        except OSError as error:
            raise BenchmarkError(f"disk: {error.strerror} in {scratch}") from error
        direct = file.direct
    metrics = [
        Metric("sequential_write", size / write_s / 1e6, "MB/s", "higher"),
        Metric("sequential_read", size / read_s / 1e6, "MB/s", "higher"),
        *_random_metrics("random_read", reads),
        *_random_metrics("random_write", writes),
    ]
    details = {
        "direct": direct,
        "file_bytes": size,
        "block_bytes": block,
        "random_block_bytes": small,
        "random_reads": len(reads),
        "random_writes": len(writes),
        "bytes_written": size + small * len(writes),
        "bytes_read": size + small * len(reads),
    }
    return Measurement(metrics, details)
