"""The logger plugin, through real snakemake calls: what it writes, what it shows, what it must not hide."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.tests import TestLogHandlerBase

from ripresa.journal import clock, records
from ripresa.journal.paths import Run
from snakemake_logger_plugin_journal import LogHandler, LogHandlerSettings
from snakemake_logger_plugin_journal.board import Board, Failure, Job
from snakemake_logger_plugin_journal.chronicle import Follower
from snakemake_logger_plugin_journal.text import clean, duration, end_of
from snakemake_logger_plugin_journal.view import log_tail

SNAKEMAKE = [sys.executable, "-m", "snakemake", "--workflow-profile", "none"]
JOURNAL = ["--logger", "journal"]
COLUMNS, ROWS = 100, 30

PLAIN = """
rule all:
    input: "a.txt", "b.txt"
rule one:
    output: "{name}.txt"
    shell: "touch {output}"
"""

GUARDED = """
from ripresa.configuration import load_policy
from ripresa.dsl import guard, open_run

campaign = open_run("demo")

onstart:
    jobs = [(job.output[0], job.rule.name) for job in workflow.dag.jobs if job.output]
    campaign.start(jobs, config_sha256="0", policy={**load_policy(), "time_scale": 0.002})

rule all:
    input: "runs/demo/good/1.txt", "runs/demo/flaky/1.txt", "runs/demo/broken/1.txt"
rule good:
    output: "runs/demo/good/1.txt"
    shell: guard("echo fine > {output}")
rule flaky:
    output: "runs/demo/flaky/1.txt"
    shell: guard('''
        echo fine > {output}
        if [ "$RIPRESA_ATTEMPT" = 1 ]; then echo "curl: (6) Could not resolve host: data.org"; exit 6; fi
    ''')
rule broken:
    output: "runs/demo/broken/1.txt"
    shell: guard('''echo "NameError: name 'x' is not defined"; exit 1''')
