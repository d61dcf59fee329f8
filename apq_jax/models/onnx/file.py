"""An ONNX file as plain Python and NumPy, checked before a number of it is used.

Nothing in a file is executed. Every size is compared with what is there before memory is taken;
weights beside the file are read from its own folder only.
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
    read_attribute,
    format_title,
    format_type,
)
from apq_jax.models.onnx.values import DTYPES, Node, quote
from apq_jax.system.errors import InputError, in_one_line

OLDEST = 9  # operator set
INSTALL = "python -m pip install 'onnx>=1.17'"
_LISTED = 20  # things that one message names at most


class Graph(NamedTuple):
    """What a file computes: the nodes that its output needs, in an order that works."""

    path: str
    opset: int
    input: str
    input_shape: tuple[int | None, ...]  # batch first; None: any
    output: str
    nodes: tuple[Node, ...]
    tensors: dict[str, np.ndarray]  # values that the file states, by name


def read(path: str | os.PathLike[str]) -> Graph:
    """Reads and checks a file.

    Raises:
      InputError: the package onnx is missing, or the file cannot be read, is larger than MOST_BYTES
        with its tensors, is not ONNX, or holds a graph that is not one of float32 images to one
        result of `OPERATORS`. All that is not supported is named at once.
    """
    path = pathlib.Path(path)
    model = _parse(path, _read_content(path))
    graph = model.graph
    opset = _read_opset(path, model)
    stated = {tensor.name for tensor in graph.initializer}
    feed, shape = _read_input(path, [one for one in graph.input if one.name not in stated])
    if len(graph.output) != 1:
        names = _join_names(one.name for one in graph.output)
        raise InputError(f"{path}: {len(graph.output)} outputs ({names}); allowed: one")
    output = graph.output[0].name
    _check_names(path, graph, {feed, *stated}, output)
    needed = _select_needed(graph, output)
    _check_supported(path, graph, needed, opset)
    _run_checker(path, model)
    tensors, used = Tensors(path), {name for node in needed for name in node.input}
    for tensor in graph.initializer:
        if tensor.name in used or tensor.name == output:
            tensors.arrays[tensor.name] = tensors.array(tensor.name, tensor)
    nodes = []
    for node in needed:
        if node.op_type == "Constant":
            tensors.add_constant(node)
        else:
            nodes.append(_convert_node(node, tensors))
    return Graph(str(path), opset, feed, shape, output, tuple(nodes), tensors.arrays)


def _join_names(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(quote(name) for name in names[:_LISTED]) + more


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
    """The file's ModelProto."""
    try:
        import onnx  # optional: only who reads such files needs it
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise InputError(f"{path}: to read it needs the package onnx: {INSTALL}") from error
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise InputError(f"{path}: is not an ONNX file ({in_one_line(error)})") from error
    for name in _iterate_texts(model):
        if not isinstance(name, str):  # protobuf gives bytes where they are not UTF-8
            raise InputError(f"{path}: is not an ONNX file (the name {name[:40]!r} is not UTF-8)")
    if not model.graph.node:
        raise InputError(f"{path}: is not an ONNX file with a graph: it has no node")
    return model


def _iterate_texts(model: Any) -> Iterator[Any]:
    """Every text of a ModelProto that is used."""
    yield from (one.domain for one in model.opset_import)
    for value in (*model.graph.input, *model.graph.output):
        yield value.name
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
    versions = [one.version for one in model.opset_import if one.domain in ("", "ai.onnx")]
    if len(versions) != 1 or not OLDEST <= versions[0] <= newest:
        found = ", ".join(map(str, versions[:_LISTED])) or "none"
        raise InputError(f"{path}: operator set {found}; allowed: one of {OLDEST} to {newest}")
    return int(versions[0])


