"""Results of a study that was run elsewhere, taken over from its table and the state of its manager.

The table (the columns of `table.COLUMNS`, in any order, `_acc` for `_accuracy`, too) says what is finished;
the state file only what the manager believed. A row is taken if it is valid, if its parameters are those of
exactly one configured experiment, and if no other row contradicts it. What its columns do not tell is decided
by its phase: a row of a configured phase is of one of that phase's experiments or of none. Everything else is
a finding: nothing is left out silently.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from ripresa.dsl.digests import canonical
from ripresa.families.experiments import ExperimentError, architecture
from ripresa.families.experiments.plan import Phase, union
from ripresa.families.experiments.table import ALL_PARAMETERS, COLUMNS, METRICS, PARAMETERS

INVALID, UNKNOWN, AMBIGUOUS, CONTRADICTORY = "invalid", "unknown", "ambiguous", "contradictory"
OTHER_PHASE = "other phase"
DUPLICATE, OTHER_MODEL, NO_ROW = "duplicate", "other model", "no row"
ASSIGNED, FAILED = "assigned", "failed"
LEFT_OUT = (INVALID, UNKNOWN, AMBIGUOUS, CONTRADICTORY, OTHER_PHASE)
"""Findings for which a row was not taken."""

_KEY = (*PARAMETERS, "seed")
_HIDDEN = tuple(name for name in ALL_PARAMETERS if name not in _KEY)
"""Parameters without a column of their own in every table; one that has them is taken at its word."""
_WORDS = {
    "dataset": {"digits": "digits", "mnist": "mnist", "fashionmnist": "fashion_mnist", "cifar10": "cifar10"},
    "model_type": {"lr": "MLP", "linear": "MLP", "mlp": "MLP", "cnn": "CNN"},
    "poison_type": {
        **dict.fromkeys(("labelflip", "labelflipping", "flip"), "label_flip"),
        **dict.fromkeys(("randomnoise", "noise", "randomlabels"), "random_noise"),
    },
    "data_ordering": {**dict.fromkeys(("shuffle", "shuffled"), "shuffle"), "fixed": "fixed"},
    "aggregator": {
        **dict.fromkeys(("fedavg", "mean", "average"), "fedavg"),
        **dict.fromkeys(("median", "coordinatemedian", "coordinatewisemedian"), "median"),
    },
}
"""By parameter what other spellings (letters and digits only) mean here."""
_READ = {*COLUMNS, *_HIDDEN}
_COMPLETE = ("complete", "completed")
_IID = {"", "none", "null", "nan", "inf", "iid"}
_WHOLE = ("width_factor", "depth", "batch_size", "seed", "num_parameters", "best_epoch")
_Identity = str | tuple[str, str]
"""The digest of the experiment that a row or a task is of; if it is of none, its phase and its parameters."""


class Finding(NamedTuple):
    """Something about a row or a task that a person should know."""

    kind: str
    where: str
    message: str


class Migration(NamedTuple):
    """What can be taken over: results by digest, and all findings."""

    results: dict[str, dict[str, Any]]
    findings: list[Finding]
    rows: int
    """How many the tables have."""


class _Row(NamedTuple):
    where: str
    values: dict[str, Any]
    origin: dict[str, Any]


def read(phases: Iterable[Phase], tables: Iterable[str], state: str | None = None) -> Migration:
    """What the tables of another manager hold of the experiments of these phases.

    What a table does not tell (`rounds`, `learning_rate`, ...) is taken to be as configured. ExperimentError
    for a file that cannot be read, is no such table or no such state.
    """
    findings: list[Finding] = []
    tasks = _tasks(state) if state else []
    configured = _Configured(list(phases))
    whose = [_told(task) for task in tasks]
    known = {(told["phase"], _key(told)): told for told in whose if told is not None}
    rows = 0
    found: dict[str, list[_Row]] = {}
    there: set[_Identity | None] = set()
    for path in tables:
        for row in _rows(path, findings):
            rows += 1
            if row is None:
                continue
            # What no column tells of a row, its task in the state may.
            told = known.get((row.values["phase"], _key(row.values)), {})
            hidden = {key: told[key] for key in _HIDDEN if key in told and key not in row.values}
            row.values.update(hidden)
            name = configured.match(row.values)
            if isinstance(name, str):
                found.setdefault(name, []).append(row)
            else:
                findings.append(Finding(name.kind, row.where, name.message))
            there.add(configured.identity(row.values))
    by_identity: dict[_Identity, dict[str, Any]] = {}
    identities = [configured.identity(told) if told is not None else None for told in whose]
    for task, own in zip(tasks, identities, strict=True):
        if own is not None:
            by_identity.setdefault(own, task)
    results = {}
    for name, same in found.items():
        parameters = configured.experiments[name]
        if (agreed := _agreed(same, findings)) is not None:
            results[name] = _document(name, parameters, agreed, by_identity.get(name))
            _compare_models(parameters, agreed, findings)
    findings += _about(tasks, identities, configured, there, results)
    return Migration(results, findings, rows)


class _NoMatch(NamedTuple):
    kind: str
    message: str


class _Configured:
    """Which configured experiment a row or a task is of."""

    def __init__(self, phases: list[Phase]) -> None:
        self.experiments = union(phases)
        self._phases = {phase.name: phase.experiments for phase in phases}
        self._by_key: dict[str, list[str]] = {}
        for name, parameters in self.experiments.items():
            self._by_key.setdefault(_key(parameters), []).append(name)
        self._decided = [name for name in _HIDDEN if self._differs_by_phase(name)]
        """Hidden parameters of which only the phase tells what a row was computed with."""

    def _differs_by_phase(self, name: str) -> bool:
        """Whether some phase has other values of a parameter than another phase."""
        kinds = {
            frozenset(one[name] for one in experiments.values()) for experiments in self._phases.values()
        }
        return len(kinds) > 1

    def match(self, values: Mapping[str, Any]) -> str | _NoMatch:
        """The digest of the one experiment, or why there is none."""
        hidden = {name: values[name] for name in _HIDDEN if name in values}
        alike = self._by_key.get(_key(values), [])
        fitting = [
            name
            for name in alike
            if all(self.experiments[name][key] == value for key, value in hidden.items())
        ]
        if not fitting:
            return _NoMatch(UNKNOWN, f"no configured experiment has {_described(values)}")
        own = self._phases.get(values["phase"])
        if own is None:
            if untold := [name for name in self._decided if name not in hidden]:
                return _NoMatch(
                    AMBIGUOUS,
                    f"its phase {values['phase']!r} is not configured, and phases here differ in what no "
                    f"column tells: {', '.join(untold)}; configure a phase of this name",
                )
            own = self.experiments
        matching = [name for name in fitting if name in own]
        if len(matching) == 1:
            return matching[0]
        if matching:
            return _NoMatch(
                AMBIGUOUS,
                f"{len(matching)} configured experiments have these parameters, and differ in what no column "
                f"tells: {', '.join(matching[:3])}",
            )
        others = [name for name, experiments in self._phases.items() if fitting[0] in experiments]
        return _NoMatch(
            OTHER_PHASE,
            f"its phase {values['phase']} has no experiment with {_described(values)}; {others[0]} has",
        )

    def identity(self, values: Mapping[str, Any]) -> _Identity:
        name = self.match(values)
        return name if isinstance(name, str) else (values["phase"], _key(values))


def _described(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {values[name]}" for name in (*_KEY, *_HIDDEN) if values.get(name) is not None)


def _rows(path: str, findings: list[Finding]) -> Iterable[_Row | None]:
    """The rows of a table; None for one that is invalid, which is a finding."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        lines = list(csv.reader(data.decode("utf-8-sig").splitlines(), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExperimentError(f"{path}: cannot be read as a table: {reason}; give a CSV file") from None
    header = [re.sub("_acc$", "_accuracy", name.strip()) for name in lines[0]] if lines else []
    if missing := [name for name in COLUMNS if name not in header]:
        raise ExperimentError(f"{path}: lacks the columns {', '.join(missing)}; give the table of results")
    if twice := [name for name, number in Counter(header).items() if number > 1 and name in _READ]:
        raise ExperimentError(f"{path}: has the column {twice[0]} twice; leave only the right one")
    name, sha256 = os.path.basename(path), hashlib.sha256(data).hexdigest()
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        where = f"{name}:{number}"
        try:
            if len(line) != len(header):
                raise ValueError(f"has {len(line)} of {len(header)} columns")
            values = _values(dict(zip(header, line, strict=True)))
        except ValueError as error:
            findings.append(Finding(INVALID, where, str(error)))
            yield None
            continue
        yield _Row(where, values, {"table": name, "row": number, "sha256": sha256})


