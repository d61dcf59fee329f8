"""Products against XLA's own convolution and their own windows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from apq_jax.network import products


def product_of(
    convolve: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, w: jax.Array
) -> products.Product:
    eqn = jax.make_jaxpr(convolve)(x, w).eqns[-1]
    return products.build_product(eqn, side=1)


@pytest.mark.parametrize("kernel", [(1, 1), (2, 4), (3, 5), (4, 4)])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 2), (3, 0))])
@pytest.mark.parametrize(("channels", "columns"), [(3, 8), (2, 9)])
def test_whole_numbers_are_multiplied_exactly_whatever_the_order(
    kernel: tuple[int, int], padding: str | tuple, channels: int, columns: int
) -> None:
    """Few columns are formed in blocks of positions; what lies outside the image reads `pad`."""
    rng, pad = np.random.default_rng(0), 3
    x = jnp.asarray(rng.integers(-128, 128, (2, 12, 14, channels)), jnp.int8)
    w = jnp.asarray(rng.integers(-128, 128, (*kernel, channels, columns)), jnp.int8)

    def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
        axes = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, w, (1, 1), padding, dimension_numbers=axes, preferred_element_type=jnp.int32
        )

    product = product_of(convolve, x, w)
    matrix = product.to_matrix(w)
    result = product.multiply(x, matrix, pad)
    assert result.dtype == jnp.int32
    np.testing.assert_array_equal(result, products.matmul(product.unfold(x, pad), matrix))
    whole = product.fold(product.multiply(x, matrix))
    np.testing.assert_array_equal(whole, convolve(x, w))
    assert isinstance(product, products.Convolution)
    even = not any(n % 2 for n in whole.shape[1:3])
    assert product._in_blocks(columns) == (even and columns <= 8)


@pytest.mark.parametrize("side", [1, 2, 3, 6])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolving_is_multiplying_also_of_images_smaller_than_the_kernel(
    side: int, groups: int
) -> None:
    keys = jax.random.split(jax.random.key(side), 2)
    x, w = jax.random.normal(keys[0], (2, side, side, 4)), jax.random.normal(keys[1], (3, 3, 4, 6))
    w = w[:, :, : 4 // groups]

    def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
        axes = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=axes, feature_group_count=groups
        )

    product = product_of(convolve, x, w)
    matrix = product.to_matrix(w)
    expected = product.unfold(x) @ matrix
    np.testing.assert_allclose(product.convolve(x, matrix), expected, atol=1e-4)
    np.testing.assert_allclose(product.fold(product.convolve(x, matrix)), convolve(x, w), atol=1e-4)
    order = product.locate_rows(matrix.shape[1])
    np.testing.assert_array_equal(product.extract_windows(x), product.unfold(x)[:, :, order])
    small = "conv_general_dilated" not in str(jax.make_jaxpr(product.convolve)(x, matrix))
    assert small == (side < 3)
