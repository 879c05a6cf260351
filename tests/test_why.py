"""What `ripresa why` and `ripresa status` say: something of all there is, and nothing that is not so."""

import json
import os
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.cli.explanation import Situation, changed, explain
from ripresa.cli.status import _next_event
from ripresa.journal import clock, leases, processes, records, state
from ripresa.journal.paths import Run
from ripresa.recovery import policy, words

CLASSES = sorted(policy.default()["classes"])
AGAIN = ("is tried again", "runs with the next call")
NEVER = ("not tried again", "given it up")


def record(run, number, failure_class, decision, **more):
    """A failed attempt in the journal."""
    now = time.time() - 100 + number
    one = {
        **{"attempt": number, "target": "a.txt", "rule": "r", "run_id": run.run_id, "outcome": "failed"},
        **{
            "failure_class": failure_class,
            "evidence": f"the line of attempt {number}",
            "host": "n1",
            "pid": 7,
        },
        **{"classifier_rule": "some-rule", "exit_code": 1, "signal": None, "device": None, "session": "one"},
        **{"started": clock.iso(now - 5), "ended": clock.iso(now), "decision": decision, "not_before": None},
        **{"resources": {"threads": "1"}, "scopes": ["host:n1"], "log": run.log("a.txt", number), **more},
    }
    records.append(run.attempts("a.txt"), one, fsync=False)
    return one


def told(run, target="a.txt", controller=None):
    unit = state.state_of(run, target)
    history = [one for one in records.read(run.attempts(target)) if one.get("outcome")]
    return unit, explain(Situation(run, unit, history, None, controller, time.time()))


def decisions(rules, failure_class):
    """Every (history, record) that the policy decides on as a unit fails in this way again and again."""
    for sensible in (None, True, False):
        history = []
        for number in range(1, 24):
            decision = policy.decide(
                rules, history, failure_class, sensible=sensible, session="one", now=time.time()
            )
            one = {
                **{"attempt": number, "outcome": "failed", "failure_class": failure_class, "session": "one"},
                **{"evidence": "evidence", "decision": decision.decision, "not_before": decision.not_before},
                **({"changes": decision.changes} if decision.changes else {}),
            }
            yield list(history), one, decision
            history.append(one)
            if decision.decision != "retry":
                break


def test_every_class_has_words_of_its_own():
    assert set(words.WORDS) == set(CLASSES) and len(CLASSES) == 21
    for name in ("happened", "remedy"):
        said = [getattr(one, name) for one in words.WORDS.values()]
        assert len(set(said)) == len(said), f"two classes have the same {name}"
    for one in words.WORDS.values():
        assert all(text and not text.endswith(".") for text in one)
        assert not re.search("again|retr|quarantine", one.happened + one.remedy), (
            "that is for the policy to say"
        )


def test_what_helps_names_the_host_that_the_failure_is_about():
    """A set-up runs here, for another host."""
    one = {"failure_class": "disk", "outcome": "failed", "host": "here", "scopes": ["host:here", "host:n1"]}
    there = one | {"evidence": "error: host n1: Write to it: dd: error writing '/var/tmp/a': No space left"}
    assert words.remedy(there) == "free space on the file system of /var/tmp/a on n1"
    here = one | {"evidence": "cp: error writing '/var/tmp/a': No space left on device"}
    assert words.remedy(here) == "free space on the file system of /var/tmp/a on here"


def check(rules, failure_class):
    """What is said of every decision is what was decided."""
    seen = set()
    for before, one, decision in decisions(rules, failure_class):
        left = words.budget(rules, before, one)
        said = words.decided(one, left, "at noon")
        seen.add(decision.decision)
        assert words.happened(one) and words.remedy(one)
        if decision.decision == "retry":
            assert said.startswith("It is tried again at noon") and not any(no in said for no in NEVER)
            # Independent of how words.py counts: the policy's own sentence.
            used, limit = map(int, re.findall(r"retry (\d+) of (\d+)", decision.reason)[0])
            assert left is not None and (left.used, left.limit) == (used, limit)
            assert f"{used} of {limit}" in said or f"{used} of at most {limit}" in said
        elif decision.decision == "quarantine":
            assert left is None
            assert "in quarantine and not tried again" in said and not any(yes in said for yes in AGAIN)
        elif failure_class == "cancelled":
            assert said == "Nothing is wrong with it: it runs with the next call."
        else:
            assert decision.decision == "refused" and "given it up" in said and "next call" in said
            assert left is not None and left.left == 0 and "could not be judged" not in said
    return seen


