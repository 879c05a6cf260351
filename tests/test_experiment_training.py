"""The training of an experiment: data, clients, poison, models, rounds, and what a kill leaves of them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.dsl.digests import digest
from ripresa.families.experiments import (
    Diverged,
    ExperimentError,
    aggregation,
    backends,
    clients,
    datasets,
    poisoning,
    progress,
    running,
    training,
)
from ripresa.families.experiments.architecture import SHAPES, cost, gpu_mem_mb, num_parameters
from ripresa.families.experiments.backends import gpu_is_visible
from ripresa.families.experiments.federated import Federation
from ripresa.families.experiments.numpy_backend import NumpyBackend
from ripresa.families.experiments.parameters import DEFAULTS, canonical
from ripresa.families.experiments.weights import initial
from ripresa.recovery.classifier import classify

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "workflow/scripts/experiment_run.py"
SCHEMA = json.loads((ROOT / "workflow/schemas/experiment_result.schema.json").read_text())
SMALL = {"width_factor": 4, "rounds": 6, "learning_rate": 0.1}
"""A training that takes some milliseconds."""


def uncounted(samples):
    """For where nobody asks how far it is."""


def comparable(result: dict) -> str:
    """A result without what tells of how it was computed, as text."""
    return json.dumps({key: result[key] for key in result if key not in ("provenance", "timings")})


@pytest.fixture
def compute(tmp_path):
    """Compute an experiment; its checkpoints stay in one folder of the test."""

    def compute(parameters, **options):
        return running.run(
            parameters, str(tmp_path / "result.json"), str(tmp_path / "checkpoints"), **options
        )

    return compute


def script(tmp_path, parameters, *words, **environment):
    command = [sys.executable, SCRIPT, json.dumps(parameters), tmp_path / "out.json"]
    command += ["--checkpoints", tmp_path / "checkpoints", *words]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=60
    )


# --- parameters and architecture ----------------------------------------------------------------------------


def test_parameters_that_are_not_given_have_defaults_and_the_digest_stays():
    """Results of earlier runs are found by it: what changes it makes all of them anew."""
    assert canonical({"seed": 3}) == {**DEFAULTS, "seed": 3}
    assert canonical({"poison_ratio": 1.0}) == canonical({"poison_ratio": 1})
    assert digest(canonical({})) == "b3e2e70adffc"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"dataset": "imagenet"}, "dataset: 'imagenet' is not allowed, must be digits or mnist"),
        ({"poison_ratio": 1.5}, "poison_ratio: 1.5 is not allowed, must be a number from 0 to 1"),
        ({"poison_ratio": float("nan")}, "poison_ratio: nan"),
        ({"alpha": 0}, "alpha: 0 is not allowed, must be a number above 0, or null for iid"),
        ({"rounds": True}, "rounds: True is not allowed, must be a whole number of at least 1"),
        ({"depth": 1.0}, "depth: 1.0"),
        ({"model_type": "CNN", "depth": 0}, "depth: 0 is not allowed for model_type CNN"),
        ({"momentun": 0.9}, "momentun: unknown (did you mean 'momentum'?)"),
        (
            {"seed": -1, "momentum": 1},
            "momentum: 1 is not allowed, must be a number from 0 to below 1; seed: -1",
        ),
    ],
)
def test_what_is_wrong_with_parameters_is_named(wrong, named):
    with pytest.raises(ExperimentError, match=re.escape(named)):
        canonical(wrong)


shapes = st.fixed_dictionaries(
    {
        "dataset": st.sampled_from(sorted(SHAPES)),
        "width_factor": st.integers(1, 5),
        "depth": st.integers(1, 4),
    }
)


@given(shapes, st.sampled_from(["MLP", "CNN"]))
@settings(max_examples=30, deadline=None)
def test_the_number_of_parameters_is_known_without_the_model(shape, model):
    parameters = canonical({**shape, "model_type": model})
    assert num_parameters(parameters) == len(initial(parameters))


def test_cost_and_memory_grow_with_the_model():
    linear = canonical({"dataset": "mnist", "depth": 0})
    assert cost(linear) == f"model=MLP complexity={784 * 10 + 10}"
    cnn = canonical({"model_type": "CNN", "width_factor": 2, "depth": 2})
    count = (9 * 1 + 1) * 2 + (9 * 2 + 1) * 2 + (4 * 4 * 2 + 1) * 10
    assert cost(cnn) == f"model=CNN complexity={3 * count}"
    wide = canonical({**cnn, "width_factor": 64, "depth": 64})
    assert gpu_mem_mb(cnn) < gpu_mem_mb(wide) < gpu_mem_mb({**wide, "batch_size": 1024})


# --- data sets ----------------------------------------------------------------------------------------------


def test_digits_are_split_without_overlap():
    dataset = datasets.load("digits", "")
    assert [part.images.shape for part in dataset] == [(1167, 8, 8, 1), (270, 8, 8, 1), (360, 8, 8, 1)]
    images = np.concatenate([part.images.reshape(-1, 64) for part in dataset])
    labels = np.concatenate([part.labels for part in dataset])
    assert len(np.unique(images, axis=0)) == 1797  # no two digits are equal, so none is in two parts
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert abs(dataset.train.images.mean()) < 1e-5 and abs(dataset.train.images.std() - 1) < 1e-5


def idx(array):
    """An array in the format of MNIST."""
    import gzip

    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(head + array.tobytes(), mtime=0)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Publish a data set of these files, which is what checksums then stand for."""
    import hashlib

    def publish(name, folder, files):
        (tmp_path / folder).mkdir(parents=True)
        for file, content in files.items():
            (tmp_path / folder / file).write_bytes(content)
        sums = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
        monkeypatch.setitem(datasets._MD5, name, sums)
        monkeypatch.setattr(datasets, "_VALIDATION", 4)
        return str(tmp_path)

    return publish


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST/raw"), ("fashion_mnist", "FashionMNIST/raw")])
def test_idx_files_are_read(published, name, folder):
    rng = np.random.default_rng(1)
    images = rng.integers(256, size=(30, 28, 28), dtype=np.uint8)
    labels = np.arange(30, dtype=np.uint8) % 10
    contents = [idx(images[:20]), idx(labels[:20]), idx(images[20:]), idx(labels[20:])]
    place = published(name, folder, dict(zip(datasets._MD5[name], contents, strict=True)))
    dataset = datasets.load(name, place)
    assert [len(part.labels) for part in dataset] == [16, 4, 10]
    assert dataset.test.labels.tolist() == list(range(10))
    pixels = dataset.test.images[:, :, :, 0].astype(float)
    assert np.corrcoef(pixels.ravel(), images[20:].ravel())[0, 1] > 0.999999


