"""Sweeps: a short description of many parameter sets ("points"), written in YAML or Python.

    base:    {dataset: mnist, seed: 0}               # the same in every point
    preset:  quick                                   # a named mapping of further base values
    product: {width: [1, 4], depth: [1, 4]}          # every combination
    zip:     {name: [a, b], batch: [32, 64]}         # side by side, lists of one length
    list:    [{attack: flip}, {attack: noise}]       # written out
    groups:  [{product: {...}}, {list: [...]}]       # whole sweeps, one after the other
    include: {width: [1, 4], depth: {"<=": 4}}       # keep what matches one of these ...
    exclude: [{width: 4, attack: noise}]             # ... and none of those
    presets: {quick: {rounds: 2}}                    # the named mappings (outermost level only)

One rule holds on every level: parts multiply, entries of `list` and `groups` add up. Points come in the order
in which nested loops over product, zip, list and groups, axes as written, would visit them (the last one
fastest); of equal points the first is kept. Inner base values win over outer ones, axes win over base values.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from operator import ge, gt, le, lt
from typing import Any

from ripresa.dsl.digests import canonical

PARTS = ("base", "preset", "product", "zip", "list", "groups", "include", "exclude")
COMPARISONS = {"<": lt, "<=": le, ">": gt, ">=": ge}
MAX_POINTS = 1_000_000

Point = dict[str, Any]


class SweepError(ValueError):
    """A sweep or a set of units that cannot be meant so; the message names the place and what is allowed."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


def sweep(
    spec: Mapping[str, Any], presets: Mapping[str, Any] | None = None, where: str = "sweep"
) -> list[Point]:
    """The points of `spec`, without duplicates, in the documented order.

    `presets` adds named mappings to those of the spec itself; `where` is how error messages name the spec.
    """
    named = dict(presets or {}) | dict(_mapping(_mapping(spec, where).get("presets", {}), f"{where}.presets"))
    level = {part: value for part, value in spec.items() if part != "presets"}
    unique: dict[str, Point] = {}
    for point in _points(level, where, {}, named):
        unique.setdefault(_canonical(point, where), point)
    if not unique:
        raise SweepError(where, "include and exclude leave no point; widen them")
    return list(unique.values())


def matches(condition: Mapping[str, Any], point: Mapping[str, Any], where: str = "filter") -> bool:
    """Whether `point` has what `condition` wants for every name in it: the value (scalar), one of the values
    (list), or a value that passes the comparisons (`{">=": 4, "<": 64}`; `"!="` takes a value or a list)."""
    return all(
        name in point and _holds(want, point[name], f"{where}.{name}") for name, want in condition.items()
    )


def _points(spec: Any, where: str, inherited: Point, presets: Mapping[str, Any]) -> list[Point]:
    """The points of one level, holding what it says itself; only its filters see `inherited` base values."""
    for part in _mapping(spec, where):
        if part not in PARTS:
            raise SweepError(f"{where}.{part}", f"unknown part of a sweep; allowed are {', '.join(PARTS)}")
    base: Point = {}
    for name in _names(spec.get("preset", []), f"{where}.preset"):
        if name not in presets:
            raise SweepError(
                f"{where}.preset", f"no preset {name!r}; there are {', '.join(presets) or 'none'}"
            )
        base |= _mapping(presets[name], f"{where}.presets.{name}")
    base |= _mapping(spec.get("base", {}), f"{where}.base")

    factors = list(_factors(spec, where, inherited | base, presets))
    owner: dict[str, str] = {}
    for part, points in factors:
        for name in {name: None for point in points for name in point}:
            if owner.setdefault(name, part) != part:
                raise SweepError(part, f"{name!r} is given by {owner[name]} already; name it in one of them")
    if (size := math.prod(len(points) for _, points in factors)) > MAX_POINTS:
        raise SweepError(where, f"{size} points are more than the {MAX_POINTS} allowed; use fewer values")
    points = [_merged(base, *chosen) for chosen in product(*(points for _, points in factors))]
    return [point for point, kept in zip(points, _kept(spec, where, inherited, points), strict=True) if kept]


