"""A weight that the model uses several times: its statistics and its matched moments."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers.case import CELLS, RECOVERY

from apq_jax.compression.calibration import Statistics, calibrate, match_images
from apq_jax.compression.compressed import Compressed, apply, compress
from apq_jax.compression.options import PlanOptions
from apq_jax.compression.plan import build_plan
from apq_jax.compression.pruning import Block
from apq_jax.network.capture import Network, capture, extract_matrices
from apq_jax.types import Policy

PARAMS = {
    name: jnp.asarray(np.random.default_rng(0).normal(0, 0.5, shape), jnp.float32)
    for name, shape in {"rows": (4, 6), "state": (6, 6), "logits": (6, 3)}.items()
}
IMAGES = np.random.default_rng(1).normal(0.5, 1, (60, 5, 4)).astype(np.float32)
IMAGES[:, 0] = 0  # the first row is blank


def compress_dense(
    apply_fn: Callable[[Any, jax.Array], jax.Array],
) -> tuple[Network, Statistics, Compressed]:
    """Eight bits, nothing pruned, moments matched on all images."""
    network, images = capture(apply_fn, PARAMS, IMAGES[:2]), jnp.asarray(IMAGES)
    weights = extract_matrices(network, PARAMS)
    statistics = calibrate(network, PARAMS, weights, images)
    statistics = match_images(network, PARAMS, weights, statistics, images)
    count = len(network.layers)
    plan = build_plan(weights, statistics, (Block(4),) * count, PlanOptions(levels=2))
    policy = Policy(jnp.zeros(count, int), jnp.full(count, 8), jnp.full(count, 8))
    arguments = (PARAMS, plan, statistics, images, CELLS, RECOVERY, policy)
    return network, statistics, jax.jit(compress, static_argnums=(0, 5, 6))(network, *arguments)


def test_uses_count_by_their_positions() -> None:
    """Two uses, of one position and of four, are the same as one use of all five."""

    def together(params: Any, x: jax.Array) -> jax.Array:
        return jnp.maximum(x @ params["rows"], 0).sum(axis=1) @ params["logits"]

    def apart(params: Any, x: jax.Array) -> jax.Array:
        parts = [x[:, :1] @ params["rows"], x[:, 1:] @ params["rows"]]
        return jnp.maximum(jnp.concatenate(parts, axis=1), 0).sum(axis=1) @ params["logits"]

    (_, whole, matched), (_, pooled, also) = (compress_dense(f) for f in (together, apart))
    first = IMAGES.reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(pooled[0].gram[0], first.T @ first / len(first), rtol=1e-5)
    outputs = first @ np.asarray(PARAMS["rows"])
    np.testing.assert_allclose(pooled[0].output_mean[0], outputs.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(pooled[0].output_deviation[0], outputs.std(axis=0), rtol=1e-5)
    for expected, layer in zip(whole, pooled, strict=True):
        for name in ("gram", "mean", "output_mean", "output_deviation"):
            np.testing.assert_allclose(
                getattr(layer, name), getattr(expected, name), rtol=1e-4, atol=1e-5
            )
    for expected, layer in zip(matched, also, strict=True):
        np.testing.assert_allclose(layer.multiplier, expected.multiplier, rtol=0.02)
        np.testing.assert_allclose(layer.offset, expected.offset, atol=0.05)


def test_a_recurrent_cell_keeps_its_classes() -> None:
    """Unrolled over the rows, of which the first is blank: a constant in the first use alone."""

    def unrolled(params: Any, x: jax.Array) -> jax.Array:
        state = jnp.zeros((len(x), 6))
        for row in range(x.shape[1]):
            state = jnp.tanh(x[:, row] @ params["rows"] + state @ params["state"])
        return state @ params["logits"]

    network, _, compressed = compress_dense(unrolled)
    logits = unrolled(PARAMS, jnp.asarray(IMAGES))
    ours = jax.jit(apply, static_argnums=0)(network, PARAMS, compressed, jnp.asarray(IMAGES))
    assert np.mean(logits.argmax(axis=1) == ours.argmax(axis=1)) > 0.95
    np.testing.assert_allclose(ours, logits, atol=0.1)
