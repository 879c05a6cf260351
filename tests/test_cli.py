"""The command `ripresa`, on runs that the real snakemake made."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ripresa.cli import estimates, main, runs
from ripresa.cli.checks import hosts
from ripresa.journal import clock, leases, processes, records
from ripresa.journal.paths import Run

ROOT = Path(__file__).parents[1]
RIPRESA = Path(sys.executable).with_name("ripresa")
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("RIPRESA_", "SNAKEMAKE"))
}
ENVIRONMENT["PATH"] = f"{RIPRESA.parent}{os.pathsep}{ENVIRONMENT['PATH']}"

SNAKEFILE = f"""
configfile: "config/config.yaml"
include: "{ROOT}/rules/common.smk"

work = Units(
    "work/{{kind}}.txt",
    parameters=[{{"kind": kind}} for kind in config["work"]["kinds"]],
    skip=lambda unit: "no such device" if unit["kind"] == "absent" else None,
)

rule all:
    input: work.targets()

rule make:
    output: work.target, work.beside(".csv")
    log: work.log
    params: unit=work.params
    shell: guard("bash unit.sh {{wildcards.kind}} {{output[0]}} {{output[1]}}")
"""
UNIT = """
case $1 in
    missing) nosuchtool --version ;;
    later) echo "ssh: connect to host n1 port 22: Connection timed out"; exit 255 ;;
    slow) sleep 3000 ;;
    odd) echo "the frobnicator is cross"; exit 3 ;;
esac
code=$?; [ $code = 0 ] || exit $code
echo $1 > $2; echo kind,$1 > $3
"""
FILES = {
    "Snakefile": SNAKEFILE,
    "unit.sh": UNIT,
    "config/config.yaml": "run_id: small\nfamilies: [work]\n",
    "config/work.yaml": "kinds: [good, better, missing, later, slow, absent]\n",
    "config/recovery.yaml": "time_scale: 20\n",  # 100 to 120 minutes of backoff: longer than the tests
}
STATES = {
    "work/good.txt": "COMPLETED",
    "work/better.txt": "COMPLETED",
    "work/missing.txt": "QUARANTINED",
    "work/later.txt": "WAITING",
    "work/slow.txt": "RUNNING",
    "work/absent.txt": "SKIPPED",
}
COMMANDS = (
    ["status"],
    ["status", "--all"],
    ["why", "missing.txt"],
    ["why", "work/slow.txt"],
    ["verify"],
    ["release", "--all"],
    ["doctor"],
)


def ripresa(folder, *words, code=0, text=""):
    """Call the command; a traceback never is an answer, and errors are few lines on stderr."""
    done = subprocess.run(
        [RIPRESA, *words],
        cwd=folder,
        env=ENVIRONMENT,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    said = f"ripresa {' '.join(words)} returned {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode in (code if isinstance(code, tuple) else (code,)), said
    assert "Traceback" not in done.stderr, said
    assert "mistake of its own" not in done.stderr, said
    assert all(line.startswith("ripresa: ") for line in done.stderr.splitlines()), said
    return done


def document(folder, *words, code=0, text=""):
    return json.loads(ripresa(folder, *words, "--json", code=code, text=text).stdout)


def states(folder, *words):
    return {
        unit["target"]: unit["state"] for unit in document(folder, "status", *words, code=(0, 1))["units"]
    }


def campaign(folder, **files):
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    for name, content in {**FILES, **files}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)


def start(folder, *options):
    with open(folder / "output.log", "ab") as log:
        return subprocess.Popen(
            ["snakemake", "--cores", "4", "--latency-wait", "0", *options],
            cwd=folder,
            env=ENVIRONMENT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def until(true, what, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.1)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run with a unit in every state, whose controller was killed -9 while one of them ran.

    ``controlled`` keeps what status and doctor said before.
    """
    folder = tmp_path_factory.mktemp("campaign")
    campaign(folder)
    controller = start(folder)
    try:
        run = folder / "runs/small"
        until(
            lambda: (run / "journal/units.jsonl").exists() and states(folder) == STATES,
            "the units are not in their states",
        )
        answers = {
            "pid": controller.pid,
            "status": document(folder, "status", code=1),
            "text": ripresa(folder, "status", code=1).stdout,
            "why": document(folder, "why", "later.txt"),
            "doctor": document(folder, "doctor", code=(0, 1)),
        }
        controller.kill()
        controller.wait()
        (folder / "controlled").write_text(json.dumps(answers))
        yield folder
    finally:
        owner = leases.owner(Run(folder / "runs/small").lease("work/slow.txt")) or {}
        if owner.get("pid"):
            processes.kill(owner["pid"], signal.SIGTERM)
        processes.kill(controller.pid, signal.SIGKILL)
        controller.wait()


