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


def pooled(params: Any, x: jax.Array) -> jax.Array:
    """[B, 6, 6, 6] through one grouped convolution, then the means of its 6 channels as logits.

    Its 27 rows need two crossbars of `SMALL` below each other.
    """
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(
        x, params["kernel"], (2, 2), "SAME", dimension_numbers=numbers, feature_group_count=2
    )
    return jnp.maximum(y, 0).mean(axis=(1, 2))


@functools.cache
def network(layers: int = 2) -> tuple[Network, Any, Dataset]:
    """`model`, or `pooled` where one layer is enough."""
    rng = np.random.default_rng(0)
    channels, classes = (2, 3) if layers == 2 else (6, 6)
    shapes = {"kernel": (3, 3, channels // 2, 6), "dense": (54, 3)}
    params = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in list(shapes.items())[:layers]
    }
    images = [rng.normal(size=(20, 6, 6, channels)).astype(np.float32) for _ in range(4)]
    labels = [np.arange(20, dtype=np.int32) % classes] * 4
    parts = (part for pair in zip(images, labels, strict=True) for part in pair)
    apply_fn = model if layers == 2 else pooled
    captured = apq_jax.capture(apply_fn, params, images[0][:2])
    return captured, params, Dataset("noise", classes, *parts)
