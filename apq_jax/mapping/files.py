"""Writes and reads mappings: safetensors for the arrays, JSON in its header for the rest.

docs/mapping_format.md describes the format. `load` checks every shape, index and number before it
is used, because a file may come from anywhere.
"""

import json
import math
import os
import reprlib
from typing import Any, NamedTuple

import numpy as np

from apq_jax.hardware import Accelerator, dumps, loads
from apq_jax.mapping.checks import check_layer_map, need
from apq_jax.mapping.layers import MAPPED_SCHEMES
from apq_jax.mapping.units import LayerMap, Units, sums_fit
from apq_jax.system import pytrees
from apq_jax.system.errors import InputError, make_one_line
from apq_jax.types import Layer

FORMAT, VERSION = "apq_jax mapping", 1
_MAX_SIZE = 1 << 24  # of a layer's rows, columns, groups, positions, kernel and stride
_DIGITAL_DTYPES = (
    *("float16", "float32", "float64", "bfloat16"),
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    "bool",
)
_LAYER = ("name", "groups", "rows", "columns", "positions", "kernel", "stride")


class Scales(NamedTuple):
    """The scales of a layer: its sums become outputs y = multiplier Σ u w + offset.

    An input is `input_scale (u - input_zero)`, a weight `weight_scale w`. Multiplier and offset
    include moment matching and the input's zero point.
    """

    weight_scale: np.ndarray  # [γ, C] float32
    input_scale: np.ndarray  # [] float32
    input_zero: np.ndarray  # [] float32, whole
    multiplier: np.ndarray  # [γ, C] float32, fixed point
    offset: np.ndarray  # [γ, C] float32, fixed point


_DTYPES: dict[str, Any] = {  # of a layer's arrays
    "cells": np.uint8,
    **dict.fromkeys(("banks", *Units._fields[:6]), np.int32),  # from `read` to `outputs`
    **dict.fromkeys(("slices", "flipped"), np.uint8),
    **dict.fromkeys(Scales._fields, np.float32),
}


class Mapping(NamedTuple):
    """A network in its crossbars: layers that are mapped, and parameters that are not."""

    accelerator: Accelerator
    scheme: str
    maps: tuple[LayerMap, ...]
    scales: tuple[Scales, ...]
    digital: dict[str, np.ndarray]  # parameters that stay digital: biases, normalisation


def save(path: str | os.PathLike[str], mapping: Mapping) -> None:
    """Writes a mapping to a file, whole or not at all.

    Raises:
      InputError: `load` would refuse the mapping, or the file cannot be written.
    """
    tensors = {f"digital/{name}": _to_native(value) for name, value in mapping.digital.items()}
    layers = []
    for index, (layer_map, scales) in enumerate(zip(mapping.maps, mapping.scales, strict=True)):
        arrays = layer_map.units._asdict() | scales._asdict()
        arrays |= {"cells": layer_map.cells, "banks": layer_map.banks}
        for name, dtype in _DTYPES.items():
            tensors[f"{index}/{name}"] = np.array(arrays[name], dtype, order="C")
        layer = {name: _to_plain(getattr(layer_map.layer, name)) for name in _LAYER}
        layer |= {"weight_bits": layer_map.weight_bits, "input_bits": layer_map.input_bits}
        layers.append(layer | ({"adc_bits": layer_map.adc_bits} if layer_map.adc_bits else {}))
    description = json.dumps(
        {"accelerator": dumps(mapping.accelerator), "scheme": mapping.scheme, "layers": layers}
    )
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "description": description,
        "sha256": pytrees.compute_digest(tensors, description),
    }
    _read_mapping(metadata, tensors)  # raises before anything is written that `load` would refuse
    pytrees.write_tensors(path, tensors, metadata)


def _to_native(value: np.ndarray) -> np.ndarray:
    """Copies an array to this machine's byte order, row by row, as safetensors needs it."""
    value = np.asarray(value)
    return np.array(value, value.dtype.newbyteorder("="), order="C")


