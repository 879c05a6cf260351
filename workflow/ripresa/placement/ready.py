"""The jobs that are ready to start, kept in lots so that choosing among them costs little per round."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from itertools import groupby, islice
from typing import Generic, NamedTuple, TypeVar

from ripresa.placement.packing import SHORTLIST, Demand, Lot, Solver, pack, subtract

UNLIMITED = 1 << 60
"""Snakemake's amount of a resource without a limit is sys.maxsize."""

Job = TypeVar("Job", bound=Hashable)


class Kind(NamedTuple):
    """What makes ready jobs equal."""

    priority: float
    temp_bytes: int
    """Size of the temporary files it reads: they may go once it is done."""
    rule: str | None
    """Whose expected duration applies; None if nothing is known about it."""
    input_bytes: int
    demand: Demand
    escalated: bool = False
    """Whether others of its kind will learn from it what they need."""
    again: bool = False
    """Whether it was attempted before: what failed early would else come after all that never began."""


class _Stock(Lot, Generic[Job]):
    """The ready jobs of one kind."""

    __slots__ = ("jobs", "kind", "place")

    def __init__(self, kind: Kind) -> None:
        super().__init__(0, kind.demand)
        self.kind = kind
        self.jobs: dict[Job, None] = {}
        self.place = 0
        """Its place in the order of preference, which it may share with others."""


class Ready(Generic[Job]):
    """Ready jobs, handed out by priority, what others learn from them, earlier attempts, temporary files,
    expected duration and size of the input.

    Where these are equal the demand decides: jobs that want most of what is most free come first, so
    that no resource is left over for the end (the alignment score of the multi-resource packing of
    Grandl et al., SIGCOMM 2014). ``rank`` tells the expected duration of a rule.
    """

    def __init__(self, solver: Solver, rank: Callable[[str | None], float] = lambda rule: 0.0) -> None:
        self._solver = solver
        self._rank = rank
        self._home: dict[Job, _Stock[Job]] = {}
        self._stocks: dict[Kind, _Stock[Job]] = {}
        self._tiers: list[list[_Stock[Job]]] | None = None
        self._total: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._home)

    def add(self, job: Job, kind: Kind) -> None:
        """Add a job that became ready."""
        stock = self._stocks.get(kind)
        if stock is None:
            stock = self._stocks[kind] = _Stock(kind)
            self._tiers = None
        stock.jobs[job] = None
        stock.size += 1
        self._home[job] = stock

    def remove(self, jobs: Iterable[Job]) -> None:
        """Forget jobs, whether they are here or not."""
        for job in jobs:
            stock = self._home.pop(job, None)
            if stock is not None:
                del stock.jobs[job]
                stock.size -= 1

    def reorder(self) -> None:
        """Take notice of changed ranks."""
        self._tiers = None

    def take(self, capacity: Mapping[str, float]) -> list[Job]:
        """Choose jobs that fit together into ``capacity``, highest priority first, and hand them out.

        Every resource that a job demands must be in ``capacity``.
        """
        self._solver.start_round()
        free = dict(capacity)
        for name, amount in free.items():
            self._total[name] = max(amount, self._total.get(name, 0))
        taken: list[Job] = []
        for tier in self._order():
            stocks = self._aligned(tier, free)
            for stock, count in zip(stocks, pack(stocks, free, self._solver), strict=True):
                if count:
                    subtract(free, stock.demand, count)
                    taken.extend(islice(stock.jobs, count))
        self.remove(taken)
        return taken

    def _order(self) -> list[list[_Stock[Job]]]:
        """The stocks by priority, and within one priority in order of preference."""
        if self._tiers is None:
            self._stocks = {kind: stock for kind, stock in self._stocks.items() if stock.size}
            stocks = sorted(self._stocks.values(), key=self._preference, reverse=True)
            for place, (_, equal) in enumerate(groupby(stocks, self._preference)):
                for stock in equal:
                    stock.place = place
            self._tiers = [list(tier) for _, tier in groupby(stocks, lambda stock: stock.kind.priority)]
        return self._tiers

    def _aligned(self, tier: list[_Stock[Job]], free: Mapping[str, float]) -> list[_Stock[Job]]:
        """The stocks of a tier that are not empty, in the order in which to consider them now."""
        weights = {
            name: max(0.0, free[name]) / total**2
            for name, total in self._total.items()
            if 0 < total < UNLIMITED and name in free
        }

        def order(stock: _Stock[Job]) -> tuple[int, float]:
            return stock.place, -sum(
                [weights[name] * amount for name, amount in stock.demand if name in weights]
            )

        stocks = [stock for stock in tier if stock.size]
        if len(stocks) > 1:
            stocks[:SHORTLIST] = sorted(stocks[:SHORTLIST], key=order)
        return stocks

    def _preference(self, stock: _Stock[Job]) -> tuple[float, ...]:
        kind = stock.kind
        return (
            kind.priority,
            kind.escalated,
            kind.again,
            kind.temp_bytes,
            self._rank(kind.rule),
            kind.input_bytes,
        )
