"""Pytrees on disk."""

import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from apq_jax.system import pytrees
from apq_jax.system.errors import InputError

TREE = {"params": {"a": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "b": jnp.int32(3)}}


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "weights.safetensors"


def refused(path: pathlib.Path, like: Any = TREE) -> str:
    with pytest.raises(InputError) as caught:
        pytrees.load(path, like)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def test_params_round_trip(path: pathlib.Path) -> None:
    transposed = {"params": {"a": {"kernel": np.arange(6.0, dtype="f4").reshape(3, 2).T}}}
    for tree in (TREE, transposed, {"h": jnp.ones(3, jnp.bfloat16)}):
        pytrees.save(path, tree, {"model": "toy"})
        for like in (tree, jax.eval_shape(lambda tree=tree: tree)):
            loaded = pytrees.load(path, like)
            jax.tree.map(np.testing.assert_array_equal, loaded, tree)
            assert [x.dtype for x in jax.tree.leaves(loaded)] == [
                x.dtype for x in jax.tree.leaves(tree)
            ]


def test_names_and_metadata_on_disk(path: pathlib.Path) -> None:
    pytrees.save(path, TREE, {"model": "toy"})
    with safetensors.safe_open(path, framework="np") as file:
        assert sorted(file.keys()) == ["params/a/kernel", "params/b"]
        assert file.metadata().keys() == {"model", "sha256"}
    _, metadata = pytrees.read(path)
    assert metadata == {"model": "toy"}


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"params/a/kernel": np.zeros((2, 3), "f4")}, "params/b: missing"),
        ({"params/c": np.zeros(1)}, "params/c: unknown tensor"),
        ({"params/a/kernel": np.zeros((3, 2), "f4")}, "params/a/kernel: float32 of shape (3, 2)"),
        ({"params/a/kernel": np.zeros((2, 3))}, "params/a/kernel: float64 of shape (2, 3)"),
        ({"params/a/kernel": np.full((2, 3), np.nan, "f4")}, "params/a/kernel: holds NaN"),
    ],
)
def test_wrong_tensors(path: pathlib.Path, tensors: dict[str, Any], reason: str) -> None:
    if "missing" not in reason:
        right = {"params/a/kernel": np.zeros((2, 3), "f4"), "params/b": np.zeros((), "i4")}
        tensors = right | tensors
    pytrees.save(path, tensors)
    assert refused(path).startswith(reason)


def test_damaged_weights(path: pathlib.Path) -> None:
    assert "cannot be read" in refused(path)
    pytrees.save(path, TREE, {})
    content = path.read_bytes()
    for damaged in (b"", content[:7], content[:-1], content + b"x", b"\xff" * 8 + content[8:]):
        path.write_bytes(damaged)
        assert "not a safetensors file" in refused(path)


def test_a_flipped_bit_is_told(path: pathlib.Path) -> None:
    """Wherever it is: in the header's length, in names, in metadata, in values."""
    pytrees.save(path, TREE, {"model": "toy"})
    content = path.read_bytes()
    assert pytrees.load_if_usable(path, TREE) is not None
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        refused(path)


def test_without_a_digest(path: pathlib.Path) -> None:
    path.write_bytes(safetensors.numpy.save(pytrees.flatten_leaves(TREE), {"model": "toy"}))
    assert "its contents are not those of its digest" in refused(path)


def test_equal_trees_are_equal_files(path: pathlib.Path) -> None:
    """In every process: the library's own order of metadata differs from one to the next."""
    metadata = {name: name.upper() for name in "abcdefgh"}
    pytrees.save(path, TREE, metadata)
    program = (
        "import sys, json, numpy as np; from apq_jax.system import pytrees\n"
        "tree = {'params': {'a': {'kernel': np.arange(6, dtype='f4').reshape(2, 3)}, "
        "'b': np.int32(3)}}\n"
        "pytrees.save(sys.argv[1], tree, {name: name.upper() for name in 'hgfedcba'})"
    )
    other = path.with_name("other.safetensors")
    subprocess.run([sys.executable, "-c", program, str(other)], check=True)
    assert other.read_bytes() == path.read_bytes()


def test_leaves_of_one_name(path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="two leaves have one name"):
        pytrees.save(path, {"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)}, {})
