"""Broken devices: what shows that it was the device, and that no unit of the run gets it again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ripresa.journal import clock, exclusions, records
from ripresa.recovery import device_faults

FAKE = Path(__file__).parent / "fake_nvml"
FELL_OFF = "NVRM: Xid (PCI:0000:3b:00): 79, pid=3071, GPU has fallen off the bus."


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Makes the GPUs of a machine; without a call it has no driver."""
    file = tmp_path / "gpus.json"
    monkeypatch.setenv("FAKE_NVML", str(file))
    monkeypatch.setenv("PYTHONPATH", f"{FAKE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("RIPRESA_DEVICES", str(tmp_path))
    monkeypatch.setattr(device_faults, "_kernel", lambda seconds: iter(()))
    return lambda *gpus: file.write_text(json.dumps(gpus))


def shows(line):
    """Whether a line shows that the device is broken."""
    return device_faults._evidence(line) is not None


@pytest.mark.parametrize(
    "number", [46, 48, 61, 62, 63, 64, 74, 79, 92, 94, 95, 109, 110, 119, 120, 140, 143, 158]
)
def test_errors_after_which_a_gpu_needs_a_reset(number):
    assert shows(f"NVRM: Xid (PCI:0000:c1:00): {number}, pid='<unknown>', name=<unknown>, and so on")
    assert shows(f"kernel: [ 99.0] NVRM: Xid (0000:01:00): {number}, 0005 00000000") and shows(
        f"XID {number} x"
    )


@pytest.mark.parametrize("number", [8, 11, 13, 25, 31, 32, 43, 45, 68, 69, 137])
def test_errors_of_programs(number):
    assert not shows(f"NVRM: Xid (PCI:0000:c1:00): {number}, pid=123, name=python, Ch 00000008")
    assert not shows(f"NVRM: Xid (PCI:0000:c1:00): {number}, uncorrectable ECC is not what this is about")


@pytest.mark.parametrize(
    "line",
    [
        "nvidia-smi: Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost.  Reboot",
        "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered",
        "CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error", "cudaErrorECCUncorrectable",
        "NVRM: GPU 0000:3b:00.0: RmInitAdapter failed! (0x26:0x65:1501)", "hipErrorECCNotCorrectable",
        "double bit ECC error detected", "Row remapping failure", "GPU requires reset",
    ],
)  # fmt: skip
def test_words_of_broken_hardware(line):
    assert shows(line)


@pytest.mark.parametrize(
    "line",
    [
        "RuntimeError: CUDA error: unspecified launch failure", "CUDA error: an illegal memory access",
        "CUDA out of memory", "Uncorrectable ECC errors: 0", "no uncorrectable ECC errors", "loss: 79",
        "Detected Critical Xid Error", "Memory access fault by GPU node-1", "corrected ECC error",
        "CUDA-capable device(s) is/are busy or unavailable",
    ],
)  # fmt: skip
def test_words_that_do_not_show_it(line):
    assert not shows(line)


def test_of_several_devices_only_the_named_one_is_blamed(machine):
    machine(
        {"uuid": "GPU-a", "address": "0000:3b:00.0"},
        {"uuid": "GPU-b", "address": "0000:86:00.0"},
        {"uuid": "GPU-c", "address": "0000:af:00.0"},
    )
    assert device_faults.faults(["GPU-a", "GPU-b"], FELL_OFF, 1.0) == {"GPU-a": FELL_OFF}
    assert device_faults.faults(["GPU-b"], FELL_OFF, 1.0) == {}, "it is about another one"
    assert device_faults.faults(["GPU-a", "GPU-b"], "GPU-b: double-bit ECC error", 1.0) == {
        "GPU-b": "GPU-b: double-bit ECC error"
    }
    assert device_faults.faults(["GPU-a", "GPU-b"], "double-bit ECC error", 1.0) == {}
    assert device_faults.faults(["GPU-a"], "double-bit ECC error", 1.0) != {}
    assert device_faults.faults(["cpu0"], FELL_OFF, 1.0) == {}


def test_a_gpu_that_nvml_has_lost_is_broken_whatever_the_log_says(machine):
    machine({"uuid": "GPU-a"}, {"uuid": "GPU-b", "error": 15})
    said = "CUDA error: unspecified launch failure"
    assert device_faults.faults(["GPU-a"], said, 1.0) == {}
    assert device_faults.faults(["GPU-c", "GPU-a"], said, 1.0) == {"GPU-c": "NVML: no such GPU any more"}
    assert device_faults.faults(["gpu0"], said, 1.0) == {}, "NVML knows nothing of such names"


def test_what_the_kernel_says_of_the_device_counts(machine, monkeypatch):
    machine({"uuid": "GPU-a", "address": "0000:3b:00.0"}, {"uuid": "GPU-b", "address": "0000:86:00.0"})
    monkeypatch.setattr(device_faults, "_kernel", lambda seconds: iter([FELL_OFF, "usb 1-1: reset"]))
    assert device_faults.faults(["GPU-a"], "unspecified launch failure", 1.0) == {"GPU-a": FELL_OFF}
    assert device_faults.faults(["GPU-b"], "unspecified launch failure", 1.0) == {}


@pytest.mark.skipif(not os.access("/dev/kmsg", os.W_OK), reason="needs the kernel's log")
def test_the_kernels_log_is_read_from_the_start_of_the_attempt(monkeypatch):
    monkeypatch.undo()
    word = f"ripresa test {os.getpid()}"
    try:
        Path("/dev/kmsg").write_text(f"{word}\n")
    except OSError:
        pytest.skip("the kernel's log cannot be written")
    assert any(word in line for line in device_faults._kernel(60.0))
    assert not any(word in line for line in device_faults._kernel(-60.0))


# The guard


def given(device, place, **more):
    return {"resources": [f"gpu_device={device}"], "RIPRESA_DEVICES": str(place), **more}


def test_a_broken_device_is_excluded_for_the_run_until_it_is_released(guarded, tmp_path):
    first, second = guarded(outputs=["a.txt"]), guarded(outputs=["b.txt"])
    first.policy(time_scale=1.0)
    assert first(f"echo '{FELL_OFF}'; exit 1", **given("gpu0@50", tmp_path)) == 1
    assert (first.last["failure_class"], first.last["decision"]) == ("gpu_fault", "retry")
    assert first.last["not_before"] is None, "at once, for it goes elsewhere"
    assert first.last["excluded"] == {"gpu": "gpu0"} and "gpu:gpu0" in first.last["scopes"]
    assert exclusions.excluded(first.run) == {"gpu0": FELL_OFF}
    (entry,) = records.read(first.run.devices)
    assert (entry["device"], entry["target"], entry["attempt"]) == ("gpu0", "a.txt", 1)
    assert clock.seconds(entry["ts"])
    (event,) = first.events("device_excluded")
    assert event["device"] == "gpu0"
    publish = "echo 1 > {output}"
    assert second(publish, **given("gpu1,gpu0", tmp_path)) == 1 and second.records == []
    assert f"device gpu0 is excluded: {FELL_OFF}" in second.said and "--device gpu0`" in second.said
    assert first(publish, **given("gpu1", tmp_path)) == 0
    said = ripresa(tmp_path, "status", "--run", "test").stdout
    assert f"device excluded: gpu0: {FELL_OFF}" in said
    assert json.loads(ripresa(tmp_path, "status", "--json", "--run", "test").stdout)["excluded_devices"] == {
        "gpu0": FELL_OFF
    }
    found = json.loads(ripresa(tmp_path, "doctor", "--json", "--run", "test").stdout)
    (check,) = [check for check in found if check["name"] == "device gpu0"]
    assert check["level"] == "warn" and "`ripresa release --device gpu0`" in check["fix"]
    assert ripresa(tmp_path, "release", "--device", "gpu0", "--run", "test").stdout == (
        "device gpu0: units may have it again\n"
    )
    assert exclusions.excluded(first.run) == {} and len(first.events("device_released")) == 1
    refused = ripresa(tmp_path, "release", "--device", "gpu0", "--run", "test")
    assert refused.returncode == 1 and "device gpu0: is not excluded" in refused.stderr
    assert second(publish, **given("gpu0", tmp_path)) == 0


def test_a_fault_of_the_program_excludes_nothing_and_waits(guard, tmp_path):
    guard.policy(time_scale=1.0)
    line = "NVRM: Xid (PCI:0000:3b:00): 31, pid=12, MMU Fault: ENGINE GRAPHICS"
    assert guard(f"echo '{line}'; exit 1", **given("gpu0", tmp_path)) == 1
    assert guard.last["failure_class"] == "gpu_fault" and guard.last["not_before"]
    assert exclusions.excluded(guard.run) == {} and not os.path.exists(guard.run.devices)


def test_a_device_that_nvml_has_lost_is_excluded(guard, tmp_path, machine):
    machine({"uuid": "GPU-a", "error": 15}, {"uuid": "GPU-b"})
    command = "echo 'CUDA error: unspecified launch failure'; exit 1"
    assert guard(command, **given("GPU-b", tmp_path)) == 1 and exclusions.excluded(guard.run) == {}
    guard.policy()
    assert guard(command, session="two", **given("GPU-a", tmp_path)) == 1
    assert exclusions.excluded(guard.run) == {"GPU-a": "NVML: no such GPU any more"}


def test_devices_of_other_hosts_are_others(guard):
    there = {"device": "0", "state": "excluded", "reason": "x", "host": "elsewhere"}
    records.append(guard.run.devices, there, {"torn": None})
    assert exclusions.excluded(guard.run) == {}
    exclusions.exclude(guard.run, "0", "y", target="a", attempt=1)
    exclusions.exclude(guard.run, "0", "z", target="b", attempt=2)
    assert exclusions.excluded(guard.run) == {"0": "y"} and len(records.read(guard.run.devices)) == 3


def ripresa(folder, *words):
    command = [Path(sys.executable).parent / "ripresa", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done
