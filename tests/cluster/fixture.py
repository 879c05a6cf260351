"""The fixtures `slurm` and `slurm_session`, and what pytest says of tests that could not have them.

One cluster serves all tests of a session (of each worker, if there are several; these tests are meant to run
in one process). It comes up with the first test that wants it and goes down at the end.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import packages
from cluster.handle import Cluster
from machines.tier import Tier

TIER = Tier("slurm", fixture="slurm_session", what="SLURM cluster", said=[])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    TIER.mark(items)


@pytest.fixture(scope="session")
def slurm_session() -> Iterator[Cluster]:
    """The cluster of the session, as the tests before have left it; for what several tests share.

    Where none can run the test is skipped, or, in CI, fails.
    """
    if reason := packages.hindrance():
        TIER.refuse(reason)
    # Sockets need short paths, hence not under pytest's own temporary folder.
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="slurm-")))
    began = time.monotonic()
    try:
        cluster.up()
        TIER.said.append(f"SLURM cluster up in {time.monotonic() - began:.1f} s")
        yield cluster
    finally:
        began = time.monotonic()
        cluster.down()
        TIER.said.append(f"down in {time.monotonic() - began:.1f} s")


@pytest.fixture
def slurm(slurm_session: Cluster) -> Iterator[Cluster]:
    """The cluster; after the test its jobs are cancelled and its faults repaired."""
    yield slurm_session
    slurm_session.heal()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    TIER.summarize(terminalreporter)