def test_cifar_is_read_with_its_colours(published):
    import pickle

    rng = np.random.default_rng(1)
    images = rng.integers(256, size=(6, 5, 3, 32, 32), dtype=np.uint8)
    files = {
        file: pickle.dumps({b"data": images[n].reshape(5, -1), b"labels": [n, 1, 2, 3, 9]})
        for n, file in enumerate(datasets._MD5["cifar10"])
    }
    dataset = datasets.load("cifar10", published("cifar10", "cifar-10-batches-py", files))
    assert [part.images.shape for part in dataset] == [(21, 32, 32, 3), (4, 32, 32, 3), (5, 32, 32, 3)]
    assert dataset.test.labels.tolist() == [5, 1, 2, 3, 9]
    green = dataset.test.images[2, :, :, 1]
    assert np.corrcoef(green.ravel(), images[5, 2, 1].ravel())[0, 1] > 0.999999


def test_files_that_are_missing_or_not_the_published_ones_are_named(tmp_path):
    done = script(tmp_path, {"dataset": "fashion_mnist"}, RIPRESA_DATASETS=str(tmp_path))
    assert done.returncode == 1
    file = tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte.gz"
    assert done.stderr == (
        f"error: dataset fashion_mnist: cannot read {file} (No such file or directory): put the published "
        f"files there, or set RIPRESA_DATASETS to the folder that has them\n"
    )
    assert classify(done.stderr, exit_code=1).failure_class == "configuration"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"something else")
    with pytest.raises(ExperimentError, match="is damaged") as caught:
        datasets.load("fashion_mnist", str(tmp_path))
    assert classify(f"error: {caught.value}", exit_code=1).failure_class == "data"


