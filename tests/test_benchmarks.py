"""Benchmarks: workloads measure what they say, statistics are right, the plan is what is asked for."""

import csv
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import scipy.stats
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ripresa.configuration.definitions import expanded
from ripresa.configuration.schema import load
from ripresa.families.benchmarks import (
    adaptive,
    fingerprint,
    hardware,
    plot,
    registry,
    sampling,
    summary,
)
from ripresa.families.benchmarks.measurement import BenchmarkError
from ripresa.families.benchmarks.needs import missing
from ripresa.families.benchmarks.plan import plan
from ripresa.families.benchmarks.programs import baseline, disk, figures, linpack, scratch, stream
from ripresa.families.intervals import confidence_interval
from ripresa.journal.paths import Run
from ripresa.journal.state import states

ROOT = Path(__file__).parents[1]
SCHEMAS = ROOT / "workflow" / "schemas"
SCRIPTS = ROOT / "workflow" / "scripts"
RESULT = json.loads((SCHEMAS / "benchmark_result.schema.json").read_text())
WORKLOAD = json.loads((SCHEMAS / "workload.schema.json").read_text())
SECTION = json.loads((SCHEMAS / "benchmarks.schema.json").read_text())
DEFAULTS = {
    **{"hosts": ["localhost"], "scratch": None, "preset": "low", "repetitions": 3, "warmup": True},
    **{"order": "grouped", "seed": 1},
}

# With as little to do as possible. What takes longer than a second or two has its test in the slow tier.
TINY = {
    "baseline": {"seconds": 0.1},
    "dd": {"file_mb": 4},
    "disk": {"file_mb": 4, "random_seconds": 0.02},
    "fio": {"file_mb": 4, "seconds": 0.1},
    "linpack": {"order": 200},
    "openssl": {"algorithms": ["sha256"]},
    "stream": {"iterations": 3, "array_mb": 2},
    "stress-ng": {"stressors": ["cpu"]},
}

finite = st.floats(min_value=1e-3, max_value=1e6)
samples = st.lists(finite, min_size=1, max_size=30)


def low(workload, **overrides):
    """All parameters of a workload."""
    return registry.parameters(registry.load(workload), "low", overrides)


def unit(workload, overrides=None, number=1):
    return {
        "host": "here",
        "workload": workload,
        "repetition": number,
        "preset": "low",
        "parameters": low(workload, **(overrides or {})),
        "scratch": None,
        "definition": registry.definition(registry.load(workload)),
        "peer": None,
    }


def run_script(name, *arguments):
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def fingerprint_file(tmp_path):
    path = tmp_path / "fingerprint.json"
    done = run_script("benchmark_fingerprint.py", json.dumps({"host": "here", "scratch": None}), path)
    assert done.returncode == 0, done.stderr
    return path


def installed(workload):
    if reason := missing(registry.load(workload)["needs"]):
        pytest.skip(reason)


# Stream


def test_the_kernels_do_what_stream_asks_for():
    from ripresa.families.benchmarks.programs import stream_kernels as kernels

    random = np.random.default_rng(1)
    a, b, c = random.random((3, 1001))
    kernels.copy(c, a)
    np.testing.assert_array_equal(c, a)
    kernels.scale(b, c, 3.0)
    np.testing.assert_array_equal(b, 3.0 * c)
    kernels.add(c, a, b)
    np.testing.assert_array_equal(c, a + b)
    kernels.triad(a, b, c, 3.0)
    np.testing.assert_allclose(a, b + 3.0 * c, rtol=1e-15)  # a fused multiply-add rounds once
    kernels.fill(a, 7.0)
    np.testing.assert_array_equal(a, 7.0)
    assert kernels.mean_error(b, 0.5) == pytest.approx(np.abs(b - 0.5).mean())


@pytest.mark.parametrize("iterations", [1, 2, 300, 100_000])
def test_stream_values_stay_as_they_began(iterations):
    """Any number of iterations can be checked, as with this scalar the arrays neither grow nor vanish."""
    a, b, c = stream.expected_values(iterations)
    assert (a, b, c) == pytest.approx((1.0, stream.SCALAR, 1 + stream.SCALAR), rel=1e-9)


