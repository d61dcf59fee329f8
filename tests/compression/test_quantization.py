"""Levels, scales and fixed point against numbers worked out by hand."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis.extra import numpy as hnp

from apq_jax.compression import quantization
from apq_jax.compression.compressed import CompressedLayer, accumulate
from apq_jax.network.convolution import Convolution

PROPERTY = hypothesis.settings(max_examples=50, deadline=None, derandomize=True)


def bits(count: int) -> Any:
    return jnp.asarray(count, jnp.int32)


@pytest.mark.parametrize(
    ("count", "weight", "top"), [(1, 1, 1), (2, 1, 3), (4, 7, 15), (8, 127, 255)]
)
def test_limits(count: int, weight: int, top: int) -> None:
    assert quantization.get_max_weight_level(bits(count)) == weight
    assert quantization.get_max_input_level(bits(count)) == top


@pytest.mark.parametrize(
    ("count", "levels"),
    [
        (1, [1, 1, 1, 1, -1, -1, 1, -1]),
        (2, [0, 0, 1, 1, 0, -1, 1, -1]),
        (4, [0, 0, 2, 2, 0, -2, 7, -7]),
        (8, [0, 0, 2, 2, 0, -2, 100, -127]),
    ],
)
def test_weight_levels(count: int, levels: list[int]) -> None:
    """In units of the scale: ties go to the even level, the ends saturate."""
    steps = jnp.asarray([0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 100.0, -1000.0])
    w = jnp.stack([steps * 0.25, steps * 2.0], axis=1)
    scale = jnp.asarray([0.25, 2.0])
    rounded = quantization.quantize_weight(w, jnp.ones(w.shape, bool), scale, bits(count))
    np.testing.assert_array_equal(rounded, np.stack([levels, levels], axis=1))


@pytest.mark.parametrize("count", [1, 8])
def test_pruned_weights_are_zero(count: int) -> None:
    w, mask = jnp.asarray([[3.0, -3.0], [-4.0, 4.0]]), jnp.asarray([[True, False], [False, True]])
    rounded = quantization.quantize_weight(w, mask, jnp.ones(2), bits(count))
    np.testing.assert_array_equal(rounded != 0, mask)


def test_input_levels() -> None:
    """Two bits, step 1/2, zero 1: from -1/2 to 1."""
    x = jnp.asarray([-9.0, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 9.0])
    levels = quantization.quantize_input(x, jnp.asarray(0.5), jnp.asarray(1.0), bits(2))
    np.testing.assert_array_equal(levels, [0, 0, 1, 1, 1, 2, 3, 3, 3])


def test_a_convolution_pads_with_the_zero_of_its_input() -> None:
    """x = [-1, 2] with step 1 and zero 3 is u = [2, 5], padded [3, 2, 5, 3]."""
    product = Convolution(
        kernel=(3,),
        stride=(1,),
        padding=((1, 1),),
        dilation=(1,),
        groups=1,
        lhs_spec=(0, 2, 1),
        rhs_spec=(2, 1, 0),
        out_spec=(0, 2, 1),
        out_shape=(1, 2, 2),
    )
    levels = jnp.asarray([[[1, -127], [1, 0], [1, 127]]], jnp.int8)  # two output channels
    ones, zeros = jnp.ones((1, 2)), jnp.zeros((1, 2))
    layer = CompressedLayer(levels, ones, jnp.ones(()), jnp.asarray(3.0), bits(3), ones, zeros)
    sums = accumulate(layer, product, jnp.asarray([[[-1.0], [2.0]]]))
    assert sums.dtype == jnp.int32
    np.testing.assert_array_equal(sums, [[[10, 2 * 127], [10, 1 * 127]]])
    # Less the zero times the sum of the levels, that is the convolution padded with 0.
    np.testing.assert_array_equal(sums - 3 * levels.sum(axis=1), [[[1, 254], [1, 127]]])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 8])
def test_fitted_weight_scale_is_no_worse_than_the_largest_weight(count: int) -> None:
    rng = np.random.default_rng(0)
    w, mask = rng.normal(size=(18, 64)).astype(np.float32), rng.random((18, 64)) < 0.7
    mask[:, 5] = False
    importance = rng.random(18).astype(np.float32)
    scale, error = quantization.fit_weight_scale(
        jnp.asarray(w), jnp.asarray(mask), jnp.asarray(importance), bits(count)
    )

    def loss(scale: Any) -> Any:
        arrays = jnp.asarray(w), jnp.asarray(mask), scale
        levels = quantization.quantize_weight(*arrays, bits(count))
        return (importance[:, None] * np.square(w * mask - levels * scale)).sum(axis=0)

    np.testing.assert_allclose(error, loss(scale), rtol=1e-4)
    assert (np.asarray(scale) > 0).all()
    limit = 1 if count <= 2 else 2 ** (count - 1) - 1
    largest = np.where(mask.any(axis=0), np.abs(w * mask).max(axis=0), 1.0) / limit
    assert (error <= loss(jnp.asarray(largest)) * (1 + 1e-5)).all()


def test_weights_that_are_levels_are_fitted_exactly() -> None:
    w = jnp.asarray([[7.0], [-4.0], [1.0], [2.0]]) * 0.5
    scale, error = quantization.fit_weight_scale(w, jnp.ones((4, 1), bool), jnp.ones(4), bits(4))
    np.testing.assert_allclose(scale, [0.5], rtol=1e-6)
    np.testing.assert_allclose(error, [0.0], atol=1e-10)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_column_of_zeros_is_nothing_and_coarsens_no_other(count: int) -> None:
    """Column 0 has weights, column 1 only zeros, column 2 no survivor."""
    w = jnp.asarray([[3e-3, 0.0, 5.0], [-2e-3, 0.0, 5.0]])
    mask = jnp.asarray([[True, True, False], [True, True, False]])
    scale, error = quantization.fit_weight_scale(w, mask, jnp.ones(2), bits(count))
    weights = quantization.quantize_weight(w, mask, scale, bits(count)) * scale
    assert (scale > 0).all()
    np.testing.assert_allclose(weights[:, 1:], 0, atol=1e-20)
    np.testing.assert_allclose(error[1:], 0, atol=1e-20)
    alone = quantization.round_to_fixed_point(scale[:1])
    np.testing.assert_array_equal(quantization.round_to_fixed_point(scale)[:1], alone)


def test_one_bit_is_the_weighted_mean_magnitude() -> None:
    """(9 x 1 + 1 x 5) / (9 + 1) = 1.4."""
    w, importance = jnp.asarray([[-1.0], [5.0]]), jnp.asarray([9.0, 1.0])
    scale, error = quantization.fit_weight_scale(w, jnp.ones((2, 1), bool), importance, bits(1))
    np.testing.assert_allclose(scale, [1.4], rtol=1e-6)
    np.testing.assert_allclose(error, [9 * 0.4**2 + 3.6**2], rtol=1e-5)


def test_a_column_without_survivors_has_a_scale_and_no_error() -> None:
    scale, error = quantization.fit_weight_scale(
        jnp.ones((3, 1)), jnp.zeros((3, 1), bool), jnp.ones(3), bits(1)
    )
    assert scale > 0
    assert error == 0


def test_input_on_a_grid_is_fitted_exactly() -> None:
    sample = jnp.asarray([-1.0, 0.0, 1.0, 2.0])
    scale, zero, error = quantization.fit_input(
        sample, jnp.asarray(-1.0), jnp.asarray(2.0), jnp.asarray([2])
    )
    assert (scale[0], zero[0], error[0]) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize("low", [0.0, 0.5])
def test_nonnegative_inputs_have_zero_zero(low: float) -> None:
    sample = jnp.linspace(low, 3.0, 100)
    _, zero, error = quantization.fit_input(sample, sample.min(), sample.max(), jnp.arange(1, 9))
    np.testing.assert_array_equal(zero, np.zeros(8))
    assert (np.diff(error) < 0).all()
    assert error[7] <= (3 / 255) ** 2 / 4


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (-3.0, 0.5), (-3.0, -1.0)])
def test_signed_inputs_are_rounded_to_a_step(low: float, high: float) -> None:
    sample = jnp.linspace(low, high, 1000)
    scale, zero, error = quantization.fit_input(
        sample, sample.min(), sample.max(), jnp.arange(1, 9)
    )
    levels = quantization.quantize_input(sample, scale[7], zero[7], bits(8))
    fitted = (levels - zero[7]) * scale[7]
    step = (max(high, 0.0) - low) / 255
    np.testing.assert_allclose(jnp.mean((sample - fitted) ** 2), error[7], rtol=1e-3)
    assert jnp.abs(fitted - sample).max() <= 1.01 * step
    assert quantization.quantize_input(jnp.zeros(()), scale[7], zero[7], bits(8)) == zero[7]


def test_fixed_point_by_hand() -> None:
    """Four bits: the largest is 0.5 x 2^1, so the step is 2^(1 - 4 + 1) = 1/4."""
    rounded = quantization.round_to_fixed_point(jnp.asarray([1.0, 0.3, -0.375, 0.125]), 4)
    np.testing.assert_array_equal(rounded, [1.0, 0.25, -0.5, 0.0])
    np.testing.assert_array_equal(quantization.round_to_fixed_point(jnp.zeros(3)), np.zeros(3))
    # 0.99 would round to the eighth step of 1/8: one too many for four bits.
    assert quantization.round_to_fixed_point(jnp.asarray([0.99]), 4) == 1.0


ARRAYS = hnp.arrays(np.float32, 5, elements=st.floats(-1000, 1000, width=32, allow_subnormal=False))


@PROPERTY
@hypothesis.given(x=ARRAYS, count=st.sampled_from([4, 8, 16]))
def test_fixed_point_is_near(x: Any, count: int) -> None:
    rounded = np.asarray(quantization.round_to_fixed_point(jnp.asarray(x), count)).astype(
        np.float64
    )
    largest = float(np.abs(x).max())
    _, exponent = np.frexp(largest)
    step = 2.0 ** (int(exponent) - count + 1)
    if round(largest / step) == 2 ** (count - 1):  # the next step, then
        step *= 2
    np.testing.assert_array_equal(np.round(rounded / step), rounded / step)
    assert (np.abs(rounded / step) < 2 ** (count - 1)).all()
    assert (np.abs(rounded - x) <= step / 2).all()


@PROPERTY
@hypothesis.example(x=np.asarray([-0.99, 0.375], np.float32), count=4)
@hypothesis.given(x=ARRAYS, count=st.sampled_from([4, 8, 16]))
def test_fixed_point_is_idempotent(x: Any, count: int) -> None:
    once = quantization.round_to_fixed_point(jnp.asarray(x), count)
    np.testing.assert_array_equal(quantization.round_to_fixed_point(once, count), once)
