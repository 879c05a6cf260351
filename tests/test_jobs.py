"""Long jobs: what config/jobs.yaml may say, what logs tell, which checkpoint counts, and how segments end."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from conftest import wait_until
from ripresa import template
from ripresa.configuration.settings import _checker
from ripresa.families.jobs import environment, extraction
from ripresa.families.jobs.book import Book
from ripresa.families.jobs.checkpoints import candidates, newest_valid
from ripresa.families.jobs.errors import JobError
from ripresa.families.jobs.execution import Limit
from ripresa.families.jobs.plan import label, plan
from ripresa.families.jobs.result import put_together
from ripresa.journal import attempts, records
from ripresa.journal.paths import Run
from ripresa.journal.processes import catches, descendants
from ripresa.recovery.classifier import classify

ROOT = Path(__file__).parents[1]
EXAMPLE = str(ROOT / "workflow" / "scripts" / "job_example.py")


def planned(cluster=None, **job):
    """The plan of one job ``train``, its defaults filled in as the configuration does."""
    section = _checker("jobs").filled({"cluster": cluster, "jobs": {"train": {"command": "train", **job}}})
    return plan(section)


def unit(**job):
    return planned(**job)["jobs"][0]["units"][0]


# --- templates ----------------------------------------------------------------------------------------------


def test_a_template_leaves_the_shell_and_awk_alone():
    text = "x {width} ${width} {{width}} {print $1} {resources.mem_mb} ${HOME} {'a': 1} {output}/y"
    assert template.fields(text) == ["width", "resources.mem_mb", "output"]
    filled = template.fill(text, {"width": "a b", "resources.mem_mb": "5"})
    assert template.finish(filled) == "x 'a b' ${width} {width} {print $1} 5 ${HOME} {'a': 1} {output}/y"


@given(st.text(alphabet="abc$ '\"\\\n{}", max_size=20))
def test_parameters_reach_the_command_as_they_are(value):
    script = template.finish(template.fill("printf %s {value}", {"value": value}))
    if "{" not in value:  # what looks like a place is one
        assert bash(script)[1] == value


# --- the plan -----------------------------------------------------------------------------------------------


def test_points_and_what_determines_them():
    job = planned(
        command="train --rate {rate} --mem {resources.mem_mb} --gres {resources.gres} {output}",
        sweep={"base": {"note": "a b"}, "product": {"rate": [0.1, 1.0]}},
        resources={"default": {"mem_mb": 100, "gres": "gpu:2", "threads": 4}},
        environment={"modules": ["cuda"]},
        progress={"pattern": r"(?P<step>\d+)"},
    )["jobs"][0]
    assert [one["parameters"] for one in job["units"]] == [
        {"note": "a b", "rate": 0.1},
        {"note": "a b", "rate": 1.0},
    ]
    assert job["units"][1]["command"] == "train --rate 1 --mem {resources.mem_mb} --gres gpu:2 {output}"
    assert len(job["units"][0]["point"]) == 12, "a space cannot stand in a path"
    assert (job["told"], job["grows"], job["threads"]) == (["mem_mb"], ["mem_mb"], 4)
    assert job["resources"] == {"mem_mb": 100, "gres": "gpu:2"}
    assert (job["output"], job["segments"]) == (True, 0)


def test_what_is_delivered_and_documented_can_be_meant():
    page = (ROOT / "docs" / "jobs.md").read_text().split("```yaml\n")[1].split("```")[0]
    for text in (page, (ROOT / "config" / "jobs.yaml").read_text()):
        section = yaml.safe_load(text)
        assert [error.message for error in _checker("jobs").errors(section)] == []
        assert all(job["units"] for job in plan(_checker("jobs").filled(section))["jobs"])


def test_only_steps_count_where_silence_is_limited():
    progress = {"pattern": r"step (?P<step>\d+)"}
    assert not planned(progress=progress)["jobs"][0]["counter"]
    assert planned(progress=progress, inactivity={"seconds": 60})["jobs"][0]["counter"]
    assert not planned(inactivity={"seconds": 60})["jobs"][0]["counter"]


def test_labels():
    assert label({"rate": 0.1, "a": 4, "b": True}) == "a=4,b=true,rate=0.1"
    assert label({}) == "once"
    assert len(label({"x": "y" * 200})) == len(label({"x": [1, 2]})) == 12


def test_resources_of_a_cluster():
    resources = {
        "default": {"mem_mb": 100, "slurm_partition": "short"},
        "clusters": {"big": {"slurm_partition": "gpu", "gpu": 2}},
    }
    job = planned(resources=resources)["jobs"][0]
    assert job["resources"] == {"mem_mb": 100, "slurm_partition": "short"}
    job = planned(cluster="big", resources=resources)["jobs"][0]
    assert job["resources"] == {"mem_mb": 100, "slurm_partition": "gpu", "gpu": 2}
    assert (job["told"], job["grows"]) == (["mem_mb"], ["mem_mb"])
    job = planned(cluster="big", resources=resources, environment={"variables": {"N": "{resources.gpu}"}})
    assert job["jobs"][0]["told"] == ["mem_mb", "gpu"]


SEGMENTED = {
    "success": {"pattern": "done"},
    "checkpoints": {},
    "segments": {"runtime": 1.5, "count": 3, "warning_s": 20},
}


def test_segments_bring_their_time_limit_and_signal():
    job = planned(**SEGMENTED)["jobs"][0]
    assert job["segments"] == 3
    assert job["resources"] == {"runtime": 2, "slurm_signal": "USR1@20"} and job["grows"] == []
    assert Limit.of(90.0, 24.0) == (66.0, 82.0, 86.0)


@pytest.mark.parametrize(
    ("inactivity", "stall", "beat"),
    [
        ({"seconds": 600}, 600, 5.0),
        ({"seconds": 8}, 8, 2.0),
        ({"seconds": 0}, 0, None),
        ({"silent_polls": 12}, 60.0, 5.0),
        ({"seconds": 600, "silent_polls": 12}, 600, 5.0),
        ({"seconds": 8, "silent_polls": 12}, 24.0, 2.0),
        (None, None, None),
    ],
)
def test_inactivity_takes_both_time_and_looks(inactivity, stall, beat):
    job = planned(**({"inactivity": inactivity} if inactivity else {}))["jobs"][0]
    assert (job["stall"], job["beat"]) == (stall, beat)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"command": "x {wdith}", "sweep": {"base": {"width": 1}}}, "did you mean {width}"),
        ({"command": "x {resume}"}, "without checkpoints"),
        ({"command": "x", "sweep": {"base": {"output": 1}}}, "stands for something else"),
        ({"command": "x", "sweep": {"product": {"a": []}}}, "sweep.product.a"),
        ({"command": "x\nEND_OF_JOB\ny"}, "has the line END_OF_JOB"),
        ({"segments": {"runtime": 1, "count": 2}}, "needs success"),
        ({**SEGMENTED, "resources": {"default": {"runtime": 5}}}, "take it out"),
        ({**SEGMENTED, "segments": {"runtime": 1, "count": 2, "warning_s": 60}}, "warn later"),
        ({"progress": {"pattern": "step"}}, "no named group"),
        ({"progress": {"pattern": "(?P<step>x)", "total": "{n}"}}, "progress.total"),
        ({"resources": {"limits": {"mem_mb": 5}}}, "no such resource"),
        ({"resources": {"default": {"mem_mb": 9}, "limits": {"mem_mb": 5}}}, "no room"),
    ],
)
def test_what_cannot_be_meant_is_said(job, message):
    with pytest.raises(JobError, match=r"^jobs\.jobs\.train\..*") as error:
        planned(**job)
    assert message in str(error.value)


def test_errors_are_said_in_one_line():
    section = json.dumps({"cluster": None, "jobs": {"train": {"command": "x {stpes}"}}})
    command = [sys.executable, ROOT / "workflow/scripts/job_plan.py", section]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("config/jobs.yaml: jobs.jobs.train.command: {stpes} is neither a parameter")
    assert done.stderr.count("\n") == 1


def test_patterns_with_a_class_hold_for_the_logs_of_their_job():
    patterns = [
        {"name": "melted", "pattern": "the plate has melted", "class": "numerical"},
        {"name": "epoch", "pattern": "epoch"},
    ]
    rules = planned(patterns=patterns)["rules"]
    assert [rule["name"] for rule in rules] == ["train.melted"]
    log = (
        "ripresa: job {}, point once, segment 1: from the beginning\nthe plate has melted\nconnection reset\n"
    )
    assert classify(log.format("train"), exit_code=1, extra_rules=rules).failure_class == "numerical"
    assert classify(log.format("other"), exit_code=1, extra_rules=rules).failure_class == "network"


# --- environments -------------------------------------------------------------------------------------------


def bash(script, **variables):
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, env={**os.environ, **variables}
    )
    return done.returncode, done.stdout, done.stderr


def test_modules_and_virtual_environments_come_before_the_command(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").write_text('echo "venv $undefined"')
    init = tmp_path / "lmod" / "init"
    init.mkdir(parents=True)
    (init / "bash").write_text('module() { [ "$2" != absent ] && echo "$@"; }')
    wanted = {"modules": ["gcc/12", "cuda"], "venv": str(tmp_path)}
    script = environment.script("echo command", wanted, [])
    code, out, _ = bash(script, LMOD_PKG=str(tmp_path / "lmod"))
    assert (code, out) == (0, "load gcc/12\nload cuda\nvenv \ncommand\n")
    script = environment.script("echo command", {"modules": ["absent"]}, [])
    assert bash(script, LMOD_PKG=str(tmp_path / "lmod"))[:2] == (127, "")
    code, _, said = bash(environment.script("echo command", {"venv": "/nowhere"}, []))
    assert code == 127 and classify(said, exit_code=code).failure_class == "environment"


def test_a_container_gets_the_command_whole(tmp_path):
    program = tmp_path / "apptainer"
    program.write_text('#!/bin/bash\necho "${@:1:5}"; exec "${@:6}"')
    program.chmod(0o755)
    container = {"image": "x.sif", "program": "apptainer", "options": ["--nv"]}
    script = environment.script("echo 'a b' | cat\nfalse\necho no", {"container": container}, ["/run"])
    code, out, _ = bash(script, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (code, out) == (1, "exec --bind /run --nv x.sif\na b\n")


# --- checkpoints --------------------------------------------------------------------------------------------


def put(folder, name, content=b"x", at=0):
    path = folder / name
    path.write_bytes(content)
    os.utime(path, ns=(at, at))
    return path


def test_the_newest_valid_checkpoint(tmp_path):
    put(tmp_path, "step9.npz", at=10)
    put(tmp_path, "step10.npz", at=10)
    put(tmp_path, "step11.npz.tmp", at=20)
    put(tmp_path, ".step12.npz", at=20)
    put(tmp_path, "best.pt", at=30)
    assert [one.name for one in candidates(str(tmp_path), "step*")] == ["step10.npz", "step9.npz"]
    put(tmp_path, "step13.npz", b"", at=40)
    said = []
    assert newest_valid(str(tmp_path), "step*.npz", None, said.append).name == "step10.npz"
    assert said == ["checkpoint step13.npz is empty; taking the one before"]
    assert newest_valid(str(tmp_path / "nothing"), "*", None) is None


def test_a_torn_checkpoint_falls_back_to_the_one_before(tmp_path):
    for step in (1, 2):
        np.savez(tmp_path / f"step{step}.npz", step=step, plate=np.zeros(1000))
    whole = (tmp_path / "step2.npz").read_bytes()
    put(tmp_path, "step3.npz", whole[:-50], at=time.time_ns() + 10**9)
    check = (
        f"{sys.executable} -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).testzip()' {{}} 2>/dev/null"
    )
    assert newest_valid(str(tmp_path), "step*.npz", check, str).name == "step2.npz"
    assert newest_valid(str(tmp_path), "step*.npz", None, str).name == "step3.npz", "size alone cannot tell"
    with pytest.raises(JobError, match="command not found"):
        newest_valid(str(tmp_path), "*", "no-such-program {}", str)


def test_directories_are_checkpoints_too(tmp_path):
    (tmp_path / "step1").mkdir()
    (tmp_path / "step1" / "shard0").write_text("x" * 7)
    (tmp_path / "step2").mkdir()
    found = newest_valid(str(tmp_path), "step*", None, str)
    assert (found.name, found.size) == ("step1", 7)


def test_a_segment_that_is_asked_for_again_begins_where_it_began(tmp_path):
    book = Book(str(tmp_path / "c"), "step*")
    os.close(book.hold(str))
    first, second, third = (put(tmp_path / "c", f"step{n}", at=n) for n in (1, 2, 3))
    ends = {one.name: one for one in candidates(book.directory, "step*")}
    for segment, end in ((1, "step2"), (2, "step3")):
        book.note(segment, {"complete": segment == 2, "checkpoint": ends[end].document()}, "one")
    again = Book(book.directory, "step*")
    assert again.completed_in(2) == "one" and again.done(1)["checkpoint"]["name"] == "step2"
    again.back_to(2, str)
    assert (first.exists(), second.exists(), third.exists()) == (True, True, False)
    assert again.done(2) is None and again.done(1)
    # The checkpoint between the segments was pruned: all that is left came later, or is of no use.
    second.unlink()
    again.back_to(2, str)
    assert not first.exists()
    put(tmp_path / "c", "step1")
    again.back_to(1, str)
    assert candidates(book.directory, "step*") == [] and again.done(1) is None
    (tmp_path / "c.json").write_text('{"segments": {"1"')
    assert Book(book.directory, "step*").done(1) is None, "a torn book costs work, no more"


def test_two_processes_never_use_the_same_checkpoints(tmp_path):
    book = Book(str(tmp_path / "c"), "*")
    fd = book.hold(str)
    code = f"""