@pytest.mark.parametrize("failure_class", CLASSES)
def test_what_is_said_is_what_the_packaged_policy_decides(failure_class):
    seen = check(policy.default(), failure_class)
    ends = {"yes": {"retry", "refused", "quarantine"}, "tentative": {"retry", "refused"}}
    kind = policy.default()["classes"][failure_class]["retry"]
    wanted = ends.get(kind, {"refused"} if kind == "next_run" else {"quarantine", "retry", "refused"})
    assert seen == wanted, "the test reaches every decision there is"


@settings(max_examples=150, deadline=None)
@given(
    failure_class=st.sampled_from(CLASSES),
    rule=st.fixed_dictionaries(
        {"retry": st.sampled_from(["yes", "tentative", "no", "next_run"])},
        optional={
            "budget": st.integers(0, 5),
            "cap": st.integers(0, 5),
            "counts": st.sampled_from([True, False, "without_progress"]),
            "delays_min": st.lists(st.integers(0, 50), max_size=3),
            "changes": st.sampled_from([{}, {"mem_mb": 2.0}, {"node": "other"}, {"gpu": "larger"}]),
        },
    ),
)
def test_what_is_said_is_what_any_policy_decides(failure_class, rule):
    rules = policy.default()
    rules["classes"][failure_class] = rule
    if rule["retry"] == "next_run" and failure_class != "cancelled":
        return  # its words are those of a refusal without a count
    if failure_class == "cancelled" and rule["retry"] != "next_run":
        return
    if failure_class != "unknown" or rule["retry"] in ("yes", "tentative"):
        check(rules, failure_class)


def test_a_refusal_of_a_class_for_the_next_run_has_words():
    one = {"outcome": "failed", "failure_class": "service", "decision": "refused"}
    assert "given it up" in words.decided(one, None)


def test_why_of_a_unit_that_waits(tmp_path):
    run = Run(tmp_path / "runs/test")
    record(run, 1, "network", "retry", not_before=clock.iso(time.time() - 50))
    record(run, 2, "network", "retry", not_before=clock.iso(time.time() + 600))
    unit, said = told(run, controller={"pid": 1})
    assert unit.state == state.WAITING and unit.waits_for["what"] == "time"
    assert re.fullmatch(
        r"attempt 2 failed after 5 s on n1, 1 min [34]\d s ago: it could not reach something over the "
        r"network \(network, exit code 1\)",
        said["happened"],
    )
    assert said["evidence"] == "the line of attempt 2"
    assert re.fullmatch(
        r"It is tried again at [\d: -]+, in (9 min [45]\d s|10 min 0 s): trouble of this kind often passes. "
        r"This is retry 2 of 3 for failures of this kind.",
        said["then"],
    )
    assert said["budget"] == {
        **{"failure_class": "network", "used": 2, "limit": 3, "left": 1, "counts": True, "best": None},
    }
    assert said["until"] == unit.not_before and said["limit"] is None
    assert said["to_do"].startswith("nothing: the running controller starts it")


def test_why_of_a_unit_that_is_given_up(tmp_path):
    run = Run(tmp_path / "runs/test")
    for number in range(1, 4):
        record(run, number, "network", "retry")
    record(run, 4, "network", "refused")
    unit, said = told(run)
    assert unit.state == state.FAILED
    assert said["then"] == (
        "This call has given it up: all 3 retries for failures of this kind are used up. "
        "The next call tries it anew, with all its retries."
    )
    assert said["limit"] == {"kind": "budget", "what": "3 of 3", "until": None}
    assert said["to_do"].endswith("then `snakemake --rerun-incomplete`, which tries it again")


