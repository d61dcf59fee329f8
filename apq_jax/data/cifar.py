"""Reads CIFAR-10's binary layout (Krizhevsky, "Learning multiple layers of features", 2009).

A file holds `RECORDS` records: one byte for the class, then 3 x 32 x 32 bytes for the pixels, all
reds row by row, then the greens, then the blues.
"""

import itertools
import os
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from apq_jax.data.dataset import Dataset, split_training
from apq_jax.system.errors import InputError
from apq_jax.system.files import read_file

FILES = (*(f"data_batch_{index}.bin" for index in range(1, 6)), "test_batch.bin")
FOLDER = "cifar-10-batches-bin"  # the archive's name for it
RECORDS = 10_000  # in each file
CLASSES = 10
_BYTES = 1 + 3 * 32 * 32  # of a record


def is_cifar_10(folder: str | os.PathLike[str]) -> bool:
    """Tells whether a folder, or `FOLDER` in it, holds a file with a name in `FILES`."""
    return any(os.path.exists(_find_folder(folder) / file) for file in FILES)


def load_cifar_10(folder: str | os.PathLike[str]) -> Dataset:
    """Reads the six `FILES` of a folder, or of `FOLDER` in it; images are [N, 32, 32, 3].

    The first five files are split 54 : 1 : 5 into training, search and selection within each class
    with a fixed seed; see `split_training`. The last file is the test split.

    Raises:
      InputError: a file is missing, does not hold `RECORDS` whole records of classes 0..9, or
        repeats another; a class has more images than another, in training or in test, as after
        files have been swapped; or see `split_training`.
    """
    folder = _find_folder(folder)
    records = {file: _read_records(folder / file) for file in FILES}
    for file, twin in itertools.combinations(FILES, 2):
        if np.array_equal(records[file], records[twin]):
            raise InputError(f"{folder / twin}: the same bytes as {file}; allowed: six that differ")
    test = _join(str(folder / FILES[-1]), [records.pop(FILES[-1])])
    train = _join(f"{folder}: the training batches", list(records.values()))
    return split_training("cifar_10", str(folder), (*train, *test))


def _find_folder(folder: str | os.PathLike[str]) -> pathlib.Path:
    """Returns `FOLDER` in a folder, or the folder itself."""
    inner = pathlib.Path(folder, FOLDER)
    return inner if os.path.isdir(inner) else pathlib.Path(folder)  # False without permission


def _read_records(path: pathlib.Path) -> npt.NDArray[Any]:
    """Reads the records of a file, [RECORDS, 3073] uint8."""
    size = RECORDS * _BYTES
    try:
        content = read_file(path, size)
    except InputError as error:
        raise InputError(f"{error}; CIFAR-10's binary version has it") from error
    if len(content) < size:
        raise InputError(
            f"{path}: {len(content):,} bytes; allowed: {size:,}, {RECORDS:,} records of {_BYTES:,}"
        )
    records = np.frombuffer(content, np.uint8).reshape(RECORDS, _BYTES)
    largest = records[:, 0].max()
    if largest >= CLASSES:
        index = int(records[:, 0].argmax())
        raise InputError(f"{path}: label {largest} of record {index}; allowed: 0 to {CLASSES - 1}")
    return records


def _join(where: str, records: list[npt.NDArray[Any]]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Joins files to images [N, 32, 32, 3] and labels [N], uint8, if every class is as frequent."""
    joined = np.concatenate(records)
    labels, pixels = joined[:, 0], joined[:, 1:]
    counts, each = np.bincount(labels, minlength=CLASSES), len(labels) // CLASSES
    if (counts != each).any():
        wrong = int((counts != each).argmax())
        raise InputError(
            f"{where}: {counts[wrong]:,} images of class {wrong}; allowed: {each:,} "
            "(have files been swapped?)"
        )
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels
