"""An ONNX file as plain Python and NumPy, checked before a number of it is used.

Nothing in a file is executed. Every size is compared with what is there before memory is taken;
weights beside the file are read from its own folder only.
"""

import math
import os
import pathlib
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from apq_jax.files import InputError, in_one_line
from apq_jax.interop.onnx_ops import OPERATORS, refusals
from apq_jax.interop.onnx_values import DTYPES, Node

OLDEST = 9  # operator set
MOST_BYTES = (2 << 30) - 1  # of the file, as protobuf allows; and of all tensors together
INSTALL = "python -m pip install 'onnx>=1.17'"
_FLOAT = 1  # TensorProto.FLOAT
_EXTERNAL = 1  # TensorProto.EXTERNAL
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
    model = _parsed(path, _content(path))
    graph = model.graph
    opset = _opset(path, model)
    stated = {tensor.name for tensor in graph.initializer}
    feed, shape = _input(path, [one for one in graph.input if one.name not in stated])
    if len(graph.output) != 1:
        names = _words(one.name for one in graph.output)
        raise InputError(f"{path}: {len(graph.output)} outputs ({names}); allowed: one")
    output = graph.output[0].name
    _need_sound(path, graph, {feed, *stated}, output)
    needed = _needed(graph, output)
    _need_supported(path, graph, needed, opset)
    _check(path, model)
    tensors, used = _Tensors(path), {name for node in needed for name in node.input}
    for tensor in graph.initializer:
        if tensor.name in used or tensor.name == output:
            tensors.arrays[tensor.name] = tensors.array(tensor.name, tensor)
    nodes = []
    for node in needed:
        if node.op_type == "Constant":
            tensors.add_constant(node)
        else:
            nodes.append(_plain(node, tensors))
    return Graph(str(path), opset, feed, shape, output, tuple(nodes), tensors.arrays)


def quoted(name: str) -> str:
    """A name in a message, which is one line that no terminal acts upon."""
    return repr(name if len(name) <= 80 else f"{name[:77]}...")


def _words(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(quoted(name) for name in names[:_LISTED]) + more


def _content(path: pathlib.Path) -> bytes:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path}: is not a file; allowed: an ONNX file")
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > MOST_BYTES:
        raise InputError(f"{path}: more than {MOST_BYTES:,} bytes; allowed: up to that")
    return content


def _parsed(path: pathlib.Path, content: bytes) -> Any:
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
    for name in _names(model):
        if not isinstance(name, str):  # protobuf gives bytes where they are not UTF-8
            raise InputError(f"{path}: is not an ONNX file (the name {name[:40]!r} is not UTF-8)")
    if not model.graph.node:
        raise InputError(f"{path}: is not an ONNX file with a graph: it has no node")
    return model


def _names(model: Any) -> Iterator[Any]:
    """Every text of a ModelProto that is used."""
    yield from (one.domain for one in model.opset_import)
    for value in (*model.graph.input, *model.graph.output):
        yield value.name
    for node in model.graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            yield from _of_tensor(attribute.t)
    for tensor in model.graph.initializer:
        yield from _of_tensor(tensor)


def _of_tensor(tensor: Any) -> Iterator[Any]:
    yield tensor.name
    for entry in tensor.external_data:
        yield from (entry.key, entry.value)


def _opset(path: pathlib.Path, model: Any) -> int:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    versions = [one.version for one in model.opset_import if one.domain in ("", "ai.onnx")]
    if len(versions) != 1 or not OLDEST <= versions[0] <= newest:
        found = ", ".join(map(str, versions[:_LISTED])) or "none"
        raise InputError(f"{path}: operator set {found}; allowed: one of {OLDEST} to {newest}")
    return int(versions[0])


