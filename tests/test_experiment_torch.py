"""The PyTorch backend, where PyTorch is installed (the extra `torch`): the same training as with NumPy."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

from ripresa.families.experiments import ExperimentError, running
from ripresa.families.experiments.architecture import SHAPES
from ripresa.families.experiments.backends import choose
from ripresa.families.experiments.federated import Federation
from ripresa.families.experiments.numpy_backend import NumpyBackend
from ripresa.families.experiments.parameters import canonical
from ripresa.families.experiments.weights import initial
from ripresa.recovery.classifier import classify

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")

SMALL = {"width_factor": 2, "rounds": 3, "batch_size": 64}


@pytest.fixture(autouse=True)
def cpu(monkeypatch):
    """Compute on one core, and not on a GPU that this machine may have."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "cpu0")
    if find_spec("torch"):
        import torch

        torch.set_num_threads(1)


def uncounted(samples):
    """For where nobody asks how far it is."""


def comparable(result):
    return json.dumps({key: result[key] for key in result if key not in ("provenance", "timings")})


@pytest.mark.parametrize(
    "model",
    [
        {"depth": 0},
        {"depth": 3, "width_factor": 4},
        {"model_type": "CNN", "depth": 3, "width_factor": 3},
        {"model_type": "CNN", "depth": 1, "width_factor": 2, "dataset": "cifar10"},
    ],
    ids=["linear", "MLP", "CNN", "CNN with colours"],
)
def test_training_is_that_of_numpy_within_rounding(model):
    rng = np.random.default_rng(0)
    parameters = canonical({**model, "batch_size": 16})
    images = rng.standard_normal((50, *SHAPES[parameters["dataset"]])).astype(np.float32)
    labels, orders = rng.integers(10, size=50), [rng.permutation(50), rng.permutation(50)]
    start = initial(parameters)
    own = NumpyBackend(parameters, 16)
    expected, expected_loss = own.train(start, own.load(images, labels), orders, uncounted)
    for micro in (16, 4):
        backend = choose("torch", parameters, micro)
        samples = backend.load(images, labels)
        found, loss = backend.train(start, samples, orders, uncounted)
        assert (backend.name, found.dtype) == ("torch", np.float32)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected - start)
        for one, other in zip(
            backend.evaluate(found, samples, uncounted),
            own.evaluate(found, own.load(images, labels), uncounted),
            strict=True,
        ):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_whole_experiment_has_the_result_of_numpy(tmp_path):
    plan = {**SMALL, "poison_ratio": 0.35, "aggregator": "median", "alpha": 1}
    results = {
        name: running.run(plan, str(tmp_path / "out.json"), str(tmp_path / name), backend=name)
        for name in ("numpy", "torch")
    }
    assert results["torch"]["provenance"]["segments"][0]["device"] == "cpu"
    for measure, value in results["numpy"]["metrics"].items():
        assert results["torch"]["metrics"][measure] == pytest.approx(value, rel=1e-3)


def test_a_resumed_training_ends_as_an_undisturbed_one(tmp_path, monkeypatch):
    undisturbed = running.run(SMALL, str(tmp_path / "a.json"), str(tmp_path / "a"), backend="torch")
    original = Federation.merge

    def killed(self, number, *clients):
        if number == 3:
            raise KeyboardInterrupt
        return original(self, number, *clients)

    with monkeypatch.context() as patched:
        patched.setattr(Federation, "merge", killed)
        with pytest.raises(KeyboardInterrupt):
            running.run(SMALL, str(tmp_path / "b.json"), str(tmp_path / "b"), backend="torch")
    resumed = running.run(SMALL, str(tmp_path / "b.json"), str(tmp_path / "b"), backend="torch")
    assert comparable(resumed) == comparable(undisturbed)


def test_what_another_backend_began_is_gone_on_with_and_told(tmp_path, monkeypatch):
    plan = {**SMALL, "patience": 9}
    original = Federation.merge

    def killed(self, number, *clients):
        if number == 2:
            raise KeyboardInterrupt
        return original(self, number, *clients)

    with monkeypatch.context() as patched:
        patched.setattr(Federation, "merge", killed)
        with pytest.raises(KeyboardInterrupt):
            running.run(plan, str(tmp_path / "a.json"), str(tmp_path), backend="numpy")
    result = running.run(plan, str(tmp_path / "a.json"), str(tmp_path), micro_batch=32, backend="torch")
    told = [(s["first_round"], s["backend"], s["micro_batch"]) for s in result["provenance"]["segments"]]
    assert told == [(1, "numpy", 64), (2, "torch", 32)]


def test_a_slot_of_the_cpu_is_left_to_numpy():
    assert choose("auto", canonical({}), 32).name == "numpy"


def test_a_lack_of_device_memory_is_told_as_such(tmp_path, monkeypatch):
    import torch
    from torch.nn import functional

    def exhausted(*_, **__):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 1.00 GiB free"
        )

    monkeypatch.setattr(functional, "cross_entropy", exhausted)
    with pytest.raises(ExperimentError) as caught:
        running.run(SMALL, str(tmp_path / "a.json"), str(tmp_path), backend="torch")
    assert str(caught.value).startswith("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
    assert classify(f"error: {caught.value}", exit_code=1).failure_class == "gpu_memory"
