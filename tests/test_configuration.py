"""Configurations that are wrong are told so, all at once; those that are right are completed and kept."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ripresa.configuration import (
    ConfigurationError,
    check_resume,
    difference,
    load,
    load_policy,
    load_snapshot,
    sha256,
    snapshot,
)
from ripresa.configuration.messages import explain
from ripresa.configuration.problems import dotted
from ripresa.configuration.schema import Checker
from ripresa.configuration.settings import SCHEMAS
from ripresa.recovery.classifier import classify

ROOT = Path(__file__).parents[1]
POLICY = ROOT / "workflow" / "ripresa" / "recovery" / "policy.toml"

GOOD = {
    "config": "run_id: demo\nfamilies: [benchmarks]\n",
    "benchmarks": "workloads:\n  stream: {preset: high}\n  fio: {repetitions: {min: 3, max: 6, cv: 0.1}}\n",
    "recovery": "time_scale: 0.5\n",
}
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A directory with a good configuration in config/; returns a function that changes its files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()

    def write(**contents: str | bytes | None) -> None:
        for name, content in contents.items():
            path = tmp_path / "config" / f"{name}.yaml"
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content.encode() if isinstance(content, str) else content)

    write(**GOOD)
    return write


def problems_of(overrides=None):
    with pytest.raises(ConfigurationError) as caught:
        load("config", overrides)
    lines = str(caught.value).splitlines()
    assert lines == [str(problem) for problem in caught.value.problems], "one line for each problem"
    return caught.value.problems


# --- what is wrong ----------------------------------------------------------------------------------------

MAIN, BENCH, RECOVERY = "config", "benchmarks", "recovery"

# What the file holds instead, where the problem is, and words that say what is wrong and what is allowed.
BROKEN = {
    # not a document at all
    "empty main file": (MAIN, "", "run_id", ["is missing", "letters, digits"]),
    "only comments": (MAIN, "# run_id: demo\n", "families", ["is missing"]),
    "no main file": (MAIN, None, "", ["does not exist"]),
    "no family file": (BENCH, None, "", ["does not exist", "'benchmarks'", "create it"]),
    "binary": (MAIN, b"\x89PNG\r\n\x1a\n\x00\xff\xfe", "", ["not UTF-8 text", "line 1"]),
    "NUL bytes": (BENCH, b"workloads:\x00 {}\n", "", ["not YAML text", "control characters"]),
    "UTF-16": (RECOVERY, "time_scale: 1\n".encode("utf-16"), "", ["not UTF-8 text"]),
    "too large": (BENCH, "# " + "x" * (1 << 20), "", ["larger than 1 MiB"]),
    "tab": (BENCH, "workloads:\n\tstream: {}\n", "line 2", ["tab", "use spaces"]),
    "wrong indentation": (MAIN, "run_id: demo\n families: [benchmarks]\n", "line 2, column 10", ["indented"]),
    "open bracket": (
        MAIN,
        "run_id: demo\nfamilies: [benchmarks\n",
        "line 3, column 1",
        ["close the bracket"],
    ),
    "open quotes": (
        MAIN,
        'run_id: "demo\nfamilies: [benchmarks]\n',
        "line 1, column 9",
        ["close the quotes"],
    ),
    "no space after the colon": (
        MAIN,
        "run_id: demo\nfamilies:[a]\n",
        "line 2, column 1",
        ["after the colon"],
    ),
    "unquoted @": (MAIN, "run_id: @demo\n", "line 1, column 9", ["in quotes"]),
    "list and mapping mixed": (MAIN, "run_id: demo\n- benchmarks\n", "line 2, column 1", ["expected"]),
    "two documents": (MAIN, GOOD["config"] + "---\nrun_id: b\n", "line 3, column 1", ["second"]),
    "a program in a tag": (
        MAIN,
        "run_id: !!python/object/apply:os.getcwd []\n",
        "line 1, column 9",
        ["tags"],
    ),
    "undefined alias": (MAIN, "run_id: *name\n", "line 1, column 9", ["undefined alias"]),
    "a list at the top": (BENCH, "- stream\n", "", ["['stream']", "mapping"]),
    "text at the top": (RECOVERY, "please retry everything", "", ["mapping", "key: value"]),
    "anchors that explode": (BENCH, BOMB, "", ["more than 100000 values"]),
    "anchor within itself": (BENCH, "workloads: &w {stream: *w}\n", "", ["contains itself"]),
    "too deep": (MAIN, "run_id: " + "[" * 100_000, "", ["50 levels"]),
    "too deep by anchors": (
        MAIN,
        "- &a0 [1]\n" + "".join(f"- &a{n} [*a{n - 1}]\n" for n in range(1, 99)),
        "",
        ["50"],
    ),
    # keys
    "key given twice": (
        BENCH,
        GOOD["benchmarks"] + "workloads: {}\n",
        "benchmarks.workloads",
        ["twice", "1 and 4"],
    ),
    "inner key given twice": (
        BENCH,
        "workloads:\n  stream: {preset: low, preset: high}\n",
        "benchmarks.workloads.stream.preset",
        ["given twice", "lines 2 and 2"],
    ),
    "key that is a number": (BENCH, "workloads: {7: {}}\n", "benchmarks.workloads", ["key 7", "quotes"]),
    "key that is a truth value": (RECOVERY, "on: 1\n", "recovery", ["key on", "quotes"]),
    "key that is a list": (BENCH, "? [a, b]\n: 1\n", "benchmarks", ["list", "key"]),
    "unknown key": (MAIN, GOOD["config"] + "run: 3\n", "run", ["not a known key", "run_id", "strict_resume"]),
    "misspelt key": (
        MAIN,
        GOOD["config"] + "strict_resum: true\n",
        "strict_resum",
        ["did you mean 'strict_resume'?"],
    ),
    "unknown workload": (
        BENCH,
        "workloads: {steam: {}}\n",
        "benchmarks.workloads.steam",
        ["did you mean 'stream'?"],
    ),
    "unknown failure class": (
        RECOVERY,
        "classes: {netwrok: {budget: 1}}\n",
        "recovery.classes.netwrok",
        ["not a known key", "gpu_fault", "did you mean 'network'?"],
    ),
    # values
    "run_id with a path": (
        MAIN,
        "run_id: ../other\nfamilies: [benchmarks]\n",
        "run_id",
        ["'../other'", "letters, digits"],
    ),
    "run_id that hides": (MAIN, "run_id: .demo\nfamilies: [benchmarks]\n", "run_id", ["not starting with"]),
    "run_id of two dots": (MAIN, "run_id: ..\nfamilies: [benchmarks]\n", "run_id", ["not allowed"]),
    "run_id with a space": (MAIN, "run_id: my run\nfamilies: [benchmarks]\n", "run_id", ["'my run'"]),
    "run_id with a line break": (
        MAIN,
        'run_id: "demo\\n"\nfamilies: [benchmarks]\n',
        "run_id",
        ["not allowed"],
    ),
    "run_id too long": (MAIN, f"run_id: {'x' * 300}\nfamilies: [benchmarks]\n", "run_id", ["at most 100"]),
    "empty run_id": (MAIN, 'run_id: ""\nfamilies: [benchmarks]\n', "run_id", ["letters, digits"]),
    "run_id missing after its colon": (
        MAIN,
        "run_id:\nfamilies: [benchmarks]\n",
        "run_id",
        ["null", "text is needed"],
    ),
    "run_id that is a number": (
        MAIN,
        "run_id: 20260109\nfamilies: [benchmarks]\n",
        "run_id",
        ["number", "in quotes"],
    ),
    "run_id that is a truth value": (
        MAIN,
        "run_id: no\nfamilies: [benchmarks]\n",
        "run_id",
        ["false", "quotes"],
    ),
    "no families": (MAIN, "run_id: demo\nfamilies: []\n", "families", ["at least 1"]),
    "families not a list": (
        MAIN,
        "run_id: demo\nfamilies: benchmarks\n",
        "families",
        ["text", "a list is needed"],
    ),
    "family twice": (MAIN, "run_id: demo\nfamilies: [benchmarks, benchmarks]\n", "families", ["twice"]),
    "family with a path": (MAIN, "run_id: demo\nfamilies: [../up]\n", "families[0]", ["lower-case"]),
    "family with a reserved name": (
        MAIN,
        "run_id: demo\nfamilies: [recovery]\n",
        "families[0]",
        ["not allowed"],
    ),
    "strict_resume as text": (
        MAIN,
        GOOD["config"] + "strict_resume: maybe\n",
        "strict_resume",
        ["true or false"],
    ),
    "section that is text": (
        MAIN,
        GOOD["config"] + "recovery: fast\n",
        "recovery",
        ["text", "a mapping is needed"],
    ),
    "duplicate hosts": (
        BENCH,
        GOOD["benchmarks"] + "hosts: [localhost, localhost]\n",
        "benchmarks.hosts",
        ["'localhost' is there twice"],
    ),
    "empty hosts": (BENCH, GOOD["benchmarks"] + "hosts: []\n", "benchmarks.hosts", ["at least 1"]),
    "no workloads": (BENCH, "preset: low\n", "benchmarks.workloads", ["is missing"]),
    "empty workloads": (BENCH, "workloads: {}\n", "benchmarks.workloads", ["at least 1"]),
    "unknown preset": (
        BENCH,
        "workloads: {stream: {preset: hihg}}\n",
        "benchmarks.workloads.stream.preset",
        ["'hihg' is not allowed; use one of low, medium, high (did you mean 'high'?)"],
    ),
    "negative repetitions": (
        BENCH,
        GOOD["benchmarks"] + "repetitions: -1\n",
        "benchmarks.repetitions",
        ["at least 1"],
    ),
    "repetitions with a point": (
        BENCH,
        GOOD["benchmarks"] + "repetitions: 3.0\n",
        "benchmarks.repetitions",
        ["3.0", "whole"],
    ),
    "repetitions as text": (
        BENCH,
        GOOD["benchmarks"] + "repetitions: three\n",
        "benchmarks.repetitions",
        ["'three' is text", "a whole number or a mapping with min, max, cv"],
    ),
    "half of the repetitions": (
        BENCH,
        GOOD["benchmarks"] + "repetitions: {min: 3, max: 5}\n",
        "benchmarks.repetitions.cv",
        ["is missing", "0.02"],
    ),
    "exponent that YAML takes for text": (
        BENCH,
        GOOD["benchmarks"] + "repetitions: {min: 3, max: 5, cv: 5e-2}\n",
        "benchmarks.repetitions.cv",
        ["'5e-2' is text", "write 0.05 without quotes"],
    ),
    "not a number": (
        BENCH,
        GOOD["benchmarks"] + "repetitions: {min: 3, max: 5, cv: .nan}\n",
        "benchmarks.repetitions.cv",
        ["nan", "finite"],
    ),
    "infinite": (RECOVERY, "time_scale: .inf\n", "recovery.time_scale", ["finite"]),
    "thousands of digits": (RECOVERY, "stall_s: " + "9" * 5000, "", ["number that cannot be read"]),
    "too large a number": (RECOVERY, "stall_s: " + "9" * 50, "recovery.stall_s", ["too large"]),
    "bytes": (RECOVERY, "stall_s: !!binary aGk=\n", "recovery.stall_s", ["bytes"]),
    "negative time scale": (RECOVERY, "time_scale: -1\n", "recovery.time_scale", ["more than 0"]),
    "no probes": (RECOVERY, "breaker: {probes: 0}\n", "recovery.breaker.probes", ["at least 1"]),
    "negative delay": (
        RECOVERY,
        "classes: {network: {delays_min: [5, -15]}}\n",
        "recovery.classes.network.delays_min[1]",
        ["-15 is too small; at least 0"],
    ),
    "retry: no without quotes": (
        RECOVERY,
        "classes: {data: {retry: no}}\n",
        "recovery.classes.data.retry",
        ["false is not allowed", "next_run"],
    ),
    "rule without a pattern": (
        RECOVERY,
        "rules: [{name: a, class: service}]\n",
        "recovery.rules[0].pattern",
        ["is missing", "regular expression"],
    ),
    "bad regular expression": (
        RECOVERY,
        "rules: [{name: a, class: service, pattern: '(oops'}]\n",
        "recovery.rules[0].pattern",
        ["'(oops'", "regular expression", "unterminated"],
    ),
    "one bad regular expression of several": (
        RECOVERY,
        "rules: [{name: a, class: service, pattern: [fine, '[a-']}]\n",
        "recovery.rules[0].pattern[1]",
        ["'[a-'", "unterminated"],
    ),
    "two rules of one name": (
        RECOVERY,
        "rules:\n- {name: a, class: code, pattern: x}\n- {name: a, class: data, pattern: y}\n",
        "recovery.rules[1].name",
        ["'a'", "entry [0]"],
    ),
    "rule of an unknown class": (
        RECOVERY,
        "rules: [{name: a, class: sevice, pattern: x}]\n",
        "recovery.rules[0].class",
        ["did you mean 'service'?"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file(files, case):
    name, content, where, words = BROKEN[case]
    files(**{name: content})
    problems = problems_of()
    meant = [p for p in problems if (p.file, p.path) == (f"config/{name}.yaml", where)]
    assert meant, f"no problem at {name} {where!r} among {[str(p) for p in problems]}"
    assert all(word in meant[0].message for word in words), meant[0].message
    assert all(len(str(problem)) < 400 for problem in problems)


def test_there_are_enough_broken_files():
    assert len(BROKEN) >= 40


def test_everything_at_once(files):
    files(
        config="run_id: ../x\nfamilies: [benchmarks, benchmark]\nstrict: true\n",
        benchmarks="hosts: []\nrepetitions: {min: 0, max: x}\nworkloads: {steam: {}, fio: {preset: hihg}}\n",
        recovery="time_scale: 0\nclasses: {netwrok: {}}\n",
    )
    assert [(p.file, p.path) for p in problems_of()] == [
        ("config/benchmark.yaml", ""),
        ("config/config.yaml", "strict"),
        ("config/config.yaml", "run_id"),
        ("config/recovery.yaml", "recovery.time_scale"),
        ("config/recovery.yaml", "recovery.classes.netwrok"),
        ("config/benchmarks.yaml", "benchmarks.hosts"),
        ("config/benchmarks.yaml", "benchmarks.repetitions.cv"),
        ("config/benchmarks.yaml", "benchmarks.repetitions.min"),
        ("config/benchmarks.yaml", "benchmarks.repetitions.max"),
        ("config/benchmarks.yaml", "benchmarks.workloads.steam"),
        ("config/benchmarks.yaml", "benchmarks.workloads.fio.preset"),
    ]


def test_an_unreadable_main_file_does_not_hide_the_others(files):
    files(config="run_id: [", benchmarks="workloads: {}\n", recovery="- x\n")
    assert {p.file for p in problems_of()} == {
        f"config/{n}.yaml" for n in ("config", "benchmarks", "recovery")
    }


def test_a_family_that_is_misspelt(files):
    files(config="run_id: demo\nfamilies: [benchmark]\n")
    [problem] = problems_of()
    assert problem.file == "config/benchmark.yaml" and "did you mean 'benchmarks'?" in problem.message


def test_a_section_that_no_family_asks_for(files):
    files(other="x: 1\n")
    [problem] = problems_of({"other": {"x": 2}})
    assert problem.path == "other" and "add 'other' to families" in problem.message


def test_directory_and_link_to_nothing_instead_of_a_file(files, tmp_path):
    files(benchmarks=None, recovery=None)
    (tmp_path / "config" / "benchmarks.yaml").mkdir()
    (tmp_path / "config" / "recovery.yaml").symlink_to("nowhere")
    assert {(p.file, p.message.split(",")[0]) for p in problems_of()} == {
        ("config/benchmarks.yaml", "is a directory"),
        ("config/recovery.yaml", "does not exist"),
    }


def test_a_pipe_instead_of_a_file_does_not_wait(files, tmp_path):
    files(config=None)
    os.mkfifo(tmp_path / "config" / "config.yaml")
    assert {p.path for p in problems_of()} == {"run_id", "families"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(files, tmp_path):
    (tmp_path / "config" / "config.yaml").chmod(0)
    assert "cannot be read: Permission denied" in problems_of()[0].message


def test_no_directory_at_all(tmp_path):
    with pytest.raises(ConfigurationError, match=r"config\.yaml: does not exist"):
        load(tmp_path / "nowhere")


# --- what is right ----------------------------------------------------------------------------------------


def test_defaults_are_filled_in_and_overrides_win(files):
    config = load("config", {"run_id": "other", "benchmarks": {"preset": "medium"}})
    assert config == {
        "run_id": "other",
        "families": ["benchmarks"],
        "strict_resume": False,
        "inventory": "config/hosts.yaml",
        "devices": {"gpus": "auto", "cpu_slots": 0, "foreign_mb": 300},
        "recovery": {"time_scale": 0.5},
        "benchmarks": {
            "hosts": ["localhost"],
            "scratch": None,
            "preset": "medium",
            "repetitions": 3,
            "warmup": True,
            "order": "grouped",
            "seed": 1,
            "workloads": {
                "stream": {"preset": "high"},
                "fio": {"repetitions": {"min": 3, "max": 6, "cv": 0.1}},
            },
        },
    }


def test_defaults_are_not_shared(files):
    first = load("config")
    first["benchmarks"]["hosts"].append("changed")
    assert load("config")["benchmarks"]["hosts"] == ["localhost"]


def test_a_family_without_a_schema_says_what_it_likes(files):
    files(
        config="run_id: demo\nfamilies: [hashes]\n",
        hashes="sweep: {product: {size: [1, 2]}}\nday: 2026-01-09\n",
    )
    assert load("config")["hashes"] == {"sweep": {"product": {"size": [1, 2]}}, "day": "2026-01-09"}


def test_a_campaign_in_a_single_file(files):
    files(benchmarks=None, recovery=None)
    files(config=GOOD["config"] + "benchmarks: {workloads: {disk: {}}}\nrecovery: {stall_s: 60}\n")
    config = load("config")
    assert config["benchmarks"]["workloads"] == {"disk": {}} and config["recovery"] == {"stall_s": 60}


def test_anchors_and_merge_keys_are_fine(files):
    files(benchmarks="workloads:\n  stream: &s {preset: low, warmup: false}\n  fio: {<<: *s, preset: high}\n")
    assert load("config")["benchmarks"]["workloads"]["fio"] == {"preset": "high", "warmup": False}


def test_words_of_the_command_line_are_read_as_yaml(files):
    """Snakemake hands on everything inside of `--config name={...}` as text, and `run_id=7` as a number."""
    overrides = {
        "run_id": 7,
        "benchmarks": {"warmup": "false", "repetitions": {"min": "2", "max": "4", "cv": "0.5"}},
    }
    config = load("config", overrides)
    assert config["run_id"] == "7" and config["benchmarks"]["warmup"] is False
    assert config["benchmarks"]["repetitions"] == {"min": 2, "max": 4, "cv": 0.5}
    files(config='run_id: demo\nfamilies: [benchmarks]\nstrict_resume: "true"\n')
    assert [p.path for p in problems_of()] == ["strict_resume"], "text in a file is meant as text"


def test_a_corrected_word_of_the_command_line_still_belongs_to_it(files):
    files(benchmarks=GOOD["benchmarks"] + "repetitions: 4\n")
    [problem] = problems_of({"benchmarks": {"repetitions": "0"}})
    assert (problem.file, problem.message) == ("command line", "0 is too small; at least 1 is needed")


def test_problems_of_overrides_name_the_command_line(files):
    problems = problems_of({"strict_resume": "maybe", "benchmarks": {"workloads": {"disk": {"preset": "x"}}}})
    assert {(p.file, p.path) for p in problems} == {
        ("command line", "strict_resume"),
        ("command line", "benchmarks.workloads.disk.preset"),
    }


def test_what_snakemake_has_read_from_the_same_file_counts_once(files):
    files(config=GOOD["config"] + "strict_resume: maybe\n")
    read_by_snakemake = yaml.safe_load((Path("config") / "config.yaml").read_text())
    [problem] = problems_of(read_by_snakemake)
    assert problem.file == "config/config.yaml"


def test_the_demo_is_valid():
    config = load(ROOT / "config")
    assert config["run_id"] == "demo" and not config["strict_resume"]


def test_snakemake_says_it_without_a_traceback(files, tmp_path):
    files(recovery="time_scale: fast\n")
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", tmp_path]
    overrides = ["--config", "run_id=a/b", "benchmarks={preset: hihg}"]
    ended = subprocess.run(
        [*command, "-n", *overrides], capture_output=True, text=True, timeout=120, check=False
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 1
    assert "config/recovery.yaml: recovery.time_scale: 'fast' is text, but a number is needed\n" in said
    assert "command line: run_id: 'a/b' is not allowed" in said
    assert "command line: benchmarks.preset: 'hihg' is not allowed; use one of low, medium, high" in said
    assert "Traceback" not in said and "site-packages" not in said
    assert not (tmp_path / "runs").exists()


def test_the_command_says_it_and_exits_2(files):
    files(recovery="time_scale: fast\n", benchmarks="workloads: {\n")
    command = [Path(sys.executable).with_name("ripresa"), "status"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "config/benchmarks.yaml: line 2, column 1: " in ended.stderr
    assert (
        "config/recovery.yaml: recovery.time_scale: 'fast' is text, but a number is needed\n" in ended.stderr
    )
    assert "Traceback" not in ended.stderr


# --- kept and compared ------------------------------------------------------------------------------------

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63) + 1, (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
configs = st.dictionaries(st.text(), values, max_size=5)


@settings(max_examples=300, deadline=None)
@given(config=configs)
def test_a_snapshot_gives_back_what_it_was_given(tmp_path_factory, config):
    run = tmp_path_factory.getbasetemp() / "roundtrip"
    snapshot(run, config)
    kept = load_snapshot(run)
    assert kept == config and sha256(kept) == sha256(config) and difference(config, kept) == []
    assert os.listdir(run) == ["config.yaml"]


@settings(deadline=None)
@given(one=configs, other=configs)
def test_a_difference_is_shown_exactly_if_the_digest_changes(one, other):
    assert bool(difference(one, other)) == (sha256(one) != sha256(other))


def test_differences_are_readable():
    old = {
        "run_id": "a",
        "benchmarks": {"repetitions": 3, "hosts": ["x", "y"], "preset": "low", "warmup": True},
    }
    new = {
        "run_id": "a",
        "benchmarks": {"repetitions": 5, "hosts": ["x"], "scratch": None, "preset": "low", "warmup": 1},
    }
    assert difference(old, new) == [
        "benchmarks.repetitions: 3 -> 5",
        "benchmarks.hosts[1]: 'y' -> (not set)",
        "benchmarks.warmup: true -> 1",
        "benchmarks.scratch: (not set) -> null",
    ]


def test_order_and_notation_are_no_difference():
    old, new = {"a": 1, "b": {"c": 2.0, "d": []}}, {"b": {"d": [], "c": 2}, "a": 1.0}
    assert sha256(old) == sha256(new) and difference(old, new) == []


def test_strict_resume_refuses_and_shows_the_difference(files, tmp_path):
    run = tmp_path / "runs" / "demo"
    assert check_resume(run, load("config", {"strict_resume": True})) == [], (
        "a new run has nothing to differ from"
    )
    snapshot(run, load("config"))
    assert check_resume(run, load("config", {"strict_resume": True})) == [], "strictness itself is no change"
    changed = {"benchmarks": {"repetitions": 5}, "recovery": {"time_scale": 2}}
    assert check_resume(run, load("config", changed)) == [
        "recovery.time_scale: 0.5 -> 2",
        "benchmarks.repetitions: 3 -> 5",
    ]
    with pytest.raises(ConfigurationError) as caught:
        check_resume(run, load("config", changed | {"strict_resume": True}))
    first, *others = str(caught.value).splitlines()
    assert "refuses to resume" in first and "another run_id" in first
    assert others == [
        f"{run}/config.yaml: recovery.time_scale: 0.5 -> 2",
        f"{run}/config.yaml: benchmarks.repetitions: 3 -> 5",
    ]


@pytest.mark.parametrize("content", [b"run_id: [", b"\xff\x00", b"- a\n", b"a: 1\na: 2\n"])
def test_a_damaged_snapshot_is_none_unless_resume_is_strict(files, tmp_path, caplog, content):
    run = tmp_path / "runs" / "demo"
    run.mkdir(parents=True)
    (run / "config.yaml").write_bytes(content)
    assert load_snapshot(run) is None and "as if there were no snapshot" in caplog.text
    assert check_resume(run, load("config")) == []
    with pytest.raises(ConfigurationError, match="refuses to resume"):
        check_resume(run, load("config", {"strict_resume": True}))
    snapshot(run, load("config"))
    assert load_snapshot(run) == load("config")


def test_a_snapshot_that_cannot_be_written_leaves_the_old_one(files, tmp_path, monkeypatch):
    run = tmp_path / "runs" / "demo"
    snapshot(run, load("config"))

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        snapshot(run, load("config", {"run_id": "new"}))
    assert os.listdir(run) == ["config.yaml"] and load_snapshot(run) == load("config")


# --- the recovery policy ----------------------------------------------------------------------------------


def test_the_packaged_policy_keeps_its_own_rules():
    policy = tomllib.loads(POLICY.read_text())
    assert Checker(json.loads((SCHEMAS / "recovery.schema.json").read_text())).errors(policy) == []


def test_the_packaged_policy_is_the_contract():
    policy = load_policy()
    classes = policy["classes"]
    assert policy["breaker"] == {"failures": 5, "open_s": 300, "probes": 3}
    assert (policy["time_scale"], policy["stall_s"], policy["rules"]) == (1.0, 1800, [])
    by_answer = {}
    for name, rule in classes.items():
        by_answer.setdefault(rule["retry"], set()).add(name)
    assert by_answer.pop("no") == {"configuration", "environment", "permission", "code", "numerical", "data"}
    assert by_answer.pop("tentative") == {"disk", "unknown"} and by_answer.pop("next_run") == {"cancelled"}
    assert list(by_answer) == ["yes"] and len(classes) == 21
    for name in ("network", "service", "disk", "file_system", "gpu_fault", "communication"):
        assert classes[name]["delays_min"] == [5, 15, 45] and classes[name]["budget"] == 3
    assert all(classes[name]["cap"] == 20 and not classes[name]["counts"] for name in ("node", "preempted"))
    assert (classes["hang"]["budget"], classes["output_invalid"]["budget"], classes["unknown"]["budget"]) == (
        2,
        1,
        1,
    )


def test_users_change_single_values_of_the_policy(files):
    files(recovery="breaker: {failures: 2}\nclasses:\n  network: {delays_min: [1]}\n  data: {retry: 'yes'}\n")
    default, policy = load_policy(), load_policy(load("config")["recovery"])
    assert policy["breaker"] == {"failures": 2, "open_s": 300, "probes": 3}
    assert policy["classes"]["network"] == default["classes"]["network"] | {"delays_min": [1]}
    assert policy["classes"]["memory"] == default["classes"]["memory"]
    assert policy["classes"]["data"]["budget"] == 1, (
        "made retryable, it gets the budget of an unknown failure"
    )
    assert json.loads(json.dumps(policy)) == policy


def test_rules_of_the_user_reach_the_classifier(files):
    files(recovery="rules: [{name: licence, class: service, pattern: 'no free (seat|licence)'}]\n")
    rules = load_policy(load("config")["recovery"])["rules"]
    verdict = classify("starting\nno free seat today\n", exit_code=1, extra_rules=rules)
    assert (verdict.failure_class, verdict.rule, verdict.evidence) == (
        "service",
        "licence",
        "no free seat today",
    )


# --- schemas of families to come ---------------------------------------------------------------------------

FAMILY = {
    "type": "object",
    "additionalProperties": False,
    "patternProperties": {"^x_": {"type": "object", "properties": {"n": {"type": "integer", "default": 1}}}},
    "properties": {
        "span": {"type": "object", "ascending": ["low", "middle", "high"]},
        "hosts": {"type": "array", "uniqueBy": "name", "items": {"$ref": "#/$defs/host"}},
        "either": {"oneOf": [{"type": "string"}, {"allOf": [{"$ref": "#/$defs/host"}]}]},
    },
    "$defs": {
        "host": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string"}, "ssh": {"type": "object", "default": {"port": 22}}},
        }
    },
}


def explained(section):
    checker = Checker(FAMILY)
    return [
        (dotted(where), text) for error in checker.errors(section) for where, text in explain(error, checker)
    ]


def test_defaults_are_found_wherever_a_schema_puts_them():
    section = {"hosts": [{"name": "a"}, {"name": "b", "ssh": {}}], "either": {"name": "c"}, "x_1": {}}
    assert Checker(FAMILY).filled(section) == {
        "hosts": [{"name": "a", "ssh": {"port": 22}}, {"name": "b", "ssh": {}}],
        "either": {"name": "c", "ssh": {"port": 22}},
        "x_1": {"n": 1},
    }
    assert section["either"] == {"name": "c"}, "the section itself stays as it was"


def test_two_hosts_of_one_name():
    hosts = [{"name": "a"}, {"name": "b"}, {"name": "a"}]
    assert explained({"hosts": hosts}) == [
        ("hosts[2].name", "'a' is the name of entry [0] too; give each its own")
    ]


def test_bounds_in_the_wrong_order():
    assert explained({"span": {"low": 1, "high": 3}}) == []
    assert explained({"span": {"low": 5, "middle": 5, "high": 3}}) == [
        ("span.high", "3 is below middle (5); it must be at least that")
    ]


def test_the_alternative_that_was_meant():
    assert explained({"either": {"ssh": {}}}) == [("either.name", "is missing; needed: text")]
    assert explained({"either": 5}) == [("either", "5 is a number, but text or another value is needed")]
    assert explained({"x_1": {"n": "a"}, "y_1": {}}) == [
        ("y_1", "is not a known key; use one of span, hosts, either"),
        ("x_1.n", "'a' is text, but a whole number is needed"),
    ]


# --- documentation and schemas ----------------------------------------------------------------------------


def keys_of(schema):
    """Every key that a schema knows by name, at any depth."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for part in [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]:
            yield from keys_of(part)
        for keyword in ("items", "additionalProperties", "anyOf", "oneOf"):
            yield from keys_of(schema.get(keyword))
    elif isinstance(schema, list):
        for part in schema:
            yield from keys_of(part)


