"""Phases of a made-up family, through real snakemake calls: what is told of runs, restarts and failures."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ripresa.families.stacking import progress
from ripresa.journal import clock, phases, records
from ripresa.journal.paths import Run
from ripresa.recovery.progress import fraction
from snakemake_logger_plugin_journal.board import Board
from snakemake_logger_plugin_journal.panel import render

ROOT = Path(__file__).parents[1]

# Three phases and a helper between them: PAINT has four jobs and counts to three in each of them.
SNAKEFILE = f"""
configfile: "config/config.yaml"
include: "{ROOT}/rules/common.smk"

campaign.phases = ["PAINT", "DRY", "HANG_UP"]
colours = Units("paint/{{colour}}.txt", sweep={{"product": {{"colour": ["red", "green", "blue", "grey"]}}}})

rule all:
    default_target: True
    input: campaign.dir + "/wall.txt"

rule PAINT:
    output: colours.target
    log: colours.log
    shell: guard("bash paint.sh {{wildcards.colour}} {{output}}")

rule palette:
    input: colours.targets()
    output: campaign.dir + "/palette.txt"
    log: campaign.dir + "/logs/palette.log"
    shell: guard("cat {{input}} > {{output}}")

rule DRY:
    input: rules.palette.output
    output: campaign.dir + "/dry.txt"
    log: campaign.dir + "/logs/dry.log"
    shell: guard("bash dry.sh {{input}} {{output}}")

rule HANG_UP:
    input: rules.DRY.output
    output: campaign.dir + "/wall.txt"
    log: campaign.dir + "/logs/wall.log"
    shell: guard("cp {{input}} {{output}}")
