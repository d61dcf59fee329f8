"""Turns an ONNX file into a JAX function of its weights and a batch.

`load` returns the model in its own layout; `build_classifier` adapts it to images [B, H, W, C].
Weights keep the file's shapes, so that `apq_jax.capture` finds convolutions and matrix products.
"""

import dataclasses
import math
import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.models.onnx import file
from apq_jax.models.onnx.file import Graph
from apq_jax.models.onnx.operators import OPERATORS
from apq_jax.models.onnx.tensors import MAX_BYTES
from apq_jax.models.onnx.values import Call, Node, is_known, quote
from apq_jax.system.errors import InputError, make_one_line

_MAX_VALUES = 1 << 28  # elements of a node's result, for one example
_ENDS = ("Identity", "Flatten", "Reshape", "Squeeze")  # may follow the Softmax that ends a graph
Params = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """A file's model as a function, which may be a static argument: it is hashed by identity."""

    graph: Graph  # without its tensors
    known: dict[str, np.ndarray]  # shapes, axes and other settings, by name
    keys: dict[str, str]  # each weight's key in params, by the weight's name
    data: frozenset[str]  # names of the values that depend on x

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        """Computes the model's output [B, classes] for inputs x [B, ...] in the file's layout.

        Raises:
          InputError: the shape of x does not fit; or a node fails or has a result that is empty or
            too large, and the message names the node.
        """
        graph, x = self.graph, jnp.asarray(x)
        shape = (None, *graph.input_shape[1:])
        fits = [size in (None, given) for size, given in zip(shape, x.shape, strict=False)]
        if len(shape) != x.ndim or not all(fits):
            raise InputError(
                f"{graph.path}: input {quote(graph.input)}: given {list(x.shape)}; "
                f"allowed: {format_shape(graph.input_shape)}"
            )
        values: dict[str, Any] = {"": None, graph.input: x, **self.known}
        values |= {name: jnp.asarray(params[key]) for name, key in self.keys.items()}
        for node in graph.nodes:
            results = self._run_node(node, [values[name] for name in node.inputs], x.shape[0])
            values.update(zip(node.outputs, results, strict=False))
        y = values[graph.output]
        if y.ndim < 2 or y.shape[0] != x.shape[0] or math.prod(y.shape[2:]) != 1:
            raise InputError(
                f"{graph.path}: output {quote(graph.output)}: {list(y.shape)} for a batch of "
                f"{x.shape[0]}; allowed: [N, classes], or ones after that"
            )
        return y.reshape(y.shape[:2])

    def _run_node(self, node: Node, inputs: list[Any], batch: int) -> tuple[Any, ...]:
        """Computes a node's results; raises InputError for shapes that do not fit."""
        where = _format_node(self.graph, node)
        fixed_batch = self.graph.input_shape[0]
        try:
            # The scope names a product without a weight in `apq_jax.capture`.
            with np.errstate(all="raise"), jax.named_scope(_clean_name(node.module or node.name)):
                if fixed_batch not in (None, batch):
                    inputs = self._rebatch(node, inputs, batch)
                call = Call(node.attributes, self.graph.opset, len(node.outputs))
                results = OPERATORS[node.op].function(call, *inputs)
        except Exception as error:  # any error that NumPy and JAX raise for shapes that do not fit
            fixed = f" (the file was written for a batch of {fixed_batch})" if fixed_batch else ""
            raise InputError(f"{where}: {make_one_line(error)}{fixed}") from error
        results = results if isinstance(results, tuple) else (results,)
        for result in results:
            if not (is_known(result) or 0 < math.prod(result.shape) <= _MAX_VALUES * batch):
                raise InputError(
                    f"{where}: a result of {list(result.shape)}; allowed: 1 to {_MAX_VALUES:,} "
                    "values an example"
                )
        return results

    def _rebatch(self, node: Node, inputs: list[Any], batch: int) -> list[Any]:
        """Returns a node's inputs with `batch` in place of the file's own fixed batch.

        A Reshape to a constant shape takes the batch. A Concat beside images repeats values that
        are the same for each image, such as a class token.
        """
        fixed_batch = self.graph.input_shape[0]
        of_data = [name in self.data for name in node.inputs]
        if node.op == "Reshape" and of_data[0] and inputs[0].shape[0] == batch:
            shape = inputs[1]
            if is_known(shape) and shape.ndim == 1 and list(shape[:1]) == [fixed_batch]:
                return [inputs[0], np.concatenate([[batch], shape[1:]])]
        if node.op == "Concat" and any(of_data) and fixed_batch == 1:
            return [
                x if is_image or x.ndim < 2 or len(x) > 1 else jnp.repeat(x, batch, axis=0)
                for x, is_image in zip(inputs, of_data, strict=True)
            ]
        return inputs


