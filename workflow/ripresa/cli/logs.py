"""`ripresa logs --tail N`: the last events of a run."""

import argparse
import os
from collections.abc import Iterable
from typing import Any

from ripresa.cli import runs
from ripresa.cli.answers import Answer, local
from ripresa.journal import records
from ripresa.journal.text import printable

_BLOCK = 1 << 16
_PLAIN = ("type", "run_id", "ts", "session", "pid")
_FIRST = ("phase", "phase_name", "target", "scope", "attempt")


def answer(arguments: argparse.Namespace) -> Answer:
    """The last ``--tail`` events, oldest first."""
    run = runs.chosen(arguments)
    events = tail(run.events, arguments.tail)
    document = {"run_id": run.run_id, "file": os.path.abspath(run.events), "events": events}
    return Answer(document, lambda: _text(run.run_id, events))


def tail(path: str, number: int) -> list[dict[str, Any]]:
    """The last readable records of a file, read from its end; none if there is no file."""
    try:
        with open(path, "rb") as file:
            position, data = file.seek(0, os.SEEK_END), b""
            while position:
                length = min(_BLOCK, position)
                position -= length
                file.seek(position)
                data = file.read(length) + data
                if data.count(b"\n") > number and len(_parsed(data, whole=position == 0)) >= number:
                    break
    except (FileNotFoundError, NotADirectoryError):
        return []
    return _parsed(data, whole=position == 0)[-number:]


def _parsed(data: bytes, *, whole: bool) -> list[dict[str, Any]]:
    lines = data.splitlines() if whole else data.splitlines()[1:]
    return [record for line in lines if (record := records.parse(line)) is not None]


def _text(run_id: str, events: list[dict[str, Any]]) -> Iterable[str]:
    if not events:
        yield f"run {run_id} has no events yet"
    for event in events:
        yield f"{local(event.get('ts'))}  {printable(event.get('type')):<20}  {_fields(event)}".rstrip()


def _fields(event: dict[str, Any]) -> str:
    """What an event says beyond when and what, the most telling first."""
    names = [name for name in _FIRST if name in event]
    names += [name for name in event if name not in (*_FIRST, *_PLAIN)]
    return " ".join(f"{name}={_value(event[name])}" for name in names if event[name] is not None)


def _value(value: Any) -> str:
    text = printable(value if isinstance(value, str) else records.dumps(value))
    return repr(text) if isinstance(value, str) and " " in text else text