def _to_plain(value: Any) -> Any:
    """Converts NumPy's numbers to Python's and tuples to lists, for JSON."""
    if isinstance(value, tuple):
        return [_to_plain(element) for element in value]
    return value.item() if isinstance(value, np.generic) else value


def load(path: str | os.PathLike[str]) -> Mapping:
    """Reads a mapping from a file and checks all of it.

    Raises:
      InputError: the file cannot be read, is no mapping, or has a wrong part; the message names
        the file and the part.
    """
    tensors, metadata = pytrees.read_tensors(path)
    try:
        kind, version = metadata.get("format"), metadata.get("version")
        need(kind == FORMAT, "format", reprlib.repr(kind), repr(FORMAT))
        need(version == str(VERSION), "version", reprlib.repr(version), str(VERSION))
        return _read_mapping(metadata, tensors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds an object of JSON; refuses a key that stands twice, of which JSON keeps the last."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _read_mapping(metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> Mapping:
    keys = {"format", "version", "description", "sha256"}
    need(set(metadata) == keys, "metadata", "other keys", ", ".join(sorted(keys)))
    text = metadata["description"]
    try:
        tree = json.loads(text, object_pairs_hook=_build_object)
    except (ValueError, RecursionError) as error:
        raise InputError(f"description: is not JSON ({make_one_line(error)})") from error
    names = {"accelerator", "scheme", "layers"}
    right = isinstance(tree, dict) and set(tree) == names
    need(right, "description", "other fields", ", ".join(sorted(names)))
    need(isinstance(tree["accelerator"], str), "accelerator", "not text", "TOML")
    accelerator = loads(tree["accelerator"], "accelerator")
    scheme, layers = tree["scheme"], tree["layers"]
    right = isinstance(scheme, str) and scheme in MAPPED_SCHEMES
    need(right, "scheme", reprlib.repr(scheme), ", ".join(MAPPED_SCHEMES))
    need(accelerator.mapping == "isaac", "accelerator.mapping", accelerator.mapping, "isaac")
    need(isinstance(layers, list) and layers, "layers", "none", "a list of layers")
    # Checked before `known`, because a file may claim more layers than there is memory for.
    limit = len(tensors) // len(_DTYPES)
    allowed = f"up to {limit}, for so many arrays are there"
    need(len(layers) <= limit, "layers", len(layers), allowed)
    known = {f"{index}/{name}" for index in range(len(layers)) for name in _DTYPES}
    for name in sorted(known - set(tensors)):
        raise InputError(f"{make_one_line(name)}: missing")
    digital = {}
    for name in sorted(set(tensors) - known):
        need(name.startswith("digital/"), name, "unknown", "the arrays of a layer, digital/...")
        dtype = str(tensors[name].dtype)
        need(dtype in _DIGITAL_DTYPES, name, dtype, ", ".join(_DIGITAL_DTYPES))
        digital[name.removeprefix("digital/")] = tensors[name]
        if "float" in dtype:
            finite = np.isfinite(tensors[name].astype(np.float64)).all()
            need(finite, name, "NaN or infinity", "finite numbers")
    maps, scales = [], []
    for index, entry in enumerate(layers):
        arrays = {name: tensors[f"{index}/{name}"] for name in _DTYPES}
        try:
            maps.append(_read_layer(accelerator, entry, arrays))
            scales.append(_read_scales(maps[-1], arrays))
        except InputError as error:
            raise InputError(f"layer {index}: {error}") from error
    right = metadata.get("sha256") == pytrees.compute_digest(tensors, text)
    need(right, "sha256", "not that of the contents", "an unchanged file")
    return Mapping(accelerator, scheme, tuple(maps), tuple(scales), digital)


def _read_layer(accelerator: Accelerator, entry: Any, arrays: dict[str, np.ndarray]) -> LayerMap:
    """Reads a layer's map from its JSON entry and its arrays, and checks it."""
    fields = {*_LAYER, "weight_bits", "input_bits"}
    right = isinstance(entry, dict) and set(entry) - {"adc_bits"} == fields
    need(right, "fields", "others", ", ".join(sorted(fields)))
    name = entry["name"]
    right = isinstance(name, str) and name.isprintable() and len(name) <= 1000
    need(right, "name", reprlib.repr(name), "printable text, up to 1000 characters")
    for name, limit in (
        *((name, _MAX_SIZE) for name in ("groups", "rows", "columns", "positions")),
        ("weight_bits", 8),
        ("input_bits", 8),
        *((("adc_bits", accelerator.adc_resolution),) if "adc_bits" in entry else ()),
    ):
        right = type(entry[name]) is int and 1 <= entry[name] <= limit
        need(right, name, reprlib.repr(entry[name]), f"a whole number, 1 to {limit}")
    sizes: dict[str, Any] = {}
    for name in ("kernel", "stride"):
        window = entry[name]
        right = isinstance(window, list) and len(window) <= 8
        right = right and all(type(size) is int and 1 <= size <= _MAX_SIZE for size in window)
        need(right, name, reprlib.repr(window), "a list of whole numbers")
        sizes[name] = tuple(window)
    right = entry["rows"] % math.prod(sizes["kernel"]) == 0
    need(right, "kernel", entry["kernel"], f"a window that divides {entry['rows']} rows")
    right = len(sizes["kernel"]) == len(sizes["stride"])
    need(right, "stride", entry["stride"], "as many numbers as the kernel has")
    layer = Layer(**{name: entry[name] for name in _LAYER[:5]}, **sizes)
    crossbars, banks, units = (
        len(arrays[name]) if arrays[name].ndim else 0 for name in ("cells", "banks", "bank")
    )
    shapes: dict[str, tuple[int, ...]] = {
        "cells": (crossbars, accelerator.crossbar_rows, accelerator.crossbar_columns),
        "banks": (banks, accelerator.unit_rows),
        **dict.fromkeys(("outputs", "slices", "flipped"), (units, accelerator.unit_columns)),
        **dict.fromkeys(("weight_scale", "multiplier", "offset"), (layer.groups, layer.columns)),
        **dict.fromkeys(("input_scale", "input_zero"), ()),
    }
    for name, dtype in _DTYPES.items():
        array, shape = arrays[name], shapes.get(name, (units,))
        need(array.dtype == dtype, name, array.dtype, np.dtype(dtype).name)
        need(array.shape == shape, name, f"shape {array.shape}", f"shape {shape}")
    need(crossbars >= 1, "cells", "no crossbar", "at least 1")
    right = sums_fit(layer, entry["weight_bits"], entry["input_bits"])
    need(right, "rows", layer.rows, "so few that sums stay below 2^31")
    layer_map = LayerMap(
        layer,
        entry["weight_bits"],
        entry["input_bits"],
        arrays["cells"],
        arrays["banks"],
        Units._make((*(arrays[name] for name in Units._fields[:-1]), arrays["flipped"] == 1)),
        entry.get("adc_bits", 0),
    )
    check_layer_map(layer_map, arrays, accelerator)
    return layer_map


def _read_scales(layer_map: LayerMap, arrays: dict[str, np.ndarray]) -> Scales:
    """Reads a layer's scales from its arrays, and checks their values."""
    scales = Scales(*(arrays[name] for name in Scales._fields))
    for name, value in scales._asdict().items():
        need(np.isfinite(value).all(), name, "NaN or infinity", "finite numbers")
    need((scales.weight_scale > 0).all(), "weight_scale", "not positive", "above 0")
    need(scales.input_scale > 0, "input_scale", scales.input_scale, "above 0")
    top = 2**layer_map.input_bits - 1
    right = 0 <= scales.input_zero <= top and scales.input_zero % 1 == 0
    need(right, "input_zero", scales.input_zero, f"a whole number, 0 to {top}")
    return scales
