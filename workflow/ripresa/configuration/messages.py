"""Says in one plain line what violates a schema, and what is allowed instead."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from jsonschema import ValidationError

from ripresa.configuration.problems import Path, listed, shortened, similar
from ripresa.configuration.schema import Checker, Schema, part_for

_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_SIMPLE = {
    "const": "{shown} is not allowed; it must be {wanted}",
    "minimum": "{shown} is too small; at least {wanted} is needed",
    "exclusiveMinimum": "{shown} is too small; more than {wanted} is needed",
    "maximum": "{shown} is too large; at most {wanted} is allowed",
    "exclusiveMaximum": "{shown} is too large; less than {wanted} is needed",
    "multipleOf": "{shown} is not a multiple of {wanted}",
    "minItems": "{shown} has too few entries; at least {wanted} needed",
    "maxItems": "{shown} has too many entries; at most {wanted} allowed",
    "minProperties": "{shown} has too few keys; at least {wanted} needed",
    "maxProperties": "{shown} has too many keys; at most {wanted} allowed",
    "minLength": "{shown} is too short; at least {wanted} characters needed",
    "maxLength": "{shown} is too long; at most {wanted} characters allowed",
    "pattern": "{shown} is not allowed; needed: {about}",
    "not": "{shown} is not allowed; needed: {about}",
    "format": "{shown} is not {about}: {cause}",
}


def explain(error: ValidationError, checker: Checker, at: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield (path, message) for a violation, one for each key that is missing or unknown.

    A value that fits none of several schemas is judged by the one that it was meant for, if that can be told.
    """
    where = (*at, *error.relative_path)
    value: Any = error.instance
    wanted: Any = error.validator_value
    schema: Any = error.schema
    match error.validator:
        case "anyOf" | "oneOf" if error.context:
            causes = _meant(error)
            if not causes:
                choice = listed([_described(part, checker) for part in wanted], last=" or ")
                yield where, f"{_kind(value)}, but {choice} is needed"
            for cause in causes:
                yield from explain(cause, checker, where)
        case "additionalProperties":
            for key in value:
                if part_for(schema, key) is False:
                    yield (*where, key), _unknown(key, schema.get("properties", {}))
        case "required":
            for key in wanted:  # every missing key has an error of its own; repeated problems are dropped
                if key not in value:
                    part = checker.resolved(schema.get("properties", {}).get(key, {}))
                    yield (*where, key), f"is missing; needed: {_about(part, checker)}"
        case "enum" if list(error.relative_schema_path)[-2:-1] == ["propertyNames"]:
            yield (*where, value), _unknown(value, wanted)
        case _:
            yield where, _message(error, checker)


def _message(error: ValidationError, checker: Checker) -> str:
    value: Any = error.instance
    wanted: Any = error.validator_value
    schema: Any = error.schema
    match str(error.validator):
        case "type":
            return f"{_kind(value)}, but {_types(wanted)} is needed{_hint(value, wanted)}"
        case "enum":
            return f"{shortened(value)} is not allowed; use one of {listed(wanted)}{similar(value, wanted)}"
        case "uniqueItems":
            twice = next(item for index, item in enumerate(value) if item in value[:index])
            return f"{shortened(twice)} is there twice; keep one of them"
        case keyword if keyword in _SIMPLE:
            about = _about(schema, checker)
            shown = "what stands here" if schema.get("writeOnly") else shortened(value)  # it may be a secret
            return _SIMPLE[keyword].format(shown=shown, wanted=wanted, about=about, cause=error.cause)
        case _:
            return error.message


def _meant(error: ValidationError) -> list[ValidationError]:
    """The violations of the one alternative whose kind of value it is: that with the fewest of them."""
    context = sorted(error.context or [], key=lambda cause: cause.relative_schema_path[0])
    branches = [list(group) for _, group in groupby(context, key=lambda cause: cause.relative_schema_path[0])]
    of_kind = [
        branch
        for branch in branches
        if not any(
            cause.validator in ("type", "enum", "const") and not cause.relative_path for cause in branch
        )
    ]
    return min(of_kind, key=len, default=[])


def _unknown(key: str, known: Any) -> str:
    allowed = f"use one of {listed(known)}{similar(key, known)}" if known else "none is allowed here"
    return f"is not a known key; {allowed}"


def _about(schema: Schema, checker: Checker) -> str:
    return str(schema.get("description") or _described(schema, checker))


def _described(schema: Schema, checker: Checker) -> str:
    schema = checker.resolved(schema)
    if "enum" in schema:
        return f"one of {listed(schema['enum'])}"
    if "const" in schema:
        return shortened(schema["const"])
    if schema.get("type") == "object" and schema.get("properties"):
        return f"a mapping with {listed(schema['properties'])}"
    return _types(schema["type"]) if "type" in schema else str(schema.get("description", "another value"))


def _types(wanted: str | list[str]) -> str:
    return listed([_TYPES[name] for name in ([wanted] if isinstance(wanted, str) else wanted)], last=" or ")


def _kind(value: Any) -> str:
    if value is None:
        return "is null (nothing stands after the colon)"
    kinds = {
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a mapping",
    }
    return f"{shortened(value)} is {kinds.get(type(value), 'of type ' + type(value).__name__)}"


def _hint(value: Any, wanted: str | list[str]) -> str:
    """What often lies behind a value of the wrong type: YAML reads plain words in its own way."""
    if "string" in wanted and isinstance(value, bool):
        return "; put it in quotes (YAML reads yes, no, on and off as true or false)"
    if "string" in wanted and isinstance(value, int | float):
        return "; put it in quotes"
    if isinstance(value, str) and ("number" in wanted or "integer" in wanted):
        try:
            mantissa, e, exponent = f"{float(value):.15g}".partition("e")
        except ValueError:
            return ""
        # YAML takes an exponent for a number's only after a decimal point.
        point = ".0" if e and "." not in mantissa else ""
        return f"; write {mantissa}{point}{e}{exponent} without quotes"
    return ""
