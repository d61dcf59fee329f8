"""Splits labelled images into four disjoint parts: training, search, selection and test.

N is the number of images in a split, H and W the image size in pixels, C the channels.
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
MIN_IMAGES = 20  # least of a split, because an accuracy over fewer says nothing
MAX_BYTES = 8 << 30  # most of a data set in memory, as float32
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
    """Images and their classes. Compared and hashed by identity.

    No image is in two splits. Validation images are in two splits, because the choice among the
    search's finalists must not be biased by the search: one split scores policies during the
    search, the other chooses among the finalists.
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
        """Returns the SHA-256 (hex) of the number of classes and one or all splits' arrays."""
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
    """Splits images [N, H, W, C] with labels [N] within each class; drops repeated images."""
    splits = _split_distinct(path, "images", images, labels, _PAIR_PATTERN)
    return check_splits(path, Dataset(name, int(labels.max()) + 1, *splits))


def split_training(name: str, path: str, arrays: Sequence[npt.NDArray[Any]]) -> Dataset:
    """Splits official training images within each class: 54 train, 1 search, 5 select of 60.

    Args:
      name: of the data set.
      path: for messages.
      arrays: training images [N, H, W, C] uint8 and labels [N], test images and labels. Training
        images that repeat one another or a test image are dropped.

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
    splits = _split_distinct(path, "training images", images, labels, _TRAINING_PATTERN)
    splits += [convert_to_float32(test_images), test_labels.astype(np.int32)]
    return check_splits(path, Dataset(name, int(labels.max(initial=0)) + 1, *splits))


def _split_distinct(
    path: str, field: str, images: npt.NDArray[Any], labels: Labels, pattern: tuple[int, ...]
) -> list[npt.NDArray[Any]]:
    """Drops repeated images and splits the others: images and labels of each part in turn."""
    distinct = find_distinct(path, field, hash_images(images))
    parts = [distinct[part] for part in stratify(labels[distinct], pattern)]
    return [x for part in parts for x in (convert_to_float32(images[part]), labels[part])]


def limit_images(dataset: Dataset, search: int, select: int) -> Dataset:
    """Returns `dataset` with at most `search` and `select` images in these splits; 0: all.

    The first images of a split stay. They are a random sample, the same every time, because splits
    are shuffled with a fixed seed.

    Raises:
      InputError: a count is below MIN_IMAGES, but not 0.
    """
    for field, count in (("search", search), ("select", select)):
        if 0 < count < MIN_IMAGES:
            raise InputError(
                f"config.data.{field}_images: {count}; allowed: 0 for all, or at least {MIN_IMAGES}"
            )
    return dataclasses.replace(
        dataset,
        **{
            f"{split}_{part}": getattr(dataset, f"{split}_{part}")[: count or None]
            for split, count in (("search", search), ("select", select))
            for part in ("images", "labels")
        },
    )


def check_splits(path: str, dataset: Dataset) -> Dataset:
    """Returns `dataset` if its splits are large enough and share the classes of training.

    Raises:
      InputError: a split is too small or has a class without training images; or there is 1 class.
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
    if dataset.classes < 2:
        raise InputError(f"{path}: 1 class; at least 2 are needed")
    present = np.unique(dataset.train_labels)
    if len(present) != dataset.classes:
        # Classes are sorted, so the first class that differs from its index follows the gap.
        gaps = np.flatnonzero(present != np.arange(len(present)))
        missing = int(gaps[0]) if len(gaps) else len(present)
        raise InputError(
            f"{path}: class {missing} of 0..{dataset.classes - 1} has no training image; "
            "every class needs one"
        )
    return dataset


def stratify(labels: Labels, pattern: tuple[int, ...]) -> list[npt.NDArray[np.intp]]:
    """Returns the indices of each part, in shuffled order.

    Images are shuffled, lined up class after class, and dealt to parts by the repeated pattern.
    A class therefore has its share in every part to within one round of the pattern.
    """
    shuffled = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    part = np.empty(len(labels), np.intp)
    part[by_class] = np.resize(pattern, len(labels))
    return [shuffled[part[shuffled] == p] for p in range(max(pattern) + 1)]


def hash_images(images: npt.NDArray[Any]) -> list[bytes]:
    """Returns the SHA-256 of every image."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]


def find_distinct(path: str, field: str, hashes: list[bytes]) -> npt.NDArray[np.intp]:
    """Finds the indices of images that repeat no earlier one, and warns of repeats."""
    first: dict[bytes, int] = {}
    for index, digest in enumerate(hashes):
        first.setdefault(digest, index)
    if len(first) < len(hashes):
        logging.warning("%s: %s: %d repeated images dropped", path, field, len(hashes) - len(first))
    return np.fromiter(first.values(), np.intp, len(first))


def convert_to_float32(images: npt.NDArray[Any]) -> Images:
    """Converts images [N, H, W, C] to float32; uint8 is divided by 255."""
    if images.dtype == np.uint8:
        return np.divide(images, 255, dtype=np.float32)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which is refused
        return np.ascontiguousarray(images, np.float32)


def explain(error: Exception) -> str:
    """Returns an error's message in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return make_one_line(text)
