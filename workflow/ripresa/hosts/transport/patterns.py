"""Which hosts a pattern of Ansible names, and what a user is told if it names none."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NAMED = 12
"""So many names of hosts or groups stand in a message at most."""


class PatternError(ValueError):
    """A pattern or the inventory is wrong; the message is one line."""


@dataclass(frozen=True)
class Host:
    """A host of the inventory: its groups by name, its ``ripresa_*`` variables, templated, and its Python.

    ``python`` is the interpreter that the inventory or Ansible's configuration names, None if Ansible is to
    discover one. ``address`` is what connections to it go to, by ``ansible_host`` or else by its name.
    """

    name: str
    groups: frozenset[str]
    variables: dict[str, Any]
    python: str | None
    address: str = ""


def host(description: Mapping[str, Any]) -> Host:
    """What a relay has described."""
    return Host(
        description["host"],
        frozenset(description.get("groups", ())),
        dict(description.get("variables", {})),
        description.get("python"),
        description.get("address") or description["host"],
    )


def unreadable(problem: str) -> PatternError:
    """The error of an inventory, or of a configuration of Ansible, with which no play begins."""
    return PatternError(f"Ansible cannot begin with this inventory: {problem}")


def nothing(pattern: str, said: str | None, there: Iterable[Host]) -> PatternError:
    """The error of a pattern that matches nothing, or does so in part; ``there`` is the whole inventory."""
    hosts = sorted(there, key=lambda host: host.name)
    groups = sorted({group for host in hosts for group in host.groups})
    message = f"{pattern!r} names no host or group of the inventory"
    if said:
        message += f" ({said})"
    return PatternError(
        f"{message}; groups: {_names(groups)}; hosts: {_names([host.name for host in hosts])}"
    )


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:NAMED]) or "none"
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"
