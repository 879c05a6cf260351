"""The hosts that patterns name, asked of Ansible as seldom as possible: each question starts it once."""

import re
from collections.abc import Iterable
from typing import Protocol

from ripresa.hosts.transport import Host, PatternError

_COMPOSED = re.compile(r"[*?\[\]~!&:,]")
"""What makes a pattern more than a name. Beside others an exclusion would hold for them, too."""


class Hosts(Protocol):
    """Who knows the inventory: a `ripresa.hosts.transport.Transport`."""

    def hosts(self, pattern: str) -> dict[str, Host]:
        """The hosts of a pattern of Ansible; raises PatternError if there are none."""


class Roster:
    """Hosts by pattern, as far as they were asked for."""

    def __init__(self, inventory: Hosts) -> None:
        self._inventory = inventory
        self._known: dict[str, Host] = {}
        self._patterns: dict[str, dict[str, Host]] = {}
        self._wrong: dict[str, PatternError] = {}
        self._asked: set[str] = set()
        self._whole: set[str] = set()
        """Names of which all hosts are among those known."""

    def prepare(self, patterns: Iterable[str]) -> None:
        """Ask for several names of hosts and groups at once, so that they share one process of Ansible."""
        new = {one for one in patterns if one not in self._asked and not _COMPOSED.search(one)}
        self._asked |= new
        if len(new) < 2:
            return
        try:
            self._known.update(self._inventory.hosts(",".join(sorted(new))))
        except PatternError:
            return  # one of them is wrong, and each is told for itself
        self._whole |= new

    def hosts(self, pattern: str) -> dict[str, Host]:
        """The hosts of a pattern. Raises PatternError if there are none."""
        if pattern in self._wrong:
            raise self._wrong[pattern]
        if pattern not in self._patterns:
            self._patterns[pattern] = self._among_known(pattern) or self._ask(pattern)
        return self._patterns[pattern]

    def host(self, name: str) -> Host:
        """One host by its name. Raises PatternError if the inventory does not have it."""
        if name not in self._known and name not in self.hosts(name):
            raise PatternError(f"{name!r} is no host of the inventory but several")
        return self._known[name] if name in self._known else self.hosts(name)[name]

    def _ask(self, pattern: str) -> dict[str, Host]:
        try:
            found = self._inventory.hosts(pattern)
        except PatternError as error:
            self._wrong[pattern] = error
            raise
        self._known.update(found)
        return found

    def _among_known(self, pattern: str) -> dict[str, Host]:
        """The hosts of a pattern that is just a name, if all of them are known."""
        if pattern in self._known:
            return {pattern: self._known[pattern]}
        if pattern not in self._whole:
            return {}
        return {name: host for name, host in self._known.items() if pattern in host.groups}
