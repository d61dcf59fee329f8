"""Captures a JAX model, unchanged, as a `Network`, whose layers are weight matrices.

`capture` traces the model, walks its jaxpr and finds every convolution and matrix product whose
weight is a parameter, at most reshaped or transposed. `forward` walks the same jaxpr, replaces
these operations and runs all others as written.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.network import pooling, products
from apq_jax.network.jaxpr import Apply, Origin, Params, Visit, format_path, trace
from apq_jax.types import Layer

# (index of the layer, the operation, its data operand, its weight operand) -> its result.
Replacement = Callable[[int, products.Product, jax.Array, jax.Array], jax.Array]
_PRODUCTS = {"conv_general_dilated", "dot_general"}


@dataclasses.dataclass(frozen=True)
class Operation:
    """Says how one parameter, or one product without a parameter, is run."""

    name: str  # path of the parameter, else name of the product's primitive
    status: str  # "mapped", "digital" or "refused"
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Network:
    """A captured model, whose weight-bearing operations can be replaced. Static and hashable."""

    apply_fn: Apply  # (params, x [B, ...]) -> logits [B, classes]
    example: jax.ShapeDtypeStruct  # [B, ...], the input at capture
    layers: tuple[Layer, ...]  # in the order of their first use
    operations: tuple[Operation, ...]  # every parameter, then every product without one

    def __str__(self) -> str:
        width = max((len(operation.name) for operation in self.operations), default=0)
        return "\n".join(
            f"{operation.name:{width}}  {operation.status}"
            + (f": {operation.reason}" if operation.reason else "")
            for operation in self.operations
        )


def _find_weight(eqn: Any, sources: list[Origin | None]) -> int | None:
    """Returns which operand of a product is its weight, 0 or 1; None for other equations."""
    if eqn.primitive.name not in _PRODUCTS or (sources[0] is None) == (sources[1] is None):
        return None
    return 0 if sources[0] is not None else 1


def capture(apply_fn: Apply, params: Params, example: jax.Array | np.ndarray) -> Network:
    """Finds the layers of a model, which stays as it is.

    Args:
      apply_fn: the model, `(params, x [B, ...]) -> logits`; any JAX function.
      params: a pytree of arrays.
      example: a batch of inputs, [B, ...]; the values do not matter.

    Returns:
      The network. It reports every parameter as mapped to crossbars, digital, or refused (used by
      an operation that has no layout on crossbars and therefore runs as written).

    Raises:
      ValueError: no operation can be mapped, the result is not one array [B, classes], or two
        parameters have the same name.
    """
    batch = example.shape[0]
    names = [format_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise ValueError(f"two parameters are named {duplicate!r}; a key may not hold a slash")
    result = jax.eval_shape(apply_fn, params, example)
    if not isinstance(result, jax.ShapeDtypeStruct) or result.shape[:-1] != (batch,):
        raise ValueError(f"the model must return one array [{batch}, classes], not {result}")
    layers: dict[str, Layer] = {}
    matrices: dict[str, np.ndarray] = {}
    refused: dict[str, str] = {}
    digital: list[Operation] = []

    def refuse(paths: frozenset[str], reason: str) -> None:
        for path in paths:
            refused.setdefault(path, reason)

    def visit(eqn: Any, arguments: list[jax.Array], sources: list[Origin | None]) -> None:
        name = eqn.primitive.name
        if any("jaxpr" in key or key == "branches" for key in eqn.params):
            return refuse(_find_enclosed(eqn, sources), f"used inside {name}")
        side = _find_weight(eqn, sources)
        if side is None:
            if name in _PRODUCTS and sources[0] is None:
                digital.append(Operation(name, "digital", "activations times activations"))
            return
        origin = sources[side]
        assert origin is not None
        if not origin.paths:
            digital.append(Operation(name, "refused", "its weight is a constant, not a parameter"))
            return
        if origin.changed:
            return refuse(origin.paths, f"computed by {origin.changed} before it is used")
        (path,) = origin.paths
        try:
            product = products.build_product(eqn, side)
        except ValueError as error:
            return refuse(origin.paths, str(error))
        assert origin.places is not None
        # Places instead of values: two uses of a parameter agree only if their layouts do.
        matrix = product.to_matrix(origin.places)
        groups, rows, columns = matrix.shape
        positions, rest = divmod(eqn.outvars[0].aval.size, batch * groups * columns)
        if rest:
            return refuse(origin.paths, "its result does not have the batch as an axis")
        if path in layers:
            if matrix.shape != matrices[path].shape or not np.array_equal(matrix, matrices[path]):
                return refuse(origin.paths, "used twice with different layouts")
            positions += layers[path].positions
            layers[path] = dataclasses.replace(layers[path], positions=positions)
            return
        matrices[path] = matrix
        layers[path] = Layer(path, groups, rows, columns, positions, product.kernel, product.stride)

    # Shapes alone decide, so that no operation is compiled or run.
    walk = functools.partial(trace, apply_fn, visit=visit, track_places=True)
    jax.eval_shape(walk, params, example)
    mapped = tuple(layer for path, layer in layers.items() if path not in refused)
    operations = []
    for path in names:
        if path in refused:
            operations.append(Operation(path, "refused", refused[path]))
        else:
            operations.append(Operation(path, "mapped" if path in layers else "digital"))
    shape = jax.ShapeDtypeStruct(example.shape, example.dtype)
    network = Network(apply_fn, shape, mapped, (*operations, *digital))
    if not mapped:
        raise ValueError(f"no weight-bearing operation can be mapped:\n{network}")
    return network


def _find_enclosed(eqn: Any, sources: list[Origin | None]) -> frozenset[str]:
    """Returns the parameters that enter control flow with a product inside."""
    if not any(f"{name}[" in str(eqn) for name in _PRODUCTS):
        return frozenset()
    return frozenset(path for origin in sources if origin is not None for path in origin.paths)


def forward(network: Network, params: Params, x: jax.Array, replace: Replacement) -> jax.Array:
    """Runs the model, with `replace` instead of every mapped operation.

    Args:
      network: from `capture`.
      params: the model's parameters; mapped ones only reach `replace`.
      x: [B, ...]; the model is traced for this shape, so that B is free.
      replace: returns the operation's result, in the operation's own layout.

    Returns:
      Logits [B, classes].
    """
    visit = pooling.replace_pooling(build_visit(network, replace))
    return trace(network.apply_fn, params, x, visit)


def build_visit(network: Network, replace: Replacement) -> Visit:
    """Returns the visit that replaces mapped operations and leaves other equations alone."""

    def visit(
        eqn: Any, arguments: list[jax.Array], sources: list[Origin | None]
    ) -> list[jax.Array] | None:
        use = find_layer(network, eqn, sources)
        if use is None:
            return None
        index, side = use
        product = products.build_product(eqn, side)
        y = replace(index, product, arguments[1 - side], arguments[side])
        return [y.astype(eqn.outvars[0].aval.dtype)]

    return visit


def find_layer(network: Network, eqn: Any, sources: list[Origin | None]) -> tuple[int, int] | None:
    """Returns a mapped operation's layer index and weight operand, 0 or 1; else None."""
    side = _find_weight(eqn, sources)
    origin = None if side is None else sources[side]
    if side is None or origin is None or origin.changed or len(origin.paths) != 1:
        return None
    (path,) = origin.paths
    names = [layer.name for layer in network.layers]
    return (names.index(path), side) if path in names else None


