"""Which hosts the names, groups and patterns of a configuration stand for: asked of Ansible's own commands.

What Ansible says of an inventory of plain files is kept below .snakemake until one of them changes, as asking
takes about a second. Names are kept, never variables.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ripresa.journal import records

LOCALHOST = "localhost"
"""This machine. Ansible knows it without an inventory, and reaches it without a connection."""

KEPT = ".snakemake/ripresa/inventory.json"
_PATTERN = re.compile(r"[*?\[\]~!&:,]")
_DYNAMIC = re.compile(rb"^plugin\s*:", re.MULTILINE)


class InventoryError(Exception):
    """The inventory cannot be used; the message is one line."""


class UnknownHosts(Exception):
    """What names no host: the ``problems`` by position in what was asked for, each one line."""

    def __init__(self, problems: dict[int, str]) -> None:
        super().__init__("\n".join(problems.values()))
        self.problems = problems


def resolve(wanted: Sequence[str]) -> list[str]:
    """The hosts that names, groups and patterns of Ansible stand for, each once, in the order of ``wanted``.

    The inventory is the one that Ansible uses by itself here (``ANSIBLE_INVENTORY``, its configuration). For
    this machine alone nothing is asked. Raises InventoryError, and UnknownHosts for all that match nothing.
    """
    if all(name == LOCALHOST for name in wanted):
        return list(dict.fromkeys(wanted))
    key = [os.environ.get("ANSIBLE_INVENTORY"), list(wanted), _stamps(os.environ.get("ANSIBLE_INVENTORY"))]
    kept = records.read_json(KEPT) if os.path.exists(KEPT) else None
    if key[2] and isinstance(kept, dict) and kept.get("key") == key:
        return list(kept["hosts"])
    groups = _groups()
    found: dict[str, None] = {}
    problems: dict[int, str] = {}
    for number, name in enumerate(wanted):
        hosts = [LOCALHOST] if name == LOCALHOST else _matching(name, groups)
        found.update(dict.fromkeys(hosts))
        if not hosts:
            problems[number] = _nothing(name, groups)
    if problems:
        raise UnknownHosts(problems)
    if key[2]:
        with contextlib.suppress(OSError):  # it only saves time
            os.makedirs(os.path.dirname(KEPT), exist_ok=True)
            records.write_json(KEPT, {"key": key, "hosts": list(found)})
    return list(found)


def _groups() -> dict[str, list[str]]:
    """The hosts of each group, `all` among them, in the order of the inventory."""
    tree = json.loads(_ansible("inventory", "--list"))

    def members(name: str) -> Iterator[str]:
        group = tree.get(name, {})
        yield from group.get("hosts", ())
        for child in group.get("children", ()):
            yield from members(child)

    return {name: list(dict.fromkeys(members(name))) for name in tree if name != "_meta"}


def _matching(name: str, groups: dict[str, list[str]]) -> list[str]:
    if name in groups:
        return groups[name]
    if name in groups.get("all", ()):
        return [name]
    if not _PATTERN.search(name):
        return []
    return [line.strip() for line in _ansible("adhoc", name, "--list-hosts").splitlines()[1:]]


def _nothing(name: str, groups: dict[str, list[str]]) -> str:
    from ripresa.hosts.transport.patterns import Host, nothing

    there = groups.get("all", [])
    named = {group: hosts for group, hosts in groups.items() if group not in ("all", "ungrouped")}
    hosts = [Host(one, frozenset(g for g in named if one in named[g]), {}, None) for one in there]
    return str(nothing(name, None, hosts))


def _ansible(*arguments: str) -> str:
    """Standard output of one of Ansible's commands; InventoryError with what it said."""
    environment = {
        **os.environ,
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_DEPRECATION_WARNINGS": "false",
    }
    done = subprocess.run(
        [sys.executable, "-m", "ansible", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        first = next((line for line in said if "ERROR" in line), said[-1])
        source = os.environ.get("ANSIBLE_INVENTORY") or "the inventory of Ansible's configuration"
        raise InventoryError(f"Ansible cannot read {source}: {' '.join(first.split())[:300]}")
    return done.stdout


def _stamps(source: str | None) -> list[Any]:
    """What tells whether an inventory of plain files has changed; empty for any other, which may any time."""
    if not source or "," in source:
        return []
    paths = [source]
    if os.path.isdir(source):
        paths = sorted(os.path.join(folder, name) for folder, _, names in os.walk(source) for name in names)
    stamps = []
    for path in paths:
        try:
            info = os.stat(path)
            with open(path, "rb") as file:
                dynamic = os.access(path, os.X_OK) or bool(_DYNAMIC.search(file.read(1 << 16)))
        except OSError:
            return []
        if dynamic:
            return []
        stamps.append([path, info.st_size, info.st_mtime_ns, info.st_ino])
    return stamps
