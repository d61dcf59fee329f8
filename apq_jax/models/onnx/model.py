"""An ONNX file as a JAX function of its weights and a batch.

`load` gives the model in its own layout, `classifier` fits it to images [B, H, W, C]. The file's
weights stay what they are: `apq_jax.capture` finds its convolutions and matrix products.
"""

import dataclasses
import math
import os
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.models.onnx import file
from apq_jax.models.onnx.file import Graph
from apq_jax.models.onnx.operators import OPERATORS
from apq_jax.models.onnx.tensors import MAX_BYTES
from apq_jax.models.onnx.values import Call, Node, is_known, quote
from apq_jax.system.errors import InputError, in_one_line

_MAX_VALUES = 1 << 28  # of one example, anywhere in the network
_ENDS = ("Identity", "Flatten", "Reshape", "Squeeze")  # may follow the Softmax that ends a graph
Params = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """`(params, x [B, ...]) -> [B, classes]`, as a file says. Hashed by identity, so static."""

    graph: Graph  # without its tensors
    known: dict[str, np.ndarray]  # shapes, axes and other settings, by name
    names: dict[str, str]  # the key in params of a tensor
    data: frozenset[str]  # values that depend on x

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        """Computes the result; for any batch.

        Raises:
          InputError: x, or a shape within, does not fit; names the node.
        """
        graph, x = self.graph, jnp.asarray(x)
        self._need_fit(x.shape)
        values: dict[str, Any] = {"": None, graph.input: x, **self.known}
        values |= {name: jnp.asarray(params[key]) for name, key in self.names.items()}
        for node in graph.nodes:
            results = self._results(node, [values[name] for name in node.inputs], x.shape[0])
            values.update(zip(node.outputs, results, strict=False))
        y = values[graph.output]
        if y.ndim < 2 or y.shape[0] != x.shape[0] or math.prod(y.shape[2:]) != 1:
            raise InputError(
                f"{graph.path}: output {quote(graph.output)}: {list(y.shape)} for a batch of "
                f"{x.shape[0]}; allowed: [N, classes], or ones after that"
            )
        return y.reshape(y.shape[:2])

    def _need_fit(self, shape: tuple[int, ...]) -> None:
        declared = self.graph.input_shape
        if len(shape) != len(declared) or any(
            size not in (None, found) for size, found in zip(declared[1:], shape[1:], strict=True)
        ):
            raise InputError(
                f"{self.graph.path}: input {quote(self.graph.input)}: given {list(shape)}; "
                f"allowed: {format_shape(declared)}"
            )

    def _results(self, node: Node, inputs: list[Any], batch: int) -> tuple[Any, ...]:
        operator = OPERATORS[node.op]
        if node.op == "Reshape" and node.inputs[0] in self.data:
            inputs = [inputs[0], self._of_batch(inputs[0], inputs[1], batch), *inputs[2:]]
        try:
            with np.errstate(all="raise"):
                call = Call(node.attributes, self.graph.opset, len(node.outputs))
                results = operator.function(call, *inputs)
        except Exception as error:  # whatever NumPy and JAX raise of shapes that do not fit
            raise InputError(
                f"{self.graph.path}: node {quote(node.name)} ({node.op}): {in_one_line(error)}"
            ) from error
        results = results if isinstance(results, tuple) else (results,)
        for result in results:
            count = math.prod(result.shape)
            if not (is_known(result) or 0 < count <= _MAX_VALUES * batch):
                raise InputError(
                    f"{self.graph.path}: node {quote(node.name)} ({node.op}): a result of "
                    f"{list(result.shape)}; allowed: 1 to {_MAX_VALUES:,} values an example"
                )
        return results

    def _of_batch(self, x: Any, shape: Any, batch: int) -> Any:
        """A constant shape that begins with the batch which the file was written for."""
        written = self.graph.input_shape[0]
        fixed = is_known(shape) and shape.ndim == 1 and shape.size and shape[0] == written
        if not fixed or batch == written or x.shape[0] != batch:
            return shape
        return np.concatenate([[batch], shape[1:]])


class Model(NamedTuple):
    """What a file holds."""

    apply_fn: Function  # (params, x [B, ...]) -> [B, classes]
    params: Params  # its floating-point tensors that meet data, float32; no key has a slash
    input_shape: tuple[int | None, ...]  # of x, the batch first; None where any size will do


def load(path: str | os.PathLike[str], *, probabilities: bool = False) -> Model:
    """Reads an ONNX model of one input and one output, [N, classes] or [N, classes, 1, 1].

    Args:
      path: the file; weights stored beside it are read from its folder.
      probabilities: keep a Softmax that ends the graph; it is left out otherwise, for the package
        works on logits.

    Raises:
      InputError: the file cannot be read or is not sound, holds an operator, attribute or type
        that is not supported (all are named), or weights that are not finite; or its shapes do
        not fit each other. See `onnx_file.read`.
    """
    graph = _fill_constants(file.read(path))
    if not probabilities:
        graph = _drop_softmax(graph)
    data = _find_dependent(graph)
    if graph.output not in data:
        raise InputError(f"{path}: output {quote(graph.output)}: does not depend on the input")
    weights, known = _split_tensors(graph)
    keys = _make_keys(list(weights))
    params = {keys[name]: jnp.asarray(value) for name, value in weights.items()}
    apply_fn = Function(graph._replace(tensors={}), known, keys, data)
    if None not in graph.input_shape[1:]:
        _count_classes(apply_fn, params, graph.input_shape[1:])
    return Model(apply_fn, params, graph.input_shape)


