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
from apq_jax.run.read import read_result, require_own_files
from apq_jax.system import pytrees
from apq_jax.system.errors import InputError, make_one_line, quote_name


class FinishedRun(NamedTuple):
    """A run's configuration, data, network, compressed network and mapping, from its folder."""

    config: Config
    dataset: Dataset
    network: Network
    params: Params  # weights in crossbars are 0
    compressed: Compressed
    mapping: Mapping


def read_finished_run(folder: pathlib.Path) -> FinishedRun:
    """Reads a run's result.json, mapping and weights, and its data; captures its model anew.

    Nothing is trained: the mapping gives the parameters that stay digital.

    Raises:
      InputError: a file of the run, its images or its ONNX model is missing or damaged; the files
        do not belong to one run and its model; or the run's converters are lossy.
    """
    result = read_result(folder / "result.json")
    require_own_files(folder, result, "mapping.safetensors", "weights.safetensors")
    config = build_config(result, folder / "result.json")
    mapping = load_mapping(folder / "mapping.safetensors")
    _require_lossless(mapping)
    compressed = read_compressed(folder / "weights.safetensors", mapping)
    dataset = data.load(config.data.path, config.data.name)
    apply_fn, like = build_model(config, dataset)
    params = _fill_params(folder / "mapping.safetensors", like, mapping)
    try:
        network = capture(apply_fn, params, jnp.asarray(dataset.test_images[:2]))
    except ValueError as error:
        raise InputError(f"{config.model}: {make_one_line(error)}") from error
    if network.layers != tuple(layer_map.layer for layer_map in mapping.maps):
        raise InputError(
            f"{folder / 'mapping.safetensors'}: its layers are not those of {config.model} on "
            f"{dataset.name}; allowed: the same"
        )
    return FinishedRun(config, dataset, network, params, compressed, mapping)


def build_config(result: dict[str, Any], path: pathlib.Path) -> Config:
    """Builds the configuration in a run's result, which was read from `path`.

    Raises:
      InputError: a value of the configuration is not allowed.
    """
    try:
        return from_config_dict(ml_collections.ConfigDict(result["config"]))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: config: cannot be used ({make_one_line(error)})") from error


def _require_lossless(mapping: Mapping) -> None:
    accelerator = mapping.accelerator
    lossless_bits = accelerator.lossless_adc_bits
    for layer_map in mapping.maps:
        bits = layer_map.adc_bits or accelerator.adc_resolution
        if bits < lossless_bits:
            raise InputError(
                f"{layer_map.layer.name}: lossy converters of {bits} bits, which no ONNX operator "
                f"expresses; allowed: the lossless {lossless_bits} bits"
            )


def read_compressed(path: pathlib.Path, mapping: Mapping) -> Compressed:
    """Reads each layer's integers and scales from weights.safetensors, which is at `path`.

    The bits of the inputs are the mapping's, and converters are taken as lossless.

    Raises:
      InputError: the file is missing or damaged; its scales are not the mapping's; or a layer's
        integers have another shape, or more bits, than the mapping says.
    """
    tensors, _ = pytrees.read(path)
    layers = []
    for layer_map, scales in zip(mapping.maps, mapping.scales, strict=True):
        name = layer_map.layer.name
        for field, value in scales._asdict().items():
            tensor = tensors.get(f"{name}/{field}")
            if tensor is None or not np.array_equal(tensor, value):
                raise InputError(
                    f"{path}: {quote_name(f'{name}/{field}')}: missing or not that of "
                    "mapping.safetensors; allowed: both files of one run"
                )
        levels = jnp.asarray(_check_levels(path, tensors.get(f"{name}/levels"), layer_map))
        fields: Any = {key: jnp.asarray(value) for key, value in scales._asdict().items()}
        bits = jnp.asarray(layer_map.input_bits, jnp.int32)
        layers.append(CompressedLayer(levels=levels, input_bits=bits, **fields))
    return tuple(layers)


def _check_levels(path: pathlib.Path, levels: Any, layer_map: LayerMap) -> np.ndarray:
    """Returns a layer's levels if they are int8 [γ, R, C] and within the layer's bits."""
    layer, max_level = layer_map.layer, compute_max_level(layer_map.weight_bits)
    shape = layer.groups, layer.rows, layer.columns
    where = f"{path}: {quote_name(f'{layer.name}/levels')}"
    if levels is None or levels.dtype != np.int8 or levels.shape != shape:
        raise InputError(f"{where}: {_describe(levels)}; allowed: int8 of shape {shape}")
    largest = int(np.abs(levels.astype(np.int32)).max())
    if largest > max_level:
        raise InputError(f"{where}: a level of {largest}; allowed: -{max_level} to {max_level}")
    return np.asarray(levels)


def _describe(tensor: Any) -> str:
    return "missing" if tensor is None else f"{tensor.dtype} of shape {tensor.shape}"


def build_model(config: Config, dataset: Dataset) -> tuple[Any, Any]:
    """Builds a run's model, untrained: a function (params, images) -> logits, and its params.

    The params are arrays or only their shapes and dtypes; their values mean nothing.

    Raises:
      InputError: the model does not fit the data set, or its ONNX file is missing or damaged.
    """
    if config.model.path:
        return load_onnx(config.model, dataset)
    model: Any = build(config.model, dataset)
    images = jax.ShapeDtypeStruct((1, *dataset.test_images.shape[1:]), jnp.float32)
    return model.apply, jax.eval_shape(model.init, jax.random.key(0), images)


def _fill_params(path: pathlib.Path, like: Any, mapping: Mapping) -> Params:
    """Returns params like `like`: digital values from the mapping, weights in crossbars as 0."""
    in_crossbars = {layer_map.layer.name for layer_map in mapping.maps}

    def fill(key_path: Any, like: Any) -> jax.Array:
        name = jax.tree_util.keystr(key_path, simple=True, separator="/")
        tensor = mapping.digital.get(name)
        if name in in_crossbars and tensor is None:
            return jnp.zeros(like.shape, like.dtype)
        if tensor is None or (tensor.shape, tensor.dtype) != (like.shape, like.dtype):
            where = f"{path}: {quote_name(f'digital/{name}')}"
            raise InputError(
                f"{where}: {_describe(tensor)}; allowed: the model's, {like.dtype} of shape "
                f"{like.shape}"
            )
        return jnp.asarray(tensor)

    return jax.tree_util.tree_map_with_path(fill, like)
