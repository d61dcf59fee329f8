"""The layer database: compensated weights and survivors of every layer at every keep level.

After it is built, compressing a network to a policy is a gather. The idea is that of Optimal
Brain Compression's databases (Frantar and Alistarh, NeurIPS 2022, arXiv 2208.11580), at the
granularity of the hardware: in blocks, whose shape a scheme decides.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax.compression import pruning, quantization
from apq_jax.compression.calibration import LayerStatistics, Statistics, centred
from apq_jax.compression.options import PlanOptions
from apq_jax.compression.pruning import Block
from apq_jax.types import Policy


class LayerPlan(NamedTuple):
    """One layer at every keep level."""

    weights: jax.Array  # [K, γ, R, C] float32, masked and compensated
    mask: jax.Array  # [K, γ, I, J] bool, surviving blocks; of column-vectors [K, γ, G, C]
    scale: jax.Array  # [K, Q, γ, C] float32, weight scale for Q = 1 to 8 bits
    keep: jax.Array  # [K] float32, survivors over blocks
    error: jax.Array  # [K, Q] float32, output error of pruning and rounding over output variance
    block: Block  # static


Plan = tuple[LayerPlan, ...]  # one a layer


def keep_levels(options: PlanOptions) -> np.ndarray:
    """The nominal keep ratios, [K] float64, falling."""
    return np.geomspace(1.0, options.min_keep, options.levels)


def build_plan(
    weights: tuple[jax.Array, ...],
    statistics: Statistics,
    blocks: tuple[Block, ...],
    options: PlanOptions,
) -> Plan:
    """Prunes and compensates every layer at every level.

    Args:
      weights: [γ, R, C] a layer.
      statistics: from `calibrate`.
      blocks: what lives or dies together, a layer; from `schemes.build_blocks`.
      options: static.
    """
    parts = zip(weights, statistics, blocks, strict=True)
    return tuple(_plan_layer(*part, options) for part in parts)


@jax.jit
def weight_masks(plan: Plan, policy: Policy) -> tuple[jax.Array, ...]:
    """Which weights a policy keeps, [γ, R, C] bool a layer."""
    return tuple(
        pruning.weight_mask(layer.mask[level], layer.block, *layer.weights.shape[2:])
        for layer, level in zip(plan, policy.level, strict=True)
    )


@functools.partial(jax.jit, static_argnames=("block", "options"))
def _plan_layer(
    w: jax.Array, statistics: LayerStatistics, block: Block, options: PlanOptions
) -> LayerPlan:
    groups, rows, columns = w.shape
    shape = groups, *block.count(rows, columns)
    blocks = math.prod(shape)
    counts = np.maximum(np.round(keep_levels(options) * blocks), 1).astype(np.int32)
    target = centred(statistics.gram, statistics.mean) if options.centre else statistics.gram
    diagonal = jnp.diagonal(target, axis1=1, axis2=2)  # [γ, R]
    floor = options.damping * diagonal.mean(axis=1)[:, None] + 1e-12
    hessian = target + floor[:, :, None] * jnp.eye(rows)
    metric = pruning.score_metric(hessian, options.score, block.high)
    power = jnp.einsum("grc,grs,gsc->", w, target, w) + 1e-12
    bits = jnp.arange(1, quantization.MAX_BITS + 1)

    def step(carry: tuple[jax.Array, jax.Array], count: jax.Array) -> tuple[tuple, tuple]:
        previous, alive = carry
        scores = pruning.block_scores(previous, metric, options.score, block)
        mask = pruning.keep_largest(scores, alive, count)
        keep = pruning.weight_mask(mask, block, rows, columns)
        masked = previous * keep

        def refitted() -> tuple[jax.Array, jax.Array]:
            fitted, lost = compensate(w, masked, keep, hessian, options.iterations)
            damped = jnp.sum(floor[:, :, None] * (fitted - w) ** 2)
            return fitted, jnp.maximum(lost.sum() - damped, 0.0)

        def plain() -> tuple[jax.Array, jax.Array]:
            return masked, jnp.einsum("grc,grs,gsc->", masked - w, target, masked - w)

        fitted, lost = lax.cond(options.compensate & (count < blocks), refitted, plain)
        error = lost / power
        fit = jax.vmap(jax.vmap(quantization.fit_weight_scale, (0, 0, 0, None)), (None,) * 3 + (0,))
        scale, rounding = fit(fitted, keep, diagonal + floor, bits)
        return (fitted, mask), (fitted, mask, scale, error + rounding.sum(axis=(1, 2)) / power)

    start = (w, jnp.ones(shape, bool))
    _, at_levels = lax.scan(step, start, jnp.asarray(counts))
    fitted, mask, scale, error = at_levels
    return LayerPlan(fitted, mask, scale, jnp.asarray(counts / blocks, jnp.float32), error, block)


def compensate(
    w: jax.Array, start: jax.Array, keep: jax.Array, hessian: jax.Array, iterations: int
) -> tuple[jax.Array, jax.Array]:
    """Refits the surviving weights so that the layer's output changes least.

    Minimises (v - w)ᵀ H (v - w) over v that is zero outside `keep`, every column at once, by
    conjugate gradients preconditioned with the diagonal of H: H_SS (v_S - w_S) = H_S: (w - v).

    Args:
      w: [γ, R, C], the weights to imitate.
      start: [γ, R, C], where to begin; zero outside `keep`.
      keep: [γ, R, C] bool.
      hessian: [γ, R, R], positive definite.
      iterations: fixed.

    Returns:
      v [γ, R, C], zero outside `keep`, and (v - w)ᵀ H (v - w) of every column, [γ, C].
    """
    inverse = 1.0 / jnp.diagonal(hessian, axis1=1, axis2=2)[:, :, None]

    def dot(a: jax.Array, b: jax.Array) -> jax.Array:
        # On CPUs XLA sums a * b over rows forty times slower.
        return jnp.einsum("grc,grc->gc", a, b)[:, None]

    def ratio(a: jax.Array, b: jax.Array) -> jax.Array:
        # A column that has converged, or has no survivor, stays where it is.
        return jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), 0.0)

    # H (w - v) of all rows, of which those that are kept are to be 0; the others tell the loss.
    gradient = jnp.matmul(hessian, w - start)
    r = keep * gradient
    z = inverse * r

    def step(_: int, carry: tuple) -> tuple:
        v, g, p, rz = carry
        hp = jnp.matmul(hessian, p)
        alpha = ratio(rz, dot(p, hp))
        v, g = v + alpha * p, g - alpha * hp
        r = keep * g
        z = inverse * r
        rz_new = dot(r, z)
        return v, g, z + ratio(rz_new, rz) * p, rz_new

    v, gradient, *_ = lax.fori_loop(0, iterations, step, (start, gradient, z, dot(r, z)))
    return v, dot(w - v, gradient)[:, 0]
