"""The failure classifier: what it decides and on what line, how fast, and how a user's rules win."""

import json
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ripresa.hosts.transport import failures
from ripresa.hosts.transport.failures import NO_WORDS
from ripresa.recovery.classifier import classify, load_rules
from ripresa.recovery.rules import literals

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT / ".." / "shared" / "data" / "failures" / "dev.jsonl"
CASES = tomllib.loads((ROOT / "tests" / "classifier_cases.toml").read_text(encoding="utf-8"))["case"]
MEGABYTE = 1_000_000


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['class']}: {case['log'].strip()[:40]}")
def test_class_and_retry(case: dict) -> None:
    verdict = classify(case["log"])
    accepted = [case["class"]] if isinstance(case["class"], str) else case["class"]
    assert verdict.failure_class in accepted, verdict
    assert verdict.retry == case["retry"], verdict
    assert verdict.evidence in case["log"] or not case["log"].strip()


def test_every_class_is_tested() -> None:
    tested = {
        name
        for case in CASES
        for name in ([case["class"]] if isinstance(case["class"], str) else case["class"])
    }
    assert tested == set(load_rules().retry)


# --- explicit evidence ---


@pytest.mark.parametrize(
    ("state", "expected", "retry"),
    [
        ("OUT_OF_MEMORY", "memory", True),
        ("TIMEOUT", "time_limit", True),
        ("NODE_FAIL", "node", True),
        ("BOOT_FAIL", "node", True),
        ("PREEMPTED", "preempted", True),
        ("DEADLINE", "time_limit", True),
        ("CANCELLED by 1000", "cancelled", False),
        ("CANCELLED+", "cancelled", False),
    ],
)
def test_slurm_state_beats_what_the_job_wrote_while_dying(state: str, expected: str, retry: bool) -> None:
    verdict = classify("step 3\nKeyError: 'x'\nlast words", slurm_state=state)
    assert (verdict.failure_class, verdict.retry) == (expected, retry)
    assert verdict.evidence == "last words"


def test_failed_says_nothing_so_the_log_decides() -> None:
    assert classify("KeyError: 'x'", slurm_state="FAILED").failure_class == "code"


