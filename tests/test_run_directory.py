"""What stands in the place of a run's files is said in one line by the real Snakefile, and left as it is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("runs", "runs is not a directory"),
        ("runs/demo", "runs/demo is not a directory"),
        ("runs/demo/journal", "cannot write to runs/demo: "),
    ],
)
def test_a_file_in_the_place_of_a_directory(tmp_path, place, words):
    for name in ("config", "profiles", "rules", "workflow"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "Snakefile", tmp_path)
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("mine\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RIPRESA_")}
    command = [sys.executable, "-m", "snakemake"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / place).read_text() == "mine\n"
