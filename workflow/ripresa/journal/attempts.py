"""The attempt records of a unit (contract C4), free of what a crash or a stray hand put among them."""

from __future__ import annotations

from ripresa.journal import clock, processes, records
from ripresa.journal.paths import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TEXTS = {
    "outcome", "decision", "failure_class", "evidence", "reason", "not_before", "started", "ended", "session",
    "command_sha256", "output_sha256",
}  # fmt: skip
_TABLES = {"outputs", "resources", "changes", "excluded", "spent", "blamed", "most"}
_MOST = 10**9


def read(run: Run, target: str) -> list[dict[str, Any]]:
    """All attempt records of a target, oldest first.

    Of an attempt whose guard was told to end the last word counts: that of the batch system, which knows why.
    """
    found: list[dict[str, Any]] = []
    for record in map(_sound, records.iterate(run.attempts(target))):
        if record is None:
            continue
        if found and _explains(record, found[-1]):
            found.pop()
        found.append(record)
    return found


def last(run: Run, target: str) -> dict[str, Any]:
    """The newest attempt record of a target; empty if there is none."""
    path = run.attempts(target)
    newest = records.last(path)
    if newest is None:
        return {}
    record = _sound(newest)
    return record if record is not None else next(iter(read(run, target)[-1:]), {})


def wait_s(record: dict[str, Any], now: float) -> float:
    """Seconds for which the backoff of a unit still lasts, by its newest record; 0.0 if it has none.

    ``now`` is the wall clock, seconds since the epoch. In the boot that wrote the record a clock that nobody
    sets decides; elsewhere the wall clock, but after a jump back it holds for no longer than the delay that
    the record gave.
    """
    until, ended = clock.seconds(record.get("not_before")), clock.seconds(record.get("ended"))
    if record.get("decision") != "retry" or not until:
        return 0.0
    delay, uptime = until - ended if ended else until - now, record.get("uptime_s")
    if isinstance(uptime, float) and record.get("boot_id") == processes.boot_id():
        return max(0.0, min(delay, delay - (clock.steady() - uptime)))
    return max(0.0, min(delay, until - now))


def _explains(record: dict[str, Any], before: dict[str, Any]) -> bool:
    return (
        before["attempt"] == record["attempt"]
        and before.get("failure_class") == "cancelled"
        and record.get("failure_class") is not None
    )


def _sound(record: dict[str, Any]) -> dict[str, Any] | None:
    """The record without fields of a wrong type; None if it numbers no attempt."""
    number = record.get("attempt")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < _MOST:
        return None
    wrong = [
        name
        for name, value in record.items()
        if (name in _TEXTS and not isinstance(value, str))
        or (name in _TABLES and not isinstance(value, dict))
    ]
    record.update(dict.fromkeys(wrong))
    scopes = record.get("scopes")
    record["scopes"] = [s for s in scopes if isinstance(s, str)] if isinstance(scopes, list) else []
    return record