@functools.partial(jax.jit, static_argnums=0)
def extract_matrices(network: Network, params: Params) -> tuple[jax.Array, ...]:
    """Returns the weight matrices of every layer, [γ, R, C] float32 each."""
    matrices: dict[int, jax.Array] = {}

    def collect(
        index: int, product: products.Product, x: jax.Array, weight: jax.Array
    ) -> jax.Array:
        matrices[index] = product.to_matrix(weight).astype(jnp.float32)
        return product.fold(product.multiply(x, matrices[index]))

    forward(network, params, jnp.zeros_like(network.example), collect)
    return tuple(matrices[index] for index in range(len(network.layers)))


def forward_float(
    network: Network,
    params: Params,
    x: jax.Array,
    weights: tuple[jax.Array, ...] | None = None,
) -> jax.Array:
    """Runs the model as products of float matrices; differentiable.

    Args:
      network, params: the model.
      x: [B, ...].
      weights: [γ, R, C] a layer; None for the model's own, which give the model's own logits.

    Returns:
      Logits [B, classes].
    """

    def convolve(
        index: int, product: products.Product, x: jax.Array, weight: jax.Array
    ) -> jax.Array:
        w = product.to_matrix(weight) if weights is None else weights[index]
        return product.fold(product.convolve(x, w))

    return forward(network, params, x, convolve)


@functools.partial(jax.jit, static_argnums=0)
def compute_float_logits(network: Network, params: Params, x: jax.Array) -> jax.Array:
    """Returns the model's logits [B, classes] in float32: `forward_float`, compiled."""
    return forward_float(network, params, x)
