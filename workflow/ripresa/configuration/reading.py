"""Reads configuration files strictly: what YAML would silently accept or blow up on is refused here."""

import math
import os
from collections.abc import Iterator
from typing import Any

import yaml

from ripresa.configuration.problems import ConfigurationError, Path, Problem, dotted, shortened

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_VALUES = 100_000

_TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"
_TEXT = "tag:yaml.org,2002:str"
_HINTS = {
    "cannot start any token": "put text that begins with %, @ or ` in quotes",
    "mapping values are not allowed": "is it indented like its neighbours, and is text with ': ' quoted?",
    "could not find expected ':'": "every line of a mapping is `key: value`, with a space after the colon",
    "did not find expected key": "is it indented like its neighbours, and are quotes and brackets closed?",
    "expected '-' indicator": "a list and `key: value` lines cannot mix at one level",
    "did not find expected ',' or ": "close the bracket",
    "expected node content": "is a value missing, or a bracket open?",
    "unexpected end of stream": "close the quotes",
    "could not determine a constructor": "tags (!...) are not allowed",
    "found another document": "keep one document: no second `---`",
}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML with dates left as text: `run_id: 2026-01-09` names a run."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read(path: str | os.PathLike[str], at: Path = ()) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    ``at`` is where it belongs in the configuration, for messages. Raises ConfigurationError for whatever is
    not one readable YAML document with a mapping at its top, for keys given twice, keys that are not text,
    numbers that are not finite, and documents too large or too deep.
    """
    file = os.fspath(path)
    text = _text(file)
    try:
        data, problems = _parse(text)
    except yaml.YAMLError as error:
        where, message = _explained(error, text)
        raise ConfigurationError([Problem(file, where, message)]) from None
    except _Refused as error:
        raise ConfigurationError([Problem(file, "", str(error))]) from None
    except ValueError as error:  # thousands of digits, `!!float abc`
        raise ConfigurationError(
            [Problem(file, "", f"holds a number that cannot be read: {error}")]
        ) from None
    if not problems and not isinstance(data, dict):
        raise ConfigurationError(
            [Problem(file, "", f"holds {shortened(data)}, but a mapping is needed: lines of `key: value`")]
        )
    if problems:
        raise ConfigurationError(Problem(file, dotted((*at, *where)), message) for where, message in problems)
    return data


def scalar(text: str) -> Any:
    """What a plain word means in YAML (``5`` is a number, ``yes`` is true), or the word itself."""
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError):
        return text
    return text if isinstance(value, dict | list) else value


def unusable(value: Any, where: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield (path, message) for each value that no configuration may hold."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                yield where, f"the key {shortened(key)} is not text; put it in quotes"
            else:
                yield from unusable(item, (*where, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from unusable(item, (*where, index))
    elif isinstance(value, float) and not math.isfinite(value):
        yield where, f"is {value}, but a finite number is needed"
    elif isinstance(value, int) and abs(value) >= 1 << 63:
        yield where, "is too large a number; at most 9223372036854775807 is allowed"
    elif not isinstance(value, str | int | float | None):
        kind = type(value).__name__
        yield where, f"is a {kind}, but text, a number, a list or a mapping is needed; put text in quotes"


class _Refused(Exception):
    """A document that is refused as a whole."""


def _text(file: str) -> str:
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            data = stream.read(MAX_BYTES + 1) or b""  # None: a pipe that has nothing to say
    except FileNotFoundError:
        message = "does not exist"
    except IsADirectoryError:
        message = "is a directory, but a YAML file is needed"
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
    else:
        if len(data) > MAX_BYTES:
            message = f"is larger than {MAX_BYTES >> 20} MiB, too large for a configuration"
        else:
            try:
                return data.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                line = data.count(b"\n", 0, error.start) + 1
                message = f"is not UTF-8 text (line {line}); save it as plain text in UTF-8"
    raise ConfigurationError([Problem(file, "", message)])


def _parse(text: str) -> tuple[Any, list[tuple[Path, str]]]:
    """The data of a document and what is wrong with it."""
    depth = 0  # comes first: the C parser builds nodes by recursion without a limit
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _Refused(_TOO_DEEP)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, []
        _measure(node, {})
        problems = list(_bad_keys(node, ()))
        if problems:
            return None, problems
        data = loader.construct_document(node)
    finally:
        loader.dispose()
    return ({} if data is None else data), list(unusable(data))


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values a node stands for once its aliases are written out, and how deep they are nested.

    Aliases cost nothing to parse, but everything that walks the data pays for them.
    """
    if id(node) not in known:
        known[id(node)] = (0, 0)
        children = [_measure(child, known) for child in _children(node)]
        if (0, 0) in children:
            raise _Refused("has an anchor that contains itself")
        values, depth = 1 + sum(v for v, _ in children), 1 + max((d for _, d in children), default=0)
        if values > MAX_VALUES:
            raise _Refused(f"stands for more than {MAX_VALUES} values once its anchors are written out")
        if depth > MAX_DEPTH:
            raise _Refused(_TOO_DEEP)
        known[id(node)] = (values, depth)
    return known[id(node)]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _bad_keys(node: yaml.Node, where: Path) -> Iterator[tuple[Path, str]]:
    """Yield keys that are not text to YAML, and those given twice, of which it would keep the last."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _bad_keys(item, (*where, index))
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            yield where, f"has a list or mapping as a key (line {line}); keys are plain text"
            continue
        if key.tag not in (_TEXT, "tag:yaml.org,2002:merge"):
            yield where, f"the key {key.value} (line {line}) is not text to YAML; put it in quotes"
        elif key.value in lines:
            yield (
                (*where, key.value),
                f"is given twice, in lines {lines[key.value]} and {line}; keep one of them",
            )
        lines.setdefault(key.value, line)
        yield from _bad_keys(value, (*where, key.value))


def _explained(error: yaml.YAMLError, text: str) -> tuple[str, str]:
    """Where a document is not YAML, and why, in words that say what to do."""
    problem = getattr(error, "problem", None)
    if problem is None:
        return "", f"is not YAML text: {str(error).splitlines()[0]}"
    mark = error.problem_mark or error.context_mark  # type: ignore[attr-defined]
    if (
        "expected ':'" in problem or "end of stream" in problem
    ):  # noticed late; the cause stands where it began
        mark = error.context_mark or mark  # type: ignore[attr-defined]
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return f"line {mark.line + 1}", "is indented with a tab; use spaces"
    hint = next((hint for part, hint in _HINTS.items() if part in problem), "")
    return f"line {mark.line + 1}, column {mark.column + 1}", f"{problem}; {hint}" if hint else problem