@given(cache=st.integers(1 << 20, 1 << 31), memory=st.integers(1 << 20, 1 << 40))
def test_arrays_keep_the_size_rule_unless_memory_forbids(cache, memory):
    words, kept = stream.array_words(None, cache, memory)
    assert 3 * words * 8 <= memory * stream.MEMORY_SHARE
    assert kept == (words * 8 >= 4 * cache)
    assert kept or 3 * 4 * cache > memory * stream.MEMORY_SHARE - 24


def test_an_array_size_of_ones_own_says_whether_it_keeps_the_rule():
    assert stream.array_words(64, cache_bytes=32 << 20, memory_bytes=1 << 40) == (64 << 17, False)
    assert stream.array_words(256, cache_bytes=32 << 20, memory_bytes=1 << 40) == (256 << 17, True)


def test_stream_refuses_wrong_arrays(monkeypatch):
    expected = stream.expected_values
    monkeypatch.setattr(stream, "expected_values", lambda n: tuple(1.0001 * one for one in expected(n)))
    with pytest.raises(BenchmarkError, match="arrays are wrong"):
        stream.run(**TINY["stream"])


def test_stream_refuses_more_threads_than_there_are():
    with pytest.raises(BenchmarkError, match="threads 4096"):
        stream.run(**TINY["stream"], threads=4096)


def test_shared_caches_count_once(tmp_path):
    """Two sockets of two CPUs each: the last level is shared within a socket."""
    for cpu in range(4):
        for index, (level, kind, size, shared) in enumerate(
            [(1, "Data", "32K", f"{cpu}"), (3, "Unified", "16M", "0-1" if cpu < 2 else "2-3")]
        ):
            folder = tmp_path / f"devices/system/cpu/cpu{cpu}/cache/index{index}"
            folder.mkdir(parents=True)
            for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
                (folder / name).write_text(f"{text}\n")
    assert hardware.last_level_cache_bytes(tmp_path) == 2 * 16 << 20
    assert hardware.caches(tmp_path) == {"L1d": "32K", "L3": "16M"}
    assert hardware.last_level_cache_bytes(tmp_path / "nothing") == 0


# Linpack


def test_linpack_counts_as_hpl_does():
    assert linpack.operations(1000) == pytest.approx(2 / 3 * 1e9 + 2e6)


def test_the_residual_tells_a_solution_from_a_wrong_one():
    random = np.random.default_rng(3)
    a, b = random.random((300, 300)) - 0.5, random.random(300)
    x = np.linalg.solve(a, b)
    assert linpack.scaled_residual(a, x, b) < 1
    assert linpack.scaled_residual(a, x * (1 + 1e-8), b) > linpack.RESIDUAL_LIMIT


def test_linpack_refuses_a_wrong_solution(monkeypatch):
    monkeypatch.setattr(linpack, "RESIDUAL_LIMIT", 1e-9)
    with pytest.raises(BenchmarkError, match="scaled residual"):
        linpack.run(order=200, solves=1)


def test_linpack_refuses_what_does_not_fit_into_memory():
    with pytest.raises(BenchmarkError, match=r"^order 1000000 needs 8800.0 GB of memory"):
        linpack.run(order=1_000_000, solves=1)


# Disk


@pytest.mark.parametrize("direct", [True, False])
def test_disk_moves_what_it_says_and_leaves_nothing(tmp_path, direct):
    measured = disk.run(**low("disk", **TINY["disk"], direct=direct), folder=str(tmp_path))
    details = measured.details
    assert details["file_bytes"] == 4 << 20
    assert details["bytes_read"] == (4 << 20) + 4096 * details["random_reads"]
    assert details["bytes_written"] == (4 << 20) + 4096 * details["random_writes"]
    assert direct or not details["direct"]
    tail = [measured.metrics[f"random_read_p{percent}"] for percent in ("50", "95", "99", "99.9")]
    assert tail == sorted(tail)
    assert list(tmp_path.iterdir()) == []


def test_disk_refuses_without_space(tmp_path):
    with pytest.raises(BenchmarkError, match=r"not enough space: .* in .* MB free"):
        disk.run(**low("disk", file_mb=1 << 30), folder=str(tmp_path))


def test_disk_refuses_a_file_below_a_block(tmp_path):
    with pytest.raises(BenchmarkError, match="file_mb 1 is smaller than one block"):
        disk.run(**low("disk", file_mb=1, block_kb=2048), folder=str(tmp_path))


