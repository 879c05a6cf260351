"""What a unit waits for, in words."""

from ripresa.cli.answers import count, lasted, local
from ripresa.journal import clock, state
from ripresa.journal.text import printable


def waiting(unit: state.UnitState, now: float) -> str:
    """What a unit waits for and until when; empty if for nothing but its turn."""
    found = unit.waits_for
    if not found:
        return ""
    until = clock.seconds(found["until"])
    names = ", ".join(map(printable, found["names"]))
    more = found["count"] - len(found["names"])
    named = f"{names} and {more:,} more" if more > 0 else names
    match found["what"]:
        case "time":
            return f"again in {lasted(until - now)} at {local(found['until'])}"
        case "breaker" if until:
            return f"breaker of {named} is open for {lasted(until - now)}, until {local(found['until'])}"
        case "breaker":
            return f"breaker of {named} is half-open, and its probes are under way"
        case "device":
            return f"device in use: {named}"
        case "blocked":
            return f"blocked by {named}"
        case "process":
            return f"held by {named}, of an earlier call"
    return f"for {count(found['count'], 'unit')} upstream: {named}"