"""


WAIT = "until [ -e %s ]; do sleep 0.05; done"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("RIPRESA_")]:
        monkeypatch.delenv(name)
    return tmp_path


def write(folder: Path, text: str) -> None:
    (folder / "Snakefile").write_text(text)


def snakemake(
    folder: Path, *options: str, logger: Iterable[str] = JOURNAL
) -> subprocess.CompletedProcess[str]:
    command = [*SNAKEMAKE, *logger, "--cores", "2", *options]
    ordered = {**os.environ, "PYTHONHASHSEED": "0"}
    return subprocess.run(
        command, cwd=folder, env=ordered, capture_output=True, text=True, timeout=120, check=False
    )


def events(folder: Path) -> list[dict]:
    return records.read(Run(folder / "runs/demo").events)


def types(folder: Path, prefix: str = "") -> list[str]:
    return [event["type"] for event in events(folder) if event["type"].startswith(prefix)]


class TestPlugin(TestLogHandlerBase):
    __test__ = True

    def get_log_handler_cls(self) -> type[LogHandler]:
        return LogHandler

    def get_log_handler_settings(self) -> LogHandlerSettings:
        return LogHandlerSettings()


# What is shown, without a terminal


def test_one_line_a_job(folder: Path) -> None:
    write(folder, PLAIN)
    result = snakemake(folder)
    assert result.returncode == 0
    assert re.search(r"^\d\d:\d\d:\d\d \[1/3\] done  [ab]\.txt  \d\.\d s$", result.stderr, re.M)
    assert re.search(r"^\d\d:\d\d:\d\d \[3/3\] all done in ", result.stderr, re.M)
    assert "Job stats:" in result.stderr
    for noise in ("jobid:", "Select jobs", "Execute ", "steps (", "Finished jobid"):
        assert noise not in result.stderr
    assert not (folder / "runs").exists(), "a view only, where there is no run"


def test_the_time_of_a_job_is_that_of_its_command(folder: Path) -> None:
    """Not of its wait, here for the retry, which this scheduler leaves to the guard."""
    write(folder, GUARDED.replace("0.002", "0.02"))
    result = snakemake(folder, "runs/demo/flaky/1.txt", "--retries", "1")
    shown = re.search(r"done  flaky/1\.txt  (\S+) s$", result.stderr, re.M)
    times = {event["type"]: clock.seconds(event["ts"]) for event in events(folder)}
    assert shown and float(shown[1]) <= times["run_end"] - times["unit_start"] + 0.1


def test_nothing_to_be_done(folder: Path) -> None:
    write(folder, GUARDED)
    snakemake(folder, "runs/demo/good/1.txt")
    before = events(folder)
    result = snakemake(folder, "runs/demo/good/1.txt")
    assert result.returncode == 0
    assert "Nothing to be done" in result.stderr
    assert events(folder) == before


def test_failure_of_an_unguarded_job_is_shown_as_snakemake_shows_it(folder: Path) -> None:
    write(folder, 'rule all:\n    output: "x"\n    log: "x.log"\n    shell: "echo no luck > {log}; exit 3"\n')
    result = snakemake(folder, "--show-failed-logs", "--retries", "1")
    assert result.returncode == 1
    assert result.stderr.count("returned non-zero exit status 3") == 2
    assert result.stderr.count("Error in rule all:") == 2
    assert "Trying to restart job 0." in result.stderr
    assert "no luck" in result.stderr
    assert "At least one job did not complete successfully." in result.stderr
    assert "1 failed" in result.stderr.splitlines()[-1]


def test_failures_of_guarded_jobs_are_shown_in_a_line_each(folder: Path) -> None:
    # A wait long enough that it is not over before it can be told.
    write(folder, GUARDED.replace('"time_scale": 0.002', '"time_scale": 0.02'))
    result = snakemake(folder, "--keep-going", "--retries", "2", "--show-failed-logs")
    assert result.returncode == 1
    flaky = r"\[\d/4\] retry in .* flaky/1\.txt  \(network, attempt 1\): curl: \(6\) Could not resolve host"
    assert len(re.findall(flaky, result.stderr)) == 1
    broken = r"\[\d/4\] failed broken/1\.txt  \(code, attempt 1\): NameError: name 'x' is not defined"
    assert len(re.findall(broken, result.stderr)) == 1, "refusals of the same attempt are not told again"
    assert "| NameError: name 'x' is not defined" in result.stderr, "the end of the log"
    assert "RuleException" not in result.stderr
    assert "Trying to restart" not in result.stderr
    assert "1 failed (code 1)" in result.stderr.splitlines()[-1]


def test_a_guard_that_cannot_even_start_is_not_hidden(folder: Path) -> None:
    write(folder, GUARDED + '\nimport os\nos.environ["RIPRESA_GUARD"] = "/no/such/guard"\n')
    result = snakemake(folder, "runs/demo/good/1.txt")
    assert result.returncode == 1
    assert "returned non-zero exit status" in result.stderr
    assert "Error in rule good:" in result.stderr


@pytest.mark.parametrize("options", [[], ["--quiet", "rules"], ["-p", "--verbose"]])
def test_dry_runs_are_snakemakes_own(folder: Path, options: list[str]) -> None:
    write(folder, GUARDED)
    ours = snakemake(folder, "--dry-run", *options)
    own = snakemake(folder, "--dry-run", *options, logger=[])
    assert (ours.returncode, own.returncode) == (0, 0)
    assert alike(ours.stdout) == alike(own.stdout)
    assert alike(ours.stderr) == alike(own.stderr)
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    "text",
    [
        "rule all:\n    input 'x'\n",
        "rule all:\n    input: 'missing.txt'\n",
        "from snakemake.exceptions import WorkflowError\nraise WorkflowError('config.yaml: cores: wrong')\n",
        "rule all:\n    output: 'x'\n    shell: 'true'\nonstart:\n    raise ValueError('held by n1')\n",
        "rule a:\n    output: 'x'\n    shell: 'touch {output} {nonsense}'\n",
    ],
)
def test_errors_of_the_workflow_are_not_lost(folder: Path, text: str) -> None:
    write(folder, text)
    ours = snakemake(folder)
    own = snakemake(folder, logger=[])
    assert ours.returncode == own.returncode == 1
    assert set(alike(own.stderr)) - set(alike(ours.stderr)) - set(JOB_NOISE) == set()


JOB_NOISE = ["", "Select jobs to execute...", "Execute 1 jobs..."]


def alike(output: str) -> list[str]:
    """The lines of an output without what differs from call to call."""
    changing = re.compile(
        r"^\[\w{3} \w{3} |Date: |Workflow ID: |Command: |Complete log|Elapsed time|0x\w+|CRITICAL|tmp"
    )
    lines = (line for line in output.splitlines() if not changing.search(line.strip()))
    return sorted(lines)


def test_quietness(folder: Path) -> None:
    write(folder, PLAIN)
    assert snakemake(folder, "--quiet", "all").stderr == ""
    progress = snakemake(folder, "--forceall", "--quiet", "progress").stderr
    assert "done" not in progress
    host = snakemake(folder, "--forceall", "--quiet", "host").stderr
    assert "done  a.txt" in host
    assert "Snakemake version" not in host


def test_quiet_runs_keep_their_errors(folder: Path) -> None:
    write(folder, 'rule all:\n    output: "x"\n    shell: "exit 3"\n')
    result = snakemake(folder, "--quiet")
    assert result.returncode == 1
    assert "returned non-zero exit status 3" in result.stderr


def test_options_that_ask_for_more(folder: Path) -> None:
    write(folder, PLAIN)
    assert "touch a.txt" in snakemake(folder, "--printshellcmds").stderr
    verbose = snakemake(folder, "--forceall", "--verbose").stderr
    assert "Select jobs to execute..." in verbose
    assert "Resources before job selection" in verbose
    assert "rule one:" in snakemake(folder, "--forceall", "--logger-journal-view", "snakemake").stderr


def test_messages_of_rules_are_shown(folder: Path) -> None:
    write(
        folder,
        'rule all:\n    output: "x"\n    message: "Making the {output}"\n    shell: "touch {output}"\n',
    )
    assert "Making the x" in snakemake(folder).stderr


def test_a_closed_stderr_does_not_stop_the_run(folder: Path) -> None:
    write(folder, PLAIN)
    reading, writing = os.pipe()
    os.close(reading)
    command = [*SNAKEMAKE, *JOURNAL, "--cores", "1"]
    result = subprocess.run(command, cwd=folder, stderr=writing, timeout=60, check=False)
    os.close(writing)
    assert result.returncode == 0
    assert (folder / "b.txt").exists()


# What is written


def test_events_of_a_run_and_of_its_resumption(folder: Path) -> None:
    write(folder, GUARDED)
    snakemake(folder, "runs/demo/good/1.txt")
    assert types(folder) == ["run_start", "unit_start", "unit_end", "run_end"]
    start, *_, end = events(folder)
    assert start["run_id"] == "demo"
    assert start["jobs"] == 1
    assert start["pid"] > 0 and start["host"] and start["session"]
    assert end["status"] == "ok"
    assert end["counts"] == {"total": 1, "done": 1, "failed": 0, "waiting": 0}

    snakemake(folder, "--keep-going", "--retries", "2")
    assert types(folder, "run_") == ["run_start", "run_end", "run_resume", "run_error", "run_end"]
    assert events(folder)[-1]["status"] == "failed"
    assert events(folder)[-1]["counts"] == {"total": 3, "done": 1, "failed": 1, "waiting": 0}
    assert "did not complete" in events(folder)[-2]["message"]


def test_staged_files_go_once_snakemake_knows_the_job(folder: Path) -> None:
    write(folder, GUARDED)
    snakemake(folder, "runs/demo/good/1.txt")
    staged = folder / "runs/demo/journal/staged"
    assert staged.exists()
    assert [path for path in staged.rglob("*") if path.is_file()] == []


def test_a_run_that_hooks_refuse_is_not_written_to(folder: Path) -> None:
    write(folder, GUARDED.replace("onstart:\n", "onstart:\n    raise ValueError('held')\n"))
    result = snakemake(folder)
    assert result.returncode == 1
    assert "held" in result.stderr
    assert events(folder) == []


@pytest.mark.parametrize(("sent", "mode"), [(signal.SIGTERM, "drain"), (signal.SIGINT, "cancel")])
def test_a_stop_is_written_once(folder: Path, sent: signal.Signals, mode: str) -> None:
    write(folder, GUARDED.replace("echo fine > {output}", f"{WAIT % 'go'}; echo fine > {{output}}"))
    command = [*SNAKEMAKE, *JOURNAL, "--cores", "1", "runs/demo/good/1.txt", "runs/demo/flaky/1.txt"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: "unit_start" in types(folder))
    process.send_signal(sent)
    wait_for(lambda: "run_stop_requested" in types(folder))
    (folder / "go").touch()
    _, shown = process.communicate(timeout=120)
    assert process.returncode == 1
    assert types(folder, "run_").count("run_stop_requested") == 1
    assert types(folder)[-1] == "run_end"
    assert events(folder)[-1]["stopped"] == mode
    assert shown.count("Will exit after finishing") <= 1
    if mode == "drain":
        starts = types(folder).count("unit_start")
        assert starts == types(folder).count("unit_end") == 1, "the running unit ended, no other started"


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


# The live view


class Screen:
    """A terminal of a few rows that knows just the sequences a view with a scroll region needs."""

    TOKEN = re.compile(r"\x1b\[([\d;?]*)([A-Za-z])|\x1b([78D])|([\r\n])|([^\x1b\r\n]+)")

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.lines = [""] * rows
        self.history: list[str] = []
        self.row = self.column = 0
        self.bottom = rows - 1
        self.saved = (0, 0)

    def feed(self, text: str) -> None:
        for numbers, letter, single, motion, plain in self.TOKEN.findall(text):
            if letter:
                self.sequence(letter, [int(n) for n in numbers.split(";") if n.isdigit()])
            elif single == "7":
                self.saved = (self.row, self.column)
            elif single == "8":
                self.row, self.column = self.saved
            elif single == "D" or motion == "\n":
                self.down()
            elif motion == "\r":
                self.column = 0
            else:
                self.put(plain)

    def sequence(self, letter: str, numbers: list[int]) -> None:
        if letter == "H":
            self.row, self.column = numbers[0] - 1, numbers[1] - 1
        elif letter == "A":
            self.row = max(0, self.row - (numbers or [1])[0])
        elif letter == "K":
            self.lines[self.row] = self.lines[self.row][: self.column]
        elif letter == "J":
            self.lines[self.row] = self.lines[self.row][: self.column]
            self.lines[self.row + 1 :] = [""] * (self.rows - self.row - 1)
        elif letter == "r":
            self.bottom = (numbers[1] if numbers else self.rows) - 1
            self.row = self.column = 0
        else:
            assert letter == "m", f"unknown sequence {letter}"

    def down(self) -> None:
        if self.row == self.bottom:
            self.history.append(self.lines.pop(0))
            self.lines.insert(self.bottom, "")
        else:
            self.row = min(self.row + 1, self.rows - 1)

    def put(self, text: str) -> None:
        for start in range(0, len(text), self.columns):
            if start:
                self.down()
                self.column = 0
            piece = text[start : start + self.columns]
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + piece + line[self.column + len(piece) :]
            self.column += len(piece)


class Terminal:
    """A snakemake call on a pseudo-terminal, with what its screen shows."""

    def __init__(self, folder: Path, *options: str, columns: int = COLUMNS, rows: int = ROWS) -> None:
        self.screen = Screen(columns, rows)
        self.raw = ""
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [*SNAKEMAKE, *JOURNAL, "--cores", "2", "--quiet", "host", *options],
            cwd=folder,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        os.close(slave)
        self._rest = b""

    def read(self, seconds: float) -> bool:
        """Take in output for a while; False when it has ended."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.master], [], [], left)[0]:
                break
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return False
            if not data:
                return False
            text = (self._rest + data).decode("utf-8", "ignore")
            cut = max(text.rfind("\x1b") if text.rfind("\x1b") > len(text) - 12 else len(text), 0)
            self._rest = text[cut:].encode()
            self.raw += text[:cut]
            self.screen.feed(text[:cut])
        return True

    def until(self, *patterns: str, seconds: float = 60.0) -> None:
        """Take in output until all of the patterns are to be seen at once."""
        end = time.monotonic() + seconds
        while not all(re.search(pattern, self.text, re.MULTILINE) for pattern in patterns):
            assert time.monotonic() < end, f"{patterns} never appeared on\n{self.text}"
            assert self.read(0.1), f"it ended without {patterns}:\n{self.text}"

    def finish(self) -> str:
        while self.read(60.0):
            pass
        self.screen.feed(self._rest.decode("utf-8", "ignore"))
        self.process.wait(60)
        os.close(self.master)
        return self.text

    @property
    def text(self) -> str:
        return "\n".join(self.screen.lines).rstrip()

    @property
    def everything(self) -> str:
        return "\n".join([*self.screen.history, *self.screen.lines])


