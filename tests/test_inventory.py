"""The devices of a machine, as nvidia-ml-py and sysfs tell of them: only what is below these is made up."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import wait_until
from ripresa.journal import devices as leased
from ripresa.placement import nvml, rocm
from ripresa.placement.inventory import Device, busy, devices, look
from ripresa.placement.visible import selected

FAKE = Path(__file__).parent / "fake_nvml"
A100 = {"uuid": "GPU-a100-1", "memory_mb": 40960, "used_mb": 10}
SPLIT = {
    "uuid": "GPU-b200-2",
    "mig": [{"uuid": "MIG-1", "model": "1g.5gb", "memory_mb": 4864}, None, {"uuid": "MIG-2"}],
}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes the GPUs of a machine: ``machine(gpu, ...)``; may be called again while the library is in use."""
    file = tmp_path / "gpus.json"
    monkeypatch.setenv("FAKE_NVML", str(file))
    monkeypatch.setenv("RIPRESA_DEVICES", str(tmp_path))
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    nvml._start.cache_clear()

    def has(*gpus):
        file.write_text(json.dumps(gpus))

    yield has
    nvml._start.cache_clear()
    sys.modules.pop("pynvml", None)


def names(settings=None, **environment):
    return [device.name for device in devices(settings or {}, environment)]


def test_gpus_with_their_memory_and_instances_in_place_of_the_gpu(machine):
    machine(A100, SPLIT)
    assert devices({"cpu_slots": 1}, {}) == [
        Device("GPU-a100-1", "gpu", 40960, 40950, "NVIDIA A100", "GPU-a100-1"),
        Device("MIG-1", "gpu", 4864, 4864, "1g.5gb", "MIG-1"),
        Device("MIG-2", "gpu", 1000, 1000, "NVIDIA A100", "MIG-2"),
        Device("cpu0", "cpu"),
    ]


def test_a_look_is_always_new_and_the_library_is_started_once(machine):
    machine(A100)
    assert devices({}, {})[0].free_mb == 40950
    machine({**A100, "used_mb": 40000}, {"uuid": "GPU-new"})
    assert [(d.name, d.free_mb) for d in devices({}, {})] == [("GPU-a100-1", 960), ("GPU-new", 1000)]
    import pynvml

    assert pynvml.Library.starts == 1
    began = time.process_time()
    for _ in range(20):
        devices({}, {})
    assert (time.process_time() - began) / 20 < 0.02, "the package's own share is under 1 ms"


def test_a_machine_without_a_driver_has_no_gpus(machine):
    found = look({}, {})
    assert found == ([], [])
    command = [sys.executable, "-c", "from ripresa.placement.inventory import look; print(*look({}, {}))"]
    without = {name: value for name, value in os.environ.items() if name != "FAKE_NVML"}
    done = subprocess.run(command, env=without, capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n", "nor one without the library, which this most often is"


def test_a_gpu_in_mig_mode_without_instances_is_said_to_be(machine):
    machine(A100, {"uuid": "GPU-b200-2", "mig": [None, None]})
    found = look({}, {})
    assert [device.name for device in found.devices] == ["GPU-a100-1"]
    assert found.problems == ["GPU 1, GPU-b200-2: it is in MIG mode and has no instances"]


def test_a_lost_gpu_is_left_out_and_said_to_be(machine):
    machine(A100, {"uuid": "GPU-c"}, {"uuid": "GPU-d"})
    assert names() == ["GPU-a100-1", "GPU-c", "GPU-d"]
    machine(A100, {"uuid": "GPU-c", "error": 15}, {"uuid": "GPU-d"})
    assert names() == ["GPU-a100-1", "GPU-d"]
    assert look({}, {}).problems == ["GPU 1, GPU-c: GPU is lost"]


def test_what_cuda_lets_through(machine):
    machine(A100, SPLIT, {"uuid": "GPU-c"})
    assert names(CUDA_VISIBLE_DEVICES="2,0") == ["GPU-c", "GPU-a100-1"]
    assert names(CUDA_VISIBLE_DEVICES="1") == ["MIG-1", "MIG-2"]
    assert names(CUDA_VISIBLE_DEVICES="MIG-2,GPU-a") == ["MIG-2", "GPU-a100-1"]
    assert names(CUDA_VISIBLE_DEVICES="") == names(CUDA_VISIBLE_DEVICES="NoDevFiles") == []
    assert look({}, {"CUDA_VISIBLE_DEVICES": "0"}).problems == []


def test_indices_among_gpus_of_several_models_are_ambiguous(machine):
    machine({**A100, "model": "T4"}, SPLIT, {"uuid": "GPU-c", "model": "H100"})
    (problem,) = look({}, {"CUDA_VISIBLE_DEVICES": "0"}).problems
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in problem
    for sure in ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "0"}, {}):
        assert look({}, sure).problems == []


