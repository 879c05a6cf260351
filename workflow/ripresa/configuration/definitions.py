"""Keys of a section that YAML files define: a `fio:` under `workloads` is known because there is a fio.yaml.

A mapping in the schema of a family asks for that with `definedBy: {folder, schema, entry}`. Files are those
of the packaged `folder` and of a folder beside the configuration that is called like the mapping; of two of
one name the latter wins. Each is valid under `schema`, and may have `parameters` (JSON Schemas by name),
`presets` (their values by name of the preset) and commands, in which `{name}` stands for a parameter or for
one of the `placeholders` that its schema lists. What the section may say under the key is `entry`, with the
parameters of the file as those that it may set. A key without a file is allowed if what stands there has a
`command`: then it is a definition itself, without parameters, beside its entry.
"""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path as File
from typing import Any

import yaml

from ripresa import template
from ripresa.configuration.messages import explain
from ripresa.configuration.problems import ConfigurationError, Path, Problem, dotted, listed, similar
from ripresa.configuration.reading import read
from ripresa.configuration.schema import Checker, Schema, load

ROOT = File(__file__).parents[2]

Found = Iterator[tuple[Path, str]]


def expanded(checker: Checker, section: Any, directory: File) -> tuple[Checker, list[Problem]]:
    """A schema with the keys that files define for a section, and what is wrong with files of the user.

    Packaged files are read if the section names them, those of the user in any case.
    """
    mappings = {
        key: part for key, part in checker.schema.get("properties", {}).items() if "definedBy" in part
    }
    if not mappings:
        return checker, []
    schema, problems = copy.deepcopy(checker.schema), []
    for key in mappings:
        asked = section.get(key) if isinstance(section, dict) else None
        known, wrong = _keys(schema, key, asked if isinstance(asked, dict) else {}, directory / key)
        schema["properties"][key]["properties"] = known
        problems += wrong
    return Checker(schema), problems


def unusable(definition: Mapping[str, Any], checker: Checker) -> Found:
    """Yield (path, message) for all that is wrong with a definition of this schema."""
    errors = checker.errors(definition)
    for error in errors:
        yield from explain(error, checker)
    if not errors:
        yield from _unfit_presets(definition)
        yield from incoherent(definition, checker)


def incoherent(definition: Mapping[str, Any], checker: Checker) -> Found:
    """Yield (path, message) for what the schema cannot see in a valid definition: names of nothing."""
    known = [*definition.get("parameters", {}), *checker.schema["placeholders"]]
    for where, command in _commands(definition):
        for name in template.fields(command):
            if name not in known:
                hint = f"{similar(name, known)}; write {{{{{name}}}}} if the braces are the shell's"
                yield where, f"{{{name}}} stands for nothing; use one of {listed(known)}{hint}"
        for name in template.quoted(command):
            yield (
                where,
                f"{{{name}}} is within quotes, but its value brings its own; end the quotes before it",
            )
    for name, part in definition.get("parameters", {}).items():
        if "type" not in part and "enum" not in part:
            yield (
                ("parameters", name, "type"),
                "is missing; needed: the type of its values, or an enum",
            )
    command = definition["command"]
    steps = [step["name"] for step in command] if isinstance(command, list) else []
    for kind in ("metrics", "details"):
        for index, reading in enumerate(definition.get(kind, [])):
            if len(steps) > 1 and "step" not in reading:
                yield (
                    (kind, index, "step"),
                    f"is missing; needed: the step that tells it, {listed(steps, ' or ')}",
                )
            elif "step" in reading and reading["step"] not in steps:
                choice = f"use one of {listed(steps)}" if steps else "the command has no steps; take it away"
                yield (kind, index, "step"), f"{reading['step']!r} is no step; {choice}"
            for key, message in _misread(kind, reading):
                yield (kind, index, key), message


def incoherent_keys(checker: Checker, section: Mapping[str, Any]) -> Found:
    """Yield (path, message) for definitions within a valid section: what its schema cannot see."""
    for key, part in checker.schema.get("properties", {}).items():
        if "definedBy" in part:
            of_files = load(File(ROOT, "schemas", part["definedBy"]["schema"]))
            for name, value in section[key].items():
                if value and "command" in value:
                    yield from (((key, name, *where), text) for where, text in incoherent(value, of_files))


