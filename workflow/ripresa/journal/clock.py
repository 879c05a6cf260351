"""Times as the journal writes them: ISO 8601 in UTC, with microseconds."""

from __future__ import annotations

import time

_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def iso(seconds: float | None = None) -> str:
    """Format seconds since the epoch (now by default), e.g. ``2026-01-09T05:30:00.000000+00:00``."""
    if seconds is None:
        seconds = time.time()
    whole, micros = divmod(round(seconds * 1_000_000), 1_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{micros:06d}+00:00"


def steady() -> float:
    """Seconds of a clock that nobody sets and that goes on while the machine sleeps (since boot on Linux)."""
    return time.clock_gettime(_STEADY)


def seconds(text: str | None) -> float:
    """Seconds since the epoch of an ISO 8601 time; 0.0 for an absent or unreadable one."""
    if not text:
        return 0.0
    from datetime import datetime

    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return 0.0
