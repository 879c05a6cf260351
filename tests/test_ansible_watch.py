"""The turns of the executor for hosts: what waits, what is sent where, what comes of it. No host needed."""

import logging
import os
import time
from types import SimpleNamespace

import pytest

from ripresa.hosts.fleet import Needs
from ripresa.hosts.transport import Host, PatternError
from ripresa.hosts.work import Work
from ripresa.recovery.dispatch import FAILED, HELD, PUBLISHED, Sent
from snakemake_executor_plugin_ansible import jobs
from snakemake_executor_plugin_ansible import watch as module
from snakemake_executor_plugin_ansible.peer import Peer

GROUPS = {"h1": {"all", "both"}, "h2": {"all", "both"}, "h3": {"all"}}


class Inventory:
    """In place of a transport."""

    def __init__(self, inventory, directory, say):
        self.directory = directory

    def hosts(self, pattern):
        parts = pattern.split(",")
        if not all(any(p == name or p in groups for name, groups in GROUPS.items()) for p in parts):
            raise PatternError(f"no host {pattern}")
        return {
            name: Host(name, frozenset(groups), {}, None, name)
            for name, groups in GROUPS.items()
            if any(p == name or p in groups for p in parts)
        }

    def close(self):
        pass


class Link:
    """In place of the link to a host: what was begun and ended there."""

    def __init__(self, client, shipper, notify, *, lost_s):
        self.host = client.host
        self.name = client.host.name
        self.shared, self.lost, self.down = False, False, None
        self.facts = {"cpus": 4, "mem_mb": 1000}
        self.notify = notify
        self.parcels = []
        self.cancelled = []
        self.cleaned = False

    def start(self, parcel):
        self.parcels.append(parcel)

    def cancel(self, tasks):
        self.cancelled += tasks

    def clean(self):
        self.cleaned = True

    def close(self):
        pass


class Task:
    digest = "d"

    def __init__(self, target, stands=None, backoff_s=0.0):
        self.target = target
        self.stands = stands
        self.backoff_s = backoff_s
        self.lost = []
        self.let_go = []
        self.begun = 0

    def take(self):
        return self.stands.pop(0) if self.stands else None

    def wait_s(self):
        return self.backoff_s

    def is_let_through(self, host):
        return True

    def begin(self, host, token):
        self.begun += 1
        return Sent(host, token, self.begun, "", "d")

    def log(self, number):
        return os.devnull

    def lose(self, sent, failure_class, evidence, *, give_up=None):
        self.lost.append((failure_class, evidence))
        return FAILED

    def outcome(self):
        return {}

    def beat(self):
        pass

    def leave(self):
        self.let_go.append("left")

    def release(self):
        self.let_go.append("released")


class Job:
    name, priority, is_local, group = "rule", 0, False, None


def offer(task, pattern="all", *, peer=None, needs=None):
    one = SimpleNamespace(
        job=Job(), task=task, target=task.target, pattern=pattern,
        needs=needs or Needs(), peer=Peer(task) if peer else None, peer_host=peer, info=None,
        not_before=0.0, looked_at=False, host=None,
    )  # fmt: skip
    one.make = lambda sent: Work("true", [], [], [])
    return one


