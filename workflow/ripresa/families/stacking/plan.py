"""What the rules have to know before anything runs: the frames, and which chunk each belongs to.

Stdlib only, and nothing but names is looked at: it runs at every call.
"""

import glob
import json
import os
import re
from typing import Any

from ripresa.families.stacking import StackingError
from ripresa.families.stacking.discovery import calibration_files, lights
from ripresa.families.stacking.phases import PHASES

_ITEM = re.compile(r"(\d+)-of-(\d+)\.json")


def plan(settings: dict[str, Any], run: str, cores: int, chunks: int | None = None) -> dict[str, Any]:
    """The plan of a stack in the run directory ``run``.

    Returns {"phases": [name, ...], "chunks": n, "frames": {"1-of-n": [[name, path], ...], ...},
    "simulated": [path, ...], "calibration": [path, ...]}. The number of chunks is ``chunks``, else the
    configured one, else the one that the run has already, else one per core: to go on with other cores
    repeats nothing. A frame that was scanned stays in its chunk; a new one joins the smallest.

    Raises StackingError if there are too few frames.
    """
    directory = f"{run}/stacking"
    simulated = []
    if settings.get("simulate"):
        count = settings["simulate"]["frames"]
        simulated = [f"{directory}/simulated/light_{n + 1:04d}.fits" for n in range(count)]
    frames = [(os.path.basename(path), path) for path in simulated] or lights(settings)
    check_number(len(frames), settings["mode"], "light frames were found")
    count = chunks or settings["chunks"] or _present(directory) or cores
    return {
        "phases": PHASES,
        "chunks": count,
        "frames": _divided(frames, count, directory),
        "simulated": simulated,
        "calibration": calibration_files(settings),
    }


def check_number(frames: int, mode: dict[str, Any], what: str) -> None:
    """Refuse to stack too few frames."""
    if frames < mode["minimum_frames"] and not mode["allow_few"]:
        raise StackingError(
            f"only {frames} {what}, and stacking.mode.minimum_frames is {mode['minimum_frames']}; add frames "
            "or set stacking.mode.allow_few: true"
        )


def _present(directory: str) -> int | None:
    """Into how many chunks the run is divided already; None if it is not, or not clearly."""
    found = {
        int(item[2])
        for path in glob.glob(f"{directory}/scan/*.json")
        if (item := _ITEM.fullmatch(os.path.basename(path)))
    }
    return found.pop() if len(found) == 1 else None


def _divided(frames: list[tuple[str, str]], count: int, directory: str) -> dict[str, list[tuple[str, str]]]:
    items = [f"{number}-of-{count}" for number in range(1, count + 1)]
    known = {name: item for item in items for name in _scanned(f"{directory}/scan/{item}.json")}
    chunks: dict[str, list[tuple[str, str]]] = {item: [] for item in items}
    new = []
    for name, path in sorted(frames):
        if name in known:
            chunks[known[name]].append((name, path))
        else:
            new.append((name, path))
    for frame in new:
        min(chunks.values(), key=len).append(frame)
    return {item: sorted(chunk) for item, chunk in chunks.items()}


def _scanned(manifest: str) -> list[str]:
    """The frames of a chunk that was scanned; none if it was not, or its manifest is damaged."""
    try:
        with open(manifest, "rb") as file:
            return [frame["name"] for frame in json.load(file)["frames"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
