"""`ripresa plan --profile slurm`: what would be submitted, whether the cluster takes it, and at what cost."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ripresa import configuration
from ripresa.cli import estimates, manifest, submission
from ripresa.journal import clock, records
from ripresa.journal.paths import Run
from test_cli import ENVIRONMENT, FILES, RIPRESA, ROOT
from test_slurm_limits import ANSWERS

RESOURCES = """
    threads: 12
    resources:
        runtime=30,
        gpu=lambda w: 1 if w.kind == "better" else 0,
        slurm_partition=lambda w: "gpu" if w.kind == "better" else "cpu",
        slurm_account="astro",
"""
CLUSTER = {**ANSWERS, "node": [line.replace("CPUEfctv=4", "CPUEfctv=16") for line in ANSWERS["node"]]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A campaign of four units for a cluster, which is what the commands there say."""
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    (tmp_path / "slurm").symlink_to("profiles/slurm")
    snakefile = FILES["Snakefile"].replace(
        "    params: unit=work.params\n", RESOURCES + "    params: unit=work.params\n"
    )
    files = {**FILES, "Snakefile": snakefile, "config/work.yaml": "kinds: [a, b, c, better]\n"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    cluster(tmp_path, CLUSTER)
    return tmp_path


def cluster(folder: Path, answers: dict[str, list[str]]) -> None:
    """Commands of SLURM that say what is given, and fail where nothing is."""
    bin = folder / "bin"
    bin.mkdir(exist_ok=True)
    for name, words in (("scontrol", ("partition", "node", "config")), ("sacctmgr", ("assoc", "qos"))):
        cases = []
        for word in words:
            if word in answers:
                (bin / word).write_text("\n".join(answers[word]) + "\n")
                cases.append(f"*' {word} '*) cat {bin / word}; exit ;;")
        script = f'#!/bin/sh\necho {name} >> {bin}/calls\ncase " $* " in\n{chr(10).join(cases)}\nesac\n'
        (bin / name).write_text(script + "echo 'Unable to contact slurm controller' >&2\nexit 1\n")
        (bin / name).chmod(0o755)


def plan(folder: Path, *words: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """The document that `ripresa plan` answers, and what it says on stderr."""
    environment = {
        **ENVIRONMENT,
        "PATH": f"{folder / 'bin'}{os.pathsep}{ENVIRONMENT['PATH']}",
    }
    command = [RIPRESA, "plan", "--json", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert all(line.startswith("ripresa: ") for line in done.stderr.splitlines()), done.stderr
    return json.loads(done.stdout or "{}"), done.stderr


def unit(kind: str = "a", **resources: Any) -> dict[str, Any]:
    """A job as the dry run tells it."""
    job = {"target": f"work/{kind}.txt", "rule": "make", "threads": 2, "shell": "exec guard\n"}
    return {**job, "resources": {"_cores": 2, "disk_mb": 5, **resources}}


def test_a_plan_is_checked_estimated_and_kept(folder: Path) -> None:
    """Alike units together, with the threads that they ask for, however few cores there are here."""
    found, said = plan(folder, "--profile", "slurm", "--", "--forceall")
    groups = {len(group["targets"]): group for group in found["submission"]["groups"]}
    common = ["--account=astro", "--cpus-per-task=12", "--mem=2000"]
    assert groups[3]["options"] == ["--partition=cpu", *common, "--time=30"]
    assert groups[1]["targets"] == ["work/better.txt"]
    assert "--gpus=1" in groups[1]["options"] and "--nodes=1" in groups[1]["options"]
    assert groups[1]["script"].startswith('exec "$RIPRESA_PYTHON" -IS "$RIPRESA_GUARD" make ')
    assert (folder / "bin/calls").read_text().split() == ["scontrol"] * 3 + ["sacctmgr"] * 2
    assert found["submission"]["unchecked"] == [] and said == ""
    assert found["estimate"] == {
        "host_hours": 2.0,
        "core_hours": 24.0,
        "gpu_hours": 0.5,
        "interval": found["estimate"]["interval"],
        "basis": {"journal": 0, "other_runs": 0, "runtime": 4, "guess": 0, "unknown": 0},
        "from": [],
    }
    low, high = found["estimate"]["interval"]["core_hours"]
    assert 0 < low < high == 24.0, "no unit takes longer than its time limit"

    assert found["manifest"] == "runs/small/plan.json"
    assert [path.name for path in (folder / "runs/small").iterdir()] == ["plan.json"]
    manifest = json.loads((folder / "runs/small/plan.json").read_text())
    assert (manifest["schema"], manifest["profile"], manifest["arguments"]) == (1, "slurm", ["--forceall"])
    assert len(manifest["config_sha256"]) == 64 and manifest["created"].endswith("+00:00")
    assert manifest["confirmed"] == [] and manifest["estimate"] == found["estimate"]
    units = {unit["target"]: unit for unit in manifest["units"]}
    assert set(units) == {f"work/{kind}.txt" for kind in ("a", "b", "c", "better")}
    better = units["work/better.txt"]
    assert (better["rule"], better["parameters"], better["threads"]) == ("make", {"kind": "better"}, 12)
    assert (better["resources"]["runtime"], better["resources"]["gpu"]) == (30, 1)
    assert "--gpus=1" in manifest["groups"][better["group"]]["options"]


def test_what_is_refused_is_no_plan(folder: Path) -> None:
    """By the cluster or the budget: all of it, one line each, exit code 1."""
    cluster(folder, ANSWERS)
    budget = "budget: {core_hours: 20, gpu_hours: 0.5}\n"
    (folder / "config/config.yaml").write_text(FILES["config/config.yaml"] + budget)
    found, said = plan(folder, "--profile", "slurm", code=1)
    excess = "24 core-hours are beyond the budget of 20 (budget.core_hours)"
    assert said.splitlines() == [
        "ripresa: make: partition gpu: no node has 12 CPUs; 4 at most (1 unit)",
        f"ripresa: {excess}; `ripresa plan --yes` confirms it",
    ]
    assert found["manifest"] is None and not (folder / "runs").exists()
    cluster(folder, {})
    found, _ = plan(folder, "--profile", "slurm", "--yes")
    (reason,) = found["submission"]["unchecked"]
    assert "Unable to contact slurm controller" in reason
    assert json.loads((folder / "runs/small/plan.json").read_text())["confirmed"] == [excess]


def test_a_profile_that_is_not_there(folder: Path) -> None:
    """`make setup` makes the links of those in profiles/."""
    (folder / "slurm").unlink()
    assert "`make setup` links slurm to profiles/slurm" in plan(folder, "--profile", "slurm", code=2)[1]
    assert "there is no profile lost here" in plan(folder, "--profile", "lost", code=2)[1]


def test_a_budget_is_no_change_of_the_campaign(tmp_path: Path) -> None:
    """And is checked like all else."""
    (tmp_path / "work.yaml").write_text("a: 1\n")
    (tmp_path / "config.yaml").write_text("run_id: small\nfamilies: [work]\nbudget: {gpu_hours: 5}\n")
    config = configuration.load(tmp_path)
    assert configuration.sha256(config) == configuration.sha256({**config, "budget": {}})
    with pytest.raises(configuration.ConfigurationError, match=r"budget\.gpu_hours"):
        configuration.resolve({"budget": {"gpu_hours": -1}}, tmp_path)


def test_hours_come_from_the_journal_or_from_time_limits(tmp_path: Path) -> None:
    """The bound counts only where nothing is known; GPUs are found in whatever way they are asked for."""
    run = Run(tmp_path / "small")
    units = [unit(runtime=30, gpu=2), unit(runtime=30, gres="gpu:a100:3", nodes=2), unit(), unit(gpu="x")]
    found = estimates.estimate(run, units)
    assert found["basis"] == {"journal": 0, "other_runs": 0, "runtime": 2, "guess": 0, "unknown": 2}
    assert (found["host_hours"], found["core_hours"], found["gpu_hours"]) == (1, 2, 4)
    assert "  2 units without a guard, so of unknown duration, not counted" in estimates.lines(found)
    records.append(run.units, {"target": "work/gone.txt", "rule": "make"})
    times = {"started": clock.iso(1e9), "ended": clock.iso(1e9 + 360)}
    record = {"attempt": 1, "target": "work/gone.txt", "rule": "make", "outcome": "published", **times}
    records.append(run.attempts("work/gone.txt"), record)
    found = estimates.estimate(run, units)
    assert (found["basis"]["journal"], sum(found["basis"].values())) == (4, 4)
    assert (found["host_hours"], found["core_hours"], found["gpu_hours"]) == (0.4, 0.8, 0.8)
    assert estimates.beyond(found, {"core_hours": 0.8, "gpu_hours": 1}) == []
    assert len(estimates.beyond(found, {"host_hours": 0, "gpu_hours": 0.5})) == 2


def test_what_is_wrong_with_a_request_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the number of its units, and what is not known yet is left out."""
    monkeypatch.setenv("PATH", "")
    units = [unit(kind, mem_mb=-1) for kind in "abc"] + [unit("d", mem_mb="<TBD>", runtime=5)]
    found = submission.submission(units)
    problem = "make: resource mem_mb = -1 cannot be asked of SLURM; allowed: a number of MB above 0 (3 units)"
    assert found["problems"] == [problem]
    assert found["unchecked"][0] == "mem_mb of make: not known before its input is there"
    (group,) = found["groups"]
    assert group["options"] == ["--cpus-per-task=2", "--time=5"]


def test_the_state_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every change of a file has a digest of its own, also of one that git does not know."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert manifest.checkout() is None
    (tmp_path / "known").write_text("one")
    git = ["git", "-c", "user.name=n", "-c", "user.email=n@example.org"]
    for words in (["init", "-q"], ["add", "known"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    first = manifest.checkout()
    assert first and len(first["commit"]) == 40 and (first["dirty"], first["diff_sha256"]) == (False, None)
    seen = set()
    for name, text in (("known", "two"), ("known", "three"), ("new file", "one"), ("new file", "two")):
        (tmp_path / name).write_text(text)
        state = manifest.checkout()
        assert state and state["dirty"] and state["commit"] == first["commit"]
        seen.add(state["diff_sha256"])
    for leads_to in ("here", "there"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(leads_to)
        seen.add((manifest.checkout() or {})["diff_sha256"])
    assert len(seen) == 6
