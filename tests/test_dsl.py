"""Sweeps, digests and units: what a rule file may say, and what it is told when it says something else."""

import contextlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ripresa.dsl import run as dsl_run
from ripresa.dsl.digests import canonical, digest
from ripresa.dsl.sweeps import SweepError, matches, sweep
from ripresa.dsl.units import Units

SWEEPS = Path(__file__).parents[1] / "docs" / "sweeps.md"

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


# Digests


@given(st.dictionaries(st.text(), values, max_size=5))
def test_the_order_of_keys_does_not_matter(point):
    assert digest(dict(reversed(point.items()))) == digest(point)


@given(values)
def test_canonical_json_says_all_there_is(value):
    assert json.loads(canonical(value)) == value
    assert canonical(json.loads(canonical(value))) == canonical(value)


@given(st.integers(min_value=-(2**53), max_value=2**53))
def test_a_whole_float_is_the_integer(number):
    assert digest({"x": float(number)}) == digest({"x": number})


def test_booleans_text_and_numbers_stay_apart():
    assert len({digest(value) for value in (1, True, "1", "true", None, "null", 0, False, "")}) == 9


def test_digests_never_change():
    """Files of earlier runs carry these names: a change here orphans them all."""
    assert digest({}) == "44136fa355b3"
    assert (
        digest({"width": 4, "ratio": 0.8125, "attack": "flip", "nested": {"a": [1, 2.0, None, True]}})
        == "dcdac03e4b68"
    )
    assert digest({"name": "città \U0001f600", "values": [0.1, 1e22, 1e-7, 5e-324, -0.0]}) == "eb3eaea3ff61"


@pytest.mark.parametrize("value", [math.nan, math.inf, {1: "x"}, {"x": {1, 2}}, [object()], Path("x")])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(ValueError, match=r"not a finite number|not text|not JSON"):
        canonical(value)


# Sweeps


def test_a_product_runs_like_nested_loops():
    points = sweep({"product": {"width": [1, 4], "depth": [1, 4]}})
    assert points == [
        {"width": 1, "depth": 1},
        {"width": 1, "depth": 4},
        {"width": 4, "depth": 1},
        {"width": 4, "depth": 4},
    ]


def test_parts_of_a_level_multiply_in_the_documented_order():
    points = sweep(
        {
            "list": [{"attack": "flip"}, {"attack": "noise"}],
            "zip": {"name": ["a", "b"], "batch": [32, 64]},
            "product": {"width": [1, 4]},
            "base": {"seed": 0},
        }
    )
    assert [(p["width"], p["name"], p["batch"], p["attack"]) for p in points] == [
        (width, name, batch, attack)
        for width in (1, 4)
        for name, batch in (("a", 32), ("b", 64))
        for attack in ("flip", "noise")
    ]
    assert {p["seed"] for p in points} == {0}


def test_groups_add_up_and_inherit_what_is_outside():
    points = sweep(
        {
            "base": {"dataset": "mnist", "rounds": 5},
            "product": {"seed": [0, 1]},
            "groups": [
                {"product": {"width": [1, 4]}},
                {
                    "base": {"dataset": "cifar"},
                    "groups": [{"list": [{"depth": 2}]}, {"list": [{"depth": 3}]}],
                },
            ],
        }
    )
    assert [canonical(p) for p in points] == [
        canonical({"dataset": dataset, "rounds": 5, "seed": seed} | shape)
        for seed in (0, 1)
        for dataset, shape in (
            ("mnist", {"width": 1}),
            ("mnist", {"width": 4}),
            ("cifar", {"depth": 2}),
            ("cifar", {"depth": 3}),
        )
    ]


def test_axes_win_over_base_values_and_base_over_presets():
    presets = {"quick": {"rounds": 1, "batch": 8, "seed": 9}, "tiny": {"batch": 4}}
    spec = {
        "preset": ["quick", "tiny"],
        "base": {"seed": 1, "width": 0},
        "product": {"width": [2]},
        "presets": presets,
    }
    assert sweep(spec) == [{"rounds": 1, "batch": 4, "seed": 1, "width": 2}]