# --- clients and poison -------------------------------------------------------------------------------------


@given(
    st.one_of(st.none(), st.floats(0.01, 100)), st.integers(1, 40), st.integers(0, 5), st.integers(40, 300)
)
@settings(max_examples=60, deadline=None)
def test_every_sample_has_one_client_and_every_client_some_samples(alpha, count, seed, samples):
    labels = np.random.default_rng(seed).integers(10, size=samples)
    shares = clients.proportions(alpha, count, seed)
    parts = clients.divide(labels, shares, count, np.random.default_rng(seed), 10)
    assert sorted(np.concatenate(parts).tolist()) == list(range(samples))
    assert min(map(len, parts)) >= min(10, samples // count)


def test_a_smaller_alpha_makes_clients_more_different():
    labels = np.arange(2000) % 10

    def most_common(alpha):
        shares = clients.proportions(alpha, 10, 0)
        parts = clients.divide(labels, shares, 10, np.random.default_rng(0), 10)
        return np.mean([np.bincount(labels[part]).max() / len(part) for part in parts])

    assert most_common(0.05) > most_common(0.5) > most_common(5) > most_common(None) > 0.1


def test_more_clients_than_samples_are_an_error():
    with pytest.raises(ExperimentError, match="clients: 11 are more than there are samples"):
        clients.divide(np.arange(10), None, 11, np.random.default_rng(0), 1)


def test_the_poison_ratio_is_a_share_of_the_clients_with_one_in_part():
    assert sorted(poisoning.shares(0.8125, 10, 0)) == [0, 0.125, *[1] * 8]
    assert poisoning.shares(0, 10, 0) == [0] * 10 and poisoning.shares(1, 10, 0) == [1] * 10
    assert poisoning.shares(0.5, 10, 0) != poisoning.shares(0.5, 10, 1)
    ratios = [0, 0.25, 0.5, 0.75, 0.8125, 0.875, 0.9375, 1]
    rising = np.array([poisoning.shares(ratio, 10, 0) for ratio in ratios])
    assert (np.diff(rising, axis=0) >= 0).all() and np.allclose(rising.mean(axis=1), ratios)


def test_labels_are_flipped_or_drawn_anew():
    labels = np.arange(1000) % 10
    assert (poisoning.poisoned(labels, 1, "label_flip", 0, 0) == 9 - labels).all()
    half = poisoning.poisoned(labels, 0.5, "label_flip", 0, 0)
    assert (half != labels).sum() == 500  # 9 - c is never c
    noise = poisoning.poisoned(labels, 1, "random_noise", 0, 0)
    assert 50 < (noise == labels).sum() < 150
    assert (poisoning.poisoned(labels, 0, "random_noise", 0, 0) == labels).all()


# --- models -------------------------------------------------------------------------------------------------

MODELS = [
    {"depth": 0},
    {"depth": 1, "width_factor": 2},
    {"depth": 3, "width_factor": 2},
    {"model_type": "CNN", "depth": 1, "width_factor": 2},
    {"model_type": "CNN", "depth": 3, "width_factor": 3},
    {"model_type": "CNN", "depth": 2, "width_factor": 2, "dataset": "cifar10"},
]
NAMES = ["linear", "MLP", "deep MLP", "CNN", "deep CNN", "CNN with colours"]


def gradient(backend, samples, weights):
    """That of the mean loss of all samples: what one step of rate 1 without momentum takes away."""
    ended, loss = backend.train(weights, samples, [np.arange(len(samples[1]))], uncounted)
    return weights - ended, loss


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_gradients_are_those_of_finite_differences(model):
    rng = np.random.default_rng(5)
    parameters = canonical({**model, "batch_size": 7, "learning_rate": 1, "momentum": 0})
    backend = NumpyBackend(parameters, 7, np.float64)
    weights = initial(parameters) + 0.1 * rng.standard_normal(num_parameters(parameters))
    images = rng.standard_normal((7, *SHAPES[parameters["dataset"]]))
    samples = backend.load(images, rng.integers(10, size=7))
    found, loss = gradient(backend, samples, weights)
    assert loss == pytest.approx(backend.evaluate(weights, samples, uncounted)[0].mean())
    for number in rng.choice(len(weights), 60, replace=False):
        step = np.zeros_like(weights)
        step[number] = 1e-5
        losses = [backend.evaluate(weights + sign * step, samples, uncounted)[0].mean() for sign in (1, -1)]
        assert found[number] == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-5, abs=1e-8)


