"""What to do about a failed attempt: retry, when and with what changed, give up, or quarantine."""

import math
import os
import random
from typing import Any, NamedTuple

from ripresa.journal import clock, records
from ripresa.journal.paths import Run

Record = dict[str, Any]
Policy = dict[str, Any]
RETRIES = ("yes", "tentative", "next_run", "no")


class Decision(NamedTuple):
    """``decision`` is one of done, retry, quarantine, refused (contract C4)."""

    decision: str
    not_before: str | None
    changes: dict[str, Any]
    reason: str
    fruitless: bool = False
    """Given up because restarts brought no progress."""


def load(run: Run) -> Policy:
    """The recovery policy of a run as its controller resolved it, or the packaged default.

    A damaged file counts as none; the controller writes it anew at its start.
    """
    policy = records.read_json(run.recovery)
    return policy if _usable(policy) else default()


def _usable(policy: Any) -> bool:
    """Whether `decide` and the breakers can work with a document; config/ is checked by a schema before."""
    try:
        numbers = [policy["time_scale"], policy.get("restarts", 3), *policy.get("breaker", {}).values()]
        for rule in policy["classes"].values():
            numbers += rule.get("delays_min") or []
            numbers += [rule.get(name, 0) for name in ("budget", "cap", "jitter")]
            if rule["retry"] not in RETRIES or not isinstance(rule.get("changes") or {}, dict):
                return False
            if not isinstance(rule.get("scope") or [], str | list):
                return False
    except (AttributeError, KeyError, TypeError):
        return False
    return "unknown" in policy["classes"] and all(isinstance(number, int | float) for number in numbers)


def default() -> Policy:
    """The packaged policy of ``policy.toml``."""
    import tomllib

    with open(os.path.join(os.path.dirname(__file__), "policy.toml"), "rb") as file:
        return tomllib.load(file)


def since_reset(history: list[Record], session: str | None) -> list[Record]:
    """The attempts that count against the budget of a unit now.

    They start after the last publication, release, or surrender of an earlier session: a run that
    gave a unit up is over, and calling again gives it a new budget. A controller that was merely
    killed gave nothing up, so its attempts go on counting.
    """
    start = 0
    for number, record in enumerate(history):
        over = record.get("decision") == "refused" and record.get("session") != session
        if over or record.get("outcome") in ("published", "adopted", "released"):
            start = number + 1
    return history[start:]


def decide(
    policy: Policy,
    history: list[Record],
    failure_class: str,
    *,
    sensible: bool | None = None,
    retry_after: float | None = None,
    progress: object = None,
    session: str | None = None,
    now: float,
    rng: random.Random | None = None,
) -> Decision:
    """Decide about an attempt that failed just now, given the earlier records of its unit.

    ``sensible`` is the classifier's word on whether trying again makes sense; against a class that is
    normally retried it quarantines, for one that is not it grants what an unknown failure gets.
    ``retry_after`` (seconds, from the service itself) wins over the delays of the policy. ``progress`` is
    how far this attempt came, if it told.
    """
    rule = rule_of(policy, failure_class, sensible=bool(sensible))
    if rule["retry"] == "no" or (rule["retry"] == "yes" and sensible is False):
        return Decision("quarantine", None, {}, f"{failure_class} does not go away by itself")
    if rule["retry"] == "next_run":
        return Decision("refused", None, {}, f"{failure_class}; it runs on the next call")

    used, limit, best = spent(policy, rule, history, failure_class, progress=progress, session=session)
    if best is not None and used >= limit:
        return Decision("refused", None, {}, no_progress(used, best), fruitless=True)
    if used >= limit:
        return Decision("refused", None, {}, f"{used} of {limit} retries after {failure_class} are used up")

    delays = rule.get("delays_min") or []
    wait = 60.0 * delays[min(used, len(delays) - 1)] if delays else 0.0
    if retry_after is not None:
        wait = retry_after
    elif wait:
        wait *= 1.0 + float(rule.get("jitter", 0.0)) * (rng or random.Random()).random()
    wait *= float(policy.get("time_scale", 1.0))
    not_before = clock.iso(now + wait) if wait else None
    return Decision("retry", not_before, rule.get("changes") or {}, f"retry {used + 1} of {limit}")


def rule_of(policy: Policy, failure_class: str, *, sensible: bool) -> dict[str, Any]:
    """What the policy says of a class; of ``unknown`` for one never retried, if that is ``sensible``."""
    classes = policy["classes"]
    rule: dict[str, Any] = classes.get(failure_class, classes["unknown"])
    if rule["retry"] == "no" and sensible:
        rule = classes["unknown"]
    return rule


class Spent(NamedTuple):
    """The retries that a unit has used up, how many there may be, and what counts them."""

    used: int
    limit: int
    best: float | None
    """How far the unit came, if restarts that get it no further are what is counted."""


def spent(
    policy: Policy,
    rule: dict[str, Any],
    history: list[Record],
    failure_class: str,
    *,
    progress: object = None,
    session: str | None = None,
) -> Spent:
    """What the earlier records of a unit, and one that failed now at ``progress``, have used up of a rule."""
    recent = since_reset(history, session)
    counts = rule.get("counts", True)
    if counts is not True:
        this = {"outcome": "failed", "failure_class": failure_class, "progress": progress}
        idle, best = restarts_without_progress(policy, [*recent, this], session)
        if best is not None:
            return Spent(idle, int(policy.get("restarts", 3)), best)
    used = sum(record.get("failure_class") == failure_class for record in recent)
    return Spent(used, int(rule.get("budget", 0) if counts else rule.get("cap", 20)), None)


def restarts_without_progress(
    policy: Policy, attempts: list[Record], session: str | None
) -> tuple[int, float | None]:
    """How many attempts in a row now got no further than the best before them, and how far that one came.

    Attempts of classes with a budget of their own do not count, nor do guards that were killed under
    another controller: that says nothing about the unit. None if no attempt told a number.
    """
    idle, best = 0, None
    for record in attempts:
        reached = reached_by(record)
        if reached is not None and (best is None or reached > best):
            idle, best = 0, reached
        elif best is not None and _is_free(policy, record, session):
            idle += 1
    return idle, best


def no_progress(restarts: int, best: float) -> str:
    """Why a unit is given up whose restarts get it no further."""
    return f"{restarts} restarts brought no progress beyond {best:.15g}"


def reached_by(record: Record) -> float | None:
    """How far an attempt came by its own account; None if it told no number."""
    try:
        value = float(record["progress"])
    except (KeyError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _is_free(policy: Policy, record: Record, session: str | None) -> bool:
    """Whether an attempt ended in a way that uses up no budget, and not because a person stopped it."""
    if record.get("failure_class") is None:
        return record.get("outcome") == "interrupted" and record.get("session") == session
    rule = policy["classes"].get(record["failure_class"], {})
    return rule.get("retry") == "yes" and rule.get("counts", True) is not True


def breaker_settings(policy: Policy) -> dict[str, Any]:
    """The figures of the breaker, its time of opening scaled."""
    from ripresa.recovery.breaker import DEFAULTS

    settings = {**DEFAULTS, **(policy.get("breaker") or {})}
    settings["open_s"] = float(settings["open_s"]) * float(policy.get("time_scale", 1.0))
    return settings


def scope_kinds(policy: Policy, failure_class: str) -> list[str]:
    """The kinds of scope that a class of failure may be due to, likeliest first; a node is the host it is."""
    scope = policy["classes"].get(failure_class, {}).get("scope") or []
    kinds = [scope] if isinstance(scope, str) else scope
    return list(dict.fromkeys("host" if kind == "node" else kind for kind in kinds if kind))