from ripresa.families.jobs.book import Book
Book({book.directory!r}, "*").hold(lambda text: print(text, flush=True))
print("mine", flush=True)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert "waiting" in other.stdout.readline()
    os.close(fd)
    assert other.communicate(timeout=120)[0] == "mine\n"


# --- logs ---------------------------------------------------------------------------------------------------

SETTINGS = {
    "progress": {
        "pattern": [r"step (?P<step>\S+)/(?P<total>\d+) loss (?P<loss>\S+)", r"(?P<speed>\S+) img/s"]
    },
    "patterns": [
        {"name": "epoch", "pattern": r"epoch (?P<n>\d+)"},
        {"name": "bad", "pattern": "loss nan", "class": "numerical"},
    ],
    "success": {"pattern": "^done$"},
}


def test_what_a_log_tells(tmp_path):
    told = []
    found = extraction.Extraction(SETTINGS, None, lambda kind, **fields: told.append((kind, fields)))
    found.feed(["step 5/100 loss 0.5", "12.5 img/s", "epoch 1 of 3", "not done yet"])
    assert (found.first, found.step, found.total) == (5, 5, 100)
    assert found.metrics == {"loss": 0.5, "speed": 12.5} and not found.succeeded
    found.feed(["step 6/100 loss nan", "step x/100 loss 1", "done"])
    assert (found.first, found.step) == (5, 6) and isinstance(found.step, int)
    assert found.metrics == {"loss": 1, "speed": 12.5} and found.succeeded
    assert told == [("unit_event", {"event": "epoch", "line": "epoch 1 of 3", "groups": {"n": "1"}})]
    found.feed(["step 7/100 loss inf"])
    assert found.metrics["loss"] is None, "JSON has no infinity"


