"""What SLURM tells of one job, whichever of its commands told it."""

from typing import NamedTuple


class Sighting(NamedTuple):
    """One job or array task as SLURM tells it."""

    job_id: str
    """``123``, or ``123_7`` for a task of an array: what scancel takes."""
    name: str
    state: str
    """The base state alone, e.g. ``CANCELLED``."""
    detail: str = ""
    """What follows the state, e.g. ``by 1000``."""
    reason: str = ""
    """Why it waits, or why it ended; empty for None."""
    nodes: str = ""
    restarts: int = 0
    exit_code: int | None = None
    signal: int | None = None
    steps: tuple[tuple[str, str], ...] = ()
    """Names of steps and their states, e.g. ``("batch", "OUT_OF_MEMORY")``."""
    submitted: float | None = None
    """Times are in s since the epoch."""
    started: float | None = None
    ended: float | None = None
