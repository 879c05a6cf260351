"""How often SLURM is asked."""

import time

_LEAST_S = 1.0
_SHARE = 0.05
"""The most of its time that slurmctld is to spend on this run."""
_START_S = 0.5
"""What the commands may take for themselves on a busy machine."""


class Pace:
    """An interval that grows while nothing changes, and with the time that an answer takes.

    It is at most ``most_s``, in s, unless SLURM is so slow that this were too much of its time. Who does not
    answer is not kept busy by being asked.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = max(most_s, _LEAST_S)
        self._interval_s = _LEAST_S
        self._next = 0.0

    def due(self) -> bool:
        """Whether it is time to ask."""
        return time.monotonic() >= self._next

    def asked(self, *, changed: bool, answered: bool, took_s: float) -> None:
        """An answer came, or did not, after so many s."""
        grown = _LEAST_S if changed else min(self._interval_s * 1.5, self._most_s)
        self._interval_s = max(grown, (took_s - _START_S) / _SHARE) if answered else grown
        self._next = time.monotonic() + self._interval_s

    def soon(self) -> None:
        """Something is about to change."""
        self._interval_s = _LEAST_S
        self._next = min(self._next, time.monotonic() + _LEAST_S)
