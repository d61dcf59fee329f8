"""Reads images and labels from an npz file, after its headers have been checked."""

import itertools
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from apq_jax.data.dataset import (
    HALVES_PATTERN,
    MAX_BYTES,
    MIN_IMAGES,
    Dataset,
    Images,
    Labels,
    check_splits,
    convert_to_float32,
    explain,
    find_distinct,
    hash_images,
    split_pair,
    stratify,
)
from apq_jax.system.errors import InputError, quote_name

_ONE_PAIR = ("images", "labels")
_SPLITS = ("train", "validation", "test")
_THREE_PAIRS = tuple(f"{split}_{part}" for split in _SPLITS for part in _ONE_PAIR)
_IMAGE_DTYPES = ("uint8", "float16", "float32", "float64")
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # encrypted; also NotImplementedError: unknown compression
    zipfile.BadZipFile,
    zlib.error,
)


def load_npz(path: str | os.PathLike[str]) -> Dataset:
    """Reads a data set from an npz file.

    The file holds `images` and `labels`, or `train_images`, `train_labels`, `validation_images`,
    `validation_labels`, `test_images` and `test_labels`. A single pair is split 60/10/10/20 %
    within each class with a fixed seed, after repeated images are dropped.

    Images are [N, H, W] or [N, H, W, C], uint8 (divided by 255) or float (unchanged). Labels [N]
    are integers in 0..classes-1, and every class occurs in training.

    Raises:
      InputError: the file cannot be read, or an array differs from this description. Shapes and
        dtypes are checked before any array is read into memory.
    """
    name, path = pathlib.Path(path).stem, str(path)
    arrays = _read_npz(path)
    if "images" in arrays:
        return split_pair(
            name,
            path,
            _convert_images(path, "images", arrays["images"]),
            _convert_labels(path, "labels", arrays["labels"]),
        )
    images, labels, hashes = {}, {}, {}
    for split in _SPLITS:
        images[split] = _convert_images(path, f"{split}_images", arrays[f"{split}_images"])
        labels[split] = _convert_labels(path, f"{split}_labels", arrays[f"{split}_labels"])
        hashes[split] = hash_images(images[split])
    for split, other in itertools.combinations(_SPLITS, 2):
        shared = len(set(hashes[split]) & set(hashes[other]))
        if shared:
            raise InputError(
                f"{path}: {split}_images: {shared} are also in {other}_images; "
                "an image may be in one split only"
            )
    distinct = find_distinct(path, "validation_images", hashes["validation"])
    halves = stratify(labels["validation"][distinct], HALVES_PATTERN)
    search, select = (distinct[half] for half in halves)
    return check_splits(
        path,
        Dataset(
            name,
            int(labels["train"].max()) + 1,
            images["train"],
            labels["train"],
            images["validation"][search],
            labels["validation"][search],
            images["validation"][select],
            labels["validation"][select],
            images["test"],
            labels["test"],
        ),
    )


def _convert_images(path: str, field: str, array: npt.NDArray[Any]) -> Images:
    """Converts images to float32 [N, H, W, C]; raises InputError unless all are finite."""
    images = convert_to_float32(array[..., None] if array.ndim == 3 else array)
    finite = np.isfinite(images)
    if not finite.all():
        index = np.unravel_index(int(np.argmin(finite)), images.shape)
        raise InputError(
            f"{path}: {field}: {images[index]} at {tuple(map(int, index))}; "
            "pixels must be finite float32 values"
        )
    return images


def _convert_labels(path: str, field: str, array: npt.NDArray[Any]) -> Labels:
    """Converts labels [N] to int32; raises InputError unless all are class indices."""
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= np.iinfo(np.int32).max:
        raise InputError(
            f"{path}: {field}: {low if low < 0 else high}; labels must lie in 0..classes-1"
        )
    return array.astype(np.int32)


