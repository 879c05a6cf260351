"""`ripresa stack`, `runs` and `logs`, with the phases of a stack as jobs of no work."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from ripresa.cli import logs
from ripresa.cli.stack.run import run_id_for
from ripresa.configuration import ConfigurationError, resolve
from ripresa.families.stacking.phases import PHASES
from ripresa.journal import records
from ripresa.journal.paths import Run

ROOT = Path(__file__).parents[1]
RIPRESA = Path(sys.executable).with_name("ripresa")
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("RIPRESA_", "SNAKEMAKE"))
}
ENVIRONMENT["PATH"] = f"{RIPRESA.parent}{os.pathsep}{ENVIRONMENT['PATH']}"

# The phases in their order, each a job of no work, with documents where the command reads some.
SNAKEFILE = f"""
include: "{ROOT}/rules/common.smk"

campaign.phases = {list(PHASES)}
STACK = campaign.dir + "/stacking"

rule all:
    default_target: True
    input: STACK + "/outputs/stacked.fit"

rule SCAN_INPUT:
    output: STACK + "/scan/1-of-1.json"
    log: "logs/scan.log"
    shell: guard("cp scan.json {{output}}")

rule REGISTRATION:
    input: rules.SCAN_INPUT.output
    output: STACK + "/registration/1-of-1.json"
    log: "logs/registration.log"
    shell: guard("echo '24 24' > $RIPRESA_PROGRESS; cp registration.json {{output}}")
"""
for before, name in pairwise(PHASES[1:-1]):
    SNAKEFILE += f"""
rule {name}:
    input: rules.{before}.output
    output: STACK + "/{name.lower()}"
    log: "logs/{name}.log"
    shell: guard("bash phase.sh {name} {{output}}")
"""
SNAKEFILE += f"""
rule STACKING:
    input: rules.{PHASES[-2]}.output
    output: multiext(STACK + "/outputs/stacked", ".fit", ".png"), STACK + "/outputs/frames.csv", \
STACK + "/outputs/validation.json"
    log: "logs/STACKING.log"
    params: weighting=config["stacking"]["weighting"]
    shell: guard('''
        echo {{params.weighting}} > {{output[0]}}; echo > {{output[1]}}
        cp frames.csv {{output[2]}}; cp validation.json {{output[3]}}
    ''')
