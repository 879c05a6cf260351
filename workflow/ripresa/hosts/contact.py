"""The calls to one host: what each of them also carries, and what it says of the host."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ripresa.hosts.client import Answer, Client, Refused
from ripresa.hosts.standing import Standing
from ripresa.hosts.transport import Unreachable

AGAIN_S, AGAIN_MOST_S = 1.0, 30.0
"""The first and the longest pause before a call that failed is made again."""


class Contact:
    """What the parts of a link share: the calls, what they say of the host, and whether there is an end.

    ``state`` guards what the parts have in hand; who waits at it hears of every change. ``changed`` is told
    when the host became known, was lost or found, ``say`` what a person should read.
    """

    def __init__(
        self, client: Client, lost_s: float, changed: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self.client = client
        self.name = client.host.name
        self.standing = Standing(self.name, lost_s)
        self.changed = changed
        self.say = say
        self.state = threading.Condition()
        self.closed = False
        self.facts: Mapping[str, Any] | None = None
        """What the host says of itself; None before it was reached."""
        self.forgets: list[Mapping[str, Any]] = []
        """What the host is to forget; it waits for a call that goes there anyway."""

    def close(self) -> None:
        """Make no further call."""
        with self.state:
            self.closed = True
            self.state.notify_all()
        self.client.close()

    def wait(self, seconds: float) -> bool:
        """Wait so long; True if the link is closed meanwhile."""
        with self.state:
            return self.state.wait_for(lambda: self.closed, seconds)

    def call(
        self,
        do: Sequence[Mapping[str, Any]],
        follow: Mapping[str, str] | None = None,
        *,
        wait_s: float = 0.0,
        door: str | None = None,
    ) -> tuple[Answer, list[dict[str, Any]]]:
        """One call, which also carries what is pending; returns its answer, and the results of ``do``.

        Raises Unreachable and Refused, of which the standing of the host knows by then.
        """
        with self.state:
            first = [*self.forgets]
            self.forgets = []
        if self.facts is None:
            first.append({"op": "hello"})
        try:
            answer = self.client.exchange([*first, *do], follow, wait_s=wait_s, door=door)
        except (Unreachable, Refused) as error:
            with self.state:
                self.forgets[:0] = [op for op in first if op["op"] == "forget"]
            self.fell(error)
            raise
        results = answer["done"]
        facts = results[len(first) - 1] if self.facts is None else {}
        if "error" in facts:
            refused = Refused(facts["error"], f"host {self.name}: {facts['evidence']}", sent=True, whole=True)
            self.fell(refused)
            raise refused
        self._reached(facts)
        return answer, results[len(first) :]

    def fell(self, error: Unreachable | Refused) -> None:
        """A call failed."""
        if self.closed:
            return
        known = self.standing.fell(error)
        if known is None:
            self.changed()
        if known is None or known.failure_class != error.failure_class:
            self.say(f"host {self.name} cannot be used: {error.evidence}")

    def mistake(self, error: Exception) -> str:
        """What is told of an exception that nobody foresaw."""
        return f"host {self.name}: internal error: {type(error).__name__}: {error}"

    def _reached(self, facts: Mapping[str, Any]) -> None:
        back = self.standing.reached()
        if back:
            self.say(f"host {self.name} answers again")
        if facts:
            self.facts = facts
        if back or facts:
            with self.state:
                self.state.notify_all()
            self.changed()
