"""Where an evaluation takes place: a cluster of its own, or one that is up."""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# The cluster is shared with the tests.
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from cluster import Cluster, packages

__all__ = ["Cluster", "add_argument", "cluster"]


def add_argument(parser: argparse.ArgumentParser) -> None:
    """The option that `cluster` takes."""
    parser.add_argument(
        "--state",
        metavar="FOLDER",
        type=Path,
        help="of a cluster that `python tests/cluster up --state FOLDER` brought up (default: an own one)",
    )


@contextlib.contextmanager
def cluster(state: Path | None) -> Iterator[Cluster]:
    """The cluster of a folder, repaired and left running, or a new one that is gone at the end.

    Exits with 2 and the reason where none can run.
    """
    if reason := packages.hindrance():
        print(f"no cluster can run here: {reason}", file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        made = Cluster(state or Path(folder) / "cluster")
        try:
            made.up()
            yield made
        finally:
            if state is None:
                made.down()
            else:
                made.heal()
