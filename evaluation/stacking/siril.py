"""Stacks by Siril, for comparison: its global star alignment and its winsorized stack with `addscale`."""

import re
import resource
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stacking.memory import Watch

PROGRAM = "siril-cli"
SCRIPT = """requires 1.0.0
setext fits
{gather}
register light
stack r_light rej w 3 3 -norm=addscale -out=result
"""
MISSING = "MISSING: no siril-cli (Debian: apt-get install siril-cli), so the comparison with it is not shown"


def available() -> bool:
    """Whether Siril can be called."""
    return shutil.which(PROGRAM) is not None


@dataclass(frozen=True)
class Run:
    """What one run of Siril came to."""

    image: NDArray[np.float64] | None
    """[C, H, W] as in the file; None if there is no stack."""
    seconds: float
    register_s: float
    stack_s: float
    cpu_s: float
    memory_mb: float
    registered: int
    failed: int
    said: str


def stack(frames: list[Path], *, colour: bool = False) -> Run:
    """Stack frames in a directory of its own, to which they are linked; ``colour`` debayers them first."""
    from astropy.io import fits

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, frame in enumerate(frames):
            # A plain name, because Siril goes by the order and takes only some suffixes.
            (folder / f"frame_{number + 1:05d}.fits").symlink_to(frame.resolve())
        script = folder / "script.ssf"
        script.write_text(SCRIPT.format(gather="convert light -debayer" if colour else "link light"))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begin = time.perf_counter()
        with (
            subprocess.Popen(
                [PROGRAM, "-d", name, "-s", str(script)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            ) as process,
            Watch(process.pid) as watch,
        ):
            said = process.communicate()[0].decode(errors="replace")
        seconds = time.perf_counter() - begin
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times = [_seconds(text) for text in re.findall(r"Execution time: ([^\n]*)", said)]
        counts = re.findall(r"Total: (\d+) failed, (\d+) registered", said)
        failed, registered = map(int, counts[-1]) if counts else (len(frames), 0)
        result = folder / "result.fits"
        image = fits.getdata(result).astype(float) if result.exists() else None
        if image is not None and image.ndim == 2:
            image = image[None]
        return Run(
            image,
            seconds,
            times[0] if times else float("nan"),
            times[-1] if len(times) > 1 else float("nan"),
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            watch.largest[0],
            registered,
            failed,
            said,
        )


def _seconds(text: str) -> float:
    """The seconds of `1 min 2.3 s` or `3.4 s`."""
    parts = {unit: float(value) for value, unit in re.findall(r"([\d.]+) ?(min|ms|s)\b", text)}
    return 60 * parts.get("min", 0) + parts.get("s", 0) + parts.get("ms", 0) / 1000
