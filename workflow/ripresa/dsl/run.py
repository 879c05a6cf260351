"""The campaign that the rule files describe: one configuration, its units, and the run they live in."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import ripresa
from ripresa import notify
from ripresa.dsl import executor
from ripresa.journal import clock, controller, phases, publish, records
from ripresa.journal.paths import Run

if TYPE_CHECKING:
    from ripresa.dsl.units import Units

_current: "Campaign | None" = None


class Campaign:
    """A run as rule files see it. Nothing is written before `start`, so dry runs leave no trace."""

    def __init__(self, directory: str, session: str) -> None:
        self.dir = directory
        self.session = session
        self.run = Run(directory)
        self.units: list[Units] = []
        self.goals: list[str] = []
        """The files that a call without targets asks for; each family adds its own."""
        self.parts: dict[str, list[str]] = {}
        """The files of each part of the campaign, of which some may be in several (`ripresa plan` tells)."""
        self.on_hosts = executor.on_hosts
        """Whether units run on the hosts of an inventory, which their resource ``host`` names."""
        self.at_failure: list[Callable[[], None]] = []
        """What families still do at the end of a call that could not complete everything."""
        self.phases: list[str] = []
        """Rules in the order in which their jobs follow each other, for the phase events of the run."""
        self.guards: dict[str, dict[str, Any]] = {}
        """Options of guarded commands by the digest of the command."""
        self.rules: list[dict[str, Any]] = []
        """Classifier rules that families add to those of config/recovery.yaml, which win over them."""
        self.escalated: list[dict[str, Any]] = []
        """What failures may change: ``expression`` of the targets, ``resource``, ``first`` and ``limit``."""

    def start(
        self,
        jobs: Iterable[tuple[str, str]],
        *,
        config_sha256: str,
        policy: dict[str, Any],
        forced: bool = False,
        needed: Iterable[str] = (),
        needs: Mapping[str, Iterable[str]] | None = None,
        notifications: Mapping[str, Any] | None = None,
        devices: Mapping[str, Any] | None = None,
    ) -> None:
        """Take hold of the run and write down what its guards and readers need.

        ``jobs`` are the target file and rule name of every job of the campaign, ``needed`` the rule names
        of those that are to run (only `phases` need them), ``needs`` the target files whose jobs each needs
        to be complete, ``notifications`` and ``devices`` the sections ``notify`` and ``devices`` of the
        configuration. Raises `controller.RunIsHeld` if another controller has the run.
        """
        jobs = list(jobs)
        controller.hold(self.run, self.session)
        if forced:
            os.environ["RIPRESA_FORCED"] = "1"
        policy = {**policy, "rules": [*(policy.get("rules") or []), *self.rules]}
        records.write_json(self.run.recovery, policy)
        records.write_json(self.run.device_settings, dict(devices or {}))
        for digest, options in self.guards.items():
            records.write_json(self.run.guard(digest), options)
        if self.escalated or os.path.exists(self.run.escalated):
            records.write_json(self.run.escalated, self.escalated)
        scale = float(policy.get("time_scale", 1.0))
        os.environ["RIPRESA_STALL_S"] = str(float(policy["stall_s"]) * scale)
        os.environ.pop("RIPRESA_LEARN", None)
        if learn := policy.get("learn"):
            figures = learn["attempts"], learn["factor"], float(learn["floor_s"]) * scale
            os.environ["RIPRESA_LEARN"] = " ".join(map(str, figures))
        os.environ["RIPRESA_GRACE_S"] = str(float(policy["grace_s"]))
        self._write_manifest(jobs, config_sha256, needs or {})
        if self.phases:
            phases.plan(self.run, self.session, self.phases, (rule for _, rule in jobs), needed)
        notify.start(self.run, notifications)

    def end(self, complete: Iterable[str] = ()) -> None:
        """Let go of the run, and of the staged files of targets that Snakemake knows to be complete."""
        known = {self.run.target_of(path) for path in complete}
        publish.discard_all(self.run, lambda target: target in known)
        controller.release(self.run)
        # The rate limiter of Snakemake leaves a timer behind, which would keep the process for a second more.
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.cancel()

    def _write_manifest(
        self, jobs: list[tuple[str, str]], config_sha256: str, needs: Mapping[str, Iterable[str]]
    ) -> None:
        """List the units of the campaign: of this call, and of earlier ones with the same configuration
        (a call may ask for a part only)."""
        earlier = records.read(self.run.units)
        same = bool(earlier) and earlier[0].get("config_sha256") == config_sha256
        known = (unit for unit in earlier if isinstance(unit.get("target"), str))
        units = {unit["target"]: unit for unit in known} if same else {}
        named = {path: self.run.target_of(path) for path, _ in jobs}
        for path, rule in jobs:
            target = named[path]
            if target is not None:
                upstream = {named.get(other) for other in needs.get(path, ())}
                units[target] = _unit(target, rule, None, sorted(filter(None, upstream)))
        for group in self.units:
            for target in group if group.device_kinds else ():
                if target in units:
                    units[target]["device_kinds"] = group.device_kinds
            for path, reason in group.skipped:
                target = self.run.target_of(path)
                if target is not None:
                    units[target] = _unit(target, None, reason, [])
        header = {"session": self.session, "started": clock.iso(), "config_sha256": config_sha256}
        records.write_lines(self.run.units, [header, *units.values()])


def _unit(target: str, rule: str | None, skipped: str | None, needs: list[str]) -> dict[str, Any]:
    unit = {"target": target, "rule": rule, "family": target.partition("/")[0], "skipped": skipped}
    return {**unit, "needs": needs} if needs else unit


def open_run(run_id: str, *, directory: str = "runs", main: bool = True) -> Campaign:
    """Open the campaign of this configuration; what units and guards are declared next belongs to it.

    ``main`` is False in the processes that Snakemake starts for single jobs: they belong to the
    session of their controller. Raises NotADirectoryError if something else has the place of the run.
    """
    global _current  # noqa: PLW0603 - rule files share one namespace and one campaign
    path = f"{directory}/{run_id}"
    for place in (directory, path):
        if os.path.lexists(place) and not os.path.isdir(place):
            raise NotADirectoryError(f"{place} is not a directory, but runs live there; move it away")
    session = os.environ.get("RIPRESA_SESSION")
    if main or not session:
        session = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{os.uname().nodename}-{os.getpid()}"
    os.environ.update(
        RIPRESA_RUN=os.path.abspath(path),
        RIPRESA_SESSION=session,
        RIPRESA_PYTHON=sys.executable,
        RIPRESA_GUARD=os.path.join(
            os.path.dirname(os.path.abspath(ripresa.__file__)), "recovery", "__main__.py"
        ),
    )
    if main:
        # What a Snakemake around this one (a unit may call one) said of itself does not hold here.
        for name in ("RIPRESA_FORCED", "RIPRESA_LOGGER", "RIPRESA_SCHEDULER"):
            os.environ.pop(name, None)
    _current = Campaign(path, session)
    return _current


def current() -> Campaign:
    """The campaign that was opened last."""
    if _current is None:
        raise RuntimeError("no run is open: include rules/common.smk before the rules of a family")
    return _current
