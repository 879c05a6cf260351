"""The judge of units on SLURM that faults struck: goes by records, targets, starts, and times."""

import json
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from stricken import RUN, Campaign, seconds

ALLOWED_S = 15.0
"""How long after SLURM a decision may come."""


class Expected(NamedTuple):
    """What is to become of a unit. ``fault`` is what the table calls it."""

    fault: str
    unit: str
    failures: tuple[tuple[str, str], ...] = ()
    """Class and decision of each failed attempt."""
    end: str = "published"
    starts: int = 1
    says: str = ""
    """Words that the evidence has to have."""
    timed: tuple[str, ...] = ()
    """SLURM's states of the instance that ended by the fault."""
    submitted: bool = False
    """What has to come in time is its submission, not the record of its failure."""
    also: tuple[Callable[[Campaign, str], Iterator[str]], ...] = ()
    """They tell what else is wrong, of this unit."""


class Row(NamedTuple):
    """One unit as it was judged."""

    fault: str
    slurm_s: float | None
    ours_s: float | None
    classes: str
    decisions: str
    end: str
    starts: int
    problems: list[str]


def judge(c: Campaign, expected: Expected) -> Row:
    """Hold a unit against what is expected of it."""
    n = expected.unit
    problems = []
    records = c.records(n)
    failed = [record for record in records if record["outcome"] not in ("published", "adopted")]
    found = tuple((record["failure_class"], record["decision"]) for record in failed)
    if found != expected.failures:
        problems.append(f"failures are {found}, not {expected.failures}")
    last = records[-1] if records else {}
    path = c.directory / RUN / c.target(n)
    there = path.exists() and path.read_text() == f"unit {n}\n"
    published = there and last.get("outcome") in ("published", "adopted")
    is_end = "published" if published else {"refused": "given up", "quarantine": "quarantined"}.get(
        last.get("decision", ""), "nothing"
    )  # fmt: skip
    if is_end != expected.end or path.exists() != there:
        problems.append(f"it ended as {is_end}, not {expected.end}")
    starts = len(c.starts(n))
    if starts != expected.starts:
        problems.append(f"{starts} starts, not {expected.starts}")
    overlaps = c.directory / "overlaps"
    if overlaps.exists() and n in overlaps.read_text().split():
        problems.append("two at once")
    evidence = [str(record["evidence"]) for record in failed]
    if expected.says and not any(expected.says.lower() in one.lower() for one in evidence):
        problems.append(f"no evidence says {expected.says!r}: {evidence}")
    if None in c.codes:
        problems.append("the call hangs")
    ours_at: float | None
    if expected.submitted:
        ours_at = min((seconds(line["ts"]) for line in c.ledger(n) if line["job"]), default=float("inf"))
    else:
        ours_at = seconds(failed[0]["ended"]) if failed else None
    slurm_at = c.slurm_at.get(n) or (c.instance(n, *expected.timed) if expected.timed else None)
    if expected.timed and slurm_at is None:
        problems.append(f"SLURM has no instance that is {' or '.join(expected.timed)}")
    ours_s = None if slurm_at is None or ours_at is None else ours_at - slurm_at
    if ours_s is not None and ours_s > ALLOWED_S:
        problems.append(f"decided {ours_s:.1f} s after SLURM")
    struck = c.struck.get(n)
    slurm_s = None if slurm_at is None or struck is None else slurm_at - struck
    for check in expected.also:
        problems.extend(check(c, n))
    classes = ", ".join(str(one) for one, _ in found) or "-"
    decisions = ", ".join(str(one) for _, one in found) or "-"
    return Row(expected.fault, slurm_s, ours_s, classes, decisions, is_end, starts, problems)


def node_is_avoided(c: Campaign, n: str) -> Iterator[str]:
    """The node that was lost is on record as bad, and the unit does not come back to it."""
    node = (c.directory / "lost.node").read_text()
    nodes = c.directory / RUN / "journal/slurm/nodes.json"
    bad = json.loads(nodes.read_text()) if nodes.exists() else {}
    if node not in bad or seconds(bad[node]["until"]) < time.time() - 120:
        yield f"nodes.json has {bad}, not {node}"
    if any(record["host"] == node for record in c.records(n)[1:]):
        yield "again on the lost node"


def node_is_excluded(c: Campaign, n: str) -> Iterator[str]:
    """A unit that is submitted afterwards is not to go to the node that was lost."""
    node = (c.directory / "lost.node").read_text()
    batches = c.directory / RUN / "journal/slurm/batches"
    options = [
        json.loads((batches / one["batch"] / "batch.json").read_text())["options"] for one in c.ledger(n)
    ]
    if not any(f"--exclude={node}" in words for words in options):
        yield f"{node} was not excluded: {options[:1]}"


def pause_is_told(c: Campaign, n: str) -> Iterator[str]:
    """People hear that SLURM does not answer, and when it does again."""
    if "SLURM does not answer" not in c.log() or "SLURM answers again" not in c.log():
        yield "nobody was told of the pause"


def submitted_once(c: Campaign, n: str) -> Iterator[str]:
    """SLURM got one job for each unit of the campaign."""
    key = json.loads((c.directory / RUN / "journal/slurm/run.json").read_text())["key"]
    jobs = {one.job for one in c.cluster.executions() if one.name.startswith(f"ripresa.{key}.")}
    if len(jobs) != len(c.units):
        yield f"{len(jobs)} jobs, {len(c.units)} units: {sorted(jobs)}"
