"""Comparison of benchmarks: intervals hold what they promise, verdicts follow the rule."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from ripresa.cli import main
from ripresa.families.benchmarks import comparison, inference, results

positive = st.floats(min_value=1e-3, max_value=1e6)
some = st.lists(positive, min_size=2, max_size=12)


def result(values, *, host="n1", workload="stream", repetition=1, **changed):
    """A result with metrics of these values: the first is primary, and those in _us are better if lower."""
    return {
        "host": host,
        "workload": workload,
        "repetition": repetition,
        "preset": "low",
        "parameters": {"threads": 4},
        "fingerprint": "0123456789ab",
        "started": f"2026-01-01T00:{repetition:02}:00.000+00:00",
        "primary": next(iter(values)),
        "metrics": [
            {
                "name": name,
                "value": value,
                "unit": "us" if name.endswith("_us") else "GB/s",
                "direction": "lower" if name.endswith("_us") else "higher",
            }
            for name, value in values.items()
        ],
        **changed,
    }


def series(metric, values, **changed):
    return results.series([result({metric: v}, repetition=n, **changed) for n, v in enumerate(values, 1)])


def judged(a, b, metric="triad", **options):
    """The row of two series that differ in their values alone."""
    sides = [one if isinstance(one, results.Series) else series(metric, one) for one in (a, b)]
    (row,) = comparison.compare([("n1", "stream", *sides)], **options)
    return row


# The interval


def normal(generator, size, cv):
    return 1 + cv * generator.standard_normal(size)


def skewed(generator, size, cv):
    """A fastest possible time and an exponential tail: skewness 2."""
    return 1 + cv * (generator.exponential(size=size) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 5, 10, 30])
@pytest.mark.parametrize("shape", [normal, skewed])
def test_the_interval_holds_the_truth_as_often_as_it_says(size, shape, monkeypatch):
    monkeypatch.setattr(inference, "RESAMPLES", 999)
    generator = np.random.default_rng(size)
    truth, held = 0.1, 0
    for _ in range(1500):
        a, b = shape(generator, size, 0.05), (1 + truth) * shape(generator, size, 0.05)
        change = inference.relative_change(a, b)
        held += change.low <= truth <= change.high
    assert 0.94 <= held / 1500 <= 0.985  # simulated to 0.6 %


@pytest.mark.parametrize("size", [3, 5])
def test_equal_distributions_are_told_apart_in_few_tables(size, monkeypatch):
    monkeypatch.setattr(inference, "RESAMPLES", 499)
    generator = np.random.default_rng(size)
    wrong = 0
    for _ in range(40):
        names = [f"m{k}" for k in range(20)]
        a, b = (
            results.series(
                [
                    result(dict(zip(names, normal(generator, 20, 0.03), strict=True)), repetition=n)
                    for n in range(size)
                ]
            )
            for _ in "ab"
        )
        rows = comparison.compare([("n1", "stream", a, b)])
        wrong += any(row.verdict in ("better", "worse") for row in rows)
    assert wrong <= 5  # two families of metrics at 5 % each; without the adjustment about 20


@pytest.mark.parametrize(("size", "least"), [(3, 95), (5, 99)])
def test_a_shift_of_five_percent_is_found_at_a_spread_of_one(size, least, monkeypatch):
    monkeypatch.setattr(inference, "RESAMPLES", 499)
    generator = np.random.default_rng(size)
    found = [
        judged(
            normal(generator, size, 0.01).tolist(), (0.95 * normal(generator, size, 0.01)).tolist()
        ).verdict
        for _ in range(100)
    ]
    assert found.count("worse") >= least
    assert "better" not in found


@given(some, some)
def test_the_p_value_is_that_of_the_interval(a, b):
    change = inference.relative_change(a, b)
    assert change.low <= change.estimate <= change.high
    assert change.estimate == pytest.approx(np.mean(b) / np.mean(a) - 1, rel=1e-6, abs=1e-9)
    if abs(change.p - 0.05) > 0.005:  # quantiles are interpolated between resamples
        assert (change.low > 0 or change.high < 0) == (change.p < 0.05)


def test_the_interval_is_never_inside_welchs_and_near_it_for_many_values():
    generator = np.random.default_rng(3)
    a, b = normal(generator, 200, 0.02), normal(generator, 200, 0.02)
    change = inference.relative_change(a, b)
    welch = scipy.stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert (change.low, change.high) == pytest.approx((welch.low, welch.high), abs=3e-4)


def test_the_same_values_always_give_the_same_interval():
    a, b = [1.0, 1.1, 1.05], [1.2, 1.1, 1.3]
    assert inference.relative_change(a, b) == inference.relative_change(list(a), list(b))


def test_values_that_never_vary():
    assert inference.relative_change([2.0, 2.0], [3.0, 3.0]) == pytest.approx((0.5, 0.5, 0.5, 0.0))
    assert inference.relative_change([2.0, 2.0], [2.0, 2.0]) == (0.0, 0.0, 0.0, 1.0)
    one_side = inference.relative_change([2.0, 2.0, 2.0], [2.9, 3.0, 3.1])
    assert 0 < one_side.low < 0.5 < one_side.high


@pytest.mark.parametrize(
    ("a", "b"), [([1.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 1.0]), ([-1.0, 2.0], [1.0, 1.0])]
)
def test_what_has_no_ratio(a, b):
    with pytest.raises(ValueError, match="above 0"):
        inference.relative_change(a, b)


def test_many_values_are_resampled_in_parts(monkeypatch):
    monkeypatch.setattr(inference, "_AT_ONCE", 100)
    monkeypatch.setattr(inference, "RESAMPLES", 95)
    means = inference._resampled_means(np.arange(1.0, 11.0), np.random.default_rng(1))
    assert means.shape == (95,)
    assert 4 < means.mean() < 7


@given(some, some)
def test_cliffs_delta_counts_pairs(a, b):
    pairs = [np.sign(y - x) for x in a for y in b]
    assert inference.cliffs_delta(a, b) == pytest.approx(np.mean(pairs))


@given(st.lists(st.floats(min_value=0, max_value=1), max_size=30))
def test_p_values_are_adjusted_as_by_benjamini_and_hochberg(values):
    expected = scipy.stats.false_discovery_control(values) if values else []
    assert inference.adjusted(values) == pytest.approx(list(expected))


# The verdict


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([10, 10.1, 9.9, 10, 10.1], [11, 11.1, 10.9, 11, 11.1], "better"),
        ([11, 11.1, 10.9, 11, 11.1], [10, 10.1, 9.9, 10, 10.1], "worse"),
        ([10, 10.01, 9.99, 10, 10.01], [10.05, 10.06, 10.04, 10.05, 10.05], "same"),  # sure, but below 1 %
        ([10, 11, 9, 10.5, 9.5], [10, 11.2, 9, 10.5, 9.4], "undecided"),
        ([10, 10.1], [11, 11.1, 10.9], "incomparable"),
        ([0, 0, 0], [0, 0, 0], "same"),
        ([0, 0, 0], [0, 0, 0.1], "undecided"),
    ],
)
def test_verdicts(a, b, verdict):
    row = judged(a, b)
    assert row.verdict == verdict
    mirrored = {"better": "worse", "worse": "better"}.get(verdict, verdict)
    assert judged(a, b, metric="p99_us").verdict == mirrored


def test_gain_is_relative_to_the_first_and_positive_if_better():
    row = judged([100.0, 101.0, 99.0], [90.0, 91.0, 89.0], metric="p99_us")
    assert row.gain == pytest.approx(0.1)
    assert 0.05 < row.low < 0.1 < row.high < 0.15
    assert (row.delta, row.a.n, row.a.mean, row.b.median) == (1.0, 3, 100.0, 90.0)
    assert row.verdict == "better"


def test_the_threshold_says_what_matters():
    a, b = [10, 10.01, 9.99, 10.0], [10.3, 10.31, 10.29, 10.3]
    assert judged(a, b).verdict == "better"
    assert judged(a, b, threshold=0.05).verdict == "same"
    assert judged(a, b, threshold=0.0305).verdict == "undecided"


def test_one_of_many_metrics_must_be_surer():
    lone = judged([10, 10.3, 9.7], [10.9, 11.2, 10.6])
    assert (lone.verdict, lone.p_adjusted) == ("better", lone.p)
    noise = {f"m{k}": 1.0 for k in range(30)}
    sides = [
        results.series(
            [result({"first": 1.0, "triad": v, **noise}, repetition=n) for n, v in enumerate(values)]
        )
        for values in ([10, 10.3, 9.7], [10.9, 11.2, 10.6])
    ]
    rows = {row.metric: row for row in comparison.compare([("n1", "stream", *sides)])}
    assert rows["triad"].p == lone.p
    assert rows["triad"].p_adjusted == pytest.approx(31 * lone.p)
    assert rows["triad"].verdict == "undecided"
    assert rows["triad"].remarks[0].endswith("among all")
    assert rows["m0"].verdict == "same"


@pytest.mark.parametrize(
    ("changed", "verdict", "remark"),
    [
        ({"fingerprint": "ba9876543210"}, "better", "other fingerprint"),
        ({"preset": "high"}, "incomparable", "preset low / high"),
        ({"parameters": {"threads": 8, "array_mb": 2}}, "incomparable", "threads 4 / 8"),
    ],
)
def test_other_conditions_are_said(changed, verdict, remark):
    row = judged([10, 10.1, 9.9], series("triad", [11, 11.1, 10.9], **changed))
    assert row.verdict == verdict
    assert remark in row.remarks
    assert row.gain == pytest.approx(0.1)
    assert row.low is not None
    assert (row.p is None) == (verdict == "incomparable")


def test_what_is_on_one_side_only_and_what_has_another_unit():
    a, b = series("triad", [1, 2, 3]), series("copy", [1, 2, 3])
    rows = comparison.compare([("n1", "stream", a, b), ("n2", "stream", a, None)])
    assert [(row.metric, row.verdict, row.remarks) for row in rows] == [
        ("triad", "incomparable", ("only in A",)),
        ("copy", "incomparable", ("only in B",)),
        ("triad", "incomparable", ("only in A",)),
    ]
    other = [{**one, "metrics": [{**one["metrics"][0], "unit": "MB/s"}]} for one in a.results]
    assert judged(a, results.series(other)).remarks == ("other unit or direction",)


def test_repetitions_from_before_a_change_do_not_count():
    old = [result({"triad": 5.0}, repetition=n, fingerprint="ba9876543210") for n in (4, 5)]
    new = [result({"triad": 10.0 + n}, repetition=n) for n in (6, 7, 8)]
    mixed = results.series(old + new)
    assert (mixed.values("triad"), mixed.left_out) == ([16.0, 17.0, 18.0], 2)
    row = judged(mixed, [16, 17, 18])
    assert row.remarks == ("2 of A left out, measured under other conditions",)


# The command


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Writes a run: `runs("base", [results...])`."""
    monkeypatch.chdir(tmp_path)

    def write(name, found, kernel="6.1"):
        for one in found:
            folder = tmp_path / "runs" / name / "benchmarks" / one["host"] / one["workload"]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"rep{one['repetition']}.json").write_text(json.dumps(one))
            system = {"kernel": kernel, "cpu": {"model": "x", "usable": 4}}
            document = {"digest": one["fingerprint"], "system": system}
            (folder.parent / "fingerprint.json").write_text(json.dumps(document))
        return tmp_path / "runs" / name

    return write


