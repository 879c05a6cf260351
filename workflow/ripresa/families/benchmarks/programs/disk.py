"""Disk: sequential and random reads and writes of one file, one request at a time.

A write counts when it is durable: the sequential write ends with fsync inside the clock, each random
write includes its fdatasync. Direct I/O passes the page cache by; where the file system refuses it the
cache is emptied of the file before reads, and the result says so (`direct`).
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import time
from collections.abc import Callable

from ripresa.families.benchmarks.measurement import BenchmarkError
from ripresa.families.benchmarks.programs.figures import Figures, latencies, switch, tell
from ripresa.families.benchmarks.programs.scratch import ScratchFile, scratch_file

SEED = 20


def _forget_cached(file: ScratchFile) -> None:
    """Drop the file from the page cache; without direct I/O reads would measure memory otherwise."""
    if not file.direct:
        os.fsync(file.fd)
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _whole(done: int, wanted: int) -> None:
    if done != wanted:
        raise BenchmarkError(f"a request of {wanted} bytes moved only {done}")


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
    took = []
    deadline = time.perf_counter() + seconds
    while True:
        offset = choose.randrange(blocks) * block
        started = time.perf_counter()
        _whole(request(offset), block)
        ended = time.perf_counter()
        took.append((ended - started) * 1e6)
        if ended >= deadline:
            return took


def _random_metrics(name: str, microseconds: list[float]) -> dict[str, float]:
    """IOPS, and latencies in microseconds."""
    return {name: len(microseconds) / (sum(microseconds) / 1e6), **latencies(name, microseconds)}


def run(
    file_mb: int, block_kb: int, random_block_kb: int, random_seconds: float, direct: bool, folder: str = "."
) -> Figures:
    """Measure the disk that holds `folder`: MB/s, IOPS, microseconds. BenchmarkError without enough space."""
    block, small = block_kb << 10, random_block_kb << 10
    blocks = (file_mb << 20) // block
    size = blocks * block
    if blocks < 1 or small > size:
        raise BenchmarkError(f"file_mb {file_mb} is smaller than one block: raise it")
    with (
        scratch_file(folder, size, direct) as file,
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
            reads = _random(read_small, size // small, small, random_seconds)
            writes = _random(write_through, size // small, small, random_seconds)
        except OSError as error:
            raise BenchmarkError(f"{error.strerror} in {os.path.abspath(folder)}") from error
        direct = file.direct
    metrics = {
        "sequential_write": size / write_s / 1e6,
        "sequential_read": size / read_s / 1e6,
        **_random_metrics("random_read", reads),
        **_random_metrics("random_write", writes),
    }
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
    return Figures(metrics, details)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file-mb", type=int, required=True, help="size of the file, MiB")
    parser.add_argument("--block-kb", type=int, required=True, help="size of a sequential request, KiB")
    parser.add_argument("--random-block-kb", type=int, required=True, help="size of a random request, KiB")
    parser.add_argument(
        "--random-seconds", type=float, required=True, help="duration of random reads, and writes, s"
    )
    parser.add_argument(
        "--direct", type=switch, default=True, help="1: direct I/O where the file system allows"
    )
    tell(run, parser)


if __name__ == "__main__":
    main()
