"""The layer database: nested masks, exact counts, least-squares weights, its errors."""

import dataclasses
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from apq_jax.compression.calibration import LayerStatistics
from apq_jax.compression.options import PlanOptions
from apq_jax.compression.plan import (
    LayerPlan,
    build_plan,
    compensate,
    compute_keep_ratios,
    expand_weight_masks,
)
from apq_jax.compression.pruning import Block
from apq_jax.types import Policy

HEIGHT = 3
BLOCK = Block(HEIGHT)
OPTIONS = PlanOptions(levels=7, min_keep=0.05)


def covariance(rng: np.random.Generator, groups: int, rows: int) -> Any:
    x = rng.normal(size=(groups, 3 * rows + 2, rows)) @ rng.normal(size=(groups, rows, rows))
    return np.einsum("gmr,gms->grs", x, x) / x.shape[1]


def losses(w: Any, v: Any, hessian: Any) -> Any:
    """(v - w)ᵀ H (v - w) of every column, in float64."""
    d = np.asarray(v, np.float64) - np.asarray(w, np.float64)
    return np.einsum("grc,grs,gsc->gc", d, np.asarray(hessian, np.float64), d)


def test_compensation_is_least_squares_on_the_survivors() -> None:
    rng = np.random.default_rng(0)
    hessian = covariance(rng, 2, 6) + 0.1 * np.eye(6)
    w, keep = rng.normal(size=(2, 6, 4)), rng.random((2, 6, 4)) < 0.5
    keep[0, :, 0], keep[0, :, 1] = False, True
    fitted, lost = compensate(*(jnp.asarray(a) for a in (w, w * keep, keep, hessian)), 40)
    root = np.linalg.cholesky(hessian).transpose(0, 2, 1)  # H = rootᵀ root
    for group, column in np.ndindex(2, 4):
        rows = np.flatnonzero(keep[group, :, column])
        expected = np.zeros(6)
        target = root[group] @ w[group, :, column]
        expected[rows] = np.linalg.lstsq(root[group][:, rows], target, rcond=None)[0]
        np.testing.assert_allclose(fitted[group, :, column], expected, atol=2e-4)
    np.testing.assert_array_equal(fitted[0, :, 0], np.zeros(6))
    np.testing.assert_allclose(fitted[0, :, 1], w[0, :, 1], atol=1e-6)
    np.testing.assert_allclose(lost, losses(w, fitted, hessian), atol=1e-5)


def test_one_iteration_by_hand() -> None:
    """H = [[2, 1], [1, 1]], the second weight gone: v1 = w1 + H12 w2 / H11 = 1 + 4 / 2.

    d = v - w = (2, -4), so that 2 * 2² + 2 * 2 * (-4) + 4² = 8 is lost.
    """
    fitted, lost = compensate(
        jnp.asarray([[[1.0], [4.0]]]),
        jnp.asarray([[[1.0], [0.0]]]),
        jnp.asarray([[[True], [False]]]),
        jnp.asarray([[[2.0, 1.0], [1.0, 1.0]]]),
        1,
    )
    np.testing.assert_allclose(fitted, [[[3.0], [0.0]]])
    np.testing.assert_allclose(lost, [[8.0]])


@hypothesis.settings(max_examples=20, deadline=None, derandomize=True)
@hypothesis.given(
    st.integers(0, 10**6),
    st.sampled_from([(1, 2, 1), (1, 5, 3), (2, 4, 2)]),
    st.sampled_from([1, 3, 10]),
)
def test_compensation_never_costs(seed: int, shape: tuple[int, int, int], iterations: int) -> None:
    rng = np.random.default_rng(seed)
    hessian = (covariance(rng, shape[0], shape[1]) + 0.01 * np.eye(shape[1])).astype(np.float32)
    w, keep = rng.normal(size=shape).astype(np.float32), rng.random(shape) < 0.6
    fitted, lost = compensate(*(jnp.asarray(a) for a in (w, w * keep, keep, hessian)), iterations)
    assert (np.asarray(fitted)[~keep] == 0).all()
    power = losses(w, np.zeros(shape), hessian)
    assert (np.abs(lost - losses(w, fitted, hessian)) <= 1e-5 * power).all()
    assert (losses(w, fitted, hessian) <= losses(w, w * keep, hessian) + 1e-5 * power).all()


def build(
    options: PlanOptions, rows: int = 8, block: Block = BLOCK
) -> tuple[Any, LayerStatistics, LayerPlan]:
    """One layer of two groups whose last row group is ragged."""
    rng = np.random.default_rng(1)
    gram, mean = covariance(rng, 2, rows), 0.3 * rng.normal(size=(2, rows))
    gram += mean[:, :, None] * mean[:, None, :]
    arrays = (gram, mean, *np.zeros((2, 2, 5)), *np.ones((3, 8)))
    statistics = LayerStatistics(*(jnp.asarray(array, jnp.float32) for array in arrays))
    w = jnp.asarray(rng.normal(size=(2, rows, 5)), jnp.float32)
    (plan,) = build_plan((w,), (statistics,), (block,), options)
    return w, statistics, plan


@pytest.fixture(scope="module", params=["l1", "l2", "activation", "obs"])
def built(request: Any) -> tuple[Any, LayerStatistics, LayerPlan]:
    return build(dataclasses.replace(OPTIONS, score=request.param))


def test_keep_levels_fall_geometrically() -> None:
    levels = compute_keep_ratios(PlanOptions(levels=3, min_keep=0.01))
    np.testing.assert_allclose(levels, [1.0, 0.1, 0.01])


