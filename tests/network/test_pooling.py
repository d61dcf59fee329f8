"""Max pooling: XLA's own values, and a gradient that is XLA's where no two elements are equal."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from apq_jax.network import pooling
from apq_jax.network.capture import capture, forward_float

Pool = Callable[[jax.Array], jax.Array]
WINDOWS = {
    "whole": ((4, 6), (2, 2), "VALID"),
    "cut off": ((5, 7), (2, 3), "VALID"),
    "rounded up": ((5, 7), (2, 2), "SAME"),
    "padded": ((4, 5), (3, 2), ((1, 1), (0, 1))),
    "many elements": ((10, 9), (5, 4), "VALID"),
    "a window outside": ((2, 2), (2, 2), ((2, 0), (0, 2))),
}


def xla_pool(window: tuple[int, ...], padding: Any, strides: tuple[int, ...] | None = None) -> Pool:
    around = [(0, 0), *padding, (0, 0)] if not isinstance(padding, str) else padding
    window, strides = (1, *window, 1), (1, *(strides or window), 1)
    return lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, strides, around)


def equation(pool: Pool, x: jax.Array) -> Any:
    (eqn,) = jax.make_jaxpr(pool)(x).eqns
    return eqn


@pytest.mark.parametrize("case", WINDOWS.values(), ids=WINDOWS)
def test_values_and_both_gradients_are_those_of_xla(case: Any) -> None:
    space, window, padding = case
    keys = jax.random.split(jax.random.key(0), 3)
    x, t = (jax.random.normal(key, (3, *space, 2)) for key in keys[:2])
    theirs = xla_pool(window, padding)
    eqn = equation(theirs, x)
    assert pooling.is_disjoint(eqn)

    def ours(x: jax.Array) -> jax.Array:
        return pooling.max_pool(x, eqn.params)

    np.testing.assert_array_equal(ours(x), theirs(x))
    change = jax.random.normal(keys[2], theirs(x).shape)
    expected = jax.vjp(theirs, x)[1](change)[0]
    np.testing.assert_array_equal(jax.vjp(ours, x)[1](change)[0], expected)
    forward = jax.jvp(jax.jit(ours), (x,), (t,))[1]
    np.testing.assert_allclose(jnp.vdot(forward, change), jnp.vdot(t, expected), rtol=1e-5)


def test_equal_elements_share_the_gradient() -> None:
    x = jnp.asarray([[1.0, 3.0, 0.0, 0.0], [3.0, 2.0, 0.0, 0.0]])[None, :, :, None]
    eqn = equation(xla_pool((2, 2), "VALID"), x)
    gradient = jax.grad(lambda x: (pooling.max_pool(x, eqn.params) * 4).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 2, 1, 1], [2, 0, 1, 1]])


def test_others_are_left_to_xla() -> None:
    x = jnp.zeros((1, 6, 6, 1))
    assert not pooling.is_disjoint(equation(xla_pool((3, 3), "SAME", (2, 2)), x))
    assert not pooling.is_disjoint(equation(lambda x: lax.exp(x), x))
    assert not pooling.is_disjoint(equation(lambda x: lax.cummax(x), x))

    def holes(x: jax.Array) -> jax.Array:
        window, strides = (1, 2, 2, 1), (1, 2, 2, 1)
        return lax.reduce_window(
            x, -jnp.inf, lax.max, window, strides, "VALID", window_dilation=(1, 2, 2, 1)
        )

    def whole(x: jax.Array) -> jax.Array:
        least = jnp.iinfo(jnp.int32).min
        return lax.reduce_window(x, least, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    assert not pooling.is_disjoint(equation(holes, x))
    assert not pooling.is_disjoint(equation(whole, x.astype(jnp.int32)))


def test_a_captured_model_has_it() -> None:
    pool = xla_pool((2, 2), "VALID")

    def model(params: Any, x: jax.Array) -> jax.Array:
        return pool(x)[:, :, :, 0].reshape(len(x), -1) @ params["w"]

    params, x = {"w": jnp.ones((4, 2))}, jnp.zeros((1, 4, 4, 1))
    network = capture(model, params, x)
    gradient = jax.grad(lambda x: forward_float(network, params, x).sum())(x)
    np.testing.assert_array_equal(gradient, jnp.full(x.shape, 0.5))  # four equal, two logits
