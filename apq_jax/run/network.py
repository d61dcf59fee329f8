"""Gets the network of a run: from the user's file, the cache, or training."""

import pathlib
from typing import Any

from apq_jax import data
from apq_jax.config import Config
from apq_jax.models.create import build_trained, load_onnx
from apq_jax.system.terminal import show_bar


def load_or_train(dataset: data.Dataset, config: Config, cache: pathlib.Path) -> tuple[Any, Any]:
    """Reads the user's ONNX file, or trains the model; returns its apply function and params."""
    if config.model.path:
        return load_onnx(config.model, dataset)
    with show_bar("training", config.training.all_epochs) as advance:
        done = 0.0

        def progress(epochs: float, loss: float) -> None:
            nonlocal done
            advance(epochs - done, f"loss {loss:.3f}")
            done = epochs

        apply_fn, params, whence = build_trained(
            config.model, config.training, dataset, cache, progress
        )
        advance(config.training.all_epochs - done, whence)
    return apply_fn, params
