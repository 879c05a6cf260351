"""The classifier's rules: how `patterns.toml` and a user's rules become something that searches fast.

Thousands of expressions are tried on half a megabyte. Almost none match, so each is first looked for by a
literal text that its matches must contain; only then is it compiled and applied, and only there.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

PATTERNS = Path(__file__).with_name("patterns.toml")

# How much a rule knows about the root cause.
STRENGTH = {"user": 10.0, "root": 3.0, "error": 2.0, "symptom": 1.0, "hint": 0.6, "last": 0.5, "guess": 0.2}

_FIELDS = {"name", "class", "pattern", "retry", "strength", "requires", "unless"}
_WORD = re.compile(r"[a-z]{3,}")
_UNBOUNDED = re.compile(r"(?<!\\)\.[*+]")


def words(text: str) -> list[str]:
    """The runs of at least three letters in a lower-case text."""
    return _WORD.findall(text)


class Pattern:
    """One regular expression, compiled on first use; case is ignored.

    `literals` holds the texts of which every match contains one, each with its longest word.
    """

    __slots__ = ("_compiled", "literals", "source")

    def __init__(self, source: str) -> None:
        # An unbounded `.*` makes a search quadratic; no cause is spread over more than 200 characters.
        self.source = _UNBOUNDED.sub(r".{0,200}", source) if ".*" in source or ".+" in source else source
        self.literals = [(text, max(words(text), key=len, default="")) for text in literals(source)]
        self._compiled: re.Pattern[str] | None = None

    def matches(self, line: str, start: int = 0, end: int = 1000) -> bool:
        """Whether it matches between two columns of a line."""
        if self._compiled is None:
            self._compiled = re.compile(self.source, re.IGNORECASE)
        return self._compiled.search(line, start, end) is not None


class Rule(NamedTuple):
    """One cause: any of `patterns` on a line, provided that the log as a whole agrees."""

    name: str
    failure_class: str
    retry: bool
    strength: float
    patterns: list[Pattern]
    requires: list[Pattern]
    unless: list[Pattern]


class Rules(NamedTuple):
    """All rules in force, the lines that count less, and each class's usual answer to "run it again?"."""

    causes: list[Rule]
    noise: list[Pattern]
    aftermath: list[Pattern]
    retry: Mapping[str, bool]


def load_rules(extra: Iterable[Mapping[str, Any]] = ()) -> Rules:
    """Return the packaged rules after a user's `extra` ones. Cached. ValueError says which rule is wrong."""
    return _load(json.dumps(list(extra), sort_keys=True))


@lru_cache(maxsize=8)
def _load(extra: str) -> Rules:
    import tomllib  # only when something failed: the guard imports this module

    data = tomllib.loads(PATTERNS.read_text(encoding="utf-8"))
    usual: dict[str, bool] = data["classes"]
    users = [_rule(entry, usual, STRENGTH["user"]) for entry in json.loads(extra)]
    for rule in users:  # a mistake must show now, not at the first failure that needs the rule
        _check(rule)
    packaged = [_rule(entry, usual, STRENGTH[entry.get("strength", "error")]) for entry in data["rule"]]
    return Rules(users + packaged, _patterns(data["noise"]), _patterns(data["aftermath"]), usual)


def _rule(entry: Mapping[str, Any], usual: Mapping[str, bool], strength: float) -> Rule:
    name = entry.get("name", "without a name")
    if missing := [field for field in ("name", "class", "pattern") if field not in entry]:
        raise ValueError(f"classifier rule {name!r}: {missing[0]!r} is missing")
    if unknown := set(entry) - _FIELDS:
        raise ValueError(f"classifier rule {name!r}: unknown field {min(unknown)!r}")
    failure_class = entry["class"]
    if failure_class not in usual:
        raise ValueError(
            f"classifier rule {name!r}: no failure class {failure_class!r}; one of {', '.join(usual)}"
        )
    return Rule(
        name,
        failure_class,
        entry.get("retry", usual[failure_class]),
        strength,
        *(_patterns(entry.get(field, [])) for field in ("pattern", "requires", "unless")),
    )


def _check(rule: Rule) -> None:
    for pattern in (*rule.patterns, *rule.requires, *rule.unless):
        try:
            pattern.matches("")
        except re.error as error:
            raise ValueError(f"classifier rule {rule.name!r}: pattern {pattern.source!r}: {error}") from None


def _patterns(sources: str | Iterable[str]) -> list[Pattern]:
    """One pattern for each alternative of one expression or several, so that each has its own literal."""
    sources = [sources] if isinstance(sources, str) else sources
    return [Pattern(alternative) for source in sources for alternative in _alternatives(source)]


# --- literals of regular expressions ---

_PLAIN = re.compile(r"[\w \-:,/;'\"]+")
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^]\\])*\]|\{[^}]*\}|.", re.DOTALL)
# A group without its brackets; looking ahead or back is none.
_GROUP = re.compile(r"\((?:\?(?:P<\w+>|:|[a-z-]+:))?(?!\?)(.*)\)", re.DOTALL)


def literals(source: str) -> tuple[str, ...]:
    """Lower-case texts of which every match of an expression contains at least one; empty if unknown."""
    if _PLAIN.fullmatch(source):
        return (source.lower(),)
    alternatives = _alternatives(source)
    if len(alternatives) > 1:
        found = [literals(alternative) for alternative in alternatives]
        return tuple(text for texts in found for text in texts) if all(found) else ()
    choices: list[tuple[str, ...]] = []
    run = ""
    pieces = _pieces(source)
    for piece, following in zip(pieces, [*pieces[1:], ""], strict=True):
        optional = following[:1] in ("*", "?", "{")
        if piece[0] == "(" and not optional and (group := _GROUP.fullmatch(piece)):
            choices.append(literals(group[1]))
        plain = piece not in "^$.+*?" if len(piece) == 1 else piece[0] == "\\" and not piece[1].isalnum()
        if plain and not optional:
            run += piece[-1].lower()
        else:
            choices.append((run,))
            run = ""
    choices.append((run,))
    best = max(choices, key=lambda texts: min(map(len, texts), default=0))
    return best if all(best) else ()


def _pieces(source: str) -> list[str]:
    """Cut an expression into characters, escapes, [sets], {counts} and (groups)."""
    pieces, piece, depth = [], "", 0
    for token in _TOKEN.findall(source):
        depth += (token == "(") - (token == ")")
        piece += token
        if depth <= 0:
            pieces.append(piece)
            piece = ""
    return [*pieces, piece] if piece else pieces


def _alternatives(source: str) -> list[str]:
    """Cut an expression at the `|` outside of groups."""
    if "|" not in source:
        return [source]
    alternatives = [""]
    for piece in _pieces(source):
        if piece == "|":
            alternatives.append("")
        else:
            alternatives[-1] += piece
    return alternatives
