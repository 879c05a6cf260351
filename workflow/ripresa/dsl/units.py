"""Units: a pattern of target files with the parameter sets behind it, readable in both directions.

    hashes = Units("hashes/{algorithm}/{size}.json", sweep=config["hashes"]["sweep"])

    rule hash_speed:
        output: hashes.target
        log:    hashes.log
        params: p=hashes.params
        shell:  guard("python workflow/scripts/hash_speed.py {params.p:q} {output}")

    rule HASHES:
        input: hashes.targets()

Parameters that the pattern does not name are allowed as long as every unit keeps a target of its own;
`{digest}` in a pattern stands for the content digest of the whole parameter set.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from string import Formatter
from typing import Any

from ripresa.dsl import run
from ripresa.dsl.digests import DIGEST_LENGTH, canonical, digest
from ripresa.dsl.sweeps import Point, SweepError, sweep

SAFE = re.compile(r"[\w.+=@,-]+")
ALLOWED = "use letters, digits and . _ + = @ , - only"
MAX_NAME = 200  # file systems allow 255 bytes, and logs and records add their endings
MAX_CHOICES = 64  # up to here a wildcard is constrained to its very values


class Parameters(dict[str, Any]):
    """A parameter set that prints as canonical JSON, in `{params.p:q}` as in Snakemake's record of a job.

    Snakemake compares this record between calls, so exactly the units whose values changed run again.
    """

    def __str__(self) -> str:
        return canonical(self)

    __repr__ = __str__


class Units:
    """The units of one rule, from either `sweep` (a spec of `ripresa.dsl.sweeps`) or `parameters` (mappings).

    `pattern` is relative to the run directory and names parameters as Snakemake wildcards, unconstrained.
    `skip(parameters)` returns the reason why a unit cannot run here, else None; skipped units are no targets.
    Raises SweepError for values that cannot stand in a path and patterns that do not tell the units apart.
    """

    def __init__(
        self,
        pattern: str,
        sweep: Mapping[str, Any] | None = None,
        parameters: Iterable[Mapping[str, Any]] | None = None,
        skip: Callable[[Point], str | None] | None = None,
    ) -> None:
        self.pattern = pattern
        self.directory = run.current().dir
        self.skipped: list[tuple[str, str]] = []
        self.device_kinds = ""
        """Kinds of the devices that they ask for; see `ripresa.dsl.devices`."""
        self._units: dict[str, Parameters] = {}
        self._known: dict[str, dict[str, str]] = {}
        try:
            self.names = _names(pattern)
            self._regexes = self._read(_points(pattern, sweep, parameters))
        except SweepError as error:
            # Snakemake shows where in the rule file this is; our own stack would only be noise.
            raise error.with_traceback(None) from None
        for target, point in self._units.items():
            if reason := skip(dict(point)) if skip else None:
                self.skipped.append((self._in_run(target), reason))
        run.current().units.append(self)

    @property
    def target(self) -> str:
        """The pattern for `output:`, with the run directory in front and each wildcard held to its values."""
        return self._output(self.pattern)

    @property
    def log(self) -> str:
        """The pattern for `log:`."""
        return self._in_run("logs/units/" + _suffixed(self.pattern, ".log"))

    def beside(self, suffix: str) -> str:
        """The pattern of a further output next to the target, e.g. `beside(".csv")`."""
        return self._output(_suffixed(self.pattern, suffix))

    def params(self, wildcards: Any) -> Parameters:
        """The parameters of one job, for `params:`."""
        return self.find(wildcards)

    def find(self, wildcards: Any) -> Parameters:
        """The parameters behind Snakemake's `wildcards` (or a mapping of names to values)."""
        values = dict(wildcards.items())
        if missing := [name for name in self.names if name not in values]:
            raise SweepError(self.pattern, f"wildcard {missing[0]!r} is missing among {', '.join(values)}")
        target = self.pattern.format(**{name: _label(values[name]) for name in self.names})
        if target not in self._units:
            raise SweepError(target, f"not a configured unit of {self.pattern}{self._example()}")
        return self._units[target]

    def __iter__(self) -> Iterator[str]:
        """The targets of all units, relative to the run."""
        return iter(self._units)

    def at(self, target: str) -> Parameters | None:
        """The parameters of the unit with this target, relative to the run; None if there is none."""
        return self._units.get(target)

    def target_of(self, parameters: Mapping[str, Any]) -> str:
        """The target of exactly this parameter set; numbers may be written 1 or 1.0."""
        target = self.pattern.format(**_values(self.pattern, self.names, parameters))
        if canonical(self._units.get(target)) != canonical(parameters):
            raise SweepError(canonical(parameters), f"no such unit of {self.pattern}{self._example()}")
        return self._in_run(target)

    def targets(self, where: Callable[[Point], bool] | None = None, /, **subset: Any) -> list[str]:
        """The targets that can run here, in the order of the sweep.

        Keywords pick a subset by parameter: a value or several; text equals the number it spells, so that
        wildcards can be passed on. `where` is a predicate on the parameters.
        """
        wanted = []
        for name, values in subset.items():
            several = values if isinstance(values, list | tuple | set | range) else [values]
            wanted.append((self._labels(name), {_label(value) for value in several}))
        skipped = {target for target, _ in self.skipped}
        return [
            full
            for target, point in self._units.items()
            if all(labels.get(target) in values for labels, values in wanted)
            and (full := self._in_run(target)) not in skipped
            and (where is None or where(dict(point)))
        ]

    def _read(self, points: Iterable[Point]) -> dict[str, str]:
        """Take in the parameter sets, and return what each wildcard may be as a regular expression."""
        read: dict[str, dict[str, str]] = {}
        for point in points:
            values = _values(self.pattern, self.names, point)
            target = self.pattern.format(**values)
            if target in self._units:
                both = f"{self._units[target]} and {canonical(point)}"
                raise SweepError(target, f"{both} have the same target; name more in the pattern")
            self._units[target], read[target] = Parameters(point), values
        regexes = {name: _regex(name, {values[name] for values in read.values()}) for name in self.names}
        self.expression = _written(self.pattern, regexes, "(?P<{name}>{regex})", "(?P={name})", re.escape)
        matcher = re.compile(self.expression)
        for target, values in read.items():
            _check_path(target)
            if (found := matcher.fullmatch(target)) is None or found.groupdict() != values:
                raise SweepError(target, f"ambiguous in {self.pattern}; put '/' between the wildcards")
        return regexes

    def _labels(self, name: str) -> dict[str, str]:
        """By target what one parameter looks like in a path."""
        if name not in self._known:
            self._known[name] = {target: _label(p[name]) for target, p in self._units.items() if name in p}
        if self._units and not self._known[name]:
            there = ", ".join(sorted({name for point in self._units.values() for name in point}))
            raise SweepError(self.pattern, f"no parameter {name!r}; there are {there}")
        return self._known[name]

    def _example(self) -> str:
        return f", but for instance {next(iter(self._units))}" if self._units else ""

    def _output(self, pattern: str) -> str:
        return self._in_run(_written(pattern, self._regexes, "{{{name},{regex}}}", "{{{name}}}", str))

    def _in_run(self, path: str) -> str:
        return f"{self.directory}/{path}"


