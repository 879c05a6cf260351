"""Figures, tables and the verdict."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stacking.verdict import Verdict

from chaos.catalogue import HEALTHY, LASTING, PERMANENT, RECOVERABLE
from chaos.judge import Story, quantile, wilson
from chaos.oracle import Action

AUTOMATIC = ("call", "kill", "stop", "unlock", "delete", "resize", "release")


class Outcome(NamedTuple):
    """What came of some campaigns run in one way.

    ``false_success`` counts targets that ever were wrong, ``overlaps`` and ``shared`` executions that found
    another of the same unit, or on the same device.
    """

    name: str
    stories: list[Story]
    actions: list[Action]
    false_success: int
    lost: int
    overlaps: int
    shared: int
    seconds: float

    def of(self, truth: str) -> list[Story]:
        return [story for story in self.stories if story.kind and story.kind.truth == truth]

    @property
    def struck(self) -> list[Story]:
        """The injected recoverable faults."""
        return [story for story in self.of(RECOVERABLE) if story.struck is not None]

    @property
    def touched(self) -> list[Story]:
        """Healthy controls that were killed or restarted."""
        return [story for story in self.of(HEALTHY) if story.starts > 1 or story.broken_off]

    @property
    def retried(self) -> list[Story]:
        """Permanent failures that were executed again before anybody repaired them."""
        return [story for story in self.of(PERMANENT) if story.starts > 1]

    @property
    def twice(self) -> list[Story]:
        return [story for story in self.stories if story.published > 1]

    @property
    def needed(self) -> list[Action]:
        """The operator's actions for what should have recovered."""
        return [action for action in self.actions if action.recoverable]


def joined(name: str, outcomes: Iterable[Outcome]) -> Outcome:
    """Several campaigns as one."""
    parts = list(outcomes)
    return Outcome(
        name,
        [story for part in parts for story in part.stories],
        [action for part in parts for action in part.actions],
        sum(part.false_success for part in parts),
        sum(part.lost for part in parts),
        sum(part.overlaps for part in parts),
        sum(part.shared for part in parts),
        sum(part.seconds for part in parts),
    )


def share(number: int, total: int) -> str:
    return f"{100 * number / total:.1f} %" if total else "-"


def bounds(number: int, total: int) -> str:
    low, high = wilson(number, total)
    return f"{100 * low:.1f} to {100 * high:.1f}" if total else "-"


