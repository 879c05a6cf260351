"""Tables between phases: named numpy arrays with a JSON document about them, in one `.npz` file.

The same content gives the same bytes, so results can be compared as files.
"""

import json
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import Damaged

_ABOUT = "about"
_CHECKSUM = "crc32"

Arrays = dict[str, NDArray[Any]]


def save(path: str, about: dict[str, Any], **arrays: NDArray[Any]) -> None:
    """Write ``arrays`` and the JSON document ``about`` to ``path``, whatever its suffix."""
    text = json.dumps(about, sort_keys=True, allow_nan=False).encode()
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **{_ABOUT: np.frombuffer(text, np.uint8)}, **arrays)


def load(path: str, *names: str) -> tuple[dict[str, Any], Arrays]:
    """The document and the arrays of a table (only those in ``names``, if any are given).

    Raises OSError if there is no such file, Damaged if it is not as it was written (each array has a
    checksum).
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(bytes(file[_ABOUT]))
            wanted = names or [name for name in file.files if name != _ABOUT]
            return about, {name: file[name] for name in wanted}
    except (ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise Damaged(path, str(error) or type(error).__name__) from None


def write_json(path: str, document: dict[str, Any]) -> None:
    """Write a JSON document between phases; it carries a checksum of itself."""
    text = json.dumps(document | {_CHECKSUM: _checksum(document)}, indent=1, allow_nan=False)
    with open(path, "w", encoding="ascii") as file:
        file.write(text + "\n")


def read_json(path: str) -> dict[str, Any]:
    """The document that `write_json` wrote. Raises OSError if there is none, Damaged if it is another."""
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read())
        given = document.pop(_CHECKSUM, None)
    except (ValueError, AttributeError) as error:
        raise Damaged(path, str(error)) from None
    if given != _checksum(document):
        raise Damaged(path, "its checksum is another")
    return document


def _checksum(document: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(document, sort_keys=True, allow_nan=False).encode())


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
