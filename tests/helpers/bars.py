"""Images of bars, and a linear model that learns them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.models.options import Training

QUICK = Training(epochs=4, batch_size=32, learning_rate=0.05, max_shift=1)


def bars(count: int, seed: int) -> tuple[Any, Any]:
    """Images [N, 6, 6, 1] of a vertical (0) or horizontal (1) bar under noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 2
    images = rng.normal(0, 0.1, (count, 6, 6, 1)).astype(np.float32)
    images[labels == 0, :, 2:4] += 1
    images[labels == 1, 2:4] += 1
    return images, labels


def linear(params: Any, images: jax.Array) -> jax.Array:
    return images.reshape(len(images), -1) @ params["w"] + params["b"]


def zeros() -> dict[str, jax.Array]:
    return {"w": jnp.zeros((36, 2)), "b": jnp.zeros(2)}