def _factors(
    spec: Any, where: str, base: Point, presets: Mapping[str, Any]
) -> Iterator[tuple[str, list[Point]]]:
    """What a level multiplies: (place, its points) for every axis, the zip, the list and the groups."""
    for name, values in _mapping(spec.get("product", {}), f"{where}.product").items():
        here = f"{where}.product.{name}"
        yield here, [{name: value} for value in _values(values, here)]
    if "zip" in spec:
        here = f"{where}.zip"
        axes = {
            name: _values(values, f"{here}.{name}") for name, values in _mapping(spec["zip"], here).items()
        }
        if len({len(values) for values in axes.values()}) != 1:
            lengths = ", ".join(f"{name} {len(values)}" for name, values in axes.items()) or "no axis at all"
            raise SweepError(here, f"lists of one length are needed, not {lengths}")
        yield here, [dict(zip(axes, row, strict=True)) for row in zip(*axes.values(), strict=True)]
    if "list" in spec:
        here = f"{where}.list"
        yield (
            here,
            [dict(_mapping(item, f"{here}[{i}]")) for i, item in enumerate(_values(spec["list"], here))],
        )
    if "groups" in spec:
        here = f"{where}.groups"
        groups = enumerate(_values(spec["groups"], here))
        yield here, [point for i, group in groups for point in _points(group, f"{here}[{i}]", base, presets)]


def _kept(spec: Any, where: str, inherited: Point, points: list[Point]) -> Iterator[bool]:
    """For every point whether it matches one of `include` (if there is any) and none of `exclude`."""
    seen = [inherited | point for point in points]
    known = {name for point in seen for name in point}
    filters: dict[str, list[tuple[str, Any]]] = {}
    for part in ("include", "exclude"):
        given = spec.get(part, [])
        conditions = [given] if isinstance(given, Mapping) else _values(given, f"{where}.{part}", empty=True)
        filters[part] = [(f"{where}.{part}[{i}]", condition) for i, condition in enumerate(conditions)]
        for here, condition in filters[part]:
            if unknown := [name for name in _mapping(condition, here) if seen and name not in known]:
                raise SweepError(
                    f"{here}.{unknown[0]}", f"no such parameter; there are {', '.join(sorted(known))}"
                )
    for point in seen:
        wanted = not filters["include"] or any(matches(one, point, here) for here, one in filters["include"])
        yield wanted and not any(matches(one, point, here) for here, one in filters["exclude"])


def _holds(want: Any, value: Any, where: str) -> bool:
    if isinstance(want, Mapping):
        return all(_compares(sign, limit, value, where) for sign, limit in want.items())
    return any(_canonical(one, where) == _canonical(value, where) for one in _either(want))


def _compares(sign: str, limit: Any, value: Any, where: str) -> bool:
    if sign == "!=":
        return not _holds(list(_either(limit)), value, where)
    if sign not in COMPARISONS:
        raise SweepError(where, f"unknown comparison {sign!r}; allowed are {', '.join((*COMPARISONS, '!='))}")
    try:
        return bool(COMPARISONS[sign](value, limit))
    except TypeError:
        raise SweepError(
            where, f"{value!r} {sign} {limit!r} cannot be compared; use numbers or text"
        ) from None


def _either(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple | range) else [value]


def _merged(*points: Point) -> Point:
    return {name: value for point in points for name, value in point.items()}


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SweepError(where, f"a mapping of names to values is needed, not {value!r}")
    if not_text := [name for name in value if not isinstance(name, str)]:
        raise SweepError(where, f"the name {not_text[0]!r} is not text; put it in quotes")
    return value


def _values(value: Any, where: str, empty: bool = False) -> Sequence[Any]:
    if not isinstance(value, list | tuple | range):
        raise SweepError(where, f"a list is needed, not {value!r}")
    if not value and not empty:
        raise SweepError(where, "the list is empty, which would leave no points; give a value or drop it")
    return value


def _names(value: Any, where: str) -> Sequence[str]:
    if unnamed := [name for name in _either(value) if not isinstance(name, str)]:
        raise SweepError(where, f"the name of a preset or a list of names is needed, not {unnamed[0]!r}")
    return _either(value)


def _canonical(value: Any, where: str) -> str:
    try:
        return canonical(value)
    except ValueError as error:
        raise SweepError(where, f"{error}") from None
