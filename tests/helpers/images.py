"""Made images in every layout that the data readers know."""

import pathlib
from typing import Any

import numpy as np

from apq_jax import data
from apq_jax.data import cifar
from apq_jax.data.idx import FILES

SPLITS = ("train", "search", "select", "test")


Arrays = dict[str, Any]


def some_images(count: int, seed: int = 0, size: tuple[int, ...] = (4, 5)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size)).astype(np.uint8)


def one_pair(count: int = 300) -> Arrays:
    return {"images": some_images(count), "labels": np.arange(count) % 3}


def three_pairs() -> Arrays:
    return {
        "train_images": some_images(60, seed=1),
        "train_labels": np.arange(60) % 3,
        "validation_images": some_images(40, seed=2),
        "validation_labels": np.arange(40) % 2,
        "test_images": some_images(30, seed=3),
        "test_labels": np.arange(30) % 3,
    }


def split_images(dataset: data.Dataset) -> dict[str, set[bytes]]:
    return {s: {i.tobytes() for i in getattr(dataset, f"{s}_images")} for s in SPLITS}


IDX = FILES


TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = IDX


def idx(array: np.ndarray, shape: tuple[int, ...] | None = None, kind: int = 8) -> bytes:
    """An IDX file, not yet compressed, with the header of `shape`."""
    shape = array.shape if shape is None else shape
    return bytes([0, 0, kind, len(shape)]) + np.array(shape, ">u4").tobytes() + array.tobytes()


def swap(folder: pathlib.Path, name: str, other: str) -> None:
    first = (folder / name).read_bytes()
    (folder / name).write_bytes((folder / other).read_bytes())
    (folder / other).write_bytes(first)


def write_cifar_10(folder: pathlib.Path) -> None:
    """Six files of `cifar.RECORDS` records; the training batches have two classes each."""
    records = some_images(6 * cifar.RECORDS, size=(3073,))
    training = 5 * cifar.RECORDS
    records[:training, 0] = np.sort(np.arange(training) % 10)
    records[training:, 0] = np.arange(cifar.RECORDS) % 10
    for file, batch in zip(cifar.FILES, np.split(records, 6), strict=True):
        batch.tofile(folder / file)
