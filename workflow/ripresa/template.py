"""Templates: `{name}` stands for a parameter, a resource or a place.

`${name}` is the shell's own and `{{name}}` stands for `{name}`; braces around anything else than a name are
left alone, so that awk and Python keep theirs.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping

_FIELD = re.compile(r"(?<![${])\{([A-Za-z_]\w*(?:\.\w+)?)\}(?!\})")
_DOUBLED = re.compile(r"\{(\{[A-Za-z_][\w.]*\})\}")


def fields(template: str) -> list[str]:
    """The names in a template, in order of appearance, each once."""
    return list(dict.fromkeys(_FIELD.findall(template)))


def fill(template: str, values: Mapping[str, str], quote: Callable[[str], str] = shlex.quote) -> str:
    """The template with the values that are given; other names stay for a later call."""
    return _FIELD.sub(lambda found: quote(values[found[1]]) if found[1] in values else found[0], template)


def finish(template: str) -> str:
    """The text of a template in which all names are filled: doubled braces become single ones."""
    return _DOUBLED.sub(r"\1", template)


def quoted(template: str) -> list[str]:
    """The names within quotes of a shell, where the quotes that `fill` brings end those around them."""
    found: list[str] = []
    open_: list[str] = []  # quotes and parentheses around what comes next
    at = 0
    while at < len(template):
        character, inner = template[at], open_[-1] if open_ else ""
        if (field := _FIELD.match(template, at)) and inner in ("'", '"'):
            found.append(field[1])
        if character == "\\" and inner != "'":
            at += 1
        elif (character == inner and inner in ("'", '"')) or (character == ")" and inner == "("):
            open_.pop()
        elif character in "'\"" and inner not in ("'", '"'):
            open_.append(character)
        elif character == "(" and (inner == "(" or (inner != "'" and template[at - 1 : at] == "$")):
            open_.append("(")  # a substitution: what it holds is not within the quotes around it
        elif character == "#" and inner in ("", "(") and template[:at].endswith((" ", "\n")):
            at = template.find("\n", at) if "\n" in template[at:] else len(template)
        at += 1
    return list(dict.fromkeys(found))
