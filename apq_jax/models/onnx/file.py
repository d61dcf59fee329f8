"""Reads an ONNX file into plain Python and NumPy, and checks it before any number is used.

Nothing in a file is executed. Every stated size is compared with the bytes that exist before memory
is taken. External weights are read only from the file's own folder and below.
"""

import os
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from apq_jax.models.onnx import tensors
from apq_jax.models.onnx.operators import OPERATORS, find_refusals
from apq_jax.models.onnx.values import DTYPES, Node, quote
from apq_jax.system.errors import InputError, make_one_line
from apq_jax.system.files import read_file

OLDEST = 9  # the first supported operator set
INSTALL = "python -m pip install 'onnx>=1.17'"
_MAX_LISTED = 20  # items that one message names
_DOMAINS = ("", "ai.onnx")  # of ONNX's own operators


class Graph(NamedTuple):
    """The part of a file's graph that its output needs; no node precedes the nodes it reads."""

    path: str
    opset: int  # version of the operator set
    input: str
    input_shape: tuple[int | None, ...]  # batch first; None for a free axis
    output: str
    nodes: tuple[Node, ...]  # without Constant nodes
    tensors: dict[str, np.ndarray]  # initializers and values of Constant nodes, by name


def read(path: str | os.PathLike[str]) -> Graph:
    """Reads and checks an ONNX file, and returns the part of its graph that the output needs.

    Raises:
      InputError: the package onnx is missing; the file cannot be read or is not sound ONNX; the
        file, or all tensors that the output needs, have more than `tensors.MAX_BYTES`; the graph
        does not have one float32 input and one output; or the output needs parts that are not
        supported, which the message lists together.
    """
    path = pathlib.Path(path)
    model = _parse(path, read_file(path, tensors.MAX_BYTES))
    graph = model.graph
    opset = _read_opset(path, model)
    initialized = {tensor.name for tensor in graph.initializer}
    inputs = [info for info in graph.input if info.name not in initialized]
    input_name, shape = _read_input(path, inputs)
    if len(graph.output) != 1:
        names = _join_names(graph.output)
        raise InputError(f"{path}: {len(graph.output)} outputs ({names}); allowed: one")
    output = graph.output[0].name
    _check_names(path, graph, {input_name, *initialized}, output)
    needed = _select_needed(graph, output)
    _check_supported(path, graph, needed)
    _run_checker(path, model)
    reader, used = tensors.Reader(path), {output}.union(*(node.input for node in needed))
    arrays = {
        tensor.name: reader.read(tensor.name, tensor)
        for tensor in graph.initializer
        if tensor.name in used
    }
    nodes = []
    for node in (_convert_node(node, reader) for node in needed):
        if node.op != "Constant":
            nodes.append(node)
            continue
        ((name, value),) = node.attributes.items()
        dtype = {"value": None, "value_int": np.int64, "value_ints": np.int64}.get(name, np.float32)
        arrays |= dict.fromkeys(node.outputs, np.asarray(value, dtype))
    return Graph(str(path), opset, input_name, shape, output, tuple(nodes), arrays)


def _join_names(infos: Sequence[Any]) -> str:
    """Returns the quoted names of inputs or outputs; after the first few, their count."""
    more = f" and {len(infos) - _MAX_LISTED} more" if len(infos) > _MAX_LISTED else ""
    return ", ".join(quote(info.name) for info in infos[:_MAX_LISTED]) + more


def _parse(path: pathlib.Path, content: bytes) -> Any:
    """Returns the file's ModelProto."""
    try:
        import onnx  # optional, because only ONNX files need it
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise InputError(f"{path}: to read it needs the package onnx: {INSTALL}") from error
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise InputError(f"{path}: is not an ONNX file ({make_one_line(error)})") from error
    for name in _iterate_texts(model):
        if not isinstance(name, str):  # protobuf gives bytes where they are not UTF-8
            raise InputError(f"{path}: is not an ONNX file (the name {name[:40]!r} is not UTF-8)")
    if not model.graph.node:
        raise InputError(f"{path}: is not an ONNX file with a graph: it has no node")
    return model


