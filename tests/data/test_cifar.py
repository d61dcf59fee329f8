"""CIFAR-10 folders: read, and refused when damaged."""

import pathlib
from typing import Any

import numpy as np
import pytest
from helpers.images import SPLITS, split_images, swap

from apq_jax import data
from apq_jax.data import cifar
from apq_jax.system.errors import InputError


def test_cifar_10_folder(batches: pathlib.Path) -> None:
    dataset = data.load(str(batches))
    assert (dataset.name, dataset.classes) == ("cifar_10", 10)
    for split, count in zip(SPLITS, (1350, 25, 125, 300), strict=True):
        assert getattr(dataset, f"{split}_images").shape == (count, 32, 32, 3)
        counts = np.bincount(getattr(dataset, f"{split}_labels"), minlength=10)
        assert abs(counts - count / 10).max() <= 1
    assert sum(map(len, split_images(dataset).values())) == 1800
    # Record 7 of test: red, green and blue of row 2, column 3.
    content = (batches / "test_batch.bin").read_bytes()[7 * 3073 :]
    assert dataset.test_labels[7] == content[0] == 7
    pixel = [content[1 + 1024 * channel + 32 * 2 + 3] / 255 for channel in range(3)]
    np.testing.assert_allclose(dataset.test_images[7, 2, 3], pixel, rtol=1e-6)
    for name in ("mnist_5k", "cifar_10"):
        assert data.load(str(batches.parent), name).fingerprint() == dataset.fingerprint()


def cifar_refused(folder: pathlib.Path, file: str = "") -> str:
    with pytest.raises(InputError) as caught:
        data.load(str(folder), "cifar_10")
    message, start = str(caught.value), f"{folder / file}: "
    assert message.startswith(start)
    assert "\n" not in message
    return message.removeprefix(start)


@pytest.mark.parametrize("file", cifar.FILES)
def test_cifar_10_file_is_missing(batches: pathlib.Path, file: str) -> None:
    (batches / file).unlink()
    assert cifar_refused(batches, file).startswith("cannot be read (No such file")
    (batches / file).mkdir()
    assert "Is a directory" in cifar_refused(batches, file)


def test_cifar_10_is_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"'cifar_10': nothing installs it; set config.data.path"):
        data.load("", "cifar_10")
    assert "CIFAR-10's binary version has it" in cifar_refused(tmp_path, "data_batch_1.bin")
    (tmp_path / "data_batch_1.bin").write_bytes(b"")
    assert cifar_refused(tmp_path, "data_batch_1.bin") == (
        "0 bytes; allowed: 30,730,000, 10,000 records of 3,073"
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content[:-1], "921,899 bytes; allowed: 921,900"),
        (lambda content: content[:-3073], "918,827 bytes"),
        (lambda content: content + bytes(1), "921,901 bytes; allowed: up to 921,900"),
        (lambda content: content + bytes(3073), "924,973 bytes; allowed: up to 921,900"),
        (lambda content: content[: 5 * 3073] + b"\n" + content[5 * 3073 + 1 :], "label 10 of rec"),
        (lambda content: content[1:] + bytes(1), "allowed: 0 to 9"),
    ],
)
def test_cifar_10_damaged_file(batches: pathlib.Path, change: Any, reason: str) -> None:
    path = batches / "data_batch_3.bin"
    path.write_bytes(change(path.read_bytes()))
    assert reason in cifar_refused(batches, path.name)


@pytest.mark.parametrize("other", ["data_batch_4.bin", "test_batch.bin"])
def test_cifar_10_same_file_twice(batches: pathlib.Path, other: str) -> None:
    (batches / other).write_bytes((batches / "data_batch_2.bin").read_bytes())
    assert cifar_refused(batches, other) == (
        "the same bytes as data_batch_2.bin; allowed: six that differ"
    )


def test_cifar_10_swapped_files(batches: pathlib.Path) -> None:
    """The test file alone has a tenth of its images in each class."""
    swap(batches, "data_batch_2.bin", "data_batch_5.bin")
    assert len(data.load(str(batches)).train_images) == 1350  # the order of these is no matter
    swap(batches, "data_batch_1.bin", "test_batch.bin")
    assert cifar_refused(batches, "test_batch.bin") == (
        "150 images of class 0; allowed: 30 (have files been swapped?)"
    )


def test_cifar_10_classes_are_balanced(batches: pathlib.Path) -> None:
    content = bytearray((batches / "data_batch_1.bin").read_bytes())
    content[0] = 3
    (batches / "data_batch_1.bin").write_bytes(content)
    reason = cifar_refused(batches.parent, f"{cifar.FOLDER}: the training batches")
    assert reason.startswith("149 images of class 0; allowed: 150")
