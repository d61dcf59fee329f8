"""Gram matrices of windows in pieces, without what lies outside the image."""

import functools

import jax
import numpy as np
import pytest
from jax import lax

from apq_jax.compression import gram
from apq_jax.compression.gram import compute_gram_blocks, join_gram_blocks
from apq_jax.network import products


def convolution(side: int, groups: int, stride: int) -> tuple[products.Product, np.ndarray]:
    """3 x 3 of four channels, and what it is run on."""
    x = np.random.default_rng(side).normal(size=(3, side, side + 1, 4)).astype(np.float32)
    convolve = functools.partial(
        lax.conv_general_dilated,
        window_strides=(stride, stride),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    eqn = jax.make_jaxpr(convolve)(x, np.zeros((3, 3, 4 // groups, 4), np.float32)).eqns[-1]
    return products.build_product(eqn, side=1), x


@pytest.mark.parametrize("side", [1, 2, 4, 5])
@pytest.mark.parametrize("piece", [1, 3, 8, 36])  # of 36 or 18 rows: some of a tap, some taps, all
def test_pieces_give_the_matrix_of_all_rows(
    side: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each side and each piece meets 1 and 2 groups, strides of 1 and 2, and so do those two."""
    mixed = [1, 2, 4, 5].index(side) ^ [1, 3, 8, 36].index(piece)
    groups, stride = 1 + mixed % 2, 1 + mixed // 2
    monkeypatch.setattr(gram, "WIDE", 0)
    monkeypatch.setattr(gram, "PIECE", piece)
    product, x = convolution(side, groups, stride)
    inside = product.mask_taps(x.shape)

    @jax.jit
    def compute(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        windows = product.extract_windows(x)
        blocks = compute_gram_blocks(windows, np.tile(inside, (3, 1)))
        return windows, join_gram_blocks(blocks)

    windows, gram_matrix = map(np.asarray, compute(x))
    taps = windows.reshape(groups, 3, len(inside), 9, -1)
    assert not taps[:, :, ~inside].any()
    assert taps[:, :, inside].all()
    expected = np.einsum("gmr,gms->grs", *[windows.astype(np.float64)] * 2)
    np.testing.assert_allclose(gram_matrix, expected, atol=1e-4)


def test_a_matrix_that_is_not_wide_is_one_block() -> None:
    product, x = convolution(4, 1, 1)
    inside = np.tile(product.mask_taps(x.shape), (3, 1))
    (block,) = jax.eval_shape(lambda x: compute_gram_blocks(product.extract_windows(x), inside), x)
    assert block.shape == (1, 36, 36)


def test_padding_is_not_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2 x 3 positions: opposite taps of the two rows share none, taps of a row do."""
    monkeypatch.setattr(gram, "WIDE", 0)
    monkeypatch.setattr(gram, "PIECE", 4)
    product, x = convolution(2, 1, 1)
    inside = product.mask_taps(x.shape)
    assert inside.sum(axis=0).tolist() == [2, 3, 2, 4, 6, 4, 2, 3, 2]
    both = (inside[:, :, None] & inside[:, None, :]).sum(axis=0)
    jaxpr = jax.make_jaxpr(
        lambda x: compute_gram_blocks(product.extract_windows(x), np.tile(inside, (3, 1)))
    )(x)
    lengths = [
        eqn.invars[0].aval.shape[1] for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"
    ]
    assert lengths == (3 * both[np.tril_indices(9)]).tolist()
    assert lengths.count(0) > 0
