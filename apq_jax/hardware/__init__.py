"""Accelerators, their components and files, and layer tables of known networks."""

from apq_jax.hardware.accelerator import Accelerator
from apq_jax.hardware.chip import Chip
from apq_jax.hardware.components import Component, Components
from apq_jax.hardware.presets import PRESETS, isaac_beside, preset
from apq_jax.hardware.toml import dumps, load, loads

__all__ = [
    "PRESETS",
    "Accelerator",
    "Chip",
    "Component",
    "Components",
    "dumps",
    "isaac_beside",
    "load",
    "loads",
    "preset",
]
