"""The fixtures `hosts` and `shared_hosts`, and what pytest says of tests that could not have them.

One set of hosts of each kind serves all tests of a session (of each worker, if there are several). It comes
up with the first test that wants it and goes down at the end, or whenever pytest ends in whatever way.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hosts import packages
from hosts.handle import Hosts
from machines.tier import Tier

# Every fixture builds on that one, so it tells the tests.
TIER = Tier("hosts", fixture="hosts_possible", what="hosts", said=[])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    TIER.mark(items)


@contextmanager
def _session(shared: bool) -> Iterator[Hosts]:
    # Sockets need short paths, hence not under pytest's own temporary folder.
    hosts = Hosts(Path(tempfile.mkdtemp(prefix="hosts-")), shared)
    began = time.monotonic()
    try:
        hosts.up(tied=True)
        TIER.said.append(f"{'shared ' if shared else ''}hosts up in {time.monotonic() - began:.1f} s")
        yield hosts
    finally:
        began = time.monotonic()
        hosts.down()
        TIER.said.append(f"down in {time.monotonic() - began:.1f} s")


@pytest.fixture(scope="session")
def hosts_possible() -> None:
    """Where no hosts can be made the test is skipped, or, in CI, fails."""
    if reason := packages.hindrance():
        TIER.refuse(reason)


@pytest.fixture(scope="session")
def hosts_session(hosts_possible: None) -> Iterator[Hosts]:
    """The hosts of the session, as the tests before have left them; for what several tests share."""
    with _session(shared=False) as hosts:
        yield hosts


@pytest.fixture
def hosts(hosts_session: Hosts) -> Iterator[Hosts]:
    """Three hosts; after the test they are booted anew, with empty disks and without faults."""
    yield hosts_session
    hosts_session.restore()


@pytest.fixture(scope="session")
def shared_hosts_session(hosts_possible: None) -> Iterator[Hosts]:
    with _session(shared=True) as hosts:
        yield hosts


@pytest.fixture
def shared_hosts(shared_hosts_session: Hosts) -> Iterator[Hosts]:
    """Likewise hosts that have checkout, environment and temporary files in common with the controller."""
    yield shared_hosts_session
    shared_hosts_session.restore()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    TIER.summarize(terminalreporter)
