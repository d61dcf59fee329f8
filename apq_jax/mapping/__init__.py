"""Places weights in crossbars; counts, indexes, stores and executes the result."""

from apq_jax.mapping.files import Mapping, Scales, load, save
from apq_jax.mapping.indices import decode, encode
from apq_jax.mapping.layers import MAPPED_SCHEMES, count_layer_map, map_layer
from apq_jax.mapping.units import LayerMap, Units

__all__ = [
    "MAPPED_SCHEMES",
    "LayerMap",
    "Mapping",
    "Scales",
    "Units",
    "count_layer_map",
    "decode",
    "encode",
    "load",
    "map_layer",
    "save",
]