SLOW = GUARDED.replace(
    "echo fine > {output}\n        if", f"{WAIT % 'go$RIPRESA_ATTEMPT'}; echo fine > {{output}}\n        if"
).replace('"time_scale": 0.002', '"time_scale": 0.01')


def test_live_view(folder: Path) -> None:
    write(folder, SLOW)
    terminal = Terminal(folder, "--keep-going", "--retries", "2")
    broken = r"failed +broken/1\.txt +code, attempt 1: NameError"
    terminal.until(r"^[━╸╺]+ +\d/4 +\d+% ", r"running +flaky/1\.txt +\d", broken)
    # At the bottom of the screen.
    wait_for(lambda: terminal.read(0.1) and re.search("running|failed", terminal.screen.lines[-1]))
    (folder / "go1").touch()
    terminal.until(r"waiting +flaky/1\.txt +in \d\.\d s +network, attempt 1: curl", broken)
    terminal.until(r"running +flaky/1\.txt +\d.* s +attempt 2")
    (folder / "go2").touch()
    end = terminal.finish()
    assert terminal.process.returncode == 1
    assert "━" not in end, "nothing of the view is left"
    assert terminal.screen.bottom == ROWS - 1, "the terminal scrolls in full again"
    assert re.search(r"\[2/4\] ended in .*1 failed \(code 1\)$", end)
    assert "WorkflowError:" in end
    assert "done  good" not in terminal.everything