def _points(
    pattern: str, spec: Mapping[str, Any] | None, parameters: Iterable[Mapping[str, Any]] | None
) -> list[Point]:
    if spec is not None and parameters is None:
        return sweep(spec, where=f"{pattern}: sweep")
    if parameters is None or spec is not None:
        raise SweepError(pattern, "give either sweep= or parameters=")
    points = list(parameters)
    return sweep({"list": points}, where=f"{pattern}: parameters") if points else []


def _names(pattern: str) -> list[str]:
    """The wildcards of a pattern, each once, in order of appearance."""
    try:
        fields = [(name, spec, how) for _, name, spec, how in Formatter().parse(pattern) if name is not None]
    except ValueError as error:
        raise SweepError(pattern, f"{error}; wildcards are written {{name}}") from None
    for name, spec, how in fields:
        if not name.isidentifier() or spec or how:
            raise SweepError(pattern, f"{name!r} cannot be a wildcard; write a plain name like {{width}}")
    return list(dict.fromkeys(name for name, _, _ in fields))


def _values(pattern: str, names: list[str], point: Mapping[str, Any]) -> dict[str, str]:
    """The text of each wildcard for one parameter set."""
    if "digest" in names and "digest" in point:
        raise SweepError(pattern, "{digest} is computed, so no parameter can have this name; rename it")
    values = {}
    for name in names:
        if name not in point and name != "digest":
            raise SweepError(pattern, f"{canonical(point)} has no {name!r}; give every wildcard a value")
        values[name] = digest(point) if name == "digest" else _label(point[name])
        if not SAFE.fullmatch(values[name]):
            raise SweepError(pattern, f"{name} = {values[name]!r} cannot stand in a path; {ALLOWED}")
    return values


def _check_path(target: str) -> None:
    """Refuse what a file system or a reader of paths could not take for one file in the run."""
    for part in target.split("/"):
        if not SAFE.fullmatch(part) or part in {".", ".."}:
            raise SweepError(target, f"{part!r} cannot be a file name here; {ALLOWED}")
        if len(part.encode()) > MAX_NAME:
            raise SweepError(target, f"a name over {MAX_NAME} bytes; use {{digest}} in the pattern")


def _label(value: Any) -> str:
    """A value as it stands in a path: text as it is, all else as canonical JSON (`true`, `4`, `0.25`)."""
    return value if isinstance(value, str) else canonical(value)


def _regex(name: str, values: set[str]) -> str:
    """What a wildcard may be: its very values while they are few, the longest first, else one path part."""
    if name == "digest":
        return f"[0-9a-f]{{{DIGEST_LENGTH}}}"
    if not 0 < len(values) <= MAX_CHOICES:
        return "[^/]+"
    return "|".join(re.escape(value) for value in sorted(values, key=lambda text: (-len(text), text)))


def _written(
    pattern: str, regexes: Mapping[str, str], first: str, again: str, escape: Callable[[str], str]
) -> str:
    """The pattern, its wildcards as `first` says (a format of name and regex), later ones as `again`."""
    parts, seen = [], set()
    for literal, name, _, _ in Formatter().parse(pattern):
        parts.append(escape(literal))
        if name is not None:
            parts.append((again if name in seen else first).format(name=name, regex=regexes[name]))
            seen.add(name)
    return "".join(parts)


def _suffixed(pattern: str, suffix: str) -> str:
    """The pattern with its suffix replaced; a suffix that is a wildcard stays."""
    path = PurePosixPath(pattern)
    return pattern + suffix if "{" in path.suffix else str(path.with_suffix(suffix))
