"""Shares of a device: its hundred parts have one holder each, whoever dies."""

import fcntl
import os
import random
import signal
import time
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from conftest import wait_until
from ripresa.journal import devices, shares


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A directory for the locks of this test alone."""
    monkeypatch.setenv("RIPRESA_DEVICES", str(tmp_path))
    return tmp_path


def free(name="gpu0"):
    return devices.shares_free([name])[name]


def test_several_share_a_device_up_to_all_of_it():
    first, second = devices.take("gpu0@50"), devices.take("gpu0@30")
    assert first and second and free() == 20
    assert devices.take("gpu0@21") is None and devices.take("gpu0") is None
    assert devices.lacking("gpu0@20") == [] and devices.lacking("gpu0@21,gpu1") == ["gpu0"]
    third = devices.take("gpu0@20")
    assert free() == 0 and devices.held(["gpu0", "gpu1"]) == ["gpu0"]
    devices.release(first)
    assert free() == 50
    devices.release(second + third)
    (whole,) = devices.take("gpu0")
    assert free() == 0 and devices.take("gpu0@1") is None
    whole.release()
    assert free() == 100


def test_all_or_none_over_several():
    kept = devices.take("b@60")
    assert devices.take("a@50,b@50,c@50") is None
    assert devices.shares_free("abc") == {"a": 100, "b": 40, "c": 100}
    devices.release(kept)


@pytest.mark.parametrize("resource", ["gpu0@0", "gpu0@101", "gpu0@half", "gpu0@-1", "@50", "gpu0@"])
def test_a_share_that_is_none_is_refused(resource):
    with pytest.raises(devices.DeviceError, match="a share is a whole number of percent, as in"):
        devices.take(resource)


def test_a_name_given_twice_counts_once_with_the_larger_share():
    assert devices.wanted("b@20, a ,b@40,b@30") == {"a": 100, "b": 40}
    assert devices.named("b@20,a,b@40") == ["a", "b"]


def test_the_lock_says_who_has_which_share():
    first, second, third = (devices.take(f"gpu0@{share}")[0] for share in (50, 30, 20))
    for lease, target in ((first, "a.txt"), (second, "b.txt"), (third, "c.txt")):
        lease.sign({"target": target})
    assert [owner["target"] for owner in devices.owners("gpu0")] == ["a.txt", "b.txt", "c.txt"]
    assert devices.holders("gpu0") == devices.owners("gpu0")
    second.release()
    assert [owner["target"] for owner in devices.owners("gpu0")] == ["a.txt", "c.txt"]
    first.release()
    (scattered,) = devices.take("gpu0@70")
    scattered.sign({"target": "d.txt"})
    assert sorted(owner["target"] for owner in devices.owners("gpu0")) == ["c.txt", "d.txt"]
    devices.release([third, scattered])
    (whole,) = devices.take("gpu0")
    whole.sign({"target": "e.txt"})
    assert [owner["target"] for owner in devices.owners("gpu0")] == ["e.txt"]
    whole.release()
    assert devices.owners("gpu0") == [] and devices.owner("gpu0") == {}


def test_a_killed_holder_of_a_share_frees_it_and_its_name_is_known_until_its_place_is_taken(place):
    keep = devices.take("gpu0@10")
    killed = hold("gpu0@40", target="killed.txt")
    wait_until(lambda: free() == 50)
    wait_until(lambda: devices.owners("gpu0"))
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    wait_until(lambda: free() == 90, 20)
    assert [owner["target"] for owner in devices.owners("gpu0")] == ["killed.txt"]
    assert devices.holders("gpu0") == []
    (next_one,) = devices.take("gpu0@5")
    next_one.sign({"target": "next.txt"})
    assert [owner["target"] for owner in devices.owners("gpu0")] == ["next.txt"]
    devices.release([*keep, next_one])


def test_what_inherits_a_share_keeps_it():
    (lease,) = devices.take("gpu0@40")
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    lease.release()
    assert free() == 60
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    wait_until(lambda: free() == 100, 20)


def test_a_file_locked_as_a_whole_leaves_nothing_and_a_share_keeps_out_who_would(place):
    (lease,) = devices.take("gpu0@1")
    with open(devices.path_of("gpu0"), "rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lease.release()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert free() == 0 and devices.take("gpu0@1") is None
    assert free() == 100


def test_who_is_stopped_on_the_way_to_a_share_does_not_hold_up_the_others_for_long(monkeypatch):
    monkeypatch.setattr(shares, "_GATE_S", 0.1)
    devices.release(devices.take("gpu0"))
    fd = os.open(devices.path_of("gpu0"), os.O_RDWR)
    assert shares._pass_gate(fd) and devices.take("gpu0@10") is None
    os.close(fd)
    devices.release(devices.take("gpu0@10"))


def test_a_look_takes_little_time_and_disturbs_nobody():
    taken = [devices.take("gpu0@5") for _ in range(19)]
    began = time.process_time()
    for _ in range(100):
        assert free() == 5
    assert (time.process_time() - began) / 100 < 0.004, "0.04 ms on an idle machine"
    for leases in taken:
        devices.release(leases)


class Sharing(RuleBasedStateMachine):
    """Leases taken and given back in any order, against plain arithmetic."""

    def __init__(self):
        super().__init__()
        self.name = f"gpu{random.getrandbits(60)}"
        self.leases = []

    @rule(share=st.integers(1, 100))
    def take(self, share):
        left = 100 - sum(held for held, _ in self.leases)
        taken = devices.take(f"{self.name}@{share}")
        assert (taken is not None) == (share <= left)
        if taken:
            taken[0].sign({"share": share})
            self.leases.append((share, taken[0]))

    @rule(data=st.data())
    def give_back(self, data):
        if self.leases:
            place = data.draw(st.integers(0, len(self.leases) - 1))
            self.leases.pop(place)[1].release()

    @invariant()
    def agrees(self):
        held = sorted(share for share, _ in self.leases)
        assert devices.shares_free([self.name]) == {self.name: 100 - sum(held)}
        assert sorted(owner["share"] for owner in devices.owners(self.name)) == held

    def teardown(self):
        devices.release(lease for _, lease in self.leases)
        Path(devices.path_of(self.name)).unlink(missing_ok=True)


def test_any_order_of_taking_and_giving_back():
    from hypothesis import settings
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Sharing, settings=settings(max_examples=30, stateful_step_count=20))


def hold(resource, target):
    """A process that takes devices and keeps them."""
    child = os.fork()
    if child:
        return child
    try:
        for lease in devices.take(resource):
            lease.sign({"target": target})
        time.sleep(60)
    finally:
        os._exit(1)


# The guard


def test_units_share_a_device_and_are_told_how_much_they_have(guarded, place):
    show = "echo $CUDA_VISIBLE_DEVICES $RIPRESA_DEVICE_SHARE $CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
    command = f"touch {{output}}.on; while [ ! -e go ]; do sleep 0.02; done; {show} > {{output}}"
    units = [guarded(outputs=[f"{name}.txt"]) for name in "abc"]
    given = {"resources": ["gpu_device=GPU-1@50"], "RIPRESA_DEVICES": str(place)}
    running = [unit.start(command, **given) for unit in units[:2]]
    wait_until(lambda: len(devices.owners("GPU-1")) == 2)
    assert units[2](command, RIPRESA_SCHEDULER="recovery", **given) == 75
    assert "not yet, GPU-1@50 is in use" in units[2].said
    (units[0].directory / "go").touch()
    assert [process.wait(60) for process in running] == [0, 0]
    assert [unit.path.read_text() for unit in units[:2]] == ["GPU-1 0.50 50\n"] * 2
    assert units[0].last["device"] == "GPU-1@50" and free("GPU-1") == 100


def test_a_slot_hides_all_gpus(guard, place):
    command = "echo [$CUDA_VISIBLE_DEVICES$ROCR_VISIBLE_DEVICES$HIP_VISIBLE_DEVICES] > {output}"
    given = {"resources": ["gpu_device=cpu2"], "RIPRESA_DEVICES": str(place), "CUDA_VISIBLE_DEVICES": "0,1"}
    assert guard(command, **given) == 0
    assert guard.path.read_text() == "[]\n"
