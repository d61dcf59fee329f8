"""A JAX model, unchanged, as a `Network`: layers as matrices, the model as a function of them.

`capture` traces the model, walks its jaxpr and finds every convolution and matrix product one
operand of which is a parameter reshaped or transposed at most. `forward` walks the same jaxpr
with those operations replaced and everything else as written.
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
    """What became of one parameter, or of a product without any."""

    name: str  # path of the parameter; the primitive where there is none
    status: str  # "mapped", "digital" or "refused"
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Network:
    """A model whose weight-bearing operations can be replaced. Static and hashable."""

    apply_fn: Apply  # (params, x [B, ...]) -> logits [B, classes]
    example: jax.ShapeDtypeStruct  # [B, ...], the input that the model was captured with
    layers: tuple[Layer, ...]  # in the order in which the model runs them
    operations: tuple[Operation, ...]  # every parameter and every product, by name

    def __str__(self) -> str:
        width = max((len(operation.name) for operation in self.operations), default=0)
        return "\n".join(
            f"{operation.name:{width}}  {operation.status}"
            + (f": {operation.reason}" if operation.reason else "")
            for operation in self.operations
        )


def _find_weight(eqn: Any, sources: list[Origin | None]) -> int | None:
    """Which operand of a product is a weight: 0, 1, or None where none is."""
    if eqn.primitive.name not in _PRODUCTS or (sources[0] is None) == (sources[1] is None):
        return None
    return 0 if sources[0] is not None else 1


def capture(apply_fn: Apply, params: Params, example: jax.Array | np.ndarray) -> Network:
    """Finds the layers of a model.

    Args:
      apply_fn: the model, `(params, x [B, ...]) -> logits`; any JAX function.
      params: a pytree of arrays.
      example: a batch of inputs, [B, ...]; the values do not matter.

    Returns:
      The network, with every parameter reported as mapped to crossbars, kept digital, or refused
      (a weight-bearing operation that has no layout on crossbars; it runs as written).

    Raises:
      ValueError: no operation can be mapped, the result is not one array [B, classes], or two
        parameters have one name.
    """
    batch = example.shape[0]
    names = [format_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two parameters are named {twice!r}; a key may not hold a slash")
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
            for path in _list_enclosed(eqn, sources):
                refuse(frozenset([path]), f"used inside {name}")
            return
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
        avals = [atom.aval for atom in eqn.invars]
        try:
            product = products.build_product(name, eqn.params, avals, eqn.outvars[0].aval, side)
        except ValueError as error:
            return refuse(origin.paths, str(error))
        assert origin.places is not None
        matrix = np.asarray(product.matrix(origin.places))
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

    trace(apply_fn, params, jnp.asarray(example), visit, placed=True)
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


def _list_enclosed(eqn: Any, sources: list[Origin | None]) -> list[str]:
    """Parameters that control flow takes in, where it holds a product; it is never opened."""
    if not any(f"{name}[" in str(eqn) for name in _PRODUCTS):
        return []
    return sorted(path for origin in sources if origin is not None for path in origin.paths)


def forward(network: Network, params: Params, x: jax.Array, replace: Replacement) -> jax.Array:
    """Runs the model with `replace` in the place of every mapped operation.

    Args:
      network: from `capture`.
      params: the model's parameters; those that are mapped are only handed to `replace`.
      x: [B, ...], any batch size: the model is traced for this shape.
      replace: gives the operation's result, in the operation's own layout.

    Returns:
      Logits [B, classes].
    """
    visit = pooling.replace_pooling(build_visit(network, replace))
    return trace(network.apply_fn, params, x, visit)


def build_visit(network: Network, replace: Replacement) -> Visit:
    """What `forward` does with the equations of mapped operations."""

    def visit(
        eqn: Any, arguments: list[jax.Array], sources: list[Origin | None]
    ) -> list[jax.Array] | None:
        found = find_layer(network, eqn, sources)
        if found is None:
            return None
        index, side = found
        out = eqn.outvars[0].aval
        avals = [atom.aval for atom in eqn.invars]
        product = products.build_product(eqn.primitive.name, eqn.params, avals, out, side)
        y = replace(index, product, arguments[1 - side], arguments[side])
        return [y.astype(out.dtype)]

    return visit


def find_layer(network: Network, eqn: Any, sources: list[Origin | None]) -> tuple[int, int] | None:
    """Of a mapped operation the index of its layer, and which operand is the weight."""
    side = _find_weight(eqn, sources)
    origin = None if side is None else sources[side]
    if side is None or origin is None or origin.changed or len(origin.paths) != 1:
        return None
    (path,) = origin.paths
    names = [layer.name for layer in network.layers]
    return (names.index(path), side) if path in names else None


def extract_matrices(network: Network, params: Params) -> tuple[jax.Array, ...]:
    """The weight matrices of every layer, [γ, R, C] each, float32."""
    found: dict[int, jax.Array] = {}

    def collect(
        index: int, product: products.Product, x: jax.Array, weight: jax.Array
    ) -> jax.Array:
        found[index] = product.matrix(weight).astype(jnp.float32)
        return product.fold(product.multiply(x, found[index]))

    forward(network, params, jnp.zeros_like(network.example), collect)
    return tuple(found[index] for index in range(len(network.layers)))


def forward_float(
    network: Network,
    params: Params,
    x: jax.Array,
    weights: tuple[jax.Array, ...] | None = None,
) -> jax.Array:
    """Runs the model as products of float matrices, differentiable.

    With its own weights it is the model itself.

    Args:
      network, params: the model.
      x: [B, ...].
      weights: [γ, R, C] a layer; the model's own where None.

    Returns:
      Logits [B, classes].
    """

    def convolve(
        index: int, product: products.Product, x: jax.Array, weight: jax.Array
    ) -> jax.Array:
        w = product.matrix(weight) if weights is None else weights[index]
        return product.fold(product.convolve(x, w))

    return forward(network, params, x, convolve)


@functools.partial(jax.jit, static_argnums=0)
def compute_float_logits(network: Network, params: Params, x: jax.Array) -> jax.Array:
    """`forward_float` with its own weights, compiled."""
    return forward_float(network, params, x)