@pytest.fixture
def controlled(killed):
    return json.loads((killed / "controlled").read_text())


@pytest.fixture
def copy(killed, tmp_path):
    """The campaign for oneself, as it was when all was killed: nothing holds its leases."""
    return shutil.copytree(killed, tmp_path / "copy")


# --- status ---


def test_status_has_the_agreed_keys(controlled):
    answer = controlled["status"]
    assert answer["run_id"] == "small"
    assert answer["config"]["changed"] is False
    assert re.fullmatch("[0-9a-f]{64}", answer["config"]["sha256"])
    assert answer["counts"] == {"RUNNING": 1, "WAITING": 1, "COMPLETED": 2, "QUARANTINED": 1, "SKIPPED": 1}
    units = {unit["target"]: unit for unit in answer["units"]}
    assert {target: unit["state"] for target, unit in units.items()} == STATES
    keys = {"target", "rule", "family", "state", "attempts", "failure_class", "not_before", "device"}
    assert all(keys <= unit.keys() for unit in units.values())
    later = units["work/later.txt"]
    assert (later["rule"], later["family"], later["attempts"]) == ("make", "work", 1)
    assert later["failure_class"] == "network" and later["not_before"].endswith("+00:00")
    assert answer["controller"]["pid"] == controlled["pid"]


def test_status_for_people(controlled, killed):
    text = controlled["text"]
    assert text.startswith("run small: ") and "2 COMPLETED" in text
    assert f"process {controlled['pid']} on {os.uname().nodename}" in text
    assert "configuration: unchanged" in text
    assert re.search(r"^next: retry of work/later.txt in (1|2) h .*, at ", text, re.MULTILINE)
    lines = [line.split()[:2] for line in text.splitlines() if re.search("^[A-Z]+ +work/", line)]
    assert lines == [
        ["QUARANTINED", "work/missing.txt"],
        ["WAITING", "work/later.txt"],
        ["RUNNING", "work/slow.txt"],
        ["SKIPPED", "work/absent.txt"],
    ]
    assert re.search(r"work/later.txt .* again in (1|2) h .*Connection timed out", text)
    after = ripresa(killed, "status", "--all", code=1).stdout
    assert "controller: none" in after and "work/good.txt" in after


def test_status_on_a_terminal(killed):
    master, slave = os.openpty()
    command = [RIPRESA, "status", "--all"]
    environment = {**ENVIRONMENT, "TERM": "xterm-256color", "COLUMNS": "120"}
    done = subprocess.run(command, cwd=killed, env=environment, stdout=slave, stderr=slave, check=False)
    os.close(slave)
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert done.returncode == 1
    assert "\x1b[" in shown and "QUARANTINED" in shown and "Traceback" not in shown


