"""The sampler: rows come in time or say that they are late, and it ends with what it watches."""

import csv
import math
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from conftest import wait_until
from ripresa.families.benchmarks import collectors, sampling
from ripresa.families.benchmarks.collectors import sampler
from ripresa.families.benchmarks.measurement import BenchmarkError
from ripresa.families.benchmarks.warnings import read, warnings_of

PACKAGE = Path(collectors.__file__).parent


def rows_of(path):
    with open(path, newline="") as file:
        return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]


def samplers():
    found = []
    for one in psutil.Process().children():
        with suppress(psutil.Error):  # what another test has left and nobody has waited for
            found += [one] if str(PACKAGE) in " ".join(one.cmdline()) else []
    return found


def test_samples_come_once_a_second_or_say_that_they_are_late(tmp_path):
    """The sampler is stopped for two rows that are due: the first comes late, the second not at all."""
    path = tmp_path / "samples.csv"

    def written():
        return path.read_bytes().count(b"\n")

    with sampling.sampled(path):
        (process,) = samplers()
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
        then = written()
        time.sleep(2.5)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: written() >= then + 2)
    before, *rows = rows_of(path)
    assert tuple(before) == sampling.COLUMNS
    assert before["time_s"] == 0
    assert sampler.BEFORE - 0.01 < before["interval_s"] < 10 * sampler.BEFORE
    assert max(row["late_ms"] for row in rows) > 1400
    due = 1
    for row in rows[:-1]:  # each of them is for a whole second, and says how long after that it came
        assert row["time_s"] - row["late_ms"] / 1000 == pytest.approx(due, abs=0.01)
        due += 1 + row["late_ms"] // 1000
    last = rows[-1]
    assert last["late_ms"] == pytest.approx(max(0.0, 1000 * (last["time_s"] - due)), abs=10)
    assert sum(row["interval_s"] for row in rows) == pytest.approx(last["time_s"], abs=0.01)


def test_the_sampler_ends_with_its_owner(tmp_path):
    path = tmp_path / "samples.csv"
    code = f"""if 1:
        import os, signal
        from ripresa.families.benchmarks.sampling import sampled
        with sampled({str(path)!r}):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    read_end, write_end = os.pipe()  # whoever inherits the writing end keeps it open
    with subprocess.Popen([sys.executable, "-c", code], pass_fds=[write_end], stderr=write_end) as owner:
        os.close(write_end)
    assert owner.returncode == -signal.SIGKILL
    with os.fdopen(read_end) as pipe:
        assert pipe.read() == ""  # returns once the sampler, which has it as its standard error, is gone
    assert rows_of(path)


@pytest.mark.parametrize("path", ["nowhere/samples.csv", "/dev/full"])
def test_without_samples_nothing_is_measured(path, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BenchmarkError, match="the host cannot be sampled"), sampling.sampled(path):
        pytest.fail("measured")
    assert re.fullmatch(rf"error: samples: {path}: No .*\n", capfd.readouterr().err)


def test_a_sampler_that_dies_spoils_the_repetition(tmp_path):
    with (
        pytest.raises(BenchmarkError, match="not be sampled to the end"),
        sampling.sampled(tmp_path / "s.csv"),
    ):
        samplers()[0].kill()


def test_many_files_are_open_where_the_limit_allows_few(tmp_path):
    path = tmp_path / "samples.csv"
    shell = ["sh", "-c", 'ulimit -S -n 8; exec "$@"', "sh", *sampling.command(path)]
    subprocess.run(shell, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    seen = {name for name, value in rows_of(path)[-1].items() if not math.isnan(value)}
    expected = {
        name
        for name, value in zip(sampler.COLUMNS[3:], sampler.Host().read(1.0), strict=True)
        if value is not None
    }
    assert seen == {"time_s", "interval_s", "late_ms"} | expected


def test_the_sampler_needs_little_and_an_old_python():
    command = [sys.executable, "-IS", "-X", "importtime", PACKAGE / "__main__.py", os.devnull]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "ripresa.families.benchmarks.collectors.sampler" in modules
    tops = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names
    assert tops <= {"ripresa", "imported package"}
    assert not {"re", "enum", "subprocess", "logging", "asyncio", "inspect", "csv"} & modules
    vermin = [Path(sys.executable).with_name("vermin"), "--target=3.9-", "--violations", "--no-tips", PACKAGE]
    done = subprocess.run(vermin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "samples.csv"
    with sampling.sampled(path):
        time.sleep(0.25)
    found = read(path)
    assert tuple(found) == sampling.COLUMNS
    rows = len(rows_of(path))
    assert rows >= 2 and [len(values) for values in found.values()] == [rows] * len(found)
    for name, values in found.items():
        assert values == pytest.approx([row[name] for row in rows_of(path)], nan_ok=True)
    warnings_of(found)
