"""Accelerators, their components and files, and layer tables of known networks."""

from apq_jax.hardware.accelerator import Accelerator
from apq_jax.hardware.chip import Chip
from apq_jax.hardware.components import Component, Components
from apq_jax.hardware.presets import PRESETS, build_matching_isaac, preset
from apq_jax.hardware.toml import dumps, load, loads

__all__ = [
    "PRESETS",
    "Accelerator",
    "Chip",
    "Component",
    "Components",
    "build_matching_isaac",
    "dumps",
    "load",
    "loads",
    "preset",
]
