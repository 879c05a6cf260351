"""Says what made a command fail: a failure class, from explicit evidence and the text of its log.

Every rule of `patterns.toml` names one cause. All rules that match somewhere in the log compete; the winner is
the strongest statement about the *root* cause, not the last line (see docs/classifier.md). The module imports
only the standard library and reads its rules when it is first asked, because the guard imports it.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ripresa.recovery import evidence as explicit

PATTERNS = Path(__file__).with_name("patterns.toml")

HEAD = TAIL = 256 * 1024  # characters of a log that are read: causes stand at its ends
SPAN = 500  # characters around a literal that one pattern sees of an overlong line
TRIES = 300  # places where one literal is looked at before the search goes on in the last 64 kB
EVIDENCE = 1000  # characters of a line that are quoted

# How much a rule knows about the root cause. Gaps are 1, so that `SOFT` puts a warning about something serious
# below a plain error, and still above a mere last resort.
STRENGTH = {"user": 10.0, "root": 3.0, "error": 2.0, "symptom": 1.0, "last": 0.5}
SOFT = 1.25
AFTERMATH = 1.75
HANDLED = 0.25


class Verdict(NamedTuple):
    """What happened. `evidence` is a verbatim line of the log, or names the exit code where the log is empty."""

    failure_class: str
    retry: bool
    evidence: str
    rule: str


class Pattern:
    """One regular expression, compiled on first use, and the literals of which every match contains one."""

    __slots__ = ("_compiled", "literals", "source")

    def __init__(self, source: str) -> None:
        # An unbounded `.*` makes a search quadratic; no cause is spread over more than 200 characters.
        self.source = re.sub(r"(?<!\\)\.([*+])", r".{0,200}", source)
        self.literals = literals(source)
        self._compiled: re.Pattern[str] | None = None

    def search(self, line: str) -> re.Match[str] | None:
        if self._compiled is None:
            self._compiled = re.compile(self.source, re.IGNORECASE)
        return self._compiled.search(line)


class Rule(NamedTuple):
    """One cause: any of `patterns` on a line, provided that the text as a whole agrees."""

    name: str
    failure_class: str
    retry: bool
    strength: float
    patterns: tuple[Pattern, ...]
    requires: tuple[Pattern, ...]
    unless: tuple[Pattern, ...]


class Rules(NamedTuple):
    causes: tuple[Rule, ...]
    noise: tuple[Pattern, ...]
    aftermath: tuple[Pattern, ...]
    retry: Mapping[str, bool]


class _Candidate(NamedTuple):
    score: float
    line: int
    rule: str
    failure_class: str
    retry: bool


def classify(
    text: str,
    *,
    exit_code: int | None = None,
    signal: int | None = None,
    slurm_state: str | None = None,
    oom_killed: bool = False,
    extra_rules: Sequence[Mapping[str, Any]] = (),
) -> Verdict:
    """Classify one failed attempt.

    `text` is its log, `exit_code` as a shell or Python's subprocess reports it (negative or above 128: a signal),
    `oom_killed` whether the kernel or a cgroup counted an out-of-memory kill. `extra_rules` are a user's rules in
    the form of `patterns.toml`; they win over all packaged ones. Raises ValueError for a malformed extra rule.
    """
    rules = load_rules(extra_rules)
    log = Log(text)
    candidates = [
        *_matches(rules, log),
        *_explicit(rules, log, exit_code, signal, slurm_state, oom_killed),
    ]
    candidates = [candidate for candidate in candidates if candidate.score > 0]
    if not candidates:
        return Verdict(
            "unknown", rules.retry["unknown"], log.last() or _bare(exit_code, signal), "nothing-known"
        )
    best = max(candidates, key=lambda c: (c.score, -c.line))
    line = best.line
    if line < 0:  # decided without the log: quote the line that says the same, else its last words
        same = [c for c in candidates if c.failure_class == best.failure_class and c.line >= 0]
        line = max(same, key=lambda c: (c.score, -c.line)).line if same else -1
    quoted = log.quote(line) if line >= 0 else log.last() or _bare(exit_code, signal, slurm_state, oom_killed)
    return Verdict(best.failure_class, best.retry, quoted, best.rule)


# --- the log -----------------------------------------------------------------------------------------------------

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
# Who wrote a line and when: CI runners, ranks of a parallel job.
_PREFIX = re.compile(
    r"^(?:\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,\d]*(?:Z|[+-]\d\d:?\d\d)?\]?\s|\[?(?:rank ?)?\d{1,5}\]:?\s?|##\[error\])+",
    re.IGNORECASE,
)
# Lines that quote code instead of reporting anything: stack frames and the source line below a Python frame.
_FRAME = re.compile(r'\s*File ".+", line \d+|\s+at [\w.$<>/]+\(.*\)\s*$|\s*\^[\s^~]*$|\s*\++ \S')
_PYTHON_FRAME = re.compile(r'^(?P<indent>.*?)File ".+", line \d+')


class Log:
    """The two ends of a log, as lines: `lines` verbatim, `clean` without colours and without quoted code."""

    def __init__(self, text: str) -> None:
        if len(text) > HEAD + TAIL:
            text = text[:HEAD] + "\n" + text[-TAIL:]
        self.lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        plain = (_ANSI.sub("", line) if "\x1b" in line else line for line in self.lines)
        self.clean = [_PREFIX.sub("", line) if line[:1] in "[0123456789#" else line for line in plain]
        self._mask_code()
        self.text = "\n".join(self.clean)
        self.lowered = "\n".join(line.lower() for line in self.clean)
        self.starts = [0]
        for line in self.lowered.split("\n"):
            self.starts.append(self.starts[-1] + len(line) + 1)
        handled = self.lowered.rfind("during handling of the above exception, another exception")
        self.handled_before = bisect_right(self.starts, handled) - 1 if handled >= 0 else -1

    def _mask_code(self) -> None:
        source_of: str | None = None
        for number, line in enumerate(self.clean):
            frame = _PYTHON_FRAME.match(line) if "File " in line else None
            if frame:
                source_of = frame["indent"]
                self.clean[number] = ""
            elif source_of is not None:  # the source line stands right below, indented by two more
                if line.startswith(source_of + "  "):
                    self.clean[number] = ""
                source_of = None
            elif line[:1] in " \t+" and _FRAME.match(line):
                self.clean[number] = ""

    def find(self, pattern: Pattern) -> Iterator[tuple[int, re.Match[str]]]:
        """Yield (line number, match) for every line that matches, in linear time."""
        if not pattern.literals:
            for number, line in enumerate(self.clean):
                if match := pattern.search(line[: 2 * SPAN]):
                    yield number, match
        for literal in pattern.literals:
            position = self.lowered.find(literal)
            tries = 0
            while position >= 0:
                tries += 1
                number = bisect_right(self.starts, position) - 1
                column = position - self.starts[number]
                match = pattern.search(self.clean[number][max(0, column - SPAN) : column + SPAN])
                if match:
                    yield number, match
                end = self.starts[number + 1] if match else min(position + SPAN, self.starts[number + 1])
                if tries == TRIES:
                    end = max(end, len(self.lowered) - 64 * 1024)
                position = self.lowered.find(literal, end)

    def contains(self, patterns: Iterable[Pattern]) -> bool:
        return any(True for pattern in patterns for _ in self.find(pattern))

    def quote(self, number: int) -> str:
        return self.lines[number].strip()[:EVIDENCE]

    def last(self) -> str:
        return next((line.strip()[:EVIDENCE] for line in reversed(self.lines) if line.strip()), "")


# --- who competes ------------------------------------------------------------------------------------------------


def _matches(rules: Rules, log: Log) -> Iterator[_Candidate]:
    """One candidate for each line that a rule matches; of several rules on one line the strongest stays."""
    discounts: dict[int, float] = {}

    def discount(number: int) -> float:
        if number not in discounts:
            line = log.clean[number][: 2 * SPAN]
            if any(pattern.search(line) for pattern in rules.aftermath):
                discounts[number] = AFTERMATH
            else:
                discounts[number] = SOFT * any(pattern.search(line) for pattern in rules.noise)
        return discounts[number]

    for rule in rules.causes:
        hits = [hit[0] for pattern in rule.patterns for hit in log.find(pattern)]
        if not hits:
            continue
        if (rule.requires and not log.contains(rule.requires)) or (rule.unless and log.contains(rule.unless)):
            continue
        for number in {min(hits), max(hits), *(hits[:200])}:
            score = rule.strength
            if rule.strength < STRENGTH["user"]:
                score -= discount(number)
                if rule.failure_class == "code" and number < log.handled_before:
                    score -= HANDLED
            yield _Candidate(score, number, rule.name, rule.failure_class, rule.retry)


def _explicit(
    rules: Rules, log: Log, exit_code: int | None, signal: int | None, state: str | None, oom: bool
) -> Iterator[_Candidate]:
    for fact in explicit.facts(exit_code=exit_code, signal=signal, slurm_state=state, oom_killed=oom):
        retry = rules.retry[fact.failure_class]
        yield _Candidate(fact.strength, -1, fact.name, fact.failure_class, retry)


def _bare(
    exit_code: int | None, signal: int | None, state: str | None = None, oom_killed: bool = False
) -> str:
    if oom_killed:
        return "out-of-memory kill counted by the cgroup"
    if state:
        return f"SLURM state {state}"
    if signal is not None:
        return f"signal {signal}"
    return f"exit code {exit_code}" if exit_code is not None else "no output"


# --- reading rules -----------------------------------------------------------------------------------------------

_FIELDS = {"name", "class", "pattern", "retry", "strength", "requires", "unless"}


def load_rules(extra: Iterable[Mapping[str, Any]] = ()) -> Rules:
    """Return the packaged rules with a user's `extra` ones in front. Cached. ValueError says which rule is wrong."""
    return _load(json.dumps(list(extra), sort_keys=True, default=str))