def test_masks_nest_and_counts_are_exact(built: Any) -> None:
    _, _, plan = built
    mask = np.asarray(plan.mask)
    assert mask.shape == (7, 2, 3, 5)
    # 30 column-vectors at 0.05^(i / 6): 30, 18.2, 11.05, 6.7, 4.07, 2.47, 1.5 (half to even).
    counts = [30, 18, 11, 7, 4, 2, 2]
    assert mask.sum(axis=(1, 2, 3)).tolist() == counts
    np.testing.assert_allclose(plan.keep, np.asarray(counts) / 30, rtol=1e-6)
    assert not (mask[1:] & ~mask[:-1]).any()


def test_weights_are_zero_outside_the_mask(built: Any) -> None:
    _, _, plan = built
    rows = np.repeat(np.asarray(plan.mask), HEIGHT, axis=2)[:, :, :8]
    assert (np.asarray(plan.weights)[~rows] == 0).all()
    assert (np.asarray(plan.weights)[rows] != 0).all()
    assert (np.asarray(plan.scale) > 0).all()


def test_the_unpruned_level_is_the_layer_itself(built: Any) -> None:
    w, _, plan = built
    assert plan.keep[0] == 1
    np.testing.assert_array_equal(plan.weights[0], w)
    assert plan.error[0, 7] < 1e-3


def test_without_compensation_weights_are_masked_only() -> None:
    w, _, plan = build(dataclasses.replace(OPTIONS, compensate=False, score="l2"))
    rows = np.repeat(np.asarray(plan.mask), HEIGHT, axis=2)[:, :, :8]
    np.testing.assert_array_equal(plan.weights, np.where(rows, w, 0))
    # The largest squared norms survive at every level.
    squares = np.pad(np.square(w), ((0, 0), (0, 1), (0, 0))).reshape(2, 3, HEIGHT, 5).sum(axis=2)
    for mask in np.asarray(plan.mask)[1:]:
        assert squares[mask].min() > squares[~mask].max()


@pytest.mark.parametrize("centre", [True, False])
def test_errors_are_those_of_pruning_and_rounding(centre: bool) -> None:
    w, seen, plan = build(dataclasses.replace(OPTIONS, centre=centre))
    mean = np.asarray(seen.mean, np.float64)
    target = np.asarray(seen.gram, np.float64) - centre * mean[:, :, None] * mean[:, None, :]
    power = losses(w, 0 * w, target).sum()
    diagonal = np.diagonal(target, axis1=1, axis2=2)
    importance = diagonal + 0.01 * diagonal.mean(axis=1, keepdims=True)
    for level, bits in ((0, 1), (0, 2), (3, 4), (5, 5), (5, 8)):
        v = np.asarray(plan.weights[level])
        scale = np.asarray(plan.scale[level, bits - 1])[:, None]
        if bits <= 4:  # the rounded weights' own
            rounded = scale * np.asarray(plan.levels[level, bits - 1])
            expected = losses(w, rounded, target).sum() / power
            np.testing.assert_allclose(plan.error[level, bits - 1], expected, rtol=2e-3)
            continue
        # Roundings of many bits are taken for independent.
        limit = 2 ** (bits - 1) - 1
        rounded = np.clip(np.round(v / scale), -limit, limit) * scale
        rounding = (importance[:, :, None] * (v - rounded) ** 2).sum()
        expected = (losses(w, v, target).sum() + rounding) / power
        np.testing.assert_allclose(plan.error[level, bits - 1], expected, rtol=2e-3)


def test_compensation_lowers_the_error_of_every_level() -> None:
    _, _, masked = build(dataclasses.replace(OPTIONS, compensate=False, score="l2"))
    _, _, fitted = build(dataclasses.replace(OPTIONS, score="l2"))
    same = (np.asarray(masked.mask) == np.asarray(fitted.mask)).all(axis=(1, 2, 3))
    assert same.sum() >= 2  # scores are taken anew from the fitted weights
    later = same & (np.arange(7) > 0)
    assert (fitted.error[later, 7] < masked.error[later, 7]).all()


@pytest.mark.parametrize("block", [Block(8), Block(4, 5), Block(1, 2), Block(1)], ids=str)
def test_blocks_of_any_shape_nest_and_one_stays(block: Block) -> None:
    """2 x 8 x 5 weights in filters, channels of 4 rows, rows of 2 columns, single weights."""
    _, _, plan = build(dataclasses.replace(OPTIONS, min_keep=0.01), block=block)
    mask = np.asarray(plan.mask)
    assert mask.shape == (7, 2, *block.count(8, 5))
    counts = np.maximum(np.round(np.geomspace(1, 0.01, 7) * mask[0].size), 1)
    assert mask.sum(axis=(1, 2, 3)).tolist() == counts.tolist()
    assert mask[-1].sum() == 1
    assert not (mask[1:] & ~mask[:-1]).any()
    for level in range(7):
        (kept,) = expand_weight_masks((plan,), Policy(np.asarray([level]), None, None))
        assert kept.shape == (2, 8, 5)
        weights = np.asarray(plan.weights[level])
        assert (weights[~kept] == 0).all()
        assert (weights[kept] != 0).all()
        for index in np.ndindex(mask.shape[1:]):
            group, down, across = index
            rows = slice(down * block.high, (down + 1) * block.high)
            columns = slice(across * block.wide, (across + 1) * block.wide)
            assert (kept[group, rows, columns] == mask[level][index]).all()


def test_one_level_prunes_nothing() -> None:
    w, _, plan = build(PlanOptions(levels=1))
    np.testing.assert_array_equal(plan.weights, w[None])
    assert plan.keep.tolist() == [1.0]