@given(st.sampled_from(MODELS[:5]), st.integers(1, 40), st.data())
@settings(max_examples=40, deadline=None)
def test_a_micro_batch_gives_the_gradient_of_the_batch(model, batch, data):
    """Within rounding, also where it does not divide the batch, or the batch is not full."""
    micro, samples = data.draw(st.integers(1, batch)), data.draw(st.integers(1, batch))
    rng = np.random.default_rng(samples)
    parameters = canonical({**model, "batch_size": batch, "learning_rate": 1, "momentum": 0})
    images, labels = rng.standard_normal((samples, 8, 8, 1)), rng.integers(10, size=samples)
    for dtype, tolerance in ((np.float64, 1e-13), (np.float32, 1e-5)):
        weights = initial(parameters).astype(dtype)
        whole, part = (NumpyBackend(parameters, size, dtype) for size in (batch, micro))
        expected, _ = gradient(whole, whole.load(images.astype(dtype), labels), weights)
        found, _ = gradient(part, part.load(images.astype(dtype), labels), weights)
        assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def test_momentum_is_that_of_the_textbook():
    """Two steps, the second with the gradient where the first has led."""
    parameters = canonical({"depth": 0, "batch_size": 4, "learning_rate": 0.5, "momentum": 0.75})
    rng = np.random.default_rng(2)
    images, labels = rng.standard_normal((8, 8, 8, 1)), rng.integers(10, size=8)
    backend = NumpyBackend(parameters, 4, np.float64)
    plain = NumpyBackend({**parameters, "learning_rate": 1, "momentum": 0}, 4, np.float64)
    start = initial(parameters).astype(float)
    first, _ = gradient(plain, plain.load(images[:4], labels[:4]), start)
    between = start - 0.5 * first
    second, _ = gradient(plain, plain.load(images[4:], labels[4:]), between)
    ended, _ = backend.train(start, backend.load(images, labels), [np.arange(8)], uncounted)
    np.testing.assert_allclose(ended, between - 0.5 * (0.75 * first + second))


def test_aggregation_weighs_by_samples_or_ignores_what_lies_apart():
    models = np.array([[1, 2], [3, 4], [1000, -1000]], np.float32)
    np.testing.assert_allclose(
        aggregation.fedavg(models, [1, 2, 1]), [(1 + 6 + 1000) / 4, (2 + 8 - 1000) / 4]
    )
    np.testing.assert_array_equal(aggregation.median(models, [1, 2, 1]), [3, 2])
    many = np.random.default_rng(0).standard_normal((4, 150_000)).astype(np.float32)
    np.testing.assert_allclose(aggregation.median(many, [1] * 4), np.median(many, axis=0), rtol=1e-6)
    models[0, 0] = np.nan
    assert np.isnan(aggregation.median(models, [1, 1, 1])[0])


