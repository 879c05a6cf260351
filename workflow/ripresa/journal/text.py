"""Text of logs and journals for people."""

import re
from typing import Any

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(value: Any) -> str:
    """A value from a log or journal as text that does nothing to a terminal."""
    return "" if value is None else _CONTROL.sub("", str(value)).replace("\n", " ")