def test_status_names_what_blocks_a_unit(tmp_path):
    """A quarantined unit, one that needs it, and one that needs that one; others are not held up."""
    downstream = """
for_all = Units("sums/{kind}.txt", parameters=[{"kind": kind} for kind in config["work"]["kinds"]])
final = Units("final.txt", parameters=[{}])

rule sum:
    input: work.target
    output: for_all.target
    shell: guard("cp {input[0]} {output}")

rule final:
    input: for_all.targets()
    output: final.target
    shell: guard("cat {input} > {output}")
"""
    snakefile = SNAKEFILE.replace(
        "rule all:\n    input: work.targets()", "rule all:\n    input: 'runs/small/final.txt'"
    )
    files = {"Snakefile": snakefile + downstream, "config/work.yaml": "kinds: [good, missing]\n"}
    campaign(tmp_path, **files)
    assert start(tmp_path).wait(60) == 1, (tmp_path / "output.log").read_text()
    answer = document(tmp_path, "status", code=1)
    waits = {unit["target"]: unit["waits_for"] for unit in answer["units"]}
    blocked = {"what": "blocked", "names": ["work/missing.txt"], "count": 1, "until": None}
    assert {target: wait for target, wait in waits.items() if wait} == {
        "final.txt": blocked,
        "sums/missing.txt": blocked,
    }
    assert answer["counts"] == {"PENDING": 2, "COMPLETED": 2, "QUARANTINED": 1}
    assert answer["next_event"] is None
    text = ripresa(tmp_path, "status", code=1).stdout
    assert re.search(r"^PENDING +final.txt +0 +blocked by work/missing.txt$", text, re.MULTILINE)
    why = ripresa(tmp_path, "why", "final.txt").stdout
    assert "No attempt so far; it waits: blocked by work/missing.txt." in why
    assert "to do: see `ripresa why work/missing.txt`, which blocks it" in why


def test_status_shows_a_changed_configuration(copy):
    (copy / "config/work.yaml").write_text("kinds: [good, better, missing, later, slow, other]\n")
    config = document(copy, "status", code=1)["config"]
    assert config["changed"] is True
    assert config["difference"] == ["work.kinds[5]: 'absent' -> 'other'"]
    assert "work.kinds[5]: 'absent' -> 'other'" in ripresa(copy, "status", code=1).stdout


def test_what_is_damaged_in_the_configuration_matters_only_where_it_is_needed(copy):
    (copy / "config/config.yaml").write_text("run_id: small\nfamilies: [work, play]\nsurprise: 1\n")
    done = ripresa(copy, "status", code=2)
    assert "config/play.yaml: does not exist" in done.stderr and "surprise" in done.stderr
    assert done.stdout == ""
    answer = document(copy, "status", "--run", "small", code=1)
    assert answer["config"]["changed"] is None and "play.yaml" in answer["config"]["problem"]
    ripresa(copy, "why", "good.txt", "--run", "small")
    ripresa(copy, "verify", "--run", "small")
    ripresa(copy, "release", "--all", "--run", "small")
    found = {check["name"]: check for check in document(copy, "doctor", code=1)}
    assert found["configuration"]["level"] == "fail"
    ripresa(copy, "plan", code=2)


# --- why ---


def test_why_says_what_failed_and_what_to_do(killed):
    answer = document(killed, "why", "work/missing.txt", code=1)
    assert answer["state"] == "QUARANTINED"
    (attempt,) = answer["history"]
    assert attempt["failure_class"] == "environment" and attempt["exit_code"] == 127
    assert attempt["evidence"] in Path(attempt["log"]).read_text()
    host = os.uname().nodename
    assert answer["advice"] == (
        f"install the program nosuchtool on {host}; then `ripresa release work/missing.txt` and "
        "`snakemake --rerun-incomplete`"
    )
    text = ripresa(killed, "why", "missing.txt", code=1).stdout
    for part in (
        "Attempt 1 failed after ",
        f" on {host}, ",
        ": something that it needs is not installed here (environment, exit code 127).",
        "environment",
        "nosuchtool: command not found",
        "It is in quarantine and not tried again: it stays missing until somebody installs it.",
        attempt["log"],
    ):
        assert part in text


