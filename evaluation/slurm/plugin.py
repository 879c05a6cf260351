"""The official executor plugin for SLURM, in an environment of its own, as something to compare with."""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

VERSION = "2.8.0"
# The fastest that it can be told to be: no wait before the first status check, no query for accounts and
# partitions at every job, every job at once. Its arrays are another matter, see `ARRAYS`.
FASTEST = (
    "--executor", "slurm", "--jobs", "5000", "--max-jobs-per-timespan", "1000/1s", "--latency-wait", "5",
    "--slurm-init-seconds-before-status-checks", "1", "--slurm-no-account",
    "--default-resources", "slurm_partition=cpu", "mem_mb=400", "runtime=10",
    "--workflow-profile", "none", "--rerun-incomplete",
)  # fmt: skip
ARRAYS = ("--slurm-array-jobs", "all")


def environment() -> Path:
    """The folder of a virtual environment with the plugin and this project's version of Snakemake.

    It is made in a minute with pip, and kept in the folder for temporary files for the next time.
    """
    snakemake = version("snakemake")
    folder = Path(tempfile.gettempdir()) / f"snakemake-{snakemake}-with-slurm-plugin-{VERSION}"
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing the plugin into {folder}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    wanted = [f"snakemake=={snakemake}", f"snakemake-executor-plugin-slurm=={VERSION}"]
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    subprocess.run([*pip, *wanted], check=True)
    # Compiled beforehand, as ours are, or the first jobs would be slower than all others.
    subprocess.run([folder / "bin/snakemake", "--version"], check=True, stdout=subprocess.DEVNULL)
    (folder / "complete").touch()
    return folder


def command(*options: str) -> list[str]:
    """The call of snakemake that has the plugin run a campaign."""
    return [str(environment() / "bin/snakemake"), *FASTEST, *options]


def surroundings(given: dict[str, str]) -> dict[str, str]:
    """The environment variables of such a call: as if this project's own environment were not there."""
    own = str(Path(sys.executable).parent)
    path = [folder for folder in given["PATH"].split(os.pathsep) if folder != own]
    kept = {name: value for name, value in given.items() if not name.startswith(("RIPRESA_", "PYTHON"))}
    return kept | {"PATH": os.pathsep.join([str(environment() / "bin"), *path])}
