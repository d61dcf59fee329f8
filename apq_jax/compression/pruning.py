"""Scores blocks of weights for pruning, and masks the blocks with the lowest scores.

A matrix [γ, R, C] is cut into blocks of `high` rows x `wide` columns, the last ones padded. A block
is kept or pruned as a whole; apq_jax/mapping/scheme_counts.py sets each scheme's block. A
column-vector is a block of h x 1: one column of one row group, the h rows of an operation unit.

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
    """The shape of the weights that are kept or pruned together. Static."""

    high: int  # rows
    wide: int = 1  # columns

    def count(self, rows: int, columns: int) -> tuple[int, int]:
        """Counts the blocks of a matrix, (I, J)."""
        return -(-rows // self.high), -(-columns // self.wide)


def cut_into_blocks(w: np.ndarray, block: Block) -> np.ndarray:
    """Cuts [γ, R, C] into blocks [γ, I, high, J, wide], padded with zeros; on the host."""
    groups, rows, columns = w.shape
    down, across = block.count(rows, columns)
    padding = ((0, 0), (0, down * block.high - rows), (0, across * block.wide - columns))
    return np.pad(w, padding).reshape(groups, down, block.high, across, block.wide)


def split_row_groups(w: jax.Array, height: int) -> jax.Array:
    """Splits [γ, R, C] into row groups [γ, G, h, C], padded with zeros."""
    groups, rows, columns = w.shape
    count = -(-rows // height)
    padded = jnp.pad(w, ((0, 0), (0, count * height - rows), (0, 0)))
    return padded.reshape(groups, count, height, columns)


def expand_mask(mask: Array, block: Block, rows: int, columns: int) -> Array:
    """Expands a mask of blocks [..., I, J] to weights [..., R, C]; on the host or traced."""
    strips = mask.repeat(block.high, axis=-2)[..., :rows, :]
    return strips.repeat(block.wide, axis=-1)[..., :columns]


def extract_diagonal_blocks(matrix: jax.Array, height: int) -> jax.Array:
    """Extracts the h x h blocks on the diagonal of [γ, R, R], identity-padded: [γ, G, h, h]."""
    groups, rows, _ = matrix.shape
    count = -(-rows // height)
    extra = count * height - rows
    padded = jnp.pad(matrix, ((0, 0), (0, extra), (0, extra)))
    padded = padded + jnp.diag(jnp.arange(count * height) >= rows)
    blocks = padded.reshape(groups, count, height, count, height)
    return jnp.moveaxis(jnp.diagonal(blocks, axis1=1, axis2=3), -1, 1)


def score_blocks(w: jax.Array, matrices: jax.Array, kind: Score, block: Block) -> jax.Array:
    """Scores how much each block matters; blocks with low scores are pruned first.

    A block's score is the sum of its columns' scores, because the loss is a sum over columns.

    Args:
      w: [γ, R, C].
      matrices: from `compute_score_matrices` for the same kind.
      kind: `l1`, the sum of the weights' magnitudes; `l2`, the sum of their squares; `activation`,
        the sum of the squares times their inputs' mean squares (Wanda, Sun et al., ICLR 2024);
        `obs`, the loss increase wᵀ [(H⁻¹)_gg]⁻¹ w when a column's part is removed and its other
        weights adjust (Optimal Brain Surgeon, Hassibi and Stork, NIPS 1992, for a block).
      block: static.

    Returns:
      [γ, I, J] float32, not negative.
    """
    parts = split_row_groups(w, block.high)  # [γ, I, high, C]
    if kind == "l1":
        scores = jnp.abs(parts).sum(axis=2)
    else:
        scores = jnp.einsum("ngic,ngij,ngjc->ngc", parts, matrices, parts)
    groups, down, columns = scores.shape
    _, across = block.count(w.shape[1], columns)
    padded = jnp.pad(scores, ((0, 0), (0, 0), (0, across * block.wide - columns)))
    return padded.reshape(groups, down, across, block.wide).sum(axis=3)


def compute_score_matrices(gram: jax.Array, kind: Score, height: int) -> jax.Array:
    """Computes the matrices M of the scores wᵀ M w, one for each block's rows: [γ, I, high, high].

    Args:
      gram: [γ, R, R], damped so that it can be inverted.
      kind: as in `score_blocks`; `l1` does not use the result.
      height: rows of a block.
    """
    eye = jnp.eye(gram.shape[-1])
    if kind == "activation":
        return extract_diagonal_blocks(gram * eye, height)
    if kind == "obs" and height < gram.shape[-1]:
        return jnp.linalg.inv(extract_diagonal_blocks(jnp.linalg.inv(gram), height))
    # A block of a whole column leaves no weights that could adjust.
    matrix = gram if kind == "obs" else jnp.broadcast_to(eye, gram.shape)
    return extract_diagonal_blocks(matrix, height)


def keep_largest(scores: jax.Array, alive: jax.Array, count: jax.Array) -> jax.Array:
    """Returns the mask of the `count` blocks with the largest scores, of the blocks `alive`.

    Ties go to the block that comes first in (group, row, column) order.

    Args:
      scores: [γ, I, J].
      alive: [γ, I, J] bool, at least `count` True.
      count: [] int32.

    Returns:
      [γ, I, J] bool.
    """
    order = jnp.argsort(jnp.where(alive, scores, -jnp.inf).ravel(), descending=True, stable=True)
    rank = jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.size))
    return (rank < count).reshape(scores.shape)
