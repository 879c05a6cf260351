"""Leases of devices: one attempt at a time on this machine, and free when the last of its processes ends."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path

import pytest

from conftest import Campaign, wait_until
from ripresa.journal import devices, leases, records, state

NOBODY = 65534
WORKFLOW = str(Path(devices.__file__).parents[2])
HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from ripresa.journal import devices
taken = devices.take(sys.argv[2])
print("held" if taken is None else "taken", flush=True)
time.sleep(60 if taken else 0)
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A directory for the locks of this test alone."""
    directory = tmp_path / "locks"
    directory.mkdir()
    directory.chmod(0o1777)
    monkeypatch.setenv("RIPRESA_DEVICES", str(directory))
    return directory


def other(resource, **options):
    """Another process that tries to take devices, and keeps them; returns it and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-IS", "-c", HOLD, WORKFLOW, resource], stdout=subprocess.PIPE, text=True, **options
    )
    return process, process.stdout.readline().strip()


def is_free(name):
    return not devices.held([name])


def test_a_device_has_one_holder_at_a_time(place):
    first = devices.take("gpu0")
    assert other("gpu0")[1] == "held"
    assert devices.take("gpu0") is None, "not even by the same process again"
    assert devices.held(["gpu0", "gpu1"]) == ["gpu0"]
    devices.release(first)
    assert is_free("gpu0")
    process, said = other("gpu0")
    assert said == "taken"
    process.kill()
    wait_until(lambda: is_free("gpu0"), 20)
    process.wait()


def test_several_are_taken_in_one_order_and_all_or_none():
    assert devices.named(" b, a,,b") == ["a", "b"] and devices.named(None) == devices.named("") == []
    one = devices.take("b")
    assert devices.take("a,b,c") is None
    assert devices.held(["a", "b", "c"]) == ["b"]
    devices.release(one)
    both = devices.take("c,a")
    assert [lease.name for lease in both] == ["a", "c"]
    devices.release(both)
    assert devices.held(["a", "b", "c"]) == []


def test_the_lock_says_who_uses_the_device():
    (lease,) = devices.take("GPU-1/2")
    began = time.time()
    assert devices.owner("GPU-1/2") == {} and not devices.used_since(["GPU-0"], 0.0)
    lease.sign({"run_id": "demo", "target": "a.txt"})
    told = devices.owner("GPU-1/2")
    assert (told["device"], told["pid"], told["target"]) == ("GPU-1/2", os.getpid(), "a.txt")
    lease.release()
    assert devices.owner("GPU-1/2") == {}
    assert devices.used_since(["GPU-1/2"], began) and not devices.used_since(["GPU-1/2"], time.time() + 5)


def test_who_takes_a_device_and_gives_it_back_unused_leaves_no_trace():
    devices.release(devices.take("gpu0"))
    os.utime(devices.path_of("gpu0"), (1, 1))
    devices.release(devices.take("gpu0"))
    assert not devices.used_since(["gpu0"], 2.0)


def test_locks_are_for_every_user_whatever_the_umask(place):
    before = os.umask(0o077)
    try:
        devices.release(devices.take("gpu0"))
    finally:
        os.umask(before)
    assert Path(devices.path_of("gpu0")).stat().st_mode & 0o777 == 0o666
    assert os.umask(before) == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_takes_turns_at_the_same_lock(monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:  # where others may go
        os.chmod(directory, 0o1777)
        monkeypatch.setenv("RIPRESA_DEVICES", directory)
        pid, said = as_nobody("gpu0")
        assert said == b"taken"
        assert os.stat(devices.path_of("gpu0")).st_uid == NOBODY
        assert devices.take("gpu0") is None
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        (mine,) = devices.take("gpu0")
        mine.sign({"target": "mine"})
        pid, said = as_nobody("gpu0")
        os.waitpid(pid, 0)
        assert said == b"held"
        mine.release()


def as_nobody(name):
    """A process of another user that tries to take a device and keeps it; returns it and what it said."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, os.read(reading, 100)
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        taken = devices.take(name)
        for lease in taken or []:
            lease.sign({"target": "another's"})
        os.write(writing, b"held" if taken is None else b"taken")
        time.sleep(60 if taken else 0)
    except BaseException as error:
        os.write(writing, repr(error).encode())
    finally:
        os._exit(0)


@pytest.mark.parametrize("trick", ["symlink", "dangling", "hard link", "pipe", "directory"])
def test_what_stands_in_the_place_of_a_lock_leads_nowhere_else(place, tmp_path, trick):
    path, precious = Path(devices.path_of("gpu0")), tmp_path / "precious"
    if trick != "dangling":
        precious.write_text("precious")
    if trick in ("symlink", "dangling"):
        path.symlink_to(precious)
    elif trick == "hard link":
        path.hardlink_to(precious)
    else:
        (os.mkfifo if trick == "pipe" else os.mkdir)(path)
    with pytest.raises(devices.DeviceError, match=r"cannot lock .*gpu0\.lock: .*; remove the file, or name"):
        devices.take("gpu0")
    assert precious.read_text() == "precious" if precious.exists() else trick == "dangling"
    assert devices.held(["gpu0"]) == []


