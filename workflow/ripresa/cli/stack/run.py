"""`ripresa stack run DIR`: writes the configuration of a run, calls Snakemake, tells what came of it."""

import argparse
import os
import re
import time
from collections.abc import Iterable
from typing import Any

from ripresa.cli import runs
from ripresa.cli.answers import Answer, Refusal
from ripresa.cli.snakemake import configuration
from ripresa.cli.stack import calling, results
from ripresa.journal import records
from ripresa.journal.paths import Run
from ripresa.journal.text import printable

_INPUT = ("lights", "recursive", "simulate")
_NO_NAMES = {"light", "lights", "raw", "raws", "frames", "subs"}
_HEADING = (
    "# The configuration of this run, written by `ripresa stack run`; snakemake --configfile uses it.\n"
)


def answer(arguments: argparse.Namespace) -> Answer:
    """Exit code 1 if the frames could not be stacked, 2 if the call makes no sense."""
    began = time.monotonic()
    place = os.path.abspath(arguments.directory)
    if not os.path.isdir(place):
        raise Refusal(f"{printable(arguments.directory)} is not a directory", name="INPUT_NOT_FOUND")
    run = Run(f"{runs.RUNS}/{arguments.run or run_id_for(place)}")
    _check_name(run, place, given=arguments.run is not None)
    calling.check(run)
    config = _configuration(run, place, arguments)
    _check_frames(run, config)
    _write(runs.own_configuration(run.run_id), config)
    command = calling.words(configuration(run.run_id), arguments.cores, *arguments.snakemake)
    calling.call(run, command)
    document = results.document(run, time.monotonic() - began)
    return Answer(document, lambda: results.text(run, document))


def run_id_for(directory: str) -> str:
    """The name of the run of a directory: its own, with its parent's where it says only what is in it."""
    parent, name = os.path.split(directory)
    if name.lower() in _NO_NAMES and os.path.basename(parent):
        name = f"{os.path.basename(parent)}-{name}"
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).lstrip(".-")[:100].rstrip("-") or "stack"


def _check_name(run: Run, directory: str, *, given: bool) -> None:
    """Refuse to make another stack of a run by mistake."""
    if not os.path.isdir(run.dir):
        return
    before = _lights(runs.own_configuration(run.run_id))
    if before is None:
        if os.path.lexists(run.config) or os.path.lexists(run.journal):
            message = f"run '{run.run_id}' is of a campaign in {runs.CONFIG}/; name another with --run"
            raise Refusal(message, name="RUN_EXISTS")
    elif before != [directory] and not given:
        was = ", ".join(map(printable, before))
        message = (
            f"run '{run.run_id}' stacks {was}; name another with --run, or the same to stack these instead"
        )
        raise Refusal(message, name="RUN_EXISTS")


def _lights(file: str) -> list[str] | None:
    """What a run stacks by its own configuration; None if it has none, or a damaged one."""
    from ripresa.configuration import ConfigurationError
    from ripresa.configuration.reading import read

    if not os.path.isfile(file):
        return None
    try:
        lights = (read(file).get("stacking") or {}).get("lights")
    except ConfigurationError:
        return []
    return [str(light) for light in lights] if isinstance(lights, list) else []


def _configuration(run: Run, directory: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The configuration of the run: the settings of config/stacking.yaml, of ``--settings`` and ``--set``."""
    from ripresa.configuration import ConfigurationError
    from ripresa.configuration.layers import merged
    from ripresa.configuration.reading import read

    settings: dict[str, Any] = {}
    base = f"{runs.CONFIG}/stacking.yaml"
    files = [base] if os.path.lexists(base) else []
    try:
        for file in [*files, *([arguments.settings] if arguments.settings else [])]:
            found = read(file, ("stacking",))
            settings = merged(settings, {key: value for key, value in found.items() if key not in _INPUT})
    except ConfigurationError as error:
        raise Refusal(str(error), name="CONFIG_INVALID") from None
    for word in arguments.set:
        settings = merged(settings, _setting(word))
    settings = {"lights": [directory], "recursive": arguments.recursive, **settings}
    return {"standalone": True, "run_id": run.run_id, "families": ["stacking"], "stacking": settings}


def _check_frames(run: Run, config: dict[str, Any]) -> None:
    """Refuse, before anything is written, what is no valid configuration, and what holds too few frames."""
    from ripresa.configuration import ConfigurationError, resolve
    from ripresa.families.stacking import StackingError
    from ripresa.families.stacking.plan import plan

    try:
        resolved = resolve(config, runs.CONFIG, source=runs.own_configuration(run.run_id))
        plan(resolved["stacking"], run.dir, 1)
    except ConfigurationError as error:
        raise Refusal(str(error), name="CONFIG_INVALID") from None
    except StackingError as error:
        raise Refusal(str(error), 1, "FRAMES_UNUSABLE") from None


def _setting(word: str) -> dict[str, Any]:
    """One setting, ``mode.allow_few=true``, as the mapping that it means."""
    import yaml

    path, equals, text = word.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise Refusal(f"--set {printable(word)}: write it as KEY=VALUE, such as weighting=quality")
    if keys[0] in _INPUT:
        raise Refusal(f"--set {printable(word)}: what is stacked is named by DIR and --recursive")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _write(path: str, config: dict[str, Any]) -> None:
    import yaml

    def parts() -> Iterable[str]:
        yield _HEADING
        yield yaml.safe_dump(config, sort_keys=False, width=110, allow_unicode=True)

    records.replace(path, parts())
