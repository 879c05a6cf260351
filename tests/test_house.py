"""What the house promises about itself: links that lead somewhere, and a lock file that fits."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md"), *ROOT.glob("config/*.md")]
LOCK = (ROOT / "requirements.lock").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    assert [name for name in targets if "://" not in name and not (page.parent / name).exists()] == []


def test_the_readme_lists_every_page():
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in ROOT.glob("docs/*.md") if f"](docs/{page.name})" not in readme] == []


def test_the_lock_file_has_all_that_is_declared_and_only_with_hashes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = set(re.findall(r"^([a-z0-9.-]+)==", LOCK, re.MULTILINE))
    declared = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {re.split(r"[<>=~! ]", name)[0] for name in declared} <= locked
    entries = re.split(r"^(?=\S)", LOCK, flags=re.MULTILINE)
    assert [entry for entry in entries if "==" in entry and "--hash=sha256:" not in entry] == []
    assert "://" not in LOCK


def test_nothing_brings_pandas():
    """Where it is installed, Snakemake imports it at every start to see whether a parameter is a table, which
    takes a third of a second."""
    assert re.search(r"^pandas==", LOCK, re.MULTILINE) is None


def test_make_says_what_it_needs_where_there_is_no_python(tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    command = ["make", "setup", "PYTHONS=python-of-nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "make: Python 3.11 or newer with venv is needed" in done.stderr
    assert not (tmp_path / ".venv").exists()
