"""What to do about a failed attempt: retry, when and with what changed, give up, or quarantine."""

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


def load(run: Run) -> Policy:
    """The recovery policy of a run as its controller resolved it, or the packaged default.

    A damaged file counts as none; the controller writes it anew at its start.
    """
    policy = records.read_json(run.recovery)
    return policy if _usable(policy) else default()


def _usable(policy: Any) -> bool:
    """Whether `decide` and the breakers can work with a document; config/ is checked by a schema before."""
    try:
        numbers = [policy["time_scale"], *policy.get("breaker", {}).values()]
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
    progressed: bool = False,
    session: str | None = None,
    now: float,
    rng: random.Random | None = None,
) -> Decision:
    """Decide about an attempt that failed just now, given the earlier records of its unit.

    ``sensible`` is the classifier's word on whether trying again makes sense; against a class that is
    normally retried it quarantines, for one that is not it grants what an unknown failure gets.
    ``retry_after`` (seconds, from the service itself) wins over the delays of the policy.
    """
    classes = policy["classes"]
    rule = classes.get(failure_class, classes["unknown"])
    if rule["retry"] == "no" and sensible:
        rule = classes["unknown"]
    elif rule["retry"] == "no" or (rule["retry"] == "yes" and sensible is False):
        return Decision("quarantine", None, {}, f"{failure_class} does not go away by itself")
    if rule["retry"] == "next_run":
        return Decision("refused", None, {}, f"{failure_class}; it runs on the next call")

    attempts = [r for r in since_reset(history, session) if r.get("failure_class") == failure_class]
    counts = rule.get("counts", True)
    if counts == "without_progress":
        attempts = [] if progressed else [r for r in attempts if not r.get("progressed")]
        counts = True
    used = len(attempts)
    limit = rule.get("budget", 0) if counts else rule.get("cap", 20)
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
