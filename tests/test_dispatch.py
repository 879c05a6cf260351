"""A unit whose command runs on a host: the controller's books, with what a host would answer."""

import io
import json
import os
import tarfile
import tempfile
from pathlib import Path

import pytest

from conftest import Guarded, wait_until
from ripresa.journal import attempts, leases, records, state
from ripresa.recovery.dispatch import FAILED, HELD, PUBLISHED, Dispatch, Sent, unpack
from ripresa.recovery.unit import parse

ENDED = {
    "outcome": "ended",
    "exit_code": 0,
    "signal": None,
    "stopped": None,
    "evidence": None,
    "seconds": 0.5,
}


class Sendable(Guarded):
    """A unit of a run that is sent to a host instead of being guarded here."""

    def dispatch(self, command="echo x > {output}", session="one", scopes=()):
        os.environ.update(RIPRESA_RUN=self.run.dir, RIPRESA_SESSION=session)
        text = command.replace("{output}", "__RIPRESA_OUTPUT__")
        words = ["rule", "digest", *(word for scope in scopes for word in ("--scope", scope))]
        return Dispatch(parse([*words, "--", *map(self.run.path, self.outputs)], f"\n{text}\n"))

    def archive(self, sent, **contents):
        """What the host would bring back: an archive of the outputs by their names."""
        path = self.directory / "outputs.tar"
        staged = os.path.relpath(self.run.staged(self.target, sent.attempt))
        with tarfile.open(path, "w") as tar:
            for name, text in contents.items():
                member = tarfile.TarInfo(f"{staged}/{name.replace('_', '.')}")
                member.size = len(text)
                tar.addfile(member, io.BytesIO(text.encode()))
        return str(path)


@pytest.fixture
def unit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("RIPRESA_RUN", "RIPRESA_SESSION"):
        monkeypatch.setenv(name, "")
    return Sendable(tmp_path)


def begun(unit, **more):
    task = unit.dispatch(**more)
    assert task.take() is None
    return task, task.begin("h1", "a" * 32)


def killed(task):
    """The controller is killed: its locks are gone, and what it wrote stays."""
    task.leave()


def test_what_comes_back_is_validated_and_published(unit):
    unit.options({"validate": "json"})
    task, sent = begun(unit)
    assert task.conclude(sent, ENDED, unit.archive(sent, out_txt='{"a": 1}'), {}) == PUBLISHED
    task.release()
    assert json.loads(unit.path.read_text()) == {"a": 1}
    assert (unit.last["host"], unit.last["external_jobid"]) == ("h1", "h1:" + "a" * 32)
    assert not os.path.exists(unit.run.lease(unit.target))


@pytest.mark.parametrize(
    ("contents", "evidence"),
    [({"out_txt": "{"}, "not valid JSON"), ({}, "was not written")],
)
def test_what_is_invalid_is_not_published(unit, contents, evidence):
    unit.options({"validate": "json"})
    task, sent = begun(unit)
    assert task.conclude(sent, ENDED, unit.archive(sent, **contents), {}) == FAILED
    assert unit.last["failure_class"] == "output_invalid"
    assert evidence in unit.last["evidence"]
    assert not unit.path.exists()


def test_a_failure_is_judged_by_the_log_that_came_back(unit):
    task, sent = begun(unit, scopes=["host=h1", "workload=fio"])
    Path(task.log(sent.attempt)).write_text("connect to db: Connection refused\n")
    assert task.conclude(sent, {**ENDED, "exit_code": 1}, None, {}) == FAILED
    assert (unit.last["failure_class"], unit.last["decision"]) == ("network", "retry")
    assert unit.last["scopes"] == ["host:h1", "host:h1", "workload:fio"]


def test_a_full_disk_there_is_told_from_an_unknown_failure(unit):
    task, sent = begun(unit)
    assert task.conclude(sent, {**ENDED, "exit_code": 1, "disk_full": True}, None, {}) == FAILED
    assert unit.last["failure_class"] == "disk"
    assert "host h1" in unit.last["evidence"]


@pytest.mark.parametrize(
    ("result", "failure_class"),
    [
        ({"outcome": "interrupted", "evidence": "the host was booted anew"}, "node"),
        ({"stopped": "time_limit", "evidence": "limit of 3 s", "exit_code": None}, "time_limit"),
        ({"stopped": "cancelled", "evidence": "signal 15", "exit_code": None}, "cancelled"),
        ({"signal": 9, "exit_code": None, "oom_killed": True}, "memory"),
        ({"error": "disk", "evidence": "its outputs cannot be packed: No space left on device"}, "disk"),
    ],
)
def test_what_the_host_knows_is_the_class(unit, result, failure_class):
    task, sent = begun(unit)
    assert task.conclude(sent, {**ENDED, **result}, None, {}) == FAILED
    assert unit.last["failure_class"] == failure_class