def _misread(kind: str, reading: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys of a metric or a detail that do not go together, and why."""
    if "json" in reading and "pattern" in reading:
        yield "pattern", "stands beside json; keep one of them"
    elif "json" not in reading and "pattern" not in reading:
        yield "pattern", "is missing; needed: a pattern with a group (?P<value>...), or json"
    elif "name" in reading:
        return
    elif "pattern" in reading and "(?P<name>" not in reading["pattern"]:
        yield "name", "is missing; needed: a name here, or a group (?P<name>...) in the pattern"
    elif "json" in reading and kind == "metrics":
        yield "name", "is missing; needed: the name of the metric"


def _keys(schema: Schema, key: str, asked: dict[str, Any], own: File) -> tuple[Schema, list[Problem]]:
    """The schema of each key of a mapping. ``schema`` gets the parts that definitions refer to."""
    source = schema["properties"][key]["definedBy"]
    checker = load(File(ROOT, "schemas", source["schema"]))
    entry = Checker(schema).resolved({"$ref": source["entry"]})
    files = {path.stem: path for path in sorted(File(ROOT, source["folder"]).glob("*.yaml"))}
    known: Schema = {}
    problems: list[Problem] = []
    mine = {path.stem: path for path in sorted(own.glob("*.yaml"))}
    for name in sorted(files.keys() | mine.keys()):
        known[name] = {}
        if name in mine:
            definition, wrong = _own(mine[name], schema["properties"][key], checker)
            problems += wrong
        else:
            definition = _packaged(files[name]) if name in asked else None
        if definition is not None:
            known[name] = _entry(entry, definition.get("parameters", {}))
    for name, value in asked.items():
        if name not in known and isinstance(value, dict) and "command" in value:
            known[name] = _inline(entry, checker.schema)
            schema["$defs"] = {**schema["$defs"], **checker.schema["$defs"]}
    return known, problems


def _packaged(path: File) -> dict[str, Any]:
    """A packaged definition, which is part of the program: a broken one raises as any bug does."""
    with open(path, "rb") as file:
        found: dict[str, Any] = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


def _own(path: File, mapping: Schema, checker: Checker) -> tuple[dict[str, Any] | None, list[Problem]]:
    """A definition of the user, None with what is wrong with it."""
    try:
        definition = read(path)
    except ConfigurationError as error:
        return None, error.problems
    problems = []
    if Checker(mapping["propertyNames"]).errors(path.stem):
        problems.append(Problem(str(path), "", f"its file needs {mapping['propertyNames']['description']}"))
    problems += [Problem(str(path), dotted(where), text) for where, text in unusable(definition, checker)]
    return (None if problems else definition), problems


def _entry(entry: Schema, parameters: Mapping[str, Schema]) -> Schema:
    """What a section may say of something that has a file. Defaults of parameters belong to its presets."""
    properties = {
        name: {key: value for key, value in part.items() if key != "default"}
        for name, part in parameters.items()
    }
    values = {**entry["properties"]["parameters"], "properties": properties}
    return {**entry, "properties": {**entry["properties"], "parameters": values}}


def _inline(entry: Schema, schema: Schema) -> Schema:
    """What a section may say of something that it defines itself."""
    parts = {**entry["properties"], **schema["properties"]}
    properties = {key: part for key, part in parts.items() if key not in ("parameters", "presets")}
    required = [key for key in schema["required"] if key != "description"]
    return {**entry, "type": "object", "properties": properties, "required": required}


def _unfit_presets(definition: Mapping[str, Any]) -> Found:
    parameters = definition.get("parameters", {})
    values = Checker(
        {
            "type": "object",
            "properties": parameters,
            "additionalProperties": False,
            "required": [name for name, part in parameters.items() if "default" not in part],
        }
    )
    if parameters and "presets" not in definition and values.schema["required"]:
        yield (
            ("presets",),
            "is missing; needed: low, medium and high, with values of all parameters that have no default",
        )
    for preset, given in definition.get("presets", {}).items():
        for error in values.errors(given):
            yield from explain(error, values, ("presets", preset))
    for name, part in parameters.items():
        if "default" in part:
            alone = Checker(part)
            for error in alone.errors(part["default"]):
                yield from explain(error, alone, ("parameters", name, "default"))


def _commands(definition: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    command = definition["command"]
    if isinstance(command, str):
        yield ("command",), command
    else:
        yield from ((("command", index, "run"), step["run"]) for index, step in enumerate(command))
    if "version" in definition:
        yield ("version",), definition["version"]
    if "peer" in definition:
        yield ("peer", "server"), definition["peer"]["server"]
