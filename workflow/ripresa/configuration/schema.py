"""Validates a section of the configuration against its JSON Schema and fills in the defaults.

Two keywords are added to JSON Schema; other tools ignore them: `uniqueBy: name` (of an array of mappings:
no two with the same `name`) and `ascending: [min, max]` (of a mapping: these values do not decrease).
"""

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators

from ripresa.configuration.problems import shortened

Schema = dict[str, Any]


def _pattern(_: Any, pattern: str, value: Any, schema: Schema) -> Iterator[ValidationError]:
    # Python's `$` also matches before a final line break; the `$` of JSON Schema does not.
    if isinstance(value, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), value):
        yield ValidationError(f"does not match {pattern!r}")


def _unique_by(_: Any, key: str, value: Any, schema: Schema) -> Iterator[ValidationError]:
    seen: dict[str, int] = {}
    for index, item in enumerate(value if isinstance(value, list) else []):
        if isinstance(item, dict) and isinstance(item.get(key), str):
            first = seen.setdefault(item[key], index)
            if first != index:
                message = f"{shortened(item[key])} is the {key} of entry [{first}] too; give each its own"
                yield ValidationError(message, path=(index, key))


def _ascending(_: Any, keys: list[str], value: Any, schema: Schema) -> Iterator[ValidationError]:
    given = [(key, value[key]) for key in keys if isinstance(value, dict) and _is_number(value.get(key))]
    for (low, least), (high, most) in pairwise(given):
        if least > most:
            yield ValidationError(f"{most} is below {low} ({least}); it must be at least that", path=(high,))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_Validator = validators.extend(
    Draft202012Validator,
    {"pattern": _pattern, "uniqueBy": _unique_by, "ascending": _ascending},
    # `3.0` is whole to JSON Schema, but not to range()
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


def part_for(schema: Schema, key: str) -> Any:
    """The schema of what stands under a key; False where the key is unknown and that is not allowed."""
    if key in schema.get("properties", {}):
        return schema["properties"][key]
    patterns = schema.get("patternProperties", {})
    return next((patterns[p] for p in patterns if re.search(p, key)), schema.get("additionalProperties", {}))


class Checker:
    """One JSON Schema document, in use; it may refer to its own parts (`#/$defs/...`) only.

    Defaults are found wherever `properties`, `items` and the like lead to them, not in `if` and `then`.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._validator = _Validator(schema, format_checker=FormatChecker(["regex"]))

    def errors(self, section: Any) -> list[ValidationError]:
        """All violations, in the order of the schema's keywords."""
        return list(self._validator.iter_errors(section))

    def filled(self, section: Any) -> Any:
        """A copy of a valid section with the schema's defaults where it says nothing."""
        return self._filled(self.schema, section)

    def part(self, *steps: str) -> "Checker":
        """The schema of a part, which must not refer to other parts."""
        schema: Any = self.schema
        for step in steps:
            schema = schema[step]
        return Checker(schema)

    def resolved(self, schema: Schema) -> Schema:
        """The schema itself, or the part of the document that it stands for."""
        while "$ref" in schema:
            part: Any = self.schema
            for step in schema["$ref"].removeprefix("#/").split("/"):
                part = part[step]
            schema = part
        return schema

    def _filled(self, schema: Any, value: Any) -> Any:
        if not isinstance(schema, dict):  # true and false are schemas too
            return value
        for part in self._applying(schema, value):
            value = self._filled(part, value)
        if isinstance(value, dict):
            properties = schema.get("properties", {})
            missing = {key: part for key, part in properties.items() if key not in value}
            defaults = {key: copy.deepcopy(p["default"]) for key, p in missing.items() if "default" in p}
            values = value | defaults
            return {key: self._filled(part_for(schema, key), values[key]) for key in values}
        if isinstance(value, list):
            return [self._filled(schema.get("items", {}), item) for item in value]
        return value

    def _applying(self, schema: Schema, value: Any) -> Iterator[Schema]:
        """The further schemas that hold for a value of this one."""
        if "$ref" in schema:
            yield self.resolved(schema)
        yield from schema.get("allOf", [])
        for choice in ("anyOf", "oneOf"):
            valid = (
                part for part in schema.get(choice, []) if self._validator.evolve(schema=part).is_valid(value)
            )
            yield from islice(valid, 1)


@cache
def load(path: Path) -> Checker:
    """The schema in a file, which is part of the program: a broken one raises as any bug does."""
    return Checker(json.loads(path.read_text(encoding="utf-8")))