def test_why_names_the_limit_that_stopped_an_attempt(tmp_path):
    run = Run(tmp_path / "runs/test")
    record(
        run, 1, "time_limit", "retry", classifier_rule="guard", evidence="wall-clock limit of 60 s reached"
    )
    assert told(run)[1]["limit"] == {
        "kind": "time",
        "what": "wall-clock limit of 60 s reached",
        "until": None,
    }
    record(run, 2, "hang", "retry", classifier_rule="guard", evidence="no progress for 1800 s")
    assert told(run)[1]["limit"] == {"kind": "progress", "what": "no progress for 1800 s", "until": None}


def test_why_shows_what_changed_between_attempts(tmp_path):
    run = Run(tmp_path / "runs/test")
    history = [
        record(
            run, 1, "memory", "retry", resources={"mem_mb": "100"}, changes={"mem_mb": 2.0}, device="gpu0"
        ),
        record(run, 2, "gpu_fault", "retry", resources={"mem_mb": "200"}, device="gpu0"),
        record(run, 3, "gpu_fault", "retry", resources={"mem_mb": "200"}, device="gpu1", host="n2"),
    ]
    assert changed(history) == [
        {"attempt": 2, "what": "mem_mb", "before": "100", "after": "200"},
        {"attempt": 3, "what": "device", "before": "gpu0", "after": "gpu1"},
        {"attempt": 3, "what": "host", "before": "n1", "after": "n2"},
    ]
    assert words.changes(history[0]) == "with mem_mb x 2"
    assert told(run)[1]["changed"] == changed(history)


def test_why_of_a_unit_that_recovered(tmp_path):
    run = Run(tmp_path / "runs/test")
    record(run, 1, "network", "retry")
    record(run, 2, "memory", "retry")
    record(run, 3, None, "done", outcome="published", evidence=None)
    (tmp_path / "runs/test/a.txt").write_text("done")
    unit, said = told(run)
    assert unit.state == state.COMPLETED and said["to_do"] == "nothing: it is done"
    assert re.fullmatch(
        r"attempt 3 succeeded: its output is valid and published \(.*\); it recovered by itself from "
        r"2 failures \(1 x network, 1 x memory\) in [23](\.\d)? s",
        said["happened"],
    )
    assert said["then"] is said["budget"] is said["limit"] is said["evidence"] is None


def test_why_of_an_interrupted_and_of_a_released_unit(tmp_path):
    run = Run(tmp_path / "runs/test")
    record(run, 1, None, "retry", outcome="interrupted", evidence="the guard ended without a word")
    _, said = told(run)
    assert "was cut short" in said["happened"] and said["then"].endswith("that uses up no retry.")
    record(run, 2, None, "refused", outcome="interrupted", evidence="the guard ended without a word")
    unit, said = told(run)
    assert unit.state == state.FAILED and "again and again" in said["then"]
    assert "kernel log of n1" in said["to_do"]
    record(run, 2, None, "retry", outcome="released")
    unit, said = told(run)
    assert unit.state == state.PENDING and said["then"].startswith("It was released by hand")


def test_why_survives_damaged_records(tmp_path):
    run = Run(tmp_path / "runs/test")
    record(run, 1, "no-such-class", "retry", started="x", ended=None, host=3, log=7, resources={"a": [1]})
    record(run, 2, "network", "quarantine", changes={"mem_mb": "x", "node": "other"}, resources={"a": {}})
    for number in (1, 2):
        assert json.dumps(told(run)[1]), number


# --- what waits for what ---


def manifest(run, **needs):
    listed = [
        {"target": target, "rule": "r", "family": "f", "needs": list(of)} for target, of in needs.items()
    ]
    records.write_lines(run.units, [{"session": "one"}, *listed])


def fails(run, target, decision):
    one = {"attempt": 1, "outcome": "failed", "failure_class": "code", "decision": decision, "evidence": "e"}
    records.append(run.attempts(target), one, fsync=False)