def _iterate_texts(model: Any) -> Iterator[Any]:
    """Yields every text of a ModelProto that this package uses."""
    yield from (entry.domain for entry in model.opset_import)
    yield from (info.name for info in (*model.graph.input, *model.graph.output))
    for node in model.graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (text for entry in node.metadata_props for text in (entry.key, entry.value))
        for attribute in node.attribute:
            yield attribute.name
            yield from _iterate_tensor_texts(attribute.t)
    for tensor in model.graph.initializer:
        yield from _iterate_tensor_texts(tensor)


def _iterate_tensor_texts(tensor: Any) -> Iterator[Any]:
    yield tensor.name
    yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))


def _read_opset(path: pathlib.Path, model: Any) -> int:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    versions = [entry.version for entry in model.opset_import if entry.domain in _DOMAINS]
    if len(versions) != 1 or not OLDEST <= versions[0] <= newest:
        listed = ", ".join(map(str, versions[:_MAX_LISTED])) or "none"
        raise InputError(f"{path}: operator set {listed}; allowed: one of {OLDEST} to {newest}")
    return int(versions[0])


def _read_input(path: pathlib.Path, inputs: list[Any]) -> tuple[str, tuple[int | None, ...]]:
    """Returns the name and shape of the one input for images; `inputs` have no initializer."""
    if len(inputs) != 1:
        names = _join_names(inputs)
        raise InputError(f"{path}: {len(inputs)} inputs ({names}); allowed: one, the images")
    name, kind = inputs[0].name, inputs[0].type.tensor_type
    where = f"{path}: input {quote(name)}"
    if kind.elem_type != tensors.FLOAT:
        type_name = tensors.format_type(kind.elem_type)
        raise InputError(f"{where}: of type {type_name}; allowed: float (32 bits)")
    dims = [axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim]
    if len(dims) not in (2, 3, 4):
        raise InputError(
            f"{where}: {len(dims)} axes; allowed: [N, features], [N, C, L] or [N, C, H, W]"
        )
    if dims[0] is not None and dims[0] < 1:
        dims[0] = None  # some exporters write a free batch as 0 or -1
    for size in dims:
        if size is not None and not 1 <= size <= tensors.MAX_BYTES // 4:
            raise InputError(f"{where}: an axis of {size}; allowed: 1 or more, or a free one")
    return name, tuple(dims)


def _check_names(path: pathlib.Path, graph: Any, given: set[str], output: str) -> None:
    """Raises InputError unless every name has exactly one origin, which precedes its uses."""
    named = Counter(tensor.name for tensor in graph.initializer)
    named.update({info.name for info in graph.input} - named.keys())
    named.update(name for node in graph.node for name in node.output if name)
    for name, count in named.items():
        if count > 1:
            raise InputError(f"{path}: {quote(name)}: {count} values of that name; allowed: one")
    if "" in named:
        raise InputError(f"{path}: an initializer or input without a name")
    if graph.sparse_initializer:
        raise InputError(f"{path}: sparse initializers; allowed: dense ones")
    early = " before it is computed; allowed: nodes in an order that works, without a cycle"
    known = set(given)
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                where = f"{path}: node {quote(tensors.format_title(node))} ({quote(node.op_type)})"
                problem = early if name in named else ", which no node, input or initializer gives"
                raise InputError(f"{where}: reads {quote(name)}{problem}")
        known.update(name for name in node.output if name)
    if output not in known:
        raise InputError(f"{path}: output {quote(output)}: no node gives it")


def _select_needed(graph: Any, output: str) -> list[Any]:
    """Returns the nodes that the output depends on, in the file's order."""
    names, nodes = {output}, []
    for node in reversed(graph.node):
        if not names.isdisjoint(node.output):
            nodes.append(node)
            names.update(name for name in node.input if name)
    return nodes[::-1]