def test_what_jobs_print_stays_readable_beside_the_live_view(folder: Path) -> None:
    numbers = range(60)
    noise = "; ".join(f"echo line {n} of the job >&2; sleep 0.03" for n in numbers)
    write(
        folder,
        f'rule all:\n    output: "x"\n'
        f'    shell: "{noise}; echo cut off >&2; {WAIT % "go"}; touch {{output}}"\n',
    )
    terminal = Terminal(folder)
    terminal.until(r"running +x +\d")
    (folder / "go").touch()
    terminal.finish()
    assert terminal.process.returncode == 0
    lines = terminal.everything.splitlines()
    assert [line for line in lines if "of the job" in line] == [f"line {n} of the job" for n in numbers]
    assert "cut off" in lines


def test_the_live_view_goes_away_on_interrupt(folder: Path) -> None:
    write(folder, 'rule all:\n    output: "x"\n    shell: "sleep 100; touch {output}"\n')
    terminal = Terminal(folder)
    terminal.until(r"running +x +\d")
    os.killpg(terminal.process.pid, signal.SIGINT)
    end = terminal.finish()
    assert terminal.process.returncode == 1
    assert "Terminating processes on user request" in terminal.everything
    assert "stopped on request" in end
    assert "━" not in end
    assert terminal.screen.bottom == ROWS - 1


