"""Reads an ONNX file into plain Python and NumPy, and checks it before any number is used.

Nothing in a file is executed. Every stated size is compared with the bytes that exist before memory
is taken. External weights are read only from the file's own folder and below.
"""

import os
import pathlib
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from apq_jax.models.onnx.operators import OPERATORS, find_refusals
from apq_jax.models.onnx.tensors import (
    FLOAT,
    MAX_BYTES,
    OTHER,
    TENSOR,
    Tensors,
    format_title,
    format_type,
    read_attribute,
)
from apq_jax.models.onnx.values import DTYPES, Node, quote
from apq_jax.system.errors import InputError, make_one_line

OLDEST = 9  # the first supported operator set
INSTALL = "python -m pip install 'onnx>=1.17'"
_MAX_LISTED = 20  # items that one message names
_DOMAINS = ("", "ai.onnx")  # of ONNX's own operators


class Graph(NamedTuple):
    """A file's computation: the nodes that its output needs, each after the nodes it reads."""

    path: str
    opset: int  # version of the operator set
    input: str
    input_shape: tuple[int | None, ...]  # batch first; None for a free axis
    output: str
    nodes: tuple[Node, ...]
    tensors: dict[str, np.ndarray]  # the file's weights and constants, by name


def read(path: str | os.PathLike[str]) -> Graph:
    """Reads and checks an ONNX file.

    Raises:
      InputError: the package onnx is missing; the file cannot be read, is not ONNX, or is larger
        than MAX_BYTES, alone or with its tensors; its graph does not have one float32 input and one
        output; or parts of the graph are not supported, which the message lists together.
    """
    path = pathlib.Path(path)
    model = _parse(path, _read_content(path))
    graph = model.graph
    opset = _read_opset(path, model)
    initialized = {tensor.name for tensor in graph.initializer}
    inputs = [info for info in graph.input if info.name not in initialized]
    input_name, shape = _read_input(path, inputs)
    if len(graph.output) != 1:
        names = _join_names(info.name for info in graph.output)
        raise InputError(f"{path}: {len(graph.output)} outputs ({names}); allowed: one")
    output = graph.output[0].name
    _check_names(path, graph, {input_name, *initialized}, output)
    needed = _select_needed(graph, output)
    _check_supported(path, graph, needed, opset)
    _run_checker(path, model)
    tensors, used = Tensors(path), {name for node in needed for name in node.input}
    for tensor in graph.initializer:
        if tensor.name in used or tensor.name == output:
            tensors.arrays[tensor.name] = tensors.read_array(tensor.name, tensor)
    nodes = []
    for node in needed:
        if node.op_type == "Constant":
            tensors.add_constant(node)
        else:
            nodes.append(_convert_node(node, tensors))
    return Graph(str(path), opset, input_name, shape, output, tuple(nodes), tensors.arrays)


def _join_names(names: Iterable[str]) -> str:
    """Returns the quoted names as one text, which counts all names after the first few."""
    names = list(names)
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(quote(name) for name in names[:_MAX_LISTED]) + more


def _read_content(path: pathlib.Path) -> bytes:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path}: is not a file; allowed: an ONNX file")
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: more than {MAX_BYTES:,} bytes; allowed: up to that")
    return content


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
    for info in (*model.graph.input, *model.graph.output):
        yield info.name
    for node in model.graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            yield from _iterate_tensor_texts(attribute.t)
    for tensor in model.graph.initializer:
        yield from _iterate_tensor_texts(tensor)


def _iterate_tensor_texts(tensor: Any) -> Iterator[Any]:
    yield tensor.name
    for entry in tensor.external_data:
        yield from (entry.key, entry.value)


def _read_opset(path: pathlib.Path, model: Any) -> int:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    versions = [entry.version for entry in model.opset_import if entry.domain in _DOMAINS]
    if len(versions) != 1 or not OLDEST <= versions[0] <= newest:
        listed = ", ".join(map(str, versions[:_MAX_LISTED])) or "none"
        raise InputError(f"{path}: operator set {listed}; allowed: one of {OLDEST} to {newest}")
    return int(versions[0])