def _input(path: pathlib.Path, inputs: list[Any]) -> tuple[str, tuple[int | None, ...]]:
    """Name and shape of the input that no initializer gives."""
    if len(inputs) != 1:
        names = _words(one.name for one in inputs)
        raise InputError(f"{path}: {len(inputs)} inputs ({names}); allowed: one, the images")
    name, kind = inputs[0].name, inputs[0].type.tensor_type
    where = f"{path}: input {quoted(name)}"
    if kind.elem_type != _FLOAT:
        raise InputError(f"{where}: of type {_type_name(kind.elem_type)}; allowed: float (32 bits)")
    dims = [one.dim_value if one.HasField("dim_value") else None for one in kind.shape.dim]
    if len(dims) not in (2, 3, 4):
        raise InputError(
            f"{where}: {len(dims)} axes; allowed: [N, features], [N, C, L] or [N, C, H, W]"
        )
    if dims[0] is not None and dims[0] < 1:
        dims[0] = None  # how some exporters write a free batch
    for size in dims:
        if size is not None and not 1 <= size <= MOST_BYTES // 4:
            raise InputError(f"{where}: an axis of {size}; allowed: 1 or more, or a free one")
    return name, tuple(dims)


def _type_name(number: int) -> str:
    import onnx

    names = {value: name for name, value in onnx.TensorProto.DataType.items()}
    return str(names.get(number, number)).lower()


def _need_sound(path: pathlib.Path, graph: Any, given: set[str], output: str) -> None:
    """Raises InputError unless every name has one origin, which comes before its uses."""
    named = Counter(one.name for one in graph.initializer)
    named.update({one.name for one in graph.input} - named.keys())
    named.update(name for node in graph.node for name in node.output if name)
    for name, times in named.items():
        if times > 1:
            raise InputError(f"{path}: {quoted(name)}: {times} values of that name; allowed: one")
    if "" in named:
        raise InputError(f"{path}: an initializer or input without a name")
    if graph.sparse_initializer:
        raise InputError(f"{path}: sparse initializers; allowed: dense ones")
    known = set(given)
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                where = f"{path}: node {quoted(_title(node))} ({quoted(node.op_type)})"
                if name in named:
                    raise InputError(
                        f"{where}: reads {quoted(name)} before it is computed; allowed: nodes in "
                        "an order that works, without a cycle"
                    )
                raise InputError(
                    f"{where}: reads {quoted(name)}, which no node, input or initializer gives"
                )
        known.update(name for name in node.output if name)
    if output not in known:
        raise InputError(f"{path}: output {quoted(output)}: no node gives it")


def _title(node: Any) -> str:
    return node.name or next((name for name in node.output if name), "")


def _needed(graph: Any, output: str) -> list[Any]:
    """The nodes that the output depends on, in the file's order."""
    wanted, found = {output}, []
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            found.append(node)
            wanted.update(name for name in node.input if name)
    return found[::-1]


def _need_supported(path: pathlib.Path, graph: Any, needed: list[Any], opset: int) -> None:
    """Raises InputError that names all that is not supported."""
    used = {name for node in needed for name in node.input} | {graph.output[0].name}
    problems: list[str] = []
    for node in needed:
        title = f"{_operator(node)} {quoted(_title(node))}"
        if _operator(node) not in {*OPERATORS, "Constant"}:
            problems.append(title)
            continue
        problems += [f"{title} ({reason})" for reason in _node_refusals(node, used, opset)]
    for tensor in graph.initializer:
        if tensor.name in used and tensor.data_type not in DTYPES:
            kind = _type_name(tensor.data_type)
            problems.append(f"initializer {quoted(tensor.name)} (of type {kind})")
    if problems:
        rest = len(problems) - _LISTED
        more = f"; and {rest} more" if rest > 0 else ""
        raise InputError(
            f"{path}: not supported: {'; '.join(problems[:_LISTED])}{more}; allowed: "
            f"{', '.join(sorted({*OPERATORS, 'Constant'}))}"
        )


def _operator(node: Any) -> str:
    name = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    return name if name.isprintable() and len(name) <= 80 else quoted(name)