"""
PAINT = """
for coat in 1 2 3; do echo "$coat 3" > "$RIPRESA_PROGRESS"; while [ -e thick ]; do sleep 0.05; done; done
[ ! -e "fail-$1" ] || { echo "NameError: name 'brush' is not defined"; exit 1; }
[ ! -e "flaky-$1" ] || { rm "flaky-$1"; echo "curl: (6) Could not resolve host: data.org"; exit 6; }
echo $1 > $2
"""
DRY = "while [ -e wet ]; do sleep 0.05; done; cp $1 $2\n"
CALL = (
    *(sys.executable, "-m", "snakemake", "--rerun-incomplete", "--cores", "2", "--keep-going", "--nolock"),
    *("--retries", "20", "--scheduler", "recovery", "--logger", "journal", "--workflow-profile", "none"),
    *("--latency-wait", "0"),
)


class Painting:
    """A campaign with phases in a directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = Run(folder / "runs" / "house")
        (folder / "config").mkdir()
        for name, text in {
            "Snakefile": SNAKEFILE,
            "paint.sh": PAINT,
            "dry.sh": DRY,
            "config/config.yaml": "run_id: house\nfamilies: [house]\n",
            "config/house.yaml": "",
            "config/recovery.yaml": "time_scale: 0.001\n",
        }.items():
            (folder / name).write_text(text)

    def start(self, *options: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RIPRESA_")}
        return subprocess.Popen(
            [*CALL, *options],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def call(self, *options: str, code: int = 0) -> list[dict]:
        """Run snakemake to its end; returns the phase events of this call."""
        before = len(self.events())
        controller = self.start(*options)
        said = controller.communicate(timeout=120)[0]
        assert controller.returncode == code and "Traceback" not in said, said
        return self.events()[before:]

    def events(self) -> list[dict]:
        return [event for event in records.iterate(self.run.events) if event["type"].startswith("phase_")]

    def until(self, wanted) -> None:
        end = time.monotonic() + 60
        while not any(wanted(event) for event in self.events()):
            assert time.monotonic() < end, self.events()
            time.sleep(0.05)


@pytest.fixture
def painting(tmp_path: Path) -> Painting:
    return Painting(tmp_path)


def told(events: list[dict]) -> list[tuple]:
    """Starts and ends of phases, in order."""
    return [
        (event["type"].removeprefix("phase_"), event["phase"], event["phase_name"], event.get("status"))
        for event in events
        if event["type"] != "phase_progress"
    ]


ALL = [
    *(("start", 0, "PAINT", None), ("end", 0, "PAINT", "ok")),
    *(("start", 1, "DRY", None), ("end", 1, "DRY", "ok")),
    *(("start", 2, "HANG_UP", None), ("end", 2, "HANG_UP", "ok")),
]


def test_a_run_and_restarts_from_a_phase(painting: Painting) -> None:
    events = painting.call()
    assert told(events) == ALL
    assert {event["run_id"] for event in events} == {"house"}
    assert [e["ts"] for e in events] == sorted(e["ts"] for e in events)
    paint = [(e["current"], e["total"]) for e in events if e["phase"] == 0 and "current" in e]
    assert paint[-1] == (12, 12), "three coats of four colours"
    assert [current for current, _ in paint] == sorted(current for current, _ in paint)
    assert {total for _, total in paint} == {12}, "what has not started yet counts as much as what has"
    ends = [event for event in events if event["type"] == "phase_end"]
    assert ends[0]["counts"] == {"jobs": 4, "done": 4, "failed": 0}
    assert all(0 <= end["seconds"] < 60 for end in ends)

    assert painting.call() == [], "nothing is to run, so nothing is told"

    events = painting.call("--forcerun", "HANG_UP")
    assert told(events) == [
        *(("start", 0, "PAINT", None), ("end", 0, "PAINT", "skipped")),
        *(("start", 1, "DRY", None), ("end", 1, "DRY", "skipped")),
        *(("start", 2, "HANG_UP", None), ("end", 2, "HANG_UP", "ok")),
    ]
    skipped = [event for event in events if event.get("status") == "skipped"]
    assert [(event["reason"], event["resume_from"]) for event in skipped] == [("resume_from_phase", 2)] * 2
    resumed = [event for event in records.iterate(painting.run.events) if event["type"] == "run_resume"]
    assert resumed[-1]["from_phase"] == 2

    events = painting.call("--forcerun", "runs/house/paint/red.txt")
    assert told(events) == ALL, "one job of the first phase: nothing is skipped"
    ends = [event for event in events if event["type"] == "phase_end"]
    assert ends[0]["counts"] == {"jobs": 1, "done": 1, "failed": 0}


def test_progress_while_jobs_run(painting: Painting) -> None:
    (painting.folder / "thick").touch()  # the first coat of two walls does not dry
    controller = painting.start("palette")
    painting.until(lambda event: event["type"] == "phase_progress" and event["current"] == 2)
    (painting.folder / "thick").unlink()
    said = controller.communicate(timeout=120)[0]
    assert controller.returncode == 0, said
    events = [event for event in painting.events() if event["type"] == "phase_progress"]
    assert all(event["current"] <= event["total"] for event in events)
    assert events[-1]["current"] == events[-1]["total"] == 12


def test_a_failed_phase_ends_with_error_and_starts_anew(painting: Painting) -> None:
    (painting.folder / "fail-blue").touch()
    (painting.folder / "flaky-red").touch()
    events = painting.call(code=1)
    assert told(events) == [("start", 0, "PAINT", None), ("end", 0, "PAINT", "error")]
    assert events[-1]["reason"] == "failed"
    assert events[-1]["counts"] == {"jobs": 4, "done": 3, "failed": 1}, "the retried job is no failure"

    (painting.folder / "fail-blue").unlink()
    subprocess.run(
        [Path(sys.executable).with_name("ripresa"), "release", "--all"], cwd=painting.folder, check=True
    )
    assert told(painting.call()) == ALL


def test_a_killed_controller_leaves_no_end_and_the_next_starts_the_phase_anew(painting: Painting) -> None:
    (painting.folder / "wet").touch()
    controller = painting.start()
    painting.until(lambda event: event["type"] == "phase_start" and event["phase"] == 1)
    controller.kill()
    controller.communicate()
    assert told(painting.events())[-1] == ("start", 1, "DRY", None)

    (painting.folder / "wet").unlink()
    assert told(painting.call()) == [
        *(("start", 0, "PAINT", None), ("end", 0, "PAINT", "skipped")),
        *ALL[2:],
    ]


def test_a_stopped_run_ends_its_phase(painting: Painting) -> None:
    (painting.folder / "wet").touch()
    controller = painting.start()
    painting.until(lambda event: event["type"] == "phase_start" and event["phase"] == 1)
    os.killpg(controller.pid, signal.SIGINT)
    controller.communicate(timeout=120)
    assert told(painting.events())[-1] == ("end", 1, "DRY", "error")
    assert painting.events()[-1]["reason"] == "stopped"


def test_plans_of_other_sessions_do_not_count(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "house")
    phases.plan(run, "one", ["A", "B"], ["A", "A", "B", "helper"], ["B"])
    assert phases.load(run, "two") is None
    loaded = phases.load(run, "one")
    assert loaded is not None and loaded.first == 1


# What the command of a unit writes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3 12\n", (3, 12)),
        ("3 12", (3, 12)),
        ("  3 12                \n", (3, 12)),
        ("3\n12\n", None),
        ("3", None),
        ("", None),
        ("step 3", None),
        ("3 of 12", None),
        ("-3 12", None),
    ],
)
def test_only_current_and_total_on_one_line_are_a_fraction(tmp_path: Path, text: str, found) -> None:
    file = tmp_path / "progress"
    file.write_text(text)
    assert fraction(str(file)) == found
    assert fraction(str(tmp_path / "missing")) is None