def test_events_of_every_line_are_cut_off():
    told = []
    found = extraction.Extraction(SETTINGS, None, lambda kind, **fields: told.append(fields))
    found.feed(["epoch 1"] * (extraction.MOST_EVENTS + 10))
    assert len(told) == extraction.MOST_EVENTS


@given(st.lists(st.sampled_from(["a", "bc\n", "\r", "d\r\n", "\n", "é\n"]), max_size=30), st.integers(1, 9))
def test_no_line_is_lost_or_read_twice(tmp_path_factory, pieces, chunk):
    path = tmp_path_factory.mktemp("log") / "log"
    path.write_bytes(b"before\n")
    follower, lines = extraction.Follower(str(path)), []
    text = "".join(pieces).encode()
    for start in range(0, len(text), chunk):
        with path.open("ab") as file:
            file.write(text[start : start + chunk])
        lines.extend(follower.lines())
    lines.extend(follower.lines(last=True))
    assert lines == [line for line in text.decode().replace("\r", "\n").split("\n") if line]


def test_progress_is_a_fraction_where_it_can_be_one(tmp_path):
    path = tmp_path / "progress"
    for step, total, text in ((5, 100, "5 100"), (5.0, 100.0, "5 100"), (0.5, 3, "0.5"), (7, None, "7")):
        extraction.write_progress(str(path), step, total)
        assert path.read_text() == f"{text}\n"
    extraction.write_progress(str(tmp_path / "no" / "folder"), 1, 2)


