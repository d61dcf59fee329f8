"""Max pooling over windows that do not overlap, fast on CPUs.

XLA reduces windows in three times the time that the maximum of their elements takes, and computes
the gradient by a scatter. A comparison of each element with its window's maximum takes a fifth of
that (all measured on 28 x 28 pixels, windows of 2 x 2).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax.network.jaxpr import Origin, Visit

_FEW = 16  # elements of a window of which the maximum is taken one by one


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
    # NumPy's infinity stays a constant; a traced one would make a general reduction of it.
    least = np.asarray(-np.inf, x.dtype)

    @jax.custom_jvp
    def pool(x: jax.Array) -> jax.Array:
        if math.prod(window) > _FEW:
            return lax.reduce_window(x, least, lax.max, window, window, padding)
        x = _pad_windows(x, params, least)
        taps = (lax.slice(x, tap, x.shape, window) for tap in np.ndindex(*window))
        return functools.reduce(jnp.maximum, taps)

    @pool.defjvp
    def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
        (x,), (t,) = primals, tangents
        # Without the barriers XLA pools anew for every element of the gradient and for each of its
        # uses.
        x, y = lax.optimization_barrier((x, pool(x)))
        # Padding is NaN, so that no padded element equals a maximum.
        blocks = _split_windows(x, params, jnp.nan)
        t = _split_windows(t, params, 0)
        axes = tuple(range(1, blocks.ndim, 2))
        largest = blocks == jnp.expand_dims(y, axes)
        parts = lax.optimization_barrier(largest / largest.sum(axes, keepdims=True).clip(1))
        return y, (parts * t).sum(axes)

    return pool(x)


def _pad_windows(x: jax.Array, params: dict[str, Any], fill: Any) -> jax.Array:
    """Pads with `fill`, and cuts off the remainder, so that windows cover x."""
    window, padding = params["window_dimensions"], params["padding"]
    edges = []
    for n, (low, high), size in zip(x.shape, padding, window, strict=True):
        covered = (low + n + high) // size * size
        edges.append((low, covered - low - n, 0))
    return lax.pad(x, jnp.asarray(fill, x.dtype), edges)


def _split_windows(x: jax.Array, params: dict[str, Any], fill: float) -> jax.Array:
    """Splits every axis of [n, ...] into [windows, window]; padding is `fill`."""
    padded, window = _pad_windows(x, params, fill), params["window_dimensions"]
    pairs = zip(padded.shape, window, strict=True)
    return padded.reshape([part for n, size in pairs for part in (n // size, size)])