def _values(texts: Mapping[str, str]) -> dict[str, Any]:
    """The values of a row by column. ValueError for what cannot be."""
    values: dict[str, Any] = {"phase": texts["phase"].strip(), "signature": texts["signature"].strip()}
    for name in (*_KEY, "num_parameters", "best_epoch"):
        values[name] = _value(name, texts[name])
    for name in _HIDDEN:
        if texts.get(name, "").strip():
            values[name] = _value(name, texts[name])
    for name in (column for column in COLUMNS if column.startswith(("mean_", "std_"))):
        value = _number(name, texts[name])
        if value < 0 or (name.startswith("mean_") and name.endswith("accuracy") and value > 1):
            allowed = "between 0 and 1" if name.endswith("accuracy") else "at least 0"
            raise ValueError(f"{name} is {texts[name]}, must be {allowed}")
        values[name] = value
    return values


def _value(name: str, given: Any) -> Any:
    """A parameter or a count as it is written here. ValueError for what it cannot be."""
    text = "" if given is None else str(given).strip()
    if name in _WORDS:
        plain = re.sub(r"[^a-z0-9]", "", text.lower())
        if plain not in _WORDS[name]:
            raise ValueError(
                f"{name} is {text!r}, must be {' or '.join(dict.fromkeys(_WORDS[name].values()))}"
            )
        return _WORDS[name][plain]
    if name == "alpha" and text.lower() in _IID:
        return None
    value = _number(name, text)
    if name in _WHOLE and (value < 0 or not value.is_integer()):
        raise ValueError(f"{name} is {text}, must be a whole number from 0")
    if name == "poison_ratio" and not 0 <= value <= 1:
        raise ValueError(f"{name} is {text}, must be between 0 and 1")
    return int(value) if value.is_integer() else value


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, must be a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} is {text!r}, must be finite; it is computed anew")
    return value


