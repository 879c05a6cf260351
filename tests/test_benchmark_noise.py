"""Order of repetitions, and what makes their results doubtful."""

import json
import os
import subprocess
import sys
import types
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripresa.families.benchmarks import noise
from ripresa.families.benchmarks.adaptive import Repetitions
from ripresa.families.benchmarks.order import positions
from ripresa.placement.packing import Solver
from ripresa.placement.ready import Kind, Ready

ROOT = Path(__file__).parents[1]

wanted = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.tuples(st.integers(1, 5), st.integers(0, 3)).map(lambda one: Repetitions(one[0], one[0] + one[1])),
    min_size=1,
)


def sequence(places):
    """Workload and number of the repetitions in their order."""
    return [
        unit for _, unit in sorted((p, (w, n)) for w, list_ in places.items() for n, p in enumerate(list_, 1))
    ]


@given(wanted, st.sampled_from(["grouped", "interleaved", "random"]), st.integers(0, 9))
def test_every_repetition_has_a_place(wanted, order, seed):
    places = positions(wanted, order, seed, "n1")
    assert sorted(place for one in places.values() for place in one) == list(
        range(sum(one.maximum for one in wanted.values()))
    )
    assert positions(wanted, order, seed, "n1") == places


def test_orders():
    given = {"a": Repetitions(2, 3), "b": Repetitions(2, 2)}
    assert sequence(positions(given, "grouped", 1, "n1")) == [
        ("a", 1),
        ("a", 2),
        ("a", 3),
        ("b", 1),
        ("b", 2),
    ]
    assert sequence(positions(given, "interleaved", 1, "n1")) == [
        ("a", 1),
        ("b", 1),
        ("a", 2),
        ("b", 2),
        ("a", 3),
    ]
    shuffled = {tuple(sequence(positions(given, "random", seed, "n1"))) for seed in range(200)}
    assert len(shuffled) == 24
    assert {order[-1] for order in shuffled} == {("a", 3)}  # asked for by a verdict that needs all others
    hosts = {tuple(sequence(positions(given, "random", 1, f"n{k}"))) for k in range(20)}
    assert len(hosts) > 5


def test_no_host_waits_for_another():
    """Nor for a repetition that failed and is to come later."""
    ready = Ready(Solver())
    for host, count in (("fast", 6), ("slow", 6)):
        for place in range(count):
            ready.add((host, place), Kind(-place, 0, None, 0, (("_cores", 1), (host, 1))))
    ready.remove([("fast", 1)])
    assert set(ready.take({"_cores": 9, "fast": 1, "slow": 1})) == {("fast", 0), ("slow", 0)}
    taken = [[*ready.take({"_cores": 9, "fast": 1, "slow": 0})] for _ in range(3)]
    assert taken == [[("fast", 2)], [("fast", 3)], [("fast", 4)]]
    ready.add(("fast", 1), Kind(-1, 0, None, 0, (("_cores", 1), ("fast", 1)), again=True))
    assert set(ready.take({"_cores": 9, "fast": 1, "slow": 1})) == {("fast", 1), ("slow", 1)}


# Doubts


def results_of(values, started=None):
    return [
        {
            "host": "n1",
            "workload": "stream",
            "repetition": n,
            "started": started[n - 1] if started else f"2026-01-01T00:{n:02}:00.000+00:00",
            "primary": "triad",
            "metrics": [{"name": "other", "value": 100.0**n}, {"name": "triad", "value": value}],
        }
        for n, value in enumerate(values, 1)
    ]


def found(values, again=(), **options):
    retried = [n in again for n in range(1, len(values) + 1)]
    return [
        (d.repetition, d.kind, d.evidence) for d in noise.of_series(results_of(values), retried, **options)
    ]


def test_a_quiet_series_says_nothing():
    assert found([10.0, 10.1, 9.9, 10.05, 9.95]) == []
    assert found([10.0]) == []
    assert found([0.0, 0.0, 0.0, 0.0, 0.0]) == []


def test_a_spread_above_the_limit():
    values = [10.0, 11.0, 9.0]
    assert found(values) == [(None, "variation", "triad: CV 10 % over 3 repetitions, above 5 %")]
    assert found(values, limit=0.2) == []
    assert [kind for _, kind, _ in found([10.0, 10.3, 9.7], limit=0.02)] == ["variation"]


def test_a_trend():
    ((number, kind, evidence),) = found([10.0, 9.9, 9.8, 9.7, 9.6, 9.5])
    assert (number, kind) == (None, "drift")
    assert evidence.startswith(
        "triad: falls by 1 % a repetition (95 % interval 1 to 1), 5.1 % in all; Mann-Kendall p"
    )
    assert found([10.0, 9.9, 9.8, 9.7]) == []  # of four values any order is too likely
    assert found([10.0, 10.001, 10.002, 10.003, 10.004]) == []  # sure, but of no importance
    assert "rises" in found([10.0, 10.1, 10.2, 10.3, 10.4])[0][2]


