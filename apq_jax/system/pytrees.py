"""Saves and loads pytrees of arrays, and the state of unfinished work.

A file is in the safetensors format. Each array has its leaf's path, such as "params/conv1/kernel".
The header has a digest of the contents, because a flipped bit would else be used without a word.
"""

import hashlib
import json
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

from apq_jax.system.cache import warn_not_kept
from apq_jax.system.errors import InputError, make_one_line, quote_name
from apq_jax.system.files import require_file, write_whole

Tree: TypeAlias = Any  # a pytree of arrays
Check: TypeAlias = Callable[[Tree], None]  # raises InputError for a tree that makes no sense
_DIGEST = "sha256"  # in a header
SAVE_SECONDS = 30.0  # least time between two saved states of unfinished work


class Unfinished:
    """The file in which work saves its state, because it may be stopped or killed.

    Without a path, nothing is saved, and no save is due.
    """

    def __init__(self, path: pathlib.Path | None) -> None:
        self._path = path
        self._saved = time.monotonic()

    def restore(self, start: Tree, check: Check = lambda tree: None) -> Tree:
        """Returns the saved state, or `start` if there is none that `load_if_usable` accepts."""
        state = None if self._path is None else load_if_usable(self._path, start, check)
        return start if state is None else state

    @property
    def due(self) -> bool:
        """Whether SAVE_SECONDS have passed since the last save, or since this object was made."""
        return self._path is not None and time.monotonic() - self._saved >= SAVE_SECONDS

    def save(self, state: Tree) -> None:
        """Writes the state, like `keep`."""
        if self._path is not None:
            keep(self._path, state)
            self._saved = time.monotonic()


def save(
    path: str | os.PathLike[str], tree: Tree, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a pytree of arrays as a safetensors file, with `metadata` and a digest in its header.

    Raises:
      InputError: the file cannot be written, or two leaves have one name.
    """
    tensors, metadata = flatten_leaves(tree), dict(metadata or {})
    write_tensors(path, tensors, metadata | {_DIGEST: _sign(tensors, metadata)})


def keep(path: pathlib.Path, tree: Tree, metadata: Mapping[str, str] | None = None) -> None:
    """Like `save`, but a file that cannot be written, as in a read-only cache, is only warned of.

    The state of unfinished work towards it (`name_unfinished`) is removed.
    """
    try:
        save(path, tree, metadata)
        name_unfinished(path).unlink(missing_ok=True)
    except (InputError, OSError) as error:
        warn_not_kept(error)


def name_unfinished(path: pathlib.Path) -> pathlib.Path:
    """Returns the path of the state of unfinished work towards a file of a cache."""
    return path.with_suffix(".unfinished.safetensors")


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the arrays of a file that `save` wrote, by name, and its metadata without the digest.

    Raises:
      InputError: the file cannot be read, or its contents are not those of its digest.
    """
    tensors, metadata = read_tensors(path)
    if metadata.pop(_DIGEST, None) != _sign(tensors, metadata):
        raise InputError(f"{path}: is damaged: its contents are not those of its digest")
    return tensors, metadata


def _sign(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    return compute_digest(dict(tensors), json.dumps(metadata, sort_keys=True))


def load(path: str | os.PathLike[str], like: Tree) -> Tree:
    """Reads the pytree of arrays that `save` wrote, as jax.Arrays.

    Args:
      like: a pytree of arrays or ShapeDtypeStructs with the expected names, shapes and dtypes.

    Raises:
      InputError: the file cannot be read or is damaged, its tensors differ from `like`, or a value
        is not finite.
    """
    tensors, _ = read(path)
    paths, structure = jax.tree.flatten_with_path(like)
    expected = {format_path(where): leaf for where, leaf in paths}
    for name in sorted(tensors.keys() ^ expected.keys()):
        wrong = "missing" if name in expected else "unknown tensor"
        raise InputError(f"{path}: {quote_name(name)}: {wrong}; {', '.join(expected)} are needed")
    checked = [_check_tensor(path, name, tensors[name], leaf) for name, leaf in expected.items()]
    return jax.tree.unflatten(structure, checked)


def load_if_usable(path: pathlib.Path, like: Tree, check: Check = lambda tree: None) -> Tree | None:
    """Like `load`, but returns None if the file is missing, or (with a warning) unusable.

    A tree for which `check` raises InputError is unusable, too.
    """
    if not os.path.exists(path):
        return None
    try:
        tree = load(path, like)
        check(tree)
    except InputError as error:
        logging.warning("%s; made again", error)
        return None
    return tree


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes named arrays as a safetensors file, whole or not at all; equal arrays as equal bytes.

    Raises:
      InputError: the file cannot be written.
    """
    content = safetensors.numpy.save(dict(tensors), dict(metadata))
    # The library writes the metadata in an order that changes from process to process.
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    ordered = json.dumps(header, separators=(",", ":")).encode()
    ordered += b" " * (-len(ordered) % 8)  # so that the arrays stay aligned
    write_whole(path, len(ordered).to_bytes(8, "little") + ordered + content[end:])


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the named arrays of a safetensors file, and the metadata of its header.

    Raises:
      InputError: the file cannot be read, or is not a safetensors file.
    """
    require_file(path)
    try:
        # The library checks that the header's shapes, dtypes and offsets fit the file's size.
        with safetensors.safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (safetensors.SafetensorError, TypeError, KeyError, ValueError, AttributeError) as error:
        # The errors after SafetensorError come from dtypes and shapes that NumPy does not have.
        raise InputError(f"{path}: not a safetensors file ({make_one_line(error)})") from error


def _check_tensor(path: Any, name: str, tensor: np.ndarray, like: Any) -> jax.Array:
    """Returns `tensor` if it has the shape and dtype of `like` and is finite."""
    if tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise InputError(
            f"{path}: {name}: {tensor.dtype} of shape {tensor.shape}; "
            f"{like.dtype} of shape {tuple(like.shape)} is needed"
        )
    if not np.isfinite(tensor).all():
        raise InputError(f"{path}: {name}: holds NaN or infinity; values must be finite")
    return jnp.asarray(tensor)


def format_path(path: Any) -> str:
    """Returns a leaf's path in a pytree as one name, such as "params/conv1/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten_leaves(tree: Tree) -> dict[str, np.ndarray]:
    """Returns a pytree's leaves as NumPy arrays by path; a random key becomes its key data.

    Raises:
      InputError: two leaves have one name.
    """
    paths = jax.tree.leaves_with_path(tree)
    arrays = {}
    for path, leaf in paths:
        if jnp.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        arrays[format_path(path)] = np.asarray(leaf, order="C")
    if len(arrays) != len(paths):
        raise InputError("params: two leaves have one name; a key may not hold a slash")
    return arrays


def compute_digest(tree: Tree, description: str = "") -> str:
    """Returns the SHA-256 (hex) of `description` and the leaves' paths, shapes, dtypes, values."""
    sha = hashlib.sha256(description.encode())
    for name, array in sorted(flatten_leaves(tree).items()):
        sha.update(f";{name}{array.shape}{array.dtype}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
