"""Splits labelled images into four disjoint parts: training, search, selection and test.

N is the number of images, H and W the image size in pixels, C the number of channels.
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from absl import logging

from apq_jax.system.errors import InputError, make_one_line

Images: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int32]
MIN_IMAGES = 20  # in each split, because an accuracy over fewer images says nothing
MAX_BYTES = 8 << 30  # of a data set in memory, as float32
_SPLIT_SEED = 20240229


# The splits of ten consecutive images of a class: 6 train, 1 search, 1 select, 2 test.
# One of any two neighbours is in training, so even a class of two images is trained on.
_TRAIN, _SEARCH, _SELECT, _TEST = range(4)
_PAIR_PATTERN = (_TRAIN, _TEST, _TRAIN, _SEARCH, _TRAIN, _TRAIN, _TEST, _TRAIN, _SELECT, _TRAIN)


# The splits of sixty consecutive training images of a class: 54 train, 1 search, 5 select.
_TRAINING_PATTERN = tuple(
    part for held in (_SEARCH, *[_SELECT] * 5) for part in (*[_TRAIN] * 5, held, *[_TRAIN] * 4)
)
HALVES_PATTERN = (0, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images and their classes in four splits without a common image. Hashed by identity.

    The search split scores policies during a search. The selection split chooses among the
    search's finalists, because a choice by the search split would be biased by the search.
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

    def fingerprint(self, split: str = "") -> str:
        """Returns the SHA-256 (hex) of the number of classes and the images and labels of a split.

        Args:
          split: "train", "search", "select" or "test"; "" for all four.
        """
        digest = hashlib.sha256(f"classes={self.classes}".encode())
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray) and field.name.startswith(split):
                digest.update(f";{field.name}{value.shape}{value.dtype.str}".encode())
                digest.update(np.ascontiguousarray(value).data)
        return digest.hexdigest()


def compute_standard_error(accuracy: float, count: int) -> float:
    """Computes the standard error of an accuracy p in 0..1 on n images: sqrt(p(1-p)/n)."""
    return math.sqrt(accuracy * (1.0 - accuracy) / count)


def split_pair(name: str, path: str, images: Images, labels: Labels) -> Dataset:
    """Splits images [N, H, W, C] with labels [N] within each class: 6 : 1 : 1 : 2 in ten.

    Repeated images are dropped with a warning.

    Args:
      name: of the data set.
      path: for messages.
      images, labels: float32 and int32.

    Raises:
      InputError: see `check_splits`.
    """
    splits = split_distinct(path, "images", images, labels, _PAIR_PATTERN)
    return check_splits(path, Dataset(name, int(labels.max()) + 1, *splits))


def split_training(name: str, path: str, arrays: Sequence[npt.NDArray[Any]]) -> Dataset:
    """Splits a data set's training images within each class: 54 train, 1 search, 5 select of 60.

    Training images that repeat one another or a test image are dropped with a warning. All test
    images stay in the test split.

    Args:
      name: of the data set.
      path: for messages.
      arrays: training images [N, H, W, C] uint8, training labels [N], test images, test labels.

    Raises:
      InputError: there are fewer training images than test images, or see `check_splits`.
    """
    images, labels, test_images, test_labels = arrays
    if len(images) < len(test_images):
        raise InputError(
            f"{path}: {len(images)} training images and {len(test_images)} test images; "
            "allowed: no fewer for training (have the files been swapped?)"
        )
    tested = set(hash_images(test_images))
    untested = [i for i, digest in enumerate(hash_images(images)) if digest not in tested]
    if len(untested) < len(images):
        dropped = len(images) - len(untested)
        logging.warning("%s: %d training images that test has, too, dropped", path, dropped)
    images, labels = images[untested], labels[untested].astype(np.int32)
    splits = split_distinct(path, "training images", images, labels, _TRAINING_PATTERN)
    splits += [convert_to_float32(test_images), test_labels.astype(np.int32)]
    return check_splits(path, Dataset(name, int(labels.max(initial=0)) + 1, *splits))


def split_distinct(
    path: str, field: str, images: npt.NDArray[Any], labels: Labels, pattern: tuple[int, ...]
) -> list[npt.NDArray[Any]]:
    """Drops repeated images, with a warning, and splits the others within each class.

    Args:
      path, field: for the warning.
      images, labels: [N, H, W, C] uint8 or float, and [N].
      pattern: the parts 0, 1, .. that successive images of a class go to, over and over.

    Returns:
      Images as float32 and labels of part 0, then of part 1, and so on.
    """
    distinct = np.sort(np.unique(hash_images(images), return_index=True)[1])  # first of equal ones
    dropped = len(images) - len(distinct)
    if dropped:
        logging.warning("%s: %s: %d repeated images dropped", path, field, dropped)
    parts = [distinct[part] for part in _stratify(labels[distinct], pattern)]
    return [x for part in parts for x in (convert_to_float32(images[part]), labels[part])]


def limit_images(dataset: Dataset, search: int, select: int) -> Dataset:
    """Returns `dataset` with the first `search` and `select` images of these splits; 0: all.

    The first images are a random sample, the same every time, because splits are shuffled with a
    fixed seed. A split with fewer images stays as it is.

    Raises:
      InputError: a count is below MIN_IMAGES, but not 0.
    """
    changes = {}
    for split, count in (("search", search), ("select", select)):
        if 0 < count < MIN_IMAGES:
            raise InputError(
                f"config.data.{split}_images: {count}; allowed: 0 for all, or at least {MIN_IMAGES}"
            )
        for field in (f"{split}_images", f"{split}_labels"):
            changes[field] = getattr(dataset, field)[: count or None]
    return dataclasses.replace(dataset, **changes)


def check_splits(path: str, dataset: Dataset) -> Dataset:
    """Returns `dataset` unchanged if its splits can be used; `path` is for messages.

    Raises:
      InputError: a split has fewer than MIN_IMAGES images; a label is above classes - 1; or all
        training images are of one class.
    """
    for split in ("train", "search", "select", "test"):
        labels = getattr(dataset, f"{split}_labels")
        if len(labels) < MIN_IMAGES:
            raise InputError(
                f"{path}: the {split} split has {len(labels)} images; "
                f"at least {MIN_IMAGES} are needed"
            )
        if labels.max() >= dataset.classes:
            raise InputError(
                f"{path}: label {labels.max()} in the {split} split; "
                f"training has classes 0..{dataset.classes - 1}"
            )
    if dataset.train_labels.min() == dataset.train_labels.max():
        raise InputError(f"{path}: 1 class; at least 2 are needed")
    height, width, channels = dataset.train_images.shape[1:]
    if height in (1, 3) and width == channels > 4:
        logging.warning(
            "%s: images of %d x %d pixels and %d channels: if they are [N, C, H, W], store "
            "images.transpose(0, 2, 3, 1)", path, height, width, channels
        )  # fmt: skip
    return dataset


def require_all_classes(dataset: Dataset) -> None:
    """Raises InputError if a class has no training image, because no model would learn it."""
    present = np.unique(dataset.train_labels)  # sorted
    missing = next((i for i, label in enumerate(present) if i != label), len(present))
    if missing < dataset.classes:
        raise InputError(
            f"{dataset.name}: class {missing} of 0..{dataset.classes - 1} has no training image; "
            "allowed: one of every class, or an ONNX file, which is not trained"
        )


def _stratify(labels: Labels, pattern: tuple[int, ...]) -> list[npt.NDArray[np.intp]]:
    """Returns the indices of each part's images, in shuffled order.

    Images are shuffled, lined up class after class, and dealt to parts by the repeated pattern.
    A class therefore has its share in every part to within one round of the pattern.
    """
    shuffled = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    part = np.empty(len(labels), np.intp)
    part[by_class] = np.resize(pattern, len(labels))
    return [shuffled[part[shuffled] == p] for p in range(max(pattern) + 1)]


def hash_images(images: npt.NDArray[Any]) -> list[bytes]:
    """Returns the SHA-256 of every image's pixels, 32 bytes each."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]


def convert_to_float32(images: npt.NDArray[Any]) -> Images:
    """Converts images to float32; uint8 is divided by 255, a float beyond float32 is infinity."""
    if images.dtype == np.uint8:
        return np.divide(images, 255, dtype=np.float32)
    with np.errstate(over="ignore"):  # `load_npz` refuses infinity
        return np.ascontiguousarray(images, np.float32)


def explain(error: Exception) -> str:
    """Returns an error's message in one line; its type if it has none."""
    return make_one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)
