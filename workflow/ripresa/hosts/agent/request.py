"""The request of a call: one line of JSON, checked whole before anything of it is done."""

from __future__ import annotations

from ripresa.journal import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Check = Callable[[Any], bool]

_HEX = frozenset("0123456789abcdef")
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class Request:
    """What a controller asks for: operations of a run, then units to follow for up to ``wait_s`` s."""

    def __init__(
        self,
        run: str,
        operations: list[dict[str, Any]],
        follow: dict[str, str],
        wait_s: float,
        door: str | None,
    ) -> None:
        self.run = run
        self.operations = operations
        self.follow = follow
        self.wait_s = wait_s
        self.door = door


def parse(line: bytes) -> Request:
    """The request of a line; raises ValueError that says what cannot be understood."""
    try:
        told = jsontext.loads(line.decode())
    except (ValueError, RecursionError):
        raise ValueError("the request is no line of JSON") from None
    if not isinstance(told, dict):
        raise ValueError("the request is no JSON object")
    run, operations = told.get("run"), told.get("do", [])
    follow, wait_s, door = told.get("follow", {}), told.get("wait_s", 0), told.get("door")
    if not isinstance(run, str) or not _is_name(run):
        raise ValueError(f"the run has no usable name: {run!r}")
    if not isinstance(operations, list):
        raise ValueError("'do' is no list")
    for operation in operations:
        _check(operation)
    if not _is_table(follow) or not all(map(_is_key, follow)):
        raise ValueError("'follow' is no table of units and tokens")
    if not _is_amount(wait_s):
        raise ValueError(f"'wait_s' is no number of seconds: {wait_s!r}")
    if door is not None and not _is_key(door):
        raise ValueError(f"'door' is no name of 24 hex digits: {door!r:.100}")
    return Request(run, operations, follow, wait_s, door)


def _check(operation: Any) -> None:
    name = operation.get("op") if isinstance(operation, dict) else None
    fields = _FIELDS.get(name) if isinstance(name, str) else None
    if fields is None:
        raise ValueError(f"no operation of this agent: {name!r}")
    for field, check in fields.items():
        if not check(operation.get(field)):
            raise ValueError(f"'{field}' of operation '{name}' cannot be used: {operation.get(field)!r:.100}")
    if name == "start":
        _check_start(operation)


def _check_start(operation: dict[str, Any]) -> None:
    """Paths within a work folder must stay in it; in a shared directory they may lead anywhere."""
    if operation["directory"] is not None:
        return
    paths = [*operation["folders"], *operation["outputs"], *operation["logs"]]
    paths += [one["path"] for one in operation["inputs"]]
    for path in paths:
        if not path or path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise ValueError(f"no path within a work folder: {path!r:.100}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_optional_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200 and value[0] != "." and set(value) <= _NAME


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 24 and set(value) <= _HEX


def _is_sum(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= _HEX


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _is_limit(value: Any) -> bool:
    return value is None or _is_amount(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_inputs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and _is_text(one.get("path"))
        and _is_sum(one.get("sha256"))
        and _is_count(one.get("mode"))
        for one in value
    )


def _is_limits(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_limit(value.get("wall_s"))
        and _is_limit(value.get("stall_s"))
        and _is_text(value.get("stall_source"))
        and _is_amount(value.get("grace_s"))
        and _is_amount(value.get("beat_s"))
        and value["beat_s"] > 0
    )


def _is_directory(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.startswith("/"))


def _is_what(value: Any) -> bool:
    return value in ("outputs", "log")


_UNIT: dict[str, Check] = {"key": _is_key, "token": _is_text}
_FIELDS: dict[str, dict[str, Check]] = {
    "hello": {},
    "have": {"files": lambda value: isinstance(value, list) and all(map(_is_sum, value))},
    "put": {"sha256": _is_sum, "offset": _is_count, "size": _is_count, "total": _is_count},
    "start": {
        **_UNIT,
        "target": _is_text,
        "attempt": _is_count,
        "session": _is_text,
        "digest": _is_text,
        "command": _is_text,
        "environment": _is_table,
        "directory": _is_directory,
        "inputs": _is_inputs,
        "folders": _is_texts,
        "outputs": _is_texts,
        "logs": _is_texts,
        "limits": _is_limits,
        "progress": _is_optional_text,
        "measure": _is_flag,
    },
    "cancel": _UNIT,
    "fetch": {**_UNIT, "what": _is_what, "offset": _is_count, "length": _is_count},
    "forget": {**_UNIT, "keep": _is_flag},
    "list": {},
    "ring": {"door": _is_key},
    "clean": {"kill": _is_flag},
    "end": {"targets": _is_text},
}
