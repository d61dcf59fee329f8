"""Reads images and labels from an npz file, after its headers have been checked."""

import io
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

from apq_jax.data import dataset
from apq_jax.data.dataset import MAX_BYTES, Dataset, explain
from apq_jax.system.errors import InputError, quote_name
from apq_jax.system.files import require_file

_ONE_PAIR = ("images", "labels")
_SPLITS = ("train", "validation", "test")
_THREE_PAIRS = tuple(f"{split}_{part}" for split in _SPLITS for part in _ONE_PAIR)
_MAX_LIST = 1 << 20  # bytes of an archive's list of contents; NumPy reads less of an array at once
_MAX_HEADER = 1 << 14  # bytes of an array's header, of which NumPy accepts 10,000
_IMAGE_DTYPES = ("uint8", "float16", "float32", "float64")
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # encrypted; also NotImplementedError: unknown compression
    zipfile.BadZipFile,
    zlib.error,
)


class _Archive(io.BufferedReader):
    """A file that refuses to read the names of millions of members, as `zipfile` does at once."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _MAX_LIST:
            raise ValueError(f"a list of contents of {size:,} bytes; allowed: up to {_MAX_LIST:,}")
        return super().read(size)


def load_npz(path: str | os.PathLike[str]) -> Dataset:
    """Reads a data set from an npz file; the file's name without its end becomes the data's name.

    The file holds `images` and `labels`, or `train_images`, `train_labels`, `validation_images`,
    `validation_labels`, `test_images` and `test_labels`. Splits are made within each class with a
    fixed seed. A single pair is split 60/10/10/20 % into training, search, selection and test,
    after repeated images are dropped. Three pairs keep training and test; validation is halved
    into search and selection, after repeated images are dropped.

    Images are [N, H, W] or [N, H, W, C], uint8 (divided by 255) or float (unchanged). Labels [N]
    are integers in 0..classes-1.

    Raises:
      InputError: the file cannot be read, an array differs from this description, the arrays are
        larger than `dataset.MAX_BYTES`, or an image is in two of the three splits; or see
        `dataset.check_splits`. Shapes and dtypes are checked before any array is read into memory.
    """
    name, path = quote_name(pathlib.Path(path).stem), str(path)
    arrays = _read_npz(path)
    if "images" in arrays:
        return dataset.split_pair(name, path, *_convert_pair(path, "", arrays))
    pairs = {split: _convert_pair(path, f"{split}_", arrays) for split in _SPLITS}
    hashes = {split: set(dataset.hash_images(images)) for split, (images, _) in pairs.items()}
    for split, other in itertools.combinations(_SPLITS, 2):
        shared = len(hashes[split] & hashes[other])
        if shared:
            raise InputError(
                f"{path}: {split}_images: {shared} are also in {other}_images; "
                "an image may be in one split only"
            )
    halves = dataset.split_distinct(
        path, "validation_images", *pairs["validation"], dataset.HALVES_PATTERN
    )
    classes = int(pairs["train"][1].max()) + 1
    splits = *pairs["train"], *halves, *pairs["test"]
    return dataset.check_splits(path, Dataset(name, classes, *splits))


def _convert_pair(
    path: str, prefix: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> tuple[dataset.Images, dataset.Labels]:
    """Converts images to float32 [N, H, W, C], and labels [N] to int32.

    Raises:
      InputError: a pixel is not finite as float32, or a label is not a class index.
    """
    images, labels = (arrays[f"{prefix}{part}"] for part in _ONE_PAIR)
    images = dataset.convert_to_float32(images[..., None] if images.ndim == 3 else images)
    finite = np.isfinite(images)
    if not finite.all():
        index = np.unravel_index(int(np.argmin(finite)), images.shape)
        raise InputError(
            f"{path}: {prefix}images: {images[index]} at {tuple(map(int, index))}; "
            "pixels must be finite float32 values"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= np.iinfo(np.int32).max:
        raise InputError(
            f"{path}: {prefix}labels: {low if low < 0 else high}; labels must lie in 0..classes-1"
        )
    return images, labels.astype(np.int32)


def _read_npz(path: str) -> Mapping[str, npt.NDArray[Any]]:
    """Reads every array of an npz file, after all headers have been checked."""
    require_file(path, MAX_BYTES + (1 << 20))  # data and headers, if nothing is compressed
    try:
        with _Archive(io.FileIO(path)) as opened, zipfile.ZipFile(opened) as archive:
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
    with archive.open(member) as opened:
        file = io.BytesIO(opened.read(_MAX_HEADER))  # no more, because a header states its length
        try:
            version = np.lib.format.read_magic(file)
            if version not in {(1, 0), (2, 0)}:
                raise ValueError(f"npy version {version}")
            first, second = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
            shape, _, dtype = (first if version == (1, 0) else second)(file)
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
        if shape[0] < dataset.MIN_IMAGES:
            raise InputError(
                f"{path}: {field}: {shape[0]} images; at least {dataset.MIN_IMAGES} are needed"
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
