"""Says what made a command fail: a failure class, from explicit evidence and the text of its log.

Every rule of `patterns.toml` names one cause. All rules that match somewhere in the log compete with the
explicit evidence, and the strongest statement about the *root* cause wins, not the last line; see
docs/classifier.md. Only the standard library is imported, and rules are read when first asked for, because
the guard imports this module.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ripresa.recovery import evidence
from ripresa.recovery.logtext import Log
from ripresa.recovery.rules import STRENGTH, Rules, load_rules

__all__ = ["Verdict", "classify", "load_rules"]

# What a statement loses. The steps between strengths are 1, so a soft line about something serious ranks
# below a plain error and still above a mere last resort.
SOFT = 1.25  # by standing in a warning, or in a message about something that is being retried
AFTERMATH = 1.75  # by being about cleaning up
HANDLED = 0.25  # by being an exception that was caught

LINES = 200  # lines of one rule that compete; more of the same add nothing


class Verdict(NamedTuple):
    """What happened. `evidence` is a line of the log, verbatim; if there is none, it names the exit code."""

    failure_class: str
    retry: bool
    evidence: str
    rule: str


class _Statement(NamedTuple):
    score: float
    line: int | None
    rule: str
    failure_class: str
    retry: bool


def classify(
    text: str,
    *,
    exit_code: int | None = None,
    signal: int | None = None,
    slurm_state: str | None = None,
    oom_killed: bool = False,
    extra_rules: Sequence[Mapping[str, Any]] = (),
) -> Verdict:
    """Classify one failed attempt.

    `text` is its log. `exit_code` may be that of a shell or of Python's subprocess: negative or above 128 is
    a signal. `oom_killed` says whether the kernel or a cgroup counted an out-of-memory kill. `extra_rules`
    are a user's, in the form of `patterns.toml`; they win over everything. ValueError names a malformed one.
    """
    rules = load_rules(extra_rules)
    log = Log(text)
    ended = evidence.Ended(exit_code, signal, slurm_state, oom_killed)
    statements = [s for s in (*_from_log(rules, log), *_from_ending(rules, ended)) if s.score > 0]
    if not statements:
        return Verdict("unknown", rules.retry["unknown"], log.last() or str(ended), "nothing-known")
    best = max(statements, key=_rank)
    line = best.line
    if line is None:  # decided without the log: quote the line that says the same, else its last words
        agreeing = [s for s in statements if s.failure_class == best.failure_class and s.line is not None]
        line = max(agreeing, key=_rank).line if agreeing else None
    quoted = log.last() if line is None else log.quote(line)
    return Verdict(best.failure_class, best.retry, quoted or str(ended), best.rule)


def _rank(statement: _Statement) -> tuple[float, int]:
    """The stronger wins; of equals the earlier line, as failures cascade; of one line the earlier rule."""
    return statement.score, -(statement.line or 0)


def _from_log(rules: Rules, log: Log) -> Iterator[_Statement]:
    discounts: dict[int, float] = {}
    for rule in rules.causes:
        lines = [number for pattern in rule.patterns for number in log.find(pattern)]
        if not lines or (rule.requires and not log.contains(rule.requires)) or log.contains(rule.unless):
            continue
        for number in {min(lines), max(lines), *lines[:LINES]}:
            score = rule.strength
            if score < STRENGTH["user"]:
                if number not in discounts:
                    discounts[number] = _discount(rules, log.clean[number])
                score -= discounts[number]
                if rule.failure_class == "code" and number < log.handled_before:
                    score -= HANDLED
            yield _Statement(score, number, rule.name, rule.failure_class, rule.retry)


def _discount(rules: Rules, line: str) -> float:
    if any(pattern.matches(line) for pattern in rules.aftermath):
        return AFTERMATH
    return SOFT if any(pattern.matches(line) for pattern in rules.noise) else 0.0


def _from_ending(rules: Rules, ended: evidence.Ended) -> Iterator[_Statement]:
    for fact in evidence.facts(ended):
        retry = rules.retry[fact.failure_class]
        yield _Statement(fact.strength, None, fact.name, fact.failure_class, retry)
