"""A quarantine ends by itself when what it blames has changed, and by nothing else."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ripresa.journal import attempts
from ripresa.journal.paths import Run
from ripresa.recovery import blame, escalation
from ripresa.recovery.unit import Unit

SNAKEFILE = """
import json
from ripresa.dsl import Units, guard, open_run
from ripresa.recovery import policy

campaign = open_run("q", main=workflow.is_main_process)
units = Units("units/{name}.txt", parameters=json.load(open("units.json")))

rule all:
    input: units.targets()

rule unit:
    input: "data/{name}.txt"
    output: units.target
    params: p=units.params
    shell:
        guard(
            "bash scripts/{wildcards.name}.sh {input} conf/{wildcards.name}.yaml {params.p[value]}; "
            "echo 1 > {output}"
        )

onstart:
    campaign.start((), config_sha256="", policy=policy.default() | {"rules": [], "time_scale": 0.001})
"""
CALL = [
    sys.executable, "-m", "snakemake", "--cores", "4", "--retries", "100", "--scheduler", "recovery",
    "--nolock", "--rerun-incomplete", "--keep-going", "--workflow-profile", "none",
]  # fmt: skip

# What each unit does: it fails until what it blames is corrected. $1: data, $2: configuration, $3: value.
UNITS = {
    "code": "echo \"NameError: name 'x' is not defined\"; exit 1",
    "module": """python scripts/uses.py""",
    "configuration": 'grep -q right $2 || { echo "tool: error: unrecognized arguments: --foo"; exit 2; }',
    "absent": """test -e conf/late.yaml || {
        echo "error: conf/late.yaml: No such file or directory"; exit 1; }""",
    "data": 'grep -q right $1 || { echo "zlib.error: Error -3 while decompressing data"; exit 1; }',
    "environment": "frobnicate",
    "variable": 'test -n "${API_TOKEN:-}" || { echo "ImportError: API_TOKEN is not set"; exit 1; }',
    "permission": """[ "$(stat -c %a locked)" = 644 ] || {
        echo "PermissionError: [Errno 13] Permission denied: './locked'"; exit 1; }""",
    "numerical_script": 'echo "FloatingPointError: loss is NaN"; exit 1',
    "numerical_data": 'grep -q right $1 || { echo "FloatingPointError: loss is NaN"; exit 1; }',
    "numerical_value": '[ $3 = right ] || { echo "FloatingPointError: loss is NaN"; exit 1; }',
}
CLASSES = {"module": "code", "absent": "configuration", "variable": "environment"}


class Place:
    """A campaign of units that all go into quarantine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = Run(folder / "runs/q")
        self.values = dict.fromkeys(UNITS, "wrong")
        self.environment = {n: v for n, v in os.environ.items() if not n.startswith("RIPRESA_")}
        self.environment["PATH"] = f"{folder}/bin:{self.environment['PATH']}"
        self.write("Snakefile", SNAKEFILE)
        self.write("bin/other", "#!/bin/sh\n").chmod(0o755)
        self.write("locked", "").chmod(0o600)
        self.write("scripts/uses.py", "import helper\nhelper.compute()\n")
        self.write("scripts/helper.py", "def compute():\n    raise NameError('x')\n")
        for name, does in UNITS.items():
            self.script(name, does)
            self.write(f"data/{name}.txt", "wrong\n")
            self.write(f"conf/{name}.yaml", "wrong\n")
        time.sleep(0.05)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def script(self, name: str, does: str) -> None:
        self.write(f"scripts/{name}.sh", f"echo {name} >> executions\n{does}\n")

    def __call__(self) -> tuple[str, list[str]]:
        """Call snakemake; returns what it said, and which units were executed."""
        (self.folder / "executions").write_text("")
        units = [{"name": name, "value": value} for name, value in self.values.items()]
        self.write("units.json", json.dumps(units))
        done = subprocess.run(
            CALL,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr, sorted((self.folder / "executions").read_text().split())

    def last(self, name: str) -> dict[str, Any]:
        return attempts.last(self.run, f"units/{name}.txt")


def test_each_class_ends_its_quarantine_by_what_it_blames_and_by_nothing_else(tmp_path: Path) -> None:
    place = Place(tmp_path)
    _, ran = place()
    assert ran == sorted(UNITS)
    for name in UNITS:
        record = place.last(name)
        assert record["decision"] == "quarantine", name
        assert record["failure_class"] == CLASSES.get(name, name.partition("_")[0]), name

    # Nothing that matters: new times everywhere, and for each class what others would blame.
    place.write("data/code.txt", "another\n")
    place.write("data/configuration.txt", "another\n")
    place.write("data/environment.txt", "another\n")
    place.write("data/permission.txt", "another\n")
    place.script("data", UNITS["data"] + " # another")
    place.write("conf/data.yaml", "another\n")
    place.write("bin/unrelated", "#!/bin/sh\n").chmod(0o755)
    place.environment["UNRELATED"] = "1"
    for path in [*tmp_path.glob("scripts/*"), *tmp_path.glob("data/*"), *tmp_path.glob("conf/*")]:
        os.utime(path)
    said, ran = place()
    assert ran == []
    assert all(f"units/{name}.txt: in quarantine since attempt 1" in said for name in UNITS)

    place.script("code", "true")
    place.write("scripts/helper.py", "def compute():\n    pass\n")
    place.write("conf/configuration.yaml", "right\n")
    place.write("conf/late.yaml", "")
    place.write("data/data.txt", "right\n")
    place.write("bin/frobnicate", "#!/bin/sh\n").chmod(0o755)
    place.environment["API_TOKEN"] = "secret"
    (tmp_path / "locked").chmod(0o644)
    place.script("numerical_script", "true")
    place.write("data/numerical_data.txt", "right\n")
    place.values["numerical_value"] = "right"
    said, ran = place()
    assert ran == sorted(UNITS)
    ended = {name: attempts.read(place.run, f"units/{name}.txt")[1] for name in UNITS}
    assert {record["outcome"] for record in ended.values()} == {"released"}
    assert {name: record["changed"] for name, record in ended.items()} == {
        "code": ["scripts/code.sh"],
        "module": [str(tmp_path / "scripts/helper.py")],
        "configuration": ["conf/configuration.yaml"],
        "absent": ["conf/late.yaml"],
        "data": ["data/data.txt"],
        "environment": ["program frobnicate"],
        "variable": ["variable API_TOKEN"],
        "permission": ["access to ./locked"],
        "numerical_script": ["scripts/numerical_script.sh"],
        "numerical_data": ["data/numerical_data.txt"],
        "numerical_value": ["its command"],
    }
    assert {place.last(name)["outcome"] for name in UNITS} == {"published"}
    journal = "".join(path.read_text() for path in tmp_path.glob("runs/q/journal/**/*.jsonl"))
    assert "secret" not in journal
    why = [Path(sys.executable).with_name("ripresa"), "why", "--run", "q", "data.txt"]
    shown = subprocess.run(why, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert "by itself: data/data.txt changed since" in shown


FAILS = "bash script.sh; echo 1 > {output}"


@pytest.fixture
def stopped(guard: Any) -> Callable[..., Any]:
    """Makes a unit that is in quarantine for a message."""

    def make(message: str, command: str = FAILS, **given: Any) -> Any:
        script = guard.directory / "script.sh"
        script.write_text(f'echo "{message}"; {given.pop("does", ":")}; exit 1')
        os.utime(script, (time.time() - 60,) * 2)
        assert guard(command, **given) == 1
        assert guard.last["decision"] == "quarantine"
        return guard

    return make


def test_a_script_corrected_while_the_attempt_ran_is_tried(stopped: Callable[..., Any]) -> None:
    """The failure is that of the script as it was."""
    correct = "sleep 0.05; printf 'exit 0' > other.sh; mv other.sh script.sh"
    guard = stopped("NameError: x", does=correct)
    assert guard(FAILS, session="two") == 0
    assert [r["outcome"] for r in guard.records] == ["failed", "released", "published"]


def test_a_file_that_the_command_itself_writes_ends_one_quarantine_only(stopped: Callable[..., Any]) -> None:
    command = "bash -c 'sleep 0.05; echo 1 >> \"$1\"' x cache; " + FAILS
    guard = stopped("NameError: x", command)
    for session in ("two", "three", "four"):
        assert guard(command, session=session) == 1
    assert [r["outcome"] for r in guard.records] == ["failed", "released", "failed"]


def test_what_the_command_redirects_to_is_not_blamed(stopped: Callable[..., Any]) -> None:
    command = "echo 1 >> shared.log; " + FAILS
    guard = stopped("NameError: x", command)
    (guard.directory / "shared.log").write_text("of another unit")
    assert guard(command, session="two") == 1
    assert len(guard.records) == 1


def test_a_missing_python_module_ends_by_its_installation(
    stopped: Callable[..., Any], tmp_path: Path
) -> None:
    packages = tmp_path / "venv/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    (tmp_path / "venv/bin").mkdir()
    (tmp_path / "venv/bin/python9").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "venv/bin/python9").chmod(0o755)
    path = f"{tmp_path}/venv/bin:{os.environ['PATH']}"
    command = "python9 x; " + FAILS
    guard = stopped("ModuleNotFoundError: No module named 'absent'", command, PATH=path)
    assert guard(command, session="two", PATH=path) == 1
    assert len(guard.records) == 1
    (packages / "absent-1.0.dist-info").mkdir()
    assert guard(command, session="three", PATH=path) == 1
    assert [r["outcome"] for r in guard.records] == ["failed", "released", "failed"]
    (tmp_path / "absent.py").write_text("")
    assert guard(command, session="four", PATH=path) == 1
    assert guard.records[3]["changed"] == ["module absent"]


def test_another_choice_of_inputs_ends_a_quarantine_for_data(stopped: Callable[..., Any]) -> None:
    guard = stopped("zlib.error: Error -3 while decompressing data", inputs="a.txt b.txt")
    assert guard(FAILS, session="two", inputs="a.txt b.txt") == 1
    assert len(guard.records) == 1
    assert guard(FAILS, session="two", inputs="a.txt") == 1
    assert guard.records[1]["changed"] == ["choice of inputs", "b.txt"]


@pytest.mark.parametrize("size", [99, 250])
def test_many_inputs_and_folders_count_by_content(
    stopped: Callable[..., Any], tmp_path: Path, size: int
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    paths = [folder / f"{n}.txt" for n in range(size)]
    for path in paths:
        path.write_text("one")
        os.utime(path, (time.time() - 60,) * 2)
    os.utime(folder, (time.time() - 60,) * 2)
    inputs = " ".join(["frames", *(str(path.relative_to(tmp_path)) for path in paths)])
    guard = stopped("zlib.error: Error -3 while decompressing data", inputs=inputs)
    for path in (paths[3], folder):
        os.utime(path)
    assert guard(FAILS, session="two", inputs=inputs) == 1
    assert len(guard.records) == 1, guard.said
    assert len(json.dumps(guard.last)) < 20_000
    paths[3].write_text("two")
    assert guard(FAILS, session="two", inputs=inputs) == 1
    assert guard.records[1]["outcome"] == "released"


def test_content_beyond_what_is_read_is_told_by_size_and_time(
    stopped: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blame, "_WHOLE", 2)
    (tmp_path / "big").write_text("content")
    one, room = blame._file(str(tmp_path / "big"), None, 2)
    os.utime(tmp_path / "big", (1, 1))
    other, _ = blame._file(str(tmp_path / "big"), one, 2)
    assert one != other and room == 0


@pytest.mark.parametrize(
    "notes", [None, 3, {}, {"state": 3}, {"state": {}, "meanwhile": None, "named": None}]
)
def test_damaged_notes_hold_until_the_command_changes(stopped: Callable[..., Any], notes: Any) -> None:
    guard = stopped("NameError: x")
    unit = SimpleNamespace(
        run=guard.run,
        digest=guard.last["command_sha256"],
        command="true",
        inputs="",
        resources={},
        python="python",
    )
    record = guard.last | {"blamed": notes}
    unit_like: Unit = unit  # type: ignore[assignment]
    assert blame.changed(unit_like, record) == []
    unit.digest = "another"
    assert blame.changed(unit_like, record) == ["its command"]
    assert escalation.more(guard.run, record | {"spent": notes}) is None