# --- rounds -------------------------------------------------------------------------------------------------


def test_training_learns_and_says_so_as_the_schema_wants(compute):
    result = compute({**SMALL, "width_factor": 16, "rounds": 15})
    jsonschema.validate(result, SCHEMA)
    assert result["metrics"]["test_accuracy"] > 0.9
    assert result["rounds_run"] == 15 and len(result["history"]) == 15
    by_client = result["per_client"]["test_accuracy"]
    assert len(by_client["values"]) == 10
    assert by_client["mean"] == pytest.approx(np.mean(by_client["values"]))
    assert by_client["std"] == pytest.approx(np.std(by_client["values"]))


def test_the_cnn_learns(compute):
    result = compute({"model_type": "CNN", "width_factor": 4, "depth": 2, "rounds": 8})
    assert result["metrics"]["test_accuracy"] > 0.85


def test_many_layers_train_at_the_rate_of_few(compute):
    result = compute({"width_factor": 12, "depth": 64, "rounds": 4})
    assert result["metrics"]["test_accuracy"] > 0.6


def test_poison_harms_the_mean_more_than_the_median(compute):
    plan = {"width_factor": 8, "rounds": 15, "poison_ratio": 0.3}
    clean, mean, median, all_flipped = (
        compute({**plan, **changed})["metrics"]["test_accuracy"]
        for changed in ({"poison_ratio": 0}, {}, {"aggregator": "median"}, {"poison_ratio": 1})
    )
    assert clean > 0.9 and mean < clean - 0.03 and median > mean and all_flipped < 0.2


def test_it_stops_early_and_keeps_the_best_weights(compute):
    result = compute({**SMALL, "rounds": 60, "patience": 2, "learning_rate": 0.3, "momentum": 0.5})
    losses = [entry["val_loss"] for entry in result["history"]]
    assert result["rounds_run"] == result["best_epoch"] + 2 < 60
    assert result["metrics"]["val_loss"] == min(losses) == losses[result["best_epoch"] - 1]


def test_data_ordering_and_seed_matter_and_nothing_else_is_random(tmp_path):
    texts = []
    for number, changed in enumerate([{}, {}, {"data_ordering": "fixed"}, {"seed": 1}]):
        result = running.run({**SMALL, **changed}, str(tmp_path / "r.json"), str(tmp_path / f"c{number}"))
        texts.append(comparable(result).replace("fixed", "shuffle").replace('"seed": 1', '"seed": 0'))
    assert texts[0] == texts[1] and len({re.sub(r'"digest": "\w+"', "", text) for text in texts}) == 3


# --- interruption -------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("changed", [{}, {"aggregator": "median", "alpha": 0.3, "poison_ratio": 0.45}])
def test_a_resumed_training_ends_as_an_undisturbed_one(tmp_path, monkeypatch, changed):
    """Killed in every second round before its checkpoint is there: no round is computed more than twice."""
    plan = {**SMALL, **changed}
    undisturbed = running.run(plan, str(tmp_path / "a.json"), str(tmp_path / "a"))
    computed, killed = [], set()
    original = Federation.merge

    def until_killed(self, number, *clients):
        found = original(self, number, *clients)
        computed.append(number)
        if number % 2 == 0 and number not in killed:
            killed.add(number)
            raise Killed
        return found

    monkeypatch.setattr(Federation, "merge", until_killed)
    for _ in range(3):
        with pytest.raises(Killed):
            running.run(plan, str(tmp_path / "b.json"), str(tmp_path / "b"))
    resumed = running.run(plan, str(tmp_path / "b.json"), str(tmp_path / "b"))
    assert comparable(resumed) == comparable(undisturbed)
    assert computed == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert [part["first_round"] for part in resumed["provenance"]["segments"]] == [1, 2, 4, 6]


