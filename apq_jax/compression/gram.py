"""The Gram matrix of a layer's windows: of wide ones half is copied, and padding is left out.

Rows of a wide matrix are cut into pieces, of whole taps where taps are narrow. A block is the
product of two pieces, over those windows in which both see anything of the image: with 3 x 3 taps
and zeros around, over 4 x 4 positions 30 % of the multiplications are left, over 2 x 2 12 %.
"""

import jax
import jax.numpy as jnp
import numpy as np

WIDE = 1152  # a matrix of more rows is cut
PIECE = 512  # rows of a piece, at most


def gram_blocks(windows: jax.Array, inside: np.ndarray) -> tuple[jax.Array, ...]:
    """Σ x xᵀ in its lower blocks, [γ, rows of a piece, rows of another], row after row.

    Args:
      windows: [γ, M, R], whose R rows are T equal parts, one a tap.
      inside: [M, T] bool, on the host; a tap that is not is all zeros.
    """
    pieces = _pieces(windows.shape[2], inside)
    return tuple(_product(windows, a, b) for i, a in enumerate(pieces) for b in pieces[: i + 1])


def whole_gram(blocks: tuple[jax.Array, ...]) -> jax.Array:
    """The matrix of these blocks, [γ, R, R]."""
    below: dict[tuple[int, int], jax.Array] = {}
    row = 0
    while len(below) < len(blocks):
        start = len(below)
        below |= {(row, at): blocks[start + at] for at in range(row + 1)}
        row += 1
    order = range(row)
    return jnp.block(
        [[below[i, j] if j <= i else below[j, i].swapaxes(1, 2) for j in order] for i in order]
    )


_Piece = tuple[slice, np.ndarray]  # rows; [M] bool, windows in which these see anything


def _pieces(rows: int, inside: np.ndarray) -> list[_Piece]:
    taps = inside.shape[1]
    if rows <= WIDE:
        return [(slice(0, rows), np.ones(len(inside), bool))]
    tap = rows // taps
    some = max(PIECE // tap, 1)  # taps of a piece
    pieces: list[_Piece] = []
    for at in range(0, taps, some):
        end = min(at + some, taps)
        seen = np.any(inside[:, at:end], axis=1)
        starts = range(at * tap, end * tap, PIECE)  # one, unless a tap alone is too wide
        pieces += [(slice(start, min(start + PIECE, end * tap)), seen) for start in starts]
    return pieces


def _product(windows: jax.Array, a: _Piece, b: _Piece) -> jax.Array:
    left, right = windows[:, :, a[0]], windows[:, :, b[0]]
    both = a[1] & b[1]
    if not both.all():
        at = np.flatnonzero(both)
        left, right = left[:, at], right[:, at]
    return jnp.einsum("gmr,gms->grs", left, right)
