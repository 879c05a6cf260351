"""Stacks of ours, by whole `snakemake` calls in directories of their own."""

import csv
import json
import os
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stacking.memory import Watch, size
from stacking.workspace import Workspace


@dataclass(frozen=True)
class Run:
    """What one stack came to."""

    image: NDArray[np.float64]
    """[C, H, W]."""
    reference: str
    frames: list[dict[str, str]]
    """The rows of `frames.csv`."""
    seconds: float
    """Of the whole call."""
    cpu_s: float
    """Of all its processes; it hardly depends on what else the machine does."""
    memory_mb: float
    largest: str
    """The command line of the process with the most memory."""
    disk: int
    """Bytes of the run directory."""
    results: Path

    @property
    def registered(self) -> list[str]:
        """The names of the frames in the stack."""
        return [row["name"] for row in self.frames if row["to_frame_xx"]]

    def transforms(self) -> dict[str, list[list[float]]]:
        """The 2x3 matrix from the reference to each registered frame, by name."""
        names = [[f"to_frame_{row}{column}" for column in "xy0"] for row in "xy"]
        return {
            row["name"]: [[float(row[name]) for name in line] for line in names]
            for row in self.frames
            if row["to_frame_xx"]
        }


def stack(directory: Path, settings: Mapping[str, Any], cores: int | None = None) -> Run:
    """Stack with these settings of the section `stacking`; SystemExit if snakemake fails."""
    from astropy.io import fits

    space = Workspace(directory, settings)
    os.sync()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    process = space.start(*(["--cores", str(cores)] if cores else []))
    with Watch(process.pid) as watch:
        said = process.communicate()[0]
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(f"snakemake failed in {directory}:\n{said[-6000:]}")
    outputs = space.stacking / "outputs"
    with fits.open(outputs / "stacked.fit") as file:
        image = np.asarray(file[0].data, float)
    with (outputs / "frames.csv").open() as table:
        frames = list(csv.DictReader(table))
    reference = next(row["name"] for row in frames if row["method"] == "reference")
    memory, line = watch.largest
    return Run(
        image if image.ndim == 3 else image[None],
        reference,
        frames,
        seconds,
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        memory,
        line,
        size(space.run),
        outputs,
    )


def validation(run: Run) -> dict[str, Any]:
    """The report `validation.json`."""
    return dict(json.loads((run.results / "validation.json").read_text()))
