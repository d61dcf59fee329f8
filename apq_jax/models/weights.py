"""Loads trained weights from the cache or the package, or trains them."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from apq_jax.data import Dataset
from apq_jax.models.options import Training
from apq_jax.models.training import ApplyFn, Params, Progress, TrainFn, train
from apq_jax.system import pytrees
from apq_jax.system.versions import TRAINING, read_versions

SHIPPED = pathlib.Path(__file__).with_name("checkpoints")  # trained weights in float16


def load_or_train(
    model_name: str,
    apply_fn: ApplyFn,
    init_params: Params,
    dataset: Dataset,
    options: Training,
    cache_dir: str | os.PathLike[str],
    on_progress: Progress | None = None,
    train_fn: TrainFn | None = None,
) -> tuple[Params, str]:
    """Returns trained params and their source: "cached", "shipped", or "" if trained now.

    Shipped weights are found by `identify`. Cached weights also depend on the initial params
    (names, shapes and values) and on the versions of jax, optax and flax. Neither depends on the
    model's code: give a changed model a new name. Training that was stopped continues from a state
    that is at most `pytrees.SAVE_SECONDS` older.

    Args:
      model_name: stands for the model's code.
      init_params: where training starts.
      cache_dir: folder of the cached weights.
      on_progress, train_fn: as in `train`.

    Raises:
      InputError: as `train`, or the cache cannot be written.
    """
    identity = identify(model_name, dataset, options)
    metadata = {
        **identity,
        "init": pytrees.compute_digest(init_params),
        **read_versions(TRAINING),
    }
    name = hashlib.sha256(repr(metadata).encode()).hexdigest()[:32]
    path = pathlib.Path(cache_dir, f"{name}.safetensors")
    params = pytrees.load_if_usable(path, init_params)
    if params is not None:
        return params, "cached"
    params = load_shipped(identity, init_params)
    if params is not None:
        return params, "shipped"
    unfinished = path.with_suffix(".unfinished.safetensors")
    params = train(
        apply_fn,
        init_params,
        dataset,
        options,
        jax.random.key(options.seed),
        train_fn=train_fn,
        on_progress=on_progress,
        unfinished=unfinished,
    )
    pytrees.save(path, params, metadata)
    unfinished.unlink(missing_ok=True)
    return params, ""


def identify(model_name: str, dataset: Dataset, options: Training) -> dict[str, str]:
    """Returns the metadata that tells trained weights apart: model, images, options with seed."""
    return {
        "model": model_name,
        "training_images": dataset.fingerprint("train"),
        "options": json.dumps(dataclasses.asdict(options), sort_keys=True),
    }


def _matches(metadata: Mapping[str, str], identity: Mapping[str, str]) -> bool:
    """Returns whether a file's metadata equals `identity`.

    Options missing in the file count as their defaults, so that a new option does not orphan
    weights that are older.
    """
    if metadata.keys() != identity.keys():
        return False
    options = dataclasses.asdict(Training()) | json.loads(metadata["options"])
    return {**metadata, "options": json.dumps(options, sort_keys=True)} == identity


def save_shipped(params: Params, identity: Mapping[str, str], name: str) -> pathlib.Path:
    """Writes float32 params, as float16, to the package's weights; returns the file's path."""
    path = SHIPPED / f"{name}.safetensors"
    pytrees.save(path, jax.tree.map(lambda leaf: leaf.astype(jnp.float16), params), identity)
    return path


def load_shipped(identity: Mapping[str, str], like: Params) -> Params | None:
    """Returns the package's weights of this `identity` as float32 params; None if it has none.

    Args:
      identity: from `identify`.
      like: a pytree of arrays with the expected names and shapes.
    """
    for path in sorted(SHIPPED.glob("*.safetensors")):
        if not _matches(pytrees.read_tensors(path)[1], identity):
            continue
        half = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float16), like)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), pytrees.load(path, half))
    return None
