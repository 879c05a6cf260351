"""What becomes ready by the end of a job: Snakemake offers it a moment later, and it may be the more urgent.

Until then no less urgent unit takes the host that has become free. So the order of priorities holds on each
host, although much more is on offer than it can take.
"""

import time
from typing import Any

_PATIENCE_S = 10.0
"""How long at most: the scheduler may have reasons to offer something later."""

Job = Any


class Followers:
    """The jobs that are about to be offered, by the host that is kept free for them."""

    def __init__(self) -> None:
        self._expected: dict[str, list[tuple[float, Job]]] = {}
        """Each with the time until which it is expected."""

    def expect(self, host: str, job: Job, dag: Any) -> None:
        """A job is done on a host, and Snakemake is about to be told."""
        until = time.monotonic() + _PATIENCE_S
        self._expected.setdefault(host, []).extend((until, one) for one in _ready_after(job, dag))

    def offered(self, jobs: list[Job]) -> None:
        """These are there now."""
        for expected in self._expected.values():
            expected[:] = [(until, job) for until, job in expected if job not in jobs]

    def come_first(self, host: str, priority: float) -> bool:
        """Whether a unit of this priority has to leave a host to one that is about to be offered."""
        now = time.monotonic()
        return any(now < until and job.priority > priority for until, job in self._expected.get(host, ()))


def _ready_after(job: Job, dag: Any) -> list[Job]:
    """The jobs for hosts of which all inputs are there once a job is done."""

    def is_missing(other: Job) -> bool:
        return other is not job and dag.needrun(other) and not dag.finished(other)

    # The thread of the scheduler may change the graph meanwhile, after a checkpoint.
    # Jobs of a group are not offered one by one.
    after = [one for one in list(dag.depending.get(job, ())) if not one.is_local and one.group is None]
    return [
        one
        for one in after
        if is_missing(one) and not any(map(is_missing, list(dag.dependencies.get(one, ()))))
    ]