def _node_refusals(node: Any, used: set[str], opset: int) -> Iterator[str]:
    if node.op_type == "Constant":
        if [(one.name, one.type) for one in node.attribute] not in [
            [it] for it in _CONSTANTS.items()
        ]:
            yield f"not one attribute of {', '.join(_CONSTANTS)}"
        return
    operator = OPERATORS[_operator(node)]
    for name in node.output[operator.outputs :]:
        if name in used:
            yield f"its output {quoted(name)}"
    attributes: dict[str, Any] = {}
    for one in node.attribute:
        value = _attribute(one)
        if one.name not in operator.attributes:
            yield f"attribute {quoted(one.name)}"
        elif value is _OTHER:
            yield f"attribute {one.name} of another type"
        elif value is not _TENSOR:
            attributes[one.name] = value
    yield from refusals(node.op_type, attributes, opset)


_OTHER, _TENSOR = object(), object()
# Attributes of a Constant that are read, and their AttributeProto types.
_CONSTANTS = {"value": 4, "value_float": 1, "value_floats": 6, "value_int": 2, "value_ints": 7}


def _attribute(attribute: Any) -> Any:
    """An attribute's value: a number, text or list of numbers; tensors are read later."""
    kind = attribute.type
    if kind == 1:
        return float(attribute.f)
    if kind == 2:
        return int(attribute.i)
    if kind == 3:
        return bytes(attribute.s).decode("utf-8", "replace")
    if kind == 4:
        return _TENSOR
    if kind == 6:
        return [float(value) for value in attribute.floats]
    if kind == 7:
        return [int(value) for value in attribute.ints]
    return _OTHER


def _check(path: pathlib.Path, model: Any) -> None:
    """onnx's own check of the graph; tensors, which are checked here, stand as inputs."""
    import onnx

    skeleton = onnx.ModelProto()
    skeleton.ir_version = model.ir_version
    skeleton.opset_import.extend(model.opset_import)
    graph = skeleton.graph
    graph.name = "graph"
    graph.output.append(_like(model.graph.output[0].name))
    graph.node.extend(node for node in model.graph.node if node.op_type != "Constant")
    inputs = {one.name for one in model.graph.input}
    graph.input.extend(model.graph.input)
    for tensor in model.graph.initializer:
        if tensor.name not in inputs:
            graph.input.append(_like(tensor.name))
    for node in model.graph.node:
        if node.op_type == "Constant":
            graph.input.extend(_like(name) for name in node.output)
    try:
        onnx.checker.check_model(skeleton)
    except Exception as error:  # it raises errors of several kinds, some of protobuf's
        raise InputError(f"{path}: is not sound ({in_one_line(error)})") from error


def _like(name: str) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(name, _FLOAT, [])


def _plain(node: Any, tensors: "_Tensors") -> Node:
    title, attributes = _title(node), {}
    for one in node.attribute:
        value = _attribute(one)
        attributes[one.name] = tensors.array(title, one.t) if value is _TENSOR else value
    return Node(node.op_type, title, tuple(node.input), tuple(node.output), attributes)