def test_the_live_view_follows_a_resized_terminal(folder: Path) -> None:
    write(folder, f'rule all:\n    output: "x"\n    shell: "{WAIT % "go"}; touch {{output}}"\n')
    terminal = Terminal(folder)
    terminal.until(r"running +x +\d")
    small = struct.pack("HHHH", 20, 60, 0, 0)
    fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, small)
    wait_for(lambda: terminal.read(0.1) and "\x1b[1;18r" in terminal.raw)
    (folder / "go").touch()
    terminal.finish()
    assert terminal.process.returncode == 0


@pytest.mark.parametrize("options", [["--logger-journal-view", "plain"], ["--quiet", "progress"]])
def test_no_live_view_where_it_is_not_wanted(folder: Path, options: list[str]) -> None:
    write(folder, PLAIN)
    terminal = Terminal(folder, *options)
    terminal.finish()
    assert terminal.process.returncode == 0
    assert "\x1b[1;" not in terminal.raw.replace("\x1b[1;3", "")
    assert "━" not in terminal.raw


# Its parts


def test_follower_reads_whole_lines_only_and_survives_anything(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"type": "old"}\n')
    follower = Follower(str(path))
    assert follower.history() == [{"type": "old"}]
    assert follower.news() == []
    with path.open("ab") as file:
        file.write(b'{"type": "new"}\n\xff\x00garbage\n[1]\n{"type":')
        file.flush()
        assert follower.news() == [{"type": "new"}]
        file.write(b' "later"}\n')
        file.flush()
        assert follower.news() == [{"type": "later"}]
    path.write_bytes(b'{"type": "anew"}\n')
    assert follower.news() == [{"type": "anew"}]
    path.unlink()
    assert follower.news() == []