class Model(NamedTuple):
    """An ONNX file's model and weights."""

    apply_fn: Function  # (params, x [B, ...] in the file's layout) -> [B, classes]
    params: Params  # the float32 tensors that meet data; no key has a slash
    input_shape: tuple[int | None, ...]  # of x, the batch first; None for a free axis


def load(path: str | os.PathLike[str], *, probabilities: bool = False) -> Model:
    """Reads an ONNX model of one input and one output, [N, classes] or [N, classes, 1, 1].

    Args:
      path: the file; external weights are read from its folder and below.
      probabilities: whether to keep a Softmax or LogSoftmax that ends the graph. By default it is
        left out, because the package works on logits.

    Raises:
      InputError: as `file.read`; the output does not depend on the input; weights are not finite
        float32 numbers; or shapes do not fit each other, which is tested only if the file states
        the whole shape of the input but for the batch.
    """
    graph = _fill_constants(file.read(path))
    if not probabilities:
        graph = _drop_softmax(graph)
    data = _find_dependent(graph)
    if graph.output not in data:
        raise InputError(f"{path}: output {quote(graph.output)}: does not depend on the input")
    weights, known = _split_tensors(graph)
    keys = _make_keys(_name_weights(graph, weights))
    params = {keys[name]: jnp.asarray(value) for name, value in weights.items()}
    apply_fn = Function(graph._replace(tensors={}), known, keys, data)
    if None not in graph.input_shape[1:]:
        _count_classes(apply_fn, params, graph.input_shape[1:])
    return Model(apply_fn, params, graph.input_shape)


def build_classifier(
    model: Model, image_shape: tuple[int, ...], classes: int, layout: str = "NCHW"
) -> Any:
    """Returns the model as a function `(params, images [B, H, W, C]) -> logits [B, classes]`.

    Args:
      model: from `load`.
      image_shape: (H, W, C).
      classes: number of the data's classes, the largest label plus 1.
      layout: axes of the model's input, "NCHW" (as in most files) or "NHWC". If the input is
        [N, features], the layout is the order in which an image becomes features. If the input is
        [N, H, W], the layout does not matter, and images need one channel.

    Raises:
      InputError: images or classes do not fit the model.
    """
    apply_fn, rank = model.apply_fn, len(model.input_shape)
    order = (0, 3, 1, 2) if layout == "NCHW" else (0, 1, 2, 3)

    def apply_to_images(params: Params, images: jax.Array) -> jax.Array:
        x = jnp.transpose(images, order)
        if rank == 2:
            x = x.reshape(x.shape[0], -1)
        if rank == 3 and image_shape[2] == 1:
            x = images[..., 0]
        return apply_fn(params, x)

    try:
        count = _count_classes(apply_to_images, model.params, image_shape)
    except InputError as error:
        words = f"images of {' x '.join(map(str, image_shape))} in layout {layout}"
        sizes = zip(model.input_shape[1:], image_shape, strict=False)
        if rank == 4 and layout == "NCHW" and all(size in (None, n) for size, n in sizes):
            are_channels_first = image_shape[0] < image_shape[2]
            words += ", which is the file's shape: " + (
                "store images.transpose(0, 2, 3, 1)"
                if are_channels_first
                else "set config.model.layout to NHWC"
            )
        raise InputError(f"{error} ({words})") from error
    if count < classes:  # more will do: the data may show some of the classes, by their numbers
        raise InputError(
            f"{apply_fn.graph.path}: output {quote(apply_fn.graph.output)}: {count} classes; "
            f"allowed: the {classes} of the data, or more"
        )
    return apply_to_images


def format_shape(shape: tuple[int | None, ...]) -> str:
    """Returns a shape as text, with N for the first axis, such as "[N, 3, any, any]"."""
    return f"[{', '.join(['N', *('any' if n is None else str(n) for n in shape[1:])])}]"


def _format_node(graph: Graph, node: Node) -> str:
    """Returns where a message's problem is: the file, the node's name and its operator."""
    return f"{graph.path}: node {quote(node.name)} ({node.op})"