def test_log_says_why_slurm_cancelled() -> None:
    log = "slurmstepd: error: *** JOB 1 ON n1 CANCELLED AT 2024-05-01T10:00:00 DUE TO TIME LIMIT ***"
    assert classify(log, slurm_state="CANCELLED").failure_class == "time_limit"


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ({"exit_code": 137}, "memory"),
        ({"exit_code": -9}, "memory"),
        ({"signal": 9}, "memory"),
        ({"oom_killed": True, "exit_code": 1}, "memory"),
        ({"exit_code": 124}, "time_limit"),
        ({"exit_code": 126}, "permission"),
        ({"exit_code": 127}, "environment"),
        ({"exit_code": 130}, "cancelled"),
        ({"exit_code": 139}, "code"),
        ({"signal": 4}, "environment"),
        ({"signal": 8}, "numerical"),
        ({"signal": 24}, "time_limit"),
        ({"signal": 25}, "disk"),
        ({"exit_code": 75}, "service"),
        ({"exit_code": 78}, "configuration"),
        ({"exit_code": 1}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_endings_without_a_word_in_the_log(ending: dict, expected: str) -> None:
    assert classify("working\n", **ending).failure_class == expected


@pytest.mark.parametrize(
    "said",
    [
        "Host key for [127.0.0.2]:22 has changed and you have requested strict checking.",
        "No ED25519 host key is known for 127.0.0.2 and you have requested strict checking.",
        "Permissions 0644 for '/home/bench/.ssh/key' are too open.",
        "Your account has expired; please contact your system administrator.",
        "This account is currently not available.",
        "Timeout (12s) waiting for privilege escalation prompt:",
        "mux_client_request_session: session request failed: Session open refused by peer",
        NO_WORDS,
    ],
)
def test_a_host_out_of_reach_has_the_same_class_in_the_log_of_a_playbook(said: str) -> None:
    log = f"PLAY RECAP ****\nerror: host h1: it cannot be reached: {said}\n"
    expected = failures.classify("" if said == NO_WORDS else said, False).failure_class
    assert classify(log, exit_code=1).failure_class == expected


def test_a_cause_in_the_log_beats_how_the_process_died() -> None:
    killed_by_us = "torch.cuda.OutOfMemoryError: CUDA out of memory.\nTerminating the other ranks"
    assert classify(killed_by_us, signal=9).failure_class == "gpu_memory"
    assert classify("IndexError: list index out of range", exit_code=137).failure_class == "code"


def test_counted_kill_beats_the_log() -> None:
    log = "ConnectionResetError: [Errno 104] Connection reset"
    assert classify(log, oom_killed=True).failure_class == "memory"


# --- evidence ---


def test_evidence_names_the_ending_only_where_the_log_is_empty() -> None:
    assert classify("", exit_code=137).evidence == "exit code 137"
    assert classify("\n \n", signal=11).evidence == "signal 11"
    assert classify("", slurm_state="NODE_FAIL").evidence == "SLURM state NODE_FAIL"
    assert classify("a line", exit_code=137).evidence == "a line"


def test_evidence_is_the_root_and_not_the_last_line() -> None:
    log = "loading\nOSError: [Errno 28] No space left on device\nTraceback (most recent call last):\nexit 1"
    assert classify(log).evidence == "OSError: [Errno 28] No space left on device"


LINES = st.one_of(
    st.text(max_size=60),
    st.sampled_from([line for case in CASES for line in case["log"].splitlines()]),
    st.sampled_from(
        ["\x1b[31mError:\x1b[0m killed", "100%\r99%\rConnection refused\r", "\x00\ufeff", "İİİ Killed"]
    ),
)


@settings(max_examples=150, deadline=None)
@given(lines=st.lists(LINES, max_size=12), end=st.sampled_from(["\n", "\r\n", "\r"]))
@example(lines=["\x1c\u2028 No space left on device"], end="\n")
def test_evidence_is_verbatim(lines: list[str], end: str) -> None:
    log = end.join(lines)
    evidence = classify(log).evidence
    assert evidence in log or (evidence == "no output" and not log.strip())
    assert "\n" not in evidence


# --- size and speed ---


def test_both_ends_of_a_huge_log_are_read() -> None:
    filler = "step 1 of 9 done\n" * 100_000
    assert classify("No space left on device\n" + filler).failure_class == "disk"
    assert classify(filler + "No space left on device\n").failure_class == "disk"


@pytest.mark.parametrize(
    "unit",
    [
        "error: ",
        "a",
        "\n",
        " ",
        "Connection refused\n",
        "at at at (",
        'File "',
        "\x1b[0m",
        "[1]",
        "(((",
        "failed to ",
        "\t",
    ],
    ids=repr,
)
def test_time_is_linear_whatever_the_log(unit: str) -> None:
    load_rules()
    log = unit * (MEGABYTE // len(unit))
    started = time.process_time()
    classify(log)
    assert time.process_time() - started < 10, "half a second is usual; quadratic searches take minutes"


def test_importing_reads_no_rules_and_no_heavy_module() -> None:
    code = (
        "import sys; from ripresa.recovery import classifier; "
        "print(*{'tomllib', 'numpy', 'yaml', 'subprocess', 'dataclasses'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == ""


# --- rules ---


def test_a_users_rule_wins() -> None:
    log = "OSError: [Errno 28] No space left on device\nmodel says: the moon is full"
    rule = {"name": "moon", "class": "service", "pattern": "moon is (?:full|new)"}
    verdict = classify(log, extra_rules=[rule], slurm_state="TIMEOUT")
    assert verdict == ("service", True, "model says: the moon is full", "moon")
    assert classify(log, extra_rules=[{**rule, "retry": False}]).retry is False
    assert classify(log).failure_class == "disk"


def test_a_users_rule_may_depend_on_the_rest_of_the_log() -> None:
    rule = {"name": "moon", "class": "service", "pattern": "moon", "requires": "tide|ebb", "unless": "noon"}
    assert classify("moon", extra_rules=[rule]).failure_class == "unknown"
    assert classify("moon\nebb", extra_rules=[rule]).failure_class == "service"
    assert classify("moon\nebb\nnoon", extra_rules=[rule]).failure_class == "unknown"


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ({"class": "service", "pattern": "x"}, "'name' is missing"),
        ({"name": "r", "class": "service"}, "'pattern' is missing"),
        ({"name": "r", "class": "moody", "pattern": "x"}, "no failure class 'moody'"),
        ({"name": "r", "class": "service", "pattern": "("}, "rule 'r': pattern"),
        ({"name": "r", "class": "service", "pattern": "x", "retries": 3}, "unknown field 'retries'"),
    ],
)
def test_a_malformed_rule_is_named(rule: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)) as caught:
        load_rules([rule])
    assert "\n" not in str(caught.value)


def test_packaged_rules_are_sound() -> None:
    rules = load_rules()
    names = [rule.name for rule in rules.causes]
    assert len(names) == len(set(names))
    for rule in rules.causes:
        for pattern in (*rule.patterns, *rule.requires, *rule.unless):
            assert not pattern.matches(""), f"{rule.name}: {pattern.source} matches an empty line"
            assert pattern.literals, f"{rule.name}: {pattern.source} has no literal to look for"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("connection refused", {"connection refused"}),
        (r"exit code:? \(?137\b", {"exit code"}),
        (r"\bOOM-?Killed", {"killed"}),
        (r"(?:cat|horse)s? died", {" died"}),
        (r"(?:tiger|horse)\d", {"tiger", "horse"}),
        (r"a|bc", {"a", "bc"}),
        (r"x*", set()),
        (r"(?<!un)known [)(|] \(\|", {"known "}),
        (r"ab{2,3}c+de", {"de"}),
        (r"lines? (?:of )?text\.", {"text."}),
    ],
)
def test_literals(expression: str, expected: set[str]) -> None:
    assert set(literals(expression)) == expected


# --- real logs ---


@pytest.mark.skipif(not REAL.exists(), reason="the real logs are not here")
def test_goals_on_real_logs() -> None:
    command = [sys.executable, str(ROOT / "evaluation" / "classify.py"), str(REAL)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_evaluation_fails_below_the_goals(tmp_path: Path) -> None:
    case = {"id": "f1", "label": "code", "alt": None, "retry": False, "exit": "exit 1", "tool": "t"}
    logs = tmp_path / "logs.jsonl"
    command = [sys.executable, str(ROOT / "evaluation" / "classify.py"), str(logs), "--errors"]
    logs.write_text(json.dumps({**case, "log": "KeyError: 'x'"}) + "\n")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    logs.write_text(json.dumps({**case, "log": "No space left on device"}) + "\n")
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 1
    assert "expected code" in shown.stdout
    logs.write_text("not json\n")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2
