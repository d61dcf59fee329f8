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

    The cache is tried first, then the package's weights, then params are trained and cached.
    Shipped weights are found by `identify`. Cached weights also depend on the initial params
    (names, shapes and values) and on the versions of jax, optax and flax. Neither depends on the
    model's code: give a changed model a new name. A training that was stopped continues from its
    last saved state; states are saved every `pytrees.SAVE_SECONDS`.

    Args:
      model_name: stands for the model's code.
      init_params: where training starts.
      options: how the model is trained; `options.seed` gives the key of `train`.
      cache_dir: folder of the cached weights.
      apply_fn, dataset, on_progress, train_fn: as in `train`.

    Raises:
      InputError: as `train`.
    """
    identity = identify(model_name, dataset, options)
    metadata = {**identity, "init": pytrees.compute_digest(init_params), **read_versions(TRAINING)}
    name = hashlib.sha256(repr(metadata).encode()).hexdigest()[:32]
    path = pathlib.Path(cache_dir, f"{name}.safetensors")
    params = pytrees.load_if_usable(path, init_params)
    if params is not None:
        return params, "cached"
    params = load_shipped(identity, init_params)
    if params is not None:
        return params, "shipped"
    params = train(
        apply_fn,
        init_params,
        dataset,
        options,
        jax.random.key(options.seed),
        train_fn=train_fn,
        on_progress=on_progress,
        unfinished=pytrees.name_unfinished(path),
    )
    pytrees.keep(path, params, metadata)
    return params, ""


def identify(model_name: str, dataset: Dataset, options: Training) -> dict[str, str]:
    """Returns the metadata that tells trained weights apart, for the header of their file.

    It holds the model's name, a hash of the training images and labels, and all options as JSON.
    """
    return {
        "model": model_name,
        "training_images": dataset.fingerprint("train"),
        "options": json.dumps(dataclasses.asdict(options), sort_keys=True),
    }


def _matches(metadata: Mapping[str, str], identity: Mapping[str, str]) -> bool:
    """Returns whether a file's metadata equals `identity`.

    Options that the file lacks count as their defaults, so that older weights are still found
    after an option is added.
    """
    if metadata.keys() != identity.keys():
        return False
    options = dataclasses.asdict(Training()) | json.loads(metadata["options"])
    return {**metadata, "options": json.dumps(options, sort_keys=True)} == identity


def save_shipped(params: Params, identity: Mapping[str, str], name: str) -> pathlib.Path:
    """Writes float32 params as float16 to <name>.safetensors in `SHIPPED`; returns its path.

    `identity` goes into the file's header. An existing file is replaced.

    Raises:
      InputError: the file cannot be written.
    """
    path = SHIPPED / f"{name}.safetensors"
    pytrees.save(path, jax.tree.map(lambda leaf: leaf.astype(jnp.float16), params), identity)
    return path


def load_shipped(identity: Mapping[str, str], like: Params) -> Params | None:
    """Returns the weights in `SHIPPED` that have this `identity`, as float32; None if none has.

    Args:
      identity: from `identify`. Options that a file lacks count as their defaults.
      like: a pytree of arrays with the expected names and shapes.

    Raises:
      InputError: a file cannot be read, or its names or shapes differ from `like`.
    """
    for path in sorted(SHIPPED.glob("*.safetensors")):
        if not _matches(pytrees.read(path)[1], identity):
            continue
        half = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float16), like)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), pytrees.load(path, half))
    return None