def test_why_for_what_needs_nobody(controlled, killed):
    advice = r"nothing: the running controller starts it at .*, in (1|2) h .*"
    assert re.fullmatch(advice, controlled["why"]["advice"])
    assert document(killed, "why", "later.txt")["advice"].startswith("call `snakemake --rerun-incomplete`")
    assert ripresa(killed, "why", "good.txt").stdout.endswith("to do: nothing: it is done\n")
    running = document(killed, "why", "slow.txt")
    assert running["running"]["attempt"] == 1 and running["advice"].startswith("nothing")
    assert "no such device" in ripresa(killed, "why", "absent.txt").stdout


@pytest.mark.parametrize(
    "word",
    [
        "work/good.txt",
        "good.txt",
        "runs/small/work/good.txt",
        "./runs/small/work/good.txt",
        "g*d.txt",
        "work/go?d.txt",
    ],
)
def test_a_unit_has_many_names(killed, word):
    assert document(killed, "why", word)["target"] == "work/good.txt"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("goood.txt", "did you mean work/good.txt"),
        ("*.txt", "names 6 units"),
        ("../../etc/passwd", "no unit of run 'small' is called"),
        ("", "no unit of run 'small' is called"),
    ],
)
def test_a_unit_that_is_not_meant(killed, word, message):
    assert message in ripresa(killed, "why", word, code=2).stderr


# --- classify ---


@pytest.mark.parametrize(
    ("words", "text", "name", "retry"),
    [
        ([], "ssh: connect to host n1 port 22: Connection timed out\n", "network", True),
        (["--exit", "1"], "ModuleNotFoundError: No module named 'torch'\n", "environment", False),
        (["--state", "OUT_OF_MEMORY"], "", "memory", True),
        (["--state", "TIMEOUT"], "working\n", "time_limit", True),
        (["-"], "curl: (6) Could not resolve host: example.org\n", "network", True),
    ],
)
def test_classify_needs_no_campaign(tmp_path, words, text, name, retry):
    answer = document(tmp_path, "classify", *words, text=text)
    assert answer.keys() == {"class", "retry", "evidence", "rule"}
    assert (answer["class"], answer["retry"]) == (name, retry)
    assert not text or answer["evidence"] == text.strip()


def test_classify_reads_files_and_signals(tmp_path):
    (tmp_path / "a.log").write_bytes(
        b"\xff\x00 noise\nslurmstepd: error: *** JOB 7 CANCELLED DUE TO PREEMPTION ***\n"
    )
    assert document(tmp_path, "classify", "a.log")["class"] == "preempted"
    by_name, by_number = (document(tmp_path, "classify", "--signal", s) for s in ("SEGV", "11"))
    assert by_name == by_number
    for words in (["nofile.log"], ["."], ["--signal", "SIGFOO"], ["--exit", "x"]):
        assert len(ripresa(tmp_path, "classify", *words, code=2).stderr.splitlines()) == 1


def test_classify_knows_the_rules_of_the_configuration(tmp_path):
    (tmp_path / "unknown.log").write_text("the frobnicator is cross\n")
    before = document(tmp_path, "classify", "unknown.log", "--exit", "3")
    assert before["class"] == "unknown"
    campaign(
        tmp_path,
        **{
            "config/recovery.yaml": "rules: [{name: cross, class: service, pattern: frobnicator is}]\n",
            "config/work.yaml": "kinds: [odd]\n",
        },
    )
    answer = document(tmp_path, "classify", "unknown.log", "--exit", "3")
    assert (answer["class"], answer["rule"]) == ("service", "cross")
    # and so does the run
    controller = start(tmp_path)
    try:
        until(lambda: records.read(Run(tmp_path / "runs/small").attempts("work/odd.txt")), "no attempt ended")
    finally:
        os.killpg(controller.pid, signal.SIGKILL)
        controller.wait()
    (attempt,) = records.read(Run(tmp_path / "runs/small").attempts("work/odd.txt"))
    assert (attempt["failure_class"], attempt["classifier_rule"]) == ("service", "cross")
    shutil.rmtree(tmp_path / "config")
    assert document(tmp_path, "classify", "unknown.log", "--run", "small")["rule"] == "cross"


