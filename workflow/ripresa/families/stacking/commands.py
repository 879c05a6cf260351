"""How the scripts of the phases end: what a user can act on is one line, not a traceback."""

import contextlib
import os
import sys
from collections.abc import Iterator

from ripresa.families.stacking import Changed, Damaged, StackingError


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Exit with 1 and one line on what went wrong, for everything that is not a fault of the program.

    A damaged file between phases is removed: a target that exists is taken for valid, so this is what makes
    the next call compute it again.
    """
    try:
        yield
    except Damaged as error:
        with contextlib.suppress(OSError):
            os.unlink(error.path)
        sys.exit(f"error: {error}; it was removed, and the next call makes it again")
    except Changed as error:
        if error.stale:
            with contextlib.suppress(OSError):
                os.unlink(error.stale)
        sys.exit(f"error: {error}")
    except StackingError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error}")


def grouped(words: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The words before the first ``--NAME``, and the words after each, for scripts that take lists."""
    first: list[str] = []
    groups: dict[str, list[str]] = {}
    current = first
    for word in words:
        if word.startswith("--"):
            current = groups.setdefault(word.removeprefix("--"), [])
        else:
            current.append(word)
    return first, groups


def band(item: str) -> tuple[int, int]:
    """The number (from 1) of a band or chunk and how many there are, from Snakemake's ``2-of-4``."""
    number, _, count = item.partition("-of-")
    return int(number), int(count)