def repeated(value, host="n1", workload="stream", count=5, **changed):
    """Repetitions around a value, with a latency that never changes."""
    factors = (1, 1.01, 0.99, 1.005, 0.995)[:count]
    return [
        result({"triad": f * value, "p99_us": f * 7.0}, host=host, workload=workload, repetition=n, **changed)
        for n, f in enumerate(factors, 1)
    ]


def ripresa(capsys, *words):
    code = main(["compare", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_two_runs(runs, capsys):
    runs("base", repeated(10) + repeated(20, host="n2"))
    new = runs("new", repeated(12, fingerprint="ba9876543210") + repeated(20, host="n2"), kernel="6.2")
    (new / "benchmarks" / "warnings.csv").write_text(
        "host,workload,repetition,kind,evidence\nn1,stream,2,throttled,frequency fell by 20 %\n"
        "n1,stream,,drift,triad: falls\nn1,disk,,drift,not compared\n"
    )
    code, out, err = ripresa(capsys, "base", "new", "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["a"] == {"run_id": "base", "host": None}
    assert document["counts"] == {"better": 1, "same": 0, "worse": 0, "undecided": 3, "incomparable": 0}
    first = document["comparisons"][0]
    assert (first["host"], first["metric"], first["verdict"], first["primary"]) == (
        "n1",
        "triad",
        "better",
        True,
    )
    assert first["gain_percent"] == pytest.approx(20)
    assert first["a"] == {
        "n": 5,
        "mean": pytest.approx(10),
        "median": 10,
        "cv": pytest.approx(0.0079, abs=1e-4),
    }
    low, high = first["interval_percent"]
    assert 17 < low < 20 < high < 23
    assert document["fingerprints"] == [{"a": "n1", "b": "n1", "changes": {"kernel": ['"6.1"', '"6.2"']}}]
    assert document["warnings"]["a"] is None
    assert [one["kind"] for one in document["warnings"]["b"]] == ["throttled", "drift"]

    code, out, _ = ripresa(capsys, "base", "new")
    assert code == 0
    for text in (
        "n1: fingerprints differ: kernel",
        "triad *",
        "+20.00",
        "1 better, 3 undecided",
        "stream/rep2",
    ):
        assert text in out
    assert "not compared" not in out


def test_what_is_worse_or_missing_is_an_exit_code(runs, capsys):
    runs("base", repeated(10) + repeated(5, workload="fio"))
    runs("new", repeated(9))
    runs("few", repeated(10, count=2) + repeated(5, workload="fio"))
    code, out, _ = ripresa(capsys, "base", "new", "--workload", "stream")
    assert code == 1
    assert "1 worse, 1 undecided" in out
    assert ripresa(capsys, "base", "new", "--workload", "stream", "--metric", "p99_us")[0] == 0
    code, out, _ = ripresa(capsys, "base", "new", "--workload", "fio")
    assert code == 1
    assert "only in A" in out
    code, out, _ = ripresa(capsys, "base", "few", "--workload", "stream", "--json")
    assert code == 1
    assert json.loads(out)["comparisons"][0]["remarks"] == ["too few: 5 and 2 repetitions, 3 each are needed"]


def test_two_hosts(runs, capsys):
    runs("base", repeated(10) + repeated(11, host="n2", fingerprint="ba9876543210"))
    code, out, _ = ripresa(capsys, "--hosts", "n1", "n2", "--run", "base", "--json")
    document = json.loads(out)
    assert code == 0
    assert [document[side]["host"] for side in "ab"] == ["n1", "n2"]
    assert [row["verdict"] for row in document["comparisons"]] == ["better", "undecided"]
    assert document["comparisons"][0]["host"] is None
    assert ripresa(capsys, "--hosts", "n2", "n1", "--run", "base")[0] == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "name two runs"),
        (["base"], 2, "name two runs"),
        (["base", "base", "--hosts", "n1", "n2"], 2, "name two runs"),
        (["base", "base", "--run", "base"], 2, "name two runs"),
        (["base", "base", "--threshold", "-1"], 2, "not a percentage"),
        (["base", "absent"], 2, "runs/absent does not exist"),
        (["--hosts", "n1", "n9", "--run", "base"], 2, "no host in run 'base' called 'n9'; there is n1"),
        (["base", "base", "--workload", "fio"], 2, "no workload called 'fio'; there is stream"),
        (["base", "base", "--metric", "x"], 2, "no metric called 'x'; there is p99_us, triad"),
        (["base", "empty"], 1, "run 'empty' has no results of benchmarks"),
        (["base", "torn"], 1, "rep1.json: no result of a repetition"),
    ],
)
def test_what_cannot_be_asked(runs, capsys, words, code, said):
    runs("base", repeated(10))
    (runs("empty", []) / "x").parent.mkdir()
    (runs("torn", repeated(10)) / "benchmarks/n1/stream/rep1.json").write_text('{"host": "n1"')
    got, out, err = ripresa(capsys, *words)
    assert (got, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1
    got, out, _ = ripresa(capsys, *words, "--json")
    assert got == code
    assert json.loads(out)["error"]["code"]


def test_numbers_that_are_not_are_null_in_json():
    row = judged([1.0], [2.0, 2.1])
    document = comparison.as_document(row)
    assert document["a"]["cv"] is None
    assert document["interval_percent"] is None
    assert math.isclose(document["gain_percent"], 105)
    json.dumps(document, allow_nan=False)


def test_only_this_command_imports_numpy(tmp_path):
    code = "import sys; from ripresa.cli import main; main(['runs']); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
