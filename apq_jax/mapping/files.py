"""Mappings as files: safetensors for the arrays, JSON in its header for the rest.

docs/mapping_format.md describes the format. Reading trusts nothing: every shape, index and number
is checked before it is used.
"""

import json
import math
import os
import pathlib
import reprlib
from typing import Any, NamedTuple

import numpy as np

from apq_jax.hardware import Accelerator, dumps, loads
from apq_jax.mapping.checks import check_layer_map, need
from apq_jax.mapping.layers import MAPPED_SCHEMES
from apq_jax.mapping.units import LayerMap, Units, sums_fit
from apq_jax.system import pytrees
from apq_jax.system.errors import InputError, in_one_line
from apq_jax.types import Layer

FORMAT, VERSION = "apq_jax mapping", 1
_MOST = 1 << 24  # rows, columns, groups or positions of a layer
_DIGITAL = ("float16", "float32", "float64", "bfloat16", *(f"int{n}" for n in (8, 16, 32, 64)))


_DIGITAL += (*(f"uint{n}" for n in (8, 16, 32, 64)), "bool")


_LAYER = ("name", "groups", "rows", "columns", "positions", "kernel", "stride")
_DTYPES = {
    "cells": np.uint8,
    "banks": np.int32,
    "read": np.int32,
    "crossbar": np.int32,
    "wordline": np.int32,
    "bitline": np.int32,
    "bank": np.int32,
    "outputs": np.int32,
    "slices": np.uint8,
    "flipped": np.uint8,
    "weight_scale": np.float32,
    "input_scale": np.float32,
    "input_zero": np.float32,
    "multiplier": np.float32,
    "offset": np.float32,
}


class Scales(NamedTuple):
    """What turns a layer's sums into outputs: y = multiplier Σ u w + offset.

    An input is `input_scale (u - input_zero)`, a weight `weight_scale w`; moment matching and the
    input's zero are in multiplier and offset.
    """

    weight_scale: np.ndarray  # [γ, C] float32
    input_scale: np.ndarray  # [] float32
    input_zero: np.ndarray  # [] float32, whole
    multiplier: np.ndarray  # [γ, C] float32, fixed point
    offset: np.ndarray  # [γ, C] float32, fixed point


class Mapping(NamedTuple):
    """A network in its crossbars."""

    accelerator: Accelerator
    scheme: str
    maps: tuple[LayerMap, ...]
    scales: tuple[Scales, ...]
    digital: dict[str, np.ndarray]  # parameters that are not mapped: biases, normalisation


def save(path: str | os.PathLike[str], mapping: Mapping) -> None:
    """Writes a mapping, whole or not at all.

    Raises:
      InputError: something in it is wrong and could not be read back; or the file cannot be
        written.
    """
    tensors = {f"digital/{name}": _native(value) for name, value in mapping.digital.items()}
    layers = []
    for number, (one, scales) in enumerate(zip(mapping.maps, mapping.scales, strict=True)):
        arrays = one.units._asdict() | scales._asdict() | {"cells": one.cells, "banks": one.banks}
        for name, dtype in _DTYPES.items():
            tensors[f"{number}/{name}"] = np.array(arrays[name], dtype, order="C")
        layer = {name: _plain(getattr(one.layer, name)) for name in _LAYER}
        layer |= {"weight_bits": one.weight_bits, "input_bits": one.input_bits}
        layers.append(layer | ({"adc_bits": one.adc_bits} if one.adc_bits else {}))
    description = json.dumps(
        {"accelerator": dumps(mapping.accelerator), "scheme": mapping.scheme, "layers": layers}
    )
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "description": description,
        "sha256": pytrees.digest(tensors, description),
    }
    _mapping(metadata, tensors)  # nothing is written that `load` refuses
    pytrees.write_tensors(path, tensors, metadata)


def _native(value: np.ndarray) -> np.ndarray:
    """As safetensors takes it: in this machine's byte order, row by row."""
    value = np.asarray(value)
    return np.array(value, value.dtype.newbyteorder("="), order="C")


