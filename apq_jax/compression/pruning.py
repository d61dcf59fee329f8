"""Scores of the blocks that are pruned, and the masks that follow.

The matrix [γ, R, C] is cut into blocks of `high` rows x `wide` columns, the last ones padded. A
block lives or dies as a whole; apq_jax/mapping/schemes.py says how large each scheme's blocks are.
A column-vector is a block of h x 1: one column of one row group, h rows of an operation unit.

I = ⌈R/high⌉ blocks lie below each other, J = ⌈C/wide⌉ beside each other.
"""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.types import Array

Score = Literal["l2", "l1", "activation", "obs"]
SCORES: tuple[str, ...] = get_args(Score)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Block:
    """The shape of the weights that live or die together. Static."""

    high: int  # rows
    wide: int = 1  # columns

    def count(self, rows: int, columns: int) -> tuple[int, int]:
        """(I, J) of a matrix."""
        return -(-rows // self.high), -(-columns // self.wide)


def cut(w: np.ndarray, block: Block) -> np.ndarray:
    """[γ, R, C] to [γ, I, high, J, wide], padded with zeros; on the host."""
    groups, rows, columns = w.shape
    down, across = block.count(rows, columns)
    padding = ((0, 0), (0, down * block.high - rows), (0, across * block.wide - columns))
    return np.pad(w, padding).reshape(groups, down, block.high, across, block.wide)


def row_groups(w: jax.Array, height: int) -> jax.Array:
    """[γ, R, C] to [γ, G, h, C], padded with zeros."""
    groups, rows, columns = w.shape
    count = -(-rows // height)
    padded = jnp.pad(w, ((0, 0), (0, count * height - rows), (0, 0)))
    return padded.reshape(groups, count, height, columns)


def weight_mask(mask: Array, block: Block, rows: int, columns: int) -> Array:
    """Mask of blocks [..., I, J] to mask of weights [..., R, C]; on the host or traced."""
    strips = mask.repeat(block.high, axis=-2)[..., :rows, :]
    return strips.repeat(block.wide, axis=-1)[..., :columns]


def diagonal_blocks(matrix: jax.Array, height: int) -> jax.Array:
    """The h x h blocks on the diagonal, [γ, R, R] to [γ, G, h, h]; padded with an identity."""
    groups, rows, _ = matrix.shape
    count = -(-rows // height)
    extra = count * height - rows
    padded = jnp.pad(matrix, ((0, 0), (0, extra), (0, extra)))
    padded = padded + jnp.diag(jnp.arange(count * height) >= rows)
    blocks = padded.reshape(groups, count, height, count, height)
    return jnp.moveaxis(jnp.diagonal(blocks, axis1=1, axis2=3), -1, 1)


def block_scores(w: jax.Array, metric: jax.Array, kind: Score, block: Block) -> jax.Array:
    """How much each block matters; the least goes first.

    A block's score is the sum of its columns', for the loss is.

    Args:
      w: [γ, R, C].
      metric: what `score_metric` gave for this kind.
      kind: `l2`, `l1` norm of the weights; `activation`, the norm of the weights times the root
        mean square of their inputs (Wanda, Sun et al., ICLR 2024, summed over a block); `obs`,
        the loss increase wᵀ [(H⁻¹)_gg]⁻¹ w of removing a column's part and letting the others
        adjust (Optimal Brain Surgeon, Hassibi and Stork, NIPS 1992, for a block).
      block: static.

    Returns:
      [γ, I, J] float32, not negative.
    """
    parts = row_groups(w, block.high)  # γ, I, high, C
    if kind == "l1":
        scores = jnp.abs(parts).sum(axis=2)
    else:
        scores = jnp.einsum("ngic,ngij,ngjc->ngc", parts, metric, parts)
    groups, down, columns = scores.shape
    _, across = block.count(w.shape[1], columns)
    padded = jnp.pad(scores, ((0, 0), (0, 0), (0, across * block.wide - columns)))
    return padded.reshape(groups, down, across, block.wide).sum(axis=3)


def score_metric(gram: jax.Array, kind: Score, height: int) -> jax.Array:
    """The matrix of a block's rows that `block_scores` measures with, [γ, I, high, high].

    Args:
      gram: [γ, R, R], damped so that it can be inverted.
      kind: see `block_scores`.
      height: rows of a block.
    """
    eye = jnp.eye(gram.shape[-1])
    if kind == "activation":
        return diagonal_blocks(gram * eye, height)
    if kind == "obs" and height < gram.shape[-1]:
        return jnp.linalg.inv(diagonal_blocks(jnp.linalg.inv(gram), height))
    # Of a whole column nothing is left that could adjust.
    metric = gram if kind == "obs" else jnp.broadcast_to(eye, gram.shape)
    return diagonal_blocks(metric, height)


def keep_largest(scores: jax.Array, alive: jax.Array, count: jax.Array) -> jax.Array:
    """Mask of the `count` blocks with the largest scores among those still alive.

    Ties go to the block that comes first in (group, row, column) order.
    """
    order = jnp.argsort(jnp.where(alive, scores, -jnp.inf).ravel(), descending=True, stable=True)
    rank = jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.size))
    return (rank < count).reshape(scores.shape)
