"""Pytrees of arrays on disk, and long work on one that is stopped and gone on with."""

import hashlib
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from apq_jax.system.errors import InputError, in_one_line, shown
from apq_jax.system.files import write_whole

Tree: TypeAlias = Any  # a pytree of arrays
Check: TypeAlias = Callable[[Tree], None]  # raises InputError where a tree makes no sense
SAVE_SECONDS = 30.0  # between two states of unfinished work


class Unfinished:
    """The file that work keeps its state in, for the case that it is stopped or killed.

    Without a path nothing is kept.
    """

    def __init__(self, path: pathlib.Path | None) -> None:
        self._path = path
        self._saved = time.monotonic()

    def restored(self, start: Tree, check: Check = lambda tree: None) -> Tree:
        """The state that was kept, or `start` where `found` has none."""
        state = None if self._path is None else found(self._path, start, check)
        return start if state is None else state

    @property
    def due(self) -> bool:
        """Whether the last state is SAVE_SECONDS old."""
        return self._path is not None and time.monotonic() - self._saved >= SAVE_SECONDS

    def save(self, state: Tree) -> None:
        """Keeps a state.

        Raises:
          InputError: the file cannot be written.
        """
        if self._path is not None:
            save(self._path, state)
            self._saved = time.monotonic()


def save(
    path: str | os.PathLike[str], tree: Tree, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a pytree of arrays as a safetensors file, with any `metadata` in its header.

    Raises:
      InputError: the file cannot be written.
    """
    tensors = {name: np.asarray(leaf, order="C") for name, leaf in _leaves(tree).items()}
    write_whole(path, safetensors.numpy.save(tensors, dict(metadata or {})))


def load(path: str | os.PathLike[str], like: Tree) -> Tree:
    """Reads the pytree of arrays that `save` wrote.

    Args:
      like: a pytree of arrays or ShapeDtypeStructs with the names, shapes and dtypes expected.

    Raises:
      InputError: the file cannot be read, or holds other tensors than `like`, or values that
        are not finite.
    """
    expected = _leaves(like)
    try:
        # The library checks that the header's shapes, dtypes and offsets fit the file's size.
        with safetensors.safe_open(path, framework="np") as file:
            for name in sorted(set(file.keys()) ^ expected.keys()):
                wrong = "missing" if name in expected else "unknown tensor"
                raise InputError(
                    f"{path}: {shown(name)}: {wrong}; {', '.join(expected)} are needed"
                )
            leaves = [
                _checked(path, name, file.get_tensor(name), leaf) for name, leaf in expected.items()
            ]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (safetensors.SafetensorError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a safetensors file ({in_one_line(error)})") from error
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def found(path: pathlib.Path, like: Tree, check: Check = lambda tree: None) -> Tree | None:
    """As `load`; None where there is no file, and, with a warning, where it is of no use."""
    if not path.exists():
        return None
    try:
        tree = load(path, like)
        check(tree)
    except InputError as error:
        logging.warning("%s; made again", error)
        return None
    return tree


def _checked(path: str | os.PathLike[str], name: str, tensor: np.ndarray, like: Any) -> jax.Array:
    """Returns `tensor` if it has the shape and dtype of `like` and is finite."""
    if tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise InputError(
            f"{path}: {name}: {tensor.dtype} of shape {tensor.shape}; "
            f"{like.dtype} of shape {tuple(like.shape)} is needed"
        )
    if not np.isfinite(tensor).all():
        raise InputError(f"{path}: {name}: holds NaN or infinity; values must be finite")
    return jnp.asarray(tensor)


def _leaves(tree: Tree) -> dict[str, Any]:
    """The leaves of a pytree under names such as "params/conv1/kernel"."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    leaves = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in paths}
    if len(leaves) != len(paths):
        raise InputError("params: two leaves have one name; a key may not hold a slash")
    return leaves


def digest(tree: Tree) -> str:
    """SHA-256 (hex) over the names, shapes, dtypes and values of a pytree's leaves."""
    sha = hashlib.sha256()
    for name, leaf in _leaves(tree).items():
        array = np.asarray(leaf, order="C")
        sha.update(f";{name}{array.shape}{array.dtype}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