# --- plan ---


def test_plan_shows_changes_reasons_and_what_is_held(copy):
    (copy / "config/work.yaml").write_text("kinds: [good, better, missing, later, fresh]\n")
    (copy / "runs/small/work/better.txt").unlink()
    answer = document(copy, "plan")
    assert answer["changes"] == ["work.kinds[4]: 'slow' -> 'fresh'", "work.kinds[5]: 'absent' -> (not set)"]
    assert answer["rules"] == [{"rule": "make", "units": 4, "reasons": {"not made yet": 4}}]
    assert {unit["target"] for unit in answer["units"]} == {
        f"work/{kind}.txt" for kind in ("better", "missing", "later", "fresh")
    }
    assert sorted(answer["held"]) == ["work/later.txt", "work/missing.txt"]
    text = ripresa(copy, "plan").stdout
    assert "4 units would run" in text and "QUARANTINED" in text and "(network)" in text
    done = ripresa(copy, "plan", "--", "no/such/target", code=1)
    assert "no/such/target" in done.stderr and len(done.stderr.splitlines()) == 1


def test_plan_before_the_first_start_and_with_a_refusal(tmp_path):
    campaign(tmp_path)
    assert len(document(tmp_path, "plan")["units"]) == 5
    assert not (tmp_path / "runs").exists()


def test_a_budget_refuses_before_anything_was_measured(tmp_path):
    """By a guess first, then by what the same rule took in another run of the checkout."""
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    with (tmp_path / "config/config.yaml").open("a") as config:
        config.write("budget: {core_hours: 0.1}\n")
    done = ripresa(tmp_path, "plan", code=1)
    assert re.search(
        r"core-hours, a guess, are beyond the budget of 0.1 .*`ripresa plan --yes` confirms it", done.stderr
    )
    assert "  5 units by a guess: nothing was measured yet" in done.stdout
    between = re.search(r"in 90% of cases between .*, (\S+) and (\S+) core-hours", done.stdout)
    assert between and float(between[2]) > 10 * float(between[1])
    for run_id, seconds in (("old", 9000), ("newer", 36)):
        other = Run(tmp_path / "runs" / run_id)
        for number in range(8):
            times = {"started": clock.iso(1e9), "ended": clock.iso(1e9 + seconds)}
            unit = {"target": f"work/{number}.txt", "rule": "make"}
            records.append(other.units, unit)
            records.append(
                other.attempts(unit["target"]), {"attempt": 1, "outcome": "published", **unit, **times}
            )
    os.utime(tmp_path / "runs/old/journal/units.jsonl", (1e9, 1e9))
    found = document(tmp_path, "plan", "--placement")
    estimate, end = found["estimate"], found["placement"]["end"]
    assert estimate["core_hours"] == 0.05
    assert estimate["from"] == [{"rule": "make", "run_id": "newer", "units": 8}]
    assert estimate["interval"]["core_hours"][0] < 0.05 < estimate["interval"]["core_hours"][1] < 0.2
    told = "  5 units by what 8 units of run newer took, as this run has published none of their rule"
    assert told in estimates.lines(estimate)
    assert end["guessed"] == 0 and end["low_s"] <= end["expected_s"] <= end["high_s"] < 600


def test_plan_of_a_strict_campaign(copy):
    (copy / "config/config.yaml").write_text(FILES["config/config.yaml"] + "strict_resume: true\n")
    ripresa(copy, "plan")
    (copy / "config/work.yaml").write_text("kinds: [good]\n")
    assert "refuses to resume" in ripresa(copy, "plan", code=2).stderr


# --- verify ---


