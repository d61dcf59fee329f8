"""Rounding to levels by coordinate descent: a loop's own levels, never worse than the nearest."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apq_jax.compression.quantization import quantize_weight
from apq_jax.compression.rounding import MAX_BITS, Rounded, round_weights

BITS = np.arange(1, MAX_BITS + 1)


def draw(rng: np.random.Generator, groups: int, rows: int, columns: int) -> tuple[Any, ...]:
    """Draws weights, fitted weights, survivors, scales and correlated Hessians of a layer."""
    x = rng.normal(size=(groups, 3 * rows, rows)) @ rng.normal(size=(groups, rows, rows))
    hessian = np.einsum("gmr,gms->grs", x, x) / x.shape[1] + 0.05 * np.eye(rows)
    w, keep = rng.normal(size=(groups, rows, columns)), rng.random((groups, rows, columns)) < 0.7
    largest = np.abs(w * keep).max(axis=1)[:, None] + 1e-3  # γ, 1, C
    scale = largest / np.maximum(2.0 ** (BITS - 1) - 1, 1)[:, None]
    arrays = (jnp.asarray(x, jnp.float32) for x in (w, w * keep, keep, scale, hessian))
    w, fitted, kept, scale, hessian = arrays
    return w, fitted, kept > 0, scale, hessian


def descend(arrays: tuple[Any, ...], sweeps: int) -> Rounded:
    """`round_weights` as loops over groups, bits, columns, sweeps and rows, in float64."""
    w, fitted, keep, scale, hessian = (np.asarray(x) for x in arrays)
    groups, rows, columns = w.shape
    levels = np.zeros((groups, len(BITS), rows, columns))
    scales, losses = np.zeros((2, groups, len(BITS), columns))
    for g, n, c in np.ndindex(groups, len(BITS), columns):
        h, target, s = np.float64(hessian[g]), np.float64(w[g, :, c]), float(scale[g, n, c])
        kept, bits = keep[g, :, c], int(BITS[n])
        limit = max(2 ** (bits - 1) - 1, 1)

        def project(x: Any, bits: int = bits, limit: int = limit) -> Any:
            return np.where(x < 0, -1, 1) if bits == 1 else np.clip(np.round(x), -limit, limit)

        v = np.where(kept, project(fitted[g, :, c] / np.float32(s)), 0.0)
        for half in range(2):
            for _, row in np.ndindex(sweeps, rows):
                if kept[row]:
                    pull = h[row] @ (s * v - target)
                    v[row] = project(v[row] - pull / (h[row, row] * s))
            aligned, square = v @ h @ target, v @ h @ v
            if half == 0 and sweeps and aligned > 0:
                s = aligned / square
        levels[g, n, :, c], scales[g, n, c] = v, s
        losses[g, n, c] = (s * v - target) @ h @ (s * v - target)
    return Rounded(levels, scales, losses)


@pytest.mark.parametrize("sweeps", [0, 1, 2])
@pytest.mark.parametrize(
    ("groups", "rows", "columns"), [(1, 1, 3), (3, 9, 1), (1, 40, 2), (2, 65, 2)]
)
def test_levels_are_those_of_a_loop(groups: int, rows: int, columns: int, sweeps: int) -> None:
    """One row, depthwise, and one or two blocks and a part."""
    arrays = draw(np.random.default_rng(rows), groups, rows, columns)
    rounded = jax.jit(round_weights, static_argnums=6)(*arrays, jnp.asarray(BITS), sweeps)
    expected = descend(arrays, sweeps)
    np.testing.assert_array_equal(rounded.levels, expected.levels)
    np.testing.assert_allclose(rounded.scale, expected.scale, rtol=1e-4)
    np.testing.assert_allclose(rounded.loss, expected.loss, rtol=1e-2, atol=1e-3)


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(st.integers(0, 2**31))
def test_it_never_gets_worse_and_stays_on_the_grid(seed: int) -> None:
    arrays = draw(np.random.default_rng(seed), 2, 12, 3)
    _, fitted, keep, scale, _ = arrays
    run = jax.jit(round_weights, static_argnums=6)
    results = [run(*arrays, jnp.asarray(BITS), sweeps) for sweeps in (0, 1, 4)]
    nearest = jax.vmap(
        jax.vmap(quantize_weight, (None, None, 0, 0)), (0, 0, 0, None)
    )(fitted, keep, scale, jnp.asarray(BITS))  # fmt: skip
    np.testing.assert_array_equal(results[0].levels, nearest)
    for after in results[1:]:
        assert (after.loss <= results[0].loss * (1 + 1e-3) + 1e-4).all()
    limits = np.maximum(2 ** (BITS - 1) - 1, 1)[:, None, None]
    for result in results:
        levels = np.asarray(result.levels)
        assert (np.abs(levels) <= limits).all()
        assert (levels == np.round(levels)).all()
        assert (levels[:, 1:] == 0)[~np.broadcast_to(keep[:, None], levels[:, 1:].shape)].all()
        assert (np.abs(levels[:, 0]) == np.asarray(keep)).all()  # one bit has signs only
        assert (np.asarray(result.scale) > 0).all()


def test_two_weights_by_hand() -> None:
    """Equal inputs: only the sum counts. 0.4 + 0.4 is nearer to 1 + 0 than to 0 + 0.

    With s = 1 the nearest levels to (0.4, 0.4) are (0, 0), which loses 0.8² = 0.64 and a little for
    the ridge. The first level becomes round(0 + 0.8 / 1.01) = 1, the second stays 0.
    """
    hessian = jnp.ones((1, 2, 2)) + 0.01 * jnp.eye(2)
    w, keep = jnp.full((1, 2, 1), 0.4), jnp.ones((1, 2, 1), bool)
    rounded = round_weights(w, w, keep, jnp.ones((1, 1, 1)), hessian, jnp.asarray([2]), 1)
    np.testing.assert_array_equal(rounded.levels[0, 0], [[1], [0]])
    # The scale becomes vᵀ H w / vᵀ H v = 0.804 / 1.01.
    assert float(rounded.scale[0, 0, 0]) == pytest.approx(0.804 / 1.01, rel=1e-5)


def test_columns_without_survivors_and_rows_without_inputs() -> None:
    w = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 2)), jnp.float32)
    keep = jnp.asarray([[[True, False]] * 3])
    hessian = jnp.diag(jnp.asarray([1.0, 1e-12, 2.0]))[None]  # the second input is always 0
    scale = jnp.ones((1, len(BITS), 2))
    rounded = round_weights(w, w * keep, keep, scale, hessian, jnp.asarray(BITS), 2)
    assert not np.asarray(rounded.levels)[..., 1].any()
    assert all(np.isfinite(x).all() for x in rounded)
    assert (np.asarray(rounded.scale) > 0).all()
