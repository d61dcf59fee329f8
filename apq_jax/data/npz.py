"""Images and labels in an npz file, checked before an array is read."""

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
    FEWEST_IMAGES,
    HALVES,
    MOST_BYTES,
    Dataset,
    Images,
    Labels,
    as_float,
    checked,
    digests,
    first_of_each,
    from_pair,
    reason,
    stratify,
)
from apq_jax.system.errors import InputError, shown

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

    The file holds either `images` and `labels`, split 60/10/10/20 % within each class with a
    fixed seed after repeated images are dropped, or `train_images`, `train_labels`,
    `validation_images`, `validation_labels`, `test_images` and `test_labels`.

    Images are [N, H, W] or [N, H, W, C], uint8 (divided by 255) or float (taken as is);
    labels [N] are integers in 0..classes-1, and every class occurs in training.

    Raises:
      InputError: the file cannot be read, or an array in it is not as above. Shapes and types
        are checked before any array is read into memory.
    """
    name, path = pathlib.Path(path).stem, str(path)
    arrays = _read_npz(path)
    if "images" in arrays:
        return from_pair(
            name,
            path,
            _images(path, "images", arrays["images"]),
            _labels(path, "labels", arrays["labels"]),
        )
    images, labels, hashes = {}, {}, {}
    for split in _SPLITS:
        images[split] = _images(path, f"{split}_images", arrays[f"{split}_images"])
        labels[split] = _labels(path, f"{split}_labels", arrays[f"{split}_labels"])
        hashes[split] = digests(images[split])
    for i, one in enumerate(_SPLITS):
        for other in _SPLITS[i + 1 :]:
            both = len(set(hashes[one]) & set(hashes[other]))
            if both:
                raise InputError(
                    f"{path}: {one}_images: {both} are also in {other}_images; "
                    "an image may be in one split only"
                )
    kept = first_of_each(path, "validation_images", hashes["validation"])
    halves = stratify(labels["validation"][kept], HALVES)
    search, select = (kept[half] for half in halves)
    return checked(
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


def _images(path: str, field: str, array: npt.NDArray[Any]) -> Images:
    """Images [N, H, W, C] as float32, if all are finite."""
    images = as_float(array[..., None] if array.ndim == 3 else array)
    finite = np.isfinite(images)
    if not finite.all():
        index = np.unravel_index(int(np.argmin(finite)), images.shape)
        raise InputError(
            f"{path}: {field}: {images[index]} at {tuple(map(int, index))}; "
            "pixels must be finite float32 values"
        )
    return images


def _labels(path: str, field: str, array: npt.NDArray[Any]) -> Labels:
    """Labels [N] as int32, if all are class indices."""
    low, high, most = int(array.min()), int(array.max()), np.iinfo(np.int32).max - 1
    if low < 0 or high > most:
        raise InputError(
            f"{path}: {field}: {low if low < 0 else high}; labels must lie in 0..classes-1"
        )
    return array.astype(np.int32)


def _read_npz(path: str) -> Mapping[str, npt.NDArray[Any]]:
    """Every array of an npz file, after all their headers have been checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            headers = {
                field: _header(path, field, archive, member) for field, member in members.items()
            }
            _check_headers(path, headers)
            arrays = {}
            for field, member in members.items():
                with archive.open(member) as file:
                    arrays[field] = np.lib.format.read_array(file, allow_pickle=False)
                    file.read(1)  # at the end of a member its checksum is compared
            return arrays
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as an npz file ({reason(error)})") from error


def _members(path: str, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's members under the names of their arrays."""
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise InputError(f"{path}: two arrays have one name")
    expected = _ONE_PAIR if members.keys() & set(_ONE_PAIR) else _THREE_PAIRS
    for field in members:
        if field not in expected:
            raise InputError(
                f"{path}: {shown(field)}: unknown array; either {', '.join(_ONE_PAIR)} "
                f"or {', '.join(_THREE_PAIRS)} are allowed"
            )
    for field in expected:
        if field not in members:
            raise InputError(f"{path}: {field}: missing; {', '.join(expected)} are needed")
    return members


def _header(
    path: str, field: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Declared shape and dtype of an array, whose size agrees with the archive's record."""
    with archive.open(member) as file:
        try:
            version = np.lib.format.read_magic(file)
            if version not in {(1, 0), (2, 0)}:
                raise ValueError(f"npy version {version}")
            one, two = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
            shape, _, dtype = (one if version == (1, 0) else two)(file)
        except (OSError, zipfile.BadZipFile, zlib.error):
            raise
        except Exception as error:  # a damaged header makes numpy raise errors of many kinds
            raise InputError(f"{path}: {field}: not a npy array ({reason(error)})") from error
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
    """Raises InputError unless the shapes fit each other and memory."""
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
        if shape[0] < FEWEST_IMAGES:
            raise InputError(
                f"{path}: {field}: {shape[0]} images; at least {FEWEST_IMAGES} are needed"
            )
    first = next(iter(sizes))
    for field, size in sizes.items():
        if size != sizes[first]:
            raise InputError(
                f"{path}: {field}: height, width and channels {size}; {first} has {sizes[first]}"
            )
    total = sum(math.prod(shape) * max(dtype.itemsize, 4) for shape, dtype in headers.values())
    if total > MOST_BYTES:
        raise InputError(
            f"{path}: {total / 2**30:.1f} GiB as float32; at most {MOST_BYTES >> 30} GiB allowed"
        )
