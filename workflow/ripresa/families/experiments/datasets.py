"""Data sets of images in ten classes, from local files only, checked against their published checksums.

`digits` comes with scikit-learn. The others are looked for where `torchvision` keeps them below one folder:
``MNIST/raw`` and ``FashionMNIST/raw`` (IDX files, gzipped), ``cifar-10-batches-py`` (Python version). For
experiments of a campaign that folder is ``$RIPRESA_DATASETS``, else ``datasets`` in the working directory.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ripresa.families.experiments import ExperimentError
from ripresa.families.experiments.architecture import SHAPES

Images = NDArray[np.float32]
Labels = NDArray[np.intp]

_SPLIT_SEED = 20_240_501
"""Of the splits that no publication fixes; the same for all seeds of experiments, which differ otherwise."""
_TEST_DIGITS, _VALIDATION_DIGITS = 360, 270
_VALIDATION = 5000

_DIGITS_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
_MD5 = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    "cifar10": {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
}
_FOLDERS = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw", "cifar10": "cifar-10-batches-py"}


class Part(NamedTuple):
    """Images (n, height, width, channels) and their labels (n)."""

    images: Images
    labels: Labels


class Dataset(NamedTuple):
    """The three parts of a data set. The mean of the training pixels is 0, their standard deviation 1."""

    train: Part
    validation: Part
    test: Part


def load(name: str, folder: str) -> Dataset:
    """The data set, of which ``folder`` has the files unless it is `digits`.

    Test images are the published ones; of `digits`, which has none, a fifth. Validation images are drawn
    from the rest. ExperimentError if a file is missing or is not the published one.
    """
    rng = np.random.default_rng(_SPLIT_SEED)
    if name == "digits":
        pixels, labels = _digits()
        order = rng.permutation(len(labels))
        test, rest = order[:_TEST_DIGITS], order[_TEST_DIGITS:]
        validation, train = rest[:_VALIDATION_DIGITS], rest[_VALIDATION_DIGITS:]
        return _scaled(name, *((pixels[part], labels[part]) for part in (train, validation, test)))
    place = os.path.join(folder, _FOLDERS[name])
    read = _cifar if name == "cifar10" else _idx
    (pixels, labels), test_part = read(name, place)
    order = rng.permutation(len(labels))
    validation, train = order[:_VALIDATION], order[_VALIDATION:]
    return _scaled(name, *((pixels[part], labels[part]) for part in (train, validation)), test_part)


def _scaled(name: str, *parts: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> Dataset:
    pixels = parts[0][0]
    mean, deviation = pixels.mean(dtype=np.float64), pixels.std(dtype=np.float64)
    scaled = []
    for values, labels in parts:
        images = values.astype(np.float32).reshape(len(values), *SHAPES[name])
        images -= np.float32(mean)
        images *= np.float32(1 / deviation)
        scaled.append(Part(images, labels.astype(np.intp)))
    return Dataset(*scaled)


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """All of `digits`; importing scikit-learn itself would take a second."""
    from importlib.util import find_spec

    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise ExperimentError("dataset digits: scikit-learn, which brings it, is not installed")
    path = f"{package.submodule_search_locations[0]}/datasets/data/digits.csv.gz"
    text = gzip.decompress(_checked("digits", path, "sha256", _DIGITS_SHA256))
    table = np.array(text.replace(b"\n", b",").rstrip(b",").split(b","), np.float32).reshape(-1, 65)
    return table[:, :64].astype(np.uint8), table[:, 64].astype(np.uint8)


def _checked(name: str, path: str, algorithm: str, expected: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ExperimentError(
            f"dataset {name}: cannot read {path} ({error.strerror}): put the published files there, or set "
            f"RIPRESA_DATASETS to the folder that has them"
        ) from None
    if hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() != expected:
        raise ExperimentError(
            f"dataset {name}: {path} is damaged (checksum mismatch with the published file): replace it"
        )
    return content


def _idx(name: str, folder: str) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Training and test part of a data set in the format of MNIST."""
    arrays = []
    for file, md5 in _MD5[name].items():
        content = gzip.decompress(_checked(name, f"{folder}/{file}", "md5", md5))
        sizes = np.frombuffer(content, ">u4", content[3], 4)
        arrays.append(np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(*sizes))
    return [(arrays[0], arrays[1]), (arrays[2], arrays[3])]


def _cifar(name: str, folder: str) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Training and test part of CIFAR-10 in its version for Python."""
    import pickle

    images, labels = [], []
    for file, md5 in _MD5[name].items():
        # Its checksum says that it is the published file, so that unpickling is safe.
        batch = pickle.loads(_checked(name, f"{folder}/{file}", "md5", md5), encoding="bytes")
        images.append(batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(np.array(batch[b"labels"], np.uint8))
    return [(np.concatenate(images[:-1]), np.concatenate(labels[:-1])), (images[-1], labels[-1])]
