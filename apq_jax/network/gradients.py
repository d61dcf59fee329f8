"""Gives any JAX function convolutions and max poolings whose gradients are fast on CPUs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from apq_jax.network import jaxpr, pooling, products
from apq_jax.network.jaxpr import Origin


def accelerate(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function, with float32 convolutions and disjoint max poolings by the package's.

    Values and gradients are the function's own up to rounding, but that equal maxima of a window
    share its gradient. Gradients of the function's own (`jax.custom_vjp`) stay; what happens inside
    control flow and `jax.checkpoint` runs as written. Only reverse-mode differentiation is
    supported where there is a convolution.
    """

    def run(*arguments: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        values = jax.tree.leaves(arguments)
        visit = pooling.replace_pooling(_replace_convolution)
        results, _ = jaxpr.walk(
            closed.jaxpr, closed.consts, values, [None] * len(values), visit, jaxpr.CALLS
        )
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run


def _replace_convolution(
    eqn: Any, arguments: list[jax.Array], _: list[Origin | None]
) -> list[jax.Array] | None:
    if eqn.primitive.name != "conv_general_dilated":
        return None
    if {value.dtype for value in arguments} != {jnp.dtype(jnp.float32)}:
        return None
    try:
        product = products.build_product(eqn, side=1)
    except ValueError:  # a transposed convolution, or one grouped over its batch
        return None
    x, weight = arguments
    return [product.fold(product.convolve(x, product.to_matrix(weight)))]
