"""The transport as the controller uses it: hosts by a pattern, commands on them."""

import os
import threading
import time
from collections.abc import Callable, Sequence

from ripresa.hosts.transport import patterns
from ripresa.hosts.transport.failures import classify
from ripresa.hosts.transport.patterns import Host, PatternError
from ripresa.hosts.transport.relay import Channel, Relay, Reply, Unreachable

_MISMATCH = "match supplied host pattern"


class Transport:
    """Runs commands on the hosts of an Ansible inventory. Safe to use from several threads.

    ``inventory`` is what ``ansible -i`` takes, any number of them; with none Ansible's own configuration
    decides. ``directory`` is a private folder for what ansible-runner writes. ``say`` gets Ansible's
    warnings, a line each. Nothing of Ansible starts before the first call. A pattern brings one process of
    Ansible for its hosts, which lives until the transport is closed; if it dies, the next call of one of its
    hosts starts another.
    """

    def __init__(self, inventory: Sequence[str], directory: str, say: Callable[[str], None]) -> None:
        self._inventory = tuple(inventory)
        self._directory = directory
        self._say = say
        self._said: set[str] = set()
        self._lock = threading.Lock()
        self._relays: dict[str, Relay] = {}
        self._started: list[Relay] = []
        self._patterns: dict[str, dict[str, Host]] = {}
        self._closed = False

    def hosts(self, pattern: str) -> dict[str, Host]:
        """The hosts that a pattern of Ansible names, by name. Opens no connection to them.

        A host that Ansible cannot use as it is configured is among them without variables, and said.
        Raises PatternError if the pattern, or a part of it, names no host, or the inventory cannot be read.
        """
        with self._lock:
            if pattern in self._patterns:
                return dict(self._patterns[pattern])
            relay = self._start(pattern)
        relay.complete()
        if not relay.described and not relay.failed:
            relay.end()
            raise self._nothing(pattern, relay)
        found = {name: patterns.host(description) for name, description in relay.described.items()}
        for name, problem in self._problems(relay).items():
            found.setdefault(name, Host(name, frozenset(), {}, None))
            self._warn(f"{name}: {problem}")
        self._adopt(relay, list(found))
        with self._lock:
            self._patterns[pattern] = found
        return dict(found)

    def call(self, host: str, command: str, data: bytes = b"", *, timeout_s: float) -> Reply:
        """Run a command of a POSIX shell on a host, as whom Ansible would, with ``data`` as standard input.

        Several calls of a host run at a time, in no order. Raises Unreachable, within ``timeout_s`` seconds.
        """
        if self._closed:
            raise Unreachable("network", "the connections are closed", sent=False)
        until = time.monotonic() + timeout_s
        channel = self._channel(host, timeout_s)
        return channel.call(command, data, max(until - time.monotonic(), 0.0))

    def close(self) -> None:
        """End Ansible and every connection. Calls that run raise Unreachable. May be called again."""
        with self._lock:
            self._closed = True
            relays, self._started = self._started, []
        for relay in relays:
            relay.end()

    def _start(self, pattern: str) -> Relay:
        """A new relay; the caller holds the lock."""
        if self._closed:
            raise RuntimeError("the transport is closed")
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        relay = Relay(self._inventory, self._directory, pattern, self._warn)
        self._started = [*(other for other in self._started if not other.ended), relay]
        return relay

    def _adopt(self, relay: Relay, names: list[str]) -> None:
        """Let a relay have its hosts, except for those that another one has."""
        spare = []
        with self._lock:
            for name in names:
                other = self._relays.get(name)
                if other and not other.ended and name not in other.failed:
                    spare.append(name)
                else:
                    self._relays[name] = relay
        for name in spare:
            relay.drop(name)

    def _channel(self, host: str, timeout_s: float) -> Channel:
        """The channel of a host; starts a relay if there is none any more."""
        with self._lock:
            if self._closed:
                raise Unreachable("network", "the transport is closed", sent=False)
            relay = self._relays.get(host)
            if relay is None or relay.ended or relay.lost(host):
                names = [host]
                if relay and relay.ended:
                    names = [name for name, other in self._relays.items() if other is relay]
                try:
                    relay = self._start(",".join(names))
                except OSError as error:
                    raise Unreachable("network", f"cannot start Ansible: {error}", sent=False) from None
                self._relays.update(dict.fromkeys(names, relay))
        channel = relay.channel(host, timeout_s)
        if channel and host not in self._problems(relay):
            return channel
        said = self._problems(relay).get(host) or relay.problem
        if said:
            failure = classify(said, False)
            raise Unreachable(failure.failure_class, failure.evidence, sent=False)
        raise Unreachable("network", f"Ansible did not start within {timeout_s:g} s", sent=False)

    @staticmethod
    def _problems(relay: Relay) -> dict[str, str]:
        """What is wrong with the configuration of hosts, by name."""
        described = {
            name: str(description["problem"])
            for name, description in relay.described.items()
            if "problem" in description
        }
        return {**described, **relay.failed}

    def _nothing(self, pattern: str, relay: Relay) -> PatternError:
        """Why a relay has no host."""
        if relay.problem and _MISMATCH not in relay.problem:
            return patterns.unreadable(relay.problem)
        with self._lock:
            everything = self._start("all")
        everything.complete()
        there = [patterns.host(description) for description in everything.described.values()]
        everything.end()
        return patterns.nothing(pattern, relay.problem, there)

    def _warn(self, text: str) -> None:
        with self._lock:
            if text in self._said:
                return
            self._said.add(text)
        self._say(text)