def test_presets_reach_groups_and_may_come_from_outside():
    spec = {"groups": [{"preset": "low"}, {"preset": "high"}]}
    assert sweep(spec, presets={"low": {"n": 1}, "high": {"n": 100}}) == [{"n": 1}, {"n": 100}]


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({"include": {"n": 3}}, [3]),
        ({"include": {"n": [1, 3]}}, [1, 3]),
        ({"include": [{"n": 1}, {"n": 4.0}]}, [1, 4]),
        ({"include": {"n": {">": 1, "<=": 3}}}, [2, 3]),
        ({"exclude": {"n": {">=": 3}}}, [1, 2]),
        ({"exclude": [{"n": 1, "kind": "a"}, {"n": 2, "kind": "b"}]}, [2, 3, 4]),
        ({"include": {"n": {"!=": [1, 2]}}, "exclude": {"n": {"!=": 3}}}, [3]),
        ({"include": {"seed": 0}}, [1, 2, 3, 4]),
    ],
)
def test_filters_keep_what_matches(filters, kept):
    points = sweep({"base": {"kind": "a", "seed": 0}, "product": {"n": [1, 2, 3, 4]}} | filters)
    assert [point["n"] for point in points] == kept


def test_filters_of_a_group_see_the_base_values_outside():
    spec = {"base": {"kind": "a"}, "groups": [{"product": {"n": [1, 2]}, "exclude": {"kind": "a", "n": 2}}]}
    assert sweep(spec) == [{"kind": "a", "n": 1}]


def test_a_point_without_the_parameter_matches_nothing():
    assert not matches({"depth": {"!=": 3}}, {"width": 1})


@given(
    st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1),
    st.integers(0, 3),
)
def test_no_point_comes_twice_and_include_and_exclude_are_complements(axes, limit):
    points = sweep({"product": axes})
    assert (
        len({canonical(point) for point in points})
        == len(points)
        == math.prod(len(set(v)) for v in axes.values())
    )
    name = next(iter(axes))
    condition = {name: {"<=": limit}}
    halves = []
    for part in ("include", "exclude"):
        with contextlib.suppress(SweepError):  # one half may be empty
            halves += sweep({"product": axes, part: condition})
    assert sorted(map(canonical, halves)) == sorted(map(canonical, points))


EXAMPLES = re.findall(r"```yaml\n(.*?)```\n\n```json\n(.*?)```", SWEEPS.read_text(), re.DOTALL)