class Told:
    def __init__(self):
        self.running, self.done, self.failed = [], [], []

    def report_job_submission(self, info):
        self.running.append(info.external_jobid)

    def report_job_success(self, info):
        self.done.append(info)

    def report_job_error(self, info, msg=None):
        self.failed.append(msg)


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def watch(tmp_path, monkeypatch, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RIPRESA_RUN", raising=False)
    monkeypatch.setattr(module, "Transport", Inventory)
    monkeypatch.setattr("snakemake_executor_plugin_ansible.reach.Link", Link)
    monkeypatch.setattr(module, "offer", lambda job, workflow, in_snakemake: job)
    made = module.Watch(None, told, logging.getLogger("watch"))
    yield made
    made.close()
    assert not os.path.exists(made._directory.name)


def turn(watch, *offers):
    watch.take(offers, SimpleNamespace(dag=SimpleNamespace(depending={})), None)
    watch.turn()


def test_what_cannot_be_refused_yet_goes_on_waiting(watch, told):
    """Held by another process just then, it would be lost to Snakemake if nobody came back to it."""
    task = Task("a", [None, HELD, None])
    turn(watch, one := offer(task, "nowhere"))
    assert not told.failed
    one.not_before = 0.0
    watch.turn()
    assert task.lost == [("configuration", "no host nowhere")] and len(told.failed) == 1


@pytest.mark.parametrize(
    ("pattern", "peer", "evidence"),
    [
        ("h1", "h1", "the other host of a unit on h1 cannot be h1 itself"),
        ("h1", "both", "'both' is no host of the inventory but several"),
        ("h1", "nowhere", "no host nowhere"),
    ],
)
def test_another_host_that_there_cannot_be_is_told(watch, told, pattern, peer, evidence):
    task = Task("a")
    turn(watch, offer(task, pattern, peer=peer))
    assert task.lost == [("configuration", evidence)] and len(told.failed) == 1


def test_another_host_that_can_never_have_room_is_told(watch, told, monkeypatch):
    turn(watch, offer(Task("first"), "h2"))
    watch._reach.links["h2"].facts = {"cpus": 4, "mem_mb": 10}
    task = Task("a")
    turn(watch, offer(task, "h1", peer="h2", needs=Needs(mem_mb=100)))
    assert [kind for kind, _ in task.lost] == ["configuration"] and "h2 has 10 MB" in task.lost[0][1]


def test_a_unit_waits_until_the_other_half_of_its_earlier_attempt_has_ended(watch, told):
    task = Task("a")
    turn(watch, first := offer(task, "h1", peer="h2"))
    (unit,), (peer,) = watch._reach.links["h1"].parcels, watch._reach.links["h2"].parcels
    unit_settled = watch._reach.links["h1"].notify.settled
    unit_settled(unit, FAILED)
    turn(watch, second := offer(task, "h1", peer="h2"))
    watch._threads.submit(int).result()
    assert len(told.failed) == 1 and len(watch._reach.links["h1"].parcels) == 1
    assert watch._reach.links["h2"].cancelled == [first.peer]
    unit_settled(peer, PUBLISHED)
    watch.turn()
    assert (
        len(watch._reach.links["h1"].parcels) == 2 and watch._reach.links["h2"].parcels[1].task is second.peer
    )


def test_a_unit_that_runs_goes_on_if_the_inventory_has_its_other_host_no_more(watch, told):
    turn(watch, offer(Task("a", [Sent("h1", "t", 1, "", "d")]), "h1", peer="gone"))
    assert [parcel.sent.token for parcel in watch._reach.links["h1"].parcels] == ["t"]
    assert told.running == ["h1"]


def test_an_end_that_is_asked_for_waits_for_no_backoff(watch, told):
    turn(watch, offer(Task("a", backoff_s=3600)))
    assert not told.failed
    watch.drain()
    watch.turn()
    assert told.failed == ["a: not yet, the run is to end. "]


def test_hosts_of_what_was_left_running_are_not_cleaned_up(watch, told, monkeypatch):
    turn(watch, offer(task := Task("a"), "h1", peer="h2"), offer(Task("b", [PUBLISHED]), "h3"))
    watch._reach.link("h3")
    watch.close()
    assert task.let_go[-1] == "left"
    assert [watch._reach.links[name].cleaned for name in ("h1", "h2", "h3")] == [False, False, True]


def test_a_journal_that_cannot_be_written_ends_nothing(watch, told, monkeypatch):
    task = Task("a")

    def full():
        raise OSError(28, "No space left on device")

    task.beat = full
    turn(watch, offer(task, "h1"))
    watch._beaten = time.monotonic() - 60
    watch.turn()
    assert told.running == ["h1"] and watch._paused_until > time.monotonic()


def test_a_unit_that_begins_while_all_are_cancelled_is_cancelled_too(watch, told):
    task = Task("a")
    task.begin = lambda host, token: watch.__dict__.update(_cancelled=True) or Sent(host, token, 1, "", "d")
    turn(watch, offer(task, "h1"))
    assert watch._reach.links["h1"].cancelled == [task]


# Devices


GUARDED = """exec "$RIPRESA_PYTHON" -IS "$RIPRESA_GUARD" r digest --log= -- {} <<'END_OF_COMMAND'

echo 1 > __RIPRESA_OUTPUT__
END_OF_COMMAND
"""


@pytest.mark.parametrize(
    ("resources", "alone", "sees"),
    [
        ({"device_kinds": "gpu", "gpu": 1}, True, True),
        ({"device_kinds": "gpu,cpu", "gpu": 1}, False, False),
        ({"device_kinds": "gpu,cpu", "gpu": 1, "exclusive": 1}, True, True),
        ({}, False, True),
    ],
)
def test_on_a_host_a_gpu_is_shared_with_nobody(guard, monkeypatch, resources, alone, sees):
    """Nothing assigns the devices of a host: who needs a GPU has the host, who does not sees none."""
    monkeypatch.setenv("RIPRESA_RUN", guard.run.dir)
    job = SimpleNamespace(
        threads=1, resources=resources, shellcmd=GUARDED.format(guard.path), is_group=lambda: False,
        is_shell=True, is_shadow=False, benchmark=None, input=[], output=[], wildcards_dict={},
        rule=SimpleNamespace(cache=SimpleNamespace(output=[])),
    )  # fmt: skip
    workflow = SimpleNamespace(
        workflow_settings=SimpleNamespace(cache=None),
        deployment_settings=SimpleNamespace(deployment_method=[]),
    )
    found = jobs.offer(job, workflow, str)
    assert found.needs.exclusive is alone
    environment = found.make(Sent("h1", "t", 1, "", "d")).environment
    assert environment["OMP_NUM_THREADS"] == "1"
    assert ("CUDA_VISIBLE_DEVICES" not in environment) is sees
    assert environment.get("CUDA_VISIBLE_DEVICES", "") == ""