def test_verify_names_what_is_missing_or_changed(copy):
    good = document(copy, "verify")
    assert good["ok"] and (good["units"], good["files"]) == (2, 4)
    work = copy / "runs/small/work"
    (work / "good.txt").write_text("bad\n")
    (work / "better.csv").unlink()
    (work / "missing.txt").write_text("made by hand\n")
    answer = document(copy, "verify", code=1)
    assert {problem["file"]: problem["problem"] for problem in answer["problems"]} == {
        "work/good.txt": "changed",
        "work/better.csv": "missing",
        "work/missing.txt": "unrecorded",
    }
    text = ripresa(copy, "verify", code=1).stdout
    assert "work/better.csv" in text and "3 problems" in text


# --- release ---


def test_release_ends_a_quarantine_and_keeps_its_history(copy):
    run = Run(copy / "runs/small")
    before = Path(run.attempts("work/missing.txt")).read_text()
    answer = document(copy, "release", "missing.txt")
    assert answer["released"] == ["work/missing.txt"]
    after = Path(run.attempts("work/missing.txt")).read_text()
    assert after.startswith(before)
    added = json.loads(after[len(before) :])
    assert (added["attempt"], added["outcome"], added["decision"]) == (1, "released", "retry")
    assert states(copy)["work/missing.txt"] == "PENDING"
    assert records.last(run.events)["type"] == "unit_retry_scheduled"
    assert "released by hand" in ripresa(copy, "why", "missing.txt").stdout
    assert "is PENDING" in ripresa(copy, "release", "missing.txt", code=1).stderr
    assert not Path(run.lease("work/missing.txt")).exists()

    # The unit itself stays as it was: only the tool comes.
    (copy / "bin").mkdir()
    tool = copy / "bin/nosuchtool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    environment = {**ENVIRONMENT, "PATH": f"{copy}/bin:{ENVIRONMENT['PATH']}"}
    call = ["snakemake", "--cores", "2", "runs/small/work/missing.txt"]
    done = subprocess.run(call, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    history = records.read(run.attempts("work/missing.txt"))
    assert [(r["attempt"], r["outcome"]) for r in history] == [
        (1, "failed"),
        (1, "released"),
        (2, "published"),
    ]


def test_release_refuses_what_is_not_stopped(copy):
    run = Run(copy / "runs/small")
    done = ripresa(copy, "release", "good.txt", "missing.txt", code=1)
    assert "work/good.txt: not released, it is COMPLETED" in done.stderr
    assert "work/missing.txt: released" in done.stdout
    # This is what a controller killed with its guards leaves, and what a release must not wipe away.
    assert "is STALE" in ripresa(copy, "release", "slow.txt", code=1).stderr
    assert leases.owner(run.lease("work/slow.txt"))["attempt"] == 1
    assert "none is stopped" in ripresa(copy, "release", "work/*", code=1).stderr
    assert document(copy, "release", "--all")["released"] == []
    for words in ([], ["good.txt", "--all"], ["nonsense"]):
        ripresa(copy, "release", *words, code=2)


def test_release_keeps_off_a_unit_in_execution(copy):
    lease = leases.acquire(Run(copy / "runs/small"), "work/missing.txt")
    try:
        assert "is RUNNING" in ripresa(copy, "release", "missing.txt", code=1).stderr
    finally:
        lease.release()
    assert "released" in ripresa(copy, "release", "work/miss*").stdout


# --- doctor ---


def test_doctor_finds_this_machine_fit(controlled):
    checks = {check["name"]: check for check in controlled["doctor"]}
    for name in (
        "python",
        "snakemake",
        "snakemake command",
        "scheduler plugin recovery",
        "profile",
        "configuration",
    ):
        assert checks[name]["level"] == "ok", checks[name]
    for name in ("writable", "hard links", "file locks", "clock", "journal"):
        assert checks[name]["level"] == "ok", checks[name]
    assert str(controlled["pid"]) in checks["controller"]["found"]
    assert checks["leases"]["found"] == "1 unit running"
    assert all(check["fix"] for check in checks.values() if check["level"] != "ok")


def test_doctor_says_who_assigns_devices_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("ripresa.cli.checks.hosts._ask", lambda hosts: iter(()))
    inventory = tmp_path / "hosts.yaml"
    inventory.write_text("all: {hosts: {h1: {ansible_connection: local}}}\n")
    monkeypatch.setenv("ANSIBLE_INVENTORY", str(inventory))
    told = {}
    for profile in ("ansible", "slurm", "local"):
        found = hosts.checks({"inventory": str(inventory)}, profile)
        told[profile] = next((one.found for one in found if one.name == "devices elsewhere"), None)
    assert "SLURM assigns them" in told["slurm"] and told["local"] is None
    assert "a unit that needs a GPU is alone" in told["ansible"]


def test_doctor_finds_what_a_crash_left(killed, copy):
    checks = {check["name"]: check for check in document(killed, "doctor")}
    assert checks["without controller"]["found"] == "work/slow.txt runs on"
    assert checks["controller"]["found"] == "none"
    checks = {check["name"]: check for check in document(copy, "doctor")}
    assert checks["stale leases"]["found"] == "work/slow.txt was cut short"
    assert list(copy.rglob(".doctor*")) == []


def test_doctor_finds_a_command_without_its_guard(copy):
    path = Path(Run(copy / "runs/small").lease("work/slow.txt"))
    gone = subprocess.Popen(["true"])
    gone.wait()
    owner = {**leases.owner(str(path)), "pid": gone.pid}
    path.write_text(json.dumps(owner))
    orphan = subprocess.Popen(["flock", str(path), "sleep", "60"], start_new_session=True)
    try:
        until(lambda: leases.held(str(path)), "the lock is not taken")
        checks = {check["name"]: check for check in document(copy, "doctor")}
        assert "work/slow.txt runs on without its guard" in checks["orphaned commands"]["found"]
    finally:
        os.killpg(orphan.pid, signal.SIGKILL)
        orphan.wait()


@pytest.mark.parametrize(
    ("profile", "found"),
    [
        (
            "scheduler: greedy\nnolock: true\nlogger: [journal]\nretries: 100\nrerun-incomplete: true\n",
            "scheduler must be recovery",
        ),
        ("keep-incomplete: true\n", "keep-incomplete must be absent"),
        ("[", "profiles/default/config.yaml: line"),
        (None, "does not exist"),
    ],
)
def test_doctor_finds_a_broken_profile(copy, profile, found):
    path = copy / "profiles/default/config.yaml"
    path.unlink() if profile is None else path.write_text(profile)
    (check,) = (check for check in document(copy, "doctor", code=1) if check["name"] == "profile")
    assert check["level"] == "fail" and found in check["found"]
    assert "fail: profile: " in ripresa(copy, "doctor", code=1).stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_doctor_finds_a_directory_that_cannot_be_written(copy):
    (copy / "runs/small").chmod(0o555)
    checks = {check["name"]: check for check in document(copy, "doctor", code=1)}
    assert checks["writable"]["level"] == "fail"


# --- report ---


def test_report(copy):
    answer = document(copy, "report")
    assert answer["report"] == str(copy / "runs/small/report.html")
    assert "<html" in Path(answer["report"]).read_text()
    (copy / "Snakefile").write_text("rule broken\n")
    assert len(ripresa(copy, "report", code=1).stderr.splitlines()) == 1


# --- usage, and files that are not as they should be ---


def test_a_run_may_be_named_before_and_after_the_command(killed):
    for words in (["--run", "small", "status"], ["status", "--run", "runs/small/"]):
        assert document(killed, *words, code=1)["config"]["changed"] is False


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["dance"],
        ["status", "--run"],
        ["status", "--run", "other"],
        ["status", "--run", "../small"],
        ["status", "--run", ""],
        ["plan", "--surprise"],
        ["why"],
        ["verify", "surplus"],
        ["report", "--run", "other"],
    ],
)
def test_wrong_usage_is_one_line(killed, words):
    done = ripresa(killed, *words, code=2)
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1