def _read_input(path: pathlib.Path, inputs: list[Any]) -> tuple[str, tuple[int | None, ...]]:
    """Name and shape of the input that no initializer gives."""
    if len(inputs) != 1:
        names = _join_names(one.name for one in inputs)
        raise InputError(f"{path}: {len(inputs)} inputs ({names}); allowed: one, the images")
    name, kind = inputs[0].name, inputs[0].type.tensor_type
    where = f"{path}: input {quote(name)}"
    if kind.elem_type != FLOAT:
        raise InputError(f"{where}: of type {format_type(kind.elem_type)}; allowed: float (32 bits)")
    dims = [one.dim_value if one.HasField("dim_value") else None for one in kind.shape.dim]
    if len(dims) not in (2, 3, 4):
        raise InputError(
            f"{where}: {len(dims)} axes; allowed: [N, features], [N, C, L] or [N, C, H, W]"
        )
    if dims[0] is not None and dims[0] < 1:
        dims[0] = None  # how some exporters write a free batch
    for size in dims:
        if size is not None and not 1 <= size <= MAX_BYTES // 4:
            raise InputError(f"{where}: an axis of {size}; allowed: 1 or more, or a free one")
    return name, tuple(dims)


def _check_names(path: pathlib.Path, graph: Any, given: set[str], output: str) -> None:
    """Raises InputError unless every name has one origin, which comes before its uses."""
    named = Counter(one.name for one in graph.initializer)
    named.update({one.name for one in graph.input} - named.keys())
    named.update(name for node in graph.node for name in node.output if name)
    for name, times in named.items():
        if times > 1:
            raise InputError(f"{path}: {quote(name)}: {times} values of that name; allowed: one")
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
    """The nodes that the output depends on, in the file's order."""
    wanted, found = {output}, []
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            found.append(node)
            wanted.update(name for name in node.input if name)
    return found[::-1]


def _check_supported(path: pathlib.Path, graph: Any, needed: list[Any], opset: int) -> None:
    """Raises InputError that names all that is not supported."""
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
        rest = len(problems) - _LISTED
        more = f"; and {rest} more" if rest > 0 else ""
        raise InputError(
            f"{path}: not supported: {'; '.join(problems[:_LISTED])}{more}; allowed: "
            f"{', '.join(sorted({*OPERATORS, 'Constant'}))}"
        )


def _format_operator(node: Any) -> str:
    name = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    return name if name.isprintable() and len(name) <= 80 else quote(name)


def _find_node_refusals(node: Any, used: set[str], opset: int) -> Iterator[str]:
    if node.op_type == "Constant":
        if [(one.name, one.type) for one in node.attribute] not in [
            [it] for it in _CONSTANTS.items()
        ]:
            yield f"not one attribute of {', '.join(_CONSTANTS)}"
        return
    operator = OPERATORS[_format_operator(node)]
    for name in node.output[operator.outputs :]:
        if name in used:
            yield f"its output {quote(name)}"
    attributes: dict[str, Any] = {}
    for one in node.attribute:
        value = read_attribute(one)
        if one.name not in operator.attributes:
            yield f"attribute {quote(one.name)}"
        elif value is OTHER:
            yield f"attribute {one.name} of another type"
        elif value is not TENSOR:
            attributes[one.name] = value
    yield from find_refusals(node.op_type, attributes, opset)


# Attributes of a Constant that are read, and their AttributeProto types.
_CONSTANTS = {"value": 4, "value_float": 1, "value_floats": 6, "value_int": 2, "value_ints": 7}


def _run_checker(path: pathlib.Path, model: Any) -> None:
    """onnx's own check of the graph; tensors, which are checked here, stand as inputs."""
    import onnx

    skeleton = onnx.ModelProto()
    skeleton.ir_version = model.ir_version
    skeleton.opset_import.extend(model.opset_import)
    graph = skeleton.graph
    graph.name = "graph"
    graph.output.append(_declare(model.graph.output[0].name))
    graph.node.extend(node for node in model.graph.node if node.op_type != "Constant")
    inputs = {one.name for one in model.graph.input}
    graph.input.extend(model.graph.input)
    for tensor in model.graph.initializer:
        if tensor.name not in inputs:
            graph.input.append(_declare(tensor.name))
    for node in model.graph.node:
        if node.op_type == "Constant":
            graph.input.extend(_declare(name) for name in node.output)
    try:
        onnx.checker.check_model(skeleton)
    except Exception as error:  # it raises errors of several kinds, some of protobuf's
        raise InputError(f"{path}: is not sound ({in_one_line(error)})") from error


def _declare(name: str) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(name, FLOAT, [])


def _convert_node(node: Any, tensors: Tensors) -> Node:
    title, attributes = format_title(node), {}
    for one in node.attribute:
        value = read_attribute(one)
        attributes[one.name] = tensors.array(title, one.t) if value is TENSOR else value
    return Node(node.op_type, title, tuple(node.input), tuple(node.output), attributes)