def test_a_trend_is_one_in_time():
    times = [f"2026-01-01T00:{minute:02}:00.000+00:00" for minute in (3, 1, 5, 2, 4)]
    values = [10.0 + 0.1 * minute for minute in (3, 1, 5, 2, 4)]
    doubts = noise.of_series(results_of(values, times), [False] * 5)
    assert [one.kind for one in doubts] == ["drift"]
    assert noise.of_series(results_of(values), [False] * 5) == []


def test_noise_is_seldom_a_trend():
    generator = np.random.default_rng(1)
    alarms = [bool(noise.drift((1 + 0.02 * generator.standard_normal(n)).tolist())) for n in [5, 8, 20] * 200]
    assert sum(alarms) / len(alarms) <= noise.DRIFT_LEVEL


def test_outliers_and_retries_are_named():
    assert found([10.0, 10.01, 9.99, 10.0, 10.4], again=(2,)) == [
        (2, "retried", "published after an attempt that failed or was interrupted"),
        (5, "outlier", "triad: 10.4, the median is 10"),
    ]


def test_the_table_has_all_warnings(tmp_path, monkeypatch):
    """With what samples show, which `warnings` tells."""
    module = types.SimpleNamespace(
        read=lambda path: {"busy": [float(Path(path).read_text())]},
        warnings_of=lambda samples: [
            types.SimpleNamespace(kind="busy", evidence=f"{samples['busy'][0]:g} others")
        ],
    )
    monkeypatch.setitem(sys.modules, "ripresa.families.benchmarks.warnings", module)
    monkeypatch.setattr("ripresa.families.benchmarks.warnings", module, raising=False)
    monkeypatch.syspath_prepend(str(ROOT / "workflow" / "scripts"))
    import benchmark_warnings

    folder = tmp_path / "benchmarks" / "n1" / "stream"
    folder.mkdir(parents=True)
    paths = []
    for number, one in enumerate(results_of([10.0, 11.0, 9.0]), 1):
        paths.append(str(folder / f"rep{number}.json"))
        Path(paths[-1]).write_text(json.dumps(one))
        (folder / f"rep{number}.samples.csv").write_text(str(number))
    table = tmp_path / noise.FILE
    unit = json.dumps({"cv": [["n1", "stream", 0.07], ["n1", "disk", None]]})
    benchmark_warnings.main(unit, str(tmp_path), str(table), *paths)
    doubts = noise.read(table)
    assert [(one.repetition, one.kind) for one in doubts] == [
        (None, "variation"),
        (1, "busy"),
        (2, "busy"),
        (3, "busy"),
    ]
    assert doubts[0].evidence.endswith("above 7 %")
    assert doubts[1].evidence == "1 others"
    assert table.read_text().splitlines()[0] == "host,workload,repetition,kind,evidence"
    assert noise.read(tmp_path / "absent") is None


# In Snakemake


@pytest.mark.slow
def test_repetitions_run_in_their_order(tmp_path):
    """Also where a verdict asks for more of them, and with a warm-up right before the first of a workload."""
    for name in ("Snakefile", "rules", "profiles", "workflow"):
        (tmp_path / name).symlink_to(ROOT / name)
    section = {
        "order": "interleaved",
        "repetitions": 3,
        "workloads": {
            "linpack": {"parameters": {"order": 100, "solves": 1}},
            "baseline": {"warmup": False, "parameters": {"seconds": 0.02}},
            "disk": {
                "parameters": {"file_mb": 4, "random_seconds": 0.02},
                "repetitions": {"min": 2, "max": 4, "cv": 0.0001},
            },
        },
    }
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text("run_id: small\nfamilies: [benchmarks]\n")
    (tmp_path / "config" / "benchmarks.yaml").write_text(json.dumps(section))
    command = [sys.executable, "-m", "snakemake", "--cores", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "small" / "benchmarks"
    files = [*folder.glob("*/*/rep*.json"), *folder.glob("*/*/warmup.json")]
    found = sorted(((one := json.loads(file.read_text()))["started"], one) for file in files)
    begun = [f"{one['workload'][0]}{one['repetition'] or 'w'}" for _, one in found]
    assert begun == ["lw", "l1", "b1", "dw", "d1", "l2", "b2", "d2", "l3", "b3", "d3", "d4"]
    assert all(early < late for early, late in pairwise(time for time, _ in found))
    assert noise.read(tmp_path / "runs" / "small" / noise.FILE) is not None
