"""Runs a command on a file without a name, so that not even a killed benchmark leaves it behind.

In the words of the command @file stands for a path under which the file can be opened, and @direct for 1 if
its I/O passes the page cache by, else 0. The file is in the working directory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from ripresa.families.benchmarks.measurement import BenchmarkError
from ripresa.families.benchmarks.programs.figures import switch
from ripresa.families.benchmarks.programs.scratch import scratch_file


def run(file_mb: int, direct: bool, command: list[str]) -> int:
    """Exit code of the command. BenchmarkError without enough space, or if it cannot be started."""
    size = file_mb << 20
    with scratch_file(".", size, direct) as file:
        os.ftruncate(file.fd, size)  # fio replaces a file that is too short, which has no name to replace
        places = {"@file": file.path, "@direct": str(int(file.direct))}
        words = [_filled(word, places) for word in command]
        try:
            return subprocess.run(words, check=False).returncode
        except OSError as error:
            raise BenchmarkError(f"{words[0]}: cannot be started: {error.strerror}") from error


def _filled(word: str, places: dict[str, str]) -> str:
    for place, value in places.items():
        word = word.replace(place, value)
    return word


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file-mb", type=int, required=True, help="size of the file, MiB")
    parser.add_argument(
        "--direct", type=switch, default=True, help="1: direct I/O where the file system allows"
    )
    parser.add_argument("command", nargs="+", help="the command, after --")
    try:
        code = run(**vars(parser.parse_args()))
    except BenchmarkError as error:
        sys.exit(str(error))
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
