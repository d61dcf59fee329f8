"""Images and labels: where they come from, and their splits. docs/data.md says which formats."""

import pathlib

from apq_jax.data.dataset import Dataset, limited, standard_error
from apq_jax.data.idx import load_idx
from apq_jax.data.mnist_5k import mnist_5k
from apq_jax.data.npz import load_npz
from apq_jax.files import InputError

FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
NAMES = ("mnist_5k", "fashion_mnist")

__all__ = [
    "NAMES",
    "Dataset",
    "fashion_mnist",
    "limited",
    "load",
    "load_idx",
    "load_npz",
    "mnist_5k",
    "standard_error",
]


def load(path: str | None, name: str = "mnist_5k") -> Dataset:
    """The data set in `path`: an npz file or a folder; where it is empty, the installed `name`.

    Raises:
      InputError: see `load_npz`, `load_idx`, `mnist_5k` and `fashion_mnist`.
    """
    if path:
        return load_idx(path) if pathlib.Path(path).is_dir() else load_npz(path)
    return {"mnist_5k": mnist_5k, "fashion_mnist": fashion_mnist}[name]()


def fashion_mnist() -> Dataset:
    """Fashion-MNIST (Xiao et al., arXiv 1708.07747) as Debian's package installs it.

    54,000 images for training, 1,000 for search, 5,000 for selection, 10,000 for test.

    Raises:
      InputError: it is not installed, or see `load_idx`.
    """
    if not FASHION_MNIST.is_dir():
        raise InputError(
            f"config.data.name: 'fashion_mnist': no folder {FASHION_MNIST}; install Debian's "
            "package dataset-fashion-mnist, or set config.data.path to a folder of its four files"
        )
    return load_idx(FASHION_MNIST, "fashion_mnist")