"""
PHASE = """
[ ! -e "fail-$1" ] || { echo "ValueError: nothing to see"; exit 1; }
while [ -e "wait-$1" ]; do sleep 0.05; done
echo > $2
"""
SUMMARY = {
    **{"mode": "reduced", "frames": 3, "registered": 2, "n_eff": 1.9, "fwhm_px": 3.25, "noise": [1.0]},
    "excluded": [{"frame": "c.fits", "reason": "no stars were found"}],
}
FILES = {
    "Snakefile": SNAKEFILE,
    "phase.sh": PHASE,
    "config/config.yaml": "run_id: other\nfamilies: [work]\n",
    "config/work.yaml": "",
    "config/stacking.yaml": "simulate: {frames: 5}\nmode: {allow_few: true}\npsf_exponent: 3\n",
    "config/recovery.yaml": "time_scale: 0.001\n",
    "profiles/default/config.yaml": (ROOT / "profiles/default/config.yaml").read_text(),
    "scan.json": json.dumps(
        {"frames": [{"name": f"{name}.fits", "status": "ok"} for name in "abc"]},
    ),
    "registration.json": json.dumps(
        {
            "frames": [
                {"name": "a.fits", "status": "registered", "reason": None},
                {"name": "b.fits", "status": "registered", "reason": None},
                {"name": "c.fits", "status": "excluded", "reason": "no stars were found"},
            ]
        }
    ),
    "frames.csv": "name,status,reason,residual_px,fwhm_px\na.fits,stacked,,0.0412,3.1\n"
    "b.fits,stacked,,0.05,3.3\nc.fits,excluded,no stars were found,,\n",
    "validation.json": json.dumps({"verdict": "pass", "checks": [], "summary": SUMMARY}),
}


def ripresa(folder: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Call the command; what it refuses, it refuses in one line."""
    done = subprocess.run(
        [RIPRESA, *words],
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    said = f"ripresa {' '.join(words)} returned {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == code and "Traceback" not in done.stderr, said
    assert "mistake of its own" not in done.stderr, said
    return done


def document(folder: Path, *words: str, code: int = 0) -> dict:
    return json.loads(ripresa(folder, *words, "--json", code=code).stdout)


def refused(folder: Path, *words: str, code: int = 2) -> str:
    """The stable code of an error; its message is the same for people."""
    done = ripresa(folder, *words, "--json", code=code)
    error = json.loads(done.stdout)["error"]
    assert error.keys() == {"code", "message"}
    assert done.stderr.splitlines()[-1] == f"ripresa: {error['message'].splitlines()[-1]}"
    return error["code"]


def checkout(folder: Path) -> Path:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    lights = folder / "m31" / "lights"
    lights.mkdir(parents=True)
    for name in "abc":
        (lights / f"{name}.fits").touch()
    return folder


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A checkout with a folder of lights, and nothing stacked yet."""
    return checkout(tmp_path)


@pytest.fixture(scope="module")
def stacked_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = checkout(tmp_path_factory.mktemp("stacked"))
    return folder, ripresa(folder, "stack", "run", "m31/lights", "--cores", "2", "--json")


@pytest.fixture
def stacked(stacked_once, tmp_path: Path) -> Path:
    """A checkout in which the lights were stacked."""
    shutil.copytree(stacked_once[0], tmp_path / "copy", symlinks=True)
    settings = tmp_path / "copy/runs/m31-lights/campaign.yaml"
    settings.write_text(settings.read_text().replace(str(stacked_once[0]), str(tmp_path / "copy")))
    return tmp_path / "copy"


def states(folder: Path, *words: str, code: int = 0) -> dict[str, str]:
    phases = document(folder, "stack", "status", *words, code=code)["phases"]
    return {phase["phase_name"]: phase["state"] for phase in phases}


# stack run


def test_one_folder_in_the_stack_out(stacked_once) -> None:
    folder, done = stacked_once
    result = json.loads(done.stdout)
    outputs = folder / "runs/m31-lights/stacking/outputs"
    assert result.pop("seconds") > 0
    assert result == {
        "stacked": str(outputs / "stacked.fit"),
        "table": str(outputs / "frames.csv"),
        "preview": str(outputs / "stacked.png"),
        **{key: SUMMARY[key] for key in ("mode", "frames", "registered", "excluded", "n_eff", "fwhm_px")},
    }
    assert "[12/12] all done" in done.stderr, "what Snakemake says goes to stderr"


def test_the_configuration_of_the_run_stands_alone(stacked_once) -> None:
    """config/stacking.yaml simulates frames; its other settings count, and `simulate` is not in the way."""
    stacked = stacked_once[0]
    written = yaml.safe_load((stacked / "runs/m31-lights/campaign.yaml").read_text())
    assert written["stacking"] == {
        "lights": [str(stacked / "m31/lights")],
        "recursive": False,
        "mode": {"allow_few": True},
        "psf_exponent": 3,
    }
    snapshot = yaml.safe_load((stacked / "runs/m31-lights/config.yaml").read_text())
    assert snapshot["standalone"] is True and "simulate" not in snapshot["stacking"]
    assert document(stacked, "status", "--run", "m31-lights")["config"]["changed"] is False
    assert document(stacked, "plan", "--run", "m31-lights")["units"] == []


def test_called_again_it_goes_on_and_settings_change_what_they_concern(stacked: Path) -> None:
    events = Run(stacked / "runs/m31-lights").events
    document(stacked, "stack", "run", "m31/lights")
    before = records.read(events)
    text = ripresa(stacked, "stack", "run", "m31/lights").stdout
    assert records.read(events) == before, "nothing was to be done"
    assert "c.fits" in text and "no stars were found" in text and "stacked.fit" in text
    assert "2 of 3 frames stacked (reduced mode), FWHM 3.25 px, N_eff 1.9" in text

    (stacked / "mine.yaml").write_text("weighting: none\nreference: a.fits\n")
    result = document(
        stacked, "stack", "run", "m31/lights", "--settings", "mine.yaml", "--set", "weighting=quality"
    )
    assert Path(result["stacked"]).read_text() == "quality\n"
    starts = [e for e in records.read(events)[len(before) :] if e["type"] == "unit_start"]
    assert [start["rule"] for start in starts] == ["STACKING"]
    written = yaml.safe_load((stacked / "runs/m31-lights/campaign.yaml").read_text())
    assert written["stacking"]["reference"] == "a.fits"


def test_calls_that_make_no_sense(empty: Path) -> None:
    assert refused(empty, "stack", "run", "nowhere") == "INPUT_NOT_FOUND"
    assert refused(empty, "stack", "run", "m31", code=1) == "FRAMES_UNUSABLE"
    assert refused(empty, "stack", "run", "m31/lights", "--set", "mode.allow_few=false", code=1)
    assert refused(empty, "stack", "run", "m31/lights", "--set", "weighting=best") == "CONFIG_INVALID"
    assert refused(empty, "stack", "run", "m31/lights", "--set", "weighting") == "USAGE"
    assert refused(empty, "stack", "run", "m31/lights", "--set", "lights=/tmp") == "USAGE"
    assert refused(empty, "stack", "run", "m31/lights", "--settings", "no.yaml") == "CONFIG_INVALID"
    assert refused(empty, "stack", "run", "m31/lights", "--cores", "none") == "USAGE"
    assert refused(empty, "stack", "runn") == "USAGE"
    assert refused(empty, "stack", "status") == "RUN_NOT_FOUND"
    assert refused(empty, "stack", "resume", "--from-phase", "3") == "RUN_NOT_FOUND"
    assert refused(empty, "stack", "status", "--run", "nosuch") == "RUN_NOT_FOUND"
    assert refused(empty, "logs", "--run", "nosuch") == "RUN_NOT_FOUND"
    assert refused(empty, "stack", "resume", "--from-phase", "11") == "PHASE_INVALID"
    assert not (empty / "runs").exists(), "what is refused leaves nothing"
    (empty / "Snakefile").unlink()
    assert refused(empty, "stack", "run", "m31/lights") == "CHECKOUT_MISSING"
    shutil.rmtree(empty / "config")
    assert refused(empty, "logs") == "CONFIG_MISSING"
    assert ripresa(empty, "status", "--json", code=2).stdout == ""


def test_a_run_is_not_taken_for_another(stacked: Path) -> None:
    (stacked / "m33").mkdir()
    (stacked / "m33" / "a.fits").touch()
    shutil.copytree(stacked / "runs/m31-lights", stacked / "runs/m33")
    assert refused(stacked, "stack", "run", "m33") == "RUN_EXISTS"
    assert document(stacked, "stack", "run", "m33", "--run", "m33")["frames"] == 3
    (stacked / "runs/m33/campaign.yaml").unlink()
    assert refused(stacked, "stack", "run", "m33", "--run", "m33") == "RUN_EXISTS"


def test_a_failure_is_told_in_a_line(empty: Path) -> None:
    (empty / "fail-TILE_GRID").touch()
    done = ripresa(empty, "stack", "run", "m31/lights", "--json", code=1)
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "STACK_FAILED"
    assert error["message"].startswith("TILE_GRID failed: ValueError: nothing to see; ripresa why stacking/")
    phases = document(empty, "stack", "status", code=1)["phases"]
    assert [phase["state"] for phase in phases] == ["done"] * 5 + ["failed"] + ["pending"] * 5
    assert phases[5]["reason"] == "failed"
    assert refused(empty, "stack", "resume", "--from-phase", "STACKING", code=1) == "PHASE_NOT_REACHED"
    assert document(empty, "runs")["runs"][0]["state"] == "failed"

    (empty / "fail-TILE_GRID").unlink()
    ripresa(empty, "release", "--all", "--run", "m31-lights")
    assert document(empty, "stack", "run", "m31/lights")["registered"] == 2
    assert states(empty)["TILE_GRID"] == "done"


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("/data/m31", "m31"),
        ("/data/m31/lights", "m31-lights"),
        ("/data/M 31 (Ha)/LIGHT", "M-31-Ha-LIGHT"),
        ("/data/.hidden", "hidden"),
        ("/lights", "lights"),
        ("/data/é", "stack"),
    ],
)
def test_the_name_of_a_run(directory: str, name: str) -> None:
    assert run_id_for(directory) == name


# stack status and resume


def test_status_and_resume(stacked: Path) -> None:
    document(stacked, "stack", "run", "m31/lights")
    status = document(stacked, "stack", "status")
    assert {phase["state"] for phase in status["phases"]} == {"done"}
    assert [phase["phase"] for phase in status["phases"]] == list(range(11))
    assert (status["phases"][1]["current"], status["phases"][1]["total"]) == (24, 24)
    assert status["phases"][1]["units"] == {"COMPLETED": 1}
    assert all(phase["seconds"] >= 0 and phase["started"] <= phase["ended"] for phase in status["phases"])
    assert (status["run_id"], status["state"]) == ("m31-lights", "completed")
    assert (status["frames"], status["registered"]) == (3, 2)
    assert status["excluded"] == [{"frame": "c.fits", "reason": "no stars were found"}]
    assert set(status["results"]) == {"stacked", "table", "preview"}

    scan = stacked / "runs/m31-lights/stacking/scan/1-of-1.json"
    before = scan.stat().st_mtime_ns
    done = ripresa(stacked, "stack", "resume", "--from-phase", "state_clustering", "--json")
    resumed = json.loads(done.stdout)
    assert resumed["from_phase"] == 8
    assert resumed["command"].startswith("snakemake --rerun-incomplete --forcerun STATE_CLUSTERING")
    assert f"$ {resumed['command']}" in done.stderr
    after = document(stacked, "stack", "status")["phases"]
    assert [phase["state"] for phase in after] == ["skipped"] * 8 + ["done"] * 3
    assert after[0]["resume_from"] == 8
    assert after[1]["started"] == status["phases"][1]["started"], "when it was computed"
    assert scan.stat().st_mtime_ns == before

    text = ripresa(stacked, "stack", "status").stdout
    assert "skipped" in text and "24/24" in text and "3 frames, 2 registered, 1 excluded" in text


def test_status_of_a_run_that_is_on_and_one_that_was_killed(empty: Path) -> None:
    (empty / "wait-LOCAL_METRICS").touch()
    with open(empty / "output.log", "w") as log:
        call = subprocess.Popen(
            [RIPRESA, "stack", "run", "m31/lights"],
            cwd=empty,
            env=ENVIRONMENT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    end = time.monotonic() + 120
    while not (empty / "runs/m31-lights/stacking").exists() or states(empty)["LOCAL_METRICS"] != "running":
        assert time.monotonic() < end and call.poll() is None, (empty / "output.log").read_text()
        time.sleep(0.1)
    assert states(empty)["STACKING"] == "pending"
    assert document(empty, "runs")["runs"][0]["state"] == "running"
    assert refused(empty, "stack", "run", "m31/lights", code=1) == "RUN_HELD"

    os.killpg(call.pid, signal.SIGKILL)
    call.wait()
    end = time.monotonic() + 60
    while document(empty, "runs")["runs"][0]["state"] == "running":
        assert time.monotonic() < end
    assert states(empty)["LOCAL_METRICS"] == "interrupted"
    assert document(empty, "runs")["runs"][0]["state"] == "interrupted"
    (empty / "wait-LOCAL_METRICS").unlink()
    assert document(empty, "stack", "run", "m31/lights")["registered"] == 2


def test_a_stop_reaches_snakemake(empty: Path) -> None:
    (empty / "wait-LOCAL_METRICS").touch()
    call = subprocess.Popen(
        [RIPRESA, "stack", "run", "m31/lights", "--json"],
        cwd=empty,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while not (empty / "runs/m31-lights/stacking").exists() or states(empty)["LOCAL_METRICS"] != "running":
        assert time.monotonic() < end and call.poll() is None
        time.sleep(0.1)
    call.terminate()
    (empty / "wait-LOCAL_METRICS").unlink()
    assert "error" in json.loads(call.communicate(timeout=120)[0])
    assert call.returncode == 1
    assert document(empty, "runs")["runs"][0]["state"] == "stopped"


# runs and logs


def test_runs(stacked: Path) -> None:
    (stacked / "runs" / "young").mkdir()
    listed = {one["run_id"]: one for one in document(stacked, "runs")["runs"]}
    assert listed.keys() == {"m31-lights", "young"}
    old, young = listed["m31-lights"], listed["young"]
    assert (old["state"], old["units"], old["counts"]) == ("completed", 11, {"COMPLETED": 11})
    assert old["last_event"]["type"] == "run_end"
    assert (young["state"], young["units"], young["last_event"]) == ("new", 0, None)
    text = ripresa(stacked, "runs").stdout
    assert "m31-lights" in text and "run_end" in text


def test_logs(stacked: Path) -> None:
    everything = records.read(Run(stacked / "runs/m31-lights").events)
    told = document(stacked, "logs", "--tail", "3", "--run", "m31-lights")
    assert told["events"] == everything[-3:]
    assert document(stacked, "logs", "--run", "m31-lights")["events"] == everything[-20:]
    text = ripresa(stacked, "logs", "--tail", "4", "--run", "m31-lights").stdout.splitlines()
    assert len(text) == 4
    assert "run_end" in text[-1] and "status=ok" in text[-1]
    assert "phase=10 phase_name=STACKING status=ok" in text[-2]
    assert refused(stacked, "logs", "--tail", "0", "--run", "m31-lights") == "USAGE"


@pytest.mark.parametrize("number", [1, 3, 7, 1000])
@pytest.mark.parametrize("block", [16, 100, 1 << 16])
def test_the_tail_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, block: int) -> None:
    monkeypatch.setattr(logs, "_BLOCK", block)
    file = tmp_path / "events"
    lines = [f'{{"n":{n},"text":"{"x" * (n % 40)}"}}' for n in range(50)]
    lines[45] = '{"torn'
    file.write_text("\n".join(lines) + "\n")
    wanted = [n for n in range(50) if n != 45][-number:]
    assert [record["n"] for record in logs.tail(str(file), number)] == wanted
    assert logs.tail(str(tmp_path / "none"), number) == []


# The configuration of a run that stands alone


def test_a_standalone_configuration_reads_only_the_recovery(tmp_path: Path) -> None:
    for name, text in {"config": "run_id: [", "work": "a: 1\n", "recovery": "time_scale: 0.5\n"}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    given = {"standalone": True, "run_id": "x", "families": ["work"], "work": {"b": 2}}
    found = resolve(given, tmp_path)
    assert (found["work"], found["recovery"]["time_scale"]) == ({"b": 2}, 0.5)
    with pytest.raises(ConfigurationError, match="work: is missing, but families has it"):
        resolve({key: value for key, value in given.items() if key != "work"}, tmp_path)


# stack scan and simulate


def test_scan_and_simulate(tmp_path: Path) -> None:
    made = document(
        tmp_path,
        "stack",
        "simulate",
        "night",
        "--frames",
        "3",
        "--width",
        "96",
        "--height",
        "64",
        "--seed",
        "2",
    )
    assert len(made["frames"]) == 3 and Path(made["truth"]).is_file()
    found = document(tmp_path, "stack", "scan", "night")
    assert (found["count"], found["usable"], found["lights"]) == (3, 3, 3)
    assert [(group["frames"], group["width"], group["kind"]) for group in found["groups"]] == [
        (3, 96, "mono")
    ]
    assert [frame["name"] for frame in found["frames"]] == made["frames"]

    broken = tmp_path / "night" / "sub" / "broken.fits"
    broken.parent.mkdir()
    broken.write_bytes((tmp_path / "night" / made["frames"][0]).read_bytes()[:4000])
    ripresa(tmp_path, "stack", "scan", "night")
    found = document(tmp_path, "stack", "scan", "night", "--recursive", code=1)
    assert [bad["frame"] for bad in found["bad"]] == ["sub/broken.fits"]
    assert "truncated" in found["bad"][0]["reason"]
    text = ripresa(tmp_path, "stack", "scan", "night", "--recursive", code=1).stdout
    assert "4 FITS files, 3 usable" in text and "96x64" in text and "truncated" in text

    assert refused(tmp_path, "stack", "scan", "nowhere") == "INPUT_NOT_FOUND"
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path, "stack", "scan", "empty", code=1) == "FRAMES_UNUSABLE"
    assert refused(tmp_path, "stack", "simulate", "x", "--bayer", "XXXX") == "SETTINGS_INVALID"


@pytest.mark.slow
def test_the_family_itself(tmp_path: Path) -> None:
    """Simulated frames in, their stack out, by the rules of this checkout; and again from a phase."""
    for name in ("rules", "workflow/scripts", "config", "profiles"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "Snakefile", tmp_path)
    document(tmp_path, "stack", "simulate", "night", "--frames", "12", "--width", "384", "--height", "256")
    result = document(tmp_path, "stack", "run", "night", "--set", "mode.allow_few=true")
    assert (result["frames"], result["mode"]) == (12, "reduced")
    assert result["registered"] + len(result["excluded"]) == 12 and result["registered"] >= 10
    assert 1 < result["n_eff"] <= 12 and 1 < result["fwhm_px"] < 8
    stack = Path(result["stacked"]).read_bytes()

    resumed = document(tmp_path, "stack", "resume", "--from-phase", "7")
    assert [phase["state"] for phase in document(tmp_path, "stack", "status")["phases"]] == [
        *["skipped"] * 7,
        *["done"] * 4,
    ]
    assert Path(resumed["stacked"]).read_bytes() == stack