def spread(values: Sequence[float | None], form: str = ".1f") -> str:
    """Median, p90 and maximum."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return " / ".join(format(quantile(known, q), form) for q in (0.5, 0.9, 1.0))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines) + "\n"


def kinds_table(outcome: Outcome) -> str:
    """One row for each kind of fault that recovers."""
    by_kind: dict[str, list[Story]] = defaultdict(list)
    for story in outcome.of(RECOVERABLE):
        assert story.kind
        by_kind[story.kind.what].append(story)
    rows = [_kind_row(what, stories) for what, stories in by_kind.items() if _struck(stories)]
    rows.append(_kind_row("**all**", outcome.of(RECOVERABLE)))
    head = ("fault", "injected", "recovered", "95 % bounds (%)", "attempts: mean, most",
            "from fault (min)", "from detection (min)", "wasted (s)")  # fmt: skip
    return table(head, rows)


def _struck(stories: Iterable[Story]) -> list[Story]:
    return [story for story in stories if story.struck is not None]


def _kind_row(what: str, stories: Sequence[Story]) -> tuple[object, ...]:
    struck = _struck(stories)
    recovered = [story for story in struck if story.recovered]
    starts = [story.starts for story in struck]
    return (
        what,
        len(struck),
        f"{len(recovered)} ({share(len(recovered), len(struck))})",
        bounds(len(recovered), len(struck)),
        f"{sum(starts) / len(starts):.1f}, {max(starts)}" if starts else "-",
        spread([story.recovery_min for story in recovered]),
        spread([story.from_detection_min for story in recovered]),
        f"{sum(story.wasted_s for story in struck):.0f}",
    )


def others_table(outcome: Outcome) -> str:
    """One row for each kind that must be left alone, or not be retried."""
    rows = []
    by_kind: dict[str, list[Story]] = defaultdict(list)
    for story in [*outcome.of(HEALTHY), *outcome.of(PERMANENT), *outcome.of(LASTING)]:
        assert story.kind
        by_kind[story.kind.what].append(story)
    for what, stories in by_kind.items():
        assert stories[0].kind
        truth = stories[0].kind.truth
        again = [story for story in stories if story.starts > 1 or (truth == HEALTHY and story.broken_off)]
        word = {HEALTHY: "healthy", PERMANENT: "permanent", LASTING: "lasting"}[truth]
        executions = sum(story.starts for story in stories) / len(stories)
        rows.append(
            (what, word, len(stories), f"{len(again)} ({share(len(again), len(stories))})",
             bounds(len(again), len(stories)), f"{executions:.2f}")
        )  # fmt: skip
    head = ("units", "truth", "number", "executed more than once", "95 % bounds (%)", "executions a unit")
    return table(head, rows)


def actions_table(outcomes: Sequence[Outcome]) -> str:
    """What the oracle had to do, each way of running in a column."""
    rows = []
    for what in AUTOMATIC:
        numbers = [sum(action.what == what for action in outcome.needed) for outcome in outcomes]
        if any(numbers):
            rows.append((what, *numbers))
    rows.append(("**all actions**", *(len(outcome.needed) for outcome in outcomes)))
    rows.append(("units that a person had to deal with", *(len(_dealt_with(o)) for o in outcomes)))
    rows.append(("for permanent failures: repair, release, call",
                 *(len(o.actions) - len(o.needed) for o in outcomes)))  # fmt: skip
    rows.append(("wrong outputs taken for results", *(outcome.false_success for outcome in outcomes)))
    return table(("action", *(outcome.name for outcome in outcomes)), rows)


def _dealt_with(outcome: Outcome) -> set[str]:
    return {action.unit for action in outcome.needed if action.unit is not None}


def ablations_table(outcomes: Sequence[Outcome]) -> str:
    """What is lost without each part."""
    rows = []
    for outcome in outcomes:
        struck = outcome.struck
        recovered = [story for story in struck if story.recovered]
        worked = sum(story.worked_s for story in outcome.stories)
        wasted = sum(story.wasted_s for story in outcome.stories)
        lasting = outcome.of(LASTING)
        rows.append(
            (
                outcome.name,
                f"{len(recovered)} of {len(struck)} ({share(len(recovered), len(struck))})",
                share(len(outcome.retried), len(outcome.of(PERMANENT))),
                share(len(outcome.touched), len(outcome.of(HEALTHY))),
                spread([story.recovery_min for story in recovered]),
                f"{sum(s.starts for s in outcome.stories) / max(1, len(outcome.stories)):.2f}",
                f"{sum(s.starts for s in lasting) / max(1, len(lasting)):.1f}",
                share(round(wasted), round(worked)),
                len(outcome.needed),
            )
        )
    head = ("variant", "recovered", "permanent retried", "healthy touched", "from fault (min)",
            "executions a unit", "on a dead host", "work wasted", "operator actions")  # fmt: skip
    return table(head, rows)


def judge(outcome: Outcome, compared: Sequence[Outcome], *, long: bool) -> Verdict:
    """Hold the figures against what they must be. The short form leaves out what needs large numbers."""
    verdict = Verdict()
    struck = outcome.struck
    recovered = [story for story in struck if story.recovered]
    healthy, permanent = outcome.of(HEALTHY), outcome.of(PERMANENT)
    if long:
        verdict.least("injected recoverable faults", len(struck), 400, ".0f")
        verdict.least("healthy controls", len(healthy), 200, ".0f")
        verdict.least("permanent failures", len(permanent), 200, ".0f")
        verdict.least("recovered, lower bound (%)", 100 * wilson(len(recovered), len(struck))[0], 92)
    verdict.least("recovered (%)", 100 * len(recovered) / max(1, len(struck)), 95 if long else 90)
    verdict.most("healthy controls killed or restarted (%)", _percent(outcome.touched, healthy), 1)
    verdict.most("permanent failures retried (%)", _percent(outcome.retried, permanent), 2 if long else 5)
    verdict.most("false successes", outcome.false_success, 0, ".0f")
    verdict.most("units lost", outcome.lost, 0, ".0f")
    verdict.most("units published twice", len(outcome.twice), 0, ".0f")
    verdict.most("units executed twice at a time", outcome.overlaps, 0, ".0f")
    verdict.most("devices held twice at a time", outcome.shared, 0, ".0f")
    times = [story.recovery_min for story in recovered if story.recovery_min is not None]
    verdict.most("median from fault to recovery (min at scale 1)", quantile(times, 0.5), 3)
    verdict.most("p90 from fault to recovery (min at scale 1)", quantile(times, 0.9), 10 if long else 25)
    if compared:
        ours, plain, retries = compared
        for other, least in ((plain, 90), (retries, 80)):
            fewer = 100 * (1 - len(ours.needed) / max(1, len(other.needed)))
            verdict.least(f"operator actions fewer than with {other.name} (%)", fewer, least, ".1f")
    return verdict


def _percent(some: Sequence[object], all_of_them: Sequence[object]) -> float:
    return 100 * len(some) / max(1, len(all_of_them))


def misjudged(outcome: Outcome) -> str:
    """Every unit that did not behave as the truth has it, one line each."""
    lines = []
    for story in outcome.struck:
        if not story.recovered:
            lines.append(f"not recovered: {story.unit.name} ({story.starts} starts, right: {story.right})")
    lines += [f"touched: {story.unit.name} ({story.starts} starts)" for story in outcome.touched]
    lines += [f"retried: {story.unit.name} ({story.starts} starts)" for story in outcome.retried]
    lines += [f"published twice: {story.unit.name}" for story in outcome.twice]
    tally = Counter(action.what for action in outcome.needed)
    return "\n".join([*lines, f"operator: {dict(tally)}"])
