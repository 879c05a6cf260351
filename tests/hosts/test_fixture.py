"""What becomes of the tests on hosts where none can be made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
from hosts import packages
pytest_plugins = ["hosts.fixture"]
packages.hindrance = lambda: "only root can make them"
"""
TESTS = """
def test_one(hosts): pass
def test_two(shared_hosts): pass
def test_without(): pass
"""


@pytest.mark.parametrize(
    ("ci", "says"),
    [
        ("", ["2 tests did NOT run", "2 skipped"]),
        ("true", ["no hosts here: only root can make them", "2 errors"]),
    ],
)
def test_they_are_skipped_loudly_or_fail_in_ci(tmp_path, ci, says):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  slow\n  hosts\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "hosts and slow"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "CI": ci},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert [text for text in (*says, "1 deselected") if text not in done.stdout] == [], done.stdout
