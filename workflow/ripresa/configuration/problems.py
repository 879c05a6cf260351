"""What is wrong with a configuration, as data and as text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

Path = tuple[str | int, ...]
"""Keys and list indices from the top of the configuration down to a value."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: in which file, where in it (empty: the whole file), and what is allowed."""

    file: str
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}: {self.path}" if self.path else self.file
        return " ".join(f"{place}: {self.message}".split("\n"))


class ConfigurationError(Exception):
    """A configuration that cannot be used. Its text is one line for each of its ``problems``."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__("\n".join(map(str, self.problems)))


def dotted(path: Sequence[str | int]) -> str:
    """Write a path as users do: ``("benchmarks", "hosts", 2)`` is ``benchmarks.hosts[2]``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{_printable(step)}" if text else _printable(step)
    return text


def shortened(value: Any, length: int = 60) -> str:
    """A value as one short line of text."""
    if isinstance(value, bool):
        return str(value).lower()
    text = "null" if value is None else repr(value)
    return text if len(text) <= length else text[: length - 4] + " ..."


def similar(word: Any, words: Iterable[Any]) -> str:
    """`` (did you mean 'high'?)`` for a word close to one of some words, else nothing."""
    close = get_close_matches(str(word).lower(), [str(w) for w in words], n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def listed(words: Iterable[Any], last: str = ", ") -> str:
    """Some words in a row: ``low, medium, high``."""
    *head, tail = [word if isinstance(word, str) else shortened(word) for word in words] or [""]
    return f"{', '.join(head)}{last}{tail}" if head else tail


def _printable(key: str) -> str:
    return key if key.isprintable() and len(key) <= 60 else shortened(key)
