"""Short campaigns on hosts under the faults that matter most, by the evaluation that has all of them."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluation" / "hosts"))

from faults import FAULTS, run

ESSENTIAL = (
    "controller killed",
    "controller and relay killed",
    "Ctrl-C",
    "connections cut",
    "power-cycled",
    "sudo with a vaulted password",
    "disk full here for 5 s",
    "command changed",
)


@pytest.fixture
def folder():
    """One whose path is short enough for sockets."""
    made = Path(tempfile.mkdtemp(prefix="faults-", dir="/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("name", ESSENTIAL)
def test_a_campaign_comes_to_its_end(hosts, folder, name):
    (fault,) = (one for one in FAULTS if one.name == name)
    row = run(hosts, folder, fault, repetitions=1)
    assert not row.problems
    assert row.right == row.units