def test_units_wait_for_what_they_need(tmp_path):
    run = Run(tmp_path / "runs/test")
    manifest(run, a="", b="", c="", d="a", e="db", f="e", g="c", h="ga")
    fails(run, "a", "quarantine")
    fails(run, "b", "refused")
    (tmp_path / "runs/test/c").write_text("there")
    found = {unit.target: unit for unit in state.states(run)}
    waits = {
        target: (u.waits_for["what"], u.waits_for["names"]) for target, u in found.items() if u.waits_for
    }
    assert waits == {
        "d": ("blocked", ["a"]),
        "e": ("blocked", ["a", "b"]),
        "f": ("blocked", ["a", "b"]),
        "h": ("blocked", ["a"]),
    }
    assert found["g"].state == state.PENDING, "its turn comes as soon as something is free"
    assert all(state.state_of(run, target) == unit for target, unit in found.items())
    records.append(run.attempts("a"), {"attempt": 1, "outcome": "released", "decision": "retry"})
    waits = {unit.target: unit.waits_for for unit in state.states(run)}
    assert waits["d"] == {"what": "units", "names": ["a"], "count": 1, "until": None}
    assert waits["f"]["names"] == ["b"]
    _, said = told(run, "d", controller={"pid": 1})
    assert said["happened"] is None and said["waits_for"]["what"] == "units"


def test_a_long_chain_and_a_circle_of_units_come_to_an_end(tmp_path):
    run = Run(tmp_path / "runs/test")
    chain = {f"u{n:05}": [f"u{n - 1:05}"] for n in range(1, 3000)}
    manifest(run, u00000=[], x=["y"], y=["x"], **chain)
    fails(run, "u00000", "quarantine")
    found = {unit.target: unit.waits_for for unit in state.states(run)}
    assert found["u02999"]["names"] == ["u00000"] and found["x"]["what"] == "units"


def test_units_wait_for_breakers_and_processes(tmp_path):
    run = Run(tmp_path / "runs/test")
    manifest(run, **{"a.txt": "", "b.txt": ""})
    here = os.uname().nodename
    scope = f"host:{here}"
    record(run, 1, "hang", "retry", host=here, scopes=[scope])
    soon = clock.iso(time.time() + 300)
    records.write_json(run.breakers, {scope: {"state": "open", "failures": 5, "probes": 0, "until": soon}})
    unit, said = told(run)
    assert unit.state == state.WAITING and unit.not_before[:19] == soon[:19]
    assert unit.waits_for == {"what": "breaker", "names": [scope], "count": 1, "until": unit.not_before}
    assert f"It waits: breaker of host:{here} is open for" in said["then"] and said["limit"]["what"] == scope
    half = {"state": "half_open", "failures": 5, "half_open_at": clock.iso()}
    probes = [f"probe{n}" for n in range(3)]
    held = [leases.acquire(run, probe) for probe in probes]
    running = dict.fromkeys(probes, clock.iso())
    records.write_json(run.breakers, {scope: {**half, "probes": running}})
    unit, _ = told(run, controller={"pid": 1})
    waits = unit.waits_for
    held[0].release()
    assert told(run)[0].waits_for is None, "one more probe may start"
    for one in held[1:]:
        one.release()
    assert waits == {"what": "breaker", "names": [scope], "count": 1, "until": None}
    lease = leases.acquire(run, "b.txt")
    lease.write({**processes.me(), "target": "b.txt", "session": "earlier", "attempt": 1})
    unit, _ = told(run, "b.txt")
    me = processes.me()
    assert unit.state == state.RUNNING
    assert unit.waits_for["names"] == [f"process {me['pid']} on {me['host']}"]
    lease.release()


def test_a_held_lease_without_a_readable_name_still_runs(tmp_path):
    run = Run(tmp_path / "runs/test")
    lease = leases.acquire(run, "a.txt")
    assert state.state_of(run, "a.txt").state == state.RUNNING
    lease.release()


def test_the_next_event_is_the_earliest(tmp_path):
    run = Run(tmp_path / "runs/test")
    now = time.time()
    record(run, 1, "network", "retry", not_before=clock.iso(now + 60))
    units = state.states(run)
    scope = {"scope": "host:n1", "until": clock.iso(now + 30)}
    assert _next_event(units, [], now)["name"] == "a.txt"
    found = _next_event(units, [scope], now)
    assert (found["what"], found["name"], found["in_s"]) == ("breaker", "host:n1", 30.0)
    assert _next_event([], [], now) is None
