"""The units that config/jobs.yaml asks for: what the rule file has to know when it is parsed."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ripresa import template
from ripresa.dsl.digests import canonical, digest
from ripresa.dsl.sweeps import SweepError, sweep
from ripresa.dsl.units import SAFE
from ripresa.families.jobs.errors import JobError
from ripresa.families.jobs.headers import header_pattern

Config = Mapping[str, Any]

END = "END_OF_JOB"
"""Ends a job's command where it is handed over."""
PLACES = ("output", "checkpoints", "resume", "segment", "threads")
"""What templates may name beside parameters and resources; known when the job runs."""
LONGEST_LABEL = 100
GROWS = ("mem_mb", "runtime", "batch_size")
"""Resources that failures may change."""
BEAT_S = 5.0
"""The guard's time between two looks at a command, unless a shorter limit needs more of them."""
NO_SWEEP = "once"


def plan(config: Config) -> dict[str, Any]:
    """What a `jobs` section (valid under its schema) asks for, as plain JSON data.

    - "jobs": one entry a job, see `_job`;
    - "rules": the log patterns that have a class, as classifier rules that hold for logs of their job only.

    JobError, which names the place, for what the schema cannot see. Takes some milliseconds.
    """
    jobs = [_job(name, job, config["cluster"]) for name, job in config["jobs"].items()]
    rules = [rule for name, job in config["jobs"].items() for rule in _rules(name, job)]
    return {"jobs": jobs, "rules": rules}


def _job(name: str, job: Config, cluster: str | None) -> dict[str, Any]:
    """One job, for the rule file.

    ``units`` are its points with all that determines their results, and nothing else: a change of these
    runs a unit again. ``grows`` are the resources that failures may change, up to ``limits``, and ``told``
    those that the command or its guard is told when it starts. ``stall`` and ``beat`` are limits of the guard
    in s, ``counter`` says whether nothing but a new step is progress, ``segments`` how many there may be (0:
    the job runs in one piece), ``output`` whether the command writes files of its own.
    """
    where = f"jobs.jobs.{name}"
    resources = _resources(where, job, cluster)
    units = list(_units(where, job, resources))
    segments = job.get("segments")
    if segments:
        if "success" not in job or "checkpoints" not in job:
            raise JobError(
                f"{where}.segments: needs success, which tells a complete job from one that only ended a "
                "segment, and checkpoints to go on from; add both"
            )
        if "runtime" in resources:
            raise JobError(
                f"{where}.segments: its runtime is that of each segment; take it out of the resources"
            )
        if segments["warning_s"] >= 60 * segments["runtime"]:
            raise JobError(
                f"{where}.segments.warning_s: {segments['warning_s']} s are no less than the runtime of "
                f"{segments['runtime']} min; warn later or make segments longer"
            )
        resources["runtime"] = math.ceil(segments["runtime"])
        resources.setdefault("slurm_signal", f"USR1@{math.ceil(segments['warning_s'])}")
    for pattern in _progress_patterns(job):
        if not re.compile(pattern).groupindex:
            raise JobError(
                f"{where}.progress.pattern: {pattern!r} has no named group; write (?P<step>\\d+) or the like"
            )
    stall, beat = _inactivity(job)
    # What is told stands in the shell text, where a name more would run units again that are complete.
    named = template.fields(" ".join([job["command"], *_variables(job).values()]))
    told = [name for name in resources if name in GROWS or f"resources.{name}" in named]
    return {
        "name": name,
        "units": units,
        "threads": resources.get("threads", 1),
        "resources": {key: value for key, value in resources.items() if key != "threads"},
        "told": [name for name in told if type(resources[name]) is int and name != "threads"],
        "grows": [name for name in resources if name in GROWS and not (segments and name == "runtime")],
        "limits": (job.get("resources") or {}).get("limits") or {},
        "stall": stall,
        "beat": beat,
        "counter": "inactivity" in job and _tells_steps(job),
        "segments": segments["count"] if segments else 0,
        "output": "output" in template.fields(job["command"]),
    }


