"""The other host of a unit that runs on two: the same command runs there meanwhile, in another role.

It is told by ``RIPRESA_ROLE=peer``, and the unit itself where the other host is, by ``RIPRESA_PEER``. What
runs there has no books of its own: it is known by the unit and its attempt, and ended with the unit.
"""

from collections.abc import Mapping
from typing import Any

from ripresa.hosts.work import Work
from ripresa.recovery.dispatch import FAILED, PUBLISHED, Dispatch, Sent


class Peer:
    """What runs on the other host, as a link sees it."""

    def __init__(self, task: Dispatch) -> None:
        self.target = f"{task.target} (peer)"
        self.digest = task.digest
        self._task = task

    def log(self, number: int) -> str:
        """Beside the log of the unit."""
        return f"{self._task.log(number)}.peer"

    def progress(self, sent: Sent, fields: Mapping[str, Any]) -> None:
        """That of the unit counts."""

    def conclude(
        self, sent: Sent, result: Mapping[str, Any], outputs: str | None, most: Mapping[str, float]
    ) -> str:
        """Its end is no result."""
        return PUBLISHED

    def lose(self, sent: Sent, failure_class: str, evidence: str, *, give_up: str | None = None) -> str:
        """Without it the unit fails by itself, and says what it misses."""
        with open(self.log(sent.attempt), "a") as file:
            file.write(f"{give_up or evidence}\n")
        return FAILED


def work_there(work: Work) -> Work:
    """What runs on the other host: it makes nothing, and its silence is no hang."""
    return work._replace(
        outputs=[],
        environment={**work.environment, "RIPRESA_ROLE": "peer"},
        limits=work.limits._replace(stall_s=None, stall_source="none"),
        progress=None,
    )


def work_here(work: Work, address: str) -> Work:
    """What runs on the unit's own host."""
    return work._replace(environment={**work.environment, "RIPRESA_PEER": address})