@pytest.mark.parametrize("name", ["config", "recovery", "benchmarks", "jobs", "stacking"])
def test_every_key_is_documented(name):
    prose = re.sub(r"```.*?```", "", (ROOT / "config" / "README.md").read_text(), flags=re.DOTALL)
    documented = set(re.findall(r"[a-z_-]+", " ".join(re.findall(r"`[^`]+`", prose))))
    keys = set(keys_of(json.loads((SCHEMAS / f"{name}.schema.json").read_text())))
    assert len(keys) > 3 and not keys - documented


@pytest.mark.parametrize("name", ["config", "recovery", "benchmarks", "jobs", "stacking"])
def test_examples_of_the_documentation_are_valid(files, name):
    section = (ROOT / "config" / "README.md").read_text().split(f"\n## {name}.yaml")[1].split("\n## ")[0]
    example = section.split("```yaml\n")[1].split("```")[0]
    family = [] if name in {"config", "recovery"} else [name]
    files(**{name: example}, **({"config": f"run_id: documented\nfamilies: [{name}]\n"} if family else {}))
    assert set(family) <= set(load("config"))


def test_commented_defaults_of_the_recovery_file_are_the_defaults(files):
    """What config/recovery.yaml has in comments is valid once the `# ` is taken away, and changes nothing."""
    lines = (ROOT / "config" / "recovery.yaml").read_text().splitlines()
    uncommented = [re.sub(r"^# (?=\s*(- )?[a-z_]+:)", "", line) for line in lines]
    files(recovery="\n".join(uncommented))
    section = load("config")["recovery"]
    rules = section.pop("rules")
    assert [rule["name"] for rule in rules] == ["licence-server"]
    assert set(section) == {"time_scale", "stall_s", "learn", "grace_s", "restarts", "breaker", "classes"}
    assert load_policy(section) == load_policy(), "what is shown as the default is the default"


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.name)
def test_schemas_are_valid(path):
    """Seen to here, because it takes longer than to use them."""
    Draft202012Validator.check_schema(json.loads(path.read_text()))


def test_a_run_that_is_read_needs_no_schemas():
    code = "import sys, ripresa.configuration; sys.exit('jsonschema' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_the_hint_for_a_number_is_one_that_yaml_reads_as_a_number():
    from ripresa.configuration.messages import _hint

    for text in ("1e-12", "1E20", "0.5", "3"):
        written = _hint(text, "number").removeprefix("; write ").removesuffix(" without quotes")
        assert yaml.safe_load(written) == float(text)