def test_of_a_long_round_no_more_than_one_client_is_lost(tmp_path, monkeypatch, capsys):
    """Killed at the fourth client of every round; here any time makes a round a long one."""
    plan = {**SMALL, "rounds": 3, "alpha": 0.3, "poison_ratio": 0.45}
    undisturbed = running.run(plan, str(tmp_path / "a.json"), str(tmp_path / "a"))
    monkeypatch.setattr(training, "SAVED_EVERY_S", 0)
    monkeypatch.setattr(progress, "_EVERY_S", 0)
    monkeypatch.setenv("RIPRESA_PROGRESS", str(tmp_path / "progress"))
    trained, reached, original = [], [], Federation.train

    def until_killed(self, number, client, weights):
        trained.append((number, client))
        if client == 3 and trained.count((number, client)) == 1:
            raise Killed
        return original(self, number, client, weights)

    monkeypatch.setattr(Federation, "train", until_killed)
    for _ in range(3):
        with pytest.raises(Killed):
            running.run(plan, str(tmp_path / "b.json"), str(tmp_path / "b"))
        reached.append((tmp_path / "progress").read_text().split()[0])
    resumed = running.run(plan, str(tmp_path / "b.json"), str(tmp_path / "b"))
    assert comparable(resumed) == comparable(undisturbed)
    assert sorted(trained) == sorted([(n + 1, c) for n in range(3) for c in [*range(10), 3]])
    counts = Federation(canonical(plan), datasets.load("digits", ""), NumpyBackend(canonical(plan), 32), None)
    assert reached == [str(n * (1167 + 270) + counts.trained(3)) for n in range(3)]
    assert capsys.readouterr().out.endswith("resuming after round 2 and 3 clients of the next one\n")
    assert [part["first_round"] for part in resumed["provenance"]["segments"]] == [1, 2, 3]


def test_a_round_of_which_a_part_diverged_elsewhere_is_computed_again_from_its_start(tmp_path, monkeypatch):
    """What the machine sent that computed a part of the round may be what makes it diverge."""
    undisturbed = running.run(SMALL, str(tmp_path / "a.json"), str(tmp_path / "a"))
    monkeypatch.setattr(training, "SAVED_EVERY_S", 0)
    original = Federation.train

    def failing(self, number, client, weights):
        if (number, client) == (2, 5):
            raise Killed
        sent, loss = original(self, number, client, weights)
        return (sent * np.float32(np.nan) if (number, client) == (2, 1) else sent), loss

    with monkeypatch.context() as patched:
        patched.setattr(Federation, "train", failing)
        with pytest.raises(Killed):
            running.run(SMALL, str(tmp_path / "b.json"), str(tmp_path / "b"))
    resumed = running.run(SMALL, str(tmp_path / "b.json"), str(tmp_path / "b"))
    assert comparable(resumed) == comparable(undisturbed)


