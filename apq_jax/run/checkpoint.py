"""Saves the searches of a run in one file, so that they resume bit for bit.

The safetensors file holds the state and the record of the searches, one array a leaf, under the
leaf's path. Its header holds a checksum and an identity, which names everything that decides the
numbers. A run resumes only with an equal identity. The checkpoint before the newest stays beside
it, and serves if the newest is damaged.

It is not orbax-checkpoint because 0.12.8, when tried, read a changed bit without an error, refused
arrays without elements, printed tracebacks of its threads for cut files, and made fourteen files of
a megabyte. A checkpoint is small, and lies on the first process's host anyway.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict

from apq_jax.compression import plan_cache, quantization
from apq_jax.config import PATHS, Config, to_config_dict
from apq_jax.data import Dataset
from apq_jax.hardware import Accelerator, adc
from apq_jax.network.capture import Network
from apq_jax.pipeline.stages import Standing
from apq_jax.strategies.loop import Record
from apq_jax.system import pytrees, versions
from apq_jax.system.errors import InputError, explain_os_errors, make_one_line, quote_name

SCHEMA = 3  # of the file, and of the code that resumes it

# Fields that are not compared, because their files' contents are.
_ELSEWHERE = tuple(f"config.{name}" for name in PATHS)


class Saved(NamedTuple):
    """A checkpoint as read: undamaged, but not yet compared with a run."""

    path: pathlib.Path
    identity: dict[str, str]
    seconds: float  # that the searches have taken
    evaluations: int
    tensors: dict[str, np.ndarray]


def identify_run(config: Config, accelerator: Accelerator, dataset: Dataset) -> dict[str, str]:
    """Returns an identity: everything that decides a search's numbers, by name, as text.

    It covers options, accelerator, versions and images. `identify_network` adds the network.
    """
    tree: dict[str, Any] = {
        "config": to_config_dict(config).to_dict(),
        "accelerator": dataclasses.asdict(accelerator),
        "versions": {**versions.read_versions(), "backend": jax.default_backend()},
    }
    del tree["versions"]["python"], tree["config"]["finetune"]  # see `identify_tuning`
    fields = flatten_dict(tree, sep=".").items()
    identity = {name: repr(value) for name, value in fields if name not in _ELSEWHERE}
    return identity | {"data": dataset.fingerprint(), "schema": str(SCHEMA)}


def identify_weights(params: Any) -> dict[str, str]:
    """Returns the part of an identity that the network's weights decide."""
    return {"weights": pytrees.compute_digest(params)}


def identify_network(network: Network, params: Any) -> dict[str, str]:
    """Returns the part of an identity that the network decides: its weights and its program.

    The weights are not enough, because two models may share them.
    """
    program = repr(plan_cache.identify_model(network, params)).encode()
    return identify_weights(params) | {"program": hashlib.sha256(program).hexdigest()}


def identify_tuning(config: Config) -> dict[str, str]:
    """Returns what else decides a run's result: fine-tuning, which comes after the search."""
    fields = vars(config.finetune).items()
    return {f"config.finetune.{name}": repr(value) for name, value in fields}


def find_difference(saved: Saved, identity: dict[str, str]) -> str | None:
    """Describes the first field of `identity` that differs in the checkpoint, with both values.

    Returns None if all are equal. Fields that only the checkpoint has do not count.
    """
    for name, value in identity.items():
        saved_value = saved.identity.get(name, "nothing")
        if saved_value != value:
            return f"{name}: {saved_value[:60]} there, {value[:60]} here"
    return None


def require_same(saved: Saved, identity: dict[str, str], more: str = "") -> None:
    """Raises InputError if the identities differ; `more` ends the message."""
    difference = find_difference(saved, identity)
    if difference is not None:
        raise InputError(f"{saved.path}: {difference}; allowed: the same, to go on{more}")


def save(
    path: pathlib.Path, identity: dict[str, str], seconds: float, standing: Standing, record: Record
) -> None:
    """Writes a checkpoint; the newest until now becomes the previous one.

    Args:
      path: the newest checkpoint's.
      identity: from `identify_run` and `identify_network`.
      seconds: that the searches have taken.
      standing: the searches' state.
      record: every evaluation so far.

    Raises:
      InputError: the file cannot be written or renamed.
    """
    tensors = pytrees.flatten_leaves({"standing": standing, "record": record})
    description = json.dumps(
        {"identity": identity, "seconds": seconds, "evaluations": len(record.reward)}
    )
    with explain_os_errors(path, "cannot be renamed"):
        if path.exists():
            path.replace(name_previous(path))
    pytrees.save(path, tensors, {"description": description})