def test_not_even_a_killed_benchmark_leaves_its_file(tmp_path):
    code = f"""if 1:
        import os, signal
        from ripresa.families.benchmarks.programs.scratch import scratch_file
        with scratch_file({str(tmp_path)!r}, 1 << 20, direct=False) as file:
            os.pwrite(file.fd, b"x" * 4096, 0)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_a_child_can_use_the_nameless_file(tmp_path):
    with scratch.scratch_file(str(tmp_path), 1 << 20, direct=False) as file:
        subprocess.run(["sh", "-c", f"printf hello > {file.path}"], check=True)
        assert os.pread(file.fd, 10, 0) == b"hello"


# Baseline


def test_cpu_ticks_are_read_by_name():
    ticks = baseline.cpu_ticks("cpu  10 1 5 80 4 0 0 2 9 9\ncpu0 1 1 1 1\nctxt 777\nbtime 1\n")
    assert (ticks["idle"], ticks["iowait"], ticks["steal"], ticks["ctxt"]) == (80, 4, 2, 777)


def test_a_busy_machine_is_not_idle():
    """A process that spins for the whole time takes at least a good part of one CPU away."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinner:
        try:
            measured = baseline.run(seconds=0.5, sleep_ms=1)
        finally:
            spinner.kill()
    assert measured.metrics["cpu_idle"] <= 100 * (1 - 0.5 / os.cpu_count())
    assert measured.metrics["wakeup_p50"] > 0


# The configuration


def test_schemas_are_closed_and_described():
    def objects(schema):
        if isinstance(schema, dict):
            if "properties" in schema:
                yield schema
            for part in schema.values():
                yield from objects(part)
        elif isinstance(schema, list):
            for part in schema:
                yield from objects(part)

    for schema in (SECTION, WORKLOAD, RESULT):
        jsonschema.Draft202012Validator.check_schema(schema)
        for part in objects(schema):
            assert part["additionalProperties"] is False
    for part in [*objects(SECTION), *objects(WORKLOAD)]:
        for name, value in part["properties"].items():
            assert "description" in value or "$ref" in value, name


def refused(section):
    """Violations of the schema as it is with the packaged workloads."""
    checker, problems = expanded(load(SCHEMAS / "benchmarks.schema.json"), section, ROOT / "config")
    return checker.errors(section) + problems


def test_the_demo_is_valid_and_small():
    section = yaml.safe_load((ROOT / "config" / "benchmarks.yaml").read_text())
    assert refused(section) == []
    assert section["preset"] == "low"
    assert section["workloads"].keys() < set(registry.names())


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"workloads": {}},
        {"workloads": {"hpll": {}}},
        {"workloads": {"stream": {"presets": "low"}}},
        {"workloads": {"stream": {"preset": "lowest"}}},
        {"workloads": {"stream": {"parameters": {"iterations": 1}}}},
        {"workloads": {"disk": {"parameters": {"block_kb": 5}}}},
        {"workloads": {"stress-ng": {"parameters": {"stressors": ["--help"]}}}},
        {"workloads": {"stream": {"repetitions": 0}}},
        {"workloads": {"stream": {"repetitions": {"min": 1, "max": 3, "cv": 0.1}}}},
        {"workloads": {"stream": {"repetitions": {"min": 2, "max": 3}}}},
        {"workloads": {"stream": {}}, "hosts": []},
        {"workloads": {"stream": {}}, "hosts": [""]},
    ],
)
def test_what_the_schema_refuses(section):
    assert len(refused(section)) == 1


