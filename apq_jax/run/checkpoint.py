"""Where the searches of a run stand, in one file, so that they go on bit for bit.

A safetensors file: the state of the searches and all that they evaluated, an array a leaf under
the leaf's path; in the header what decides the numbers, which must be the same to go on, and a
checksum. The file before the newest is kept beside it and stands in where the newest is damaged.

Why not orbax-checkpoint, tried as of 0.12.8: it read a changed bit as if nothing were wrong,
refused arrays without elements, printed tracebacks of its threads where files were cut off, and
made fourteen files of a megabyte. What is kept is small, and on the first process's host anyway.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from apq_jax.compression import plan_cache, quantization
from apq_jax.config import Config, to_config_dict
from apq_jax.data import Dataset
from apq_jax.hardware import Accelerator, adc
from apq_jax.network.capture import Network
from apq_jax.pipeline.stages import Standing
from apq_jax.strategies.loop import Record
from apq_jax.system import pytrees, versions
from apq_jax.system.errors import InputError, in_one_line, shown

SCHEMA = 2  # of the file, and of the code that goes on from it


# Their contents count.
_ELSEWHERE = ("config.cache_dir", "config.data.path", "config.model.path", "config.accelerator")


class Saved(NamedTuple):
    """A checkpoint as it was read: whole, but not yet held against a run."""

    path: pathlib.Path
    identity: dict[str, str]
    seconds: float  # that the searches took so far
    evaluations: int
    tensors: dict[str, np.ndarray]


def identity(config: Config, accelerator: Accelerator, dataset: Dataset) -> dict[str, str]:
    """What decides a search's numbers, by name, but for the network's weights."""
    tree = {
        "config": to_config_dict(config).to_dict(),
        "accelerator": dataclasses.asdict(accelerator),
        "versions": {**versions.versions(), "backend": jax.default_backend()},
    }
    found = {
        name: repr(value)
        for name, value in _flat(tree)
        if name not in _ELSEWHERE and not name.startswith("config.finetune.")  # comes after it
    }
    del found["versions.python"]
    return found | {"data": dataset.fingerprint(), "schema": str(SCHEMA)}


def weights_identity(params: Any) -> dict[str, str]:
    """The network's weights, for the same use."""
    return {"weights": pytrees.digest(params)}


def network_identity(network: Network, params: Any) -> dict[str, str]:
    """The network's weights and what is computed with them: two files may share the weights."""
    program = repr(plan_cache.model_identity(network, params)).encode()
    return weights_identity(params) | {"program": hashlib.sha256(program).hexdigest()}


def _flat(tree: Any, *walked: str) -> list[tuple[str, Any]]:
    if not isinstance(tree, dict):
        return [(".".join(walked), tree)]
    return [leaf for name, value in tree.items() for leaf in _flat(value, *walked, str(name))]


def difference(saved: Saved, here: dict[str, str]) -> str | None:
    """The first field of `here` that is another in the checkpoint, in words; None: none is."""
    for name, value in here.items():
        there = saved.identity.get(name, "nothing")
        if there != value:
            return f"{name}: {there[:60]} in the checkpoint, {value[:60]} here"
    return None


def save(
    path: pathlib.Path,
    identity: dict[str, str],
    seconds: float,
    standing: Standing,
    record: Record,
) -> None:
    """Writes a checkpoint; the one that was there becomes the one before.

    Raises:
      InputError: it cannot be written.
    """
    tensors = pytrees.leaves({"standing": standing, "record": record})
    description = json.dumps(
        {"identity": identity, "seconds": seconds, "evaluations": len(record.reward)}
    )
    metadata = {"description": description, "sha256": pytrees.digest(tensors, description)}
    try:
        if path.exists():
            os.replace(path, before(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be renamed ({error.strerror})") from error
    pytrees.write_tensors(path, tensors, metadata)


def before(path: pathlib.Path) -> pathlib.Path:
    """Where the checkpoint before the newest is."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


def exists(path: pathlib.Path) -> bool:
    """Whether there is anything to go on from."""
    return path.exists() or before(path).exists()


def remove(path: pathlib.Path) -> None:
    """Removes a checkpoint and the one before it."""
    for one in (path, before(path)):
        one.unlink(missing_ok=True)


def read(path: pathlib.Path) -> Saved | None:
    """Reads the newest checkpoint; None where there is none.

    Where it is damaged, or missing since writing it was cut off, the one before it, with a warning.

    Raises:
      InputError: neither can be read, or is a checkpoint.
    """
    earlier = before(path)
    try:
        found = _read(path)
    except InputError as error:
        if not earlier.exists():
            raise InputError(f"{error}; --noresume begins anew and deletes it") from error
        logging.warning("%s; goes on from %s", error, earlier)
        return _read(earlier)
    return _read(earlier) if found is None else found


def _read(path: pathlib.Path) -> Saved | None:
    if not path.exists():
        return None
    tensors, metadata = pytrees.read_tensors(path)
    try:
        description = metadata["description"]
        if metadata["sha256"] != pytrees.digest(tensors, description):
            raise ValueError("its contents are not those of its checksum")
        tree = json.loads(description)
        return Saved(path, tree["identity"], tree["seconds"], tree["evaluations"], tensors)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{path}: is damaged ({in_one_line(error)})") from error


def restore(
    saved: Saved, standing: Standing, nothing: Record, levels: int
) -> tuple[Standing, Record]:
    """A checkpoint's searches and what they evaluated.

    Args:
      saved: from `read`.
      standing: the same searches at their beginning, for names, shapes and dtypes.
      nothing: a record of no evaluation, for the same.
      levels: K, the keep levels of a policy.

    Raises:
      InputError: another array is needed, or a number is out of its range.
    """
    like = {"standing": standing, "record": nothing}
    expected = pytrees.leaves(like)
    for name in sorted(expected.keys() ^ saved.tensors.keys()):
        wrong = "missing" if name in expected else "unknown"
        raise InputError(f"{saved.path}: {shown(name)}: {wrong}; the strategy's state is another")
    for name, value in expected.items():
        found = saved.tensors[name]
        shape = value.shape
        if name.startswith("record/"):
            shape = saved.evaluations, *value.shape[1:]
        if (found.shape, found.dtype) != (shape, value.dtype):
            raise InputError(
                f"{saved.path}: {name}: {found.dtype} of shape {found.shape}; "
                f"allowed: {value.dtype} of shape {shape}"
            )
    flat, tree = jax.tree.flatten(like)
    leaves = [
        _restored(saved.tensors[name], leaf) for name, leaf in zip(expected, flat, strict=True)
    ]
    found = jax.tree.unflatten(tree, leaves)
    standing, record = found["standing"], found["record"]
    left, most = standing.carry.left, quantization.MAX_BITS
    for name, values, least, greatest in (
        ("record.policy.level", record.policy.level, 0, levels - 1),
        ("record.policy.weight_bits", record.policy.weight_bits, 1, most),
        ("record.policy.input_bits", record.policy.input_bits, 1, most),
        ("record.policy.adc_bits", record.policy.adc_bits, 1, adc.MAX_BITS),
        ("record.search", record.search, 0, len(left) - 1),
    ):
        if values is None or not values.size:
            continue
        if not (least <= values.min() and values.max() <= greatest):
            raise InputError(f"{saved.path}: {name}: out of range; allowed: {least} to {greatest}")
    return standing, record


def _restored(value: np.ndarray, like: Any) -> Any:
    if isinstance(like, np.ndarray):
        return value
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(like))
    return jnp.asarray(value)