def test_the_next_controller_is_told_where_an_attempt_was_sent(unit):
    task, sent = begun(unit)
    killed(task)
    again = unit.dispatch(session="two")
    assert again.take() == sent
    assert again.conclude(sent, ENDED, unit.archive(sent, out_txt="x"), {}) == PUBLISHED
    assert [record["attempt"] for record in unit.records] == [1]


def test_a_living_controller_keeps_others_out(unit):
    begun(unit)
    assert unit.dispatch(session="two").take() == HELD


def test_a_settled_attempt_is_not_asked_for_again(unit):
    task, sent = begun(unit)
    assert task.conclude(sent, {**ENDED, "exit_code": 1}, None, {}) == FAILED
    killed(task)
    assert unit.dispatch(session="two").take() is None


@pytest.mark.parametrize("left", [40, 0, None])
def test_a_torn_or_lost_lease_still_means_that_its_host_is_asked_first(unit, left):
    task, sent = begun(unit)
    killed(task)
    lease = Path(unit.run.lease(unit.target))
    if left is None:
        lease.unlink()
    else:
        lease.write_bytes(lease.read_bytes()[:left])
    found = unit.dispatch(session="two").take()
    assert (found.host, found.attempt) == (sent.host, sent.attempt)
    assert found.token != sent.token  # nobody knows which command that one was sent with


def test_a_torn_lease_of_a_guard_here_means_another_attempt(unit):
    guard = unit.start("sleep 60; echo x > {output}")
    unit.running()
    guard.kill()
    guard.wait()
    lease = Path(unit.run.lease(unit.target))
    os.killpg(unit.owner()["group"], 9)
    lease.write_bytes(lease.read_bytes()[:40])
    task = unit.dispatch(session="two")
    wait_until(lambda: task.take() is None)
    task.release()


def test_what_was_published_is_not_sent(unit):
    task, sent = begun(unit)
    assert task.conclude(sent, ENDED, unit.archive(sent, out_txt="x"), {}) == PUBLISHED
    task.release()
    assert unit.dispatch(session="two").take() == PUBLISHED


def test_a_lost_host_is_given_up_with_the_reason(unit):
    task, sent = begun(unit)
    assert (
        task.lose(sent, "node", "no route to host", give_up="host h1 has not answered since noon") == FAILED
    )
    task.release()
    assert (unit.last["decision"], unit.last["failure_class"]) == ("quarantine", "node")
    assert unit.last["reason"] == "host h1 has not answered since noon"
    assert "quarantine" in unit.dispatch(session="two").take()


def test_a_guard_here_does_not_run_what_a_host_may_be_running(unit):
    task, _ = begun(unit)
    killed(task)
    assert unit("echo x > {output}", session="two") == 1
    assert "may still run on host h1" in unit.said
    assert unit.outcomes() == []
    found = state.state_of(unit.run, unit.target)
    assert (found.state, found.reason) == (
        state.STALE,
        "attempt 1 was sent to host h1; the next call goes on with it",
    )


def test_released_by_hand_it_runs_anywhere(unit):
    from ripresa.cli.release import _release

    task, _ = begun(unit)
    killed(task)
    assert _release(unit.run, unit.target) is None
    assert unit("echo x > {output}", session="two") == 0
    assert [record["attempt"] for record in unit.records] == [1, 2]


def test_only_what_was_asked_for_leaves_an_archive(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("wanted", "folder/in", "other"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old").touch()
    unpack(str(tmp_path / "a.tar"), {"wanted": str(tmp_path / "deep/er"), "folder": str(tmp_path / "there")})
    assert (tmp_path / "deep/er").read_text() == "x"
    assert os.listdir(tmp_path / "there") == ["in"]
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "deep", "there"]


def test_outputs_appear_on_another_file_system_than_their_archive(tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        if os.stat(folder).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("there is no other file system here")
        archive = f"{folder}/a.tar"
        with tarfile.open(archive, "w") as tar:
            tar.addfile(tarfile.TarInfo("wanted"))
        unpack(archive, {"wanted": str(tmp_path / "there")})
    assert os.listdir(tmp_path) == ["there"]


def test_an_output_that_leads_outside_is_invalid(unit):
    task, sent = begun(unit)
    path = Path(unit.archive(sent))
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo(f"{os.path.relpath(unit.run.staged(unit.target, 1))}/out.txt")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    assert task.conclude(sent, ENDED, str(path), {}) == FAILED
    assert unit.last["failure_class"] == "output_invalid"
    assert "/etc/passwd" in unit.last["evidence"] or "absolute" in unit.last["evidence"]


def test_an_attempt_is_written_down_before_it_is_sent(unit):
    task, sent = begun(unit)
    named = leases.owner(unit.run.lease(unit.target))
    assert named["remote"] == {"host": "h1", "token": "a" * 32}
    assert (named["attempt"], named["command_sha256"]) == (1, task.digest)
    assert [event["host"] for event in unit.events("unit_start")] == ["h1"]
    assert sent == Sent("h1", "a" * 32, 1, named["started"], task.digest)
    assert attempts.last(unit.run, unit.target) == {}
    assert records.read(unit.run.attempts(unit.target)) == []