def _read_input(path: pathlib.Path, inputs: list[Any]) -> tuple[str, tuple[int | None, ...]]:
    """Returns the name and shape of the images' input; `inputs` are those without a value."""
    if len(inputs) != 1:
        names = _join_names(info.name for info in inputs)
        raise InputError(f"{path}: {len(inputs)} inputs ({names}); allowed: one, the images")
    name, kind = inputs[0].name, inputs[0].type.tensor_type
    where = f"{path}: input {quote(name)}"
    if kind.elem_type != FLOAT:
        type_name = format_type(kind.elem_type)
        raise InputError(f"{where}: of type {type_name}; allowed: float (32 bits)")
    dims = [axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim]
    if len(dims) not in (2, 3, 4):
        raise InputError(
            f"{where}: {len(dims)} axes; allowed: [N, features], [N, C, L] or [N, C, H, W]"
        )
    if dims[0] is not None and dims[0] < 1:
        dims[0] = None  # some exporters write a free batch as 0 or -1
    for size in dims:
        if size is not None and not 1 <= size <= MAX_BYTES // 4:
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
    known = set(given)
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                where = f"{path}: node {quote(format_title(node))} ({quote(node.op_type)})"
                if name in named:
                    raise InputError(
                        f"{where}: reads {quote(name)} before it is computed; allowed: nodes in "
                        "an order that works, without a cycle"
                    )
                raise InputError(
                    f"{where}: reads {quote(name)}, which no node, input or initializer gives"
                )
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


def _check_supported(path: pathlib.Path, graph: Any, needed: list[Any], opset: int) -> None:
    """Raises one InputError that lists all unsupported nodes and initializers."""
    used = {name for node in needed for name in node.input} | {graph.output[0].name}
    problems: list[str] = []
    for node in needed:
        title = f"{_format_operator(node)} {quote(format_title(node))}"
        if _format_operator(node) not in {*OPERATORS, "Constant"}:
            problems.append(title)
            continue
        problems += [f"{title} ({reason})" for reason in _find_node_refusals(node, used, opset)]
    for tensor in graph.initializer:
        if tensor.name in used and tensor.data_type not in DTYPES:
            kind = format_type(tensor.data_type)
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


def _find_node_refusals(node: Any, used: set[str], opset: int) -> Iterator[str]:
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
        value = read_attribute(attribute)
        if attribute.name not in operator.attributes:
            yield f"attribute {quote(attribute.name)}"
        elif value is OTHER:
            yield f"attribute {attribute.name} of another type"
        elif value is not TENSOR:
            attributes[attribute.name] = value
    yield from find_refusals(node.op_type, attributes, opset)


# Supported attributes of a Constant, and their AttributeProto types.
_CONSTANTS = {"value": 4, "value_float": 1, "value_floats": 6, "value_int": 2, "value_ints": 7}


def _run_checker(path: pathlib.Path, model: Any) -> None:
    """Runs onnx's own checker on the graph, with inputs instead of tensors (see `Tensors`)."""
    import onnx

    skeleton = onnx.ModelProto()
    skeleton.ir_version = model.ir_version
    skeleton.opset_import.extend(model.opset_import)
    graph = skeleton.graph
    graph.name = "graph"
    graph.output.append(_declare(model.graph.output[0].name))
    graph.node.extend(node for node in model.graph.node if node.op_type != "Constant")
    inputs = {info.name for info in model.graph.input}
    graph.input.extend(model.graph.input)
    for tensor in model.graph.initializer:
        if tensor.name not in inputs:
            graph.input.append(_declare(tensor.name))
    for node in model.graph.node:
        if node.op_type == "Constant":
            graph.input.extend(_declare(name) for name in node.output)
    try:
        onnx.checker.check_model(skeleton)
    except Exception as error:  # the checker raises errors of several kinds, some of protobuf's
        raise InputError(f"{path}: is not sound ({make_one_line(error)})") from error


def _declare(name: str) -> Any:
    """Returns a ValueInfoProto of a float scalar."""
    import onnx

    return onnx.helper.make_tensor_value_info(name, FLOAT, [])


def _convert_node(node: Any, tensors: Tensors) -> Node:
    """Returns a NodeProto as a `Node`, its tensors read."""
    title, attributes = format_title(node), {}
    for attribute in node.attribute:
        value = read_attribute(attribute)
        if value is TENSOR:
            value = tensors.read_array(title, attribute.t)
        attributes[attribute.name] = value
    return Node(node.op_type, title, tuple(node.input), tuple(node.output), attributes)