UUIDS = ["GPU-10", "GPU-11", "GPU-2"]


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        (" 1 , +2", [1, 2]),
        ("1gpu,2", [1, 2]),  # digits count as far as they go
        ("0,-1,1", [0]),
        ("0,7,1", [0]),
        ("0,,1", [0]),
        ("none", []),
        ("0,0", []),
        ("GPU-2,GPU-10", [2, 0]),
        ("GPU-1,GPU-2", []),  # the beginning of two
        ("GPU-2,gpu-10", [2]),
        ("GPU-11,GPU-11", []),
    ],
)
def test_the_rules_of_cuda(value, chosen):
    assert selected(value, UUIDS) == chosen


def test_a_configured_list_chooses_among_the_gpus_or_stands_for_itself(machine):
    machine(A100, {"uuid": "GPU-c"})
    assert names({"gpus": [1]}) == names({"gpus": ["1", "GPU-c", {"name": "GPU-c"}]}) == ["GPU-c"]
    assert names({"gpus": []}) == []
    found = look({"gpus": ["GPU-gone", "fake", {"name": "other", "memory_mb": 8000, "model": "X"}]}, {})
    assert found.devices == [
        Device("fake", "gpu", visible="fake"), Device("other", "gpu", 8000, 8000, "X", "other")
    ]  # fmt: skip
    assert found.problems == ["devices.gpus has GPU-gone, which this machine does not (any more)"]


def test_without_any_gpu_every_configured_name_stands_for_itself(machine):
    assert names({"gpus": ["GPU-1", 0, "x"], "cpu_slots": 2}) == ["GPU-1", "0", "x", "cpu0", "cpu1"]


# What others use


def occupied(machine, **gpu):
    machine({**A100, **gpu})
    (device,) = devices({}, {})
    return busy(device, {"foreign_mb": 300})


def test_a_gpu_that_others_compute_on_is_busy(machine):
    pid = os.getpid()
    assert occupied(machine) == ""
    assert occupied(machine, processes=[[pid, 250]], used_mb=260) == ""
    assert occupied(machine, processes=[[pid, 250], [1, 200]]) == (
        f"450 MB of it are in use by process {pid}, 1 without a lease"
    )
    assert "2000 MB" in occupied(machine, processes=[[pid, None]], used_mb=2000), "the driver may not tell"
    assert occupied(machine, used_mb=2000) == "2000 MB of it are in use without a lease"
    assert occupied(machine, used_mb=2000, graphics=[[pid, 1900]]) == "", "it draws the screen"


def test_what_runs_under_a_lease_does_not_make_it_busy(machine):
    (lease,) = leased.take("GPU-a100-1@50")
    child = subprocess.Popen(["sleep", "60"], pass_fds=[lease.fd])
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        assert occupied(machine, processes=[[child.pid, 5000]], used_mb=5000) == ""
        assert occupied(machine, used_mb=5000) == "", "processes of other containers are not named"
        both = [[child.pid, 5000], [stranger.pid, 700]]
        assert occupied(machine, processes=both) == (
            f"700 MB of it are in use by process {stranger.pid} without a lease"
        )
        assert occupied(machine, processes=[[2**22 + 1, 700]]) == "", "nor can those be looked at"
        lease.release()
        assert occupied(machine, processes=[[child.pid, 5000]]) == "", "what inherited it still has it"
        child.kill()
        child.wait()
        wait_until(lambda: not leased.held(["GPU-a100-1"]))
        assert "5000 MB" in occupied(machine, processes=[[child.pid, 5000]])
    finally:
        for process in (child, stranger):
            process.kill()
            process.wait()


