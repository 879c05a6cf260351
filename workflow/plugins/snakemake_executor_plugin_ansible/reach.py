"""The hosts of a call: links to those in use, what room they have, and the removal of what is left there."""

import functools
import logging
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ripresa.hosts import visited
from ripresa.hosts.client import Client
from ripresa.hosts.fleet import Needs, Room
from ripresa.hosts.link import Link, Notify
from ripresa.hosts.roster import Roster
from ripresa.hosts.transport import Host, PatternError, Transport
from ripresa.hosts.work import Shipper, name_of
from ripresa.journal.paths import Run
from ripresa.recovery import breaker, policy
from snakemake_executor_plugin_ansible.plain import BOOKS

_REOPEN_S = 30.0
"""How often a host that cannot be used is asked again on behalf of units that may go to several."""
_AT_A_TIME = 32
"""Hosts that are told to end, or cleaned up, at a time."""
_LOST_S = 3900.0
"""Without a policy a host that does not answer is waited for as long as the default policy waits for a
network.
"""


class Reach:
    """The hosts of an inventory, as far as units of a run (None: of a workflow without one) ask for them."""

    def __init__(self, transport: Transport, run: Run | None, notify: Notify, logger: logging.Logger) -> None:
        self.roster = Roster(transport)
        self.links: dict[str, Link] = {}
        self._transport = transport
        self._run = run
        self._books = run or Run(BOOKS)
        self._notify = notify
        self._logger = logger
        self._shipper = Shipper()
        self._opened: dict[str, float] = {}
        self._lost: set[str] = set()

    def link(self, name: str) -> Link:
        """The link to a host. Raises PatternError if the inventory does not have it."""
        return self.links[name] if name in self.links else self._link(self.roster.host(name))

    def rooms(self, pattern: str, needs: Needs, rule: str) -> dict[str, Room] | None:
        """What the hosts of a pattern have in all for a unit of a rule; None while that is not known yet.

        Raises ValueError, PatternError too, in one line if there is none.
        """
        links = [self._link(host) for host in self.roster.hosts(pattern).values()]
        if needs.shared and not (links := [link for link in links if link.shared]):
            raise ValueError(
                f"rule {rule} needs the controller's file system (resource shared, or Snakemake around it: "
                f"script, run, wrapper, ...), and none of the hosts {pattern} has it (ripresa_shared)"
            )
        usable = [link for link in links if link.down is None]
        unknown = [link for link in usable if link.facts is None]
        for link in [*unknown, *(link for link in links if link.down is not None)]:
            if time.monotonic() - self._opened.get(link.name, float("-inf")) > _REOPEN_S:
                self._opened[link.name] = time.monotonic()
                link.open()
        known = [link for link in usable if link.facts is not None]
        if known or unknown:
            return {link.name: Room.of(link.facts or {}, link.host.variables) for link in known} or None
        # All are down. The attempt says so, and the policy when to try again.
        return {link.name: Room(1 << 20, float("inf")) for link in links}

    def note_lost(self) -> None:
        """Let the units of a host that is lost come at once to be told so: nothing is to be waited for."""
        for link in self.links.values():
            if not link.lost:
                self._lost.discard(link.name)
            elif link.name not in self._lost and self._run is not None:
                scope = f"host:{link.name}"
                breaker.update(self._run, functools.partial(breaker.forget, scope=scope))
                self._lost.add(link.name)

    def clean(self, busy: Collection[str | None]) -> None:
        """Tear down, also what earlier controllers left, but not on hosts that are ``busy``."""
        links = []
        for name in visited.hosts(self._books):
            if name in busy:
                continue
            try:
                link = self.link(name)
            except PatternError:
                continue  # it is in the inventory no more
            if not link.lost:
                links.append(link)
        problems = at_once(Link.clean, links)
        for link, problem in zip(links, problems, strict=True):
            if problem is None:
                visited.leave(self._books, link.name)
            else:
                self._logger.warning(
                    f"host {link.name} is not cleaned up: {problem}; the next call tries again"
                )

    def close(self) -> None:
        """End the connections."""
        for link in self.links.values():
            link.close()
        self._transport.close()

    def _link(self, host: Host) -> Link:
        link = self.links.get(host.name)
        if link is None:
            # Also what only asks the host what it is leaves something there.
            visited.visit(self._books, host.name)
            client = Client(self._transport, host, name_of(self._books))
            link = self.links[host.name] = Link(client, self._shipper, self._notify, lost_s=self._lost_s())
        return link

    def _lost_s(self) -> float:
        """As long as the policy waits for a network in all."""
        if self._run is None:
            return _LOST_S
        rules = policy.load(self._run)
        delays = rules["classes"].get("network", {}).get("delays_min") or []
        return sum(60.0 * delay for delay in delays) * float(rules.get("time_scale", 1.0))


def at_once(do: Callable[[Link], Any], links: Iterable[Link]) -> list[Any]:
    """Do it to several hosts, of which none waits for one that does not answer; the results in order."""
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        return list(threads.map(do, links))
