"""Trained weights: those that ship with the package, those in the cache, or trained now."""

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
from apq_jax.system.versions import TRAINING, versions

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
    """Trained params, and whence: "shipped" with the package, "cached", or "" for trained now.

    Weights stand for the model's name, the training images, the options (with them the seed) and,
    in the cache, the initial params (names, shapes and values) and the versions of jax, optax and
    flax. The model's code is not part of it: give a changed model a new name. Training that was
    interrupted, or killed, goes on where it was half a minute before at most.

    Raises:
      InputError: as `train`, or the cache cannot be written.
    """
    identity = identify(model_name, dataset, options)
    metadata = {
        **identity,
        "init": pytrees.digest(init_params),
        **versions(TRAINING),
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
    """Returns the metadata that tells trained weights apart: model, images and options."""
    return {
        "model": model_name,
        "training_images": dataset.fingerprint("train"),
        "options": json.dumps(dataclasses.asdict(options), sort_keys=True),
    }


def _matches(metadata: Mapping[str, str], identity: Mapping[str, str]) -> bool:
    """Whether a file's metadata is that of `identity`.

    An option that the file does not name counts as having its default, so that a new option does
    not orphan weights that were trained before there was one.
    """
    if metadata.keys() != identity.keys():
        return False
    options = dataclasses.asdict(Training()) | json.loads(metadata["options"])
    return {**metadata, "options": json.dumps(options, sort_keys=True)} == identity


def save_shipped(params: Params, identity: Mapping[str, str], name: str) -> pathlib.Path:
    """Writes float32 params as float16 among the weights that the package carries."""
    path = SHIPPED / f"{name}.safetensors"
    pytrees.save(path, jax.tree.map(lambda leaf: leaf.astype(jnp.float16), params), identity)
    return path


def load_shipped(identity: Mapping[str, str], like: Params) -> Params | None:
    """The float32 params that the package carries for an `identity`; None where it has none."""
    for path in sorted(SHIPPED.glob("*.safetensors")):
        if not _matches(pytrees.read_tensors(path)[1], identity):
            continue
        half = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float16), like)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), pytrees.load(path, half))
    return None