def test_a_plan():
    found = plan(
        {
            **DEFAULTS,
            "workloads": {
                "linpack": {"parameters": {"order": 500}, "repetitions": {"min": 2, "max": 4, "cv": 0.1}},
                "baseline": None,
                "disk": {"preset": "medium", "warmup": False, "repetitions": 1},
            },
        },
        "runs/somewhere",
    )
    host = os.uname().nodename.split(".")[0]
    assert [(one["workload"], one["minimum"], one["maximum"]) for one in found["series"]] == [
        ("linpack", 2, 4),
        ("baseline", 3, 3),
        ("disk", 1, 1),
    ]
    assert [one["positions"] for one in found["series"]] == [[0, 1, 2, 3], [4, 5, 6], [7]]
    assert [one["cv"] for one in found["series"]] == [0.1, None, None]
    assert [(one["workload"], one["repetition"]) for one in found["repetitions"]] == (
        [("linpack", n) for n in (1, 2, 3, 4)] + [("baseline", n) for n in (1, 2, 3)] + [("disk", 1)]
    )
    assert found["repetitions"][0] == {
        "host": host,
        "workload": "linpack",
        "repetition": 1,
        "preset": "low",
        "parameters": {"order": 500, "solves": 2},
        "scratch": None,
        "definition": registry.definition(registry.load("linpack")),
        "peer": None,
    }
    assert [one["workload"] for one in found["warmups"]] == ["linpack", "baseline"]
    assert found["verdicts"] == [
        {"host": host, "workload": "linpack", "repetition": n, "cv": 0.1} for n in (2, 3)
    ]
    assert [one["host"] for one in found["fingerprints"]] == [host]


def test_the_plan_names_what_is_wrong():
    section = {**DEFAULTS, "workloads": {"disk": {"repetitions": {"min": 4, "max": 3, "cv": 0.1}}}}
    done = run_script("benchmark_plan.py", json.dumps(section), "runs/somewhere")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "benchmarks.workloads.disk: repetitions: max 3 is below min 4: raise max or lower min\n"
    )


