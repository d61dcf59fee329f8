"""Builds the Plan: compensated weights and survivors of every layer at every keep level.

With a Plan, compressing a network to a policy is a gather. The Plan follows the databases of
Optimal Brain Compression (Frantar and Alistarh, NeurIPS 2022, arXiv 2208.11580), but prunes blocks
whose shape a scheme decides, because the hardware gains nothing from single weights.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax.compression import pruning, quantization, rounding
from apq_jax.compression.calibration import LayerStatistics, Statistics, compute_covariance
from apq_jax.compression.options import PlanOptions
from apq_jax.compression.pruning import Block
from apq_jax.types import Policy


class LayerPlan(NamedTuple):
    """A layer at every keep level."""

    weights: jax.Array  # [K, γ, R, C] float32, masked and compensated
    levels: jax.Array  # [K, 4, γ, R, C] int8, rounded to 1 to 4 bits; with more, weights are
    mask: jax.Array  # [K, γ, I, J] bool, surviving blocks; [K, γ, G, C] for column-vectors
    scale: jax.Array  # [K, Q, γ, C] float32, weight scale for Q = 1 to 8 bits
    keep: jax.Array  # [K] float32, surviving share of the blocks
    error: jax.Array  # [K, Q] float32, output error of pruning and rounding, over output variance
    block: Block  # static


Plan = tuple[LayerPlan, ...]  # one a layer


def compute_keep_ratios(options: PlanOptions) -> np.ndarray:
    """Computes the nominal keep ratios, [K] float64, falling."""
    return np.geomspace(1.0, options.min_keep, options.levels)


def build_plan(
    weights: tuple[jax.Array, ...],
    statistics: Statistics,
    blocks: tuple[Block, ...],
    options: PlanOptions,
) -> Plan:
    """Prunes and compensates every layer at every keep level.

    Args:
      weights: [γ, R, C] a layer.
      statistics: from `calibrate`.
      blocks: each layer's block, from `schemes.build_blocks`.
      options: static.
    """
    parts = zip(weights, statistics, blocks, strict=True)
    return tuple(_plan_layer(*part, options) for part in parts)


@jax.jit
def expand_weight_masks(plan: Plan, policy: Policy) -> tuple[jax.Array, ...]:
    """Expands a policy's masks of blocks to masks of weights, [γ, R, C] bool a layer."""
    return tuple(
        pruning.expand_mask(layer.mask[level], layer.block, *layer.weights.shape[2:])
        for layer, level in zip(plan, policy.level, strict=True)
    )


@functools.partial(jax.jit, static_argnames=("block", "options"))
def _plan_layer(
    w: jax.Array, statistics: LayerStatistics, block: Block, options: PlanOptions
) -> LayerPlan:
    """Prunes a layer level by level; each level starts from the weights of the one before."""
    groups, rows, columns = w.shape
    shape = groups, *block.count(rows, columns)
    blocks = math.prod(shape)
    counts = np.maximum(np.round(compute_keep_ratios(options) * blocks), 1).astype(np.int32)
    gram, mean = statistics.gram, statistics.mean
    target = compute_covariance(gram, mean) if options.centre else gram
    diagonal = jnp.diagonal(target, axis1=1, axis2=2)  # [γ, R]
    floor = options.damping * diagonal.mean(axis=1)[:, None] + 1e-12
    hessian = target + floor[:, :, None] * jnp.eye(rows)
    score_matrices = pruning.compute_score_matrices(hessian, options.score, block.high)
    variance = jnp.einsum("grc,grs,gsc->", w, target, w) + 1e-12
    bits = jnp.arange(1, quantization.MAX_BITS + 1)

    def step(carry: tuple[jax.Array, jax.Array], count: jax.Array) -> tuple[tuple, tuple]:
        previous, alive = carry
        scores = pruning.score_blocks(previous, score_matrices, options.score, block)
        mask = pruning.keep_largest(scores, alive, count)
        keep = pruning.expand_mask(mask, block, rows, columns)
        masked = previous * keep

        def refit() -> tuple[jax.Array, jax.Array]:
            fitted, losses = compensate(w, masked, keep, hessian, options.iterations)
            damped = jnp.sum(floor[:, :, None] * (fitted - w) ** 2)
            return fitted, jnp.maximum(losses.sum() - damped, 0.0)

        def leave() -> tuple[jax.Array, jax.Array]:
            return masked, jnp.einsum("grc,grs,gsc->", masked - w, target, masked - w)

        fitted, loss = lax.cond(options.compensate & (count < blocks), refit, leave)
        fit = jax.vmap(jax.vmap(quantization.fit_weight_scale, (0, 0, 0, None)), (None,) * 3 + (0,))
        scale, independent = fit(fitted, keep, diagonal + floor, bits)
        error = loss + independent.sum(axis=(1, 2))
        few = slice(rounding.MAX_BITS)
        rounded = rounding.round_weights(
            w, fitted, keep, scale[few].swapaxes(0, 1), hessian, bits[few], options.sweeps
        )
        levels, few_scales = (x.swapaxes(0, 1) for x in rounded[:2])
        change = few_scales[..., None, :] * levels - w
        damped = jnp.einsum("gr,ngrc->n", jnp.broadcast_to(floor, w.shape[:2]), change**2)
        exact = jnp.maximum(rounded.loss.sum(axis=(0, 2)) - damped, 0.0)
        scale, error = scale.at[few].set(few_scales), error.at[few].set(exact)
        return (fitted, mask), (fitted, levels.astype(jnp.int8), mask, scale, error / variance)

    start = (w, jnp.ones(shape, bool))
    _, (fitted, levels, mask, scale, error) = lax.scan(step, start, jnp.asarray(counts))
    ratios = jnp.asarray(counts / blocks, jnp.float32)
    return LayerPlan(fitted, levels, mask, scale, ratios, error, block)


def compensate(
    w: jax.Array, start: jax.Array, keep: jax.Array, hessian: jax.Array, iterations: int
) -> tuple[jax.Array, jax.Array]:
    """Refits the surviving weights so that the layer's output changes least.

    Minimises (v - w)ᵀ H (v - w) over v that is zero outside `keep`, for all columns at once.
    Conjugate gradients, preconditioned with the diagonal of H, solve (H (w - v))_S = 0 over the
    survivors S of a column.

    Args:
      w: [γ, R, C], the weights before pruning.
      start: [γ, R, C], the first v; zero outside `keep`.
      keep: [γ, R, C] bool.
      hessian: [γ, R, R], positive definite.
      iterations: number of conjugate-gradient steps.

    Returns:
      v [γ, R, C], zero outside `keep`, and (v - w)ᵀ H (v - w) of every column, [γ, C].
    """
    inverse = 1.0 / jnp.diagonal(hessian, axis1=1, axis2=2)[:, :, None]

    def dot(a: jax.Array, b: jax.Array) -> jax.Array:
        # An einsum, because XLA sums a * b over rows forty times slower on CPUs.
        return jnp.einsum("grc,grc->gc", a, b)[:, None]

    def ratio(a: jax.Array, b: jax.Array) -> jax.Array:
        # A column that has converged or has no survivor does not move.
        return jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), 0.0)

    # H (w - v) of all rows; survivors' rows shall become 0, and the other rows give the loss.
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
