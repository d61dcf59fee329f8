"""Gets the images and the network of a run."""

import pathlib

import jax.numpy as jnp

from apq_jax import data
from apq_jax.config import Config
from apq_jax.models.create import build_trained, load_onnx
from apq_jax.network.capture import Network, capture
from apq_jax.network.jaxpr import Params
from apq_jax.system.errors import InputError
from apq_jax.system.terminal import show_bar


def load_dataset(config: Config) -> data.Dataset:
    """Loads the data set at `data.path`, or else named `data.name`, with its splits limited.

    Raises:
      InputError: as `data.load` and `data.limit_images`.
    """
    dataset = data.load(config.data.path, config.data.name)
    return data.limit_images(dataset, config.data.search_images, config.data.select_images)


def load_network(
    dataset: data.Dataset, config: Config, cache: pathlib.Path
) -> tuple[Network, Params]:
    """Captures the network of the user's ONNX file, or the built-in model with trained weights.

    The weights come from the package, from the cache, or from training, which shows a bar.

    Raises:
      InputError: the file or the model cannot be used, or the cache cannot be written.
    """
    if config.model.path:
        apply_fn, params = load_onnx(config.model, dataset)
    else:
        with show_bar("training", config.training.all_epochs) as advance:

            def progress(epochs: float, loss: float) -> None:
                advance(done=epochs, note=f"loss {loss:.3f}")

            apply_fn, params, source = build_trained(
                config.model, config.training, dataset, cache, progress
            )
            advance(done=config.training.all_epochs, note=source)
    try:
        return capture(apply_fn, params, jnp.asarray(dataset.train_images[:2])), params
    except ValueError as error:  # only from a user's own model
        raise InputError(f"{config.model}: {' '.join(str(error).split())}") from error