def test_the_guard_records_the_last_word_of_a_quick_command(guard) -> None:
    assert guard('echo "7 7" > "$RIPRESA_PROGRESS"; echo > {output}') == 0
    assert (guard.last["progress"], guard.last["progress_total"]) == ("7", "7")


def test_reports_are_whole_few_and_never_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "progress"
    monkeypatch.delenv("RIPRESA_PROGRESS", raising=False)
    progress.report(1, 2)

    monkeypatch.setenv("RIPRESA_PROGRESS", str(file))
    monkeypatch.setattr(progress, "_written", -1.0)
    written = set()
    began = time.monotonic()
    for frame in range(1, 20_001):
        progress.report(frame, 20_000)
        written.add(fraction(str(file)))
    assert fraction(str(file)) == (20_000, 20_000), "the end is always told"
    assert len(written) <= 2 + (time.monotonic() - began) / progress._EVERY_S
    progress.report(1, 1)
    assert fraction(str(file)) == (1, 1), "a shorter line leaves nothing of a longer one"

    monkeypatch.setenv("RIPRESA_PROGRESS", str(tmp_path / "missing" / "progress"))
    progress.report(2, 2)


def test_phases_end_when_their_clock_says(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "house")
    phases.plan(run, "one", ["A"], ["A"], ["A"])
    follower = phases.load(run, "one")
    assert follower is not None
    follower.begin("A", "a.txt")
    assert [phase.name for phase in follower.open()] == ["A"]
    follower.begin("helper", "b.txt")
    follower.finish("helper", "b.txt")
    follower.finish("A", "a.txt")
    assert follower.open() == []
    types = [event["type"] for event in records.iterate(run.events)]
    assert types == ["phase_start", "phase_progress", "phase_end"]
    assert clock.seconds(next(records.iterate(run.events))["ts"]) > 0


def test_the_live_view_shows_phases_under_way(tmp_path: Path) -> None:
    run = Run(tmp_path / "runs" / "house")
    phases.plan(run, "one", ["WAIT", "ALIGN"], ["WAIT", "ALIGN", "ALIGN"], ["WAIT", "ALIGN", "ALIGN"])
    board = Board(total=3, phases=phases.load(run, "one"))
    assert board.phases is not None
    board.phases.begin("ALIGN", "a.txt")
    records.append(run.attempts("a.txt"), {"attempt": 1, "progress": "30", "progress_total": "30"})
    board.phases.finish("ALIGN", "a.txt")
    text = "\n".join(render(board, io.StringIO(), 100, 20, True))
    assert "1 ALIGN" in text and "30/60  50%" in text
    assert "WAIT" not in text
