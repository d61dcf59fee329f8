"""Loads labelled images and splits them; docs/data.md describes the formats."""

import os
import pathlib

from apq_jax.data.cifar import FOLDER, is_cifar_10, load_cifar_10
from apq_jax.data.dataset import (
    Dataset,
    compute_standard_error,
    limit_images,
    require_all_classes,
)
from apq_jax.data.idx import is_idx, load_idx
from apq_jax.data.mnist_5k import load_mnist_5k
from apq_jax.data.npz import load_npz
from apq_jax.system.errors import InputError

FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
NAMES = ("mnist_5k", "fashion_mnist", "cifar_10")
__all__ = [
    "NAMES",
    "Dataset",
    "compute_standard_error",
    "limit_images",
    "load",
    "load_cifar_10",
    "load_fashion_mnist",
    "load_idx",
    "load_mnist_5k",
    "load_npz",
    "require_all_classes",
]


def load(path: str | None, name: str = "mnist_5k") -> Dataset:
    """Loads a data set from a file or folder, or one that a package has installed.

    Args:
      path: an npz file, or a folder of IDX files or of CIFAR-10's binary files; None or "" for an
        installed data set.
      name: the installed data set, `mnist_5k` or `fashion_mnist`.

    Raises:
      InputError: see `load_npz`, `load_idx`, `load_cifar_10`, `load_mnist_5k` and
        `load_fashion_mnist`; or `name` is `cifar_10`, which nothing installs, without a path.
    """
    if path:
        if not os.path.isdir(path):
            return load_npz(path)
        # In a folder with neither layout, the name decides which missing files the error names.
        is_cifar = is_cifar_10(path) or name == "cifar_10"
        return load_cifar_10(path) if is_cifar and not is_idx(path) else load_idx(path)
    if name == "cifar_10":
        raise InputError(
            "config.data.name: 'cifar_10': nothing installs it; set config.data.path to the folder "
            f"{FOLDER} of CIFAR-10's binary version, or to one that holds it"
        )
    return {"mnist_5k": load_mnist_5k, "fashion_mnist": load_fashion_mnist}[name]()


def load_fashion_mnist() -> Dataset:
    """Loads Fashion-MNIST (Xiao et al., arXiv 1708.07747) from the folder of Debian's package.

    54,000 images for training, 1,000 for search, 5,000 for selection, 10,000 for test.

    Raises:
      InputError: the package is not installed, or see `load_idx`.
    """
    if not FASHION_MNIST.is_dir():
        raise InputError(
            f"config.data.name: 'fashion_mnist': no folder {FASHION_MNIST}; install Debian's "
            "package dataset-fashion-mnist, or set config.data.path to a folder of its four files"
        )
    return load_idx(FASHION_MNIST, "fashion_mnist")