def test_malformed_events_change_nothing() -> None:
    board = Board()
    board.begin(1, Job("a/1", "a/1", "true", time.time()))
    before = repr(board)
    for event in (
        {},
        {"type": "unit_end"},
        {"type": "unit_end", "target": 7},
        {"type": ["unit_end"], "target": "a/1"},
        {"type": "breaker_opened", "scope": None},
        {"type": "run_end", "target": "a/1"},
    ):
        board.apply(event)
    assert repr(board) == before
    board.apply({"type": "unit_retry_scheduled", "target": "a/2", "not_before": 5, "attempt": "x"})
    assert board.waiting == {"a/2": Failure("unknown", "", None, 0.0)}


def test_what_earlier_sessions_left_is_recalled() -> None:
    board = Board()
    soon, past = "2999-01-01T00:00:00+00:00", "2001-01-01T00:00:00+00:00"
    board.recall(
        [
            {"type": "unit_end", "target": "a/1", "outcome": "failed", "failure_class": "code"},
            {"type": "unit_retry_scheduled", "target": "a/2", "not_before": soon, "failure_class": "network"},
            {"type": "unit_retry_scheduled", "target": "a/3", "not_before": past, "failure_class": "network"},
            {"type": "breaker_opened", "scope": "host:n1", "until": soon},
            {"type": "breaker_opened", "scope": "host:n2", "until": soon},
            {"type": "breaker_closed", "scope": "host:n2"},
        ]
    )
    assert list(board.waiting) == ["a/2"]
    assert list(board.breakers) == ["host:n1"]
    assert board.failures == {}


def test_texts() -> None:
    assert [duration(s) for s in (0, 3.21, 9.96, 65, 7380, 200_000)] == [
        "0.0 s",
        "3.2 s",
        "10 s",
        "1 min 05 s",
        "2 h 03 min",
        "2 d 7 h",
    ]
    assert clean("red \x1b[31malert\x1b[0m\x07 \x1b]0;title\x07end\n") == "red alert  end"
    assert clean("x" * 300, 10) == "xxxxxxxxx…"
    assert end_of("benchmarks/h/rep1.json", 10) == "…rep1.json"


def test_costs_no_time_that_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIPRESA_RUN", str(folder / "runs/demo"))
    helper = TestPlugin()
    handler = helper._create_handler()
    stream = (folder / "shown").open("w")
    handler._lines._stream = stream
    jobs = 1000
    make = helper._create_event_record
    info = {"rule_name": "one", "rule_msg": None, "shellcmd": "true", "input": [], "log": [], "wildcards": {}}
    feed = [make(LogEvent.JOB_STARTED, jobs=[0])]
    for number in range(jobs):
        output = [str(folder / f"runs/demo/a/{number}.txt")]
        feed += [
            make(LogEvent.JOB_INFO, jobid=number, output=output, **info),
            make(LogEvent.JOB_FINISHED, job_id=number),
            make(LogEvent.PROGRESS, done=number + 1, total=jobs),
        ]
    handler.handle(make(LogEvent.RUN_INFO, stats={"total": jobs}))
    began = time.thread_time()
    for record in feed:
        handler.handle(record)
    spent = time.thread_time() - began
    handler.close()
    stream.close()
    assert (folder / "shown").read_text().count("done  ") == jobs
    assert spent / jobs < 0.005, "0.4 ms of CPU time a job where nothing runs beside it"


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\n  10 %\r  90 %\r\n\x1b[31mtwo\xff\n")
    assert log_tail(str(log)) == [f"the end of {log}:", "| one", "|   90 %", "| two\N{REPLACEMENT CHARACTER}"]
    log.write_bytes(b"line\n" * 10_000)
    assert len(log_tail(str(log))) == 16
    log.write_bytes(b"\n")
    assert log_tail(str(log)) == []
    log.unlink()
    assert log_tail(str(log)) == [f"{log}: No such file or directory"]