@pytest.mark.parametrize(("spec", "points"), EXAMPLES)
def test_the_examples_of_the_documentation_are_true(spec, points):
    assert sweep(yaml.safe_load(spec)) == json.loads(points)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([], "sweep: a mapping of names to values is needed, not []"),
        ({"produkt": {}}, "sweep.produkt: unknown part of a sweep; allowed are base, preset, product"),
        ({"product": {"width": 4}}, "sweep.product.width: a list is needed, not 4"),
        ({"product": {"width": []}}, "sweep.product.width: the list is empty"),
        ({"product": {4: [1]}}, "sweep.product: the name 4 is not text; put it in quotes"),
        ({"zip": {"a": [1, 2], "b": [1]}}, "sweep.zip: lists of one length are needed, not a 2, b 1"),
        ({"zip": {}}, "sweep.zip: lists of one length are needed, not no axis at all"),
        ({"list": [{"a": 1}, 3]}, "sweep.list[1]: a mapping of names to values is needed, not 3"),
        ({"product": {"a": [1]}, "zip": {"a": [1]}}, "sweep.zip: 'a' is given by sweep.product.a already"),
        ({"groups": [{}, {"zip": 1}]}, "sweep.groups[1].zip: a mapping of names to values is needed, not 1"),
        ({"groups": [{"presets": {}}]}, "sweep.groups[0].presets: unknown part of a sweep"),
        ({"preset": "quick", "presets": {"slow": {}}}, "sweep.preset: no preset 'quick'; there are slow"),
        ({"preset": 3}, "sweep.preset: the name of a preset or a list of names is needed, not 3"),
        ({"base": {"a": 1}, "exclude": {"b": 1}}, "sweep.exclude[0].b: no such parameter; there are a"),
        (
            {"base": {"a": 1}, "include": {"a": {"~": 1}}},
            "sweep.include[0].a: unknown comparison '~'; allowed are <",
        ),
        ({"base": {"a": 1}, "include": {"a": {"<": "x"}}}, "sweep.include[0].a: 1 < 'x' cannot be compared"),
        ({"base": {"a": 1}, "exclude": {"a": 1}}, "sweep: include and exclude leave no point"),
        ({"base": {"a": math.nan}}, "sweep: nan is not a finite number"),
        (
            {"product": {c: list(range(100)) for c in "abcd"}},
            "sweep: 100000000 points are more than the 1000000",
        ),
    ],
)
def test_an_error_names_the_place_and_what_is_allowed(spec, message):
    with pytest.raises(SweepError) as caught:
        sweep(spec)
    assert str(caught.value).startswith(message)


# Units


