"""Column-vectors: row groups, scores and masks against plain arithmetic."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from apq_jax.compression import pruning
from apq_jax.compression.pruning import Block

# Two row groups of height 2, the second with one row; two columns.
W = jnp.asarray([[[3.0, -1.0], [-4.0, 2.0], [5.0, -6.0]]])


def test_row_groups_pad_the_last() -> None:
    groups = pruning.split_row_groups(W, 2)
    assert groups.shape == (1, 2, 2, 2)
    np.testing.assert_array_equal(groups[0, 0], [[3, -1], [-4, 2]])
    np.testing.assert_array_equal(groups[0, 1], [[5, -6], [0, 0]])


@pytest.mark.parametrize("xp", [np, jnp])
def test_weight_mask_repeats_and_cuts(xp: Any) -> None:
    mask = xp.asarray([[[True, False], [False, True]]])
    np.testing.assert_array_equal(
        pruning.expand_mask(mask, Block(2), 3, 2), [[[True, False], [True, False], [False, True]]]
    )
    wide = [[[True, True, False], [True, True, False], [False, False, True]]]
    np.testing.assert_array_equal(pruning.expand_mask(mask, Block(2, 2), 3, 3), wide)


def test_diagonal_blocks() -> None:
    blocks = pruning.extract_diagonal_blocks(jnp.arange(1.0, 10.0).reshape(1, 3, 3), 2)
    np.testing.assert_array_equal(blocks, [[[[1, 2], [4, 5]], [[9, 0], [0, 1]]]])


@pytest.mark.parametrize(
    ("kind", "scores"),
    [
        ("l1", [[7, 3], [5, 6]]),
        ("l2", [[25, 5], [25, 36]]),  # squared norms: 9 + 16, 1 + 4
        ("activation", [[9 * 4 + 16 * 1, 4 + 4], [25 * 9, 36 * 9]]),  # mean squares 4, 1, 9
    ],
)
def test_scores_by_hand(kind: Any, scores: list[list[int]]) -> None:
    gram = jnp.asarray([[[4.0, 1.0, 2.0], [1.0, 1.0, 0.5], [2.0, 0.5, 9.0]]])
    metric = pruning.compute_score_matrices(gram, kind, 2)
    np.testing.assert_allclose(pruning.score_blocks(W, metric, kind, Block(2)), [scores])


@pytest.mark.parametrize("block", [Block(3), Block(7), Block(8), Block(2, 2), Block(1, 3)], ids=str)
def test_obs_is_the_loss_of_removing_a_block_while_the_others_adjust(block: Block) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 40, 7)) @ rng.normal(size=(2, 7, 7))  # correlated inputs, two groups
    w = rng.normal(size=(2, 7, 3))
    gram = np.einsum("gmr,gms->grs", x, x) / 40
    metric = pruning.compute_score_matrices(jnp.asarray(gram, jnp.float32), "obs", block.high)
    scores = pruning.score_blocks(jnp.asarray(w, jnp.float32), metric, "obs", block)
    expected = np.zeros((2, *block.count(7, 3)))
    assert scores.shape == expected.shape
    for group, down, column in np.ndindex(*expected.shape[:2], 3):
        left = [row for row in range(7) if row // block.high != down]
        target = x[group] @ w[group, :, column]
        fitted, *_ = np.linalg.lstsq(x[group][:, left], target, rcond=None)
        loss = np.mean((x[group][:, left] @ fitted - target) ** 2)
        expected[group, down, column // block.wide] += loss
    np.testing.assert_allclose(scores, expected, rtol=1e-3)


@pytest.mark.parametrize("kind", pruning.SCORES)
def test_a_block_one_column_wide_is_scored_as_its_column_bit_for_bit(kind: Any) -> None:
    rng = np.random.default_rng(1)
    w, x = rng.normal(size=(2, 8, 5)), rng.normal(size=(2, 30, 8))
    w, gram = (jnp.asarray(a, jnp.float32) for a in (w, np.einsum("gmr,gms->grs", x, x)))
    metric, parts = pruning.compute_score_matrices(gram, kind, 3), pruning.split_row_groups(w, 3)
    expected = jnp.einsum("ngic,ngij,ngjc->ngc", parts, metric, parts)
    expected = jnp.abs(parts).sum(axis=2) if kind == "l1" else expected
    np.testing.assert_array_equal(pruning.score_blocks(w, metric, kind, Block(3)), expected)


def test_keep_largest_takes_the_first_of_equals() -> None:
    scores = jnp.asarray([[[2.0, 5.0], [5.0, 2.0]], [[2.0, 0.0], [0.0, 2.0]]])
    alive = jnp.ones(scores.shape, bool)
    mask = pruning.keep_largest(scores, alive, jnp.asarray(4))
    np.testing.assert_array_equal(
        mask, [[[True, True], [True, True]], [[False, False], [False, False]]]
    )
    mask = pruning.keep_largest(scores, alive, jnp.asarray(5))
    assert mask[1, 0, 0]
    assert mask.sum() == 5


def test_keep_largest_never_revives() -> None:
    scores, alive = jnp.asarray([[[0.0, 9.0, 8.0]]]), jnp.asarray([[[True, False, True]]])
    mask = pruning.keep_largest(scores, alive, jnp.asarray(2))
    np.testing.assert_array_equal(mask, [[[True, False, True]]])


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(
    st.lists(st.integers(0, 5), min_size=12, max_size=12),
    st.lists(st.integers(0, 5), min_size=12, max_size=12),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_masks_nest(first: list[int], second: list[int], count: int, other_count: int) -> None:
    """With other scores at the second level too."""
    more, fewer = max(count, other_count), min(count, other_count)
    shape, alive = (2, 2, 3), jnp.ones((2, 2, 3), bool)
    a = pruning.keep_largest(jnp.asarray(first, float).reshape(shape), alive, jnp.asarray(more))
    b = pruning.keep_largest(jnp.asarray(second, float).reshape(shape), a, jnp.asarray(fewer))
    assert (a.sum(), b.sum()) == (more, fewer)
    assert not (b & ~a).any()
    kept, gone = np.asarray(first)[np.asarray(a).ravel()], np.asarray(first)[~np.asarray(a).ravel()]
    assert kept.min() >= gone.max(initial=0)
