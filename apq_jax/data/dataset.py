"""Labelled images in four disjoint splits: training, search, selection and test.

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

from apq_jax.system.errors import InputError, in_one_line

Images: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int32]
FEWEST_IMAGES = 20  # in any split; an accuracy over fewer says nothing
MOST_BYTES = 8 << 30  # of a data set in memory, as float32
_SPLIT_SEED = 20240229


# Split of each ten consecutive images of a class: 6 train, 1 search, 1 select, 2 test.
# No two neighbours miss training, so a class of two images is always trained on.
_TRAIN, _SEARCH, _SELECT, _TEST = range(4)
_WHOLE = (_TRAIN, _TEST, _TRAIN, _SEARCH, _TRAIN, _TRAIN, _TEST, _TRAIN, _SELECT, _TRAIN)


# Of each sixty where the test images are given: 54 train, 1 search, 5 select.
_OFFICIAL = tuple({5: _SEARCH}.get(at, _SELECT if at % 10 == 5 else _TRAIN) for at in range(60))
HALVES = (0, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images and their classes. Compared and hashed by identity.

    No image is in two splits. Validation images are in two parts: one scores the search,
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

    def fingerprint(self, split: str = "") -> str:
        """SHA-256 (hex) over the number of classes and the arrays of a split, or all of them."""
        digest = hashlib.sha256(f"classes={self.classes}".encode())
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray) and field.name.startswith(split):
                digest.update(f";{field.name}{value.shape}{value.dtype.str}".encode())
                digest.update(np.ascontiguousarray(value).data)
        return digest.hexdigest()


def standard_error(accuracy: float, count: int) -> float:
    """Standard error of an accuracy in 0..1 measured on `count` images: sqrt(p(1-p)/n)."""
    return math.sqrt(accuracy * (1.0 - accuracy) / count)


def from_pair(name: str, path: str, images: Images, labels: Labels) -> Dataset:
    """Splits images [N, H, W, C] with labels [N] within each class, repeats dropped."""
    kept = first_of_each(path, "images", digests(images))
    arrays: list[Any] = []  # images and labels in turn
    for part in stratify(labels[kept], _WHOLE):
        arrays += [images[kept[part]], labels[kept[part]]]
    return checked(path, Dataset(name, int(labels.max()) + 1, *arrays))


def from_train_and_test(name: str, path: str, arrays: Sequence[npt.NDArray[Any]]) -> Dataset:
    """Splits official training images within each class: 54 train, 1 search, 5 select of 60.

    Args:
      name: of the data set.
      path: for messages.
      arrays: training images [N, H, W, C] uint8 and labels [N], test images and labels. Training
        images that repeat one another or a test image are dropped.
    """
    images, labels, test_images, test_labels = arrays
    if len(images) < len(test_images):
        raise InputError(
            f"{path}: {len(images)} training images and {len(test_images)} test images; "
            "allowed: no fewer for training (have the files been swapped?)"
        )
    seen = set(digests(test_images))
    fresh = [number for number, digest in enumerate(digests(images)) if digest not in seen]
    if len(fresh) < len(images):
        dropped = len(images) - len(fresh)
        logging.warning("%s: %d training images that test has, too, dropped", path, dropped)
    images, labels = images[fresh], labels[fresh].astype(np.int32)
    kept = first_of_each(path, "training images", digests(images))
    splits: list[Any] = []  # images and labels in turn
    for part in stratify(labels[kept], _OFFICIAL):
        splits += [as_float(images[kept[part]]), labels[kept[part]]]
    splits += [as_float(test_images), test_labels.astype(np.int32)]
    return checked(path, Dataset(name, int(labels.max(initial=0)) + 1, *splits))


def limited(dataset: Dataset, search: int, select: int) -> Dataset:
    """`dataset` with at most so many search and selection images; 0 is all of them.

    The first of each split stay: splits are shuffled, so these are drawn at random, and the same
    every time.

    Raises:
      InputError: so few that an accuracy says nothing.
    """
    for field, count in (("search", search), ("select", select)):
        if 0 < count < FEWEST_IMAGES:
            raise InputError(
                f"config.data.{field}_images: {count}; allowed: 0 for all, or at least "
                f"{FEWEST_IMAGES}"
            )
    return dataclasses.replace(
        dataset,
        **{
            f"{split}_{part}": getattr(dataset, f"{split}_{part}")[: count or None]
            for split, count in (("search", search), ("select", select))
            for part in ("images", "labels")
        },
    )


def checked(path: str, dataset: Dataset) -> Dataset:
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


def stratify(labels: Labels, pattern: tuple[int, ...]) -> list[npt.NDArray[np.intp]]:
    """Indices of each part, in shuffled order.

    Images are shuffled, lined up class after class, and dealt out by the repeated pattern;
    a class therefore has its share in every part to within one round of the pattern.
    """
    shuffled = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    part = np.empty(len(labels), np.intp)
    part[by_class] = np.resize(pattern, len(labels))
    return [shuffled[part[shuffled] == p] for p in range(max(pattern) + 1)]


def digests(images: npt.NDArray[Any]) -> list[bytes]:
    """A digest of every image."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]


def first_of_each(path: str, field: str, hashes: list[bytes]) -> npt.NDArray[np.intp]:
    """Indices of the images that repeat no earlier one; says how many do."""
    first: dict[bytes, int] = {}
    for index, digest in enumerate(hashes):
        first.setdefault(digest, index)
    if len(first) < len(hashes):
        logging.warning("%s: %s: %d repeated images dropped", path, field, len(hashes) - len(first))
    return np.fromiter(first.values(), np.intp, len(first))


def as_float(images: npt.NDArray[Any]) -> Images:
    """Images [N, H, W, C] as float32; uint8 is divided by 255."""
    if images.dtype == np.uint8:
        return np.divide(images, 255, dtype=np.float32)
    with np.errstate(over="ignore"):  # a float64 beyond float32 turns infinite, and is refused
        return np.ascontiguousarray(images, np.float32)


def reason(error: Exception) -> str:
    """An error's message, in a line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return in_one_line(text)