@pytest.fixture(autouse=True, scope="module")
def in_a_run():
    """Units belong to the run that is open; rule files have it from rules/common.smk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dsl_run, "_current", None)
        patch.setattr(os, "environ", dict(os.environ))
        yield dsl_run.open_run("demo")


SPEC = {"base": {"rounds": 2}, "product": {"algorithm": ["md5", "sha1"], "size": [1, 16]}}


def test_units_read_both_ways(in_a_run):
    units = Units("hashes/{algorithm}/{size}.json", sweep=SPEC)
    assert units.targets() == [
        "runs/demo/hashes/md5/1.json",
        "runs/demo/hashes/md5/16.json",
        "runs/demo/hashes/sha1/1.json",
        "runs/demo/hashes/sha1/16.json",
    ]
    assert units.find({"algorithm": "sha1", "size": "16"}) == {"algorithm": "sha1", "size": 16, "rounds": 2}
    assert (
        units.target_of({"size": 16.0, "algorithm": "sha1", "rounds": 2}) == "runs/demo/hashes/sha1/16.json"
    )
    assert units.log == "runs/demo/logs/units/hashes/{algorithm}/{size}.log"
    assert str(units.params({"algorithm": "md5", "size": 1})) == '{"algorithm":"md5","rounds":2,"size":1}'
    assert units in in_a_run.units


def test_a_digest_names_the_whole_parameter_set():
    units = Units("experiments/{digest}.json", sweep=SPEC)
    assert [units.find({"digest": Path(target).stem}) for target in units.targets()] == sweep(SPEC)


def test_a_subset_is_picked_by_values_and_predicates():
    units = Units("hashes/{algorithm}/{size}.json", sweep=SPEC)
    assert units.targets(algorithm="md5") == units.targets()[:2]
    assert units.targets(size="16") == units.targets(size=[16, 99]) == units.targets(lambda p: p["size"] > 1)
    assert units.targets(lambda p: p["size"] > 1, algorithm="sha1") == units.targets()[3:]
    assert units.targets(algorithm="sha512") == []


def test_skipped_units_are_no_targets_but_keep_their_reason():
    units = Units(
        "hashes/{algorithm}/{size}.json",
        sweep=SPEC,
        skip=lambda p: "sha1 is not installed" if p["algorithm"] == "sha1" else None,
    )
    assert units.targets() == ["runs/demo/hashes/md5/1.json", "runs/demo/hashes/md5/16.json"]
    assert units.skipped == [
        ("runs/demo/hashes/sha1/1.json", "sha1 is not installed"),
        ("runs/demo/hashes/sha1/16.json", "sha1 is not installed"),
    ]


def test_neighbouring_wildcards_are_told_apart_by_their_values():
    units = Units("a/{x}_{y}.json", parameters=[{"x": "a_b", "y": "c"}, {"x": "a", "y": "d"}])
    assert units.target == "runs/demo/a/{x,a_b|a}_{y,c|d}.json"
    assert units.beside(".metrics.csv") == "runs/demo/a/{x,a_b|a}_{y,c|d}.metrics.csv"


@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["a", "b.c", "-"])), min_size=1, max_size=99))
def test_every_target_leads_back_to_its_parameters(pairs):
    points = [{"n": n, "kind": kind} for n, kind in pairs]
    units = Units("f/{kind}/rep{n}.json", parameters=points)
    for target in units.targets():
        _, kind, name = target.removeprefix("runs/demo/").split("/")
        found = units.find({"kind": kind, "n": name.removeprefix("rep").removesuffix(".json")})
        assert found in points and units.target_of(found) == target


@pytest.mark.parametrize(
    ("pattern", "points", "message"),
    [
        (
            "a/{x}.json",
            [{"x": 1, "y": 2}, {"x": 1, "y": 3}],
            'a/1.json: {"x":1,"y":2} and {"x":1,"y":3} have the same',
        ),
        ("a/{x}.json", [{"x": 1}, {"x": "1"}], 'a/1.json: {"x":1} and {"x":"1"} have the same target'),
        ("a/{x}.json", [{"x": "a/b"}], "a/{x}.json: x = 'a/b' cannot stand in a path; use letters, digits"),
        ("a/{x}.json", [{"x": ""}], "a/{x}.json: x = '' cannot stand in a path"),
        ("a/{x}.json", [{"x": [1]}], "a/{x}.json: x = '[1]' cannot stand in a path"),
        ("a/{x}.json", [{"x": "{y}"}], "a/{x}.json: x = '{y}' cannot stand in a path"),
        ("a/{x}/b", [{"x": ".."}], "a/../b: '..' cannot be a file name here"),
        ("a/{x}.json", [{"x": "y" * 250}], f"a/{'y' * 250}.json: a name over 200 bytes; use {{digest}}"),
        ("/a/{x}.json", [{"x": 1}], "/a/1.json: '' cannot be a file name here"),
        ("a/{x}.json", [{"y": 1}], "a/{x}.json: {\"y\":1} has no 'x'"),
        ("a/{x,[0-9]+}.json", [{"x": 1}], "a/{x,[0-9]+}.json: 'x,[0-9]+' cannot be a wildcard"),
        (
            "a/{x.json",
            [{"x": 1}],
            "a/{x.json: expected '}' before end of string; wildcards are written {name}",
        ),
        ("a/{digest}.json", [{"digest": 1}], "a/{digest}.json: {digest} is computed"),
        ("a/{x}.json", [3], "a/{x}.json: parameters.list[0]: a mapping of names to values is needed, not 3"),
        (
            "a/{x}{y}",
            [{"x": x, "y": y} for x, y in [("a", "aa"), ("aa", "b"), ("b", "a")]],
            "a/aaa: ambiguous in a/{x}{y}; put",
        ),
    ],
)
def test_patterns_that_cannot_work_are_refused(pattern, points, message):
    with pytest.raises(SweepError) as caught:
        Units(pattern, parameters=points)
    assert str(caught.value).startswith(message)


def test_questions_about_unknown_units_are_answered_clearly():
    units = Units("hashes/{algorithm}/{size}.json", sweep=SPEC)
    for question, message in (
        (
            lambda: units.find({"algorithm": "md5", "size": "2"}),
            "hashes/md5/2.json: not a configured unit of",
        ),
        (lambda: units.find({"algorithm": "md5"}), "wildcard 'size' is missing among algorithm"),
        (
            lambda: units.target_of({"algorithm": "md5", "size": 1}),
            '{"algorithm":"md5","size":1}: no such unit of',
        ),
        (lambda: units.targets(width=1), "no parameter 'width'; there are algorithm, rounds, size"),
        (lambda: Units("a/{x}.json"), "a/{x}.json: give either sweep= or parameters="),
    ):
        with pytest.raises(SweepError) as caught:
            question()
        assert message in str(caught.value)


# Units in Snakemake

SNAKEFILE = """
from ripresa.dsl import Units, open_run

