"""Append-only files of one JSON object a line, safe with several writers and after a crash."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # a guard that succeeds at once needs neither typing nor json, and they cost it dearly
    from collections.abc import Iterable, Iterator
    from typing import Any

_TAIL = 64 * 1024
_ESCAPES = {code: f"\\u{code:04x}" for code in range(0x20)} | {ord('"'): '\\"', ord("\\"): "\\\\"}


def dumps(value: Any) -> str:
    """One line of JSON, compact and in insertion order.

    Written out here because importing `json` would double the time that a guard takes to start. Not a
    number and infinities become null, and what JSON does not know its text.
    """
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value) if value - value == 0 else "null"
    if isinstance(value, dict):
        return "{" + ",".join(f"{dumps(str(key))}:{dumps(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(dumps, value)) + "]"
    return '"' + str(value).translate(_ESCAPES) + '"'


def encode(value: Any) -> bytes:
    """The bytes of `dumps`. What is not UTF-8 in a file name survives as an escaped lone surrogate."""
    return dumps(value).encode("utf-8", "backslashreplace")


def append(path: str, *added: dict[str, Any], fsync: bool = True) -> None:
    """Add records in one ``O_APPEND`` write, so that writers never mix within a line.

    A torn last line (a crash or a full disk in the middle of a write) is closed first, so that it
    costs itself only. With ``fsync`` the record survives a power cut once this returns.
    Raises OSError when the disk is full; what was written before stays readable.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        data = b"".join(encode(record) + b"\n" for record in added)
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            data = b"\n" + data
        written = os.write(fd, data)
        if written < len(data):
            raise OSError(28, "No space left on device (record written in part)", path)
        if fsync:
            os.fsync(fd)
    finally:
        os.close(fd)


def parse(line: bytes) -> dict[str, Any] | None:
    """The record of one line, or None for a torn, empty or foreign line."""
    from ripresa.journal import jsontext

    try:
        record = jsontext.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def read(path: str) -> list[dict[str, Any]]:
    """All readable records of a file, oldest first; none if there is no file."""
    return list(iterate(path))


def iterate(path: str) -> Iterator[dict[str, Any]]:
    """Yield the readable records of a file, oldest first."""
    try:
        with open(path, "rb") as file:
            for line in file:
                record = parse(line)
                if record is not None:
                    yield record
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return


def last(path: str) -> dict[str, Any] | None:
    """The newest readable record of a file, reading its end only; None if there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        size = os.fstat(fd).st_size
        tail = os.pread(fd, _TAIL, max(0, size - _TAIL))
    except IsADirectoryError:
        return None
    finally:
        os.close(fd)
    for line in reversed(tail.split(b"\n")):
        record = parse(line) if line else None
        if record is not None:
            return record
    return next(iter(read(path)[-1:]), None) if size > _TAIL else None


def write_json(path: str, document: Any) -> None:
    """Replace a small JSON file atomically and durably; one that holds just this already is left alone."""
    text = dumps(document)
    try:
        with open(path, "rb") as file:
            if file.read() == text.encode(errors="backslashreplace"):
                return
    except OSError:
        pass
    replace(path, [text])


def write_lines(path: str, lines: Iterable[dict[str, Any]]) -> None:
    """Replace a file of one JSON object a line atomically and durably."""
    replace(path, (dumps(line) + "\n" for line in lines))


def replace(path: str, parts: Iterable[str]) -> None:
    """Replace a text file: readers see the old or the new whole, also after a crash."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def is_void(path: str) -> bool:
    """Whether a JSON file holds nothing, which is told without reading it: it is missing or just ``{}``."""
    try:
        return os.stat(path).st_size <= len("{}")
    except OSError:
        return True


def read_json(path: str) -> Any:
    """The document of a JSON file, or None if it is missing, torn or not JSON."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    if data == b"{}":
        return {}
    from ripresa.journal import jsontext

    try:
        return jsontext.loads(data.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
