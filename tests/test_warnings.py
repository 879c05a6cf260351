"""Warnings: what the samples of a repetition say against its numbers, and nothing where they do not."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ripresa.families.benchmarks import sampling
from ripresa.families.benchmarks.measurement import BenchmarkError
from ripresa.families.benchmarks.warnings import Warning, read, warnings_of

ROOT = Path(__file__).parents[1]

QUIET = {
    "time_s": [0, 1, 2, 3, 4, 5, 6],
    "interval_s": [0.25, 1, 1, 1, 1, 1, 1],
    "late_ms": [0, 1, 20, 1, 1, 1, 0],
    "cpu_percent": [3, 50, 99, 99, 99, 99, 70],
    "cpu_max_percent": [9, 100, 100, 100, 100, 100, 99],
    "cpu_user_percent": [3, 45, 97, 97, 97, 97, 60],
    "cpu_steal_percent": [0, 0, 0, 1, 0, 0, 0],
    "cpu_pressure_some_percent": [0, 2, 3, 3, 40, 1, 5],
    "memory_pressure_some_percent": [0, 0, 0, 0, 0, 0, 0],
    "io_pressure_some_percent": [90, 5, 2, 0, 0, 0, 7],
    "swap_used_mb": [100, 100, 100, 101, 101, 101, 101],
    "cpu_temperature_c": [50, 60, 70, 80, 90, 90, 90],
    # A single busy core is faster than all of them, and one reading is odd.
    "cpu_max_mhz": [1200, 5000, 4000, 3900, 2000, 3900, 3800],
    "throttle_events": [3, 0, 0, 0, 0, 0, 0],
}


@pytest.mark.parametrize(
    ("column", "values", "kind", "evidence"),
    [
        (
            "throttle_events",
            [0, 0, 0, 4, 0, 2, 0],
            "throttled",
            "CPUs throttled 6 times, first within the second before 3 s, hottest 90 C",
        ),
        (
            "cpu_max_mhz",
            [1200, 4000, 4000, 4000, 3000, 3000, 3000],
            "frequency",
            "fastest CPU clock fell from 4000 to 3000 MHz (25 %) while busy",
        ),
        (
            "cpu_max_percent",
            [96, 99, 99, 99, 99, 99, 99],
            "busy_before",
            "something else ran: one CPU was 96 % busy just before the measurement",
        ),
        (
            "cpu_steal_percent",
            [0, 0, 0, 9, 3, 0, 0],
            "steal",
            "the hypervisor gave 2.0 % of the CPU time to others",
        ),
        (
            "cpu_pressure_some_percent",
            [0, 50, 50, 50, 50, 50, 50],
            "cpu_pressure",
            "tasks waited for a CPU 50 % of the time: other load, or more threads than CPUs",
        ),
        (
            "memory_pressure_some_percent",
            [0, 0, 0, 12, 0, 0, 0],
            "memory_pressure",
            "tasks waited for memory 2.0 % of the time: it is too small for what runs",
        ),
        (
            "io_pressure_some_percent",
            [0, 99, 20, 30, 0, 50, 0],
            "io_pressure",
            "tasks waited for I/O 20 % of the time while others computed",
        ),
        ("swap_used_mb", [100, 100, 100, 160, 150, 150, 150], "swap", "swap in use grew from 100 to 160 MB"),
        (
            "late_ms",
            [0, 1, 340, 1, 1, 1, 0],
            "late",
            "the sample at 2 s came 340 ms late: even the sampler had to wait for a CPU",
        ),
    ],
)
def test_a_warning_says_what_was_seen(column, values, kind, evidence):
    assert warnings_of(QUIET) == []
    assert warnings_of({**QUIET, column: values}) == [Warning(kind, evidence)]


def test_nothing_is_said_of_what_is_not_known():
    assert warnings_of({}) == []
    assert warnings_of({name: [] for name in sampling.COLUMNS}) == []
    assert warnings_of({name: [math.nan] * 3 for name in sampling.COLUMNS} | {"time_s": [0, 1, 2]}) == []


@given(st.lists(st.floats(min_value=500, max_value=6000), min_size=6, max_size=6), st.floats(1, 60))
def test_clocks_within_a_tenth_are_no_fall(clocks, share):
    """Whatever the clocks of a run, as long as none is more than a tenth below another."""
    top = max(clocks)
    near = [0.0, *(max(clock, 0.901 * top) for clock in clocks)]
    samples = {**QUIET, "cpu_percent": [share] * 7, "cpu_max_mhz": near}
    assert "frequency" not in {one.kind for one in warnings_of(samples)}


@pytest.mark.parametrize("line", ["1,two", "1"])
def test_what_is_no_file_of_samples(tmp_path, line):
    path = tmp_path / "samples.csv"
    path.write_text(f"time_s,load_1min\n0,\n{line}\n")
    with pytest.raises(BenchmarkError, match=rf"^{re.escape(str(path))}: line 3: .*: not a file of samples$"):
        read(path)


def test_every_column_and_every_warning_is_on_the_page():
    page = (ROOT / "docs" / "benchmarks.md").read_text().partition("## Collectors")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z0-9_]+)`", page))
    kinds = re.search(r"Kinds: (.*?)\.", warnings_of.__doc__, re.DOTALL)[1].replace("\n", " ").split(",")
    assert {*sampling.COLUMNS, *(kind.strip() for kind in kinds)} - named == set()