def test_the_plan_is_quick_and_imports_nothing_heavy():
    section = json.dumps({**DEFAULTS, "workloads": dict.fromkeys(registry.names())})
    command = [sys.executable, "-X", "importtime", str(SCRIPTS / "benchmark_plan.py"), section, "runs/x"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not re.findall(r"\| +(numpy|numba|scipy|pandas|psutil)\b", done.stderr)


# The fingerprint


def test_the_fingerprint_does_not_change_by_itself(tmp_path):
    before = fingerprint.collect(tmp_path)
    ballast = bytearray(64 << 20)  # less memory, more load: none of its business
    ballast[::4096] = b"x" * len(ballast[::4096])
    (tmp_path / "file").write_bytes(ballast)
    assert fingerprint.collect(tmp_path) == before
    section = {**DEFAULTS, "workloads": {"disk": None}}
    done = run_script("benchmark_plan.py", json.dumps(section), tmp_path / "not" / "there" / "yet")
    assert json.loads(done.stdout)["fingerprints"][0]["system"] == fingerprint.digest(before)


def test_any_change_of_the_fingerprint_changes_its_digest():
    system = fingerprint.collect(".")
    for changed in (
        {**system, "memory_mib": system["memory_mib"] * 2},
        {**system, "kernel": "Linux 1.0"},
        {**system, "cpu": {**system["cpu"], "governor": "powersave!"}},
        {**system, "disk": {"file_system": "nfs"}},
    ):
        assert fingerprint.digest(changed) != fingerprint.digest(system)
    assert fingerprint.digest(dict(reversed(system.items()))) == fingerprint.digest(system)


def test_the_fingerprint_knows_this_machine():
    system = fingerprint.collect(".")
    assert system["cpu"]["logical"] == os.cpu_count()
    assert system["python"] == ".".join(map(str, sys.version_info[:3]))
    assert system["libraries"]["numpy"] == np.__version__
    assert system["kernel"].endswith(os.uname().release)
    assert abs(system["memory_mib"] * 2**20 - hardware.meminfo_bytes("MemTotal")) <= fingerprint.MEMORY_GRAIN


def test_the_fingerprint_is_cheap():
    fingerprint.collect(".")
    started = time.process_time()
    for _ in range(5):
        fingerprint.collect(".")
    assert (time.process_time() - started) / 5 < 0.1


# Repetitions


@pytest.mark.parametrize("workload", TINY)
def test_a_repetition_gives_a_valid_result_with_samples(workload, tmp_path, fingerprint_file, monkeypatch):
    installed(workload)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as `snakemake --cores 1` would have it
    output, table = tmp_path / "rep1.json", tmp_path / "rep1.samples.csv"
    text = json.dumps(unit(workload, TINY[workload]))
    done = run_script("benchmark_run.py", text, fingerprint_file, output, table)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    jsonschema.validate(result, RESULT)
    names = [one["name"] for one in result["metrics"]]
    assert result["primary"] == names[0]
    assert len(set(names)) == len(names)
    assert result["parameters"] == unit(workload, TINY[workload])["parameters"]
    assert result["details"].get("threads") in (None, hardware.usable_cpus())
    assert result["fingerprint"] == json.loads(fingerprint_file.read_text())["digest"]
    rows = list(csv.DictReader(table.open()))
    assert rows
    assert tuple(rows[0]) == sampling.COLUMNS
    assert sorted(tmp_path.iterdir()) == sorted([fingerprint_file, output, table])


@pytest.mark.slow
@pytest.mark.quiet
@pytest.mark.parametrize("workload", registry.names())
def test_the_low_preset_takes_seconds(workload, tmp_path, fingerprint_file):
    installed(workload)
    output = tmp_path / "warmup.json"
    text = json.dumps(unit(workload, number=None))
    done = run_script("benchmark_run.py", text, fingerprint_file, output)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    jsonschema.validate(result, RESULT)
    assert result["elapsed_s"] < 30
    if workload == "stream":
        assert result["details"]["array_rule_kept"]


def test_an_invalid_measurement_ends_in_one_line(tmp_path, fingerprint_file):
    text = json.dumps(unit("disk", {"file_mb": 1 << 24}))
    done = run_script("benchmark_run.py", text, fingerprint_file, tmp_path / "out.json", tmp_path / "out.csv")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: disk: command: exit code 1: not enough space: No space left on device"
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# Statistics


@given(samples, st.sampled_from(figures.LATENCY_PERCENTILES))
def test_percentiles_are_nearest_rank(values, percent):
    ordered = sorted(values)
    assert figures.percentile(ordered, percent) == np.percentile(ordered, percent, method="inverted_cdf")


def test_latencies_become_metrics():
    assert figures.latencies("x", range(1, 1001)) == {
        "x_p50": 500,
        "x_p95": 950,
        "x_p99": 990,
        "x_p99.9": 999,
    }


@given(st.lists(finite, min_size=2, max_size=30))
def test_the_coefficient_of_variation(values):
    expected = np.std(values, ddof=1) / np.mean(values)
    assert adaptive.coefficient_of_variation(values) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_spread_without_a_mean():
    assert math.isnan(adaptive.coefficient_of_variation([1.0]))
    assert adaptive.coefficient_of_variation([0.0, 0.0]) == 0
    assert adaptive.coefficient_of_variation([-1.0, 1.0]) == math.inf
    assert adaptive.coefficient_of_variation([-9.0, -11.0]) == pytest.approx(math.sqrt(2) / 10)


@given(st.lists(finite, min_size=2, max_size=30))
def test_the_confidence_interval_is_students(values):
    low, high = confidence_interval(values)
    error = scipy.stats.sem(values)
    if error > 1e-9 * max(values):
        expected = scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), error)
        assert (low, high) == pytest.approx(expected)


@given(samples)
def test_outliers_are_beyond_the_fences_of_tukey(values):
    low, _, high = statistics.quantiles(values, method="inclusive") if len(values) > 1 else values * 3
    reach, rounding = 1.5 * (high - low), 1e-9 * max(map(abs, values))
    if len(values) > 3:
        for value, out in zip(values, summary.outliers(values), strict=True):
            beyond = max(low - reach - value, value - high - reach)
            assert out == (beyond > 0) or abs(beyond) < rounding
    else:
        assert not any(summary.outliers(values))


def result_of(values, repetition=1, workload="disk", primary="rate"):
    return {
        "host": "here",
        "workload": workload,
        "preset": "low",
        "repetition": repetition,
        "primary": primary,
        "metrics": [
            {"name": name, "value": value, "unit": "MB/s", "direction": "higher"}
            for name, value in values.items()
        ],
    }


@pytest.mark.parametrize(
    ("values", "limit", "enough"),
    [([10, 10.1, 9.9], 0.02, True), ([10, 11, 9], 0.02, False), ([10, 10], 0.02, True), ([10], 0.02, False)],
)
def test_repetitions_end_once_the_primary_metric_varies_little(values, limit, enough):
    results = [result_of({"noise": 100**i, "rate": value}) for i, value in enumerate(values)]
    verdict = adaptive.judge(results, limit)
    assert (verdict["metric"], verdict["n"], verdict["enough"]) == ("rate", len(values), enough)
    assert json.loads(json.dumps(verdict, allow_nan=False)) == verdict


