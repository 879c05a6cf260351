"""Where an evaluation takes place: three hosts of its own."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# The hosts are shared with the tests.
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from hosts import Hosts, packages
from hosts.witness import overlaps

__all__ = ["Hosts", "hosts", "overlaps"]


@contextlib.contextmanager
def hosts() -> Iterator[Hosts]:
    """Fresh hosts, gone at the end, however that comes. Exits with 2 and the reason where none can run."""
    if reason := packages.hindrance():
        print(f"no hosts can run here: {reason}", file=sys.stderr)
        sys.exit(2)
    # Sockets need short paths.
    with tempfile.TemporaryDirectory(prefix="hosts-") as folder:
        made = Hosts(Path(folder))
        try:
            made.up(tied=True)
            yield made
        finally:
            made.down()
