"""What the evaluations share: single experiments, and campaigns of them by real snakemake calls."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ripresa.configuration.schema import load
from ripresa.families.experiments.running import run

ROOT = Path(__file__).parents[2]
RUN = "study"
CALL = [sys.executable, "-m", "snakemake", "--rerun-incomplete", "--cores", "2"]


def section(**given: Any) -> dict[str, Any]:
    """An `experiments` section with all defaults."""
    filled: dict[str, Any] = load(ROOT / "workflow/schemas/experiments.schema.json").filled(given)
    return filled


def computed(parameters: Mapping[str, Any], backend: str = "numpy") -> dict[str, Any]:
    """The result of one experiment, computed in this process."""
    with tempfile.TemporaryDirectory() as folder:
        return run(parameters, f"{folder}/result.json", folder, backend=backend)


class Workspace:
    """A campaign of experiments: this checkout's rules and profiles with a configuration of its own."""

    def __init__(self, directory: Path, experiments: Mapping[str, Any], **recovery: Any) -> None:
        self.directory = directory
        self.run = directory / "runs" / RUN
        (directory / "config").mkdir(parents=True)
        for name in ("Snakefile", "rules", "workflow", "profiles"):
            (directory / name).symlink_to(ROOT / name)
        write = {
            "config": {"run_id": RUN, "families": ["experiments"]},
            "experiments": experiments,
            "recovery": recovery,
        }
        for name, content in write.items():
            (directory / "config" / f"{name}.yaml").write_text(json.dumps(content))

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start snakemake in a session of its own."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RIPRESA_")}
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)
        return subprocess.Popen(
            [*CALL, *arguments],
            cwd=self.directory,
            env=inherited | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, *arguments: str, **environment: str) -> None:
        """Call snakemake, which must end well."""
        process = self.start(*arguments, **environment)
        said = process.communicate()[0]
        if process.returncode:
            raise SystemExit(f"snakemake {' '.join(arguments)} failed in {self.directory}:\n{said[-6000:]}")