def _read_npz(path: str) -> Mapping[str, npt.NDArray[Any]]:
    """Reads every array of an npz file, after all headers have been checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _find_members(path, archive)
            headers = {
                field: _read_header(path, field, archive, member)
                for field, member in members.items()
            }
            _check_headers(path, headers)
            arrays = {}
            for field, member in members.items():
                with archive.open(member) as file:
                    arrays[field] = np.lib.format.read_array(file, allow_pickle=False)
                    file.read(1)  # compares the checksum at the end of a member
            return arrays
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as an npz file ({explain(error)})") from error


def _find_members(path: str, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Returns the archive's members by the names of their arrays, which are the expected ones."""
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise InputError(f"{path}: two arrays have one name")
    expected = _ONE_PAIR if members.keys() & set(_ONE_PAIR) else _THREE_PAIRS
    for field in members:
        if field not in expected:
            raise InputError(
                f"{path}: {quote_name(field)}: unknown array; either {', '.join(_ONE_PAIR)} "
                f"or {', '.join(_THREE_PAIRS)} are allowed"
            )
    for field in expected:
        if field not in members:
            raise InputError(f"{path}: {field}: missing; {', '.join(expected)} are needed")
    return members


def _read_header(
    path: str, field: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Reads an array's shape and dtype, and checks its size against the archive's record."""
    with archive.open(member) as file:
        try:
            version = np.lib.format.read_magic(file)
            if version not in {(1, 0), (2, 0)}:
                raise ValueError(f"npy version {version}")
            first, second = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
            shape, _, dtype = (first if version == (1, 0) else second)(file)
        except (OSError, zipfile.BadZipFile, zlib.error):
            raise
        except Exception as error:  # NumPy raises errors of many kinds for damaged headers
            raise InputError(f"{path}: {field}: not a npy array ({explain(error)})") from error
        declared = file.tell() + math.prod(shape) * dtype.itemsize
    allowed = _IMAGE_DTYPES if field.endswith("images") else ("integers",)
    if not (dtype.name in allowed if field.endswith("images") else dtype.kind in "iu"):
        raise InputError(f"{path}: {field}: dtype {dtype}; {', '.join(allowed)} are allowed")
    if min(shape, default=0) < 0 or declared != member.file_size:
        raise InputError(
            f"{path}: {field}: shape {shape} of {dtype} needs {declared} bytes with its header; "
            f"the archive holds {member.file_size}"
        )
    return shape, dtype


def _check_headers(path: str, headers: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
    """Raises InputError unless the shapes fit each other and fit into memory."""
    sizes: dict[str, tuple[int, ...]] = {}
    for field, (shape, _) in headers.items():
        if field.endswith("labels"):
            if len(shape) != 1:
                raise InputError(f"{path}: {field}: shape {shape}; [N] is allowed")
            continue
        if len(shape) not in {3, 4} or 0 in shape[1:]:
            raise InputError(f"{path}: {field}: shape {shape}; [N, H, W] or [N, H, W, C] allowed")
        sizes[field] = (*shape[1:], 1)[:3]
        labels = field.replace("images", "labels")
        if headers[labels][0][:1] != shape[:1]:
            raise InputError(
                f"{path}: {labels}: shape {headers[labels][0]}; {field} needs [{shape[0]}]"
            )
        if shape[0] < MIN_IMAGES:
            raise InputError(
                f"{path}: {field}: {shape[0]} images; at least {MIN_IMAGES} are needed"
            )
    first = next(iter(sizes))
    for field, size in sizes.items():
        if size != sizes[first]:
            raise InputError(
                f"{path}: {field}: height, width and channels {size}; {first} has {sizes[first]}"
            )
    total = sum(math.prod(shape) * max(dtype.itemsize, 4) for shape, dtype in headers.values())
    if total > MAX_BYTES:
        raise InputError(
            f"{path}: {total / 2**30:.1f} GiB as float32; at most {MAX_BYTES >> 30} GiB allowed"
        )
