"""JSON without the standard module around its parser, as long as there is nothing wrong with it.

The regular expressions of that module take longer to import than most calls of an agent take altogether.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Defaults:
    """What `json.JSONDecoder` gives to the parser."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = parse_constant = float
    parse_int = int


try:
    import _json
except ImportError:  # another Python than CPython
    _scan: Any = None
else:
    _scan = _json.make_scanner(_Defaults)  # type: ignore[arg-type]


def loads(text: str) -> Any:
    """The document in a text, as `json.loads` gives it: raises ValueError for none, or RecursionError."""
    if _scan is not None:
        text = text.strip(" \t\n\r")
        try:
            document, end = _scan(text, 0)
        except (StopIteration, ValueError, SystemError):
            # What is wrong it says in terms of that module, and fails (SystemError) where that is not loaded.
            end = -1
        if end == len(text):
            return document
    import json

    return json.loads(text)
