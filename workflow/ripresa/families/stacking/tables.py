"""Tables between phases: named numpy arrays with a JSON document about them, in one `.npz` file.

The same content gives the same bytes, so results can be compared as files.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ABOUT = "about"

Arrays = dict[str, NDArray[Any]]


def save(path: str, about: dict[str, Any], **arrays: NDArray[Any]) -> None:
    """Write ``arrays`` and the JSON document ``about`` to ``path``, whatever its suffix."""
    text = json.dumps(about, sort_keys=True, allow_nan=False).encode()
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **{_ABOUT: np.frombuffer(text, np.uint8)}, **arrays)


def load(path: str, *names: str) -> tuple[dict[str, Any], Arrays]:
    """The document and the arrays of a table (only those in ``names``, if any are given).

    Raises ValueError, OSError or KeyError if the file is no such table.
    """
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(bytes(file[_ABOUT]))
        wanted = names or [name for name in file.files if name != _ABOUT]
        return about, {name: file[name] for name in wanted}


def gather(paths: Iterable[str], *names: str) -> tuple[list[dict[str, Any]], Arrays]:
    """The frames of several tables as one: ``about["frames"]`` and every array joined along its first axis,
    sorted by the frames' names, so that neither the number nor the order of the tables can be seen."""
    frames: list[dict[str, Any]] = []
    parts: list[Arrays] = []
    for path in paths:
        about, arrays = load(path, *names)
        frames += about["frames"]
        parts.append(arrays)
    order = sorted(range(len(frames)), key=lambda i: frames[i]["name"])
    joined = {
        name: np.concatenate([part[name] for part in parts])[order] for name in (parts[0] if parts else {})
    }
    return [frames[i] for i in order], joined
