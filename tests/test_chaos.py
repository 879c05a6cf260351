"""The fault-injection suite: its catalogue, its judge's arithmetic, and its short form."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "evaluation" / "chaos"
sys.path.insert(0, str(SUITE.parent))

from chaos import catalogue, judge  # noqa: E402
from chaos.catalogue import HEALTHY, KINDS, PERMANENT, RECOVERABLE  # noqa: E402

SCALE = 0.01


def test_the_long_form_has_the_numbers_that_its_figures_need():
    def number(truth):
        return sum(kind.number for kind in KINDS if kind.truth == truth)

    assert number(HEALTHY) >= 200
    assert number(PERMANENT) >= 200
    assert number(RECOVERABLE) >= 450, "some are never struck"


def test_the_seed_decides_everything_and_smaller_campaigns_have_the_same_units():
    whole = catalogue.units(1, SCALE)
    assert whole == catalogue.units(1, SCALE)
    assert whole != catalogue.units(2, SCALE)
    plans = {(unit.kind.name, unit.number): (unit.plan, unit.text) for unit in whole}
    part = catalogue.units(1, SCALE, 0.1, only_plain=True)
    assert all(plans[unit.kind.name, unit.number] == (unit.plan, unit.text) for unit in part)
    assert len({unit.name for unit in whole}) == len(whole)


def test_every_outage_ends_within_what_the_schedule_waits():
    outages = [unit for unit in catalogue.units(1, SCALE) if unit.plan["cure"] == "time"]
    spans = [unit.plan["span"] / 60e6 / SCALE for unit in outages]
    assert min(spans) > 0 and max(spans) < 5 + 15 + 45
    assert sum(span < 5 for span in spans) > 0.75 * len(spans)


def test_texts_are_varied_and_none_is_a_pattern_of_the_classifier():
    patterns = (ROOT / "workflow/ripresa/recovery/patterns.toml").read_text()
    for kind in KINDS:
        texts = [text for name in kind.texts for _, text in catalogue.entries(name)]
        assert len(set(texts)) == len(texts)
        assert not [text for text in texts if len(text) > 20 and text.strip() in patterns]


def test_bounds_of_a_share():
    low, high = judge.wilson(380, 400)
    assert (round(low, 4), round(high, 4)) == (0.9240, 0.9674)
    assert judge.wilson(0, 0) == (0.0, 1.0)
    assert judge.wilson(10, 10)[1] == 1.0 and judge.wilson(10, 10)[0] < 0.8


def test_quantiles_are_values_that_occurred():
    assert [judge.quantile([3, 1, 2, 4], share) for share in (0.5, 0.9, 1.0)] == [2, 4, 4]


def test_overlapping_spans_count_once():
    assert judge.covered([(0, 4), (2, 6), (8, 20)], 1, 10) == 7


def test_times_at_scale_1_stretch_waits_and_nothing_else():
    """A failure at 10 s, 3 s of backoff, 1 s of queue with a breaker open for half of it, 2 s of work."""
    kind = next(kind for kind in KINDS if kind.name == "refused")
    unit = catalogue.plan(random.Random(1), kind, 0, SCALE)
    line = judge.Timeline()
    stamp = judge.clock.iso
    line.of[unit.target] = [
        {"type": "unit_start", "at": 9.0},
        {"type": "unit_end", "at": 10.0, "attempt": 1, "failure_class": "network"},
        {"type": "unit_retry_scheduled", "at": 10.0, "attempt": 1, "not_before": stamp(13.0)},
        {"type": "unit_start", "at": 14.0},
    ]
    line.open[f"host:{judge.os.uname().nodename}"] = [(12.0, 13.5)]
    more = line.shrunk_s(unit, {1: 3.0}, 10.0, 16.0, SCALE)
    assert more + 6.0 == pytest.approx(3.5 / SCALE + 2.5)


@pytest.mark.slow
@pytest.mark.quiet
def test_the_short_form_meets_its_figures(tmp_path):
    report = tmp_path / "report.md"
    call = [sys.executable, SUITE, "--short", "--report", report]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "connection refused" in report.read_text()
