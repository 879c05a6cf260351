"""The fixtures `slurm` and `slurm_session`, and what pytest says of tests that could not have them.

One cluster serves all tests of a session (of each worker, if there are several; these tests are meant to run
in one process). It comes up with the first test that wants it and goes down at the end.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import packages
from cluster.handle import Cluster

ABSENT = "no SLURM cluster here: "
_said: list[str] = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses the cluster, so that a forgotten marker brings it into no other tier."""
    for item in items:
        # Not by `slurm`, for a test file may have a fixture of that name for something else.
        if "slurm_session" in getattr(item, "fixturenames", ()) or item.get_closest_marker("slurm"):
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def slurm_session() -> Iterator[Cluster]:
    """The cluster of the session, as the tests before have left it; for what several tests share.

    Where none can run the test is skipped, or, in CI, fails.
    """
    if reason := packages.hindrance():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(ABSENT + reason)
    # Sockets need short paths, hence not under pytest's own temporary folder.
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="slurm-")))
    began = time.monotonic()
    try:
        cluster.up()
        _said.append(f"SLURM cluster up in {time.monotonic() - began:.1f} s")
        yield cluster
    finally:
        began = time.monotonic()
        cluster.down()
        _said.append(f"down in {time.monotonic() - began:.1f} s")


@pytest.fixture
def slurm(slurm_session: Cluster) -> Iterator[Cluster]:
    """The cluster; after the test its jobs are cancelled and its faults repaired."""
    yield slurm_session
    slurm_session.heal()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly which tests did not run, for nobody reads a count of skipped ones."""
    skipped = [report for report in terminalreporter.getreports("skipped") if ABSENT in str(report.longrepr)]
    if skipped:
        reason = str(skipped[0].longrepr).partition(ABSENT)[2].rstrip("')")
        terminalreporter.section("NOT RUN: tests on a real SLURM cluster", red=True, bold=True)
        terminalreporter.write_line(
            f"{len(skipped)} tests did NOT run and say nothing: {reason}", red=True, bold=True
        )
    elif _said:
        terminalreporter.write_line(", ".join(_said))
