"""Whether a pending job will ever start, and what a refused submission means: `reasons.toml`, applied."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

TABLES = Path(__file__).with_name("reasons.toml")

PASSES, HELD, NEVER = "passes", "held", "never"
REFUSED, LATER, OUTAGE = "refused", "later", "outage"


class Prospect(NamedTuple):
    """What is to be expected of a pending job."""

    kind: str
    """``passes`` by itself, ``held`` until a person lets it go, or ``never``."""
    failure_class: str | None
    """``configuration`` for what never ends, else None."""
    text: str
    """For people, with the reason quoted."""
    patience: float = 0.0
    """Seconds for which a reason that never ends has to stand before it counts."""


def pending(reason: str) -> Prospect:
    """Say what a reason promises, as squeue, scontrol or sacct write it. A reason that nobody knows waits."""
    quoted = " ".join(reason.split())
    if quoted.startswith("("):  # %R of squeue
        quoted = quoted[1:].removesuffix(")")
    entry = _entry(quoted)
    if entry is None:
        return Prospect(PASSES, None, quoted or "SLURM gives no reason yet")
    failure_class = "configuration" if entry["kind"] == NEVER else None
    text = f"{quoted}: {entry['text']}" if quoted else entry["text"]
    return Prospect(entry["kind"], failure_class, text, entry.get("patience", 0))


def refusal(stderr: str) -> tuple[str, str | None]:
    """Return kind and failure class of a command of SLURM's that failed, from its standard error.

    ``refused``: this request will never be taken, and the class says why. ``later``: limits of submission or
    a closed partition, no failure. ``outage``: SLURM did not answer. What nobody has heard of, such as a
    site's own words, is refused as ``unknown``. The last line that says something decides.
    """
    lines = [line for line in stderr.lower().splitlines() if line.strip()]
    policy = False
    for line in reversed(lines):
        if policy and (limit := _limit(line)):
            return limit
        entry = next(
            (entry for entry in _tables()["refusal"] if any(word in line for word in entry["match"])), None
        )
        if entry is None:
            continue
        if entry["kind"] != "policy":
            return (LATER, None) if policy else (entry["kind"], _class(entry))
        policy = True
    return (LATER, None) if policy else (REFUSED, "unknown")


def _class(entry: Mapping[str, Any]) -> str | None:
    return entry.get("class", "configuration") if entry["kind"] == REFUSED else None


def _limit(line: str) -> tuple[str, str | None] | None:
    """What sbatch means by the limit that it names before it refuses; None for a line that names none.

    A full queue empties. Any other limit is named only if this one request is beyond it.
    """
    name = line.removeprefix("sbatch: error: ").strip()
    if " " in name or _entry(name) is None:
        return None
    return (LATER, None) if "submit" in name else (REFUSED, "configuration")


def _entry(reason: str) -> Mapping[str, Any] | None:
    """The first entry of the table that fits a reason."""
    written = reason.lower().replace("_", " ").strip()
    for entry in _tables()["pending"]:
        if any(fnmatchcase(written, pattern) for pattern in entry["match"]):
            return entry
    return None


@lru_cache(maxsize=1)
def _tables() -> Mapping[str, list[dict[str, Any]]]:
    import tomllib

    tables = tomllib.loads(TABLES.read_text(encoding="utf-8"))
    for entry in (*tables["pending"], *tables["refusal"]):
        entry["match"] = [pattern.lower() for pattern in entry["match"]]
    return tables