def test_a_job_that_is_not_complete_has_no_result():
    one = {"complete": False, "job": "train", "point": "once", "step": 5}
    with pytest.raises(
        JobError, match="2 segments did not complete point once, which came to step 5"
    ) as error:
        put_together([one, one])
    assert classify(str(error.value), exit_code=1).failure_class == "configuration"


def test_only_processes_that_catch_a_signal_get_it():
    # The child is begun before the trap is set. (In `wait` a shell may miss the signal.)
    script = "sleep 600 >&- & trap 'echo warned; kill $!; exit 0' USR1; echo $!; while :; do sleep 0.05; done"
    shell = subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, text=True)
    child = int(shell.stdout.readline())
    assert child in descendants(shell.pid)
    assert catches(shell.pid, signal.SIGUSR1) and not catches(shell.pid, signal.SIGUSR2)
    assert not catches(child, signal.SIGUSR1) and not catches(1 << 22, signal.SIGUSR1)
    os.kill(shell.pid, signal.SIGUSR1)
    assert shell.communicate(timeout=120)[0] == "warned\n"


def test_a_fork_that_may_become_another_program_catches_nothing_yet():
    script = (
        "import os, signal, time; signal.signal(signal.SIGUSR1, lambda *_: None);"
        " began = time.time(); print(os.fork() or '', began, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        lines = [parent.stdout.readline().split() for _ in range(2)]
        child, began = next((int(line[0]), float(line[1])) for line in lines if len(line) == 2)
        assert catches(parent.pid, signal.SIGUSR1)
        wait_until(lambda: catches(child, signal.SIGUSR1))
        assert time.time() - began >= 1 - 1 / os.sysconf("SC_CLK_TCK")
    finally:
        for pid in (*descendants(parent.pid), parent.pid):
            os.kill(pid, signal.SIGKILL)
        parent.communicate()


# --- one attempt --------------------------------------------------------------------------------------------

STEPS = """
n=$(cat "$RIPRESA_RESUME" 2>/dev/null || echo 0)
while [ $n -lt {last} ]; do
    n=$((n + 1)); echo "step $n"; sleep 0.03
    if [ $((n % {every})) = 0 ]; then
        echo $n > {checkpoints}/x.tmp; mv {checkpoints}/x.tmp {checkpoints}/s$n
    fi
done
echo finished
"""
COUNTED = {
    "command": STEPS,
    "sweep": {"base": {"last": 60, "every": 5}},
    "checkpoints": {},
    "success": {"pattern": "finished"},
    "progress": {"pattern": r"step (?P<step>\d+)", "total": "{last}"},
}


class Runner:
    """Runs attempts of one job as its guard does."""

    def __init__(self, folder):
        self.folder = folder
        self.number = 0
        (folder / "run" / "journal").mkdir(parents=True)

    def __call__(self, job, segment=None, forced=False, session="one"):
        """The exit code of an attempt; its result, log and progress are kept."""
        self.number += 1
        section = _checker("jobs").filled({"cluster": None, "jobs": {"train": job}})
        (self.folder / "run" / "config.yaml").write_text(yaml.safe_dump({"jobs": section}))
        one = plan(section)["jobs"][0]["units"][0]
        command = one.pop("command")
        if segment:
            one["segment"] = segment
        name = f"segment{segment}.json" if segment else "result.json"
        target = f"jobs/train/{one['point']}/{name}"
        run = Run(self.folder / "run")
        log = Path(run.log(target, self.number))
        log.parent.mkdir(parents=True, exist_ok=True)
        self.progress = self.folder / "progress"
        given = {"RUN": run.dir, "TARGET": target, "ATTEMPT": self.number, "SESSION": session}
        given |= {"PROGRESS": self.progress, "LOG": log} | ({"FORCED": 1} if forced else {})
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RIPRESA_")}
        self.out = self.folder / "out"
        self.out.unlink(missing_ok=True)
        with log.open("w") as file:
            done = subprocess.run(
                [sys.executable, ROOT / "workflow/scripts/job_run.py", json.dumps(one), self.out,
                 "--output", self.folder / "output"],
                input=command, text=True, stdout=file, stderr=subprocess.STDOUT, check=False, timeout=60,
                env=inherited | {f"RIPRESA_{name}": str(value) for name, value in given.items()},
            )  # fmt: skip
        self.log = log.read_text()
        assert "Traceback" not in self.log, self.log
        if self.out.exists():
            self.result = json.loads(self.out.read_text())
            schema = ROOT / f"workflow/schemas/job_{'segment' if segment else 'result'}.schema.json"
            jsonschema.validate(self.result, json.loads(schema.read_text()))
        return done.returncode

    def failure(self, code):
        """The class of the failure, by its log."""
        return classify(self.log, exit_code=code).failure_class


@pytest.fixture
def attempt(tmp_path):
    return Runner(tmp_path)


def test_segments_of_a_command_that_heeds_no_warning(attempt):
    """It is ended in time, and what it saved by then is what the next segment begins with."""
    job = {**COUNTED, "sweep": {"base": {"last": 200, "every": 2}}}
    job["segments"] = {"runtime": 0.03, "count": 9, "warning_s": 0.6}
    assert attempt(job, segment=1) == 0
    first = attempt.result
    assert (first["complete"], first["ended_by"], first["resumed_from"]) == (False, "time", None)
    assert attempt(job, segment=2) == 0
    assert attempt.result["resumed_from"] == first["checkpoint"]["name"]
    assert f"from {first['checkpoint']['name']}\n" in attempt.log
    assert attempt.progress.read_text().endswith(" 200\n")
    # Once more, as if the guard had been killed before it could publish: nothing is computed.
    second = attempt.result
    assert attempt(job, segment=2, session="two") == 0
    assert attempt.result == second and attempt.log == ""


def test_a_segment_without_a_new_checkpoint_has_failed(attempt):
    job = {**COUNTED, "sweep": {"base": {"last": 99, "every": 1000}}}
    job["segments"] = {"runtime": 0.02, "count": 9, "warning_s": 0.6}
    code = attempt(job, segment=1)
    assert code == 124 and not attempt.out.exists()
    assert attempt.failure(code) == "time_limit"
    assert attempt.progress.read_text() == "1 99\n", "what was not saved is no progress"


def test_success_is_what_is_declared(attempt):
    job = {
        "command": "echo almost > {output}/file",
        "success": {"pattern": "finished", "file": "{output}/best"},
    }
    code = attempt(job)
    assert code == 1 and attempt.failure(code) == "output_invalid"
    assert "no line of its log matches 'finished' and" in attempt.log and "best does not exist" in attempt.log
    assert attempt({**job, "command": "touch {output}/best; echo finished"}) == 0
    assert attempt({**job, "command": "touch {output}/best; echo finished; exit 3"}) == 3
    assert attempt({"command": "kill -9 $$"}) == 137
    assert attempt({"command": "true"}) == 0


def test_a_command_that_was_warned_and_ended_is_not_complete(attempt):
    job = {"command": "kill -USR1 $PPID; sleep 0.1"}
    code = attempt(job)
    assert code == 124 and attempt.failure(code) == "time_limit"


def test_the_command_finds_its_surroundings(attempt):
    job = {
        "command": "env > {output}/env; echo {resume} {segment} {threads} >> {output}/env",
        "checkpoints": {},
        "environment": {"variables": {"TWICE": "{n}{n}", "DIR": "{checkpoints}"}},
        "sweep": {"base": {"n": 4}},
    }
    assert attempt(job) == 0
    *lines, last = (attempt.folder / "output" / "env").read_text().splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    assert found["TWICE"] == "44" and found["DIR"] == found["RIPRESA_CHECKPOINT_DIR"]
    assert Path(found["DIR"]).is_dir() and (found["RIPRESA_RESUME"], found["RIPRESA_SEGMENT"]) == ("", "1")
    assert last == " 1 1"


def test_what_is_asked_for_again_begins_again(attempt):
    """What failed goes on, and another command has checkpoints of its own."""
    job = {**COUNTED, "sweep": {"base": {"last": 4, "every": 1}}}
    broken = {**job, "success": {"pattern": "never"}}
    assert attempt(broken) == 1 and attempt(job) == 0
    assert attempt.result["segments"][0]["resumed_from"] == "s4"
    assert attempt(job, forced=True, session="one") == 0, "complete in this very session"
    assert attempt.result["segments"][0]["resumed_from"] == "s4"
    assert attempt(job, forced=True, session="two") == 0
    assert attempt.result["segments"][0]["resumed_from"] is None and attempt.result["steps"] == 4
    assert attempt({**job, "command": STEPS + "echo more"}) == 0
    assert attempt.result["segments"][0]["resumed_from"] is None
    assert attempt(job) == 0
    assert attempt.result["segments"][0]["resumed_from"] == "s4"


# --- campaigns ----------------------------------------------------------------------------------------------

COMMAND = (
    "echo $RIPRESA_TARGET $RIPRESA_ATTEMPT from ${RIPRESA_RESUME##*/} >> executions\n"
    f"python {EXAMPLE} --size 24 --rate 0.2 --steps {{steps}} --every {{every}} --pause {{pause}} "
    "--checkpoints {checkpoints} --resume {resume} --output {output}"
)
PLATE = {
    "command": COMMAND,
    "sweep": {"base": {"steps": 150, "every": 5, "pause": 0.02}},
    "success": {"pattern": "^finished"},
    "checkpoints": {"pattern": "step*.npz"},
    "progress": {"pattern": r"step (?P<step>\d+) residual (?P<residual>\S+)", "total": "{steps}"},
}
SEGMENTS = {"segments": {"runtime": 0.06, "count": 9, "warning_s": 1.2}}


class Plant:
    """A checkout whose only family is jobs."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("Snakefile", "rules", "workflow", "profiles"):
            (folder / name).symlink_to(ROOT / name)
        for name in ("local", "slurm"):
            (folder / name).symlink_to(f"profiles/{name}")
        (folder / "config").mkdir()
        (folder / "config" / "config.yaml").write_text("run_id: plant\nfamilies: [jobs]\n")
        (folder / "config" / "recovery.yaml").write_text("time_scale: 0.001\nstall_s: 60000\n")
        self.run = Run(folder / "runs" / "plant")

    def jobs(self, **jobs):
        (self.folder / "config" / "jobs.yaml").write_text(yaml.safe_dump({"jobs": jobs}))

    def start(self, *arguments, profile="local", environment=os.environ):
        inherited = {name: value for name, value in environment.items() if not name.startswith("RIPRESA_")}
        environment = inherited | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return subprocess.Popen(
            ["snakemake", "--profile", profile, "--cores", "4", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments, code=0):
        process = self.start(*arguments)
        self.said = process.communicate(timeout=120)[0]
        assert process.returncode == code, self.said
        assert "Traceback" not in self.said, self.said

    def executions(self):
        """What was executed: target without its family, attempt, checkpoint."""
        file = self.folder / "executions"
        lines = file.read_text().splitlines() if file.exists() else []
        file.write_text("")
        return [line.removeprefix("jobs/").rstrip() for line in lines]

    def path(self, name):
        (found,) = (self.folder / "runs" / "plant" / "jobs").glob(name)
        return found

    def result(self, job):
        return json.loads(self.path(f"{job}/*/result.json").read_text())

    def plate(self, job):
        return self.path(f"{job}/*/result.output/plate.npy").read_bytes()

    def owner(self, target):
        """The owner of a unit's lease, once its command runs."""
        name = Path(self.run.lease(target))
        return wait_until(
            lambda: (o := records.read_json(str(name)) if name.exists() else None) and o.get("group") and o,
            60,
        )

    def records(self, name):
        return attempts.read(self.run, self.run.target_of(self.path(name)))


@pytest.fixture
def plant(tmp_path):
    return Plant(tmp_path)


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """The plate of an uninterrupted computation."""
    folder = tmp_path_factory.mktemp("reference")
    words = ["--size", "24", "--rate", "0.2", "--steps", "150", "--every", "5"]
    command = [sys.executable, EXAMPLE, *words, "--checkpoints", folder, "--output", folder]
    subprocess.run(command, check=True, capture_output=True)
    return (folder / "plate.npy").read_bytes()


@pytest.mark.slow
def test_segments_come_to_the_same_result(plant, reference):
    """And only what determines a result makes a job run again."""
    plain = {**PLATE, "sweep": {"base": {"steps": 150, "every": 50, "pause": 0}}}
    plant.jobs(plate={**PLATE, "segments": {**SEGMENTS["segments"], "count": 1}}, plain=plain)
    plant(code=1)
    assert "segments.count: 1 segments did not complete" in plant.said
    assert len(plant.executions()) == 2
    plant.jobs(plate={**PLATE, **SEGMENTS}, plain=plain)
    plant()
    result = plant.result("plate")
    assert plant.plate("plate") == plant.plate("plain") == reference
    assert len(result["segments"]) >= 2 and result["steps"] == result["total"] == 150
    ends = [one["ended_by"] for one in result["segments"]]
    assert ends == ["warning"] * (len(ends) - 1) + ["success"]
    for before, after in pairwise(result["segments"]):
        assert after["resumed_from"] == before["checkpoint"]["name"] == f"step{before['step']:08}.npz"
    assert result["metrics"].keys() == {"residual"}
    assert len(plant.executions()) == len(ends) - 1

    changed = {
        "patterns": [{"name": "odd", "pattern": "odd", "class": "code"}],
        "inactivity": {"seconds": 100, "silent_polls": 3},
        "success": {"pattern": "^finished after"},
        "resources": {"default": {"slurm_partition": "x", "gpu": 1}},
    }
    plant.jobs(plate={**PLATE, **SEGMENTS, **changed}, plain={**plain, **changed})
    plant()
    assert plant.executions() == []
    plant.jobs(plate={**PLATE, **SEGMENTS}, plain={**plain, "command": COMMAND + " # anew"})
    plant()
    assert plant.executions() == ["plain/every=50,pause=0,steps=150/result.json 2 from"]

    plant("--forcerun", "job_plate_segment")
    starts = plant.executions()
    assert [line for line in starts if line.endswith(" from")] == starts[:1] and "segment1" in starts[0]
    assert plant.plate("plate") == reference


@pytest.mark.slow
def test_a_warning_from_outside_ends_a_segment(plant, reference):
    """As SLURM sends it, to the guard."""
    plant.jobs(plate={**PLATE, "segments": {"runtime": 60, "count": 3}})
    controller = plant.start()
    owner = plant.owner("jobs/plate/every=5,pause=0.02,steps=150/segment1.json")
    wait_until(lambda: list((plant.path("plate/*") / "checkpoints").glob("*/step*.npz")), 60)
    os.kill(owner["pid"], signal.SIGUSR1)
    assert controller.wait(120) == 0
    assert [one["ended_by"] for one in plant.result("plate")["segments"]] == ["warning", "success"]
    assert plant.plate("plate") == reference


@pytest.mark.slow
@pytest.mark.parametrize(("segment", "victim"), [(1, "guard"), (2, "controller"), (2, "all"), (3, "guard")])
def test_killed_in_any_segment(plant, reference, segment, victim):
    """The result is the same to the last bit, and no segment begins anew."""
    check = f"{sys.executable} -c 'import sys, numpy; numpy.load(sys.argv[1])[\"plate\"]' {{}} 2>/dev/null"
    pause = 0.02 if segment == 1 else 0.06  # so long that there are a third segment and time in the second
    job = {**PLATE, **SEGMENTS, "checkpoints": {"pattern": "step*.npz", "validate": check}}
    plant.jobs(plate={**job, "sweep": {"base": {"steps": 150, "every": 5, "pause": pause}}})
    controller = plant.start()
    target = f"jobs/plate/every=5,pause={pause},steps=150/segment{segment}.json"
    owner = plant.owner(target)
    folder = plant.path("plate/*") / "checkpoints"
    before = len(list(folder.glob("*/step*.npz")))
    wait_until(lambda: len(list(folder.glob("*/step*.npz"))) >= before + 3, 60)
    if victim != "guard":
        controller.kill()
    if victim != "controller":
        os.kill(owner["pid"], signal.SIGKILL)
        os.killpg(owner["group"], signal.SIGKILL)
        newest = max(folder.glob("*/step*.npz"))
        (newest.parent / "step99999999.npz").write_bytes(newest.read_bytes()[:-100])
    if victim == "guard":
        controller.communicate(timeout=120)
        assert controller.returncode == 0
    else:
        controller.communicate(timeout=120)
        plant()
    assert plant.plate("plate") == reference
    starts = plant.executions()
    assert [line for line in starts if line.endswith(" from")] == starts[:1]
    again = [line for line in starts if f"segment{segment}.json" in line]
    assert len(again) == (1 if victim == "controller" else 2)
    if victim != "controller":
        log = Path(plant.run.log(target, 2)).read_text()
        assert "checkpoint step99999999.npz is not valid" in log


@pytest.mark.slow
def test_a_job_that_gets_no_further_is_given_up(plant):
    job = {**COUNTED, "command": "echo $RIPRESA_ATTEMPT >> executions" + STEPS}
    job |= {"sweep": {"base": {"last": 999, "every": 1000}}}
    plant.jobs(idle={**job, "segments": {"runtime": 0.02, "count": 9, "warning_s": 0.4}})
    plant(code=1)
    history = attempts.read(plant.run, "jobs/idle/every=1000,last=999/segment1.json")
    assert {record["failure_class"] for record in history} == {"time_limit"}
    assert [record["decision"] for record in history] == ["retry"] * 3 + ["refused"]
    assert "3 restarts brought no progress" in history[-1]["evidence"]


@pytest.mark.timeout(900)
def test_segments_on_a_cluster_that_loses_a_node(slurm, plant, tmp_path_factory):
    """SLURM warns and starts the next segment; what was lost goes on from the newest checkpoint."""
    folder = tmp_path_factory.mktemp("reference")
    words = ["--size", "24", "--rate", "0.2", "--steps", "320", "--every", "10"]
    command = [sys.executable, EXAMPLE, *words, "--checkpoints", folder, "--output", folder]
    subprocess.run(command, check=True, capture_output=True)
    job = {**PLATE, "sweep": {"base": {"steps": 320, "every": 10, "pause": 0.25}}}
    job["segments"] = {"runtime": 1, "count": 20, "warning_s": 10}
    job["resources"] = {"default": {"slurm_partition": "cpu", "mem_mb": 500}}
    plant.jobs(plate=job)
    controller = plant.start(profile="slurm", environment=slurm.environment)
    target = "jobs/plate/every=10,pause=0.25,steps=320/segment2.json"
    node = wait_until(
        lambda: (o := records.read_json(plant.run.lease(target)) or {}).get("group") and o["host"], 120
    )
    saved = len(list((plant.path("plate/*") / "checkpoints").glob("*/step*.npz")))
    wait_until(lambda: len(list((plant.path("plate/*") / "checkpoints").glob("*/step*.npz"))) > saved + 1, 60)
    slurm.lose(node)
    said = controller.communicate(timeout=600)[0]
    assert controller.returncode == 0, said
    assert plant.plate("plate") == (folder / "plate.npy").read_bytes()
    result = plant.result("plate")
    # SLURM looks every 30 s for those whose time is nearly up, so their number varies.
    assert len(result["segments"]) >= 2
    assert {one["ended_by"] for one in result["segments"][:-1]} == {"warning"}
    starts = plant.executions()
    assert [line for line in starts if line.endswith(" from")] == starts[:1]
    assert (
        len([line for line in starts if line.startswith("plate/every=10,pause=0.25,steps=320/segment2")]) == 2
    )