def build_classifier(model: Model, size: tuple[int, ...], classes: int, layout: str = "NCHW") -> Any:
    """The model as a function of images, `(params, images [B, H, W, C]) -> logits [B, classes]`.

    Args:
      model: from `load`.
      size: of the images, [H, W, C].
      classes: of the data.
      layout: how the model wants them: "NCHW", as most files do, or "NHWC". Of a model of
        features [N, F], the order in which an image becomes features; of one of [N, H, W], images
        have one channel and either will do.

    Raises:
      InputError: images or classes do not fit the model.
    """
    apply_fn, rank = model.apply_fn, len(model.input_shape)
    order = (0, 3, 1, 2) if layout == "NCHW" else (0, 1, 2, 3)

    def of_images(params: Params, images: jax.Array) -> jax.Array:
        x = jnp.transpose(images, order)
        if rank == 2:
            x = x.reshape(x.shape[0], -1)
        if rank == 3 and size[2] == 1:
            x = images[..., 0]
        return apply_fn(params, x)

    try:
        found = _count_classes(of_images, model.params, size)
    except InputError as error:
        words = " x ".join(map(str, size))
        raise InputError(f"{error} (images of {words} in layout {layout})") from error
    if found != classes:
        raise InputError(
            f"{apply_fn.graph.path}: output {quote(apply_fn.graph.output)}: {found} classes; "
            f"allowed: the {classes} of the data"
        )
    return of_images


def format_shape(shape: tuple[int | None, ...]) -> str:
    """A shape whose batch is free, "[N, 3, any, any]"."""
    return f"[{', '.join(['N', *('any' if n is None else str(n) for n in shape[1:])])}]"


def _count_classes(apply_fn: Any, params: Params, size: tuple[int | None, ...]) -> int:
    """Number of classes; tried with two batches, without computing a number."""
    for batch in (2, 3):
        x = jax.ShapeDtypeStruct((batch, *size), jnp.float32)
        found = jax.eval_shape(apply_fn, params, x)
    return int(found.shape[1])


def _fill_constants(graph: Graph) -> Graph:
    """Weights that the file states by their shape and one number are tensors like others."""
    tensors, nodes, left = dict(graph.tensors), [], MAX_BYTES
    left -= sum(value.nbytes for value in tensors.values())
    for node in graph.nodes:
        if node.op != "ConstantOfShape" or not {*node.inputs} <= tensors.keys():
            nodes.append(node)
            continue
        shape = tensors[node.inputs[0]]
        value = node.attributes.get("value", np.zeros(1, np.float32))
        count = math.prod(map(int, shape.reshape(-1))) if shape.dtype.kind in "iu" else -1
        left -= count * value.itemsize
        if shape.size > 32 or min(shape.reshape(-1), default=0) < 0 or left < 0 or value.size != 1:
            raise InputError(
                f"{graph.path}: node {quote(node.name)} (ConstantOfShape): "
                f"{in_one_line(shape)}; allowed: a shape, of {MAX_BYTES:,} bytes with "
                "all other tensors"
            )
        tensors[node.outputs[0]] = np.full(tuple(map(int, shape)), value.reshape(()), value.dtype)
    return graph._replace(nodes=tuple(nodes), tensors=tensors)


def _drop_softmax(graph: Graph) -> Graph:
    """Without the Softmax over classes that ends it, if one does."""
    made = {name: node for node in graph.nodes for name in node.outputs}
    uses = [name for node in graph.nodes for name in node.inputs] + [graph.output]
    name = graph.output
    while name in made and made[name].op in _ENDS and uses.count(name) == 1:
        name = made[name].inputs[0]
    last = made.get(name)
    if last is None or last.op not in ("Softmax", "LogSoftmax") or uses.count(name) > 1:
        return graph
    axis = last.attributes.get("axis", 1 if graph.opset < 13 else -1)
    if axis not in (1, -1):
        return graph
    bare = last._replace(op="Identity", attributes={})
    return graph._replace(nodes=tuple(bare if node is last else node for node in graph.nodes))


def _find_dependent(graph: Graph) -> frozenset[str]:
    """Names of the values that depend on the input."""
    found = {graph.input}
    for node in graph.nodes:
        if node.op != "Shape" and not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return frozenset(found)


def _split_tensors(graph: Graph) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Tensors that meet data, and those that are known: whole numbers and settings.

    Raises:
      InputError: a weight that is not float32, or not finite.
    """
    meets = {
        name
        for node in graph.nodes
        for place, name in enumerate(node.inputs)
        if place not in OPERATORS[node.op].static
    }
    weights, known = {}, {}
    for name, value in graph.tensors.items():
        floating = value.dtype.kind == "f"
        where = f"{graph.path}: tensor {quote(name)}"
        if floating and name in meets and not np.isfinite(value).all():
            place = np.unravel_index(int(np.argmin(np.isfinite(value))), value.shape)
            raise InputError(
                f"{where}: {value[place]} at {tuple(map(int, place))}; allowed: finite numbers"
            )
        if not floating or name not in meets or value.ndim == 0:
            known[name] = value
            continue
        if value.dtype != np.float32:
            raise InputError(f"{where}: {value.dtype}; allowed: float32")
        weights[name] = value
    return weights, known


def _make_keys(names: list[str]) -> dict[str, str]:
    """Keys of params: the tensors' names without slashes and odd letters, each another."""
    keys: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_.:-]", "_", name.replace("/", "."))[:80].strip(".") or "tensor"
        key, number = plain, 1
        while key in taken:
            number += 1
            key = f"{plain}_{number}"
        taken.add(key)
        keys[name] = key
    return keys
