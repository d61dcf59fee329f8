"""Mappings as files: safetensors for the arrays, JSON in its header for the rest.

docs/mapping_format.md describes the format. Reading trusts nothing: every shape, index and number
is checked before it is used.
"""

import hashlib
import json
import math
import os
import pathlib
import reprlib
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from apq_jax.files import InputError, in_one_line, write_whole
from apq_jax.hardware import Accelerator, dumps, loads
from apq_jax.mapping.layers import MAPPED
from apq_jax.mapping.units import (
    NONE,
    LayerMap,
    Units,
    cells_of,
    most_level,
    offset_of,
    slice_weights,
    sums_fit,
)
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
        "sha256": _digest(description, tensors),
    }
    _mapping(metadata, tensors)  # nothing is written that `load` refuses
    write_whole(path, safetensors.numpy.save(tensors, metadata))


def _native(value: np.ndarray) -> np.ndarray:
    """As safetensors takes it: in this machine's byte order, row by row."""
    value = np.asarray(value)
    return np.array(value, value.dtype.newbyteorder("="), order="C")


def _plain(value: Any) -> Any:
    """Whole numbers of NumPy as Python's, for JSON."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def _digest(description: str, tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f";{name}{value.shape}{value.dtype}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def load(path: str | os.PathLike[str]) -> Mapping:
    """Reads a mapping and checks all of it.

    Raises:
      InputError: the file is not a mapping, or something in it is wrong; says what.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a file; allowed: a file")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            kind, version = metadata.get("format"), metadata.get("version")
            _need(kind == FORMAT, "format", reprlib.repr(kind), repr(FORMAT))
            _need(version == str(VERSION), "version", reprlib.repr(version), str(VERSION))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _mapping(metadata, tensors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (safetensors.SafetensorError, TypeError, KeyError, ValueError, AttributeError) as error:
        # What safetensors makes of types and shapes that NumPy does not have.
        raise InputError(f"{path}: not a safetensors file ({in_one_line(error)})") from error


def _need(right: Any, field: str, value: Any, allowed: str) -> None:
    if not right:
        raise InputError(f"{in_one_line(field)}: {in_one_line(value)}; allowed: {allowed}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys differ."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _mapping(metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> Mapping:
    keys = {"format", "version", "description", "sha256"}
    _need(set(metadata) == keys, "metadata", "other keys", ", ".join(sorted(keys)))
    text = metadata["description"]
    try:
        tree = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"description: is not JSON ({in_one_line(error)})") from error
    names = {"accelerator", "scheme", "layers"}
    right = isinstance(tree, dict) and set(tree) == names
    _need(right, "description", "other fields", ", ".join(sorted(names)))
    _need(isinstance(tree["accelerator"], str), "accelerator", "not text", "TOML")
    accelerator = loads(tree["accelerator"], "accelerator")
    scheme, layers = tree["scheme"], tree["layers"]
    _need(
        isinstance(scheme, str) and scheme in MAPPED,
        "scheme",
        reprlib.repr(scheme),
        ", ".join(MAPPED),
    )
    _need(accelerator.mapping == "isaac", "accelerator.mapping", accelerator.mapping, "isaac")
    _need(isinstance(layers, list) and layers, "layers", "none", "a list of layers")
    most = len(tensors) // len(_DTYPES)  # before a name is made for each that is claimed
    _need(len(layers) <= most, "layers", len(layers), f"up to {most}, for so many arrays are there")
    known = {f"{number}/{name}" for number in range(len(layers)) for name in _DTYPES}
    for name in sorted(known - set(tensors)):
        raise InputError(f"{in_one_line(name)}: missing")
    digital = {}
    for name in sorted(set(tensors) - known):
        _need(name.startswith("digital/"), name, "unknown", "the arrays of a layer, digital/...")
        dtype = str(tensors[name].dtype)
        _need(dtype in _DIGITAL, name, dtype, ", ".join(_DIGITAL))
        digital[name.removeprefix("digital/")] = tensors[name]
        if "float" in dtype:
            finite = np.isfinite(tensors[name].astype(np.float64)).all()
            _need(finite, name, "NaN or infinity", "finite numbers")
    maps, scales = [], []
    for number, entry in enumerate(layers):
        try:
            found = _layer_map(accelerator, entry, number, tensors)
        except InputError as error:
            raise InputError(f"layer {number}: {error}") from error
        maps.append(found[0])
        scales.append(found[1])
    _need(
        metadata.get("sha256") == _digest(text, tensors),
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
    _need(right, "fields", "others", ", ".join(sorted(fields)))
    name = entry["name"]
    right = isinstance(name, str) and name.isprintable() and len(name) <= 1000
    _need(right, "name", reprlib.repr(name), "printable text, up to 1000 characters")
    for name, most in (
        *((name, _MOST) for name in ("groups", "rows", "columns", "positions")),
        ("weight_bits", 8),
        ("input_bits", 8),
        *((("adc_bits", accelerator.adc_resolution),) if "adc_bits" in entry else ()),
    ):
        right = type(entry[name]) is int and 1 <= entry[name] <= most
        _need(right, name, reprlib.repr(entry[name]), f"a whole number, 1 to {most}")
    sizes: dict[str, Any] = {}
    for name in ("kernel", "stride"):
        found = entry[name]
        right = isinstance(found, list) and len(found) <= 8
        right = right and all(type(size) is int and 1 <= size <= _MOST for size in found)
        _need(right, name, reprlib.repr(found), "a list of whole numbers")
        sizes[name] = tuple(found)
    right = entry["rows"] % math.prod(sizes["kernel"]) == 0
    _need(right, "kernel", entry["kernel"], f"a window that divides {entry['rows']} rows")
    right = len(sizes["kernel"]) == len(sizes["stride"])
    _need(right, "stride", entry["stride"], "as many numbers as the kernel has")
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
        _need(found.dtype == dtype, name, found.dtype, np.dtype(dtype).name)
        _need(found.shape == shape, name, f"shape {found.shape}", f"shape {shape}")
    _need(crossbars >= 1, "cells", "no crossbar", "at least 1")
    right = sums_fit(layer, entry["weight_bits"], entry["input_bits"])
    _need(right, "rows", layer.rows, "so few that sums stay below 2^31")
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
    _check_ranges(one, arrays, accelerator)
    _check_places(one)
    _check_weights(one, accelerator)
    scales = Scales(*(arrays[name] for name in Scales._fields))
    for name, value in scales._asdict().items():
        _need(np.isfinite(value).all(), name, "NaN or infinity", "finite numbers")
    _need((scales.weight_scale > 0).all(), "weight_scale", "not positive", "above 0")
    _need(scales.input_scale > 0, "input_scale", scales.input_scale, "above 0")
    top = 2**one.input_bits - 1
    right = 0 <= scales.input_zero <= top and scales.input_zero % 1 == 0
    _need(right, "input_zero", scales.input_zero, f"a whole number, 0 to {top}")
    return one, scales


def _check_ranges(one: LayerMap, arrays: dict[str, np.ndarray], accelerator: Accelerator) -> None:
    layer, units = one.layer, one.units
    slices = accelerator.slices(one.weight_bits)
    for name, least, most in (
        ("cells", 0, 2**accelerator.cell_bits - 1),
        ("banks", NONE, layer.groups * layer.rows - 1),
        ("read", 0, len(units.bank) - 1),
        ("crossbar", 0, len(one.cells) - 1),
        ("wordline", 0, accelerator.crossbar_rows - 1),
        ("bitline", 0, accelerator.crossbar_columns - 1),
        ("bank", 0, len(one.banks) - 1),
        ("outputs", NONE, layer.groups * layer.columns - 1),
        ("slices", 0, slices - 1),
        ("flipped", 0, int(accelerator.flipped_columns)),
    ):
        values = arrays[name]
        outside = (values < least) | (values > most)
        if outside.any():
            _need(False, name, values[outside][0], f"{least} to {most}")
    for name, used in (("banks", one.banks), ("outputs", units.outputs)):
        first = np.arange(used.shape[1]) < (used != NONE).sum(axis=1)[:, None]
        _need(((used != NONE) == first).all(), name, "a gap", "what is used comes first")
    unused = len(one.cells) > max(len(np.unique(units.crossbar)), 1)
    _need(not unused, "cells", "a crossbar without units", "none")
    if not len(units.bank):
        return
    high = (one.banks != NONE).sum(axis=1)[units.bank]
    wide = (units.outputs != NONE).sum(axis=1)
    below = (units.wordline + high).max()
    _need(below <= accelerator.crossbar_rows, "wordline", below, "inside its crossbar")
    right = (units.bitline + wide).max()
    _need(right <= accelerator.crossbar_columns, "bitline", right, "inside its crossbar")
    _check_reads(one, high, wide)
    # An output takes inputs of its own group only.
    group = one.banks[:, 0] // layer.rows
    mixed = (one.banks != NONE) & (one.banks // layer.rows != group[:, None])
    _need(not mixed.any(), "banks", "inputs of several groups", "of one")
    fed = group[units.bank][:, None]
    same = (units.outputs == NONE) | (units.outputs // layer.columns == fed)
    _need(same.all(), "outputs", "of another group than its inputs", "the same group")
    # Every weight that is held has each of its slices once.
    filled = units.outputs != NONE
    bank = np.broadcast_to(units.bank[:, None], filled.shape)[filled].astype(np.int64)
    weight = bank * (layer.groups * layer.columns) + units.outputs[filled]
    parts = weight * slices + units.slices[filled]
    _need(len(np.unique(parts)) == len(parts), "slices", "held twice", "once each")
    complete = len(np.unique(weight)) * slices == len(parts)
    _need(complete, "slices", "missing of a weight", f"all {slices}")


def _check_weights(one: LayerMap, accelerator: Accelerator) -> None:
    """Each weight is held once, and is one of the bits' levels."""
    layer, places, parts = one.layer, [], []
    for start in range(0, len(one.units.bank), _step(one)):
        units = Units(*(field[start : start + _step(one)] for field in one.units))
        column, row = units.outputs[:, None, :], one.banks[units.bank][:, :, None]
        used = (column != NONE) & (row != NONE)
        weight = slice_weights(units.slices, units.outputs, one.weight_bits, accelerator)
        cells = cells_of(one._replace(units=units)).astype(np.int32)
        cells = np.where(units.flipped[:, None, :], 2**accelerator.cell_bits - 1 - cells, cells)
        # A row is of one group, so its number and the column in the group tell weights apart.
        places.append((row.astype(np.int64) * layer.columns + column % layer.columns)[used])
        parts.append((cells * weight[:, None, :])[used])
    if not places:
        return
    _, at, held = np.unique(np.concatenate(places), return_inverse=True, return_counts=True)
    levels = np.bincount(at, np.concatenate(parts)).astype(np.int64)
    slices = accelerator.slices(one.weight_bits)
    _need((held <= slices).all(), "banks", "a row held twice for an output", "once")
    levels -= offset_of(one.weight_bits, accelerator)
    most = most_level(one.weight_bits)
    outside = np.abs(levels) > most
    if outside.any():
        _need(False, "cells", f"a weight of {levels[outside][0]}", f"{-most} to {most}")


def _check_reads(one: LayerMap, high: np.ndarray, wide: np.ndarray) -> None:
    """Units of one read are of one crossbar and lie on a diagonal no larger than a unit.

    `high` and `wide` are the wordlines and bitlines that each unit uses, [U].
    """
    units = one.units
    step = np.diff(units.read, prepend=-1)
    _need(((step == 0) | (step == 1)).all(), "read", "out of order", "0, 1, ..")
    first = np.flatnonzero(step)
    joins = step == 0
    before = np.flatnonzero(joins) - 1
    after = before + 1
    right = units.crossbar[before] == units.crossbar[after]
    right &= units.wordline[before] + high[before] <= units.wordline[after]
    right &= units.bitline[before] + wide[before] <= units.bitline[after]
    _need(right.all(), "read", "of units that are not on a diagonal", "one crossbar, one diagonal")
    for start, used, most, name in (
        (units.wordline, high, one.banks.shape[1], "wordlines"),
        (units.bitline, wide, units.outputs.shape[1], "bitlines"),
    ):
        span = (start + used) - start[first][units.read]
        _need((span <= most).all(), "read", f"{span.max()} {name}", f"up to {most}")


def _step(one: LayerMap) -> int:
    """Units whose cells are looked at at a time."""
    return max((1 << 22) // (one.banks.shape[1] * one.units.outputs.shape[1]), 1)


def _check_places(one: LayerMap) -> None:
    """No cell belongs to two units, and what belongs to none is 0."""
    units = one.units
    taken = np.zeros(one.cells.shape, np.uint8)
    for start in range(0, len(units.bank), _step(one)):
        part = Units(*(field[start : start + _step(one)] for field in units))
        used = (one.banks[part.bank] != NONE)[:, :, None] & (part.outputs != NONE)[:, None, :]
        unit, row, column = np.nonzero(used)
        place = (part.crossbar[unit], part.wordline[unit] + row, part.bitline[unit] + column)
        flat = np.ravel_multi_index(place, taken.shape)
        right = len(np.unique(flat)) == len(flat) and not taken.reshape(-1)[flat].any()
        _need(right, "units", "two on one cell", "none that overlap")
        taken[place] = 1
    _need(not one.cells[taken == 0].any(), "cells", "not 0 outside the units", "0")