def test_settings_of_repetitions():
    assert adaptive.Repetitions.of(4) == adaptive.Repetitions(4, 4)
    setting = {"min": 2, "max": 5, "cv": 0.1}
    assert adaptive.Repetitions.of(setting) == adaptive.Repetitions(2, 5, 0.1)


def test_the_summary():
    values = [10.0, 11.0, 9.0, 10.5, 30.0]
    results = [result_of({"rate": value, "other": 1.0}, n) for n, value in enumerate(values, 1)]
    results.append(result_of({"rate": 5.0}, 1, workload="fio"))
    shuffled = [results[i] for i in (5, 3, 0, 4, 2, 1)]
    again = [one["repetition"] == 2 for one in shuffled]
    table = {(row["workload"], row["metric"]): row for row in summary.summarise(shuffled, again)}
    row = table["disk", "rate"]
    assert (row["n"], row["min"], row["median"], row["max"]) == (5, 9.0, 10.5, 30.0)
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["sd"] == pytest.approx(np.std(values, ddof=1))
    assert row["cv"] == pytest.approx(np.std(values, ddof=1) / np.mean(values))
    assert (row["outliers"], row["outlier_repetitions"]) == (1, "5")
    assert (row["retried"], row["retried_repetitions"]) == (1, "2")
    assert row["primary"]
    assert not table["disk", "other"]["primary"]
    assert table["disk", "other"]["cv"] == 0
    single = table["fio", "rate"]
    assert single["n"] == 1
    assert all(math.isnan(single[name]) for name in ("sd", "cv", "ci95_low", "ci95_high"))


def test_a_summary_of_nothing_has_its_columns(tmp_path):
    output = tmp_path / "summary.csv"
    done = run_script("benchmark_summary.py", tmp_path, output)
    assert done.returncode == 0, done.stderr
    assert output.read_text().strip() == ",".join(summary.COLUMNS)


@pytest.mark.parametrize(
    ("outcomes", "retried"),
    [
        ([], False),
        (["published"], False),
        (["failed", "published"], True),
        (["interrupted", "published"], True),
        (["published", "adopted"], False),
        (["failed", "published", "published"], False),
        (["published", "failed", "published", "adopted"], True),
        (["published", "failed"], False),
    ],
)
def test_a_repetition_that_needed_a_retry(tmp_path, outcomes, retried):
    path = tmp_path / "journal" / "attempts" / "benchmarks" / "here" / "disk" / "rep1.json.jsonl"
    path.parent.mkdir(parents=True)
    lines = [json.dumps({"attempt": n, "outcome": one}) for n, one in enumerate(outcomes, 1)]
    path.write_text("\n".join(lines) + '\nnull\n{"outcome": "fai')
    found = summary.attempts_of(str(tmp_path / "benchmarks/here/disk/rep1.json"), str(tmp_path))
    assert found == str(path)
    assert summary.needed_retry(found) == retried
    assert not summary.needed_retry(tmp_path / "absent")


