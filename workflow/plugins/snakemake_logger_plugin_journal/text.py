"""Short texts for people."""

import re

_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)?")


def duration(seconds: float) -> str:
    """A length of time with about two digits of meaning, e.g. ``3.2 s``, ``1 min 05 s``, ``2 h 03 min``."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def clean(text: str, limit: int = 200) -> str:
    """Foreign text made safe for a line on a terminal: no control sequences, at most ``limit`` characters."""
    bare = _SEQUENCE.sub("", text[: 8 * limit]).expandtabs()
    line = "".join(c if c.isprintable() else " " for c in bare).rstrip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def end_of(name: str, width: int) -> str:
    """The end of a name, which tells more than its beginning, in at most ``width`` characters."""
    return name if len(name) <= width else "…" + name[1 - width :]
