"""Rounds a layer's weights to whole levels that change the layer's output least.

A column's output changes by (s v - w)ᵀ H (s v - w) in the mean square: v are the levels, s the
scale, w the float weights, H the covariance of the inputs. Rounding each weight to its nearest
level ignores what the errors of the others do to the same output. Coordinate descent starts there
and sets one level after the other to the best, given all others, so it never gets worse. CDQuant
does the same (Nair and Suggala, arXiv 2406.17542); GPTQ (2210.17323) and AdaRound (2004.10568)
solve the same problem.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from apq_jax.compression import quantization

MAX_BITS = 4  # with more bits descent gains nothing over the nearest level
_ROWS = 32  # of a block: within it one after the other, behind it in one product


class Rounded(NamedTuple):
    """Levels and scales of one group for N numbers of bits."""

    levels: jax.Array  # [N, R, C] float32, whole numbers
    scale: jax.Array  # [N, C] float32, positive
    loss: jax.Array  # [N, C] float32, (s v - w)ᵀ H (s v - w)


class _State(NamedTuple):
    """The state between two blocks; all widths' columns stand side by side, [.., N C]."""

    levels: jax.Array  # [R, N C]
    gradient: jax.Array  # [R, N C], H (s v - w)


@functools.partial(jax.vmap, in_axes=(0, 0, 0, 0, 0, None, None))
def round_weights(
    w: jax.Array,
    fitted: jax.Array,
    keep: jax.Array,
    scale: jax.Array,
    hessian: jax.Array,
    bits: jax.Array,
    sweeps: int,
) -> Rounded:
    """Rounds the γ groups of a layer, each for N numbers of bits.

    Starts from the nearest levels to `fitted`, sweeps over all rows, sets every column's scale to
    its best, and sweeps again.

    Args:
      w: [γ, R, C], the weights before pruning.
      fitted: [γ, R, C], the compensated weights.
      keep: [γ, R, C] bool; a pruned weight keeps level 0.
      scale: [γ, N, C] positive, the first scales.
      hessian: [γ, R, R], positive definite.
      bits: [N] int32.
      sweeps: before and after the scale is set, static; 0 leaves the nearest levels.

    Returns:
      [γ, ...] fields.
    """
    count, (rows, columns) = len(bits), w.shape
    nearest = jax.vmap(quantization.quantize_weight, (None, None, 0, 0))(fitted, keep, scale, bits)

    def join(x: jax.Array) -> jax.Array:  # [N, R, C] to [R, N C]
        return x.swapaxes(0, 1).reshape(x.shape[1], -1)

    limit = jnp.repeat(quantization.get_max_weight_level(bits), columns)
    is_sign = jnp.repeat(bits == 1, columns)
    wanted = jnp.tile(w, (1, count))
    mask = jnp.tile(keep, (1, count))
    levels, s = join(nearest), scale.reshape(-1)

    def project(x: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns the nearest levels to x, in levels."""
        rounded = jnp.clip(jnp.round(x), -limit, limit)
        return jnp.where(mask, jnp.where(is_sign, jnp.where(x < 0, -1.0, 1.0), rounded), 0.0)

    height = min(_ROWS, rows)
    blocks = -(-rows // height)
    whole = blocks * height
    h = jnp.pad(hessian, ((0, whole - rows),) * 2)
    # Rows behind the last are pruned, and have a curvature by which one can divide.
    h = h + jnp.diag(jnp.where(jnp.arange(whole) < rows, 0.0, 1.0))
    levels, wanted, mask = (jnp.pad(x, ((0, whole - rows), (0, 0))) for x in (levels, wanted, mask))
    target = jnp.matmul(h, wanted)

    def sweep_block(index: jax.Array, both: tuple[_State, jax.Array]) -> tuple[_State, jax.Array]:
        (levels, gradient), s = both
        start = index * height
        across = lax.dynamic_slice_in_dim(h, start, height, axis=1)  # [R, B]
        inside = lax.dynamic_slice_in_dim(across, start, height)  # [B, B]
        before, kept, pull = (
            lax.dynamic_slice_in_dim(x, start, height) for x in (levels, mask, gradient)
        )

        def set_row(row: jax.Array, both: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
            levels, pull = both
            best = project(levels[row] - pull[row] / (inside[row, row] * s), kept[row])
            pull += inside[:, row, None] * (s * (best - levels[row]))
            return levels.at[row].set(best), pull

        after, _ = lax.fori_loop(0, height, set_row, (before, pull))
        gradient += jnp.matmul(across, s * (after - before))
        return _State(lax.dynamic_update_slice_in_dim(levels, after, start, axis=0), gradient), s

    def sweep(levels: jax.Array, s: jax.Array) -> _State:
        """Sweeps over all rows `sweeps` times."""
        state = _State(levels, s * jnp.matmul(h, levels) - target)
        state, _ = lax.fori_loop(
            0, sweeps * blocks, lambda i, both: sweep_block(i % blocks, both), (state, s)
        )
        return state

    def dot(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum("rc,rc->c", a, b)

    state = sweep(levels, s)
    if sweeps:
        aligned, square = dot(state.levels, target), dot(state.levels, jnp.matmul(h, state.levels))
        s = jnp.where((aligned > 0) & (square > 0), aligned / jnp.where(square > 0, square, 1), s)
        state = sweep(state.levels, s)
    loss = dot(s * state.levels - wanted, state.gradient)
    return Rounded(
        state.levels[:rows].reshape(rows, count, columns).swapaxes(0, 1),
        s.reshape(count, columns),
        loss.reshape(count, columns),
    )