@pytest.mark.parametrize("count", [1, 40])
def test_a_plot(tmp_path, count):
    results = [result_of({f"m{k}": 10.0 * k + n % 3 for k in range(5)}, n + 1) for n in range(count)]
    path = tmp_path / "plot.png"
    plot.draw(
        [{**one, "primary": "m0"} for one in results], [one["repetition"] == 2 for one in results], path
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


# The whole, in Snakemake


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a small campaign, and a PATH on which there is no sysbench."""
    for name in ("Snakefile", "rules", "profiles", "workflow"):
        (tmp_path / name).symlink_to(ROOT / name)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for program in ("bash", "sh", "env", "python"):
        found = sys.executable if program == "python" else shutil.which(program)
        (binaries / program).symlink_to(found)
    monkeypatch.setenv("PATH", f"{binaries}:{Path(sys.executable).parent}")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text("run_id: small\nfamilies: [benchmarks]\n")
    (tmp_path / "config" / "recovery.yaml").write_text("time_scale: 0.001\n")
    return tmp_path


def configure(checkout, **workloads):
    (checkout / "config" / "benchmarks.yaml").write_text(json.dumps({"workloads": workloads}))


def snakemake(checkout, *arguments, **environment):
    command = [sys.executable, "-m", "snakemake", *arguments]
    done = subprocess.run(
        command, cwd=checkout, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def planned(text):
    """The targets, within benchmarks/<host>/, that a dry run would make."""
    host = os.uname().nodename.split(".")[0]
    outputs = re.findall(r"^ +output: ([^,\n]+)", text, re.MULTILINE)
    return sorted(path.removeprefix("runs/small/benchmarks/").replace(host, "here") for path in outputs)


@pytest.mark.slow
def test_a_campaign(checkout):
    """Adaptive repetitions end where they should, what is absent is skipped, and what changes runs again."""
    baseline = {"parameters": {"seconds": 0.1}, "repetitions": 1, "warmup": False}
    disk = {"parameters": TINY["disk"], "repetitions": {"min": 2, "max": 4, "cv": 1}}
    order = {"parameters": TINY["linpack"], "repetitions": {"min": 2, "max": 4, "cv": 0.0001}}
    configure(checkout, baseline=baseline, disk=disk, linpack=order, sysbench={})
    snakemake(checkout)

    run = checkout / "runs" / "small"
    table = rows_of(run / "benchmarks" / "summary.csv")
    assert {row["workload"]: row["n"] for row in table} == {"baseline": "1", "disk": "2", "linpack": "4"}
    assert {row["sd"] == "" for row in table if row["workload"] == "baseline"} == {True}
    assert {row["retried"] for row in table} == {"0"}
    host = table[0]["host"]
    assert sorted(path.name for path in (run / "benchmarks" / "plots").iterdir()) == [
        f"{host}.{workload}.png" for workload in ("baseline", "disk", "linpack")
    ]
    found = {unit.target: unit for unit in states(Run(str(run)))}
    assert {unit.state for unit in found.values()} == {"COMPLETED", "SKIPPED"}
    skipped = {target: unit.reason for target, unit in found.items() if unit.state == "SKIPPED"}
    assert "sysbench is not installed" in skipped[f"benchmarks/{host}/sysbench/rep1.json"]
    assert "vary too much" in skipped[f"benchmarks/{host}/disk/rep3.json"]
    assert found[f"benchmarks/{host}/linpack/rep4.json"].state == "COMPLETED"

    written = json.loads((run / "benchmarks" / host / "fingerprint.json").read_text())
    expected = plan({**DEFAULTS, "workloads": {"disk": None}}, str(run))["fingerprints"][0]["system"]
    assert written["digest"] == fingerprint.digest(written["system"]) == expected

    assert "Nothing to be done" in snakemake(checkout)

    configure(checkout, baseline={**baseline, "parameters": {"seconds": 0.2}}, disk=disk, linpack=order)
    changed = planned(snakemake(checkout, "--dry-run"))
    assert changed == ["here/baseline/rep1.json", "plots/here.baseline.png", "summary.csv", "warnings.csv"]

    # An upgrade of numpy changes the fingerprint, and with it everything measured.
    (checkout / "numpy-999.dist-info").mkdir()
    (checkout / "numpy-999.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: numpy\nVersion: 999\n"
    )
    changed = planned(snakemake(checkout, "--dry-run", PYTHONPATH=str(checkout)))
    assert {"here/fingerprint.json", "here/disk/warmup.json", "here/disk/rep1.json"} <= set(changed)


@pytest.mark.slow
def test_a_changed_value_measures_again_behind_a_warm_up(checkout):
    """In the same call: behind a job that runs, Snakemake looks only for what takes its output as new."""
    baseline = {"parameters": {"seconds": 0.1}, "repetitions": 1}
    configure(checkout, baseline=baseline)
    snakemake(checkout)
    assert "Nothing to be done" in snakemake(checkout)
    configure(checkout, baseline={**baseline, "parameters": {"seconds": 0.2}})
    assert planned(snakemake(checkout, "--dry-run")) == [
        "here/baseline/rep1.json",
        "here/baseline/warmup.json",
        "plots/here.baseline.png",
        "summary.csv",
        "warnings.csv",
    ]