class _Tensors:
    """The tensors of one file, which share its limit of bytes."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.arrays: dict[str, np.ndarray] = {}
        self.bytes = 0

    def add_constant(self, node: Any) -> None:
        """A node that only states a value."""
        (one,) = node.attribute
        value = _attribute(one)
        if value is _TENSOR:
            array = self.array(_title(node), one.t)
        else:
            array = np.asarray(value, np.int64 if one.name.startswith("value_int") else np.float32)
        for name in node.output:
            self.arrays[name] = array

    def array(self, name: str, tensor: Any) -> np.ndarray:
        """A tensor's values, in memory that is no larger than what holds them."""
        where = f"{self.path}: tensor {quoted(name)}"
        if tensor.data_type not in DTYPES:
            raise InputError(
                f"{where}: of type {_type_name(tensor.data_type)}; allowed: "
                f"{', '.join(_type_name(number) for number in DTYPES)}"
            )
        dtype, shape = np.dtype(DTYPES[tensor.data_type]), tuple(tensor.dims)
        if min(shape, default=0) < 0 or len(shape) > 32:
            raise InputError(f"{where}: shape {in_one_line(shape)}; allowed: axes of 0 or more")
        size = math.prod(shape) * dtype.itemsize
        self.bytes += size
        if self.bytes > MOST_BYTES:
            raise InputError(
                f"{where}: shape {in_one_line(shape)} of {dtype}; allowed: {MOST_BYTES:,} bytes "
                "for all tensors"
            )
        if tensor.HasField("segment"):
            raise InputError(f"{where}: in segments; allowed: whole tensors")
        if tensor.data_location == _EXTERNAL:
            raw = self._external(where, tensor, size)
        elif tensor.HasField("raw_data"):
            raw = tensor.raw_data
        else:
            return _of_list(where, tensor, dtype, shape)
        if len(raw) != size:
            raise InputError(
                f"{where}: shape {in_one_line(shape)} of {dtype} needs {size:,} bytes; the file "
                f"holds {len(raw):,}"
            )
        if dtype == np.bool_:
            return np.frombuffer(raw, np.uint8).reshape(shape) != 0
        return np.frombuffer(raw, dtype.newbyteorder("<")).reshape(shape).astype(dtype)

    def _external(self, where: str, tensor: Any, size: int) -> bytes:
        """Bytes of a file beside the model's, which lies in the same folder or below."""
        entries = {one.key: one.value for one in tensor.external_data}
        location = entries.get("location", "")
        where = f"{where}: external data {quoted(location)}"
        parts = pathlib.PurePosixPath(location)
        odd = "\\" in location or ":" in location or not location.isprintable()
        if not location or odd or parts.is_absolute() or ".." in parts.parts:
            raise InputError(f"{where}; allowed: a path below the model's folder")
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
        except ValueError as error:
            raise InputError(f"{where}: offset or length is not a number") from error
        try:
            folder = self.path.parent.resolve(strict=True)
            file = (folder / location).resolve(strict=True)
            if not file.is_relative_to(folder):
                raise InputError(f"{where}: a link out; allowed: a file below the model's folder")
            if not file.is_file():
                raise InputError(f"{where}: is not a file")
            there = file.stat().st_size
            if length != size or offset < 0 or offset + length > there:
                raise InputError(
                    f"{where}: {length:,} bytes from {offset:,}; allowed: {size:,} bytes, within "
                    f"the file's {there:,}"
                )
            with file.open("rb") as opened:
                opened.seek(offset)
                return opened.read(length)
        except OSError as error:
            raise InputError(f"{where}: cannot be read ({error.strerror})") from error
        except (ValueError, RuntimeError) as error:  # a path that no system has; a loop of links
            if isinstance(error, InputError):
                raise
            raise InputError(f"{where}: cannot be read ({in_one_line(error)})") from error


def _of_list(where: str, tensor: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """A tensor that is stored number by number."""
    values: Any
    if dtype == np.float32:
        values = np.array(tensor.float_data, np.float32)
    elif dtype == np.float64:
        values = np.array(tensor.double_data, np.float64)
    elif dtype == np.int64:
        values = np.array(tensor.int64_data, np.int64)
    elif dtype in (np.uint32, np.uint64):
        values = np.array(tensor.uint64_data, np.uint64)
    else:
        values = np.array(tensor.int32_data, np.int32)
    if values.size != math.prod(shape):
        raise InputError(
            f"{where}: shape {in_one_line(shape)} needs {math.prod(shape):,} numbers; the file "
            f"holds {values.size:,}"
        )
    if dtype == np.float16:  # its bits, in an int32 each
        return (values & 0xFFFF).astype(np.uint16).view(np.float16).reshape(shape)
    return values.astype(dtype).reshape(shape)
