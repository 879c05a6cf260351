"""`ripresa watch`: follows runs of the real snakemake from outside."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import wait_until
from ripresa.cli import manifest
from ripresa.cli.watched import Watched, tail
from ripresa.journal import clock, records
from ripresa.journal.paths import Run
from ripresa.slurm import batch
from ripresa.slurm.batch import Task
from ripresa.slurm.ledger import Ledger
from ripresa.slurm.sighting import Sighting

RIPRESA = Path(sys.executable).with_name("ripresa")
SLOW = (
    'echo "3 10" > "$RIPRESA_PROGRESS"; echo warming up; echo "step 3"; until [ -e go ]; do sleep 0.1; done'
)


def watch(folder: Path, *words: str, **options: Any) -> "subprocess.Popen[str]":
    """Start it as a shell starts what a person calls: SIGINT is not ignored."""
    return subprocess.Popen(
        ["env", "--default-signal=INT", RIPRESA, "watch", "--run", "test", *words],
        cwd=folder,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def document(folder: Path) -> dict[str, Any]:
    process = watch(folder, "--json")
    said, problems = process.communicate(timeout=120)
    assert problems == "" and process.returncode in (0, 1)
    found: dict[str, Any] = json.loads(said)
    return found


def files(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file and folder of a run, with what would change if anybody wrote to it."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        info = path.lstat()
        found[str(path)] = info.st_ino, info.st_size, info.st_mtime_ns
    return found


def until_line(process: "subprocess.Popen[str]", words: str) -> None:
    """Read what it says up to a line with these words."""
    assert process.stdout
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"it ended without a word of {words}")


def test_a_run_is_followed_to_its_end_by_several(campaign: Any) -> None:
    """Planned units before they begin, running ones with progress and log, failed ones, until all is done."""
    campaign.units(slow=1, bad=1, good=1)
    campaign.does("slow", SLOW)
    campaign.does("bad", "echo 'bash: nosuchtool: command not found'; exit 127")
    folder = campaign.directory
    planned = [{"target": f"units/{name}.txt", "rule": "unit"} for name in ("slow", "bad", "good")]
    manifest.write(campaign.run, {"config_sha256": "", "units": planned})
    before = document(folder)
    assert (before["state"], before["complete"], before["counts"]) == ("new", False, {"PENDING": 3})

    followers = [watch(folder), watch(folder)]
    controller = campaign.start()
    try:
        campaign.running("slow")
        wanted = {"RUNNING": 1, "COMPLETED": 1, "QUARANTINED": 1}
        # What runs has said its last word by then, too.
        check_units(
            wait_until(
                lambda: (seen := document(folder))["counts"] == wanted and "step 3" in words(seen) and seen,
                60,
            )
        )
        # Ctrl-C ends one of them quietly, and nothing else.
        until_line(followers[1], "RUNNING  units/slow.txt")
        followers[1].send_signal(signal.SIGINT)
        assert (followers[1].wait(60), followers[1].stderr.read()) == (0, "")
        assert controller.poll() is None and followers[0].poll() is None
    finally:
        (folder / "go").touch()
        controller.wait(120)
    said, problems = followers[0].communicate(timeout=120)
    assert (followers[0].returncode, problems) == (1, "")
    assert re.search(r"^\d\d:\d\d:\d\d  *COMPLETED  units/slow.txt  ", said, re.MULTILINE), said
    last = said.splitlines()[-1]
    assert last.startswith("run test ended (failed), incomplete: 2 COMPLETED, 1 QUARANTINED")

    campaign.does("bad", "true")
    campaign.ripresa("release --all --run test")
    assert campaign() == 0
    process = watch(folder)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and said.splitlines()[-1] == "run test is complete: 3 units"


def words(found: dict[str, Any]) -> list[str]:
    """The ends of all logs."""
    return [line for unit in found["units"] for line in unit["tail"]]


def check_units(found: dict[str, Any]) -> None:
    """One unit runs, one failed, one is done."""
    units = {unit["target"]: unit for unit in found["units"]}
    assert (found["state"], found["complete"]) == ("running", False)
    slow, bad, good = (units[f"units/{name}.txt"] for name in ("slow", "bad", "good"))
    host = os.uname().nodename
    assert (slow["state"], slow["host"], slow["attempt"]) == ("RUNNING", host, 1)
    assert slow["progress"] == {"value": 3, "total": 10} and slow["elapsed_s"] > 0
    assert slow["tail"] == ["warming up", "step 3"]
    assert bad["state"] == "QUARANTINED" and bad["tail"] == ["bash: nosuchtool: command not found"]
    assert (good["state"], good["host"], good["tail"]) == ("COMPLETED", host, [])


def test_the_picture_on_a_terminal(guard: Any) -> None:
    """Has what runs with its last line, and gives the cursor back after Ctrl-C."""
    records.write_lines(guard.run.units, [{"config_sha256": ""}, {"target": guard.target, "rule": "rule"}])
    master, slave = pty.openpty()
    guarded = guard.start(SLOW)
    guard.running()
    terminal = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "30"}
    drawing = watch(guard.directory, stdout=slave, stderr=slave, env=terminal)
    os.close(slave)
    shown = b""
    try:
        end = time.monotonic() + 30
        while b"step 3" not in shown and time.monotonic() < end:
            shown += os.read(master, 1 << 16) if select.select([master], [], [], 1)[0] else b""
        drawing.send_signal(signal.SIGINT)
        assert drawing.wait(60) == 0
        while select.select([master], [], [], 0.2)[0]:
            try:
                shown += os.read(master, 1 << 16)
            except OSError:
                break
    finally:
        (guard.directory / "go").touch()
        guarded.communicate(timeout=120)
        os.close(master)
    text = shown.decode()
    assert "RUNNING" in text and "out.txt" in text and "3/10" in text and "| step 3" in text
    assert text.rstrip().endswith("\x1b[?25h") and "Traceback" not in text


def test_looking_touches_nothing(tmp_path: Path) -> None:
    """Not even the time of a file, whatever the states of units."""
    run = made(tmp_path)
    before = files(tmp_path)
    for _ in range(2):
        watched = Watched(run)
        watched.look()
        watched.look()
        found = watched.document()
    for words in ((), ("--once",), ("--json",)):
        process = watch(tmp_path, *words)
        if not words:
            assert process.stdout and process.stdout.readline().startswith("run test: ")
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert files(tmp_path) == before
    assert {unit["target"]: unit["state"] for unit in found["units"]} == {
        "u/done.txt": "COMPLETED",
        "u/bad.txt": "QUARANTINED",
        "u/new.txt": "PENDING",
        "u/queued.txt": "PENDING",
        "u/stale.txt": "STALE",
    }


def made(folder: Path) -> Run:
    """A run without a controller, and a unit in every state that needs none."""
    run = Run(folder / "runs/test")
    header = {"config_sha256": "one"}
    names = ("done", "bad", "stale", "queued")
    units = [{"target": f"u/{name}.txt", "rule": "r", "family": "u", "skipped": None} for name in names]
    records.write_lines(run.units, [header, *units])
    times = {"started": clock.iso(1e9), "ended": clock.iso(1e9 + 90), "host": "n1", "attempt": 1}
    for name, outcome, decision in (("done", "published", "done"), ("bad", "failed", "quarantine")):
        record = {"target": f"u/{name}.txt", "rule": "r", "outcome": outcome, "decision": decision, **times}
        records.append(run.attempts(f"u/{name}.txt"), record)
    for path in (run.path("u/done.txt"), run.lease("u/stale.txt")):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("{}")
    manifest.write(run, {"config_sha256": "one", "units": [{"target": "u/new.txt", "rule": "r"}]})
    return run


def test_what_the_queue_says(tmp_path: Path) -> None:
    """The last line of a unit counts, as soon as it is whole."""
    run = made(tmp_path)
    made_of = batch.plan(run, [], [Task("u/queued.txt", "true", None, "1")], "session")
    ledger = Ledger(run)
    ledger.submitted(made_of, ["12"])
    ledger.seen(made_of, 0, Sighting("12", made_of.name, "PENDING", reason="Resources"))
    watched = Watched(run)

    def queued() -> dict[str, Any]:
        watched.look()
        return next(watched.unit(one) for one in watched.units if one.target == "u/queued.txt")

    found = queued()
    job = {"job": "12", "state": "PENDING", "reason": "Resources", "node": None, "ts": found["job"]["ts"]}
    assert (found["job"], found["host"]) == (job, None)
    line = {"target": "u/queued.txt", "job": "13_7", "state": "RUNNING", "reason": None, "node": "n3"}
    with open(f"{run.slurm}/ledger.jsonl", "a") as file:
        text = json.dumps(line) + "\n"
        file.write(text[:20])
        file.flush()
        assert queued()["job"] == job
        file.write(text[20:])
    found = queued()
    assert (found["job"]["job"], found["job"]["state"], found["host"]) == ("13_7", "RUNNING", "n3")
    process = watch(tmp_path, "--once")
    said, _ = process.communicate(timeout=120)
    assert re.search(r"^PENDING +u/queued.txt +n3 +job 13_7 RUNNING$", said, re.MULTILINE), said


def test_when_a_run_is_over(tmp_path: Path) -> None:
    """Not while jobs may go on without a controller, nor before anything began."""
    run = made(tmp_path)
    watched = Watched(run)

    def over(**event: Any) -> tuple[str, bool]:
        if event:
            records.append(run.events, {"run_id": "test", "ts": clock.iso(), **event})
        watched.look()
        return watched.state, watched.over

    assert over() == ("new", False)
    assert over(type="run_start") == ("interrupted", False)
    line = {"target": "u/queued.txt", "job": "5", "state": "RUNNING", "ts": clock.iso()}
    records.append(f"{run.slurm}/ledger.jsonl", line)
    assert over(type="run_end", status="failed") == ("failed", False)
    records.append(f"{run.slurm}/ledger.jsonl", {**line, "ended": True})
    assert over() == ("failed", True)
    assert over(type="run_resume") == ("interrupted", False)
    for name in ("bad", "new", "queued", "stale"):
        Path(run.path(f"u/{name}.txt")).write_text("")
    assert over() == ("interrupted", True) and watched.complete


def test_units_of_an_earlier_plan_are_not_shown(tmp_path: Path) -> None:
    """Once the campaign runs with another configuration."""
    run = made(tmp_path)
    watched = Watched(run)
    watched.look()
    assert "u/new.txt" in {one.target for one in watched.units}
    records.write_lines(run.units, [{"config_sha256": "two"}, *records.read(run.units)[1:]])
    watched.look()
    assert "u/new.txt" not in {one.target for one in watched.units}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"", []),
        (b"one\n\ntwo\nthree\nfour", ["two", "three", "four"]),
        (b"1 %\r50 %\r99 %\r\n\x1b[31mred\x1b[0m \xff\n", ["99 %", "red \ufffd"]),
        (b"x" * 20_000 + b"\nend\n", ["x" * 500, "end"]),
    ],
)
def test_the_end_of_a_log(tmp_path: Path, text: bytes, lines: list[str]) -> None:
    """As a terminal would have left it, and safe for one."""
    (tmp_path / "log").write_bytes(text)
    assert tail(str(tmp_path / "log")) == lines
    assert tail(str(tmp_path / "none")) == []


@pytest.mark.slow
@pytest.mark.quiet
def test_ten_thousand_units_refresh_within_a_second(tmp_path: Path) -> None:
    """A look with all details of all of them."""
    run = Run(tmp_path / "runs/test")
    targets = [f"u/{number // 100}/{number}.txt" for number in range(10_000)]
    records.write_lines(run.units, [{}, *({"target": target, "rule": "r"} for target in targets)])
    times = {"started": clock.iso(1e9), "ended": clock.iso(1e9 + 90), "host": "n1", "attempt": 1}
    for target in targets[:7_000]:
        record = {"target": target, "rule": "r", "outcome": "published", "decision": "done", **times}
        records.append(run.attempts(target), record, fsync=False)
        Path(run.path(target)).parent.mkdir(parents=True, exist_ok=True)
        Path(run.path(target)).touch()
    watched, took = Watched(run), []
    for _ in range(3):
        began = time.monotonic()
        watched.look()
        assert len(watched.document()["units"]) == 10_000
        took.append(time.monotonic() - began)
    print(f"10,000 units: {', '.join(f'{seconds:.2f} s' for seconds in took)}")
    assert min(took) < 1.0
