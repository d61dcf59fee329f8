"""Reads a finished run for other tools: configuration, network, mapping and weights."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from apq_jax import data
from apq_jax.compression.compressed import Compressed, CompressedLayer
from apq_jax.config import Config, from_config_dict
from apq_jax.data import Dataset
from apq_jax.mapping import Mapping
from apq_jax.mapping import load as load_mapping
from apq_jax.mapping.units import LayerMap, compute_max_level
from apq_jax.models.create import build, load_onnx
from apq_jax.network.capture import Network, capture
from apq_jax.network.jaxpr import Params
from apq_jax.run.read import read_result
from apq_jax.system import pytrees
from apq_jax.system.errors import InputError, in_one_line, shown


class FinishedRun(NamedTuple):
    """What a run found, as its folder says."""

    config: Config
    dataset: Dataset
    network: Network
    params: Params  # 0 where crossbars hold them
    compressed: Compressed
    mapping: Mapping


def read_finished_run(folder: pathlib.Path) -> FinishedRun:
    """Rebuilds the compressed network of a run from its files and its configuration.

    Raises:
      InputError: a file of the run, its images or its ONNX model is missing or damaged; they do
        not belong together; or converters lose something.
    """
    config = read_config(folder / "result.json")
    mapping = load_mapping(folder / "mapping.safetensors")
    _require_lossless(mapping)
    compressed = read_compressed(folder / "weights.safetensors", mapping)
    dataset = data.load(config.data.path, config.data.name)
    apply_fn, like = _build_model(config, dataset)
    params = _fill_params(folder, like, mapping)
    try:
        network = capture(apply_fn, params, jnp.asarray(dataset.test_images[:2]))
    except ValueError as error:
        raise InputError(f"{config.model}: {in_one_line(error)}") from error
    if network.layers != tuple(one.layer for one in mapping.maps):
        raise InputError(
            f"{folder / 'mapping.safetensors'}: its layers are not those of {config.model} on "
            f"{dataset.name}; allowed: the same"
        )
    return FinishedRun(config, dataset, network, params, compressed, mapping)


def read_config(path: pathlib.Path) -> Config:
    """The configuration that a run's result.json holds.

    Raises:
      InputError: it is missing, damaged or holds none that can be used.
    """
    tree = read_result(path)["config"]
    try:
        return from_config_dict(ml_collections.ConfigDict(tree))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: config: cannot be used ({in_one_line(error)})") from error


def _require_lossless(mapping: Mapping) -> None:
    accelerator = mapping.accelerator
    most = accelerator.lossless_adc_bits
    for one in mapping.maps:
        bits = one.adc_bits or accelerator.adc_resolution
        if bits < most:
            raise InputError(
                f"{one.layer.name}: lossy converters of {bits} bits, and no ONNX operator loses "
                f"what they do; allowed: the lossless {most} bits"
            )


def read_compressed(path: pathlib.Path, mapping: Mapping) -> Compressed:
    """The integers of weights.safetensors, with the scales that the mapping has, too.

    Raises:
      InputError: the file is missing or damaged, or not of the mapping's run.
    """
    tensors, _ = pytrees.read_tensors(path)
    layers = []
    for one, scales in zip(mapping.maps, mapping.scales, strict=True):
        name = one.layer.name
        for field, value in scales._asdict().items():
            found = tensors.get(f"{name}/{field}")
            if found is None or not np.array_equal(found, value):
                raise InputError(
                    f"{path}: {shown(f'{name}/{field}')}: missing or not that of "
                    "mapping.safetensors; allowed: both files of one run"
                )
        levels = jnp.asarray(_read_levels(path, tensors.get(f"{name}/levels"), one))
        fields: Any = {key: jnp.asarray(value) for key, value in scales._asdict().items()}
        bits = jnp.asarray(one.input_bits, jnp.int32)
        layers.append(CompressedLayer(levels=levels, input_bits=bits, **fields))
    return tuple(layers)


def _read_levels(path: pathlib.Path, found: Any, one: LayerMap) -> np.ndarray:
    """A layer's levels, of the right type and shape, within its bits."""
    layer, most = one.layer, compute_max_level(one.weight_bits)
    shape = layer.groups, layer.rows, layer.columns
    where = f"{path}: {shown(f'{layer.name}/levels')}"
    if found is None or found.dtype != np.int8 or found.shape != shape:
        words = "missing" if found is None else f"{found.dtype} of shape {found.shape}"
        raise InputError(f"{where}: {words}; allowed: int8 of shape {shape}")
    largest = int(np.abs(found.astype(np.int32)).max())
    if largest > most:
        raise InputError(f"{where}: a level of {largest}; allowed: -{most} to {most}")
    return np.asarray(found)


def _build_model(config: Config, dataset: Dataset) -> tuple[Any, Any]:
    """The model as a function, and the shapes and types of its params."""
    if config.model.path:
        return load_onnx(config.model, dataset)
    model: Any = build(config.model, dataset)
    images = jax.ShapeDtypeStruct((1, *dataset.test_images.shape[1:]), jnp.float32)
    return model.apply, jax.eval_shape(model.init, jax.random.key(0), images)


def _fill_params(folder: pathlib.Path, like: Any, mapping: Mapping) -> Params:
    """The digital params that the mapping holds, and 0 for those in its crossbars."""
    path, held = folder / "mapping.safetensors", {one.layer.name for one in mapping.maps}

    def leaf(where: Any, like: Any) -> jax.Array:
        name = jax.tree_util.keystr(where, simple=True, separator="/")
        found = mapping.digital.get(name)
        if name in held and found is None:
            return jnp.zeros(like.shape, like.dtype)
        if found is None or (found.shape, found.dtype) != (like.shape, like.dtype):
            words = "missing" if found is None else f"{found.dtype} of shape {found.shape}"
            raise InputError(
                f"{path}: {shown(f'digital/{name}')}: {words}; allowed: the model's, {like.dtype} "
                f"of shape {like.shape}"
            )
        return jnp.asarray(found)

    return jax.tree_util.tree_map_with_path(leaf, like)