def test_only_gpus_are_looked_at(machine):
    machine(A100)
    assert busy(Device("cpu0", "cpu"), {}) == busy(Device("made-up", "gpu"), {}) == ""


# ROCm


@pytest.fixture
def sysfs(tmp_path, monkeypatch):
    """A sysfs with a processor and three AMD GPUs, the last of which has no UUID."""
    kfd = tmp_path / "class/kfd/kfd"
    for node, (simds, unique) in enumerate([(0, 0), (256, 0xDEADBEEF), (256, 0xFEED), (64, 0)]):
        there = kfd / f"topology/nodes/{node}"
        there.mkdir(parents=True)
        text = f"simd_count {simds}\ndrm_render_minor {127 + node}\nunique_id {unique}\n"
        (there / "properties").write_text(text)
        (there / "gpu_id").write_text(f"{1000 + node}\n")
        (there / "name").write_text("gfx90a\n")
        card = tmp_path / f"class/drm/renderD{127 + node}/device"
        card.mkdir(parents=True)
        (card / "mem_info_vram_total").write_text(f"{64 << 30}\n")
        (card / "mem_info_vram_used").write_text(f"{node << 30}\n")
    process = kfd / "proc/4711"
    process.mkdir(parents=True)
    for number in range(1, 4):
        (process / f"vram_{1000 + number}").write_text(f"{(number == 2) * (3 << 30)}\n")
    monkeypatch.setattr(rocm, "ROOT", str(tmp_path))


def test_amd_gpus(sysfs, monkeypatch):
    first, second, third = rocm.gpus({})
    assert first == rocm.Gpu("GPU-00000000deadbeef", "1001", "gfx90a", 65536, 64512)
    assert (second.name, third.name) == ("GPU-000000000000feed", "2")
    assert rocm.processes(second.name) == [(4711, 3072)] and rocm.processes(first.name) == []

    def seen(**environment):
        return [gpu.model and gpu.name[-4:] for gpu in rocm.gpus(environment)]

    assert seen(ROCR_VISIBLE_DEVICES="2,GPU-00000000dead") == ["2", "beef"]
    assert seen(ROCR_VISIBLE_DEVICES="2,1", HIP_VISIBLE_DEVICES="1") == ["feed"]
    assert seen(HIP_VISIBLE_DEVICES="0", CUDA_VISIBLE_DEVICES="1") == ["beef"]
    assert seen(CUDA_VISIBLE_DEVICES="1") == ["feed"]
    assert seen(ROCR_VISIBLE_DEVICES="") == seen(CUDA_VISIBLE_DEVICES="") == []
    monkeypatch.setattr(rocm, "ROOT", "/missing")
    assert rocm.gpus({}) == []


def test_amd_gpus_are_devices_like_others(machine, sysfs):
    assert names({"gpus": ["GPU-000000000000f"]}) == ["GPU-000000000000feed"]
    (device,) = devices({"gpus": ["GPU-000000000000f"]}, {})
    assert busy(device, {}) == "3072 MB of it are in use by process 4711 without a lease"


# The command


def test_the_doctor_says_which_gpus_there_are_and_which_are_left_alone(machine, tmp_path):
    machine({**A100, "processes": [[1, 900]]}, SPLIT, {"uuid": "GPU-c", "error": 15})
    environment = {**os.environ, "PYTHONPATH": f"{FAKE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    root = FAKE.parents[1]
    command = [sys.executable, "-c", "from ripresa.cli import main; main()", "doctor", "--json"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    found = [check for check in json.loads(done.stdout) if check["name"].startswith(("GPU", "device"))]
    assert [(check["name"], check["level"]) for check in found] == [
        ("devices", "ok"), ("devices", "warn"), ("GPU GPU-a100-1", "warn"), ("GPU MIG-1", "ok"),
        ("GPU MIG-2", "ok"), ("device leases", "ok"),
    ]  # fmt: skip
    assert found[2]["found"] == "900 MB of it are in use by process 1 without a lease"
    assert found[3]["found"] == "1g.5gb, 4.8 of 4.8 GiB free"