def name_previous(path: pathlib.Path) -> pathlib.Path:
    """Returns the path of the previous checkpoint, beside the newest at `path`."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


def exists(path: pathlib.Path) -> bool:
    """Returns whether the newest or the previous checkpoint exists."""
    return path.exists() or name_previous(path).exists()


def remove(path: pathlib.Path) -> None:
    """Removes the newest and the previous checkpoint, where they exist."""
    for file in (path, name_previous(path)):
        file.unlink(missing_ok=True)


def read(path: pathlib.Path) -> Saved | None:
    """Reads the newest checkpoint, or the previous one; returns None if neither exists.

    The previous one serves if the newest is damaged (with a warning), or missing, because a run may
    end after renaming the one and before writing the other. `Saved.path` tells which was read.

    Raises:
      InputError: neither can be used, although one exists.
    """
    previous = name_previous(path)
    try:
        saved = _read(path)
    except InputError as error:
        if not previous.exists():
            raise InputError(f"{error}; --noresume begins anew and deletes it") from error
        logging.warning("%s; goes on from %s", error, previous)
        return _read(previous)
    return _read(previous) if saved is None else saved


def _read(path: pathlib.Path) -> Saved | None:
    if not path.exists():
        return None
    tensors, metadata = pytrees.read(path)
    try:
        tree = json.loads(metadata["description"])
        seconds, evaluations = tree["seconds"], tree["evaluations"]
        is_time = type(seconds) is float and 0 <= seconds < math.inf
        if not is_time or type(evaluations) is not int or evaluations < 0:
            raise ValueError(f"{seconds!r:.40} seconds, {evaluations!r:.40} evaluations")
        return Saved(path, check_identity(tree["identity"]), seconds, evaluations, tensors)
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is damaged ({make_one_line(error)})") from error


def check_identity(tree: Any) -> dict[str, str]:
    """Returns a tree that was read from JSON if it is an identity.

    Raises:
      TypeError: it is no texts by name.
    """
    if not isinstance(tree, dict) or not all(isinstance(value, str) for value in tree.values()):
        raise TypeError(f"identity: {tree!r:.40}; allowed: texts by name")
    return tree


def restore(
    saved: Saved, standing: Standing, empty: Record, levels: int
) -> tuple[Standing, Record]:
    """Restores a checkpoint's searches: their state, and the record of their evaluations.

    Args:
      saved: from `read`.
      standing: the state of the same searches at their beginning, which gives the names, shapes and
        dtypes of the arrays.
      empty: a record of no evaluations, which gives the same.
      levels: K, the keep levels of a policy.

    Raises:
      InputError: an array is missing, unknown or of another shape or dtype, or a policy's level or
        bits, or a search's index, is out of range.
    """
    like = {"standing": standing, "record": empty}
    expected = pytrees.flatten_leaves(like)
    for name in sorted(expected.keys() ^ saved.tensors.keys()):
        wrong = "missing" if name in expected else "unknown"
        raise InputError(
            f"{saved.path}: {quote_name(name)}: {wrong}; the strategy's state is another"
        )
    for name, value in expected.items():
        tensor, shape = saved.tensors[name], value.shape
        if name.startswith("record/"):
            shape = saved.evaluations, *value.shape[1:]
        if (tensor.shape, tensor.dtype) != (shape, value.dtype):
            raise InputError(
                f"{saved.path}: {name}: {tensor.dtype} of shape {tensor.shape}; "
                f"allowed: {value.dtype} of shape {shape}"
            )
    flat, tree = jax.tree.flatten(like)
    leaves = map(_restore_leaf, (saved.tensors[name] for name in expected), flat)
    restored = jax.tree.unflatten(tree, leaves)
    standing, record = restored["standing"], restored["record"]
    left, max_bits = standing.carry.left, quantization.MAX_BITS
    for name, values, smallest, largest in (
        ("record.policy.level", record.policy.level, 0, levels - 1),
        ("record.policy.weight_bits", record.policy.weight_bits, 1, max_bits),
        ("record.policy.input_bits", record.policy.input_bits, 1, max_bits),
        ("record.policy.adc_bits", record.policy.adc_bits, 1, adc.MAX_BITS),
        ("record.search", record.search, 0, len(left) - 1),
    ):
        if values is None or not values.size:
            continue
        if not (smallest <= values.min() and values.max() <= largest):
            raise InputError(
                f"{saved.path}: {name}: out of range; allowed: {smallest} to {largest}"
            )
    return standing, record


def _restore_leaf(value: np.ndarray, like: Any) -> Any:
    if isinstance(like, np.ndarray):
        return value
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(like))
    return jnp.asarray(value)