@lru_cache(maxsize=8)
def _load(extra: str) -> Rules:
    import tomllib

    data = tomllib.loads(PATTERNS.read_text(encoding="utf-8"))
    retry: dict[str, bool] = data["classes"]
    users = [_rule(entry, retry, "user") for entry in json.loads(extra)]
    packaged = [_rule(entry, retry) for entry in data["rule"]]
    noise, aftermath = (tuple(map(Pattern, data[key])) for key in ("noise", "aftermath"))
    return Rules((*users, *packaged), noise, aftermath, retry)


def _rule(entry: Mapping[str, Any], classes: Mapping[str, bool], strength: str | None = None) -> Rule:
    name = entry.get("name", "?")
    for field in ("name", "class", "pattern"):
        if field not in entry:
            raise ValueError(f"classifier rule {name!r}: {field!r} is missing")
    if unknown := set(entry) - _FIELDS:
        raise ValueError(f"classifier rule {name!r}: unknown field {', '.join(sorted(unknown))}")
    if entry["class"] not in classes:
        raise ValueError(f"classifier rule {name!r}: no failure class {entry['class']!r}")
    rule = Rule(
        name=name,
        failure_class=entry["class"],
        retry=entry.get("retry", classes[entry["class"]]),
        strength=STRENGTH[strength or entry.get("strength", "error")],
        patterns=patterns_of(entry["pattern"]),
        requires=patterns_of(entry.get("requires", ())),
        unless=patterns_of(entry.get("unless", ())),
    )
    if strength:  # a user's rule: a mistake must show now, not at the first failure that needs it
        for pattern in (*rule.patterns, *rule.requires, *rule.unless):
            try:
                pattern.search("")
            except re.error as error:
                raise ValueError(
                    f"classifier rule {name!r}: bad pattern {pattern.source!r}: {error}"
                ) from None
    return rule