def test_no_run_and_no_checkout(tmp_path):
    done = ripresa(tmp_path, "status", code=2)
    assert "config/ does not exist here" in done.stderr
    campaign(tmp_path)
    assert "has not started" in ripresa(tmp_path, "status", code=2).stderr
    (tmp_path / "runs/small").mkdir(parents=True)
    answer = document(tmp_path, "status")
    assert answer["units"] == [] and answer["config"]["changed"] is None
    assert "no units yet" in ripresa(tmp_path, "status").stdout
    ripresa(tmp_path, "verify")
    ripresa(tmp_path, "why", "x", code=2)


GARBAGE = {
    "empty": b"",
    "torn": b'{"attempt": 1, "outco',
    "binary": bytes(range(256)),
    "other JSON": b'[1, 2]\n"text"\nnull\n7\n',
    "wrong types": b'{"target": {"a": []}, "attempt": "one", "outcome": 5, "decision": ["retry"], '
    b'"not_before": 3, "failure_class": 9, "evidence": {"x": 1}, "scopes": 4, "outputs": [1], '
    b'"output_sha256": [], "started": [], "log": 4, "host": {}, "pid": "x", "rule": 4, "config_sha256": 3}\n',
    "no numbers": b'{"attempt": NaN, "outcome": "failed", "decision": "retry", "pid": Infinity}\n',
    "odd scopes": b'{"attempt": 1, "outcome": "failed", "decision": "retry", "scopes": [["a"], {}, 3], '
    b'"not_before": "tomorrow"}\n',
    "deep": b"[" * 100_000 + b"\n",
}
DAMAGED = (
    "journal/attempts/work/missing.txt.jsonl",
    "journal/attempts/work/good.txt.jsonl",
    "journal/units.jsonl",
    "journal/breakers.json",
    "journal/recovery.json",
    "journal/leases/work%2Fslow.txt.lock",
    "journal/controller.lock",
    "logs/run_events.jsonl",
    "config.yaml",
)


