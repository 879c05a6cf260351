"""The example of docs/new-family.md, taken from the page and run as it stands on a copy of the checkout."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ripresa.dsl import sweep

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "new-family.md").read_text()


def block(heading: str) -> str:
    """The code block that follows a line of the page."""
    found = re.search(rf"^{re.escape(heading)}\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/new-family.md has no code block after {heading!r}"
    return found.group(1)


FILES = ("config/hashes.yaml", "config/config.yaml", "workflow/scripts/hash_speed.py", "rules/hashes.smk")


@pytest.fixture
def checkout(tmp_path):
    """What git has of this checkout, with the files of the page in it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    for name in FILES:
        (tmp_path / name).write_text(block(f"`{name}`:"))
    return tmp_path


def call(command: str, checkout: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RIPRESA_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["PYTHONPATH"] = f"{checkout}/workflow{os.pathsep}{checkout}/workflow/plugins"
    done = subprocess.run(
        shlex.split(command), cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_rule_file_is_short():
    assert len(block("`rules/hashes.smk`:").splitlines()) <= 15


def test_the_family_of_the_page_runs(checkout):
    run = checkout / "runs" / "hashes"
    for line in block("## Running it").splitlines():
        call(line.removeprefix("$ "), checkout)

    import yaml

    wanted = {
        f"hashes/{point['algorithm']}/{point['block_kb']}.json": point
        for point in sweep(yaml.safe_load(block("`config/hashes.yaml`:"))["sweep"])
    }
    assert len(wanted) == 8
    for target, point in wanted.items():
        result = json.loads((run / target).read_text())
        assert result.pop("mb_per_s") > 0
        assert result == point

    status = json.loads(call("ripresa status --json", checkout))
    units = [unit for unit in status["units"] if unit["family"] == "hashes"]
    assert {unit["target"]: unit["state"] for unit in units} == dict.fromkeys(wanted, "COMPLETED")
    assert {(unit["rule"], unit["attempts"]) for unit in units} == {("hash_speed", 1)}

    # The same value written differently changes nothing; new values concern their own units only.
    before = {target: (run / target).stat().st_mtime_ns for target in wanted}
    config = checkout / "config" / "hashes.yaml"
    for old, new, files in (("0.05", "5.0e-2", 8), ("[1, 64, 1024]", "[1, 64, 1024, 2]", 11)):
        config.write_text(config.read_text().replace(old, new))
        call("snakemake HASHES", checkout)
        assert len(list(run.glob("hashes/*/*.json"))) == files
        assert {target: (run / target).stat().st_mtime_ns for target in wanted} == before