def test_kill_9_costs_no_more_than_a_round(tmp_path):
    plan = {"width_factor": 16, "rounds": 25, "patience": 25, "batch_size": 8}
    of_round, last = 1167 + 270, 270 + 360
    told = tmp_path / "progress"
    command = [
        sys.executable,
        SCRIPT,
        json.dumps(plan),
        tmp_path / "out.json",
        "--checkpoints",
        tmp_path / "c",
    ]
    environment = os.environ | {"RIPRESA_PROGRESS": str(told)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (told.exists() and int((told.read_text().split() or ["0"])[0]) >= 3 * of_round):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    done, total = map(int, told.read_text().split())
    assert total == 25 * of_round + last and not (tmp_path / "out.json").exists()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    resumed = int(re.match(r"resuming after round (\d+)\n", again.stdout)[1])
    assert done // of_round <= resumed < 25
    assert told.read_text().split() == [str(total), str(total)]
    undisturbed = running.run(plan, str(tmp_path / "a.json"), str(tmp_path / "a"))
    assert comparable(json.loads((tmp_path / "out.json").read_text())) == comparable(undisturbed)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_progress_moves_within_a_round_and_ends_at_its_total(compute, tmp_path, monkeypatch, backend):
    """A round of a large model lasts longer than a command may go without progress."""
    if backend == "torch" and find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    told, write = [], os.pwrite

    def noted(fd, data, offset):
        told.append([int(word) for word in data.split()])
        return write(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", noted)
    monkeypatch.setattr(progress, "_EVERY_S", 0)
    monkeypatch.setenv("RIPRESA_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "cpu0")
    compute({**SMALL, "rounds": 2, "local_epochs": 2}, backend=backend, micro_batch=16)
    total = 2 * (2 * 1167 + 270) + 270 + 360
    done = [values[0] for values in told]
    assert {values[1] for values in told} == {total} and done[0] == 0 and done[-1] == total
    steps = [after - before for before, after in pairwise(done)]
    assert min(steps) >= 0 and max(steps) == 360  # the test images, at once
    assert steps.count(16) > 2 * 2 * 10 * 5


def test_progress_is_told_once_a_second_and_after_each_round(compute, tmp_path, monkeypatch):
    writes = []
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: writes.append(data))
    monkeypatch.setenv("RIPRESA_PROGRESS", str(tmp_path / "progress"))
    compute(SMALL)
    assert SMALL["rounds"] + 2 <= len(writes) <= SMALL["rounds"] + 5
    assert {len(data) for data in writes} == {32}


@pytest.mark.parametrize("damage", ["torn", "empty", "garbage", "flipped", "other parameters"])
def test_a_checkpoint_that_cannot_be_used_is_said_and_passed_over(compute, tmp_path, capsys, damage):
    expected = comparable(compute(SMALL))
    (path,) = (tmp_path / "checkpoints").iterdir()
    content = bytearray(path.read_bytes())
    if damage == "other parameters":
        compute({**SMALL, "seed": 1})
        (other,) = set((tmp_path / "checkpoints").iterdir()) - {path}
        os.replace(other, path)
    else:
        middle = len(content) // 2
        content[middle] ^= 1
        kinds = {"torn": content[:-200], "empty": b"", "garbage": b"no checkpoint", "flipped": content}
        path.write_bytes(kinds[damage])
    capsys.readouterr()
    assert comparable(compute(SMALL)) == expected
    said = capsys.readouterr().out
    assert said.startswith(f"checkpoint {path} is ") and "starting from the first round" in said
    assert said.count("\n") == 1


def test_checkpoints_of_published_experiments_are_removed_by_whoever_starts_next(tmp_path, monkeypatch):
    run, folder = tmp_path / "run", tmp_path / "checkpoints"
    (run / "experiments").mkdir(parents=True)
    monkeypatch.setenv("RIPRESA_RUN", str(run))

    def start(**changed):
        plan = {**SMALL, "rounds": 1, **changed}
        name = digest(canonical(plan))
        monkeypatch.setenv("RIPRESA_TARGET", f"experiments/{name}.json")
        running.run(plan, str(tmp_path / "staged.json"), str(folder))
        return name

    first = start()
    second = start(seed=1)
    assert {path.stem for path in folder.iterdir()} == {first, second}
    (run / f"experiments/{first}.json").write_text("{}")
    third = start(seed=2)
    assert {path.stem for path in folder.iterdir()} == {second, third}


# --- divergence ---------------------------------------------------------------------------------------------


def test_divergence_is_a_result_that_says_so(tmp_path):
    done = script(tmp_path, {**SMALL, "learning_rate": 50, "depth": 2})
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((tmp_path / "out.json").read_text())
    jsonschema.validate(result, SCHEMA)
    assert (result["status"], result["failure_class"]) == ("diverged", "numerical")
    assert set(result["metrics"].values()) == {None}
    assert result["per_client"]["test_loss"] == {"mean": None, "std": None, "values": None}
    assert re.fullmatch(r"round \d diverged: training loss \S+ at client \d", result["reason"])
    assert done.stdout.endswith(f"numerical: {result['reason']}\n")
    assert classify(done.stdout, exit_code=1).failure_class == "numerical"


def test_a_round_that_diverges_only_once_is_a_fault_of_the_machine(compute, monkeypatch, capsys, tmp_path):
    expected = running.run(SMALL, str(tmp_path / "a.json"), str(tmp_path / "a"))
    original, failed = NumpyBackend.train, []

    def failing(self, *given):
        weights, loss = original(self, *given)
        if not failed:
            failed.append(True)
            return weights * np.nan, float("nan")
        return weights, loss

    monkeypatch.setattr(NumpyBackend, "train", failing)
    assert comparable(compute(SMALL)) == comparable(expected)
    assert "it did not diverge again, so this machine was at fault" in capsys.readouterr().out


def test_weights_that_overflow_at_the_server_diverge():
    parameters = canonical(SMALL)
    backend = NumpyBackend(parameters, 32)
    federation = Federation(parameters, datasets.load("digits", ""), backend, uncounted)
    federation._aggregate = lambda models, samples: models[0] * np.float32(np.inf)
    with np.errstate(all="ignore"), pytest.raises(Diverged, match="validation loss is not finite"):
        federation.merge(1, [initial(parameters)] * 10, [1.0] * 10)


# --- the script ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "words", "message"),
    [
        ({"rounds": 0}, [], "error: invalid parameters: rounds: 0 is not allowed, must be a whole number"),
        ({}, ["--micro-batch", "33"], "error: invalid micro-batch 33: must be from 1 to batch_size"),
    ],
)
def test_errors_are_one_line(tmp_path, parameters, words, message):
    done = script(tmp_path, parameters, *words)
    assert done.returncode == 1 and done.stderr.startswith(message) and done.stderr.count("\n") == 1
    assert classify(done.stderr, exit_code=1).failure_class == "configuration"


def test_a_micro_batch_is_recorded(compute):
    whole, part = compute(SMALL), None
    part = compute({**SMALL, "seed": 0}, micro_batch=8)  # resumes: nothing is left to compute
    assert (whole["micro_batch"], part["micro_batch"]) == (32, 8)
    assert part["provenance"]["segments"] == whole["provenance"]["segments"]


def test_starting_imports_nothing_heavy(tmp_path):
    command = [sys.executable, "-X", "importtime", SCRIPT, json.dumps(SMALL), tmp_path / "out.json"]
    command += ["--checkpoints", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    tops = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "numpy" in tops
    assert not tops & {"torch", "numba", "sklearn", "scipy", "polars", "jsonschema", "snakemake", "asyncio"}


@pytest.mark.parametrize(
    ("environment", "visible"),
    [
        ({"CUDA_VISIBLE_DEVICES": "GPU-5f1"}, True),
        ({"CUDA_VISIBLE_DEVICES": ""}, False),
        ({"CUDA_VISIBLE_DEVICES": "cpu0"}, False),
        ({"HIP_VISIBLE_DEVICES": "1"}, True),
        ({"ROCR_VISIBLE_DEVICES": "-1"}, False),
    ],
)
def test_a_slot_of_the_cpu_is_no_gpu(environment, visible):
    assert gpu_is_visible(environment) == visible


def test_pytorch_that_is_asked_for_must_be_installed(compute, monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5f1")
    with pytest.raises(ExperimentError, match="backend torch: PyTorch is not installed") as caught:
        compute(SMALL, backend="torch")
    assert classify(f"error: {caught.value}", exit_code=1).failure_class == "environment"
    assert compute({**SMALL, "rounds": 1}, backend="auto")["backend"] == "numpy"