def _count_classes(apply_fn: Any, params: Params, size: tuple[int | None, ...]) -> int:
    """Returns the number of classes for inputs [B, *size], by tracing with two batch sizes."""
    for batch in (2, 3):
        x = jax.ShapeDtypeStruct((batch, *size), jnp.float32)
        logits = jax.eval_shape(apply_fn, params, x)
    return int(logits.shape[1])


def _fill_constants(graph: Graph) -> Graph:
    """Turns each ConstantOfShape node with a constant shape into a tensor.

    Raises:
      InputError: a shape is not one, or the tensors exceed MAX_BYTES.
    """
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
                f"{_format_node(graph, node)}: {make_one_line(shape)}; allowed: a shape, of "
                f"{MAX_BYTES:,} bytes with all other tensors"
            )
        tensors[node.outputs[0]] = np.full(tuple(map(int, shape)), value.reshape(()), value.dtype)
    return graph._replace(nodes=tuple(nodes), tensors=tensors)


def _drop_softmax(graph: Graph) -> Graph:
    """Removes a Softmax over classes that ends the graph."""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    uses = [name for node in graph.nodes for name in node.inputs] + [graph.output]
    name = graph.output
    while name in makers and makers[name].op in _ENDS and uses.count(name) == 1:
        name = makers[name].inputs[0]
    last = makers.get(name)
    if last is None or last.op not in ("Softmax", "LogSoftmax") or uses.count(name) > 1:
        return graph
    axis = last.attributes.get("axis", 1 if graph.opset < 13 else -1)
    if axis not in (1, -1):
        return graph
    identity = last._replace(op="Identity", attributes={})
    return graph._replace(nodes=tuple(identity if node is last else node for node in graph.nodes))


def _find_dependent(graph: Graph) -> frozenset[str]:
    """Returns the names of the values that depend on the input; shapes do not."""
    dependent = {graph.input}
    for node in graph.nodes:
        if node.op != "Shape" and not dependent.isdisjoint(node.inputs):
            dependent.update(node.outputs)
    return frozenset(dependent)


def _split_tensors(graph: Graph) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Splits the tensors into weights and known values (integers, scalars and settings).

    Raises:
      InputError: a weight is not float32, or not finite.
    """
    data_inputs = {
        name
        for node in graph.nodes
        for index, name in enumerate(node.inputs)
        if index not in OPERATORS[node.op].static
    }
    weights, known = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for name, value in graph.tensors.items():
        if value.dtype.kind != "f" or name not in data_inputs:
            known[name] = value
            continue
        where, finite = f"{graph.path}: tensor {quote(name)}", np.isfinite(value)
        if not finite.all():
            place = tuple(map(int, np.unravel_index(int(np.argmin(finite)), value.shape)))
            raise InputError(f"{where}: {value[place]} at {place}; allowed: finite numbers")
        if value.ndim and value.dtype != np.float32:
            raise InputError(f"{where}: {value.dtype}; allowed: float32")
        (weights if value.ndim else known)[name] = value
    return weights, known


def _name_weights(graph: Graph, weights: Iterable[str]) -> dict[str, str]:
    """Returns a better name for each weight: PyTorch's, where its exporter only numbered it."""
    better_names: dict[str, str] = {}
    for node in graph.nodes:
        if node.module and node.op in ("Conv", "Gemm", "MatMul"):
            for index, name in enumerate(node.inputs):
                if re.fullmatch(r"(val_|onnx::\w+_)?\d+", name):
                    kind = "bias" if index == 2 else "weight"
                    better_names.setdefault(name, f"{node.module}.{kind}")
    return {name: better_names.get(name, name) for name in weights}


def _clean_name(name: str) -> str:
    """Returns a name without slashes and odd letters, at most 80 characters, not empty."""
    clean = re.sub(r"[^A-Za-z0-9_.:-]", "_", name.replace("/", "."))
    return clean[:80].strip(".") or "tensor"


def _make_keys(better_names: dict[str, str]) -> dict[str, str]:
    """Returns a key in params for each tensor's name: unique, as `_clean_name` leaves it."""
    names_by_key: dict[str, str] = {}
    for name, better in better_names.items():
        base = _clean_name(better)
        key, count = base, 1
        while key in names_by_key:
            count += 1
            key = f"{base}_{count}"
        names_by_key[key] = name
    return {name: key for key, name in names_by_key.items()}
