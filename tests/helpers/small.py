"""A tiny network on images of noise, and a small accelerator."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import apq_jax
from apq_jax.data import Dataset
from apq_jax.hardware import Accelerator
from apq_jax.network.capture import Network

SMALL = Accelerator(crossbar_rows=20, crossbar_columns=24, unit_rows=4, unit_columns=8)


def model(params: Any, x: jax.Array) -> jax.Array:
    """[B, 6, 6, 2] through a grouped convolution of 6 channels, then 3 logits."""
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(
        x, params["kernel"], (2, 2), "SAME", dimension_numbers=numbers, feature_group_count=2
    )
    return jnp.maximum(y, 0).reshape(len(x), -1) @ params["dense"]


@functools.cache
def network() -> tuple[Network, Any, Dataset]:
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 1, 6), "dense": (54, 3)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    images = [rng.normal(size=(20, 6, 6, 2)).astype(np.float32) for _ in range(4)]
    labels = [np.arange(20, dtype=np.int32) % 3] * 4
    parts = (part for pair in zip(images, labels, strict=True) for part in pair)
    return apq_jax.capture(model, params, images[0][:2]), params, Dataset("noise", 3, *parts)
