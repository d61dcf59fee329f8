"""Pruning and quantization of neural networks for ReRAM crossbar accelerators, searched in JAX."""

from apq_jax.config import Config, SearchOptions
from apq_jax.data import Dataset
from apq_jax.data import load as load_data
from apq_jax.hardware import Accelerator, preset
from apq_jax.hardware import load as load_accelerator
from apq_jax.network.capture import Network, capture
from apq_jax.pipeline.choose import choose
from apq_jax.pipeline.measure import compressed, measure
from apq_jax.pipeline.prepare import prepare
from apq_jax.pipeline.stages import joined, search_policies
from apq_jax.system.errors import InputError
from apq_jax.types import Evaluation, Layer, Policy

__all__ = [
    "Accelerator",
    "Config",
    "Dataset",
    "Evaluation",
    "InputError",
    "Layer",
    "Network",
    "Policy",
    "SearchOptions",
    "capture",
    "choose",
    "compressed",
    "joined",
    "load_accelerator",
    "load_data",
    "measure",
    "prepare",
    "preset",
    "search_policies",
]
