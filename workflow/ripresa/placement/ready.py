"""The jobs that are ready to start, kept in lots so that choosing among them costs little per round."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import groupby, islice
from typing import Generic, NamedTuple, TypeVar

from ripresa.placement.asking import Asked
from ripresa.placement.assignment import assign
from ripresa.placement.packing import SHORTLIST, Demand, Lot, Solver, pack, subtract
from ripresa.placement.wishes import Option, Slot, Start, Wish, occupied

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
    asked: Asked | None = None
    """What it wants of devices; None if it wants none."""


class _Stock(Lot, Generic[Job]):
    """The ready jobs of one kind."""

    __slots__ = ("jobs", "kind", "options", "place")

    def __init__(self, kind: Kind) -> None:
        super().__init__(0, kind.demand)
        self.kind = kind
        self.jobs: dict[Job, None] = {}
        self.place = 0
        """Its place in the order of preference, which it may share with others."""
        self.options: tuple[Option, ...] = ()
        """On which kinds of device it can run, and how long that would take."""


class Ready(Generic[Job]):
    """Ready jobs, handed out by priority, what others learn from them, earlier attempts, temporary files,
    expected duration and size of the input.

    Where these are equal the demand decides: jobs that want most of what is most free come first, so
    that no resource is left over for the end (the alignment score of the multi-resource packing of
    Grandl et al., SIGCOMM 2014). ``rank`` tells the expected duration of a rule.

    Within a priority the jobs that ask for devices come first. Which of them start, and where, is decided by
    `assign`, to which ``options`` tells how they can run.
    """

    def __init__(
        self,
        solver: Solver,
        rank: Callable[[str | None], float] = lambda rule: 0.0,
        options: Callable[[Asked], tuple[Option, ...]] = lambda asked: (),
    ) -> None:
        self._solver = solver
        self._rank = rank
        self._options = options
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

    @property
    def asking(self) -> int:
        """How many of them ask for devices."""
        return sum(stock.size for stock in self._stocks.values() if stock.kind.asked)

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

    def take(self, capacity: Mapping[str, float], slots: Sequence[Slot] = ()) -> dict[Job, Start | None]:
        """Choose jobs that fit together into ``capacity``, highest priority first, and hand them out.

        Every resource that a job demands must be in ``capacity``. ``slots`` are the devices; each job comes
        with what it was assigned of them, None if it asked for nothing.
        """
        self._solver.start_round()
        free, left = dict(capacity), list(slots)
        for name, amount in free.items():
            self._total[name] = max(amount, self._total.get(name, 0))
        taken: dict[Job, Start | None] = {}
        for tier in self._order():
            asking = [stock for stock in tier if stock.kind.asked and stock.size]
            if asking:
                taken.update(self._assign(asking, left, free))
            stocks = self._aligned([stock for stock in tier if not stock.kind.asked], free)
            for stock, count in zip(stocks, pack(stocks, free, self._solver), strict=True):
                if count:
                    subtract(free, stock.demand, count)
                    taken.update(dict.fromkeys(islice(stock.jobs, count)))
        self.remove(taken)
        return taken

    def _assign(
        self, stocks: list[_Stock[Job]], slots: list[Slot], free: dict[str, float]
    ) -> Iterable[tuple[Job, Start]]:
        """Jobs to start on devices, each with its own; takes what they need from the slots and ``free``."""
        for stock in stocks:
            assert stock.kind.asked is not None
            stock.options = self._options(stock.kind.asked)
        starts = assign([_wish(stock) for stock in stocks], slots, free, self._solver)
        jobs = [iter(stock.jobs) for stock in stocks]
        for start in starts:
            stock = stocks[start.wish]
            subtract(free, stock.demand, 1)
            option = next(option for option in stock.options if option.kind == start.kind)
            slots[:] = [occupied(slot, option) if slot.name in start.devices else slot for slot in slots]
            yield next(jobs[start.wish]), start

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


def _wish(stock: _Stock[Job]) -> Wish:
    kind = stock.kind
    assert kind.asked is not None
    # Within the tier: who teaches the others first, then who was attempted before.
    urgency = 2 * kind.escalated + kind.again
    return Wish(stock.size, stock.options, urgency, stock.demand, kind.asked.avoid)