def _check_supported(path: pathlib.Path, graph: Any, needed: list[Any]) -> None:
    """Raises one InputError that lists all unsupported nodes and initializers."""
    used = {graph.output[0].name}.union(*(node.input for node in needed))
    problems: list[str] = []
    for node in needed:
        title = f"{_format_operator(node)} {quote(tensors.format_title(node))}"
        if _format_operator(node) not in {*OPERATORS, "Constant"}:
            problems.append(title)
        else:
            problems += [f"{title} ({reason})" for reason in _find_node_refusals(node, used)]
    for tensor in graph.initializer:
        if tensor.name in used and tensor.data_type not in DTYPES:
            kind = tensors.format_type(tensor.data_type)
            problems.append(f"initializer {quote(tensor.name)} (of type {kind})")
    if problems:
        rest = len(problems) - _MAX_LISTED
        more = f"; and {rest} more" if rest > 0 else ""
        raise InputError(
            f"{path}: not supported: {'; '.join(problems[:_MAX_LISTED])}{more}; allowed: "
            f"{', '.join(sorted({*OPERATORS, 'Constant'}))}"
        )


def _format_operator(node: Any) -> str:
    """Returns a node's operator, with its domain unless that is ONNX's own."""
    name = node.op_type if node.domain in _DOMAINS else f"{node.domain}.{node.op_type}"
    return name if name.isprintable() and len(name) <= 80 else quote(name)


def _find_node_refusals(node: Any, used: set[str]) -> Iterator[str]:
    """Yields a message for each output and attribute of a node that is not supported."""
    if node.op_type == "Constant":
        stated = [(attribute.name, attribute.type) for attribute in node.attribute]
        if len(stated) != 1 or stated[0] not in _CONSTANTS.items():
            yield f"not one attribute of {', '.join(_CONSTANTS)}"
        return
    operator = OPERATORS[_format_operator(node)]
    for name in node.output[operator.outputs :]:
        if name in used:
            yield f"its output {quote(name)}"
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        value = tensors.read_attribute(attribute)
        if attribute.name not in operator.attributes:
            yield f"attribute {quote(attribute.name)}"
        elif value is tensors.OTHER:
            yield f"attribute {attribute.name} of another type"
        elif value is not tensors.TENSOR:
            attributes[attribute.name] = value
    yield from find_refusals(attributes)


# Supported attributes of a Constant, and their AttributeProto types.
_CONSTANTS = {"value": 4, "value_float": 1, "value_floats": 6, "value_int": 2, "value_ints": 7}


def _run_checker(path: pathlib.Path, model: Any) -> None:
    """Runs onnx's own checker on the graph, without tensors, because `tensors.Reader` checks them.

    Inputs of the graph, float scalars, stand for the tensors.
    """
    import onnx

    inputs = {info.name for info in model.graph.input}
    names = [tensor.name for tensor in model.graph.initializer if tensor.name not in inputs]
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    constants = (node for node in model.graph.node if node.op_type == "Constant")
    names += [name for node in constants for name in node.output]
    *scalars, output = (
        onnx.helper.make_tensor_value_info(name, tensors.FLOAT, [])
        for name in (*names, model.graph.output[0].name)
    )
    graph = onnx.helper.make_graph(nodes, "graph", [*model.graph.input, *scalars], [output])
    versions = {"opset_imports": model.opset_import, "ir_version": model.ir_version}
    try:
        onnx.checker.check_model(onnx.helper.make_model(graph, **versions))
    except Exception as error:  # the checker raises errors of several kinds, some of protobuf's
        raise InputError(f"{path}: is not sound ({make_one_line(error)})") from error


def _convert_node(node: Any, reader: tensors.Reader) -> Node:
    """Returns a NodeProto as a `Node`, its tensors read."""
    title, attributes = tensors.format_title(node), {}
    for attribute in node.attribute:
        value = tensors.read_attribute(attribute)
        if value is tensors.TENSOR:
            value = reader.read(title, attribute.t)
        attributes[attribute.name] = value
    names = tuple(node.input), tuple(node.output)
    return Node(node.op_type, title, *names, attributes, tensors.read_module(node))