def _resources(where: str, job: Config, cluster: str | None) -> dict[str, Any]:
    asked = job.get("resources") or {}
    clusters = asked.get("clusters") or {}
    resources = {**(asked.get("default") or {}), **(clusters.get(cluster) or {})}
    for name, limit in (asked.get("limits") or {}).items():
        amount = resources.get(name)
        if amount is None:
            raise JobError(f"{where}.resources.limits.{name}: there is no such resource to limit; add it")
        if (limit > amount) if name == "batch_size" else (limit < amount):
            raise JobError(f"{where}.resources.limits.{name}: {limit} leaves no room for {amount}")
    return resources


def _units(where: str, job: Config, resources: Config) -> Iterable[dict[str, Any]]:
    """The points of a job, with the command of each as far as it is known before it runs."""
    try:
        points = sweep(job["sweep"], where=f"{where}.sweep") if job.get("sweep") else [{}]
    except SweepError as error:
        raise JobError(str(error)) from None
    fixed = {f"resources.{key}": str(value) for key, value in resources.items() if type(value) is not int}
    places = {*PLACES, *(f"resources.{key}" for key in resources)}
    environment = job.get("environment") or {}
    if END in job["command"].splitlines():
        raise JobError(f"{where}.command: has the line {END}, which would end it; name it differently")
    for point in points:
        if taken := sorted(places & point.keys()):
            raise JobError(f"{where}.sweep: {taken[0]!r} stands for something else in templates; rename it")
        known = {key: _text(value) for key, value in point.items()}
        texts = {"command": job["command"]}
        texts.update({f"environment.variables.{key}": text for key, text in _variables(job).items()})
        if "file" in (job.get("success") or {}):
            texts["success.file"] = job["success"]["file"]
        if isinstance((job.get("progress") or {}).get("total"), str):
            texts["progress.total"] = job["progress"]["total"]
        for key, text in texts.items():
            _check(f"{where}.{key}", text, [*known, *places])
        if "resume" in template.fields(job["command"]) and "checkpoints" not in job:
            raise JobError(f"{where}.command: {{resume}} is always empty without checkpoints; declare them")
        yield {
            "job": where.rpartition(".")[2],
            "point": label(point),
            "parameters": point,
            "environment": environment,
            "command": template.fill(job["command"], {**fixed, **known}).strip("\n"),
        }


def label(point: Mapping[str, Any]) -> str:
    """How a point is named in paths: `rate=0.1,width=4`, or its digest where that is long or no file name."""
    text = ",".join(f"{key}={_text(point[key])}" for key in sorted(point)) or NO_SWEEP
    return text if len(text) <= LONGEST_LABEL and SAFE.fullmatch(text) else digest(point)


def _variables(job: Config) -> dict[str, str]:
    variables = (job.get("environment") or {}).get("variables") or {}
    return {key: str(value) for key, value in variables.items()}


def _check(where: str, text: str, known: list[str]) -> None:
    for name in template.fields(text):
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f" (did you mean {{{close[0]}}}?)" if close else ""
            raise JobError(
                f"{where}: {{{name}}} is neither a parameter nor one of {', '.join(known)}{hint}; "
                f"for braces of its own write {{{{{name}}}}}"
            )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else canonical(value)


def _rules(name: str, job: Config) -> Iterable[dict[str, Any]]:
    for pattern in job.get("patterns") or []:
        if "class" in pattern:
            rule = {key: pattern[key] for key in ("class", "pattern", "retry") if key in pattern}
            yield {"name": f"{name}.{pattern['name']}", "requires": header_pattern(name), **rule}


def _progress_patterns(job: Config) -> list[str]:
    patterns = (job.get("progress") or {}).get("pattern") or []
    return [patterns] if isinstance(patterns, str) else patterns


def _tells_steps(job: Config) -> bool:
    return any("step" in re.compile(pattern).groupindex for pattern in _progress_patterns(job))


def _inactivity(job: Config) -> tuple[float | None, float | None]:
    """Seconds without progress that are allowed, and those between two looks; None for what is not said.

    Both limits have to be exceeded: so many seconds, and so many looks in a row that saw nothing.
    """
    given = job.get("inactivity") or {}
    seconds, polls = given.get("seconds"), given.get("silent_polls")
    if seconds == 0 or (seconds is None and polls is None):
        return seconds, None
    beat = BEAT_S if seconds is None else min(BEAT_S, seconds / 4)
    return max(seconds or 0.0, (polls or 0) * beat), beat
