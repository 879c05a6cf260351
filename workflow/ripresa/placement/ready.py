"""The jobs that are ready to start, kept in lots so that choosing among them costs little per round."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from ripresa.placement.packing import Demand, Lot, Solver, pack, subtract

Job = TypeVar("Job", bound=Hashable)


class Kind(NamedTuple):
    """What makes ready jobs equal. The order of preference is priority, temp, rank of the rule, input."""

    priority: int
    temp_bytes: int
    """Size of the temporary files it reads: they may go once it is done."""
    rule: str | None
    """Whose expected duration applies; None if nothing is known about it."""
    input_bytes: int
    demand: Demand


class Ready(Generic[Job]):
    """Ready jobs. ``rank`` tells the expected duration of a rule: longer ones start first."""

    def __init__(self, solver: Solver, rank: Callable[[str | None], float] = lambda rule: 0.0) -> None:
        self._solver = solver
        self._rank = rank
        self._kinds: dict[Job, Kind] = {}
        self._lots: dict[Kind, dict[Job, None]] = {}
        self._tiers: list[list[Kind]] | None = None

    def __contains__(self, job: Job) -> bool:
        return job in self._kinds

    def __len__(self) -> int:
        return len(self._kinds)

    def add(self, job: Job, kind: Kind) -> None:
        """Add a job that became ready."""
        self._kinds[job] = kind
        if kind in self._lots:
            self._lots[kind][job] = None
        else:
            self._lots[kind] = {job: None}
            self._tiers = None

    def remove(self, jobs: Iterable[Job]) -> None:
        """Forget jobs, whether they are here or not."""
        for job in jobs:
            kind = self._kinds.pop(job, None)
            if kind is not None:
                del self._lots[kind][job]

    def reorder(self) -> None:
        """Take notice of changed ranks."""
        self._tiers = None

    def take(self, capacity: Mapping[str, float]) -> list[Job]:
        """Choose jobs that fit together into ``capacity``, highest priority first, and hand them out.

        Every resource that a job demands must be in ``capacity``.
        """
        free = dict(capacity)
        taken: list[Job] = []
        for kinds in self._ordered():
            here = [(kind, jobs) for kind in kinds if (jobs := self._lots[kind])]
            counts = pack([Lot(len(jobs), kind.demand) for kind, jobs in here], free, self._solver)
            for (kind, jobs), count in zip(here, counts, strict=True):
                if count:
                    subtract(free, kind.demand, count)
                    taken.extend(job for job, _ in zip(jobs, range(count), strict=False))
        self.remove(taken)
        return taken

    def _ordered(self) -> list[list[Kind]]:
        """The kinds of jobs by priority, and within one priority in order of preference."""
        if self._tiers is None:
            self._lots = {kind: jobs for kind, jobs in self._lots.items() if jobs}
            tiers: dict[int, list[Kind]] = {}
            for kind in sorted(self._lots, key=self._preference, reverse=True):
                tiers.setdefault(kind.priority, []).append(kind)
            self._tiers = list(tiers.values())
        return self._tiers

    def _preference(self, kind: Kind) -> tuple[int, int, float, int]:
        return kind.priority, kind.temp_bytes, self._rank(kind.rule), kind.input_bytes
