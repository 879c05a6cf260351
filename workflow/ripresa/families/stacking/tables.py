"""Tables between phases: named numpy arrays with a JSON document about them, in one `.npz` file.

The same content gives the same bytes, so results can be compared as files.
"""

import contextlib
import json
import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ripresa.families.stacking import Damaged, StackingError

_ABOUT = "about"
_ARRAYS = "arrays"
_CHECKSUM = "crc32"
_PIECE = 1 << 20  # bytes

Arrays = dict[str, NDArray[Any]]


def save(path: str, about: dict[str, Any], **arrays: NDArray[Any]) -> None:
    """Write ``arrays`` and the JSON document ``about`` to ``path``, whatever its suffix."""
    text = json.dumps(about | {_ARRAYS: sorted(arrays)}, sort_keys=True, allow_nan=False).encode()
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **{_ABOUT: np.frombuffer(text, np.uint8)}, **arrays)


def load(path: str, *names: str) -> tuple[dict[str, Any], Arrays]:
    """The document and the arrays of a table (only those in ``names``, if any are given).

    Raises OSError if there is no such file, Damaged if it is not as it was written (each array has a
    checksum).
    """
    with opened(path) as archive:
        about = json.loads(_array(archive, _ABOUT).tobytes())
        arrays = about.pop(_ARRAYS)
        if len(archive.namelist()) != len(arrays) + 1:
            raise ValueError("an array is missing")
        return about, {name: _array(archive, name) for name in names or arrays}


@contextlib.contextmanager
def opened(path: str) -> Iterator[zipfile.ZipFile]:
    """The archive that a table is; whatever reading it comes upon means that it is damaged.

    Damaged bytes may lead anywhere in the libraries that read them: to wrong sizes, methods, passwords.
    """
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except (StackingError, MemoryError):
            raise
        except Exception as error:
            raise Damaged(path, str(error) or type(error).__name__) from None


def pieces(archive: zipfile.ZipFile, name: str, size: int = _PIECE) -> Iterator[NDArray[Any]]:
    """An array of an archive, some of its first axis at a time: about ``size`` bytes.

    The checksum is compared at its end. Raises ValueError if it is another; see `opened`.
    """
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        shape, fortran, dtype = _header(file)
        whole = math.prod(shape) * dtype.itemsize
        if fortran or file.tell() + whole != info.file_size:
            raise ValueError(f"the shape of {name} is another")
        row = whole // shape[0] if shape and shape[0] else 0
        count = max(1, size // max(row, 1))
        for at in range(0, shape[0] if shape else 1, count):
            part = (min(count, shape[0] - at), *shape[1:]) if shape else ()
            values = np.empty(part, dtype)
            _fill(file, values)
            yield values
        if file.read(1):  # the checksum is looked at when nothing is left
            raise ValueError(f"{name} is longer than it was")


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """The whole of an array of an archive."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        shape, fortran, dtype = _header(file)
        if file.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
            raise ValueError(f"the shape of {name} is another")
        values = np.empty(shape[::-1] if fortran else shape, dtype)
        _fill(file, values)
        if file.read(1):  # the checksum is looked at when nothing is left
            raise ValueError(f"{name} is longer than it was")
    return values.T if fortran else values


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    return shape, fortran, dtype


def _fill(file: IO[bytes], values: NDArray[Any]) -> None:
    data = values.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(data):
        piece = file.read(min(_PIECE, len(data) - done))
        if not piece:
            raise EOFError("it ends too early")
        data[done : done + len(piece)] = piece
        done += len(piece)


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
        found = _checksum(document)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise Damaged(path, str(error)) from None
    if given != found:
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
