"""The evaluation commands in a short form, so that what they promise is checked with every change."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from cluster import Cluster

ROOT = Path(__file__).parents[1]
SMALL_STACK = ["--frames", "10", "--width", "300", "--height", "200"]
SHORT = {
    "availability": ["--kills", "5"],
    "bad_input": [],
    "collector_cost": ["--short"],
    "device_leases": ["--cycles", "500"],
    "experiments/poisoning": [],
    "experiments/resume": ["--short"],
    "experiments/speed": ["--rounds", "5"],
    "experiments/sweep": ["--rounds", "1", "--slack", "2"],
    "guard_cost": ["--units", "200", "--rounds", "1"],
    "kill_storm": ["--units", "150", "--kills", "12"],
    # The quality and speed of stacks need many large frames and Siril: stacking_quality.py, stacking_real.py
    # and stacking_speed.py are for the hand.
    "stacking_faults": [*SMALL_STACK, "--mode", "full", "--every", "14"],
    # The machine does other things beside the tests, so these get more time than they need alone.
    "stacking_restart": [*SMALL_STACK, "--reduced-frames", "10", "--every", "10", "--limit", "10"],
    "state": ["--goal", "1.5"],
    "waiting": ["--rounds", "1"],
}
TIMED = {"availability", "collector_cost", "experiments/speed", "guard_cost", "state", "waiting"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.quiet] if name in TIMED else []) for name in SHORT]
)
def test_an_evaluation_meets_its_goal(name: str) -> None:
    if name == "experiments/speed" and find_spec("torch") is None:
        pytest.skip("PyTorch, with which it compares, is not installed")
    command = [sys.executable, ROOT / "evaluation" / f"{name}.py", *SHORT[name]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.quiet
def test_throughput_on_slurm_meets_its_goal(slurm: Cluster) -> None:
    """Beside the plain array; the official plugin takes minutes, and is for the hand."""
    script = ROOT / "evaluation/slurm/throughput.py"
    command = [sys.executable, script, "--plugin-jobs=0", "--state", slurm.state]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_every_evaluation_says_what_it_measures() -> None:
    for path in [
        *ROOT.glob("evaluation/*.py"),
        *(path.parent for path in ROOT.glob("evaluation/*/__main__.py")),
        *(
            path
            for folder in ("experiments", "slurm", "hosts")
            for path in ROOT.glob(f"evaluation/{folder}/*.py")
            if "parse_args()" in path.read_text()
        ),
    ]:
        done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{path.name}: {done.stderr}"
        assert "usage" in done.stdout
