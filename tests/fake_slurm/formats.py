"""Texts of SLURM's: lists of nodes and tasks, lengths of time, points in time."""

import os
import time

from fake_slurm.store import Stop


def expand(text: str | None) -> list[str]:
    """Names in a list of nodes: "n[1-2,7],m" -> n1, n2, n7, m."""
    names, depth, part = [], 0, ""
    for letter in f"{text or ''},":
        depth += (letter == "[") - (letter == "]")
        if letter != "," or depth:
            part += letter
            continue
        stem, bracket, inside = part.partition("[")
        numbers = tasks(inside.rstrip("]"))[0] if bracket else [""]
        names += [f"{stem}{number}" for number in numbers if stem]
        part = ""
    return names


def tasks(text: str) -> tuple[list[int], int]:
    """Task numbers of an array and how many may run at once (0: all): "0-6:2,9%2" -> [0, 2, 4, 6, 9], 2."""
    text, _, throttle = text.partition("%")
    numbers: list[int] = []
    try:
        for part in text.split(","):
            span, _, step = part.partition(":")
            first, dash, last = span.partition("-")
            found = range(int(first), int(last if dash else first) + 1, int(step or 1))
            if not found:
                raise ValueError
            numbers += found
        return numbers, int(throttle or 0)
    except ValueError:
        raise Stop("sbatch: error: Batch job submission failed: Invalid job array specification") from None


def compact(numbers: list[int]) -> str:
    """The reverse: 2, 3, 4, 9 -> "2-4,9"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = []
    for run in runs:
        parts += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(number) for number in run]
    return ",".join(parts)


def minutes(text: str) -> float | None:
    """A length of time as --time takes it: minutes, M:S, H:M:S, D-H[:M[:S]]. None has no end."""
    if text.upper() in ("INFINITE", "UNLIMITED", "0", "-1"):
        return None
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        h, m, s = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        h, m, s = parts
    else:
        h, (m, s) = 0, (*parts, 0)[:2]
    return int(days or 0) * 1440 + h * 60 + m + s / 60


def length(seconds: float, padded: bool = False) -> str:
    """5 -> 0:05, 3600 -> 1:00:00, 90000 -> 1-01:00:00."""
    whole = int(max(seconds, 0))
    days, hours, rest = whole // 86400, whole % 86400 // 3600, f"{whole % 3600 // 60:02}:{whole % 60:02}"
    if days:
        return f"{days}-{hours:02}:{rest}"
    return f"{hours:02}:{rest}" if padded else f"{hours}:{rest}" if hours else rest.removeprefix("0")


def stamp(seconds: float | None, missing: str) -> str:
    """A point in time as SLURM_TIME_FORMAT says."""
    form = os.environ.get("SLURM_TIME_FORMAT", "standard")
    form = form if "%" in form else "%Y-%m-%dT%H:%M:%S"
    return missing if seconds is None else time.strftime(form, time.localtime(seconds))


UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}


def moment(text: str, minute: float = 60.0) -> float:
    """A point in time: now, now-5days, now+2 (seconds), today, 2026-01-31, 2026-01-31T10:00:00."""
    if text.startswith("now"):
        rest = text[3:]
        if not rest:
            return time.time()
        digits = rest[1:].rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = rest[1 + len(digits) :].removesuffix("s") or "second"
        if rest[0] in "+-" and digits.isdigit() and unit in UNITS:
            return time.time() + int(rest[0] + digits) * UNITS[unit] * minute / 60
    if text in ("today", "midnight"):
        return time.mktime((*time.localtime()[:3], 0, 0, 0, 0, 0, -1))
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"):
        try:
            return time.mktime(time.strptime(text, form))
        except ValueError:
            continue
    raise Stop(f"Invalid time specification (pos=0): {text}")
