"""Puts the configuration of a campaign together: the files, what the command line changes, the defaults."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

from ripresa.configuration.layers import Config, Layers, merged, plain
from ripresa.configuration.problems import ConfigurationError, Path, Problem, dotted, similar
from ripresa.configuration.reading import read, scalar, unusable

if TYPE_CHECKING:  # imported where needed: reading the snapshot of a run needs no schemas
    from jsonschema import ValidationError

    from ripresa.configuration.schema import Checker

SCHEMAS = File(__file__).parents[2] / "schemas"


def load(directory: str | os.PathLike[str] = "config", overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration in a directory, validated and complete; see `resolve`."""
    return resolve(overrides or {}, directory)


def resolve(
    config: Mapping[str, Any], directory: str | os.PathLike[str] = "config", *, source: str = "command line"
) -> Config:
    """The whole configuration of a campaign: files, overrides and defaults, merged and validated.

    ``directory`` holds config.yaml, <family>.yaml for each family that it names, and recovery.yaml (may be
    absent). ``config`` is what Snakemake was given by ``--config`` and ``--configfile``, with or without what
    it read from config.yaml; its values win over the files, mappings key by key, all else as a whole. With
    ``standalone: true`` it is the whole configuration, and of the files only recovery.yaml is read, and those
    that define something (see `definitions`).
    ``source`` is what messages call its origin. Returns {run_id, strict_resume, families, recovery,
    <family>: ...} in plain dicts and lists. Raises ConfigurationError with every problem of every file.
    """
    return _Resolution(File(directory), config, source).result()


class _Resolution:
    """One run of `resolve`, gathering problems as it goes."""

    def __init__(self, directory: File, config: Mapping[str, Any], source: str) -> None:
        self.directory, self.source = directory, source
        self.problems: list[Problem] = []
        self.unreadable: set[str] = set()
        self.standalone = config.get("standalone") is True
        main = {} if self.standalone else self._read("config", ())
        # Snakemake may have read the same file, with what makes it unreadable.
        overrides = {} if self.unreadable else self._overrides(config)
        top = merged(main, overrides)
        self.sections = ["recovery", *self._families(top)]
        contents = {name: self._section(name, inline=name in top) for name in self.sections}
        self.layers = Layers(
            *(
                (self._file(name), {name: content})
                for name, content in contents.items()
                if content is not None
            ),
            (self._file("config"), main),
            (source, overrides),
        )
        self.problems += [self._problem(where, message) for where, message in unusable(overrides)]
        self.unlisted = [name for name in self._others() if name in top and name not in self.sections]
        for name in self.unlisted:
            self.problems.append(
                self._problem((name,), f"is configured, but not run; add {name!r} to families")
            )

    def result(self) -> Config:
        """The configuration, complete. Raises ConfigurationError if there were problems on the way."""
        result = self._checked("config") or {}
        for name in self.sections:
            result[name] = self._checked(name)
        if rules := (result["recovery"] or {}).get("rules"):
            self._check_rules(rules)
        if self.problems:
            raise ConfigurationError(self.problems)
        return result

    def _value(self, section: str) -> Any:
        """What all layers together say of a section; "config" is what is in no other."""
        config = self.layers.merged
        if section != "config":
            return config.get(section, {})
        return {key: value for key, value in config.items() if key not in self.sections + self.unlisted}

    def _file(self, section: str) -> str:
        return str(self.directory / f"{section}.yaml")

    def _read(self, section: str, at: Path) -> Config:
        try:
            return read(self._file(section), at)
        except ConfigurationError as error:
            self.unreadable.add(section)
            self.problems += error.problems
            return {}

    def _overrides(self, config: Mapping[str, Any]) -> Config:
        try:
            return dict(plain(config))
        except RecursionError:
            self.problems.append(Problem(self.source, "", "has an anchor that contains itself"))
            return {}

    def _section(self, name: str, *, inline: bool) -> Config | None:
        """What the file of a section says; None for no file, which an inline section may do without."""
        if os.path.lexists(self._file(name)) and (name == "recovery" or not self.standalone):
            return self._read(name, (name,))
        if not inline and name != "recovery":
            hint = similar(name, self._others()) or f"; create it, or take {name!r} out of families"
            problem = Problem(self._file(name), "", f"does not exist, but families has {name!r}{hint}")
            if self.standalone:
                problem = Problem(self.source, name, "is missing, but families has it; add the section")
            self.problems.append(problem)
            self.unreadable.add(name)
        return None

    def _others(self) -> list[str]:
        """What else has a file in the directory."""
        names = {path.stem for path in self.directory.glob("*.yaml")}
        return sorted(names - {"config", "recovery"})

    def _families(self, top: Config) -> list[str]:
        """The families asked for, without those whose very name is wrong."""
        families = top.get("families")
        if "config" in self.unreadable and families is None:  # the other files have a say all the same
            return [name for name in self._others() if _schema_of(name).exists()]
        if not isinstance(families, list):
            return []
        name_is_wrong = _checker("config").part("properties", "families", "items").errors
        return list(dict.fromkeys(name for name in families if not name_is_wrong(name)))

    def _checked(self, section: str) -> Any:
        """A section with its defaults, or None if something is wrong with it."""
        if section in self.unreadable:
            return None
        from ripresa.configuration.definitions import expanded, incoherent_keys
        from ripresa.configuration.messages import explain

        at = () if section == "config" else (section,)
        checker, problems = expanded(_checker(section), self._value(section), self.directory)
        self.problems += problems
        errors = checker.errors(self._value(section))
        if self._reread(errors, at):
            errors = checker.errors(self._value(section))
        for error in errors:
            self.problems += [self._problem(where, text) for where, text in explain(error, checker, at)]
        if errors:
            return None
        for where, text in incoherent_keys(checker, self._value(section)):
            self.problems.append(self._problem((*at, *where), text))
        return checker.filled(self._value(section))

    def _reread(self, errors: list[ValidationError], at: Path) -> bool:
        """Correct values that Snakemake's command line has read differently from YAML.

        Within `--config benchmarks="{...}"` everything is text, and `--config run_id=7` is a number.
        """
        changed = False
        for error in _leaves(errors):
            where, value = (*at, *error.absolute_path), error.instance
            other = scalar(value) if isinstance(value, str) else value
            if type(value) is int and error.validator_value == "string":
                other = str(value)
            if other is not value and where and self.layers.origin(where, "") == self.source:
                self.layers.correct(where, other)
                changed = True
        return changed

    def _check_rules(self, rules: list[Config]) -> None:
        from ripresa.recovery.rules import load_rules

        try:
            load_rules(rules)
        except ValueError as error:
            self.problems.append(self._problem(("recovery", "rules"), str(error)))

    def _problem(self, where: Path, message: str) -> Problem:
        section = str(where[0]) if where and where[0] in self.sections else "config"
        return Problem(self.layers.origin(where, self._file(section)), dotted(where), message)


def _checker(section: str) -> Checker:
    """The schema of a section; a family without one may say what it likes."""
    from ripresa.configuration import schema

    path = _schema_of(section)
    return schema.load(path) if path.exists() else schema.Checker({"type": "object"})


def _schema_of(section: str) -> File:
    return SCHEMAS / f"{section}.schema.json"


def _leaves(errors: list[ValidationError]) -> Iterator[ValidationError]:
    for error in errors:
        if error.context:
            yield from _leaves(error.context)
        else:
            yield error
