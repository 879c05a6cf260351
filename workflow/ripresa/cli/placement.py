"""`ripresa plan --placement`: which unit would run on which device, when and why, and when all are done."""

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ripresa.cli.answers import Refusal, Table, count, cut, lasted, local
from ripresa.journal import clock, exclusions, records
from ripresa.journal.paths import Run
from ripresa.journal.text import printable

if TYPE_CHECKING:
    from ripresa.placement.inventory import Device

SHOWN = 20


def placement(
    run: Run, jobs: Iterable[Mapping[str, Any]], settings: Mapping[str, Any] | None, arguments: Sequence[str]
) -> dict[str, Any]:
    """Where and when these units would run on this machine, if all its devices were free.

    A unit has ``target``, ``rule``, ``threads``, ``resources`` and ``input`` (files). ``settings`` is the
    section `devices` of the configuration, None for that with which the run started last; ``arguments`` are
    those for snakemake, of which ``--cores`` counts. Times are in s from now.
    """
    from ripresa.placement.experience import experience
    from ripresa.placement.forecast import Job, forecast
    from ripresa.placement.occupancy import with_cores, written
    from ripresa.placement.scenarios import LEVEL

    settings = _settings(run, settings)
    jobs = list(jobs)
    cores, durations = _cores(arguments), experience(run, {job["rule"] for job in jobs}).durations
    there = _devices(run, settings)
    listed = [
        Job(
            str(job["target"]),
            job["rule"],
            job["threads"],
            job["resources"],
            frozenset(filter(None, map(run.target_of, job.get("input") or ()))),
        )
        for job in jobs
    ]
    found = forecast(listed, with_cores(there, settings, cores), cores, durations)
    known = sum(durations.expected(job.rule) is not None for job in listed)
    return {
        "devices": [
            {
                "name": one.name,
                "kind": one.kind,
                "memory_mb": one.memory_mb or None,
                "model": one.model or None,
            }
            for one in there
        ],
        "cores": cores,
        "units": [
            {
                "target": unit.target,
                "rule": unit.rule,
                "device": written(unit.devices, unit.share) or None,
                "start_s": round(unit.start, 1),
                "end_s": round(unit.end, 1),
                "why": unit.why or None,
            }
            for unit in found.units
        ],
        "impossible": [{"target": target, "reason": why} for target, why in found.impossible.items()],
        "blocked": found.blocked,
        "end": {
            "expected_s": round(found.end, 1),
            "low_s": round(found.interval[0], 1),
            "high_s": round(found.interval[1], 1),
            "level": LEVEL,
            "guessed": len(listed) - known,
        },
    }


def kinds(document: Mapping[str, Any]) -> dict[str, str]:
    """The kind of device that each unit of a placement runs on, of those that have one."""
    of = {device["name"]: device["kind"] for device in document["devices"]}
    return {
        unit["target"]: of.get(unit["device"].partition(",")[0].partition("@")[0], "cpu")
        for unit in document["units"]
        if unit["device"]
    }


def beside_gpus(
    run: Run, jobs: Iterable[Mapping[str, Any]], settings: Mapping[str, Any] | None
) -> dict[str, str]:
    """The units that could use a GPU and run without one, because there is none here."""
    either = [job["target"] for job in jobs if job["resources"].get("device_kinds") == "gpu,cpu"]
    if not either or any(device.kind == "gpu" for device in _devices(run, settings)):
        return {}
    return dict.fromkeys(either, "cpu")


def lines(document: Mapping[str, Any]) -> Iterable[str | Table]:
    """A placement for people."""
    units, end, number = document["units"], document["end"], Counter(d["kind"] for d in document["devices"])
    gpus = count(number["gpu"], "GPU")
    slots = count(number["cpu"], "CPU slot") if number["cpu"] else count(document["cores"], "core")
    if units:
        at = local(clock.iso(time.time() + end["expected_s"]))
        between = f"{end['level']:.0%} between {lasted(end['low_s'])} and {lasted(end['high_s'])}"
        yield (
            f"placement: {count(len(units), 'unit')} on {gpus} and {slots}, "
            f"done in {lasted(end['expected_s'])}, at {at} ({between})"
        )
        if end["guessed"]:
            guessed = count(end["guessed"], "unit")
            yield f"the durations of {guessed} are guesses, as none of their rule has been published"
        listed, hidden = cut(_rows(units), SHOWN)
        yield Table(("DEVICE", "FROM", "TO", "UNITS", "RULE", "WHY"), listed)
        if hidden:
            yield f"... and {hidden:,} more rows; --json lists every unit"
    for reason, targets in _by_reason(document["impossible"]).items():
        yield f"cannot run here: {_named(targets)}: {printable(reason)}"
    if document["blocked"]:
        yield f"cannot run without these: {_named(document['blocked'])}"


def _rows(units: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Units of a rule that run one after another on a device for the same reason are one row."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for unit in units:
        groups.setdefault((unit["device"] or "", unit["rule"], unit["why"] or ""), []).append(unit)
    return [
        (
            printable(device),
            lasted(members[0]["start_s"]) if members[0]["start_s"] else "now",
            lasted(max(unit["end_s"] for unit in members)),
            f"{len(members):,}",
            printable(rule),
            printable(why),
        )
        for (device, rule, why), members in groups.items()
    ]


def _by_reason(impossible: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in impossible:
        found.setdefault(one["reason"], []).append(one["target"])
    return found


def _named(targets: Sequence[str]) -> str:
    some = ", ".join(map(printable, targets[:3]))
    return f"{count(len(targets), 'unit')} ({some}{', ...' if len(targets) > 3 else ''})"


def _devices(run: Run, settings: Mapping[str, Any] | None) -> list["Device"]:
    """The devices that units of the run may have here."""
    from ripresa.placement.inventory import devices

    excluded = exclusions.excluded(run)
    return [one for one in devices(_settings(run, settings), os.environ) if one.name not in excluded]


def _settings(run: Run, settings: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return settings if settings is not None else records.read_json(run.device_settings) or {}


def _cores(arguments: Sequence[str]) -> int:
    """The cores that a call of snakemake with these arguments may use here."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--cores", "-c", nargs="?", default="all", const="all")
    try:
        given = str(parser.parse_known_args(list(arguments))[0].cores)
    except argparse.ArgumentError as error:
        raise Refusal(f"snakemake {error}") from None
    return int(given) if given.isdecimal() and int(given) else len(os.sched_getaffinity(0))