def _key(values: Mapping[str, Any]) -> str:
    return canonical({name: values[name] for name in _KEY})


def _agreed(same: list[_Row], findings: list[Finding]) -> _Row | None:
    """The row of an experiment, if all rows about it say the same."""
    first, *others = same
    figures = [name for name in first.values if name not in ("phase", "signature")]
    if different := [one for one in others if any(one.values[n] != first.values[n] for n in figures)]:
        names = [n for n in figures if different[0].values[n] != first.values[n]]
        places = ", ".join(one.where for one in different)
        message = f"{places} has the same parameters and another {names[0]}; none of them is taken"
        findings.append(Finding(CONTRADICTORY, first.where, message))
        return None
    findings += [Finding(DUPLICATE, one.where, f"says the same as {first.where}") for one in others]
    return first


def _compare_models(parameters: Mapping[str, Any], row: _Row, findings: list[Finding]) -> None:
    here, there = architecture.num_parameters(parameters), row.values["num_parameters"]
    if here != there:
        message = (
            f"its model has {there:,} parameters, the one here {here:,}: results of both are in one table"
        )
        findings.append(Finding(OTHER_MODEL, row.where, message))


def _document(
    digest: str, parameters: Mapping[str, Any], row: _Row, task: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The result as it is published. What no column tells is null; the metrics of all images are taken to be
    the means over the clients."""
    values = row.values
    told = (
        {key: task.get(key) for key in ("task_id", "status", "assigned_to", "assigned_at")} if task else None
    )
    return {
        "digest": digest,
        "parameters": dict(parameters),
        "status": "ok",
        "failure_class": None,
        "reason": None,
        "metrics": {**{name: values[f"mean_{name}"] for name in METRICS}, "train_loss": None},
        "per_client": {
            name: {"mean": values[f"mean_{name}"], "std": values[f"std_{name}"], "values": None}
            for name in METRICS
        },
        "num_parameters": values["num_parameters"],
        "best_epoch": values["best_epoch"],
        "rounds_run": None,
        "history": [],
        "micro_batch": None,
        "backend": None,
        "provenance": {
            "source": "imported",
            **row.origin,
            "phase": values["phase"],
            "signature": values["signature"],
            "state": told,
        },
        "timings": {},
    }


def _tasks(path: str) -> list[dict[str, Any]]:
    """The tasks of a manager's state."""
    try:
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExperimentError(f"{path}: cannot be read as a state: {reason}") from None
    tasks = state.get("tasks") if isinstance(state, dict) else None
    if not isinstance(tasks, dict) or not all(isinstance(task, dict) for task in tasks.values()):
        raise ExperimentError(f"{path}: has no mapping of tasks; give the manager_state.json of the study")
    return [{"task_id": name, **task} for name, task in tasks.items()]


def _told(task: Mapping[str, Any]) -> dict[str, Any] | None:
    """The phase and the parameters of a task, if it tells all that have a column. The seed and the phase may
    be beside its configuration."""
    config = task.get("config")
    if not isinstance(config, dict):
        return None
    told = {"seed": task.get("seed"), **config}
    try:
        values = {name: _value(name, told[name]) for name in _KEY}
        values |= {name: _value(name, told[name]) for name in _HIDDEN if told.get(name) is not None}
    except (KeyError, ValueError):
        return None
    return values | {"phase": str(task.get("phase") or config.get("phase_name") or config.get("phase") or "")}


def _about(
    tasks: Iterable[Mapping[str, Any]],
    identities: Iterable[_Identity | None],
    configured: _Configured,
    there: set[_Identity | None],
    results: Mapping[str, Any],
) -> Iterable[Finding]:
    """Tasks whose state and table do not fit: they are computed here unless a row tells their result."""
    for task, own in zip(tasks, identities, strict=True):
        status, name = task.get("status"), str(task["task_id"])
        if own is None:
            then = "its configuration does not tell which row is its own"
        elif own in results:
            then = "its row is taken"
        else:
            row = "its row is not taken" if own in there else "it has no row"
            known = own in configured.experiments
            then = f"{row}, so it is computed here" if known else f"{row}, and it is not configured here"
        if status == "assigned":
            whose = f"to {task.get('assigned_to')} since {_day(task.get('assigned_at'))}"
            yield Finding(ASSIGNED, name, f"was assigned {whose}; {then}")
        elif status == "failed":
            why = " ".join(str(task.get("last_error") or "an unknown error").split())
            yield Finding(FAILED, name, f"was given up ({why[:100]}); {then}")
        elif status in _COMPLETE and own not in there:
            yield Finding(NO_ROW, name, "is completed by the state, but no row has its phase and parameters")


def _day(text: Any) -> str:
    try:
        return datetime.fromisoformat(str(text)).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return "an unknown time"