open_run("demo")
units = Units("f/{name}/{n}.txt", sweep=config["sweep"])

rule all:
    input: units.targets()

rule one:
    output: units.target
    log: units.log
    params: p=units.params
    shell: "printf %s {params.p:q} >{output}; echo {params.p[text]:q} {wildcards.n} >>started.txt"
"""


def call(directory: Path, spec: dict) -> subprocess.CompletedProcess[str]:
    (directory / "Snakefile").write_text(SNAKEFILE)
    (directory / "config.json").write_text(json.dumps({"sweep": spec}))
    (directory / "started.txt").write_text("")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "config.json"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def test_a_changed_parameter_reruns_only_its_own_unit(tmp_path):
    """In two calls of the real Snakemake; awkward text survives the shell, and 2 and 2.0 are one value."""
    text = """it's {n} "here" $HOME"""

    def started(spec: dict) -> list[str]:
        done = call(tmp_path, spec)
        assert done.returncode == 0, done.stderr
        return sorted((tmp_path / "started.txt").read_text().splitlines())

    spec = {"base": {"text": text, "r": 2}, "product": {"name": ["x_1"], "n": [1, 2, 3]}}
    assert started(spec) == [f"{text} {n}" for n in (1, 2, 3)]
    assert (tmp_path / "runs/demo/f/x_1/3.txt").read_text() == canonical(
        {"text": text, "r": 2, "name": "x_1", "n": 3}
    )

    spec = {"base": {"r": 2.0, "text": text, "name": "x_1"}, "product": {"n": [3, 2]}}
    other = {"list": [{"n": 1, "name": "x_1", "text": "other", "r": 2}]}
    assert started({"groups": [spec, other]}) == ["other 1"]


def test_snakemake_says_what_is_wrong_with_a_sweep_and_shows_no_stack_of_ours(tmp_path):
    done = call(tmp_path, {"base": {"text": ""}, "groups": [{"product": {"name": "x", "n": [1]}}]})
    assert done.returncode == 1
    assert "f/{name}/{n}.txt: sweep.groups[0].product.name: a list is needed, not 'x'" in done.stderr
    assert "sweeps.py" not in done.stderr and "Traceback" not in done.stderr


def test_a_run_within_a_unit_of_another_is_its_own(monkeypatch):
    monkeypatch.setattr(dsl_run, "_current", None)
    for name in ("FORCED", "LOGGER", "SCHEDULER", "SESSION", "RUN"):
        monkeypatch.setenv(f"RIPRESA_{name}", "outer")
    for name in ("PYTHON", "GUARD"):
        monkeypatch.setenv(f"RIPRESA_{name}", "outer")
    dsl_run.open_run("inner")
    assert os.environ["RIPRESA_RUN"].endswith("runs/inner")
    assert os.environ["RIPRESA_SESSION"] != "outer"
    assert not {"RIPRESA_FORCED", "RIPRESA_LOGGER", "RIPRESA_SCHEDULER"} & set(os.environ)
    monkeypatch.setenv("RIPRESA_SCHEDULER", "recovery")
    session = os.environ["RIPRESA_SESSION"]
    dsl_run.open_run("inner", main=False)
    assert os.environ["RIPRESA_SESSION"] == session
    assert os.environ["RIPRESA_SCHEDULER"] == "recovery"
