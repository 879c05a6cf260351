"""What becomes of the tests on a cluster where none can run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Two tests that want the cluster, of which none says so by a marker, on a machine that cannot have one; and a
# test whose fixture of the same name is its own.
CONFTEST = """
from cluster import packages
pytest_plugins = ["cluster.fixture"]
packages.hindrance = lambda: "only root can start one"
"""
TESTS = """
def test_one(slurm): pass
def test_two(slurm_session): pass
def test_without(): pass
"""


OWN = """
import pytest
@pytest.fixture
def slurm(): return None
def test_with_its_own(slurm): pass
"""


@pytest.fixture
def session(tmp_path):
    """Run pytest over those tests; returns the ended process."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "test_own.py").write_text(OWN)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  slow\n  slurm\n")

    def run(*arguments: str, ci: str = "") -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "CI": ci}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    return run


def test_they_are_skipped_and_it_is_said_that_they_did_not_run(session):
    done = session("-m", "slurm")
    assert done.returncode == 0, done.stdout
    assert "NOT RUN: tests on a real SLURM cluster" in done.stdout
    assert "2 tests did NOT run and say nothing: only root can start one\n" in done.stdout
    assert "2 skipped, 2 deselected" in done.stdout


def test_in_ci_they_fail(session):
    done = session(ci="true")
    assert done.returncode == 1
    assert "no SLURM cluster here: only root can start one" in done.stdout
    assert "2 passed, 2 errors" in done.stdout


def test_they_belong_to_the_slow_tier_without_saying_so(session):
    assert "2 passed, 2 deselected" in session("-m", "not slow").stdout
