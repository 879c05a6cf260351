"""The configuration a run was made with, kept in the run, and what has changed since."""

import hashlib
import logging
import os
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import yaml

from ripresa.configuration.layers import Config
from ripresa.configuration.problems import ConfigurationError, Path, Problem, dotted, shortened
from ripresa.configuration.reading import read
from ripresa.dsl.digests import canonical
from ripresa.journal.paths import Run

_ABSENT = object()
# The first says what to do about a change, and so is none itself: else nobody could switch it off. The others
# change nothing that is computed: whom to tell (not kept with a run), what to ask people about beforehand,
# where it is written how hosts are reached, and on which of its devices a machine computes.
_NO_CHANGE = ("strict_resume", "notify", "budget", "inventory", "devices")

log = logging.getLogger("ripresa")


def sha256(config: Config) -> str:
    """The digest of what a configuration asks for, whatever the order of its keys."""
    return hashlib.sha256(canonical(_compared(config)).encode("ascii")).hexdigest()


def difference(old: Config, new: Config) -> list[str]:
    """What changed, one line a value: ``benchmarks.repetitions: 3 -> 5``; empty if nothing did."""
    return [f"{path}: {change}" for path, change in _changes(_compared(old), _compared(new))]


def snapshot(run_dir: str | os.PathLike[str], config: Config) -> None:
    """Keep a configuration as config.yaml of a run; after a crash there is the old one or the new one."""
    path = Run(run_dir).config
    temporary = f"{path}.{os.getpid()}.tmp"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(
                "# The configuration of this run, as resolved when it last started. Written by the run.\n"
            )
            yaml.safe_dump(config, file, sort_keys=False, width=110)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def load_snapshot(run_dir: str | os.PathLike[str]) -> Config | None:
    """The configuration a run last started with; None without one, and (with a warning) for a damaged one."""
    try:
        return _read(run_dir)
    except ConfigurationError as error:
        log.warning("%s; going on as if there were no snapshot", error)
        return None


def check_resume(run_dir: str | os.PathLike[str], config: Config) -> list[str]:
    """What changed since the run last started (see `difference`), before the snapshot is replaced.

    With ``strict_resume`` raises ConfigurationError if anything did, or if that cannot be told.
    """
    if not config.get("strict_resume"):
        old = load_snapshot(run_dir)
        return [] if old is None else difference(old, config)
    file = Run(run_dir).config
    try:
        old = _read(run_dir)
        problems = [
            Problem(file, *change) for change in _changes(_compared(old or config), _compared(config))
        ]
    except ConfigurationError as error:
        problems = error.problems
    if problems:
        way_out = "undo that, take another run_id, or set strict_resume: false"
        what = f"refuses to resume {os.fspath(run_dir)} with another configuration; {way_out}"
        raise ConfigurationError([Problem("strict_resume", "", what), *problems])
    return []


def _read(run_dir: str | os.PathLike[str]) -> Config | None:
    path = Run(run_dir).config
    return read(path) if os.path.lexists(path) else None


def _compared(config: Config) -> Config:
    return {key: value for key, value in config.items() if key not in _NO_CHANGE}


def _changes(old: Any, new: Any, where: Path = ()) -> Iterator[tuple[str, str]]:
    """Yield (path, "old -> new") for each changed leaf; mappings and lists are compared entry by entry."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from _changes(old.get(key, _ABSENT), new.get(key, _ABSENT), (*where, key))
    elif isinstance(old, list) and isinstance(new, list):
        for index, (was, now) in enumerate(zip_longest(old, new, fillvalue=_ABSENT)):
            yield from _changes(was, now, (*where, index))
    elif _ABSENT in (old, new) or canonical(old) != canonical(new):
        yield dotted(where), f"{_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    return "(not set)" if value is _ABSENT else shortened(value)