# --- literals of regular expressions -----------------------------------------------------------------------------
#
# Hundreds of patterns are tried on half a megabyte. Almost none match, so each is first looked for by a literal
# text that its matches must contain; only then is it compiled and applied, and only to that line.


def patterns_of(sources: str | Iterable[str]) -> tuple[Pattern, ...]:
    """The patterns for one expression or several, each alternative by itself so that each has its own literal."""
    sources = [sources] if isinstance(sources, str) else sources
    return tuple(Pattern(branch) for source in sources for branch in _pieces(source, split="|"))


def literals(source: str) -> tuple[str, ...]:
    """Lower-case texts of which every match of `source` contains at least one; empty if there are none such."""
    alternatives = _pieces(source, split="|") if "|" in source else [source]
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
        char = piece[-1] if len(piece) == 1 or (piece[0] == "\\" and not piece[1].isalnum()) else ""
        if char and not optional and (len(piece) == 2 or char not in "^$.+*?|"):
            run += char.lower()
        else:
            choices.append((run,))
            run = ""
    choices.append((run,))
    best = max(choices, key=lambda texts: min(map(len, texts), default=0))
    return best if all(best) else ()


# A group without its brackets; looking ahead or back is none.
_GROUP = re.compile(r"\((?:\?(?:P<\w+>|:|[a-z-]+:))?(?!\?)(.*)\)", re.DOTALL)


_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^]\\])*\]|\{[^}]*\}|.", re.DOTALL)


def _pieces(source: str, split: str = "") -> list[str]:
    """Cut an expression into characters, escapes, [sets], {counts} and (groups); or only at `split` outside them."""
    pieces, piece, depth = [], "", 0
    for token in _TOKEN.findall(source):
        depth += (token == "(") - (token == ")")
        if split and token == split and depth == 0:
            pieces.append(piece)
            piece = ""
        else:
            piece += token
            if depth == 0 and not split:
                pieces.append(piece)
                piece = ""
    return [*pieces, piece] if piece or split else pieces
