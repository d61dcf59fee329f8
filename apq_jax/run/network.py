"""The network of a run: trained, or read from the user's file."""

import pathlib
from typing import Any

from apq_jax import data
from apq_jax.config import Config
from apq_jax.models.create import build_trained, load_onnx
from apq_jax.system.terminal import bar


def train(dataset: data.Dataset, config: Config, cache: pathlib.Path) -> tuple[Any, Any]:
    """The model as a function, and its params."""
    if config.model.path:
        return load_onnx(config.model, dataset)
    with bar("training", config.training.all_epochs) as advance:
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
