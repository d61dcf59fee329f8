"""Scores and ranks of column-vectors, and the masks that follow.

The matrix [γ, R, C] is cut into G row groups of `height` rows, the last one padded; a
column-vector is one column of one row group: `height` x 1 weights that live or die together.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

Score = Literal["l2", "l1", "activation", "obs"]
SCORES: tuple[str, ...] = get_args(Score)


def row_groups(w: jax.Array, height: int) -> jax.Array:
    """[γ, R, C] to [γ, G, h, C], padded with zeros."""
    groups, rows, columns = w.shape
    count = -(-rows // height)
    padded = jnp.pad(w, ((0, 0), (0, count * height - rows), (0, 0)))
    return padded.reshape(groups, count, height, columns)


def row_mask(mask: jax.Array, height: int, rows: int) -> jax.Array:
    """Mask of column-vectors [..., G, C] to mask of weights [..., R, C]."""
    return jnp.repeat(mask, height, axis=-2)[..., :rows, :]


def diagonal_blocks(matrix: jax.Array, height: int) -> jax.Array:
    """The h x h blocks on the diagonal, [γ, R, R] to [γ, G, h, h]; padded with an identity."""
    groups, rows, _ = matrix.shape
    count = -(-rows // height)
    extra = count * height - rows
    padded = jnp.pad(matrix, ((0, 0), (0, extra), (0, extra)))
    padded = padded + jnp.diag(jnp.arange(count * height) >= rows)
    blocks = padded.reshape(groups, count, height, count, height)
    return jnp.moveaxis(jnp.diagonal(blocks, axis1=1, axis2=3), -1, 1)


def vector_scores(w: jax.Array, metric: jax.Array, kind: Score, height: int) -> jax.Array:
    """How much each column-vector matters; the least goes first.

    Args:
      w: [γ, R, C].
      metric: what `score_metric` gave for this kind.
      kind: `l2`, `l1` norm of the weights; `activation`, the norm of the weights times the root
        mean square of their inputs (Wanda, Sun et al., ICLR 2024, summed over a vector); `obs`,
        the loss increase wᵀ [(H⁻¹)_gg]⁻¹ w of removing the vector and letting the others adjust
        (Optimal Brain Surgeon, Hassibi and Stork, NIPS 1992, for a block).
      height: rows of an operation unit.

    Returns:
      [γ, G, C] float32, not negative.
    """
    groups = row_groups(w, height)
    if kind == "l1":
        return jnp.abs(groups).sum(axis=2)
    return jnp.einsum("ngic,ngij,ngjc->ngc", groups, metric, groups)


def score_metric(gram: jax.Array, kind: Score, height: int) -> jax.Array:
    """The h x h matrix of each row group that `vector_scores` measures with, [γ, G, h, h].

    Args:
      gram: [γ, R, R], damped so that it can be inverted.
      kind: see `vector_scores`.
      height: rows of an operation unit.
    """
    eye = jnp.eye(gram.shape[-1])
    if kind == "activation":
        return diagonal_blocks(gram * eye, height)
    if kind == "obs":
        return jnp.linalg.inv(diagonal_blocks(jnp.linalg.inv(gram), height))
    return diagonal_blocks(jnp.broadcast_to(eye, gram.shape), height)


def keep_largest(scores: jax.Array, alive: jax.Array, count: jax.Array) -> jax.Array:
    """Mask of the `count` vectors with the largest scores among those still alive.

    Ties go to the vector that comes first in (group, row group, column) order.
    """
    order = jnp.argsort(jnp.where(alive, scores, -jnp.inf).ravel(), descending=True, stable=True)
    rank = jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.size))
    return (rank < count).reshape(scores.shape)