@pytest.mark.parametrize("kind", [*GARBAGE, "directory", "absent"])
@pytest.mark.parametrize("file", DAMAGED)
def test_damaged_files_end_in_an_answer_or_one_line(copy, file, kind, monkeypatch, capsys):
    """In this process, because these are hundreds of calls."""
    path = copy / "runs/small" / file
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind != "absent":
        path.write_bytes(GARBAGE[kind])
    (copy / "config/work.yaml").write_text("kinds: [good]\n")
    monkeypatch.chdir(copy)
    monkeypatch.setenv("RIPRESA_TRACEBACK", "1")
    runs.configured.cache_clear()
    for words in COMMANDS:
        code = main([*words, "--json"])
        out, err = capsys.readouterr()
        assert code in (0, 1, 2) and len(err.splitlines()) <= 1
        assert (code == 2) == (out == "")
        assert not out or json.loads(out, parse_constant=pytest.fail) is not None
        assert main(words) in (0, 1, 2)
        capsys.readouterr()


def test_a_reader_that_leaves_is_no_error(killed):
    for words in ("status --all", "status --json", "doctor"):
        pipe = f"set -o pipefail; '{RIPRESA}' {words} | true; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", pipe], cwd=killed, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert done.stderr == "" and done.stdout.strip() in ("0", "1")


def test_an_interrupt_is_quiet(tmp_path):
    os.mkfifo(tmp_path / "log")
    command = [RIPRESA, "classify", "log"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    writer = os.open(tmp_path / "log", os.O_WRONLY)  # waits for the reader
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    os.close(writer)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_large_run_answers_at_once(tmp_path):
    """A small edition of evaluation/state.py, which measures."""
    command = [
        sys.executable,
        ROOT / "evaluation/state.py",
        "--units",
        "400",
        "--rounds",
        "1",
        "--goal",
        "20",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "400 units" in done.stdout