def _plain(value: Any) -> Any:
    """Whole numbers of NumPy as Python's, for JSON."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def load(path: str | os.PathLike[str]) -> Mapping:
    """Reads a mapping and checks all of it.

    Raises:
      InputError: the file is not a mapping, or something in it is wrong; says what.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a file; allowed: a file")
    tensors, metadata = pytrees.read_tensors(path)
    try:
        kind, version = metadata.get("format"), metadata.get("version")
        need(kind == FORMAT, "format", reprlib.repr(kind), repr(FORMAT))
        need(version == str(VERSION), "version", reprlib.repr(version), str(VERSION))
        return _mapping(metadata, tensors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys differ."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _mapping(metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> Mapping:
    keys = {"format", "version", "description", "sha256"}
    need(set(metadata) == keys, "metadata", "other keys", ", ".join(sorted(keys)))
    text = metadata["description"]
    try:
        tree = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"description: is not JSON ({in_one_line(error)})") from error
    names = {"accelerator", "scheme", "layers"}
    right = isinstance(tree, dict) and set(tree) == names
    need(right, "description", "other fields", ", ".join(sorted(names)))
    need(isinstance(tree["accelerator"], str), "accelerator", "not text", "TOML")
    accelerator = loads(tree["accelerator"], "accelerator")
    scheme, layers = tree["scheme"], tree["layers"]
    need(
        isinstance(scheme, str) and scheme in MAPPED_SCHEMES,
        "scheme",
        reprlib.repr(scheme),
        ", ".join(MAPPED_SCHEMES),
    )
    need(accelerator.mapping == "isaac", "accelerator.mapping", accelerator.mapping, "isaac")
    need(isinstance(layers, list) and layers, "layers", "none", "a list of layers")
    most = len(tensors) // len(_DTYPES)  # before a name is made for each that is claimed
    need(len(layers) <= most, "layers", len(layers), f"up to {most}, for so many arrays are there")
    known = {f"{number}/{name}" for number in range(len(layers)) for name in _DTYPES}
    for name in sorted(known - set(tensors)):
        raise InputError(f"{in_one_line(name)}: missing")
    digital = {}
    for name in sorted(set(tensors) - known):
        need(name.startswith("digital/"), name, "unknown", "the arrays of a layer, digital/...")
        dtype = str(tensors[name].dtype)
        need(dtype in _DIGITAL, name, dtype, ", ".join(_DIGITAL))
        digital[name.removeprefix("digital/")] = tensors[name]
        if "float" in dtype:
            finite = np.isfinite(tensors[name].astype(np.float64)).all()
            need(finite, name, "NaN or infinity", "finite numbers")
    maps, scales = [], []
    for number, entry in enumerate(layers):
        try:
            found = _layer_map(accelerator, entry, number, tensors)
        except InputError as error:
            raise InputError(f"layer {number}: {error}") from error
        maps.append(found[0])
        scales.append(found[1])
    need(
        metadata.get("sha256") == pytrees.digest(tensors, text),
        "sha256",
        "not that of the contents",
        "an unchanged file",
    )
    return Mapping(accelerator, scheme, tuple(maps), tuple(scales), digital)


def _layer_map(
    accelerator: Accelerator, entry: Any, number: int, tensors: dict[str, np.ndarray]
) -> tuple[LayerMap, Scales]:
    fields = {*_LAYER, "weight_bits", "input_bits"}
    right = isinstance(entry, dict) and set(entry) - {"adc_bits"} == fields
    need(right, "fields", "others", ", ".join(sorted(fields)))
    name = entry["name"]
    right = isinstance(name, str) and name.isprintable() and len(name) <= 1000
    need(right, "name", reprlib.repr(name), "printable text, up to 1000 characters")
    for name, most in (
        *((name, _MOST) for name in ("groups", "rows", "columns", "positions")),
        ("weight_bits", 8),
        ("input_bits", 8),
        *((("adc_bits", accelerator.adc_resolution),) if "adc_bits" in entry else ()),
    ):
        right = type(entry[name]) is int and 1 <= entry[name] <= most
        need(right, name, reprlib.repr(entry[name]), f"a whole number, 1 to {most}")
    sizes: dict[str, Any] = {}
    for name in ("kernel", "stride"):
        found = entry[name]
        right = isinstance(found, list) and len(found) <= 8
        right = right and all(type(size) is int and 1 <= size <= _MOST for size in found)
        need(right, name, reprlib.repr(found), "a list of whole numbers")
        sizes[name] = tuple(found)
    right = entry["rows"] % math.prod(sizes["kernel"]) == 0
    need(right, "kernel", entry["kernel"], f"a window that divides {entry['rows']} rows")
    right = len(sizes["kernel"]) == len(sizes["stride"])
    need(right, "stride", entry["stride"], "as many numbers as the kernel has")
    layer = Layer(**{name: entry[name] for name in _LAYER[:5]}, **sizes)
    arrays = {name: tensors[f"{number}/{name}"] for name in _DTYPES}
    crossbars, banks, units = (
        len(arrays[name]) if arrays[name].ndim else 0 for name in ("cells", "banks", "bank")
    )
    h, w = accelerator.unit_rows, accelerator.unit_columns
    outputs = (layer.groups, layer.columns)
    shapes: dict[str, tuple[int, ...]] = {
        "cells": (crossbars, accelerator.crossbar_rows, accelerator.crossbar_columns),
        "banks": (banks, h),
        "outputs": (units, w),
        "slices": (units, w),
        "flipped": (units, w),
        "weight_scale": outputs,
        "multiplier": outputs,
        "offset": outputs,
        "input_scale": (),
        "input_zero": (),
    }
    for name, dtype in _DTYPES.items():
        found, shape = arrays[name], shapes.get(name, (units,))
        need(found.dtype == dtype, name, found.dtype, np.dtype(dtype).name)
        need(found.shape == shape, name, f"shape {found.shape}", f"shape {shape}")
    need(crossbars >= 1, "cells", "no crossbar", "at least 1")
    right = sums_fit(layer, entry["weight_bits"], entry["input_bits"])
    need(right, "rows", layer.rows, "so few that sums stay below 2^31")
    one = LayerMap(
        layer,
        entry["weight_bits"],
        entry["input_bits"],
        arrays["cells"],
        arrays["banks"],
        Units(
            **{name: arrays[name] for name in Units._fields} | {"flipped": arrays["flipped"] == 1}
        ),
        entry.get("adc_bits", 0),
    )
    check_layer_map(one, arrays, accelerator)
    scales = Scales(*(arrays[name] for name in Scales._fields))
    for name, value in scales._asdict().items():
        need(np.isfinite(value).all(), name, "NaN or infinity", "finite numbers")
    need((scales.weight_scale > 0).all(), "weight_scale", "not positive", "above 0")
    need(scales.input_scale > 0, "input_scale", scales.input_scale, "above 0")
    top = 2**one.input_bits - 1
    right = 0 <= scales.input_zero <= top and scales.input_zero % 1 == 0
    need(right, "input_zero", scales.input_zero, f"a whole number, 0 to {top}")
    return one, scales
