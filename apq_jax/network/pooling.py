"""Max pooling over windows that do not overlap, with a gradient that is fast on CPUs.

XLA computes the gradient of a pooling by a scatter. A comparison of each element with its window's
maximum takes a fifth of the time on a CPU (measured on 28 x 28 pixels, windows of 2 x 2).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax.network.jaxpr import Origin, Visit


def replace_pooling(visit: Visit) -> Visit:
    """Returns a `Visit` that runs `max_pool` where `visit` returns None for a disjoint pooling."""

    def visit_pooling(
        eqn: Any, arguments: list[jax.Array], sources: list[Origin | None]
    ) -> list[jax.Array] | None:
        results = visit(eqn, arguments, sources)
        if results is None and is_disjoint(eqn):
            return [max_pool(arguments[0], eqn.params)]
        return results

    return visit_pooling


def is_disjoint(eqn: Any) -> bool:
    """Returns whether an equation is a max pooling of floats, its strides equal to its windows.

    Padding is allowed, and so is a remainder that fills no window; dilation is not.
    """
    params = eqn.params
    return (
        eqn.primitive.name == "reduce_window_max"
        and jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.floating)
        and params["window_strides"] == params["window_dimensions"]
        and {*params["base_dilation"], *params["window_dilation"]} == {1}
    )


def max_pool(x: jax.Array, params: dict[str, Any]) -> jax.Array:
    """Computes what a pooling's equation does, with a gradient that is fast on CPUs.

    Equal maxima of a window share the window's gradient in equal parts.

    Args:
      x: the pooling's operand, floats of any shape.
      params: the parameters of an equation for which `is_disjoint` holds.
    """
    window, padding = params["window_dimensions"], params["padding"]

    @jax.custom_jvp
    def pool(x: jax.Array) -> jax.Array:
        # NumPy's infinity stays a constant; a traced one would make a general reduction of it.
        least = np.asarray(-np.inf, x.dtype)
        return lax.reduce_window(x, least, lax.max, window, window, padding)

    @pool.defjvp
    def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
        (x,), (t,) = primals, tangents
        y = pool(x)
        # Padding is NaN, so that no padded element equals a maximum.
        blocks = _split_windows(x, y.shape, params, jnp.nan)
        t = _split_windows(t, y.shape, params, 0)
        axes = tuple(range(1, blocks.ndim, 2))
        largest = blocks == jnp.expand_dims(y, axes)
        parts = largest / largest.sum(axes, keepdims=True).clip(1)
        return y, (parts * t).sum(axes)

    return pool(x)


def _split_windows(
    x: jax.Array, out: tuple[int, ...], params: dict[str, Any], fill: float
) -> jax.Array:
    """Splits every axis of [n, ...] into [windows, window]; padding is `fill`."""
    window = params["window_dimensions"]
    edges = [
        (low, count * size - low - n, 0)
        for (low, _), count, size, n in zip(params["padding"], out, window, x.shape, strict=True)
    ]
    padded = lax.pad(x, jnp.asarray(fill, x.dtype), edges)
    return padded.reshape([n for pair in zip(out, window, strict=True) for n in pair])
