"""Stacks in a directory of their own, run by real snakemake calls: what the evaluations of stacking share."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RUN = "stack"
CALL = [sys.executable, "-m", "snakemake", "--rerun-incomplete"]
PHASES = {
    "SCAN_INPUT": ["scan"],
    "REGISTRATION": ["registration"],
    "CHANNEL_SPLIT": ["registered"],
    "NORMALIZATION": ["normalization.npz"],
    "GLOBAL_METRICS": ["global_metrics.npz"],
    "TILE_GRID": ["tile_grid.json"],
    "LOCAL_METRICS": ["local_metrics.npz"],
    "TILE_RECONSTRUCTION": ["reconstruction"],
    "STATE_CLUSTERING": ["clusters.json"],
    "SYNTHETIC_FRAMES": ["synthetic"],
    "STACKING": ["outputs"],
}
"""The phases with what each leaves under stacking/."""


class Workspace:
    """A campaign of one stack: this checkout's rules and profiles with a configuration of its own."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], **recovery: Any) -> None:
        self.directory = directory
        self.run = directory / "runs" / RUN
        self.stacking = self.run / "stacking"
        (directory / "config").mkdir(parents=True, exist_ok=True)
        for name in ("Snakefile", "rules", "workflow", "profiles"):
            if not (directory / name).exists():
                (directory / name).symlink_to(ROOT / name)
        write = {
            "config": {"run_id": RUN, "families": ["stacking"]},
            "stacking": settings,
            "recovery": recovery,
        }
        for name, content in write.items():
            (directory / "config" / f"{name}.yaml").write_text(json.dumps(content))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start snakemake in a session of its own."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RIPRESA_")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        return subprocess.Popen(
            [*CALL, *arguments],
            cwd=self.directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def call(self, *arguments: str) -> tuple[int, str]:
        """Call snakemake; returns its exit code and what it said."""
        process = self.start(*arguments)
        said = process.communicate()[0]
        return process.returncode, said

    def finish(self, *arguments: str) -> float:
        """Call snakemake, which must end well; returns the seconds it took."""
        begin = time.monotonic()
        code, said = self.call(*arguments)
        if code:
            raise SystemExit(f"snakemake {' '.join(arguments)} failed in {self.directory}:\n{said[-6000:]}")
        return time.monotonic() - begin

    def files(self, phase: str) -> list[Path]:
        """What a phase has left."""
        roots = [self.stacking / name for name in PHASES[phase]]
        return sorted(
            path
            for root in roots
            for path in (root.rglob("*") if root.is_dir() else [root])
            if path.is_file() and "plots" not in path.parts
        )

    def written(self) -> dict[str, dict[str, int]]:
        """When each file was written (ns), by phase."""
        return {
            phase: {
                str(path.relative_to(self.stacking)): path.stat().st_mtime_ns for path in self.files(phase)
            }
            for phase in PHASES
        }

    def results(self) -> dict[str, bytes]:
        """The bytes of everything in stacking/outputs."""
        root = self.stacking / "outputs"
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }
