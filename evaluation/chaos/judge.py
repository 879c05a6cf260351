"""The judge: what became of every unit, by the ledger of the commands, the truth and the events."""

import math
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from chaos.campaign import Campaign
from chaos.catalogue import RULES, STALL_AT_SCALE_1_S, STALL_S, Kind, Unit
from chaos.ledger import Entry, Ledger
from ripresa.journal import attempts, clock, records

Event = dict[str, Any]


class Moments(NamedTuple):
    """Seconds since the epoch: the fault, its detection (the end of the failed attempt), the publication."""

    fault: float
    detected: float
    recovered: float


@dataclass
class Story:
    """What happened to one unit.

    ``struck`` is when its fault happened (None: never), ``right`` whether its target holds what it must in
    the end, ``helped`` whether a person had to do something for it. Times at scale 1 are in min.
    """

    unit: Unit
    struck: float | None
    right: bool
    helped: bool
    starts: int
    published: int
    broken_off: int
    """Attempts that failed or were interrupted."""
    recovery_min: float | None = None
    from_detection_min: float | None = None
    wasted_s: float = 0.0
    worked_s: float = 0.0
    kind: Kind | None = None
    """Under what the story counts; the unit's own kind by default."""

    def __post_init__(self) -> None:
        self.kind = self.kind or self.unit.kind

    @property
    def recovered(self) -> bool:
        return self.struck is not None and self.right and not self.helped


def wilson(successes: int, number: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % bounds of a share, by Wilson; (0, 1) for none."""
    if not number:
        return 0.0, 1.0
    share = successes / number
    middle = share + z * z / (2 * number)
    spread = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    scale = 1 + z * z / number
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


class Watch(threading.Thread):
    """Looks at all targets while a campaign lasts: what has a target's name must be right at all times."""

    def __init__(self, campaign: Campaign) -> None:
        super().__init__(daemon=True)
        self.campaign = campaign
        self.wrong: set[str] = set()
        self._seen: dict[str, tuple[int, int]] = {}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.5):
            self.look()

    def end(self) -> None:
        self._over.set()
        self.join()
        self.look()

    def look(self) -> None:
        """Compare what changed since the last look."""
        for unit in self.campaign.units:
            path = self.campaign.path(unit)
            try:
                info = os.stat(path)
                if self._seen.get(unit.name) == (info.st_ino, info.st_mtime_ns):
                    continue
                if path.read_bytes() != unit.reference:
                    self.wrong.add(unit.name)
            except OSError:
                continue
            self._seen[unit.name] = info.st_ino, info.st_mtime_ns


@dataclass
class Timeline:
    """The events of a run by target, and when breakers were open until their time was over."""

    of: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    open: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, campaign: Campaign) -> "Timeline":
        line = cls()
        for event in records.iterate(campaign.run.events):
            kind, at = event.get("type"), clock.seconds(event.get("ts"))
            if isinstance(event.get("target"), str):
                line.of[event["target"]].append(event | {"at": at})
            scope = str(event.get("scope"))
            if kind == "breaker_opened":
                line.open[scope].append((at, clock.seconds(event.get("until"))))
            elif kind == "breaker_closed" and line.open[scope] and at < line.open[scope][-1][1]:
                # A unit that was running was published: execution decided how long this took.
                line.open[scope].pop()
        return line

    def shrunk_s(
        self, unit: Unit, waits: Mapping[int, float], start: float, end: float, time_scale: float
    ) -> float:
        """What has to be added to the real seconds between two moments to have those at scale 1.

        The waits of the schedule are shrunk by ``time_scale``: those that the policy decided (``waits``, in s
        by attempt), and after them the time for which a breaker of the unit is open, unless a publication
        closed it before its time. So is the stall limit that the rules declare. All else takes what it takes:
        execution, detection, the queue for a slot.
        """
        more = 0.0
        scopes = [f"host:{os.uname().nodename}"]
        given = RULES[unit.kind.rule].guard.get("scopes")
        if isinstance(given, dict):
            scopes += [f"{kind}:{name}" for kind, name in given.items()]
        events = self.of[unit.target]
        begins = [event["at"] for event in events if event["type"] == "unit_start"]
        for event in events:
            if not start <= event["at"] <= end:
                continue
            if event["type"] == "unit_end" and event.get("failure_class") == "hang" and event["at"] > start:
                more += STALL_AT_SCALE_1_S - STALL_S
            if event["type"] != "unit_retry_scheduled":
                continue
            next_start = min((at for at in begins if at >= event["at"]), default=end)
            until = min(max(clock.seconds(event.get("not_before")), event["at"]), next_start)
            spans = [span for scope in scopes for span in self.open[scope]]
            waited = waits.get(event.get("attempt", 0), 0.0) + covered(spans, until, next_start)
            more += waited * (1 / time_scale - 1)
        return more


