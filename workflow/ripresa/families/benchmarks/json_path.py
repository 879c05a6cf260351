"""Paths into a JSON document: `jobs[jobname=random_read].read."50.000000"`.

A path is keys separated by dots; a key that has a dot, a bracket, a quote or = in it stands in double
quotes. After a key, or first, `[2]` takes an element of a list (`[-1]` the last), `[*]` all of them, and
`[key=value]` those mappings that have this value, compared as JSON writes it (text without its quotes).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_STEP = re.compile(
    r'\.?(?:"(?P<quoted>[^"]+)"|(?P<key>[^.\[\]"=]+))|\[(?:(?P<index>-?\d+)|(?P<all>\*)|(?P<where>[^\]=]+=[^\]]*))\]'
)


def find(document: Any, path: str) -> list[Any]:
    """The values at a path, in the order of the document; none where nothing is there.

    ValueError for what is no path.
    """
    found = [document]
    for step in _steps(path):
        found = [value for one in found for value in _taken(one, step)]
    return found


def _steps(path: str) -> Iterator[re.Match[str]]:
    at = 0
    while at < len(path):
        step = _STEP.match(path, at)
        # Between keys stands a dot, and only there.
        if not step or (step[0][0] == "." if at == 0 else step[0][0] not in ".["):
            raise ValueError(f"{path!r} is no path: what is meant by {path[at:]!r}?")
        yield step
        at = step.end()


def _taken(value: Any, step: re.Match[str]) -> list[Any]:
    key = step["quoted"] or step["key"]
    if key:
        return [value[key]] if isinstance(value, dict) and key in value else []
    if not isinstance(value, list):
        return []
    if step["index"]:
        index = int(step["index"])
        return [value[index]] if -len(value) <= index < len(value) else []
    if step["all"]:
        return value
    name, _, wanted = step["where"].partition("=")
    return [one for one in value if isinstance(one, dict) and name in one and _text(one[name]) == wanted]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
