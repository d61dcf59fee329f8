"""Products against XLA's own convolution and their own windows."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from apq_jax.network import convolution, products
from apq_jax.network.convolution import Convolution
from apq_jax.network.dot import matmul


def product_of(
    convolve: Callable[[jax.Array, jax.Array], jax.Array], x: np.ndarray, w: np.ndarray
) -> products.Product:
    eqn = jax.make_jaxpr(convolve)(x, w).eqns[-1]
    return products.build_product(eqn, side=1)


KERNELS = (1, 1), (2, 4), (3, 5), (4, 4)
PADDINGS = "SAME", "VALID", ((1, 2), (3, 0))


@pytest.mark.parametrize(
    ("kernel", "padding", "channels", "columns"),
    [
        *((*pair, 3, 8) for pair in itertools.product(KERNELS, PADDINGS)),
        *((*pair, 2, 9) for pair in zip(KERNELS, (*PADDINGS, "SAME"), strict=True)),
    ],
)
def test_whole_numbers_are_multiplied_exactly_whatever_the_order(
    kernel: tuple[int, int], padding: str | tuple, channels: int, columns: int
) -> None:
    """Few columns are formed in blocks of positions; what lies outside the image reads `pad`.

    More columns than 8 form no blocks, so that each kernel and each padding is met once.
    """
    rng, pad = np.random.default_rng(0), 3
    x = rng.integers(-128, 128, (2, 12, 14, channels)).astype(np.int8)
    w = rng.integers(-128, 128, (*kernel, channels, columns)).astype(np.int8)

    def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
        axes = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, w, (1, 1), padding, dimension_numbers=axes, preferred_element_type=jnp.int32
        )

    product = product_of(convolve, x, w)

    @jax.jit
    def multiply(x: jax.Array, w: jax.Array) -> tuple[jax.Array, ...]:
        matrix = product.to_matrix(w)
        padded, whole = product.multiply(x, matrix, pad), product.fold(product.multiply(x, matrix))
        return padded, matmul(product.unfold(x, pad), matrix), whole, convolve(x, w)

    result, expected, whole, convolved = multiply(x, w)
    assert result.dtype == jnp.int32
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(whole, convolved)
    assert isinstance(product, Convolution)
    even = not any(n % 2 for n in whole.shape[1:3])
    assert product._in_blocks(columns) == (even and columns <= 8)


@pytest.mark.parametrize("side", [1, 2, 3, 6])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolving_is_multiplying_also_of_images_smaller_than_the_kernel(
    side: int, groups: int
) -> None:
    rng = np.random.default_rng(side)
    x = rng.normal(size=(2, side, side, 4)).astype(np.float32)
    w = rng.normal(size=(3, 3, 4 // groups, 6)).astype(np.float32)

    def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
        axes = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=axes, feature_group_count=groups
        )

    product = product_of(convolve, x, w)

    @jax.jit
    def multiply(x: jax.Array, w: jax.Array) -> tuple[jax.Array, ...]:
        matrix, windows = product.to_matrix(w), product.unfold(x)
        y = product.convolve(x, matrix)
        extracted = product.extract_windows(x)
        return matrix, windows, y, windows @ matrix, product.fold(y), convolve(x, w), extracted

    matrix, windows, y, expected, whole, convolved, extracted = map(np.asarray, multiply(x, w))
    np.testing.assert_allclose(y, expected, atol=1e-4)
    np.testing.assert_allclose(whole, convolved, atol=1e-4)
    order = product.locate_rows(matrix.shape[1])
    np.testing.assert_array_equal(extracted, windows[:, :, order])
    assert isinstance(product, Convolution)
    assert product.prefers_taps(x) == (side < 6)


@pytest.mark.parametrize(
    ("side", "channels", "groups", "stride", "dilation", "padding"),
    [
        (7, 5, 1, 1, 1, "SAME"),  # products of windows
        (7, 3, 1, 2, 1, ((1, 2), (0, 1))),  # few channels
        (3, 5, 1, 1, 1, "SAME"),  # taps
        (4, 6, 1, 2, 2, ((2, 2), (3, 1))),
        (1, 2, 1, 1, 1, ((3, 3), (1, 1))),  # taps that never meet the image
        (7, 6, 6, 2, 1, "SAME"),  # depthwise
        (7, 6, 2, 1, 1, "VALID"),  # XLA's
        (2, 6, 2, 1, 1, "SAME"),
    ],
)
def test_a_convolution_and_its_gradients_are_xlas(
    side: int, channels: int, groups: int, stride: int, dilation: int, padding: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Chunks of two of five images leave one over; axes are in an unusual order."""
    windows = 4 * 9 * channels * 2 * (side // stride + 4) ** 2
    monkeypatch.setattr(convolution, "_WINDOW_BYTES", windows)
    keys = jax.random.split(jax.random.key(side), 3)
    x = jax.random.normal(keys[0], (channels, 5, side, side + 1))
    w = jax.random.normal(keys[1], (3, 3, 2 * groups, channels // groups))

    def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, w, (stride, 1), padding, rhs_dilation=(dilation, 1), feature_group_count=groups,
            dimension_numbers=("CNHW", "HWOI", "NHCW"),
        )  # fmt: skip

    product = products.build_product(jax.make_jaxpr(convolve)(x, w).eqns[-1], side=1)

    def fast(x: jax.Array, w: jax.Array) -> jax.Array:
        return product.fold(product.convolve(x, product.to_matrix(w)))

    g = jax.random.normal(keys[2], convolve(x, w).shape)
    result, expected = (
        jax.jit(lambda x, w, f=f: (f(x, w), *jax.vjp(f, x, w)[1](g)))(x, w)
        for f in (fast, convolve)
    )
    for value, wanted in zip(result, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("images", [1, 4, 5])
def test_whole_numbers_are_multiplied_exactly_a_few_images_at_a_time(
    images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks are of two images, of which 5 leave one over."""
    rng, pad = np.random.default_rng(images), -77
    x = rng.integers(-128, 128, (images, 7, 6, 5)).astype(np.int8)
    w = rng.integers(-128, 128, (3, 3, 5, 2)).astype(np.int8)
    monkeypatch.setattr(convolution, "_WINDOW_BYTES_INT8", 2 * 7 * 6 * 9 * 5)
    monkeypatch.setattr(convolution, "_CACHED", 2)

    def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            preferred_element_type=jnp.int32,
        )  # fmt: skip

    product = product_of(convolve, x, w)
    assert isinstance(product, Convolution)
    matrix = jnp.asarray(product.to_matrix(w))
    chunks = jax.make_jaxpr(product.multiply)(x, matrix, pad)
    assert ("cond" in str(chunks)) == (images >= 4)  # of the platform
    result = product.multiply(jnp.asarray(x), matrix, pad)
    assert result.dtype == jnp.int32
    np.testing.assert_array_equal(result, matmul(product.unfold(jnp.asarray(x), pad), matrix))


@pytest.mark.parametrize(("stride", "dilation", "multiplier"), [(1, 1, 1), (2, 1, 2), (1, 2, 1)])
def test_depthwise_whole_numbers_are_multiplied_exactly(
    stride: int, dilation: int, multiplier: int
) -> None:
    rng, channels, pad = np.random.default_rng(0), 5, -77
    x = rng.integers(-128, 128, (2, 6, 7, channels)).astype(np.int8)
    w = rng.integers(-128, 128, (3, 2, 1, channels * multiplier)).astype(np.int8)

    def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, w, (stride, 1), ((1, 2), (0, 1)), rhs_dilation=(1, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=channels,
            preferred_element_type=jnp.int32,
        )  # fmt: skip

    product = product_of(convolve, x, w)
    matrix = product.to_matrix(w)
    result = product.multiply(jnp.asarray(x), jnp.asarray(matrix), pad)
    assert result.dtype == jnp.int32
    np.testing.assert_array_equal(result, matmul(product.unfold(jnp.asarray(x), pad), matrix))