def covered(spans: Iterable[tuple[float, float]], start: float, end: float) -> float:
    """How much of an interval some spans cover together."""
    total, reached = 0.0, start
    for low, high in sorted(spans):
        part = min(high, end) - max(low, reached)
        if part > 0:
            total += part
            reached = min(high, end)
    return total


def stories(
    campaign: Campaign,
    *,
    struck: dict[str, float],
    helped: set[str],
    repaired: dict[str, float],
    kinds: Mapping[str, Kind] | None = None,
) -> list[Story]:
    """The story of every unit of a campaign run by us. ``struck`` are the faults that came from outside,
    ``kinds`` those under which units count by name, where it is not their own."""
    ledger = Ledger(campaign.judge / "ledger")
    ledger.read()
    timeline = Timeline.read(campaign)
    told = []
    for unit in campaign.units:
        entries = ledger.of[unit.name]
        history = attempts.read(campaign.run, unit.target)
        events = timeline.of[unit.target]
        ends = [event for event in events if event["type"] == "unit_end"]
        broken = [event for event in ends if event.get("outcome") in ("failed", "interrupted")]
        try:
            right = campaign.path(unit).read_bytes() == unit.reference
        except OSError:
            right = False
        fault = _fault(unit, entries, broken, struck)
        before = repaired.get(unit.name, math.inf)
        story = Story(
            unit=unit,
            struck=fault,
            right=right,
            helped=unit.name in helped,
            starts=sum(entry.what == "start" and entry.at < before for entry in entries),
            published=sum(record.get("outcome") == "published" for record in history),
            broken_off=sum(event["at"] < before for event in broken),
            kind=(kinds or {}).get(unit.name),
        )
        published = [event["at"] for event in ends if event.get("outcome") in ("published", "adopted")]
        if fault is not None and published and right:
            detected = min((event["at"] for event in broken if event["at"] >= fault - 0.05), default=fault)
            moments = Moments(fault, detected, max(published))
            _time(story, timeline, _waits(history, events, entries), moments, campaign.time_scale)
        story.wasted_s, story.worked_s = _work(ends, entries)
        told.append(story)
    return told


def _fault(unit: Unit, entries: list[Entry], broken: list[Event], struck: dict[str, float]) -> float | None:
    if unit.name in struck:
        return struck[unit.name]
    if unit.kind.outside:
        return None
    if unit.kind.fault == "segments":
        return broken[0]["at"] if broken else None
    return next((entry.at for entry in entries if entry.what == "fault"), None)


def _waits(history: list[Event], events: list[Event], entries: list[Entry]) -> dict[int, float]:
    """How long the policy made each attempt's successor wait, in s, from the recorded end of the attempt.

    Where the record was torn away, from the last word of the command.
    """
    ended = {record["attempt"]: clock.seconds(record.get("ended")) for record in history}
    due = {record["attempt"]: clock.seconds(record.get("not_before")) for record in history}
    waits = {}
    for event in events:
        if event["type"] == "unit_retry_scheduled" and event.get("not_before"):
            number = event["attempt"]
            if due.get(number):
                waits[number] = max(0.0, due[number] - ended[number])
            else:
                said = max(
                    (e.at for e in entries if e.what != "start" and e.at <= event["at"]), default=event["at"]
                )
                waits[number] = max(0.0, clock.seconds(event["not_before"]) - said)
    return waits


def _time(
    story: Story, timeline: Timeline, waits: Mapping[int, float], moments: Moments, time_scale: float
) -> None:
    fault, detected, recovered = moments
    for name, since in (("recovery_min", fault), ("from_detection_min", detected)):
        real = max(0.0, recovered - since)
        more = timeline.shrunk_s(story.unit, waits, since, recovered, time_scale)
        setattr(story, name, (real + more) / 60)


def _work(ends: list[Event], entries: list[Entry]) -> tuple[float, float]:
    """Seconds of execution that came to nothing, and all of them."""
    wasted = worked = 0.0
    starts = [entry.at for entry in entries if entry.what == "start"]
    for event in ends:
        if event.get("outcome") == "adopted":
            continue
        seconds = event.get("seconds")
        if seconds is None:  # its guard was killed, and the next one wrote this
            seconds = event["at"] - max((at for at in starts if at < event["at"]), default=event["at"])
        worked += seconds
        wasted += 0.0 if event.get("outcome") == "published" else seconds
    return wasted, worked
