"""Captures a JAX model, unchanged, as a `Network`, whose layers are weight matrices.

`capture` traces the model, walks its jaxpr and finds every convolution and matrix product whose
weight is a parameter, at most reshaped or transposed. `forward` walks the same jaxpr, replaces
these operations and runs all others as written.
"""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.network import pooling, products
from apq_jax.network.jaxpr import Apply, Origin, Params, Visit, trace
from apq_jax.system.cache import require_32_bits
from apq_jax.system.pytrees import format_path
from apq_jax.types import Layer

# (index of the layer, the operation, its data operand, its weight operand) -> its result.
Replacement = Callable[[int, products.Product, jax.Array, jax.Array], jax.Array]
_PRODUCTS = {"conv_general_dilated", "dot_general"}


@dataclasses.dataclass(frozen=True)
class Operation:
    """Says how one parameter, or one product without a parameter, is run."""

    name: str  # path of the parameter, else the product's primitive after its `jax.named_scope`
    status: str  # "mapped", "digital" or "refused"
    reason: str = ""
    multiplications: int = 0  # an example, in its matrix products; 0 if it is in none


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


def _find_weight(eqn: Any, sources: list[Origin | None]) -> tuple[int, Origin] | None:
    """Returns a product's weight operand, 0 or 1, and its origin; None for other equations."""
    weights = [(side, origin) for side, origin in enumerate(sources) if origin is not None]
    return weights[0] if eqn.primitive.name in _PRODUCTS and len(weights) == 1 else None


def _count_multiplications(eqn: Any) -> int:
    """Counts an equation's multiplications in matrix products, for all examples at once.

    Control flow counts the products inside: a scan's as often as it runs, a while loop's once.
    """
    if eqn.primitive.name == "dot_general":
        contracted = eqn.params["dimension_numbers"][0][0]
        sizes = [eqn.invars[0].aval.shape[axis] for axis in contracted]
        return int(eqn.outvars[0].aval.size) * math.prod(sizes)
    if eqn.primitive.name == "conv_general_dilated":
        kernel, out_axis = eqn.invars[1].aval, eqn.params["dimension_numbers"].rhs_spec[0]
        return int(eqn.outvars[0].aval.size) * kernel.size // kernel.shape[out_axis]
    values = [value for param in eqn.params.values() for value in jax.tree.leaves(param)]
    jaxprs = [getattr(value, "jaxpr", value) for value in values]
    inner = [part for jaxpr in jaxprs for part in getattr(jaxpr, "eqns", ())]
    times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    return int(times) * sum(map(_count_multiplications, inner))


def capture(apply_fn: Apply, params: Params, example: jax.Array | np.ndarray) -> Network:
    """Returns a model as a `Network` with its layers; the model itself does not change.

    Args:
      apply_fn: the model, `(params, x [B, ...]) -> logits`; any JAX function.
      params: a pytree of arrays.
      example: a batch of inputs, [B, ...]; the values do not matter.

    Returns:
      The network. Its `operations` report every parameter as mapped to crossbars, digital, or
      refused. A refused one is used by an operation that has no layout on crossbars and therefore
      runs as written.

    Raises:
      ValueError: no operation can be mapped, the result is not one array [B, classes], or two
        parameters have the same name.
      InputError: JAX computes in 64 bits.
    """
    require_32_bits()
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
    counts: Counter[str] = Counter()  # of multiplications, by parameter

    def visit(eqn: Any, arguments: list[jax.Array], sources: list[Origin | None]) -> None:
        name, count = eqn.primitive.name, _count_multiplications(eqn) // batch
        scope = str(eqn.source_info.name_stack)
        title = f"{scope}: {name}" if scope else name

        def refuse(paths: frozenset[str], reason: str) -> None:
            for path in paths:
                refused.setdefault(path, reason)
                counts[path] += count

        if any("jaxpr" in key or key == "branches" for key in eqn.params):
            return refuse(_find_enclosed(eqn, sources), f"used inside {name}")
        weight = _find_weight(eqn, sources)
        if weight is None:
            if name in _PRODUCTS and sources[0] is None:
                digital.append(Operation(title, "digital", "activations times activations", count))
            return
        side, origin = weight
        if not origin.paths:
            reason = "its weight is a constant, not a parameter"
            digital.append(Operation(title, "refused", reason, count))
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
        if path in layers and not np.array_equal(matrix, matrices[path]):
            return refuse(origin.paths, "used twice with different layouts")
        counts[path] += count
        if path in layers:
            positions += layers[path].positions
            layers[path] = dataclasses.replace(layers[path], positions=positions)
            return
        matrices[path] = matrix
        layers[path] = Layer(path, groups, rows, columns, positions, product.kernel, product.stride)

    # Shapes alone decide, so that no operation is compiled or run.
    walk = functools.partial(trace, apply_fn, visit=visit, track_places=True)
    jax.eval_shape(walk, params, example)
    mapped = tuple(layer for path, layer in layers.items() if path not in refused)
    status = dict.fromkeys(layers, "mapped") | dict.fromkeys(refused, "refused")
    operations = (
        Operation(path, status.get(path, "digital"), refused.get(path, ""), counts[path])
        for path in names
    )
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

    Max poolings of disjoint windows run by `pooling.max_pool`, with the same values; only where
    maxima are equal does the gradient differ.

    Args:
      network: from `capture`.
      params: the model's parameters; mapped ones only reach `replace`.
      x: [B, ...]; B may differ from the captured example's.
      replace: called as `Replacement` says; returns the operation's result, in the operation's own
        layout; the result is cast to the operation's dtype.

    Returns:
      Logits [B, classes].
    """
    visit = pooling.replace_pooling(build_visit(network, replace))
    return trace(network.apply_fn, params, x, visit)


def build_visit(network: Network, replace: Replacement) -> Visit:
    """Returns the `Visit` that calls `replace` for mapped operations; None for other equations."""

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
    side, origin = _find_weight(eqn, sources) or (0, None)
    if origin is None or origin.changed or len(origin.paths) != 1:
        return None
    (path,) = origin.paths
    names = [layer.name for layer in network.layers]
    return (names.index(path), side) if path in names else None


@functools.partial(jax.jit, static_argnums=0)
def extract_matrices(network: Network, params: Params) -> tuple[jax.Array, ...]:
    """Returns the weights of every layer in the network's order, [γ, R, C] float32 each."""
    matrices: dict[int, jax.Array] = {}

    def collect(
        index: int, product: products.Product, x: jax.Array, weight: jax.Array
    ) -> jax.Array:
        matrices[index] = product.to_matrix(weight).astype(jnp.float32)
        return product.fold(product.multiply(x, matrices[index]))

    forward(network, params, jnp.zeros_like(network.example), collect)
    return tuple(matrices[index] for index in range(len(network.layers)))


def forward_float(
    network: Network, params: Params, x: jax.Array, weights: tuple[jax.Array, ...] | None = None
) -> jax.Array:
    """Runs the model as products of float matrices; differentiable in reverse mode.

    Args:
      network, params: the model.
      x: [B, ...].
      weights: of every layer, [γ, R, C] each, as from `extract_matrices`; None for the model's own
        weights, which give the model's own logits.

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
