"""The units that a configuration asks for: what the rule file has to know when it is parsed."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from ripresa.families.benchmarks import fingerprint, registry
from ripresa.families.benchmarks.adaptive import Repetitions
from ripresa.families.benchmarks.measurement import BenchmarkError
from ripresa.families.benchmarks.needs import missing
from ripresa.families.benchmarks.order import positions

Unit = dict[str, Any]

LOCALHOST = "localhost"


def host_name(host: str) -> str:
    """The name of a host in targets and tables: for `localhost` the short name of this machine."""
    return socket.gethostname().split(".")[0] if host == LOCALHOST else host


def plan(config: Mapping[str, Any], folder: str) -> dict[str, list[Unit]]:
    """The units of a `benchmarks` section (valid, its hosts resolved); `folder` is that of the run.

    - "hosts": the `name` of each in the inventory, how its results call it (`host`), and what the workloads
      need there (`needs`, by workload).
    - "fingerprints": one for each host; `system` is the digest of its fingerprint, so that a machine that
      changed makes its fingerprint out of date, and with it all that was measured there. It is null for
      other hosts than this one, which are not asked before anything runs.
    - "series": one for each host and workload: how often it is repeated (`minimum`, `maximum`), whether
      it warms up, why it cannot run here (`skipped`, null if it can), the spread to be reached (`cv`, null
      for none), and the places of its repetitions among all of the host (`positions`).
    - "warmups", "repetitions": what is run, with all that determines the result: the parameters, and the
      definition of the workload, so that a host needs no files of workloads. `peer` is the next host for a
      workload between two, null if there is no other.
    - "verdicts": after which repetitions it is judged whether the `cv` is small enough.

    BenchmarkError, which names the place, for what the schema cannot see. Takes a few milliseconds.
    """
    hosts = [host_name(host) for host in config["hosts"]]
    if len(set(hosts)) < len(hosts):
        raise BenchmarkError(
            f"benchmarks.hosts: {host_name(LOCALHOST)} is this machine, which {LOCALHOST} stands for, and "
            f"also a host of the inventory, whose results would have the same place: name one of the two"
        )
    own = {host_name(LOCALHOST)} if LOCALHOST in config["hosts"] else set()
    system = fingerprint.digest(fingerprint.collect(config["scratch"] or folder)) if own else None
    found: dict[str, list[Unit]] = {
        "hosts": [
            {"host": host, "name": name, "needs": {}}
            for host, name in zip(hosts, config["hosts"], strict=True)
        ],
        "fingerprints": [
            {"host": host, "scratch": config["scratch"], "system": system if host in own else None}
            for host in hosts
        ],
        **{kind: [] for kind in ("series", "warmups", "repetitions", "verdicts")},
    }
    repetitions: dict[str, Repetitions] = {}
    for workload, given in config["workloads"].items():
        settings = {**{key: config[key] for key in ("preset", "repetitions", "warmup")}, **(given or {})}
        try:
            wanted = repetitions[workload] = Repetitions.of(settings["repetitions"])
        except BenchmarkError as error:
            raise BenchmarkError(f"benchmarks.workloads.{workload}: {error}") from error
        about = registry.load(workload, given)
        definition = registry.definition(about)
        measured = {
            "preset": settings["preset"],
            "parameters": registry.parameters(about, settings["preset"], settings.get("parameters")),
            "scratch": config["scratch"],
            "definition": definition,
        }
        if definition["needs"]:
            for one in found["hosts"]:
                one["needs"][workload] = definition["needs"]
        reason = missing(definition["needs"])
        for number, host in enumerate(hosts):
            unit: Unit = {"host": host, "workload": workload}
            other = hosts[(number + 1) % len(hosts)] if "peer" in definition else host
            run = {**measured, "peer": other if other != host else None}
            found["series"].append(
                {
                    **unit,
                    "minimum": wanted.minimum,
                    "maximum": wanted.maximum,
                    "warmup": settings["warmup"],
                    "skipped": reason if host in own else None,
                    "cv": wanted.cv,
                }
            )
            if settings["warmup"]:
                found["warmups"].append({**unit, "repetition": None, **run})
            found["repetitions"] += [{**unit, "repetition": n, **run} for n in range(1, wanted.maximum + 1)]
            found["verdicts"] += [
                {**unit, "repetition": n, "cv": wanted.cv} for n in range(wanted.minimum, wanted.maximum)
            ]
    places = {host: positions(repetitions, config["order"], config["seed"], host) for host in hosts}
    for one in found["series"]:
        one["positions"] = places[one["host"]][one["workload"]]
    return found