def test_all_users_agree_on_the_place(monkeypatch, tmp_path):
    monkeypatch.delenv("RIPRESA_DEVICES")
    open_to_all, sticky = tmp_path / "open", tmp_path / "sticky"
    for directory, mode in ((open_to_all, 0o777), (sticky, 0o1777)):
        directory.mkdir()
        directory.chmod(mode)
    monkeypatch.setattr(devices, "PLACES", (f"{tmp_path}/missing", str(open_to_all), str(sticky)))
    assert devices.place() == str(sticky)
    monkeypatch.setattr(devices, "PLACES", (str(open_to_all),))
    with pytest.raises(devices.DeviceError, match="name a directory of all users in RIPRESA_DEVICES"):
        devices.take("gpu0")
    assert devices.held(["gpu0"]) == []


def test_a_lock_that_is_cleared_away_is_made_anew(place):
    first = devices.take("gpu0")
    os.unlink(devices.path_of("gpu0"))
    devices.release(first)
    (second,) = devices.take("gpu0")
    assert not is_free("gpu0")
    second.release()


def test_variables_of_cuda_and_rocm():
    """With ROCR_VISIBLE_DEVICES=3,1 HIP sees two devices, 0 and 1."""
    assert devices.environment("3,1") == {
        "CUDA_VISIBLE_DEVICES": "3,1",
        "ROCR_VISIBLE_DEVICES": "3,1",
        "HIP_VISIBLE_DEVICES": "0,1",
        "RIPRESA_DEVICE_SHARE": "1.00",
    }
    assert devices.environment("") == {}
    half = devices.environment("GPU-1@50")
    assert half["CUDA_VISIBLE_DEVICES"] == half["ROCR_VISIBLE_DEVICES"] == "GPU-1"
    assert half["RIPRESA_DEVICE_SHARE"] == "0.50" and half["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "50"
    slot = devices.environment("cpu3")
    assert [slot[f"{kind}_VISIBLE_DEVICES"] for kind in ("CUDA", "ROCR", "HIP")] == ["", "", ""]


# The guard

SHOW = "echo $CUDA_VISIBLE_DEVICES $ROCR_VISIBLE_DEVICES $HIP_VISIBLE_DEVICES > {output}"


def using(resource, place, **options):
    return {"resources": [f"gpu_device={resource}"], "RIPRESA_DEVICES": str(place), **options}


def test_a_unit_holds_its_devices_and_sees_no_others(guard, place):
    command = f"[ -e go ] || {{ touch begun; while [ ! -e go ]; do sleep 0.02; done; }}; {SHOW}"
    process = guard.start(command, **using("gpu1,gpu0", place))
    wait_until((guard.directory / "begun").exists)
    assert devices.held(["gpu0", "gpu1", "gpu2"]) == ["gpu0", "gpu1"]
    assert devices.owner("gpu1")["target"] == "out.txt" and guard.owner()["device"] == "gpu1,gpu0"
    (guard.directory / "go").touch()
    assert process.wait(60) == 0
    assert guard.path.read_text() == "gpu1,gpu0 gpu1,gpu0 0,1\n"
    assert guard.last["device"] == "gpu1,gpu0"
    assert devices.held(["gpu0", "gpu1"]) == []
    assert guard("false", session="two", **using("gpu1", place)) == 1
    assert devices.held(["gpu0", "gpu1"]) == [], "after a failure too"


def test_a_device_in_use_sends_the_unit_back_and_nothing_is_recorded(guard, place):
    process, said = other("gpu0")
    assert said == "taken"
    try:
        given = using("gpu0,gpu1", place, RIPRESA_SCHEDULER="recovery")
        assert guard(SHOW, **given) == 75
        assert "not yet, gpu0,gpu1 is in use" in guard.said
        assert guard.records == [] and devices.held(["gpu0", "gpu1"]) == ["gpu0"]
        waiting = guard.start(SHOW, **using("gpu0", place))  # under another scheduler
        time.sleep(0.5)
        assert waiting.poll() is None
    finally:
        process.kill()
        process.wait()
    assert waiting.wait(60) == 0 and [r["outcome"] for r in guard.records] == ["published"]


def test_the_command_of_a_killed_guard_keeps_the_device_until_it_ends(guarded, place):
    first, second = guarded(outputs=["a.txt"]), guarded(outputs=["b.txt"])
    process = first.start("echo $$ > pid; sleep 60 & wait", **using("gpu0", place))
    owner = first.running()
    wait_until((first.directory / "pid").exists)
    process.kill()
    process.wait()
    assert not is_free("gpu0"), "what runs on the device goes on"
    assert second(SHOW, **using("gpu0", place, RIPRESA_SCHEDULER="recovery")) == 75
    os.killpg(owner["group"], signal.SIGKILL)
    wait_until(lambda: is_free("gpu0"), 20)
    assert second(SHOW, **using("gpu0", place)) == 0
    assert first("echo 1 > {output}", session="two", **using("gpu1", place)) == 0
    assert [(r["outcome"], r["device"]) for r in first.records] == [
        ("interrupted", "gpu0"), ("published", "gpu1"),
    ]  # fmt: skip


def test_the_next_guard_of_a_killed_one_frees_its_device(guard, place):
    process = guard.start("[ -e again ] || { touch again; sleep 60; }; " + SHOW, **using("gpu0", place))
    guard.running()
    wait_until((guard.directory / "again").exists)
    process.kill()
    process.wait()
    assert guard("[ -e again ] || { touch again; sleep 60; }; " + SHOW, **using("gpu0", place)) == 0
    assert [r["outcome"] for r in guard.records] == ["interrupted", "published"]


def test_an_open_breaker_leaves_the_device_to_others(guard, place):
    guard.policy(breaker={"failures": 1, "open_s": 60.0, "probes": 1}, time_scale=1.0)
    refused = "echo 'HTTP Error 503: Service Unavailable'; exit 1"
    given = using("gpu0", place, scopes=["service=s"], RIPRESA_SCHEDULER="recovery")
    assert guard(refused, **given) == 1
    record = {**guard.last, "not_before": None}
    records.append(guard.run.attempts("out.txt"), record)
    used = os.stat(devices.path_of("gpu0")).st_mtime_ns
    assert guard(SHOW, **given) == 75 and "a breaker is open" in guard.said
    assert is_free("gpu0") and os.stat(devices.path_of("gpu0")).st_mtime_ns == used


def test_a_device_that_cannot_be_leased_is_one_line(guard, place):
    os.mkdir(devices.path_of("gpu0"))
    assert guard(SHOW, **using("gpu0", place)) == 1
    assert guard.records == [] and len(guard.said.splitlines()) == 1
    assert f"cannot lock {place}/ripresa-device-gpu0.lock: " in guard.said


def test_beats_show_that_the_holder_is_alive(guard, place):
    guard.options({"beat": 0.1})
    process = guard.start("while [ ! -e go ]; do sleep 0.05; done; " + SHOW, **using("gpu0", place))
    guard.running()
    os.utime(devices.path_of("gpu0"), (1, 1))
    wait_until(lambda: os.stat(devices.path_of("gpu0")).st_mtime > 1e9)
    (guard.directory / "go").touch()
    assert process.wait(60) == 0


# With snakemake

DEVICES = {"a": "gpu0", "b": "gpu0", "c": "gpu0", "d": "gpu1", "e": "gpu0,gpu1"}


@pytest.fixture
def sharing(tmp_path, place):
    """A campaign of units that name their devices."""
    campaign = Campaign(tmp_path)
    snakefile = tmp_path / "Snakefile"
    text = snakefile.read_text().replace(
        "    shell: guard(",
        "    resources: gpu_device=lambda wildcards: gpus.get(wildcards.name, '')\n    shell: guard(",
    )
    text = text.replace('{output}")', '{output}", resources=("gpu_device",))')
    snakefile.write_text(
        f"import os\nos.environ['RIPRESA_DEVICES'] = {str(place)!r}\ngpus = {DEVICES!r}\n{text}"
    )
    campaign.units(**dict.fromkeys(DEVICES, 1))
    for name, given in DEVICES.items():
        # Its own lock tells whether a device has one user: without waiting, so an overlap is a failure.
        locked = "".join(f"exec {{fd}}> {gpu}.judge; flock -n $fd || exit 9; " for gpu in given.split(","))
        campaign.does(name, f"[ $CUDA_VISIBLE_DEVICES = {given} ]; {locked} sleep 0.3")
    return campaign


def test_units_take_turns_at_a_device_and_one_that_others_use_is_waited_for(sharing):
    sharing.does("a", "touch begun; while [ ! -e go ]; do sleep 0.02; done")
    process, said = other("gpu1")
    assert said == "taken"
    try:
        controller = sharing.start("--retries", "3")
        wait_until(lambda: (o := leases.owner(sharing.run.lease("units/a.txt"))) and o.get("group"))
        (unit,) = (unit for unit in status(sharing) if unit["target"] == "units/a.txt")
        assert (unit["state"], unit["device"]) == ("RUNNING", "gpu0")
        assert "with device gpu0" in sharing.ripresa("why --run test a.txt")
        (sharing.directory / "go").touch()
        wait_until(lambda: all(sharing.path(name).exists() for name in "abc"))
        time.sleep(2.5)  # the others wait for longer than any number of retries would last
        assert "d" not in sharing.executions() and controller.poll() is None
    finally:
        process.kill()
        process.wait()
    output = controller.communicate(timeout=120)[0]
    assert controller.returncode == 0, output
    assert [sharing.outcomes(name) for name in DEVICES] == [["published"]] * 5
    assert "is in use" not in output, "nothing was started in vain"
    assert {u["target"]: u["device"] for u in status(sharing)} == {
        f"units/{name}.txt": given for name, given in DEVICES.items()
    }


def status(campaign):
    return json.loads(campaign.ripresa("status --run test --json"))["units"]


def used_until(over, name):
    """Touch the lock of a device as its users do."""
    while not over.wait(0.02):
        os.utime(devices.path_of(name))


def test_a_start_in_vain_costs_no_retry(sharing):
    """Somebody takes the device between the look of the scheduler and that of the guard, again and again."""
    sharing.units(d=1)
    snakefile = sharing.directory / "Snakefile"
    blind = "devices.shares_free = lambda names: dict.fromkeys(names, 100)"
    snakefile.write_text(f"from ripresa.journal import devices\n{blind}\n{snakefile.read_text()}")
    process, _ = other("gpu1")
    over = threading.Event()
    beats = threading.Thread(target=used_until, args=(over, "gpu1"))
    beats.start()
    try:
        controller = sharing.start("--retries", "3")
        in_vain = (line for line in controller.stdout if "is in use" in line)
        assert len(list(islice(in_vain, 6))) == 6
    finally:
        over.set()
        beats.join()
        process.kill()
        process.wait()
    output = controller.communicate(timeout=120)[0]
    assert controller.returncode == 0, output
    assert sharing.outcomes("d") == ["published"]


def test_what_a_killed_guard_left_on_a_device_is_ended_by_the_next_one(sharing):
    sharing.units(a=1, b=2)
    sharing.does("a", "[ $RIPRESA_ATTEMPT = 2 ] || sleep 600")
    controller = sharing.start()
    os.kill(sharing.running("a")["pid"], signal.SIGKILL)
    output = controller.communicate(timeout=120)[0]
    assert controller.returncode == 0, output
    assert sharing.outcomes("a") == ["interrupted", "published"] and sharing.outcomes("b") == ["published"]


LONGER = """
longer = Units("longer/{n}.txt", parameters=[{"n": n} for n in range(10)])
rule both:
    input: units.targets(), longer.targets()

rule longer:
    output: longer.target
    shell: guard("echo longer >> executions; sleep 0.8; echo 1 > {output}")
"""


def test_a_unit_whose_guard_was_killed_goes_before_what_never_began(sharing):
    """Although units of its rule are known to be short, and long ones go first."""
    sharing.units(a=1, d=1)
    sharing.does("a", "[ $RIPRESA_ATTEMPT = 2 ] || sleep 600")
    with open(sharing.directory / "Snakefile", "a") as snakefile:
        snakefile.write(LONGER)
    controller = sharing.start("--cores", "3", "both")
    owner = sharing.running("a")
    wait_until(sharing.path("d").exists)
    wait_until(lambda: "longer" in sharing.executions())
    os.kill(owner["pid"], signal.SIGKILL)
    os.killpg(owner["group"], signal.SIGKILL)
    output = controller.communicate(timeout=120)[0]
    assert controller.returncode == 0, output
    assert sharing.executions().count("a") == 2 and sharing.executions()[-3:] == ["longer"] * 3


def test_what_waits_for_a_device_says_for_whom(guard, place):
    assert guard("echo 'slurmstepd: error: NODE FAILURE'; exit 1", **using("gpu0", place)) == 1
    assert state.state_of(guard.run, guard.target).waits_for is None
    (lease,) = devices.take("gpu0")
    lease.sign({"run_id": "demo", "target": "x.txt"})
    waits = state.state_of(guard.run, guard.target).waits_for
    assert (waits["what"], waits["names"]) == (
        "device", [f"gpu0 by process {os.getpid()} for x.txt of run demo"],
    )  # fmt: skip
    lease.release()


def test_a_lock_of_somebody_else_counts_whatever_its_kind_of_process(place):
    """The kernel's lock decides, nothing else: here it is held by a shell's flock."""
    Path(devices.path_of("gpu0")).touch()
    with open(devices.path_of("gpu0")) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert devices.take("gpu0") is None
    devices.release(devices.take("gpu0"))
