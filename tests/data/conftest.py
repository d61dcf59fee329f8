"""Files and folders of made images."""

import gzip
import pathlib

import numpy as np
import pytest
from helpers.images import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    idx,
    some_images,
    write_cifar_10,
)

from apq_jax.data import cifar


@pytest.fixture
def npz(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "set.npz"


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """1,200 training and 40 test images of two classes, 3 x 4 pixels."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for file, array in (
        (TRAIN_IMAGES, some_images(1200, 1, (3, 4))),
        (TRAIN_LABELS, np.arange(1200, dtype=np.uint8) % 2),
        (TEST_IMAGES, some_images(40, 2, (3, 4))),
        (TEST_LABELS, np.arange(40, dtype=np.uint8) % 2),
    ):
        (folder / file).write_bytes(gzip.compress(idx(array), 1))
    return folder


@pytest.fixture
def batches(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """1,500 training and 300 test images."""
    monkeypatch.setattr(cifar, "RECORDS", 300)
    folder = tmp_path / cifar.FOLDER
    folder.mkdir()
    write_cifar_10(folder)
    return folder
