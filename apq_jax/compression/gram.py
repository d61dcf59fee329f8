"""Computes the Gram matrix of a layer's windows; a wide matrix by blocks, without the padding.

A matrix of more than WIDE rows is cut into pieces of whole taps, or of parts of one wide tap. A
block is the product of two pieces. Upper blocks are copied from lower ones. A window is left out of
a block if one of the block's two pieces lies wholly in the padding. With a piece a tap, a 3 x 3
kernel with zero padding then takes 30 % of the multiplications over 4 x 4 positions, and 12 % over
2 x 2.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

WIDE = 1152  # a matrix with more rows is cut
PIECE = 512  # most rows of a piece


def compute_gram_blocks(windows: jax.Array, inside: np.ndarray) -> tuple[jax.Array, ...]:
    """Computes the lower blocks of Σ x xᵀ over windows x, block row after block row.

    Args:
      windows: [γ, M, R]; the R rows are T equal parts, one a tap.
      inside: [M, T] bool, on the host: taps in the image; the others are all zeros. Used only if R
        is more than WIDE.

    Returns:
      Block (i, j), j ≤ i: [γ, rows of piece i, rows of piece j].
    """
    pieces = _cut_rows(windows.shape[2], inside)
    return tuple(_multiply(windows, a, b) for i, a in enumerate(pieces) for b in pieces[: i + 1])


def join_gram_blocks(blocks: tuple[jax.Array, ...]) -> jax.Array:
    """Joins the lower blocks to the whole symmetric matrix, [γ, R, R]."""
    order = range(math.isqrt(2 * len(blocks)))  # n block rows have n (n + 1) / 2 lower blocks
    below = dict(zip(((i, j) for i in order for j in order[: i + 1]), blocks, strict=True))
    return jnp.block(
        [[below[i, j] if j <= i else below[j, i].swapaxes(1, 2) for j in order] for i in order]
    )


_Piece = tuple[slice, np.ndarray]  # rows; [M] bool, windows in which any of them is in the image


def _cut_rows(rows: int, inside: np.ndarray) -> list[_Piece]:
    """Cuts the rows of a wide matrix into pieces; a narrow matrix is one piece."""
    taps = inside.shape[1]
    if rows <= WIDE:
        return [(slice(0, rows), np.ones(len(inside), bool))]
    tap = rows // taps
    step = max(PIECE // tap, 1)  # taps of a piece
    pieces: list[_Piece] = []
    for first in range(0, taps, step):
        end = min(first + step, taps)
        visible = np.any(inside[:, first:end], axis=1)
        starts = range(first * tap, end * tap, PIECE)  # one, unless a tap alone is too wide
        pieces += [(slice(start, min(start + PIECE, end * tap)), visible) for start in starts]
    return pieces


def _multiply(windows: jax.Array, a: _Piece, b: _Piece) -> jax.Array:
    """Computes a block, [γ, rows of a, rows of b], over the windows that both pieces see."""
    left, right = windows[:, :, a[0]], windows[:, :, b[0]]
    both = a[1] & b[1]
    if not both.all():
        chosen = np.flatnonzero(both)
        left, right = left[:, chosen], right[:, chosen]
    return jnp.einsum("gmr,gms->grs", left, right)
