"""Compile the kernels of stacking, once for a machine, on all of its cores.

What runs later starts at once then. Without this, kernels are compiled when they are called first, one after
the other.
"""

import importlib
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from ripresa.families.stacking import kernel_store
from ripresa.families.stacking.kernels import Kernel

LIST = Path(kernel_store.__file__).with_name("kernel_signatures.txt")
MOST = 8
"""Processes at a time; each takes about 200 MB."""


def listed() -> list[tuple[str, str]]:
    """The kernels that stacks call, ``module.function`` within the family, and the types of the arguments."""
    lines = LIST.read_text().splitlines()
    return [(name, signature) for name, signature in (line.split() for line in lines if line[0] != "#")]


def kernel_of(name: str) -> Kernel:
    """The kernel of an entry of the list."""
    module, _, function = name.rpartition(".")
    found: Kernel = getattr(importlib.import_module(f"ripresa.families.stacking.{module}"), function)
    return found


def compile_one(name: str, signature: str) -> None:
    """Compile a kernel unless that was done before."""
    kernel_store.load(kernel_of(name), signature)


def main() -> None:
    try:
        with ProcessPoolExecutor(min(MOST, len(os.sched_getaffinity(0)))) as pool:
            for done in [pool.submit(compile_one, *entry) for entry in listed()]:
                done.result()
    except Exception as error:
        # Only time is lost: who calls a kernel compiles it.
        print(f"warning: not all kernels were compiled in advance: {error!r}", file=sys.stderr)


if __name__ == "__main__":
    main()
